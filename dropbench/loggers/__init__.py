"""Loggers: where the figures of runs go beside the run folders, which stay the truth; one file is one logger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar, Literal

from dropbench.errors import UserError
from dropbench.parts import Part, find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: How a run ended; one that was interrupted goes on later.
End = Literal["done", "failed", "interrupted"]


@dataclass(frozen=True)
class Subject:
    """The run that is logged.

    Args:
        id: of the run: its name in the logger.
        study: what it belongs to: its group, or experiment.
        choices: the names chosen in the groups: its tags.
        settings: the config that gives the run its meaning, by dotted key: its hyperparameters.
    """

    id: str
    study: str
    choices: Mapping[str, str]
    settings: Mapping[str, object]


@dataclass(frozen=True)
class Point:
    """The figures of one evaluation.

    Args:
        step: updates that were done.
        figures: finite numbers by path: `validation/error`, `sites/hidden1/rate`.
    """

    step: int
    figures: Mapping[str, float]


class Log(ABC):
    """Abstract: the log of one run while it trains. What it raises ends the log, not the run."""

    @abstractmethod
    def add(self, point: Point) -> None:
        """One evaluation, later than those before it."""

    @abstractmethod
    def close(self, end: End, last: Point) -> None:
        """The end; `last`: of a run that is done, its final figures (`test/error`), else none."""


class Logger(Part):
    """Abstract: opens a log for each run of a stack. Its library is imported when the first log is opened."""

    folder = "loggers"
    #: Packages that must be there.
    needs: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Looks for the packages, without importing them.

        Raises:
            UserError: one is not there.
        """
        for name in self.needs:
            spec = find_spec(name)
            if spec is None or spec.origin is None:  # a folder of that name, left by the library, is no package
                own = type(self).__module__.startswith("dropbench.")
                install = f"'dropbench[{self.kind()}]'" if own else name
                raise UserError(f"logger={self.kind()}: needs the package {name}: pip install {install}")

    @abstractmethod
    def open(self, subject: Subject, store: Path, past: Iterable[Point]) -> Log:
        """The log of a run, which thereafter holds `past` and no point twice.

        Args:
            subject: the run.
            store: the folder of this logger in the study, `outputs/<study>/.<kind>`, which may not be there yet.
            past: the evaluations that the run folder holds: none of a run that starts, or starts anew.
        """


def no_logger() -> Logger:
    """The logger of who asks for none."""
    return find(Logger, "none", "logger")()
