"""No logger: the files of the run folders are all there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.loggers import Log, Logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dropbench.loggers import End, Point, Subject


@dataclass(frozen=True)
class NoLogger(Logger):
    """Logs nothing."""

    def open(self, subject: Subject, store: Path, past: Iterable[Point]) -> Log:
        """A log that keeps nothing."""
        return _NoLog()


class _NoLog(Log):
    def add(self, point: Point) -> None:
        pass

    def close(self, end: End, last: Point) -> None:
        pass
