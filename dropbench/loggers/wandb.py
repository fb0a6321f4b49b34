"""Weights & Biases, offline unless `$WANDB_MODE` is set; `wandb sync outputs/<study>/.wandb/offline-*` sends it."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dropbench.loggers import Log, Logger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dropbench.loggers import End, Point, Subject

_LONGEST_TAG = 64


@dataclass(frozen=True)
class WandB(Logger):
    """A run of W&B for each run, of the same name and with an identity of its own, in the group of its study.

    It is written anew when the run goes on: so no point is there twice, nor at the server after it is sent again.

    Args:
        project: of W&B.
        entity: user or team of W&B; null: the user's own.
    """

    needs = ("wandb",)

    project: str = "dropbench"
    entity: str | None = None

    def open(self, subject: Subject, store: Path, past: Iterable[Point]) -> Log:
        """Starts the run of W&B, anew."""
        identity = hashlib.sha256(f"{subject.study}/{subject.id}".encode()).hexdigest()[:16]
        for earlier in store.glob(f"*run-*-{identity}"):
            shutil.rmtree(earlier, ignore_errors=True)
        store.mkdir(parents=True, exist_ok=True)
        # The library reads these when it is loaded: no reports of its own errors, nothing in the home folder.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        os.environ.setdefault("WANDB_CACHE_DIR", str(store.absolute() / "cache"))
        import wandb

        quiet: dict[str, Any] = {"silent": True, "console": "off", "symlink": False}
        unasked = ("x_disable_meta", "x_disable_stats", "x_disable_machine_info", "disable_git", "disable_code")
        run = wandb.init(
            dir=str(store.parent),  # in which it looks for a folder `.wandb`
            mode=None if os.environ.get("WANDB_MODE") else "offline",
            project=self.project,
            entity=self.entity,
            id=identity,
            name=subject.id,
            group=subject.study,
            tags=[f"{group}={name}"[:_LONGEST_TAG] for group, name in subject.choices.items()],
            config=dict(subject.settings),
            reinit="create_new",  # the runs of a stack are open side by side
            settings=wandb.Settings(**quiet, **dict.fromkeys(unasked, True)),
        )
        log = _Run(run)
        for point in past:
            log.add(point)
        return log


class _Run(Log):
    def __init__(self, run: Any) -> None:
        self.run = run

    def add(self, point: Point) -> None:
        """A row of the history at the step of the training."""
        self.run.log(dict(point.figures), step=point.step)

    def close(self, end: End, last: Point) -> None:
        """The final figures become the summary."""
        self.run.summary.update(dict(last.figures))
        self.run.finish(exit_code=int(end != "done"))
