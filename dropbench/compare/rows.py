"""What is compared, and what comes of it: every group against its baseline, paired by seed, with a verdict.

A difference is a group's figure less that of the baseline at the same seed, so what is below zero is better: a figure
that is compared is the better the lower it is. The tests are those of `statistics`; Holm's correction is over all rows.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from dropbench.compare.baseline import Baseline, Conditions, baselines, check
from dropbench.compare.groups import Group, check_metric, count, default_metric, gather, once
from dropbench.compare.statistics import (
    FEWEST,
    differences,
    holm,
    improvement,
    improvement_interval,
    mean_interval,
    more_seeds,
    smallest_p,
)
from dropbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dropbench.compare.statistics import Difference
    from dropbench.runs.records import RunRecord

Verdict = Literal["baseline", "better", "worse", "equal", "cannot tell", "not paired", "no baseline", "failed"]
#: What must be the same in two runs that are paired: the data, the code, how it was computed (see `RunRecord.stamp`).
Aspect = Literal["data", "code", "compute"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
#: Probability of a wrong verdict in a table where nothing differs.
LEVEL = 0.05


@dataclass(frozen=True)
class Options:
    """How to compare.

    Args:
        metric: a figure (`test.nll`); None: the test error of classification, the rmse of regression.
        baselines: conditions that tell a baseline, in the order of preference.
        asked: whether the user named them, so that it is an error if there is none.
        delta: differences up to this size, in the unit of the figure, are as good as none; None for no such size.
        allow: aspects in which runs may differ and yet be paired.
        value: the figure of a run, where it is not the recorded one.
        notes: what must be said below every table.
    """

    metric: str | None = None
    baselines: tuple[Conditions, ...] = ()
    asked: bool = False
    delta: float | None = None
    allow: frozenset[str] = frozenset()
    value: Callable[[RunRecord], float | None] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A group, compared with its baseline.

    Args:
        group: of runs.
        baseline: what it is compared with, or None.
        seeds: the pairs.
        refused: why pairs were refused (aspects, each with what it was on both sides), and how many.
        difference: over the pairs, or None where there is none.
        p_holm: its p value, corrected for the number of rows.
        p_equal: of the test of equivalence, corrected likewise; None without a delta.
        verdict: in a word.
        more: how many more seeds would probably tell; None where that is not asked, or more than can be said.
    """

    group: Group
    baseline: Baseline
    seeds: tuple[int, ...] = ()
    refused: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    difference: Difference | None = None
    p_holm: float | None = None
    p_equal: float | None = None
    verdict: Verdict = "no baseline"
    more: int | None = None

    @property
    def label(self) -> str:
        """See `Group.label`."""
        return self.group.label

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        """Of the group."""
        return self.group.runs

    @property
    def names(self) -> tuple[str, str, str, str]:
        """Dataset, model, strategy, optimizer."""
        return self.group.names

    @property
    def rate(self) -> float:
        """See `Group.rate`."""
        return self.group.rate

    @cached_property
    def ci95(self) -> tuple[float, float] | None:
        """Of the mean, Student's t."""
        return mean_interval(self.group.values)

    @property
    def delta(self) -> float | None:
        """The mean difference to the baseline."""
        return None if self.difference is None else self.difference.mean

    @property
    def delta_ci95(self) -> tuple[float, float] | None:
        """Of the difference."""
        return None if self.difference is None else self.difference.interval

    @cached_property
    def improvement(self) -> float | None:
        """Probability that a run of it is better than one of the baseline; a failed run is worse than any other."""
        sides = self._sides()
        return None if sides is None else improvement(*sides)

    @cached_property
    def improvement_ci95(self) -> tuple[float, float] | None:
        """Of that probability, by bootstrap over seeds."""
        sides, base = self._sides(), self.baseline.group
        if sides is None or base is None:
            return None
        whole = not self.group.failed and not base.failed
        return improvement_interval(*sides, paired=whole and [r.seed for r in self.runs] == [r.seed for r in base.runs])

    def _sides(self) -> tuple[list[float], list[float]] | None:
        if self.baseline.group is None or self.difference is None:
            return None
        groups = self.group, self.baseline.group
        if self.refused:  # runs of other data, code or compute are not held against each other here either
            kept = [[v for run, v in zip(g.runs, g.values, strict=True) if run.seed in self.seeds] for g in groups]
        else:
            kept = [list(group.values) for group in groups]
        one, other = ([*values, *(math.inf for _ in g.failed)] for values, g in zip(kept, groups, strict=True))
        return one, other

    def told(self, delta: float | None) -> str:
        """The verdict as it is shown."""
        failed = len(self.group.failed)
        lost = f", {failed} of {failed + len(self.runs)} failed" if failed and self.runs else ""
        if self.verdict == "equal":
            return f"equal within {delta:g}{lost}"
        if self.verdict == "cannot tell" and self.difference and not self.difference.mean and not self.difference.sd:
            return f"cannot tell (no difference at any seed){lost}"
        if self.verdict == "cannot tell":
            seeds = "over 1,000" if self.more is None else f"about {self.more}"
            return f"cannot tell ({seeds} more seed{'s' * (self.more != 1)}){lost}"
        if self.verdict == "failed":
            return f"all {failed} failed" if failed > 1 else "failed"
        if self.verdict == "not paired":
            return f"not paired{lost}" if not self.refused else f"not paired: {_aspects(self.refused)} differ{lost}"
        return f"{self.verdict}{lost}"


