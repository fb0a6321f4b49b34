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

#: Seconds of steps in a visit to one size.
PATIENCE = 0.04
#: Looking may take this share of the whole training, and in any case so many seconds.
SHARE, LEAST = 0.02, 0.4
#: Sizes are not doubled again once a run takes longer than this many times the best one, in two sizes on end.
HOPELESS = 1.1
#: Sizes in which a run takes at most so many times the best one are visited in turn, so often.
CLOSE, VISITS = 1.1, 5
#: Share of the free memory that a stack may fill.
FILL = 0.5


def look(local: Local, runs: Sequence[Run], total: int, workers: int) -> Look:
    """Trains the first steps of stacks of 1, 2, 4, ... runs and notes what a run takes in each.

    The sizes are doubled until it gets worse. Then those that are near the best are visited in turn, several times,
    and the fastest visit counts: what else the machine does in the meantime slows some visits down, and speeds none up.

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
    before = runner.peak_memory(device)
    trainers: dict[int, runner.Trainer] = {}
    seconds: dict[int, float] = {}

    def visit(size: int) -> None:
        if size not in trainers:
            trainers[size] = runner.Trainer(configs[:size], data, device, _Nowhere())
            trainers[size].pace(0.0)  # warms up
        taken = trainers[size].pace(PATIENCE) / size
        seconds[size] = min(taken, seconds.get(size, taken))

    def worse() -> bool:
        limit = HOPELESS * min(seconds.values())
        return len(seconds) > 2 and all(seconds[size] > limit for size in sorted(seconds)[-2:])

    try:
        visit(1)
        started, end = time.monotonic(), max(LEAST, SHARE * seconds[1] * total * run.config.epochs)
        size = 1
        while size < most and time.monotonic() - started < end:
            if 2 * (runner.peak_memory(device) - before) > free:
                break
            size = min(2 * size, most)
            visit(size)
            if worse():  # or were these two unlucky?
                for again in sorted(seconds)[-2:]:
                    visit(again)
                if worse():
                    break
        for _ in range(VISITS - 1):
            near = [size for size in seconds if seconds[size] <= CLOSE * min(seconds.values())]
            for size in near if len(near) > 1 else ():
                if time.monotonic() - started < end:
                    visit(size)
    except Exception:
        if not seconds:
            raise
        # memory is short, or one run raises, which its folder will tell
    finally:
        for trainer in trainers.values():
            trainer.captured = None
    return Look(None, seconds)


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
