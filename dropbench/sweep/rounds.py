"""`seeds=auto`: the settings of a sweep race, a few seeds at a time; those that cannot win any more get no others.

Settings race within one data set and model, by their validation figure, so that the test set decides nothing. What is
decided is a function of what the runs recorded: the same command goes on with the race where it was left. See `race`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dropbench.config import Run, check
from dropbench.runs.records import read_run
from dropbench.sweep.race import Verdict, judge, look_points

if TYPE_CHECKING:
    from dropbench.compose import Composed, Composer


@dataclass(frozen=True)
class Race:
    """The settings of one data set and model.

    Args:
        name: `digits mlp`.
        settings: how many there were at the start.
        contestants: those still in the race, each as its run of the first seed.
        drops: what was said of those that are not.
    """

    name: str
    settings: int
    contestants: tuple[Run, ...]
    drops: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether anything is left to find out."""
        return len(self.contestants) > 1


def races(runs: Sequence[Run]) -> list[Race]:
    """Sorts settings, each given once or more, by data set and model."""
    found: dict[str, dict[str, Run]] = {}
    for run in runs:
        task = found.setdefault(f"{run.choices['dataset']} {run.choices['model']}", {})
        task.setdefault(run.group, run)
    return [Race(name, len(task), tuple(task.values())) for name, task in found.items()]


def seeded(composer: Composer, setting: Run, seed: int) -> tuple[Run, Composed]:
    """The run of a setting with another seed, in the same place."""
    overrides = (*setting.overrides, f"seed={seed}")
    composed = composer.compose(overrides)
    run = Run(check(composed.data), composed.choices, overrides)
    place = setting.config
    config = replace(run.config, output_root=place.output_root, study=place.study, data_root=place.data_root)
    return replace(run, config=config), composed


def look(race: Race, runs: Sequence[Run]) -> tuple[Race, Verdict]:
    """Judges a race by the results of its runs, and takes out those that cannot win any more."""
    names = {run.group: label(run) for run in race.contestants}
    scores: dict[str, dict[int, float]] = {group: {} for group in names}
    for run in runs:
        if run.group in scores:
            value = _score(run)
            if value is not None:
                scores[run.group][run.config.seed] = value
    verdict = judge(scores, list(scores), race.settings, look_points())
    out = {drop.setting for drop in verdict.drops}
    said = tuple(
        f"{names[drop.setting]} is out after {drop.pairs} seeds: its validation figure is {drop.difference:.3g} worse "
        f"than that of {names[drop.leader]}, p = {drop.p:.2g} (critical {verdict.level:.2g})"
        for drop in verdict.drops
    )
    left = tuple(run for run in race.contestants if run.group not in out)
    return replace(race, contestants=left, drops=race.drops + said), verdict


def label(run: Run) -> str:
    """A setting as it is named: the id of its run without the seed, and its group."""
    return f"{run.id.rpartition('-s')[0]} ({run.group})"


def _score(run: Run) -> float | None:
    """The validation figure that selects, infinite for a run that failed; None where there is none yet."""
    record = read_run(run.path)
    if record.state == "failed":
        return math.inf
    figures: Mapping[str, float] = record.figures.get("validation", {})
    return next((figures[name] for name in ("error", "rmse", "loss") if name in figures), None)
