"""A sweep, from its runs to their results: planned, cut into stacks, given to workers; raced or pruned where asked.

plan.py: which runs are the same, done, to do. workers.py, sizing.py: what a run of each shape takes in stacks of each
size. plan.py: stacks of each shape, as large as is best. workers.py, local.py: trained, into their folders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dropbench.errors import UserError
from dropbench.kernels import COMMON, native
from dropbench.stack import MOST_RUNS
from dropbench.sweep.halving import MARKS, rung, stop, worst
from dropbench.sweep.live import span
from dropbench.sweep.plan import Plan, cut, expected, plan, shapes
from dropbench.sweep.workers import cores

if TYPE_CHECKING:
    from dropbench.compose import Composed
    from dropbench.config import Config, Run
    from dropbench.sweep.workers import Crew, SweepReport

#: Seconds of training for which another process is worth its start.
WORTH = 6.0
#: Shapes that one worker looks at by itself.
FEW = 8
#: Processes that start before it is known how many are worth it, where nobody says how many.
AHEAD = 2


@dataclass(frozen=True)
class Stacks:
    """What is to be trained, and how.

    Args:
        plan: what was asked for.
        stacks: of the runs to do, the longest first, those that need the records of others last.
        workers: processes that train them.
        seconds: that it will take.
        refused: why a run cannot be trained, by its id.
    """

    plan: Plan
    stacks: tuple[tuple[Run, ...], ...]
    workers: int
    seconds: float
    refused: Mapping[str, str]

    def __str__(self) -> str:
        if not self.stacks:
            return str(self.plan)
        plural = "s" if len(self.stacks) > 1 else ""
        return f"{self.plan} in {len(self.stacks)} stack{plural}, {span(self.seconds)}"


def prepare(runs: Sequence[Run], crew: Crew) -> Stacks:
    """Plans the runs and lets the crew look at them.

    Raises:
        UserError: nothing can be trained, for one and the same reason.
    """
    planned = plan(runs)
    groups = shapes(planned.todo)
    if not groups:
        return Stacks(planned, (), 1, 0.0, {})
    native.ahead(dict.fromkeys((*COMMON, *(name for run in planned.todo for name in run.config.model.kernels))))
    config = planned.todo[0].config
    if config.device in ("auto", "cpu"):
        crew.ahead(min(_most(config, len(planned.todo)), AHEAD if config.workers == "auto" else config.workers))
    gpus = crew.devices() if config.device in ("auto", "cuda") else 0
    if len(groups) >= FEW and not gpus and config.workers != 1:
        crew.size(_most(config, len(groups) // (FEW // 2)), gpus)
    looks = crew.look([group[:MOST_RUNS] for group in groups], [len(group) for group in groups])
    reasons = [look.refused for look in looks if look.refused is not None]
    if len(reasons) == len(groups) and len(set(reasons)) == 1 and not planned.done:
        raise UserError(reasons[0])
    refused = {
        run.id: look.refused
        for group, look in zip(groups, looks, strict=True)
        for run in group
        if look.refused is not None
    }
    able = [(group, look) for group, look in zip(groups, looks, strict=True) if look.refused is None]
    work = sum(len(group) * group[0].config.epochs * min(look.seconds.values()) for group, look in able)
    count = sum(len(group) for group, _ in able)
    if config.workers != "auto":
        workers = min(config.workers, max(count, 1))
    elif gpus:
        workers = min(gpus, max(count, 1))
    else:
        workers = min(_most(config, count), max(1, int(work / WORTH)))
    stacks: list[tuple[float, tuple[Run, ...]]] = []
    for group, look in able:
        parts = cut(group, look, planned.begun, workers, len(able))
        stacks += [(expected(part, look, group[0].config.epochs), tuple(part)) for part in parts]
    stacks.sort(key=lambda item: (item[1][0].config.needs_record, -item[0]))
    workers = min(workers, max(len(stacks), 1))
    longest = max((seconds for seconds, _ in stacks), default=0.0)
    seconds = max(sum(seconds for seconds, _ in stacks) / workers, longest)
    return Stacks(planned, tuple(stack for _, stack in stacks), workers, seconds, refused)


def train(
    prepared: Stacks, crew: Crew, report: SweepReport, hydra: Mapping[str, Composed], until: float | None = None
) -> bool:
    """Trains the stacks; those that need the records of others after them.

    Args:
        prepared: the stacks.
        crew: trains them.
        report: is told what becomes of the runs.
        hydra: what Hydra composed for each run, by id.
        until: the part of the epochs after which they are saved and left, see `halving.rung`; None for the end.

    Returns:
        Whether all were trained, and nothing stopped it.

    Raises:
        UserError: the disk refuses.
    """
    config = prepared.plan.todo[0].config if prepared.plan.todo else None
    if config is None or not prepared.stacks:
        return True
    crew.size(prepared.workers, crew.devices() if config.device in ("auto", "cuda") else 0)
    for last in (False, True):
        chosen = [stack for stack in prepared.stacks if stack[0].config.needs_record is last]
        if chosen and not crew.train(chosen, report, hydra, until):
            return False
    return True


def train_halving(prepared: Stacks, crew: Crew, report: SweepReport, hydra: Mapping[str, Composed]) -> bool:
    """Trains the stacks with `prune`: see `halving`. Returns what `train` does."""
    left = [run for run in prepared.plan.runs if run.id not in prepared.refused]
    share = left[0].config.prune if left else None
    assert share is not None
    open_, stacks = {run.id for stack in prepared.stacks for run in stack}, prepared.stacks
    for number, mark in enumerate(MARKS):
        now = tuple(stack for stack in stacks if not stack[0].config.needs_record)
        if not train(replace(prepared, stacks=now), crew, report, hydra, mark):
            return False
        judged = [run for run in left if run.id not in report.refusals and not run.config.needs_record]
        stopped = worst(judged, number, share)
        for run in judged:
            if run.group in stopped and run.id in open_ and run.id not in report.over:
                stop(run, rung(run.config, mark), stopped[run.group], share)
                report.view.dropped(run.id)
        left = [run for run in left if run.group not in stopped]
        # What was to be trained anew has begun by now.
        kept = ([_begun(run) for run in stack if run.group not in stopped] for stack in stacks)
        stacks = tuple(tuple(stack) for stack in kept if stack)
    return train(replace(prepared, stacks=stacks), crew, report, hydra)


def _begun(run: Run) -> Run:
    return replace(run, config=replace(run.config, rerun=False))


def _most(config: Config, count: int) -> int:
    """How many processes there may be for `count` things to do, on a CPU."""
    return max(1, min(config.workers if config.workers != "auto" else cores(), count))
