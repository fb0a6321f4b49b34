"""`prune`: the worst settings of a sweep stop early, all their seeds together (successive halving).

At a quarter and at half of the epochs, the settings of one data set and model are ranked by the mean over their seeds
of the best validation score so far, and the worst `share` of them stops. A run that stops keeps its checkpoint and gets
`pruned.json` in place of a result; without `prune` the same command goes on with it. What is decided is a function of
what the runs recorded, so it does not depend on the order, the stacks or the workers, nor on interruptions.

Source: Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016.
"""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

from dropbench.runs.files import dump, lines, write
from dropbench.runs.records import PRUNED, read_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dropbench.config import Config, Run

#: Parts of the epochs after which settings stop.
MARKS = (0.25, 0.5)


def rung(config: Config, mark: float) -> int:
    """The epoch after which settings stop: the evaluation at or next after `mark` of the epochs."""
    every = config.evaluation.every
    return min(every * math.ceil(mark * config.epochs / every), config.epochs)


def worst(runs: Sequence[Run], number: int, share: float) -> dict[str, float]:
    """The settings that stop at a rung: their score, by `Run.group`.

    Args:
        runs: that are still in the race; all have come as far as the rung, or failed.
        number: of the rung, an index of `MARKS`.
        share: of the settings of one data set and model that stop, rounded down; one always stays.
    """
    tasks: dict[tuple[object, ...], dict[str, list[float]]] = {}
    for run in runs:
        config = run.config
        epochs = [0, *(rung(config, mark) for mark in MARKS)]
        epoch = epochs[number + 1]
        if epochs[number] < epoch < config.epochs:
            task = tasks.setdefault((run.choices["dataset"], run.choices["model"], config.epochs, epoch), {})
            task.setdefault(run.group, []).append(score(run, epoch))
    stopped = {}
    for task in tasks.values():
        means = {group: statistics.fmean(scores) for group, scores in task.items()}
        ranked = sorted(means, key=lambda group: (means[group], group))
        keep = max(1, len(ranked) - math.floor(share * len(ranked)))
        stopped.update({group: means[group] for group in ranked[keep:]})
    return stopped


def score(run: Run, epoch: int) -> float:
    """The best validation error (or rmse, or loss) of a run up to `epoch`; infinite if it failed, or has none."""
    best = math.inf
    if read_run(run.path).state == "failed":
        return best
    for record in lines(run.path / "metrics.jsonl"):
        if record["epoch"] <= epoch:
            validation = record["validation"]
            value = next((validation[name] for name in ("error", "rmse", "loss") if name in validation), None)
            best = math.inf if value is None else min(best, value)
    return best


def stop(run: Run, epoch: int, mean: float, share: float) -> None:
    """Writes that a run was stopped, and why."""
    facts = {"epoch": epoch, "score": mean, "share": share}
    write(run.path / PRUNED, (dump(facts) + "\n").encode())
