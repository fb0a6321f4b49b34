"""What pictures show: groups of runs as lines with intervals, before anything is drawn on paper or in a terminal."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dropbench.compare.curves import Curve, band, interval, read_curve
from dropbench.compare.groups import count, default_metric, partner
from dropbench.errors import UserError, nearest
from dropbench.runs.files import plain
from dropbench.terminal import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from dropbench.compare.groups import Group

    Array = NDArray[np.float64]

#: Lines that one panel can carry and be read.
LINES = 7
#: Data sets with models that one picture shows, and settings where each has a panel of its own.
TASKS, SETTINGS = 6, 12
#: Predictions below which a bin of the confidence says nothing.
FEWEST_IN_BIN = 10
_LARGEST = 8 << 20  # as of `runs.records`
_MEAN = "95 % interval of the mean (Student's t)"
_FREE = ("seed", "strategy.rate")  # settings in which the points of one line over rates differ


@dataclass(frozen=True)
class Line:
    """One line of a panel, [points].

    Args:
        label: what it is.
        x: ascending.
        y: NaN where there is none.
        low: end of its interval; NaN where there is none.
        high: the other end.
        marks: a second series at the same x, drawn as points: what was realised.
        weights: how much stands behind each point, in [0, 1].
        level: whether it is one value that holds at every x.
    """

    label: str
    x: Array
    y: Array
    low: Array
    high: Array
    marks: Array | None = None
    weights: Array | None = None
    level: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines over one pair of axes.

    Args:
        title: above it.
        x: name of the axis.
        y: name of the axis, with its unit.
        lines: at most `LINES`.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Picture:
    """Panels that belong together.

    Args:
        panels: row by row.
        columns: panels in a row.
        notes: what must be said below, a line each.
        bars: intervals are bars at points, not bands.
        zero: whether y = 0 means something and is drawn.
    """

    panels: tuple[Panel, ...]
    columns: int = 1
    notes: tuple[str, ...] = ()
    bars: bool = False
    zero: bool = False


@dataclass
class _Notes:
    """What must be said, each once."""

    found: dict[str, None] = field(default_factory=dict)
    limits: dict[str, None] = field(default_factory=dict)  # said only where something is shown
    seeds: set[int] = field(default_factory=set)
    silent: set[Path] = field(default_factory=set)
    short: bool = False

    def add(self, text: str) -> None:
        self.found[text] = None

    def told(self, *first: str) -> tuple[str, ...]:
        """All of it; a text with `{n}` says over how many seeds."""
        low, high = min(self.seeds, default=0), max(self.seeds, default=0)
        over = count(high, "seed") if low == high else f"{low} to {high} seeds"
        rest = [f"{count(len(self.silent), 'run')} without such a record, left out"] if self.silent else []
        rest += ["some runs ended early: drawn as far as all runs of a setting go"] if self.short else []
        return tuple(
            text.replace("{n}", over) for text in (*first, *(self.limits if self.seeds else ()), *self.found, *rest)
        )


def learning(groups: Sequence[Group], metric: str | None = None) -> Picture:
    """A figure at every evaluation, on the training and on the validation part, mean over seeds.

    Args:
        groups: of any data sets and models.
        metric: `train.NAME` or `validation.NAME`, and this one is shown; None: on both that by which runs are judged.

    Raises:
        UserError: no run recorded the figure at its evaluations.
    """
    notes, panels = _Notes(), []
    read = cache(read_curve)
    if metric is not None:
        _check_recorded(metric, groups, read)
    for task, inside in _tasks(groups, notes):
        figure = default_metric(inside[0].first).partition(".")[2]
        shown = _chosen(inside, notes)
        for name in [metric] if metric else [f"train.{figure}", f"validation.{figure}"]:
            lines = [_band(label, [read(run.path) for run in each.runs], name, notes) for label, each in shown]
            panels.append(_panel(task, "epoch", axis(name), lines))
    return Picture(tuple(panels), 1 if metric else 2, notes.told(f"line: mean over {{n}}; band: {_MEAN}"))


def generalisation(groups: Sequence[Group]) -> Picture:
    """The loss on the validation part less that on the training part, at every evaluation, mean over seeds."""
    notes, panels = _Notes(), []
    for task, inside in _tasks(groups, notes):
        lines = []
        for label, group in _chosen(inside, notes):
            curves = (read_curve(run.path) for run in group.runs)
            both = [Curve(c.path, {"epoch": c.epoch, "": c["validation.loss"] - c["train.loss"]}) for c in curves]
            lines.append(_band(label, both, "", notes))
        panels.append(_panel(task, "epoch", "validation loss less train loss", lines))
    columns = min(2, max(1, len(panels)))
    return Picture(tuple(panels), columns, notes.told(f"line: mean over {{n}}; band: {_MEAN}"), zero=True)


def over_rates(groups: Sequence[Group], metric: str | None = None) -> Picture:
    """A figure over the rate, a line a strategy, on the validation part and on the test set.

    A setting that has rate 0 alone is a level: what is there without dropout.

    Args:
        groups: of any data sets and models.
        metric: a figure, `test.nll`; its partner is shown beside. None: that by which runs are judged.
    """
    notes, panels = _Notes(), []
    for task, inside in _tasks(groups, notes):
        name = metric or default_metric(inside[0].first)
        lines = _lines_of_rates(inside)
        _limit(len(lines), notes, "lines are shown")
        for shown in sorted((name, partner(name)), reverse=True):  # validation before test
            points = [_over_rates(label, line, shown, notes) for label, line in lines[:LINES]]
            panels.append(_panel(task, "rate", axis(shown), points))
    return Picture(tuple(panels), 2, notes.told(f"point: mean over {{n}}; bar: {_MEAN}"), bars=True)


def schedules(groups: Sequence[Group]) -> Picture:
    """The rate of every site over the training, asked for and realised, mean over seeds; a panel a setting."""
    notes, still = _Notes(), 0
    panels: list[Panel] = []
    several = len({group.task for group in groups}) > 1
    labels = {id(group): label for task in _by_task(groups).values() for label, group in _named(task)}
    for group in groups:
        curves = [read_curve(run.path) for run in group.runs]
        sites = list(dict.fromkeys(site for curve in curves for site in curve.sites))
        if not any((curve[f"sites.{site}.rate"] > 0).any() for curve in curves for site in sites):
            still += 1
            continue
        if len(panels) == SETTINGS:
            notes.add(f"the first {SETTINGS} settings with dropout are shown")
            break
        _limit(len(sites), notes, "sites are shown")
        lines = []
        for site in sites[:LINES]:
            asked = _band(site, curves, f"sites.{site}.rate", notes)
            realised = band(curves, f"sites.{site}.dropped")
            marks = np.full(len(asked.x), np.nan)
            _, here, there = np.intersect1d(asked.x, realised.epoch, assume_unique=True, return_indices=True)
            marks[here] = realised.mean[there]
            lines.append(Line(site, asked.x, asked.y, asked.low, asked.high, marks))
        title = f"{_title(group.task)}: {labels[id(group)]}" if several else labels[id(group)]
        panels.append(Panel(title, "epoch", "rate", tuple(line for line in lines if len(line.x))))
    if still:
        notes.add(f"{count(still, 'setting')} without dropout or without a record of it, not shown")
    first = f"line: rate asked for, mean over {{n}}; points: realised; band: {_MEAN}"
    return Picture(tuple(panels), min(3, max(1, len(panels))), notes.told(first), zero=True)


def profile(levels: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Picture:
    """Performance profile over tasks: the share of runs with a score above each level.

    Args:
        levels: ascending.
        shares: of each value that is compared, at these levels, in [0, 1].

    Source:
        Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice, NeurIPS 2021.
    """
    x, unknown = np.array(levels), np.full(len(levels), np.nan)
    lines = [Line(name, x, np.array(share), unknown, unknown) for name, share in list(shares.items())[:LINES]]
    notes = ["share of the runs over all tasks; 0: the baseline, 1: the best of the task"]
    notes += [f"{LINES} of {len(shares)} are shown"] if len(shares) > LINES else []
    return Picture(
        (Panel("all tasks", "normalised score", "share of runs above", tuple(lines)),), 1, tuple(notes), zero=True
    )


def calibrations(groups: Sequence[Group]) -> Picture:
    """How often predictions of some confidence are right, by bins of the confidence, pooled over seeds.

    accuracy_b = sum_s n_sb a_sb / sum_s n_sb over the seeds s with n_sb predictions in bin b; the confidence likewise.

    Source:
        Guo et al., On calibration of modern neural networks, ICML 2017.
    """
    notes, panels = _Notes(), []
    lacking: list[str] = []
    for task, inside in _tasks(groups, notes):
        lines = []
        for label, group in _chosen(inside, notes):
            bins = []
            for run in group.runs:
                found = read_calibration(run.path)
                if found is None:
                    lacking.append(run.id)
                else:
                    bins.append(found)
            same = [each for each in bins if each.shape == bins[0].shape]
            if same:
                notes.seeds.add(len(same))
                lines.append(_pooled(label, np.stack(same)))
        if lines:
            panels.append(Panel(_title(task), "confidence", "accuracy", tuple(lines)))
    if lacking:
        notes.add(f"{count(len(lacking), 'run')} recorded no calibration, such as {lacking[0]}")
    first = f"pooled over {{n}}; bins of fewer than {FEWEST_IN_BIN} predictions are left out; diagonal: perfect"
    return Picture(tuple(panels), min(2, max(1, len(panels))), notes.told(first))


def read_calibration(folder: Path) -> Array | None:
    """The reliability of a run, from its `result.json`.

    Returns:
        [3, bins]: predictions, mean confidence, share that is right; None where it is not recorded.
    """
    try:
        found = json.loads(plain(folder / "result.json", _LARGEST))["calibration"]
        rows = np.array([found[name] for name in ("count", "confidence", "accuracy")], dtype=np.float64)
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    if rows.ndim != 2 or not rows.shape[1] or not (rows[0] >= 0).all() or not np.isfinite(rows[0]).all():
        return None
    rows[1:, rows[0] == 0] = 0  # the mean of nothing
    if not ((rows[1:] >= 0) & (rows[1:] < 1 + 1e-5)).all():  # a mean of confidences can be rounded up
        return None
    rows[1:] = rows[1:].clip(max=1)
    return rows


def axis(metric: str) -> str:
    """The name of an axis: `validation error (%)`."""
    split, _, name = metric.partition(".")
    words = f"{split.replace('_', ' ')} {name.replace('_', ' ')}"
    return f"{words} (%)" if name == "error" else words


def window(panels: Sequence[Panel], zero: bool = False) -> tuple[float, float, bool]:
    """The range of y that is worth showing: all of it, but for a steep beginning and the ends of very wide intervals.

    Args:
        panels: that share it.
        zero: whether it reaches to 0.

    Returns:
        Low, high, and whether a line leaves it.
    """
    values, settled, ends = [np.zeros(int(zero))], [np.zeros(int(zero))], [np.empty(0)]
    for panel in panels:
        for line in panel.lines:
            late = line.x >= (line.x[0] + (line.x[-1] - line.x[0]) / 4 if panel.x == "epoch" else -np.inf)
            for y in (line.y, line.marks) if line.marks is not None else (line.y,):
                values.append(y[np.isfinite(y)])
                settled.append(y[late & np.isfinite(y)])
            ends += [end[late & np.isfinite(end)] for end in (line.low, line.high)]
    everything, core, reach = (np.concatenate(each) for each in (values, settled, ends))
    core = core if len(core) else everything
    if not len(core):
        return 0.0, 1.0, False
    span = float(core.max() - core.min()) or float(abs(core.max())) / 10 or 0.5
    room = span * (0.3 if panels[0].x == "epoch" else 1.0)
    low, high = -_upper(-core, -everything, -reach, span, room), _upper(core, everything, reach, span, room)
    if 0 <= low < high / 2 or everything.min() >= 0 > low:
        low = 0.0
    pad = (high - low) / 20 or abs(high) / 20 or 0.5
    low, high = low if low == 0 else low - pad, high + pad
    return low, high, bool(everything.min() < low or everything.max() > high)


def _upper(core: Array, everything: Array, reach: Array, span: float, room: float) -> float:
    """How far up one must see: to ends of intervals, but not beyond `room`; to outlying values if they are near."""
    top, outlying = float(core.max()), float(everything.max())
    interval_end = min(float(reach.max()), top + room) if len(reach) else top
    return max(top, interval_end, outlying if outlying <= top + span else top)


def _tasks(groups: Sequence[Group], notes: _Notes) -> Iterator[tuple[tuple[str, str], list[Group]]]:
    """The settings of each data set and model, all of them."""
    tasks = _by_task(groups)
    if len(tasks) > TASKS:
        notes.add(f"the first {TASKS} of {len(tasks)} pairs of data set and model are shown")
    yield from list(tasks.items())[:TASKS]


def _chosen(groups: Sequence[Group], notes: _Notes) -> list[tuple[str, Group]]:
    """As many settings of a task as can be read, with labels: the best of each strategy, then the best of the rest."""
    leads = {group.names[2]: place for place, group in reversed(list(enumerate(groups)))}
    # What there is without dropout comes first: the others are seen against it.
    order = sorted(range(len(groups)), key=lambda at: (at != leads[groups[at].names[2]], groups[at].rate != 0, at))
    _limit(len(groups), notes, "settings are shown: the best of each strategy, then the best of the rest")
    return _named([groups[at] for at in sorted(order[:LINES])])


def _by_task(groups: Iterable[Group]) -> dict[tuple[str, str], list[Group]]:
    tasks: dict[tuple[str, str], list[Group]] = defaultdict(list)
    for group in groups:
        if group.runs:
            tasks[group.task].append(group)
    return tasks


def _limit(there: int, notes: _Notes, told: str) -> None:
    if there > LINES:
        notes.limits[f"{LINES} of {there} {told}"] = None


def _named(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    """Each with a label; the optimizer is in it where there are several."""
    several = len({group.names[3] for group in groups}) > 1
    return [(f"{group.label}, {group.names[3]}" if several else group.label, group) for group in groups]


def _title(task: tuple[str, str]) -> str:
    return f"{task[0]}, {task[1]}"


def _panel(task: tuple[str, str], x: str, y: str, lines: Iterable[Line]) -> Panel:
    return Panel(_title(task), x, y, tuple(line for line in lines if len(line.x)))


def _band(label: str, curves: Sequence[Curve], name: str, notes: _Notes) -> Line:
    found = band(curves, name)
    notes.silent |= {curve.path for curve in curves if not np.isfinite(curve[name]).any()}
    notes.short |= bool(len(found.epoch) and found.longest > found.epoch[-1])
    if found.runs:
        notes.seeds.add(found.runs)
    return Line(label, found.epoch, found.mean, found.low, found.high)


def _check_recorded(metric: str, groups: Sequence[Group], read: Callable[[Path], Curve]) -> None:
    known: set[str] = set()
    for group in groups:
        for run in group.runs:
            known |= {name for name in read(run.path).columns if name.startswith(("train.", "validation."))}
            if metric in known:
                return
    shown = ", ".join(sorted(known)) or "nothing"
    raise UserError(
        f"--metric={metric}: no run recorded this figure at its evaluations; known: {shown}{nearest(metric, known)}"
    )


def _lines_of_rates(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """The groups that differ by their rate alone, by label, in the order of the groups."""
    families: dict[object, list[Group]] = defaultdict(list)
    for group in groups:
        kept = frozenset((key, setting(value)) for key, value in group.settings.items() if key not in _FREE)
        families[(group.names[2:], kept)].append(group)
    strategies = [family[0].names[2] for family in families.values()]
    optimizers = {group.names[3] for group in groups}
    named = []
    for family in families.values():
        strategy, optimizer = family[0].names[2:]
        words = [strategy, *([optimizer] if len(optimizers) > 1 else [])]
        alike = [other[0] for other in families.values() if other[0].names[2:] == (strategy, optimizer)]
        if strategies.count(strategy) > 1 and len(alike) > 1:
            keys = dict.fromkeys(key for group in alike for key in group.settings if key not in _FREE)
            values = {key: {setting(group.settings.get(key)) for group in alike} for key in keys}
            words += [f"{key}={setting(family[0].settings.get(key))}" for key in keys if len(values[key]) > 1]
        named.append((" ".join(words), sorted(family, key=lambda group: group.rate)))
    # What has one rate, and this is 0, is seen against in every picture: it must not be among those left out.
    named.sort(key=lambda each: any(group.rate for group in each[1]))
    return named


def _over_rates(label: str, groups: Sequence[Group], metric: str, notes: _Notes) -> Line:
    points = []
    for group in groups:
        figures = {run.path: run.figure(metric) for run in group.runs}
        notes.silent |= {path for path, figure in figures.items() if figure is None}
        values = np.array([figure for figure in figures.values() if figure is not None], dtype=np.float64)
        if len(values):
            notes.seeds.add(len(values))
            mean, half = interval(values)
            points.append((group.rate, float(mean), float(mean - half), float(mean + half)))
    x, y, low, high = np.array(points, dtype=np.float64).reshape(-1, 4).T
    return Line(label, x, y, low, high, level=len(x) == 1 and x[0] == 0)


def _pooled(label: str, bins: Array) -> Line:
    """One line from [seeds, 3, bins]."""
    sizes = bins[:, 0].sum(0)
    confidence, accuracy = (bins[:, :1] * bins[:, 1:]).sum(0) / np.maximum(sizes, 1)
    enough = sizes >= FEWEST_IN_BIN
    nothing = np.full(int(enough.sum()), math.nan)
    share = sizes / max(sizes.sum(), 1)
    return Line(label, confidence[enough], accuracy[enough], nothing, nothing, weights=share[enough])