@dataclass(frozen=True)
class Comparison:
    """The table of one figure.

    Args:
        metric: the figure.
        rows: the best first within a dataset and model.
        baselines: the conditions by which baselines were told.
        delta: see `Options`.
        notes: what must be said about it, a line each.
    """

    metric: str
    rows: tuple[Row, ...]
    baselines: tuple[Conditions, ...]
    delta: float | None
    notes: tuple[str, ...]

    @property
    def tests(self) -> int:
        """How many rows were tested, for which Holm's correction is."""
        return sum(row.p_holm is not None for row in self.rows)

    @property
    def rules(self) -> list[str]:
        """That selected the epochs."""
        return sorted({run.rule for row in self.rows for run in row.runs if run.rule})

    @property
    def baseline(self) -> str:
        """The conditions in words, `` where there is no baseline."""
        return " or ".join(",".join(map(str, asked)) for asked in self.baselines)

    def best(self) -> set[int]:
        """The places of rows that are the best of their task and significantly better than the baseline."""
        first: dict[tuple[str, str], int] = {}
        for place, row in enumerate(self.rows):
            first.setdefault(row.group.task, place)
        return {place for place in first.values() if self.rows[place].verdict == "better"}


def compare(records: Sequence[RunRecord], options: Options) -> list[Comparison]:
    """A table for each figure by which runs are judged.

    Raises:
        UserError: no run has the figure, or none is such a baseline.
    """
    runs, doubles = once(records)
    by_metric: dict[str, list[RunRecord]] = {}
    for record in runs:
        if record.state == "done":
            by_metric.setdefault(options.metric or default_metric(record), []).append(record)
    if options.delta is not None and len(by_metric) > 1:
        raise UserError(
            f"--delta: runs are judged by {', '.join(sorted(by_metric))}, in other units; say one by --metric"
        )
    failed = [record for record in runs if record.state == "failed"]
    if options.metric is not None:
        check_metric(options.metric, runs)
    if failed and not by_metric:
        by_metric[options.metric or "test.error"] = []
    tables = []
    tasks = {metric: {(r.choices["dataset"], r.choices["model"]) for r in done} for metric, done in by_metric.items()}
    gathered = {}
    for metric in sorted(by_metric):
        # A run that failed has no task; it stands in the table of its data set and model, or in the only one.
        others = [r for r in failed if _task(r) in tasks[metric] or (metric == min(by_metric) and _lost(r, tasks))]
        gathered[metric] = gather([*by_metric[metric], *others], metric, options.value)
    if options.asked:
        check([group for groups in gathered.values() for group in groups], options.baselines[0])
    for metric, groups in gathered.items():
        lacking = len(by_metric[metric]) - sum(len(group.runs) for group in groups)
        tables.append(_table(groups, metric, options, _notes(lacking, metric, doubles)))
    return tables


