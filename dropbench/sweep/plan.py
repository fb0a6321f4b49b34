"""What is to be done: of the runs that were asked for, which are the same and which are done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.runs.folder import path_of
from dropbench.runs.records import read_run

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.config import Run


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep, each once.

    Args:
        asked: how many were asked for.
        done: those whose result is recorded.
        todo: the others.
    """

    asked: int
    done: tuple[Run, ...]
    todo: tuple[Run, ...]

    @property
    def runs(self) -> tuple[Run, ...]:
        """All runs, each once."""
        return self.done + self.todo

    @property
    def paths(self) -> list[Path]:
        """Their folders."""
        return [path_of(run) for run in self.runs]

    def __str__(self) -> str:
        duplicates = self.asked - len(self.runs)
        plural = "s" if duplicates != 1 else ""
        return f"{self.asked} runs: {len(self.done)} done, {duplicates} duplicate{plural}, {len(self.todo)} to do"


def plan(runs: Iterable[Run]) -> Plan:
    """Sorts runs by their id and by what lies in their folders; a failed run is to be done again."""
    asked = list(runs)
    once = {path_of(run): run for run in asked}
    done = {path for path, run in once.items() if not run.config.rerun and read_run(path).state == "done"}
    return Plan(
        len(asked),
        tuple(run for path, run in once.items() if path in done),
        tuple(run for path, run in once.items() if path not in done),
    )
