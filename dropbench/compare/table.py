"""The table of recorded runs: a row is a group of runs that differ by seed alone."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.errors import UserError, nearest
from dropbench.runs.records import STATES, RunRecord
from dropbench.terminal import Column, say, setting, show_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

CHOICES = ("dataset", "model", "strategy", "optimizer")
_FIGURES = {"classification": "error", "regression": "rmse"}
_FALLBACK = ("error", "rmse", "perplexity", "loss")


@dataclass(frozen=True)
class Row:
    """A group of runs that differ by seed alone, and what they say.

    Args:
        runs: that are done and have the figure, one a seed.
        values: the figure of each run.
        partner: mean of the same figure on the other held-out split.
        seconds: mean of the whole run.
        also: the settings by which it differs from rows that look like it.
    """

    runs: Sequence[RunRecord]
    values: Sequence[float]
    partner: float | None
    seconds: float | None
    also: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Dataset, model, strategy, optimizer."""
        return tuple(self.runs[0].choices[key] for key in CHOICES)

    @property
    def rate(self) -> str:
        """The rate as it is shown."""
        rate = self.runs[0].rate
        return "-" if rate is None else f"{rate:g}"

    @property
    def mean(self) -> float:
        """Of the figure."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample deviation over seeds (n - 1); a single run has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def print_table(records: Sequence[RunRecord], out: Console, metric: str | None = None) -> None:
    """Prints one table for each figure that is compared, then how many runs there were and what became of them.

    Args:
        records: of any state; those not done are counted.
        out: see `terminal.console`.
        metric: a figure (`test.nll`); by default the test error of classification, the rmse of regression.

    Raises:
        UserError: no run has the figure.
    """
    done, doubles = _once([record for record in records if record.state == "done"])
    if metric is not None:
        known = sorted(
            {f"{split}.{name}" for record in done for split, names in record.figures.items() for name in names}
        )
        if done and metric not in known:
            raise UserError(
                f"--metric={metric}: no run has this figure; known: {', '.join(known)}{nearest(metric, known)}"
            )
    tables: dict[str, list[RunRecord]] = defaultdict(list)
    for record in done:
        tables[metric or default_metric(record)].append(record)
    notes: list[str] = []
    for name in sorted(tables):
        rows = compare(tables[name], name)
        if rows:
            notes += _show(rows, name, out)
            say("", out)
        if lacking := sum(record.figure(name) is None for record in tables[name]):
            notes.append(f"{_runs(lacking)} done without a finite {name}, left out of the table")
    captions = []
    if done:
        rules = sorted({record.rule for record in done if record.rule})
        captions.append(
            f"sd: sample deviation over seeds; selection: {', '.join(map(setting, rules)) or 'not recorded'}"
        )
    captions.append(tally(records))
    if doubles:
        captions.append(f"{_runs(doubles)} with the settings and the seed of another, counted once")
    for line in dict.fromkeys(captions + notes):
        say(line, out)


def tally(records: Iterable[RunRecord]) -> str:
    """How many runs there are in each state: `14 runs: 12 done, 1 failed, 1 unreadable`."""
    counts = Counter(record.state for record in records)
    parts = [f"{counts[state]} {state}" for state in STATES if counts[state] or state == "done"]
    return f"{_runs(counts.total())}: {', '.join(parts)}"


def default_metric(record: RunRecord) -> str:
    """The figure by which a run is judged."""
    test = record.figures.get("test", {})
    return f"test.{_FIGURES.get(record.task) or next((name for name in _FALLBACK if name in test), 'loss')}"


def compare(records: Iterable[RunRecord], metric: str) -> list[Row]:
    """The rows of a table, the best first within a dataset and model.

    Args:
        records: runs that are done; those without the figure are left out.
        metric: a figure, `test.error`.
    """
    groups: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.figure(metric) is not None:
            names = tuple(record.choices[key] for key in CHOICES)
            groups[(record.group, record.task, record.rate, *names)].append(record)
    rows = [
        Row(
            runs=runs,
            values=[value for run in runs if (value := run.figure(metric)) is not None],
            partner=_mean(run.figure(partner(metric)) for run in runs),
            seconds=_mean(run.seconds.get("total") for run in runs),
        )
        for runs in groups.values()
    ]
    rows.sort(key=lambda row: (row.names[:2], row.mean, row.names, row.runs[0].rate or 0.0, row.runs[0].group))
    return _told_apart(rows)


def partner(metric: str) -> str:
    """The figure shown beside: that of the validation part, or for this that of the test set; measured the same way."""
    split, _, figure = metric.partition(".")
    name, mark, way = split.partition("_")
    return f"{'test' if name == 'validation' else 'validation'}{mark}{way}.{figure}"


def figure(value: float | None, name: str) -> str:
    """A figure as it is shown: an error has two decimals, since it is in percent."""
    if value is None:
        return "-"
    if name.endswith("error"):
        return f"{value:.2f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def title(name: str) -> str:
    """The name of a figure as it stands above a column, with its unit."""
    return f"{name} %" if name == "error" else name


def _once(records: list[RunRecord]) -> tuple[list[RunRecord], int]:
    """The records without repetitions of one run (in another study, or copied), and how many those were."""
    first: dict[tuple[object, ...], RunRecord] = {}
    for record in records:
        first.setdefault((record.group, record.seed, record.rate, *record.choices.values()), record)
    return list(first.values()), len(records) - len(first)


def _told_apart(rows: list[Row]) -> list[Row]:
    """Gives rows that look alike in the named columns the settings that differ between them."""
    alike: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in rows:
        alike[(row.names, row.rate)].append(row)
    also: dict[int, str] = {}
    for same in alike.values():
        if len(same) == 1:
            continue
        settings = [row.runs[0].settings for row in same]
        keys = dict.fromkeys(key for each in settings for key in each if key != "seed")
        shown = [{key: setting(each[key]) if key in each else "absent" for key in keys} for each in settings]
        differing = [key for key in keys if len({each[key] for each in shown}) > 1]
        for row, each in zip(same, shown, strict=True):
            texts = [f"{key}={each[key]}" for key in differing] or [f"group={row.runs[0].group}"]
            also[id(row)] = " ".join(texts)
    return [Row(row.runs, row.values, row.partner, row.seconds, also.get(id(row), "")) for row in rows]


def _show(rows: list[Row], metric: str, out: Console) -> list[str]:
    """Prints one table; returns what must be said about it."""
    (split, _, name), beside = metric.partition("."), partner(metric).partition(".")[0]
    optimizers = {row.names[3] for row in rows}
    columns = [
        Column("dataset"),
        Column("model"),
        Column("strategy"),
        Column("optimizer", drop=1 if len(optimizers) == 1 else 0),
        Column("rate", number=True),
        Column("n", number=True),
        Column(f"{split.replace('_', ' ')}\n{title(name)}", number=True),
        Column("sd", number=True),
        Column(f"{beside.replace('_', ' ')}\n{title(name)}", number=True, drop=3),
        Column("seconds", number=True, drop=2),
        Column("also"),
    ]
    cells = [
        [
            *row.names,
            row.rate,
            str(len(row.runs)),
            figure(row.mean, name),
            figure(row.deviation, name),
            figure(row.partner, name),
            "-" if row.seconds is None else f"{row.seconds:.1f}",
            row.also,
        ]
        for row in rows
    ]
    if not any(row.also for row in rows):
        columns.pop()
        for cell in cells:
            cell.pop()
    dropped = show_table(columns, cells, out)
    names = [
        f"optimizer ({setting(next(iter(optimizers)))} in every row)" if column.name == "optimizer" else column.name
        for column in dropped
    ]
    return [f"not shown at this width: {', '.join(names)}"] if names else []


def _mean(values: Iterable[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
