"""What single test items say, where runs kept their predictions (`save_predictions=true`).

Seeds tell how far a result would move if the training were repeated, items how far if other items had been drawn for
the test. Both can hide a difference, so both are shown. McNemar's test asks whether two nets err equally often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dropbench.compare.groups import figure, title
from dropbench.compare.rows import LEVEL
from dropbench.compare.statistics import mcnemar
from dropbench.compare.table import Sheet, name_columns, probability
from dropbench.runs.predictions import read
from dropbench.runs.records import PREDICTIONS
from dropbench.terminal import Column

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dropbench.compare.groups import Group
    from dropbench.compare.rows import Comparison, Row
    from dropbench.runs.predictions import Part
    from dropbench.runs.records import RunRecord


@dataclass(frozen=True)
class Items:
    """What the predictions of a group on the test items say.

    Args:
        wrong: share of wrong answers of each run, by item, [runs, items]; for regression squared errors.
        seeds: of the runs.
        ensemble: the mean prediction over seeds, by item: probabilities [items, classes], or outputs.
        targets: of the items.
        classes: whether it is a classification.
        odd: runs whose items are others, and are left out.
    """

    wrong: NDArray[np.float64]
    seeds: tuple[int, ...]
    ensemble: NDArray[np.float64]
    targets: NDArray[np.generic]
    classes: bool
    odd: int

    @property
    def seed_error(self) -> float:
        """Standard error of the mean figure over seeds, in percent; NaN for a single run."""
        means = self._figures()
        return float(means.std(ddof=1) / math.sqrt(len(means))) if len(means) > 1 else math.nan

    @property
    def item_error(self) -> float:
        """Standard error of the mean error over items, in percent: the items are a sample of all there could be."""
        each = 100 * self.wrong.mean(0)
        return float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan

    @property
    def ensemble_wrong(self) -> NDArray[np.float64]:
        """By item: whether the mean prediction is wrong; for regression its squared error."""
        return _wrong(self.ensemble, self.targets, self.classes)

    @property
    def ensemble_figure(self) -> float:
        """Error of the mean prediction in percent; for regression its rmse."""
        mean = float(self.ensemble_wrong.mean())
        return 100 * mean if self.classes else math.sqrt(mean)

    @property
    def ensemble_nll(self) -> float:
        """Mean negative log-likelihood of the mean probabilities, in nats; NaN for regression."""
        if not self.classes:
            return math.nan
        picked = self.ensemble[np.arange(len(self.targets)), self.targets.astype(np.int64)]
        return float(-np.log(np.maximum(picked, 1e-300)).mean())

    def _figures(self) -> NDArray[np.float64]:
        each: NDArray[np.float64] = self.wrong.mean(1)
        return 100 * each if self.classes else np.sqrt(each)


def items(group: Group, split: str = "test") -> Items | None:
    """Reads the predictions of a group; None where no run kept any.

    Args:
        group: of runs.
        split: `test`, or `test_mc` for the mean of passes with noise.
    """
    total: NDArray[np.float64] | None = None
    first: Part | None = None
    wrong, seeds, odd = [], [], 0
    for run in group.runs:
        predictions = read(run.path)
        part = predictions.parts.get(split) if predictions else None
        if part is None:
            continue
        if first is None:
            first = part
        same = part.outputs.shape == first.outputs.shape and np.array_equal(part.targets, first.targets)
        if not same:
            odd += 1
            continue
        outputs = part.outputs.astype(np.float64)
        wrong.append(_wrong(outputs, part.targets, part.classes))
        seeds.append(run.seed or 0)
        total = outputs if total is None else total + outputs
    if total is None or first is None:
        return None
    return Items(np.stack(wrong), tuple(seeds), total / len(seeds), first.targets, first.classes, odd)


def items_sheet(comparison: Comparison) -> Sheet | None:
    """The table of what single items say; None where no run kept its predictions of the test set."""
    split, _, name = comparison.metric.partition(".")
    if split not in ("test", "test_mc") or name not in ("error", "rmse"):
        return None
    kept = [row for row in comparison.rows if any((run.path / PREDICTIONS).exists() for run in _ends(row))]
    found = {id(row.group): each for row in kept if (each := items(row.group, split)) is not None}
    if not found:
        return None
    for row in kept:
        base = row.baseline.group
        if base is not None and id(base) not in found and (each := items(base, split)) is not None:
            found[id(base)] = each
    shown = [row for row in kept if id(row.group) in found]
    classes = any(found[id(row.group)].classes for row in shown)
    columns = [
        *name_columns(shown),
        Column(f"{split.replace('_', ' ')}\n{title(name)}", number=True),
        Column("se over\nseeds", number=True, drop=5),
        Column("se over\nitems", number=True, drop=6),
        Column(f"ensemble\n{title(name)}", number=True),
    ]
    if classes:
        columns += [
            Column("ensemble\nnll", number=True, drop=4),
            Column("wrong alone\nit/baseline", number=True, drop=2),
            Column("McNemar\np", number=True),
            Column("pairs that\ndiffer", number=True),
        ]
    cells = [_cells(row, found, name, classes) for row in shown]
    captions = [
        f"of {', '.join(dict.fromkeys(f'{len(each.targets):,}' for each in found.values()))} test items; se: standard "
        "error of the mean, if training were repeated (seeds), if other items were drawn (items); ensemble: the mean "
        "prediction over seeds"
    ]
    if classes:
        captions.append(
            "McNemar's exact test of the ensemble against that of the baseline over the same seeds, uncorrected; pairs "
            f"that differ: seeds at which it finds p <= {LEVEL:g}"
        )
    odd = sum(each.odd for each in found.values())
    if odd:
        captions.append(f"{odd} run{'s' * (odd != 1)} with predictions of other items left out")
    return Sheet(tuple(columns), tuple(map(tuple, cells)), frozenset(), tuple(captions))


def _ends(row: Row) -> tuple[RunRecord, ...]:
    """The first and the last run of a row: to look at thousands would take long, and they are alike."""
    return (row.runs[0], row.runs[-1]) if row.runs else ()


def _cells(row: Row, found: dict[int, Items], name: str, classes: bool) -> list[str]:
    of = found[id(row.group)]
    figures = 100 * of.wrong.mean(1) if of.classes else np.sqrt(of.wrong.mean(1))
    cells = [
        *row.names,
        f"{row.rate:g}",
        str(len(of.seeds)),
        figure(float(figures.mean()), name),
        _or_dash(of.seed_error, name),
        _or_dash(of.item_error, name) if of.classes else "-",
        figure(of.ensemble_figure, name),
    ]
    if not classes:
        return cells
    base = None if row.baseline.group is None else found.get(id(row.baseline.group))
    cells.append(_or_dash(of.ensemble_nll, "nll"))
    if base is None or row.refused or not of.classes or not np.array_equal(base.targets, of.targets):
        return [*cells, "-", "-", "-"]
    alone, other = _alone(of.ensemble_wrong, base.ensemble_wrong)
    whole = of.seeds == base.seeds  # an ensemble of three nets against one of ten tells of their number
    places = {seed: place for place, seed in enumerate(base.seeds)}
    pairs = [_alone(of.wrong[i], base.wrong[places[seed]]) for i, seed in enumerate(of.seeds) if seed in places]
    differ = sum(mcnemar(*pair) <= LEVEL for pair in pairs)
    ensembles = [f"{alone}/{other}", probability(mcnemar(alone, other))] if whole else ["-", "-"]
    return [*cells, *ensembles, f"{differ}/{len(pairs)}" if pairs else "-"]


def _alone(one: NDArray[np.float64], other: NDArray[np.float64]) -> tuple[int, int]:
    """Items on which only the one is wrong, and on which only the other is."""
    return int(((one > 0) & (other == 0)).sum()), int(((one == 0) & (other > 0)).sum())


def _wrong(outputs: NDArray[np.float64], targets: NDArray[np.generic], classes: bool) -> NDArray[np.float64]:
    if classes:
        wrong: NDArray[np.float64] = (outputs.argmax(1) != targets).astype(np.float64)
        return wrong
    squares = np.square(outputs - targets.astype(np.float64).reshape(outputs.shape))
    means: NDArray[np.float64] = squares.reshape(len(outputs), -1).mean(1)
    return means


def _or_dash(value: float, name: str) -> str:
    return "-" if math.isnan(value) else figure(value, name)