def _table(groups: list[Group], metric: str, options: Options, notes: Sequence[str]) -> Comparison:
    found, used = baselines([group for group in groups if group.runs], options.baselines)
    by_group = {id(group): each for group, each in zip((g for g in groups if g.runs), found, strict=True)}
    rows, pairs = [], []
    for group in groups:
        if not group.runs:
            rows.append(Row(group, Baseline(None), verdict="failed"))
            continue
        row, values = _pair(group, by_group[id(group)], options.allow)
        rows.append(row)
        pairs.append(values)
    tested = differences([values for values in pairs if values], options.delta)
    places = [place for place, row in enumerate(rows) if row.seeds]
    adjusted = holm([difference.p for difference in tested])
    equal = holm([1.0 if difference.p_equal is None else difference.p_equal for difference in tested])
    for place, difference, p_holm, p_equal in zip(places, tested, adjusted, equal, strict=True):
        row = replace(
            rows[place],
            difference=difference,
            p_holm=p_holm,
            p_equal=None if options.delta is None else p_equal,
        )
        verdict = _verdict(row)
        more = more_seeds(difference, len(tested)) if verdict == "cannot tell" else None
        rows[place] = replace(row, verdict=verdict, more=more)
    notes = [*options.notes, *notes, *_about(rows, options)]
    return Comparison(metric, tuple(rows), tuple(used), options.delta, tuple(notes))


def _pair(group: Group, baseline: Baseline, allow: frozenset[str]) -> tuple[Row, list[float]]:
    """The row of a group, untested, and its differences, one a pair."""
    if baseline.group is None:
        return Row(group, baseline, verdict="baseline" if baseline.own else "no baseline"), []
    of = {run.seed: (run, value) for run, value in zip(baseline.group.runs, baseline.group.values, strict=True)}
    seeds, values = [], []
    refused: Counter[tuple[str, ...]] = Counter()
    for run, value in zip(group.runs, group.values, strict=True):
        if run.seed not in of:
            continue
        partner, other = of[run.seed]
        if run.stamp is not partner.stamp and (why := _differing(run, partner, allow)):
            refused[why] += 1
        else:
            assert run.seed is not None
            seeds.append(run.seed)
            values.append(value - other)
    return Row(group, baseline, tuple(seeds), refused, verdict="not paired"), values


def _differing(run: RunRecord, partner: RunRecord, allow: frozenset[str]) -> tuple[str, ...]:
    """The aspects in which two runs differ, each with what it was on both sides."""
    return tuple(
        f"{aspect} ({run.stamp.get(aspect, 'not recorded')} against {partner.stamp.get(aspect, 'not recorded')})"
        for aspect in ASPECTS
        if aspect not in allow and run.stamp.get(aspect) != partner.stamp.get(aspect)
    )


def _verdict(row: Row) -> Verdict:
    """Equal goes before better and worse: who says a delta says that a real difference below it does not matter."""
    assert row.difference is not None
    assert row.p_holm is not None
    if row.difference.n < FEWEST:
        return "cannot tell"
    if row.p_equal is not None and row.p_equal <= LEVEL:
        return "equal"
    if row.p_holm <= LEVEL:
        return "better" if row.difference.mean < 0 else "worse"
    return "cannot tell"


