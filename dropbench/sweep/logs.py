"""The log of a run, kept by the logger of its config: whatever becomes of the log, the run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropbench.loggers import Log, Point, Subject
from dropbench.runs.files import lines
from dropbench.runs.folder import METRICS
from dropbench.runs.records import MEASURED
from dropbench.terminal import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dropbench.config import Run
    from dropbench.loggers import End

_NOTHING = Point(0, {})


class RunLog:
    """Opens the log of a run, hands figures over, and gives it up at the first error, which it tells once.

    Args:
        run: the run, in its folder.
        settings: the config that gives it its meaning, by dotted key.
        warn: is told of the error, in a line.
    """

    def __init__(self, run: Run, settings: Mapping[str, object], warn: Callable[[str], None]) -> None:
        self.run, self.settings, self.warn = run, settings, warn
        self._log: Log | None = None
        self._over = False

    def open(self) -> None:
        """Opens the log with the evaluations that the run folder holds by now; of one that is open, nothing."""
        self._try()

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Logs an evaluation that the log was not opened with."""
        self._try(lambda log: log.add(_point(record)))

    def close(self, end: End, result: Mapping[str, Any] | None = None) -> None:
        """Ends the log, once.

        Args:
            end: how the run ended.
            result: of a run that is done.
        """
        if self._log is not None or end != "interrupted":  # what was not evaluated goes on later
            self._try(lambda log: log.close(end, _NOTHING if result is None else _final(result)))
        self._over, self._log = True, None

    def _try(self, act: Callable[[Log], None] | None = None) -> None:
        if self._over:
            return
        logger = self.run.config.logger
        try:
            if self._log is None:
                choices = {group: name for group, name in self.run.choices.items() if name != "None"}
                subject = Subject(self.run.id, self.run.config.study, choices, self.settings)
                self._log = logger.open(subject, self.run.path.parent / f".{logger.kind()}", self._past())
            if act is not None:
                act(self._log)
        except Exception as error:  # of a library, of a disk: not ours to foresee
            self._over, self._log = True, None
            reason = clean(" ".join(f"{type(error).__name__}: {error}".split())[:300])
            self.warn(f"{self.run.path}: logger={logger.kind()} failed and logs no more of this run: {reason}")

    def _past(self) -> Iterator[Point]:
        return map(_point, lines(self.run.path / METRICS))


def _point(record: Mapping[str, Any]) -> Point:
    """Every finite number of a record of `metrics.jsonl`, by its path: `validation/error`, `sites/hidden1/rate`."""
    rest = {key: value for key, value in record.items() if key not in ("seq", "step")}
    return Point(record["step"], dict(_numbers(rest)))


def _final(result: Mapping[str, Any]) -> Point:
    """The figures of a result; those of train and validation under `selected`, apart from the last evaluation's."""
    test = {name: result[name] for name in MEASURED if name in result and name.startswith("test")}
    other = {name: result[name] for name in MEASURED if name in result and name not in test}
    chosen = {"epoch": result["selection"]["epoch"], **other}
    return Point(result["steps"], dict(_numbers({**test, "selected": chosen})))


def _numbers(data: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and value - value == 0:
            yield f"{prefix}{key}", value
