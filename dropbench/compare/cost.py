"""What a result cost, and comparisons at equal cost.

Dropout is said both to slow training and to speed it up: epochs and seconds to a target error tell which.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dropbench.compare.curves import reached, read_curve, within
from dropbench.compare.groups import count, default_metric, mean, partner, selector
from dropbench.compare.table import Sheet, name_columns
from dropbench.compare.tasks import tasks
from dropbench.errors import UserError
from dropbench.terminal import Column

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dropbench.compare.groups import Group
    from dropbench.compare.rows import Comparison
    from dropbench.runs.records import RunRecord


@dataclass(frozen=True)
class Cost:
    """What a run of a group costs: means over its seeds; None where it is not recorded.

    Args:
        seconds: of the whole run.
        samples: training examples that its updates saw.
        forward_passes: examples that its training sent forward; R-Drop sends each twice.
        peak_memory_bytes: most memory of the device, or of the process on a CPU.
        reached: how many runs came down to the target; None without a target.
        epochs_to_target: the median over all runs; None where no more than half of them came so far.
        seconds_to_target: likewise.
    """

    seconds: float | None
    samples: float | None
    forward_passes: float | None
    peak_memory_bytes: float | None
    reached: int | None = None
    epochs_to_target: float | None = None
    seconds_to_target: float | None = None


def cost(group: Group, target: float | None = None) -> Cost:
    """What a group costs.

    Args:
        group: of runs.
        target: a figure of the validation part that a run is to reach, in the unit of the metric.
    """
    samples, passes, memory = (
        mean(run.sizes.get(name) for run in group.runs) for name in ("samples", "forward_passes", "peak_memory_bytes")
    )
    spent = Cost(mean(run.duration for run in group.runs), samples, passes, memory)
    if target is None:
        return spent
    name = selector(group.metric)
    curves = [read_curve(run.path) for run in group.runs]
    if not any(name in curve.columns for curve in curves):
        return spent
    found = [reached(curve, name, target) for curve in curves]
    censored = [math.inf] * (len(found) - sum(each is not None for each in found) + len(group.failed))
    came = [each for each in found if each is not None]
    return replace(
        spent,
        reached=len(came),
        epochs_to_target=_median([*(float(epochs) for epochs, _ in came), *censored]),
        seconds_to_target=_median([*(taken for _, taken in came), *censored]),
    )


def cost_sheet(comparison: Comparison, target: float | None) -> Sheet:
    """The table of what the rows of a comparison cost."""
    rows = comparison.rows
    costs = [cost(row.group, target) for row in rows]
    columns = [
        *name_columns(rows),
        Column("seconds", number=True),
        Column("samples\nseen", number=True, drop=3),
        Column("forward\npasses", number=True),
        Column("peak\nmemory", number=True, drop=3),
    ]
    if target is not None:
        columns += [
            Column(f"runs\nto {target:g}", number=True),
            Column(f"epochs\nto {target:g}", number=True),
            Column(f"seconds\nto {target:g}", number=True),
        ]
    also = any(row.group.also for row in rows)
    if also:
        columns.append(Column("also"))
    cells = []
    for row, each in zip(rows, costs, strict=True):
        cell = [
            *row.names,
            f"{row.rate:g}",
            str(len(row.runs)),
            _short(each.seconds),
            _large(each.samples),
            _large(each.forward_passes),
            "-" if each.peak_memory_bytes is None else f"{each.peak_memory_bytes / 1e6:,.0f} MB",
        ]
        if target is not None:
            cell += [
                "-" if each.reached is None else f"{each.reached}/{len(row.runs) + len(row.group.failed)}",
                _short(each.epochs_to_target),
                _short(each.seconds_to_target),
            ]
        cells.append((*cell, *([row.group.also] if also else [])))
    captions = [
        "means over seeds; samples: training examples that updates saw; forward passes: examples that training sent "
        "through the net; seconds: a run of a stack has its share of them; peak memory: of the process since it began, "
        "with the stacks before"
    ]
    if target is not None:
        captions.append(
            f"to {target:g}: runs whose {selector(comparison.metric)} came down to it, the median epoch and second of "
            "the first evaluation there; runs that never came count as later than all others"
        )
    return Sheet(tuple(columns), tuple(cells), frozenset(), tuple(captions))


@dataclass(frozen=True)
class EqualCompute:
    """The figures of runs as they stood after equally many forward-backward passes.

    The budget is that of the cheapest run of a data set and model. A run counts with the evaluation that its selection
    rule would have chosen until then. Its figure is that of the validation part, since test figures are read once, at
    the end. Its learning rate may not have come down by then, which the notes say.

    Args:
        metric: a figure of the validation part.
        figures: by run folder.
        notes: what must be said.
    """

    metric: str
    figures: dict[Path, float]
    notes: tuple[str, ...]

    def __call__(self, record: RunRecord) -> float | None:
        """The figure of a run."""
        return self.figures.get(record.path)


def equal_compute(records: Sequence[RunRecord], metric: str | None) -> EqualCompute:
    """Cuts all runs at the budget of the cheapest of their task.

    Raises:
        UserError: the metric is not one of the validation part, or runs did not record their passes.
    """
    done = [record for record in records if record.state == "done"]
    if not done:
        raise UserError("--equal=compute: no run is done")
    if metric is None:
        metric = partner(default_metric(done[0]))
        others = {partner(default_metric(record)) for record in done} - {metric}
        if others:
            raise UserError(f"--equal=compute: runs are judged by {metric}, {', '.join(others)}; say one by --metric")
    if not metric.startswith("validation."):
        raise UserError(
            f"--metric={metric}: --equal=compute compares runs at the same number of passes, where no test figure was "
            f"read; allowed: validation.*, such as {partner(metric)}"
        )
    figures, notes = {}, []
    for task in tasks(done):
        runs = task.records
        silent = [run for run in runs if not run.sizes.get("forward_passes")]
        if silent:
            raise UserError(
                f"--equal=compute: {count(len(silent), 'run')} did not record forward passes (trained by an older "
                f"version?), such as {silent[0].path}"
            )
        spent: dict[tuple[str, float | None], float] = defaultdict(float)  # of a setting: a run may have stopped early
        for run in runs:
            spent[run.group, run.rate] = max(spent[run.group, run.rate], run.sizes["forward_passes"])
        budget = min(spent.values())
        for run in runs:
            curve = read_curve(run.path)
            place = within(curve, budget, run.rule or "validation_best")
            if place is not None and math.isfinite(value := float(curve[metric][place])):
                figures[run.path] = value
        cut = sum(run.sizes["forward_passes"] > budget for run in runs)
        notes.append(
            f"equal compute: {task.name}: every run as it stood after {_large(budget)} forward-backward passes; "
            f"{count(cut, 'run')} cut there, before the learning rate came to its end"
        )
    notes.append("equal compute: test figures, seconds and costs that stand beside are those of the whole runs")
    return EqualCompute(metric, figures, tuple(notes))


def _median(values: list[float]) -> float | None:
    if not values:
        return None
    found = statistics.median(values)
    return found if math.isfinite(found) else None


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"


def _large(value: float | None) -> str:
    """`12.3 M`."""
    if value is None:
        return "-"
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}"
