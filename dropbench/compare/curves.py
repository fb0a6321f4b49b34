"""What a run recorded while it trained, read back as columns of numbers. Whatever lies there, nothing raises."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dropbench.compare.statistics import t_quantile
from dropbench.runs.files import plain, unsealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_LARGEST = 64 << 20  # bytes of a log that are read; 1,000 evaluations are about 2 MB
_COLUMNS = 512  # names that are kept: a net has some tens
_NESTED = ("train", "validation", "terms")
_SITE = ("rate", "dropped")
_RANKED = ("validation.error", "validation.rmse", "validation.loss")  # as the runner selects


@dataclass(frozen=True)
class Curve:
    """The evaluations of one run, in the order of their epochs.

    Args:
        path: the run folder.
        columns: by name, [evaluations], NaN where nothing finite was recorded: `epoch`, `step`, `seconds`, `samples`,
            `forward_passes` (so far), `learning_rate`, `training_loss`, `train.*`, `validation.*`, `terms.*`, and for
            each site `sites.NAME.rate` (asked) and `sites.NAME.dropped` (realised). Only those that are recorded.
    """

    path: Path
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.epoch)

    def __getitem__(self, name: str) -> Array:
        """A column; NaN throughout where the run has not recorded it."""
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    @property
    def epoch(self) -> Array:
        """Epochs that are done at each evaluation."""
        return self.columns.get("epoch", np.empty(0))

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites, as the model has them."""
        ends = tuple(f".{kind}" for kind in _SITE)
        names = (name for name in self.columns if name.startswith("sites.") and name.endswith(ends))
        return tuple(dict.fromkeys(name.removeprefix("sites.").rpartition(".")[0] for name in names))


@dataclass(frozen=True)
class Band:
    """A column over runs: its mean and the 95 % interval of the mean, by Student's t.

    Args:
        epoch: the epochs at which every one of the runs has a value, [E].
        mean: over runs, [E].
        low: end of the interval, [E]; NaN for a single run.
        high: the other end, [E].
        runs: how many have the column.
        longest: the last epoch that some run has; beyond `epoch[-1]` runs stopped early.
    """

    epoch: Array
    mean: Array
    low: Array
    high: Array
    runs: int
    longest: float


def read_curve(folder: Path) -> Curve:
    """Reads `metrics.jsonl` of a run; torn and damaged lines are passed over, never an error.

    Where an epoch was recorded twice the later record holds.

    Args:
        folder: of the run.

    Returns:
        The curve; without evaluations where there is no log, or none that can be read.
    """
    found: dict[int, dict[str, float]] = {}
    for record in _records(folder / "metrics.jsonl"):
        epoch = record.get("epoch")
        if isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 1 << 53:
            found[epoch] = dict(_numbers(record))
    rows = [found[epoch] for epoch in sorted(found)]
    names: dict[str, None] = dict.fromkeys(["epoch"] if rows else [])
    for row in rows:
        names |= dict.fromkeys(row)
        if len(names) > _COLUMNS:
            names = dict.fromkeys(list(names)[:_COLUMNS])
            break
    return Curve(folder, {name: np.array([row.get(name, np.nan) for row in rows]) for name in names})


def band(curves: Sequence[Curve], name: str) -> Band:
    """The mean of a column over runs at each epoch, with its interval.

    mean +- t(0.975, n - 1) s / sqrt(n), s the sample deviation over runs.

    Args:
        curves: of runs that differ by seed alone.
        name: a column.

    Source:
        Student, The probable error of a mean, Biometrika 1908.
    """
    usable = [(curve.epoch[known], curve[name][known]) for curve in curves if (known := np.isfinite(curve[name])).any()]
    if not usable:
        nothing = np.empty(0)
        return Band(nothing, nothing, nothing, nothing, runs=0, longest=np.nan)
    epoch = usable[0][0]
    for epochs, _ in usable[1:]:
        epoch = np.intersect1d(epoch, epochs, assume_unique=True)
    values = np.stack([values[np.isin(epochs, epoch, assume_unique=True)] for epochs, values in usable])
    mean, half = interval(values)
    longest = max(float(epochs[-1]) for epochs, _ in usable)
    return Band(epoch, mean, mean - half, mean + half, len(usable), longest)


def interval(values: Array) -> tuple[Array, Array]:
    """Mean over runs and half the width of its 95 % Student t interval.

    Args:
        values: [runs, ...].

    Returns:
        The mean [...], and the half width [...], NaN for a single run.
    """
    count = len(values)
    mean = values.mean(0)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, t_quantile(count - 1, 0.975) * values.std(0, ddof=1) / np.sqrt(count)


def reached(curve: Curve, name: str, target: float) -> tuple[int, float] | None:
    """The epoch of the first evaluation with a figure not above the target, and the seconds it took; None: never.

    Args:
        curve: of a run.
        name: a column, `validation.error`.
        target: in the unit of the figure.

    Returns:
        Epochs, and seconds of the whole run until then (NaN where not recorded).
    """
    there = np.flatnonzero(curve[name] <= target)
    return (int(curve.epoch[there[0]]), float(curve["seconds"][there[0]])) if len(there) else None


def within(curve: Curve, passes: float, rule: str = "validation_best") -> int | None:
    """Which evaluation the run would have selected with a budget of forward passes.

    Args:
        curve: of a run.
        passes: forward passes of single examples, those of the training.
        rule: of selection: `validation_best` (lowest error or rmse, ties by loss, then the first) or `last`.

    Returns:
        An index into the columns; None where no evaluation lies within the budget, or passes are not recorded.
    """
    affordable = curve["forward_passes"] <= passes
    scores = [curve[name] for name in _RANKED if name in curve.columns]
    for score in scores:
        affordable &= np.isfinite(score)
    there = np.flatnonzero(affordable)
    if not len(there) or not scores:
        return None
    if rule == "last":
        return int(there[-1])
    return int(there[np.lexsort([score[there] for score in reversed(scores)])[0]])


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The whole and unharmed records of a log."""
    for text in plain(path, _LARGEST).split(b"\n")[:-1]:
        try:
            record = unsealed(text)
        except (ValueError, RecursionError):  # a checksum can be right and what it seals no JSON
            continue
        if record is not None:
            yield record


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The columns of one record."""
    yield from _finite("", record)
    for part in _NESTED:
        yield from _finite(f"{part}.", record.get(part))
    sites = record.get("sites")
    for site, rates in sites.items() if isinstance(sites, dict) else ():
        for name, value in _finite("", rates):
            if name in _SITE:
                yield f"sites.{site}.{name}", value


def _finite(prefix: str, values: object) -> Iterator[tuple[str, float]]:
    for name, value in values.items() if isinstance(values, dict) else ():
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100:
            yield f"{prefix}{name}", float(value)
