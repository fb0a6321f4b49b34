"""How many runs of one shape should train as one stack: measured, since it depends on the shape and the machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dropbench import runner
from dropbench.errors import UserError
from dropbench.stack import capacity
from dropbench.sweep.plan import Look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dropbench.config import Config, Run
    from dropbench.sweep.local import Local

#: Seconds of steps that judge one size.
PATIENCE = 0.1
#: Looking may take this share of the whole training, and in any case so many seconds.
SHARE, LEAST = 0.02, 0.3
#: A size is not doubled again once a run takes longer than this many times the best one.
HOPELESS = 1.1
#: Share of the free memory that a stack may fill.
FILL = 0.5


def look(local: Local, runs: Sequence[Run], total: int, workers: int) -> Look:
    """Trains the first steps of stacks of 1, 2, 4, ... runs and notes what a run takes in each.

    Args:
        local: loads the data.
        runs: of one shape, as many as a stack may hold.
        total: runs of this shape in the sweep.
        workers: processes that share the memory.
    """
    run = runs[0]
    device = runner.device_of(run.config.device)
    data, _ = local.data(run.config)
    configs: list[Config] = []
    refusals: list[str] = []
    for each in runs:
        try:
            # A twin that is made of a record is not known yet, and costs what the run that it controls does.
            configs.append(each.config if each.config.needs_record else local.trained_config(each))
        except UserError as refusal:
            refusals.append(str(refusal))
    if not configs:
        return Look(refusals[0], {})
    typed = run.config.stack
    most = min(len(configs), capacity(run.config.model.parameters(data.facts)) if typed == "auto" else typed)
    free = _free(device) * FILL / workers
    seconds: dict[int, float] = {}
    started, before, size = time.monotonic(), runner.peak_memory(device), 1
    while True:
        try:
            seconds[size] = runner.Trainer(configs[:size], data, device, _Nowhere()).pace(PATIENCE) / size
        except Exception:
            if not seconds:
                raise
            return Look(None, seconds)  # memory is short, or one run raises, which its folder will tell
        budget = max(LEAST, SHARE * seconds[1] * total * run.config.epochs)
        if size == most or seconds[size] > HOPELESS * min(seconds.values()) or time.monotonic() - started > budget:
            return Look(None, seconds)
        if 2 * (runner.peak_memory(device) - before) > free:
            return Look(None, seconds)
        size = min(2 * size, most)


def _free(device: torch.device) -> float:
    """Bytes of memory that nobody uses."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return float(line.split()[1]) * 1024
    except OSError:
        pass
    return float(2**32)


class _Nowhere:
    """A `Sink` for steps that nobody keeps."""

    def progress(self, step: int, steps: int) -> None: ...

    def metrics(self, run: int, record: dict[str, object]) -> None: ...

    def checkpoint(self, run: int, checkpoint: object) -> None: ...

    def predictions(self, run: int, parts: object) -> None: ...

    def finish(self, run: int, result: dict[str, object]) -> None: ...

    def interrupted(self) -> bool:
        return False
