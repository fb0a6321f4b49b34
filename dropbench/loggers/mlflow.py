"""MLflow, in a local database: `mlflow ui --backend-store-uri sqlite:///outputs/<study>/.mlflow/mlflow.db` shows it."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dropbench.loggers import Log, Logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dropbench.loggers import End, Point, Subject

#: A write to the database takes as long for many points as for one: so they are gathered for so many seconds.
GATHERED = 5.0
_MOST_METRICS, _MOST_PARAMS, _LONGEST_PARAM = 1000, 100, 6000  # in one call; characters
_STATUS: dict[End, str] = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass(frozen=True)
class MLflow(Logger):
    """A run of MLflow for each run, of the same name, in the experiment that is named as the study.

    One that goes on is found again by its name, and gets the points that it lacks.
    """

    needs = ("mlflow", "sqlalchemy", "alembic")

    def open(self, subject: Subject, store: Path, past: Iterable[Point]) -> Log:
        """Finds the run of MLflow, or makes one."""
        # The library reads these when it is loaded: it tells nobody that it is used, and prints what went wrong alone.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        points = list(past)
        with _alone(store):
            client = MlflowClient(tracking_uri=f"sqlite:///{store.absolute() / 'mlflow.db'}")
            found = client.get_experiment_by_name(subject.study)
            place = (store.absolute() / "artifacts").as_uri()
            experiment = found.experiment_id if found else client.create_experiment(subject.study, place)
        run = next(iter(client.search_runs([experiment], f"attributes.run_name = '{subject.id}'", max_results=1)), None)
        if run is not None and run.data.metrics and not points:  # it is trained anew
            client.delete_run(run.info.run_id)
            run = None
        if run is None:
            run = client.create_run(experiment, run_name=subject.id, tags=dict(subject.choices))
            told = [Param(_name(key), str(value)[:_LONGEST_PARAM]) for key, value in subject.settings.items()]
            for at in range(0, len(told), _MOST_PARAMS):
                client.log_batch(run.info.run_id, params=told[at : at + _MOST_PARAMS])
        else:
            client.update_run(run.info.run_id, "RUNNING")
        kept = client.get_metric_history(run.info.run_id, "epoch")
        log = _Run(client, run.info.run_id, {metric.step for metric in kept})
        for point in points:
            log.add(point)
        return log


@dataclass
class _Run(Log):
    """The points at the steps `kept` are there; after a kill they may be ahead of the checkpoint, and come again."""

    client: Any
    id: str
    kept: set[int]
    waiting: list[Any] = field(default_factory=list)
    sent: float = field(default_factory=time.monotonic)

    def add(self, point: Point) -> None:
        """A metric for each figure, some seconds later."""
        if point.step not in self.kept:
            self._gather(point)
        if time.monotonic() - self.sent > GATHERED:
            self._send()

    def close(self, end: End, last: Point) -> None:
        """The final figures, and the state of the run."""
        self._gather(last)
        self._send()
        self.client.set_terminated(self.id, _STATUS[end])

    def _gather(self, point: Point) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, point.step) for name, value in point.figures.items()]
        if len(self.waiting) + len(metrics) > _MOST_METRICS:  # a point is sent whole, if it can be
            self._send()
        self.waiting += metrics

    def _send(self) -> None:
        for at in range(0, len(self.waiting), _MOST_METRICS):
            self.client.log_batch(self.id, metrics=self.waiting[at : at + _MOST_METRICS])
        self.waiting, self.sent = [], time.monotonic()


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """Lets one process at a time make the database and the experiment."""
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _name(key: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./ :-]", "_", key)
