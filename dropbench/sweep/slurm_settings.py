"""What a task of a sweep asks of a Slurm cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from dropbench.spec import Range

_TIME = re.compile(r"(\d+|\d+:[0-5]\d:[0-5]\d|\d+-[0-2]\d:[0-5]\d:[0-5]\d)\Z")
_MEMORY = re.compile(r"\d+[KMGT]\Z")


@dataclass(frozen=True)
class Slurm:
    """Resources of one array task, which trains one stack; null leaves it to the cluster.

    Args:
        partition: of the cluster.
        gpus: of a task.
        cpus: of a task.
        memory: of a task, `8G`.
        time: after which a task is stopped, saved and queued again: minutes, `H:MM:SS` or `D-HH:MM:SS`.
        account: that is charged.
        qos: quality of service.
        constraint: features that a node must have.
        parallel: most tasks that run at once.
        setup: shell lines before a task.
    """

    partition: str | None = None
    gpus: Annotated[int, Range(0, 64)] = 0
    cpus: Annotated[int, Range(1, 1024)] = 2
    memory: str | None = None
    time: Annotated[int, Range(1, 1_000_000)] | str = "4:00:00"
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    parallel: Annotated[int, Range(1, 100_000)] | None = None
    setup: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks what Slurm would refuse only later."""
        if not _TIME.match(str(self.time)):
            raise ValueError(f"time={self.time}: allowed: minutes, H:MM:SS or D-HH:MM:SS")
        if self.memory is not None and not _MEMORY.match(self.memory):
            raise ValueError(f"memory={self.memory}: allowed: a size such as 800M or 8G")
