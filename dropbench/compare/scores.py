"""One row for each value of a key (a strategy, an optimizer, ...), over many tasks.

    score of a run = (figure of the baseline - its figure) / (figure of the baseline - best figure), in each task

In each task and for each value the setting is chosen on the validation part; test figures are read of what was chosen.
Scores of all tasks are taken together by the interquartile mean (IQM), with a bootstrap interval that draws runs within
tasks (Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dropbench.compare.baseline import Condition, Conditions, check, meets
from dropbench.compare.groups import CHOICES, Group, check_metric, count, default_metric, figure, gather, once, selector
from dropbench.compare.statistics import improvement, iqm, stratified_interval
from dropbench.compare.tasks import aspects, chosen, selecting, tasks, telling, unlike
from dropbench.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dropbench.compare.rows import Options
    from dropbench.compare.tasks import Task
    from dropbench.runs.records import RunRecord

RESAMPLES = 50_000
_LISTED = 8  # names in a note
_FARTHEST = 1e12


def draws(runs: int) -> int:
    """Resamples of a bootstrap: fewer where there are thousands of runs, of which each draw says more."""
    return min(RESAMPLES, max(2_000, 50_000_000 // max(runs, 1)))


@dataclass(frozen=True)
class Choice:
    """What stands for a value in a task.

    Args:
        group: the setting that was chosen.
        among: how many settings there were to choose from.
        selecting: its mean figure on the validation part; infinite where there is none.
        told: in what it differs from the other settings.
        figures: of its runs; a run that failed has the worst one of the task.
        scores: of its runs.
        rank: of its mean figure among those of the other values; ties share theirs.
        improvement: probability that a run of it is better than one of the baseline; None without a baseline.
    """

    group: Group
    among: int
    selecting: float
    told: Mapping[str, object]
    figures: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    rank: float = math.nan
    improvement: float | None = None

    @property
    def mean(self) -> float:
        """Of the figures."""
        return statistics.fmean(self.figures)


@dataclass(frozen=True)
class Scale:
    """A task and what its scores mean.

    Args:
        task: it.
        baseline: the group whose mean is 0; None where there is none, then 0 is the worst mean of a value.
        zero: the figure that is 0.
        one: the best mean, which is 1; or, where no value is better than the baseline, the worst, which is -1.
        best: the value of the best mean.
    """

    task: Task
    baseline: Group | None
    zero: float
    one: float
    best: str

    @property
    def lost(self) -> bool:
        """Whether no value is better than the baseline."""
        return self.one > self.zero

    def score(self, figure: float) -> float:
        """The score of a run, within bounds that only a figure out of all proportion meets."""
        return max(-_FARTHEST, min(_FARTHEST, (self.zero - figure) / abs(self.zero - self.one)))


@dataclass(frozen=True)
class ScoreRow:
    """A value of the key.

    Args:
        value: as one would type it.
        choices: what stands for it, by the name of the task.
        baseline: whether it is the baseline in every task.
    """

    value: str
    choices: Mapping[str, Choice]
    baseline: bool

    @cached_property
    def scores(self) -> tuple[float, ...]:
        """Of all runs in all tasks."""
        return tuple(score for choice in self.choices.values() for score in choice.scores)

    @cached_property
    def iqm(self) -> float:
        """The mean of the middle half of the scores."""
        return float(iqm(np.array(self.scores)))

    @cached_property
    def iqm_ci95(self) -> tuple[float, float] | None:
        """By bootstrap of runs within tasks; None where no task has two runs."""
        groups = [choice.scores for choice in self.choices.values()]
        if all(len(group) < 2 for group in groups):
            return None
        return stratified_interval(groups, iqm, draws(len(self.scores)))

    @property
    def mean(self) -> float:
        """Of the scores."""
        return statistics.fmean(self.scores)

    @property
    def shortfall(self) -> float:
        """The optimality gap: by how much a score falls short of 1 on average."""
        return statistics.fmean(max(0.0, 1 - score) for score in self.scores)

    @property
    def rank(self) -> float:
        """Mean over tasks."""
        return statistics.fmean(choice.rank for choice in self.choices.values())

    @property
    def improvement(self) -> float | None:
        """Probability that a run is better than one of the baseline, mean over tasks; None of the baseline itself."""
        found = [choice.improvement for choice in self.choices.values() if choice.improvement is not None]
        return statistics.fmean(found) if found and not self.baseline else None

    def above(self, level: float) -> float:
        """Share of the runs whose score is above a level."""
        return sum(score > level for score in self.scores) / len(self.scores)


@dataclass(frozen=True)
class Across:
    """The table.

    Args:
        by: the key.
        baseline: what told the baseline; empty where no task has one.
        scales: the tasks that all values have.
        rows: a value each, the highest IQM first.
        notes: what must be said, a line each.
    """

    by: str
    baseline: Conditions
    scales: tuple[Scale, ...]
    rows: tuple[ScoreRow, ...]
    notes: tuple[str, ...]

    @property
    def metrics(self) -> list[str]:
        """The figures by which the tasks are judged."""
        return list(dict.fromkeys(scale.task.metric for scale in self.scales))

    @property
    def rules(self) -> list[str]:
        """That selected the epochs."""
        runs = (run for row in self.rows for choice in row.choices.values() for run in choice.group.runs)
        return sorted({run.rule for run in runs if run.rule})


def across(records: Sequence[RunRecord], by: str, options: Options) -> Across:
    """Compares the values of a key over all tasks that they have in common.

    Args:
        records: of any state.
        by: strategy, optimizer, model, rate, or a setting by its dotted key.
        options: the figure, the baseline and the aspects in which runs may differ.

    Raises:
        UserError: the key, the figure or the baseline is not there, or no task has several values.
    """
    runs, doubles = once(records)
    if options.metric is not None:
        check_metric(options.metric, runs)
    found = tasks(runs, lambda record: options.metric or default_metric(record), by)
    groups = {task.name: gather(task.records, task.metric, options.value) for task in found}
    every = [group for each in groups.values() for group in each]
    _check_key(by, runs, every)
    if options.asked:
        check([group for group in every if group.runs], options.baselines[0])
    notes = list(options.notes)
    asked = _baseline(groups, options.baselines)
    bases = {
        task.name: base
        for task in found
        if asked and (base := _best([group for group in groups[task.name] if meets(group, asked) and group.runs]))
    }
    if bases:
        without = [task.name for task in found if task.name not in bases]
        if without:
            told = ",".join(map(str, asked))
            notes.append(f"no baseline ({told}) in {_list(without)}, left out; --baseline KEY=VALUE names another")
    elif found:
        notes.append(
            "no baseline: the worst mean of a value is 0 in each task, the best 1; --baseline KEY=VALUE names one"
        )
    kept = [task for task in found if not bases or task.name in bases]
    choices: dict[str, dict[str, Choice]] = {}
    lacking = 0
    for task in kept:
        chosen_here, said, without_key = _choose(task, groups[task.name], by, bases.get(task.name), options)
        choices[task.name] = chosen_here
        notes += said
        lacking += without_key
    if lacking:
        notes.append(f"{count(lacking, 'setting')} without {by}, left out")
    values, common, said = _common(choices, by, [note for note in notes if " refused, " in note])
    notes += said
    scales, rows = [], {value: dict[str, Choice]() for value in values}
    for task in kept:
        if task.name not in common:
            continue
        scale, scored = _scored(task, bases.get(task.name), {value: choices[task.name][value] for value in values})
        if scale is None:
            notes.append(f"{task.name}: all values have the same mean, left out")
            continue
        scales.append(scale)
        notes += _about_scale(scale, scored)
        for value, choice in scored.items():
            rows[value][task.name] = choice
    table = [
        ScoreRow(value, of, bool(bases) and all(of[name].group is bases[name] for name in of))
        for value, of in rows.items()
        if of
    ]
    table.sort(key=lambda row: (-row.iqm, row.rank, row.value))
    lost = sum(task.lacking for task in found)
    if lost:
        notes.append(f"{count(lost, 'run')} done without a finite figure of its task, left out")
    if doubles:
        notes.append(f"{count(doubles, 'run')} with the settings and the seed of another, counted once")
    notes += _about_rows(table, scales, options)
    return Across(by, asked if bases else (), tuple(scales), tuple(table), tuple(notes))


def _check_key(by: str, records: Sequence[RunRecord], groups: Sequence[Group]) -> None:
    if by == "seed":
        raise UserError("--by=seed: runs that differ by seed are what a mean is over; allowed: a choice or a setting")
    if by == "dataset":
        raise UserError("--by=dataset: figures on different data cannot be compared; allowed: a choice or a setting")
    done = [record for record in records if record.state == "done"]
    if not done or any(_values(group, by) for group in groups):
        return
    keys = {key for group in groups for key in group.settings if key != "seed"}
    known = sorted({*CHOICES[1:], "rate", *keys})
    raise UserError(
        f"--by={by}: no run has this setting; allowed: {', '.join(CHOICES[1:])}, rate, or a setting by its dotted key"
        f"{nearest(by, known)}"
    )


def _values(group: Group, by: str) -> list[str]:
    """The value of a group, in a list; an empty one where it has none."""
    return Condition(by, "").found(group)


def _baseline(groups: Mapping[str, Sequence[Group]], choices: Sequence[Conditions]) -> Conditions:
    """The conditions that tell the baseline: the first that some task meets, one kind for all tasks."""

    def met(asked: Conditions) -> bool:
        return any(group.runs and meets(group, asked) for each in groups.values() for group in each)

    return next(filter(met, choices), ())


def _best(groups: Sequence[Group]) -> Group | None:
    """The one that is best on the validation part; where that was not measured, the one there is."""
    place = chosen(groups, selecting(groups))
    return None if place is None else groups[place]


def _choose(
    task: Task, groups: Sequence[Group], by: str, base: Group | None, options: Options
) -> tuple[dict[str, Choice], list[str], int]:
    """What stands for each value in a task; what must be said; how many groups have no value."""
    figures = selecting(groups)
    by_value: dict[str, list[int]] = defaultdict(list)
    lacking = 0
    for place, group in enumerate(groups):
        its = _values(group, by)
        lacking += not its
        for value in its:
            by_value[value].append(place)
    most = max(groups, key=lambda group: len(group.runs), default=None)  # where there is no baseline
    reference = base.runs if base is not None else most.runs if most is not None else ()
    what = "the baseline" if base is not None or most is None else most.label
    choices, notes = {}, []
    for value, places in by_value.items():
        refused: Counter[tuple[str, ...]] = Counter()
        able = []
        for place in places:
            found = [aspects(run, reference, options.allow) for run in groups[place].runs]
            if any(found):
                refused[max(found)] += len(found)
            else:
                able.append(place)
        notes += [
            f"{task.name}: {value}: {line} from {what}; --allow=ASPECT takes them" for line in unlike(refused, "run")
        ]
        among = [groups[place] for place in able]
        best = chosen(among, [figures[place] for place in able])
        if best is not None:
            told = {key: each for key, each in telling(among[best], among).items() if key != by}
            choices[value] = Choice(among[best], len(among), figures[able[best]], told)
        elif among and all(not group.runs for group in among):
            notes.append(f"{task.name}: {value}: every run failed")
            choices[value] = Choice(among[0], len(among), math.inf, {})
        elif among:
            notes.append(
                f"{task.name}: {value}: no {selector(task.metric)} to choose among {len(among)} settings by, left out"
            )
    return choices, notes, lacking


def _common(
    choices: Mapping[str, Mapping[str, Choice]], by: str, refused: Sequence[str]
) -> tuple[list[str], list[str], list[str]]:
    """The values and the tasks that all of them have; what must be said of the others.

    Where no task has all values, those that are in the fewest tasks are left out until one has.
    """
    having = Counter(value for each in choices.values() for value in each)
    values = sorted(having)
    notes: list[str] = []
    dropped: list[str] = []
    while values and not any(each.keys() >= set(values) for each in choices.values()):
        least = min(values, key=lambda value: (having[value], value))
        values.remove(least)
        dropped.append(least)
    if dropped:
        notes.append(f"no task has every value: {_list(dropped)} left out")
    common = [name for name, each in choices.items() if each.keys() >= set(values)]
    others = {name: [value for value in values if value not in each] for name, each in choices.items()}
    said = [f"{name} (no {_list(others[name])})" for name in choices if name not in common]
    if said:
        missing = Counter(value for name in choices if name not in common for value in others[name])
        rare = max(missing, key=lambda value: (missing[value], value))
        hint = f'{by}!="{rare}"' if by in CHOICES else f"{by}!={rare}"
        notes.append(
            f"only tasks that all values have are used, left out: {_list(said)}; to leave out a value instead: "
            f"--where '{hint}'"
        )
    if choices and not values:
        raise UserError(f"--by={by}: {refused[0] if refused else 'no run has a figure to choose its setting by'}")
    if len(values) == 1 and len(having) == 1:
        why = f"every run has {values[0]}, so there is nothing to compare" if not refused else refused[0]
        raise UserError(f"--by={by}: {why}")
    return values, common, notes


def _scored(task: Task, base: Group | None, choices: Mapping[str, Choice]) -> tuple[Scale | None, dict[str, Choice]]:
    """The scale of a task, None where all means are the same, and the choices with figures, scores and ranks."""
    every = [*(choice.group for choice in choices.values()), *([base] if base is not None else [])]
    worst = max((value for group in every for value in group.values), default=0.0)

    def figures(group: Group) -> tuple[float, ...]:
        return (*group.values, *(worst for _ in group.failed))

    filled = {value: replace(choice, figures=figures(choice.group)) for value, choice in choices.items()}
    means = {value: choice.mean for value, choice in filled.items()}
    zero = max(means.values()) if base is None else statistics.fmean(figures(base))
    best = min(means, key=lambda value: (means[value], value))
    one = means[best] if means[best] < zero else max(means.values())
    if math.isclose(zero, one, rel_tol=1e-12):
        return None, {}
    scale = Scale(task, base, zero, one, best)
    return scale, {
        value: replace(
            choice,
            scores=tuple(map(scale.score, choice.figures)),
            rank=_rank(means[value], means.values()),
            improvement=None if base is None else _improvement(choice.group, base),
        )
        for value, choice in filled.items()
    }


def _rank(mean: float, means: Iterable[float]) -> float:
    """1 for the lowest; values that tie share the mean of their ranks."""
    found = list(means)
    return sum(other < mean for other in found) + (sum(other == mean for other in found) + 1) / 2


def _improvement(group: Group, base: Group) -> float:
    one, other = ([*each.values, *(math.inf for _ in each.failed)] for each in (group, base))
    return improvement(one, other)


def _about_scale(scale: Scale, choices: Mapping[str, Choice]) -> list[str]:
    name = scale.task.metric.partition(".")[2]
    if scale.lost:
        return [
            f"{scale.task.name}: no value is better than the baseline: there -1 is the worst mean, and nothing is 1"
        ]
    if scale.baseline is None:
        return []
    sides = choices[scale.best].figures, scale.baseline.values
    if any(len(side) < 2 for side in sides):
        return []
    gain = scale.zero - scale.one
    noise = 2 * math.sqrt(sum(statistics.variance(side) / len(side) for side in sides))
    if gain >= noise:
        return []
    return [
        f"{scale.task.name}: the best mean is {figure(gain, name)} below the baseline, less than two standard errors "
        f"({figure(noise, name)}): its scores are mostly noise"
    ]


def _about_rows(rows: Sequence[ScoreRow], scales: Sequence[Scale], options: Options) -> list[str]:
    notes = []
    tried = {row.value: [choice.among for choice in row.choices.values()] for row in rows}
    if len({tuple(each) for each in tried.values()}) > 1:
        said = _list([f"{value}: {spread(each)}" for value, each in sorted(tried.items())])
        notes.append(
            f"not tuned equally: settings to choose from in a task ({said}); who may choose among more looks better"
        )
    if any(len({len(choice.figures) for choice in row.choices.values()}) > 1 for row in rows):
        notes.append("tasks have different numbers of runs: those with more weigh more")
    if any(len(choice.figures) < 2 for row in rows for choice in row.choices.values()):
        notes.append("a single seed in some task: what it would vary is not in the intervals")
    failed = sum(len(choice.group.failed) for row in rows for choice in row.choices.values())
    if failed:
        notes.append(f"{count(failed, 'run')} of the chosen settings failed, counted as the worst run of the task")
    if len(scales) == 1:
        notes.append("a single task: this says nothing of others")
    if rows and any(scale.task.metric.startswith("validation") for scale in scales):
        notes.append("settings were chosen by the figures that are compared: they look better than they are")
    if options.allow:
        notes.append(f"compared although they may differ in {', '.join(sorted(options.allow))}, as asked for")
    return notes


def spread(numbers: Iterable[int]) -> str:
    """`5`, `1-5`."""
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