def _about(rows: Sequence[Row], options: Options) -> list[str]:
    """What must be said about rows."""
    notes = []
    several = len({row.group.task for row in rows}) > 1
    for row in rows:
        name = " ".join([*(row.group.task if several else ()), row.label])
        for why, number in row.refused.items():
            notes.append(
                f"{name}: {count(number, 'pair')} refused, they differ in {', '.join(why)}; "
                f"its mean is over all {count(len(row.runs), 'run')}"
            )
        if row.baseline.differs and row.baseline.group is not None:
            keys = row.baseline.differs
            shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
            notes.append(f"{name}: its baseline ({row.baseline.group.label}) differs from it in {shown} too")
        if row.baseline.group is not None and row.baseline.several and row.rate != row.baseline.group.rate:
            notes.append(
                f"{name}: its baseline is {row.baseline.group.label}, the best of several on the validation part"
            )
        if row.verdict == "not paired" and not row.refused:
            notes.append(f"{name}: no seed in common with its baseline")
        lone = len(row.runs) - len(row.seeds) - sum(row.refused.values())
        if row.seeds and lone:
            notes.append(f"{name}: {count(lone, 'run')} without a partner of the same seed; the difference is over "
                         f"{count(len(row.seeds), 'pair')}")  # fmt: skip
    few = sum(0 < len(row.seeds) < FEWEST for row in rows)
    if few:
        some = few < sum(bool(row.seeds) for row in rows)
        rest = f" ({count(few, 'row')}, with Student's t interval)" if some else ""
        notes.append(
            f"fewer than {FEWEST} pairs: no two-sided test can reach {100 * LEVEL:g} %, so there is no verdict{rest}"
        )
    tested = [row for row in rows if row.seeds]
    weak = [row for row in tested if len(row.seeds) >= FEWEST]
    if weak and all(len(tested) * smallest_p(len(row.seeds), len(tested)) > LEVEL for row in tested):
        needed = next(n for n in range(FEWEST, 99) if len(tested) * smallest_p(n, len(tested)) <= LEVEL)
        notes.append(
            f"{len(tested)} rows with so few pairs: after Holm's correction none can reach {100 * LEVEL:g} %, so none "
            f"is called better or worse; it takes {needed} pairs"
        )
    if options.baselines and any(row.verdict == "no baseline" for row in rows):
        names = dict.fromkeys("/".join(row.group.task) for row in rows if row.verdict == "no baseline")
        notes.append(f"no baseline for {', '.join(names)} among these runs; --baseline KEY=VALUE names one")
    paired = [run for row in rows if row.seeds for run in row.runs]
    stamps = {id(run.stamp): run.stamp for run in paired}.values()  # few: runs share them
    unknown = [aspect for aspect in ASPECTS if any(aspect not in stamp for stamp in stamps)]
    if unknown:
        notes.append(f"not recorded of every run, so not known to be the same: {', '.join(unknown)}")
    if any(stamp.get("code", "").endswith("changed since)") for stamp in stamps):
        notes.append("some runs were trained by code that was changed since its commit: not known to be the same")
    if options.allow:
        notes.append(f"paired although they may differ in {', '.join(sorted(options.allow))}, as asked for")
    return notes


def _notes(lacking: int, metric: str, doubles: int) -> list[str]:
    notes = []
    if lacking:
        notes.append(f"{count(lacking, 'run')} done without a finite {metric}, left out of the table")
    if doubles:
        notes.append(f"{count(doubles, 'run')} with the settings and the seed of another, counted once")
    return notes


def _task(record: RunRecord) -> tuple[str | None, str | None]:
    return record.choices.get("dataset"), record.choices.get("model")


def _lost(record: RunRecord, tasks: Mapping[str, set[tuple[str, str]]]) -> bool:
    """Whether no run of its task is done."""
    return not any(_task(record) in each for each in tasks.values())


def _aspects(refused: Iterable[tuple[str, ...]]) -> str:
    return ", ".join(dict.fromkeys(text.partition(" ")[0] for why in refused for text in why))
