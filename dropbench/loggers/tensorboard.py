"""TensorBoard: an event file for each run; `tensorboard --logdir outputs/<study>/.tensorboard` shows them."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dropbench.loggers import Log, Logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dropbench.loggers import End, Point, Subject


@dataclass(frozen=True)
class TensorBoard(Logger):
    """Event files under `.tensorboard/<run id>`, each written anew when its run goes on: so no point is there twice.

    The scalars of a run are its figures by path; the hyperparameters are its choices and settings.
    """

    needs = ("tensorboard",)

    def open(self, subject: Subject, store: Path, past: Iterable[Point]) -> Log:
        """Writes the event file anew."""
        folder = store / subject.id
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        log = _Events(subject, folder / f"events.out.tfevents.{int(time.time())}")
        for point in past:
            log.add(point)
        return log


class _Events(Log):
    """An event file. The library's own writer has a thread, whose errors come late; this one has none."""

    def __init__(self, subject: Subject, path: Path) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.subject, self.records = subject, RecordWriter(path.open("wb"))
        self._write(file_version="brain.Event:2")
        self._write(session_log=SessionLog(status=SessionLog.START))  # forget what you read here before

    def add(self, point: Point) -> None:
        """One event with a scalar for each figure."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in point.figures.items()]
        self._write(step=point.step, summary=Summary(value=values))

    def close(self, end: End, last: Point) -> None:
        """The final figures as scalars, and beside the hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        if end == "done":
            told = {**self.subject.choices, **self.subject.settings}
            plain = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in told.items()}
            for summary in hparams(plain, dict(last.figures)):
                self._write(summary=summary)
            self.add(last)
        self.records.close()

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self.records.flush()
