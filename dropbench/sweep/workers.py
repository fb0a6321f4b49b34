"""Trains the stacks of a sweep in several processes, each with its share of the machine's threads.

Two processes of one thread train small nets up to 1.8 times as fast as one process of two threads (measured on digits).
A worker that dies takes no run with it: the runs of its stack go on, each alone, from their checkpoints.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dropbench.errors import UserError
from dropbench.runs.folder import path_of
from dropbench.runs.records import read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event

    from dropbench.config import Run
    from dropbench.sweep.local import Local, Report

#: Seconds between two looks at whether the user wants to stop.
PATIENCE = 0.2


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_for(stacks: Sequence[Sequence[Run]]) -> int:
    """How many processes train these stacks: what the config says; `auto`: as many as cores, with two stacks each.

    On CUDA `auto` is one, since runs that share a GPU share a stack.
    """
    if not stacks:
        return 1
    config = stacks[0][0].config
    if config.workers != "auto":
        return min(config.workers, len(stacks))
    import torch

    on_gpu = config.device.startswith("cuda") or (config.device == "auto" and torch.cuda.is_available())
    return 1 if on_gpu else max(1, min(cores(), len(stacks) // 2))


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    stack: list[Run] = field(default_factory=list)
    done: float = 0.0


def train_all(local: Local, stacks: Sequence[Sequence[Run]], workers: int, interrupted: Callable[[], bool]) -> bool:
    """Trains the stacks in `workers` processes and gathers what became of them in `local.report`.

    Args:
        local: says what is recorded; its report is filled.
        stacks: of runs.
        workers: processes.
        interrupted: whether to save and stop.

    Returns:
        Whether all were trained; False after an interruption, when everything is saved.

    Raises:
        UserError: a folder is busy, the disk refuses.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    threads = max(1, cores() // workers)
    queue = deque(list(stack) for stack in stacks)
    finished, refusal = 0, None

    def start() -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, stop, threads, local.command), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    pool = [start() for _ in range(min(workers, len(queue)))]
    bar = tqdm(
        total=sum(len(stack) for stack in stacks), leave=False, dynamic_ncols=True, desc=f"{workers} workers",
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} runs [{elapsed}<{remaining}]",
        disable=None if local.progress else True,
    )  # fmt: skip
    try:
        while queue or any(worker.stack for worker in pool):
            if refusal is None and interrupted():
                refusal = "stop"
                stop.set()
            for worker in pool:
                if not worker.stack and queue and refusal is None:
                    worker.stack, worker.done = queue.popleft(), 0.0
                    worker.pipe.send((worker.stack, {run.id: local.hydra.get(run.id) for run in worker.stack}))
            if refusal is not None and not any(worker.stack for worker in pool):
                break
            busy: dict[Any, _Worker] = {worker.pipe: worker for worker in pool if worker.stack}
            for ready in wait(list(busy), timeout=PATIENCE):
                worker = busy[ready]
                try:
                    kind, content = worker.pipe.recv()
                except (EOFError, ConnectionError):
                    finished += _bury(worker, local, queue)
                    pool[pool.index(worker)] = start()
                    continue
                if kind == "progress":
                    worker.done = content
                else:
                    _add(local.report, content)
                    finished += len(worker.stack)
                    worker.stack = []
                    if kind == "refused":
                        refusal = content.refusal
                        stop.set()
            bar.n = finished + sum(worker.done * len(worker.stack) for worker in pool)
            bar.refresh()
    finally:
        bar.close()
        stop.set()
        for worker in pool:
            worker.pipe.close()
        for worker in pool:
            worker.process.join(timeout=10)
            if worker.process.is_alive():
                worker.process.kill()
    if refusal not in (None, "stop"):
        raise UserError(str(refusal))
    return refusal is None


@dataclass
class _Outcome:
    """What a worker says of a stack: the lines of its `Report`, or why the whole sweep cannot go on."""

    failed: dict[str, str]
    refused: dict[str, str]
    warnings: list[str]
    crashed: bool
    refusal: str | None = None


def _add(report: Report, outcome: _Outcome) -> None:
    report.failed.update(outcome.failed)
    report.refused.update(outcome.refused)
    report.warnings.extend(outcome.warnings)
    report.crashed |= outcome.crashed


def _bury(worker: _Worker, local: Local, queue: deque[list[Run]]) -> int:
    """Deals with the stack of a worker that died; returns the number of runs that are over."""
    worker.process.join()
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    left = [run for run in worker.stack if read_run(path_of(run)).state not in ("done", "failed")]
    over = len(worker.stack) - len(left)
    if len(worker.stack) == 1 and left:
        local.report.failed[left[0].id] = f"its process died ({how})"
        return over + 1
    local.report.warnings.append(
        f"a worker died ({how}); its {len(left)} unfinished runs were trained again, each alone"
    )
    queue.extend([run] for run in left)
    return over


def _work(pipe: Connection, stop: Event, threads: int, command: Sequence[str]) -> None:
    """The life of a worker: a stack comes, an outcome goes, until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent says when to stop
    import torch

    from dropbench import runner
    from dropbench.sweep.local import Local

    torch.set_num_threads(threads)
    parent = os.getppid()
    local = Local(list(command), {}, lambda: stop.is_set() or os.getppid() != parent, progress=False)
    local.watch = lambda share: pipe.send(("progress", share))
    while True:
        try:
            stack, hydra = pipe.recv()
        except (EOFError, ConnectionError):
            return
        local.begin(hydra)
        refusal = None
        try:
            local.train(stack)
        except runner.Interrupted:
            pass
        except UserError as error:
            refusal = str(error)
        report = local.report
        outcome = _Outcome(report.failed, report.refused, report.warnings, report.crashed, refusal)
        pipe.send(("refused" if refusal else "done", outcome))
