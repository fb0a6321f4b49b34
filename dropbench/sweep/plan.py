"""What is to be done: which of the runs that were asked for are the same, which are done, which may share a stack."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from dropbench.runs.records import is_done, read_run
from dropbench.stack import signature

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.config import Run


@dataclass(frozen=True)
class Look:
    """What a worker found out about the runs of one shape.

    Args:
        refused: why they cannot be trained, or None.
        seconds: of training, a run and an epoch, in a stack of so many runs, by that number.
    """

    refused: str | None
    seconds: Mapping[int, float]


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once.

    Args:
        asked: how many were asked for.
        done: those whose result is recorded.
        pruned: those that a sweep with `prune`, as this is one, stopped.
        todo: the others.
        begun: the id of the first run of the stack in which a run of `todo` was begun, by its id.
    """

    asked: int
    done: tuple[Run, ...]
    pruned: tuple[Run, ...]
    todo: tuple[Run, ...]
    begun: Mapping[str, str]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, each once."""
        return self.done + self.pruned + self.todo

    @property
    def paths(self) -> list[Path]:
        """Their folders."""
        return [run.path for run in self.runs]

    def __str__(self) -> str:
        duplicates = self.asked - len(self.runs)
        plural = "s" if duplicates != 1 else ""
        pruned = f"{len(self.pruned)} pruned, " if self.pruned else ""
        return (
            f"{self.asked} runs: {len(self.done)} done, {pruned}{duplicates} duplicate{plural}, {len(self.todo)} to do"
        )


def plan(runs: Iterable[Run]) -> Plan:
    """Sorts runs by their id and by what lies in their folders; a failed run is to be done again."""
    asked = list(runs)
    once = {run.path: run for run in asked}
    done: list[Run] = []
    pruned: list[Run] = []
    todo: list[Run] = []
    begun: dict[str, str] = {}
    there = {study: _names(study) for study in {path.parent for path in once}}
    for path, run in once.items():
        if path.name not in there[path.parent]:
            todo.append(run)
            continue
        state = read_run(path).state
        if is_done(run, state):
            done.append(run)
            continue
        if state == "pruned" and run.config.prune is not None and not run.config.rerun:
            pruned.append(run)
            continue
        todo.append(run)
        if state != "unreadable":
            begun[run.id] = _first(path)
    return Plan(len(asked), tuple(done), tuple(pruned), tuple(todo), begun)


def shapes(runs: Sequence[Run]) -> list[list[Run]]:
    """Sorts runs by the shape of their graphs, in the order of first appearance.

    Runs whose rates are made of the records of others come last.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(signature(run.config), []).append(run)
    return sorted(groups.values(), key=lambda group: group[0].config.needs_record)


def cut(group: Sequence[Run], look: Look, begun: Mapping[str, str], workers: int, groups: int) -> list[list[Run]]:
    """Cuts the runs of one shape into stacks.

    What began together goes on together. The others are cut into stacks of nearly equal size n, that with the least
    expected time. One shape alone takes `t(n) n rounds`, where W workers train all stacks in so many rounds. Of several
    shapes each adds `t(n) (runs / W + n (1 - 1/W) / shapes)`: the workers share the work, and at the end one of them
    trains while the others have nothing left. t(n) is the measured time of a run in a stack of n.

    Args:
        group: runs of one shape.
        look: what a worker measured of them.
        begun: see `Plan`.
        workers: W.
        groups: number of shapes in the sweep.
    """
    together: dict[str, list[Run]] = {}
    fresh = []
    for run in group:
        if begun.get(run.id):
            together.setdefault(begun[run.id], []).append(run)
        else:
            fresh.append(run)
    typed = group[0].config.stack
    if typed == "auto":
        alone = groups == 1 and not together

        def time(size: int) -> float:
            if not alone:
                return look.seconds[size] * (len(fresh) / workers + size * (1 - 1 / workers) / groups)
            count = -(-len(fresh) // size)
            return look.seconds[size] * -(-len(fresh) // count) * -(-count // workers)

        size = min(look.seconds, key=time, default=1)
    else:
        size = typed
    parts = [part for runs in together.values() for part in _even(runs, typed if typed != "auto" else len(runs))]
    return parts + _even(fresh, size)


def expected(stack: Sequence[Run], look: Look, epochs: int) -> float:
    """Seconds that a stack will take, by the largest measured size that is not larger."""
    size = max((size for size in look.seconds if size <= len(stack)), default=min(look.seconds))
    return len(stack) * look.seconds[size] * epochs


def _even(runs: Sequence[Run], most: int) -> list[list[Run]]:
    """Cuts runs into as few pieces of at most `most` as there can be, of nearly equal size."""
    count = -(-len(runs) // most)
    ends = [len(runs) * piece // count for piece in range(count + 1)] if count else [0]
    return [list(runs[a:b]) for a, b in pairwise(ends)]


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - names alone
    except OSError:
        return frozenset()


def _first(folder: Path) -> str:
    """The first run of the stack in which the run in this folder was begun; `` where that is not known."""
    try:
        found = json.loads((folder / "record.json").read_bytes())["stack"]["first"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return found if isinstance(found, str) else ""
