"""Worker processes, each with its share of the machine, and what they are given to do.

Whoever leads them imports no torch, so that a sweep can be planned at once. Two processes of one thread train small
nets up to 1.8 times as fast as one process of two threads (measured on digits). A worker that dies takes no run with
it: those of its stack go on from their checkpoints, each alone, so that one that kills takes no neighbour down again.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from dropbench.errors import UserError
from dropbench.runs.records import is_done, read_run
from dropbench.sweep.halving import rung
from dropbench.sweep.plan import Look
from dropbench.sweep.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from multiprocessing.synchronize import Event

    from dropbench.compose import Composed
    from dropbench.config import Run
    from dropbench.sweep.live import View

#: Seconds between two looks at whether the user wants to stop, and between two tries at a folder that is held.
PATIENCE, HELD = 0.2, 1.0
#: So many runs that crash with one same error, and none that ends well before them, stop a sweep.
SAME = 3


def cores() -> int:
    """Processor cores that this process may use; a task of Slurm is not always bound to those that it was given."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(found, int(given)) if given.isdecimal() and int(given) else found


class SweepReport(Report):
    """What becomes of the runs of a sweep, shown at once, and whether that is a reason to stop.

    Args:
        view: shows it.
        first: whether the first failure is such a reason.

    Attributes:
        reason: to stop, or None.
        over: the runs that are done or failed.
    """

    def __init__(self, view: View, first: bool) -> None:
        super().__init__()
        self.view, self.first = view, first
        self.reason: str | None = None
        self.over: set[str] = set()
        self._crashes: list[str] | None = []

    def finished(self, run: str, figure: float, name: str, dataset: str) -> None:
        """See `Report`."""
        self._crashes = None
        self.over.add(run)
        self.failures.pop(run, None)
        self.view.finished(run, figure, name, dataset)

    def failed(self, run: str, reason: str, crashed: bool) -> None:
        """See `Report`."""
        super().failed(run, reason, crashed)
        self.over.add(run)
        self.view.failed(run, reason)
        if self.first:
            self.reason = "on_failure=stop"
        elif crashed and self._crashes is not None:
            self._crashes.append(reason)
            if len(self._crashes) >= SAME and len(set(self._crashes)) == 1:
                self.reason = f"the first {len(self._crashes)} runs all failed with one same error"

    def refused(self, run: str, reason: str) -> None:
        """See `Report`."""
        super().refused(run, reason)
        self.view.dropped(run)

    def warned(self, line: str) -> None:
        """See `Report`."""
        super().warned(line)
        self.view.note(f"warning: {line}")


@dataclass(frozen=True)
class _Task:
    """Runs that a worker is given, and how many processes died of them."""

    number: int
    runs: tuple[Run, ...]
    deaths: int = 0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    device: str | None
    task: _Task | None = None

    def tell(self, *message: Any) -> None:
        """Sends a message; that nobody hears it shows when an answer is waited for."""
        with suppress(OSError):
            self.pipe.send(message)

    def end(self) -> None:
        """Ends it at once."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


class Crew:
    """Worker processes; a context manager that ends them.

    Args:
        command: what the user typed, for the record.
        interrupted: whether the user wants to save and stop.
    """

    def __init__(self, command: Sequence[str], interrupted: Callable[[], bool]) -> None:
        self.command, self.interrupted = list(command), interrupted
        self.threads = 1  # of each worker, until it is known how many there will be
        self.count = 1  # workers that are given work
        self.gpus: int | None = None
        self._numbers = itertools.count(1)
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._workers = [self._start(None)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            if worker.task is not None and (kind is None or not issubclass(kind, SystemExit)):
                worker.process.join(timeout=10)  # it saves
            worker.end()

    def devices(self) -> int:
        """CUDA devices that torch can use here, as the first worker says."""
        while self.gpus is None:
            first = self._workers[0]
            try:
                _, self.gpus = first.pipe.recv()
            except (EOFError, OSError):
                raise UserError(f"a worker process cannot start ({_how(first.process)})") from None
        return self.gpus

    def ahead(self, workers: int) -> None:
        """Starts processes until there are so many, before it is known whether they are worth it.

        A process takes seconds until it can train, since it loads torch and the data. They pass while others look.
        """
        while len(self._workers) < workers:
            self._workers.append(self._start(None))

    def size(self, workers: int, gpus: int) -> None:
        """Makes the crew so large, and shares cores and GPUs among them."""
        self.count, self.threads = workers, max(1, cores() // workers)
        self.ahead(workers)
        while len(self._workers) > workers:
            self._workers.pop().end()
        for slot, worker in enumerate(self._workers):
            worker.device = f"cuda:{slot % gpus}" if gpus else None
            worker.tell("threads", self.threads)

    def look(self, groups: Sequence[Sequence[Run]], totals: Sequence[int]) -> list[Look]:
        """Lets the workers look at runs of each shape; see `sizing.look`."""
        looks: list[Look] = [Look(None, {1: 0.0})] * len(groups)
        queue = deque(_Task(number, tuple(group)) for number, group in enumerate(groups))
        while queue or self._busy():
            if self.interrupted():
                break
            for worker in self._workers[: self.count]:
                if worker.task is None and queue:
                    task = worker.task = queue.popleft()
                    runs = [self._placed(run, worker) for run in task.runs]
                    worker.tell("look", runs, totals[task.number], self.count)
            for worker, task, message in self._messages():
                if message is None:  # it died of looking: its runs are trained one by one
                    self._replace(worker)
                elif message[0] == "loaded":  # what had to be fetched is there, so the others find it
                    if task.number == 0:
                        for spare in self._workers[self.count :]:
                            spare.tell("load", task.runs[0])
                elif message[0] == "looked":
                    looks[task.number] = message[1]
                    worker.task = None
        return looks

    def train(
        self,
        stacks: Sequence[Sequence[Run]],
        report: SweepReport,
        hydra: Mapping[str, Composed],
        until: float | None = None,
    ) -> bool:
        """Trains the stacks.

        Args:
            stacks: of runs.
            report: is told what becomes of them.
            hydra: what Hydra composed for each run, by id.
            until: the part of the epochs after which they are saved and left; None for the end.

        Returns:
            Whether all were trained; False after an interruption or a reason to stop, when everything is saved.

        Raises:
            UserError: the disk refuses.
        """
        queue = deque(_Task(next(self._numbers), tuple(stack)) for stack in stacks)
        held: list[tuple[float, _Task]] = []
        told: set[str] = set()
        refusal: str | None = None
        while queue or held or self._busy():
            if not self._stop.is_set() and self.interrupted():
                report.view.note("saving; a second Ctrl-C ends at once")
                self._stop.set()
            if self._stop.is_set() or report.reason is not None or refusal is not None:
                self._stop.set()
                queue.clear()
                held.clear()
            while held and held[0][0] <= time.monotonic():
                queue.append(held.pop(0)[1])
            for worker in self._workers[: self.count]:
                if worker.task is None and queue:
                    task = worker.task = queue.popleft()
                    report.view.started(task.number, [run.id for run in task.runs])
                    runs = [self._placed(run, worker) for run in task.runs]
                    epoch = None if until is None else rung(runs[0].config, until)
                    worker.tell("train", runs, {run.id: hydra.get(run.id) for run in task.runs}, epoch)
            for worker, task, message in self._messages():
                if message is None:
                    queue.extend(self._bury(worker, task, report))
                elif message[0] == "over":
                    _, kind, line = message
                    report.view.stopped(task.number)
                    if kind == "busy":
                        held.append((time.monotonic() + HELD, task))
                        if line not in told:
                            told.add(line)
                            report.view.note(f"{line}; it is waited for")
                    elif kind == "refused":
                        refusal = line
                    elif kind == "done" and until is None:  # some may have been done by another process
                        for run in task.runs:
                            if run.id not in report.over:
                                report.view.dropped(run.id)
                    worker.task = None
                elif message[0] == "progress":
                    report.view.progress(task.number, message[1])
                else:
                    getattr(report, message[0])(*message[1:])
        if refusal is not None:
            raise UserError(refusal)
        return not self._stop.is_set()

    def _busy(self) -> bool:
        return any(worker.task is not None for worker in self._workers)

    def _placed(self, run: Run, worker: _Worker) -> Run:
        """The run on the device of the worker, where it leaves the device open."""
        if worker.device is None or run.config.device not in ("auto", "cuda"):
            return run
        return replace(run, config=replace(run.config, device=worker.device))

    def _messages(self) -> list[tuple[_Worker, _Task, tuple[Any, ...] | None]]:
        """One message of each busy worker that has said something; None from one that is dead."""
        busy: dict[Any, _Worker] = {worker.pipe: worker for worker in self._workers if worker.task is not None}
        found: list[tuple[_Worker, _Task, tuple[Any, ...] | None]] = []
        for ready in wait(list(busy), timeout=PATIENCE):
            worker = busy[ready]
            assert worker.task is not None
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                message = None
            if message is None or message[0] != "hello":
                found.append((worker, worker.task, message))
        return found

    def _bury(self, worker: _Worker, task: _Task, report: SweepReport) -> list[_Task]:
        """Deals with the stack of a worker that died; returns what is to be trained again."""
        report.view.stopped(task.number)
        how = _how(worker.process)
        self._replace(worker)
        left = [run for run in task.runs if run.id not in report.over]
        left = [run for run in left if _is_open(run)]
        if task.deaths and len(task.runs) == 1:
            for run in left:
                _fail(run, f"its process died ({how})", report)
            return []
        if left:
            those = left[0].id if len(left) == 1 else f"the {len(left)} runs that it had not finished, each alone"
            report.warned(f"a worker died ({how}); trained again, from where it was saved: {those}")
        return [_Task(next(self._numbers), (run,), task.deaths + 1) for run in left]

    def _start(self, device: str | None) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._stop, self.threads, self.command), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, device)

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.pipe.close()
        self._workers[self._workers.index(worker)] = self._start(worker.device)


def _is_open(run: Run) -> bool:
    """Whether a run that was begun has no result yet."""
    state = read_run(run.path).state
    return run.config.rerun or not (state == "failed" or is_done(run, state))


def _how(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _fail(run: Run, reason: str, report: SweepReport) -> None:
    """Records a run whose process died."""
    from dropbench.runs.folder import BusyError, RunFolder
    from dropbench.sweep.local import write_failure

    try:
        folder = RunFolder.take(run.path)
    except BusyError:
        pass
    else:
        write_failure(run, folder, reason, f"{reason}; the kernel kills when memory is short")
        folder.close()
    report.failed(run.id, reason, crashed=True)


class _Relay(Report):
    """Says through a pipe what becomes of the runs; whether anyone still listens does not matter."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe, self.told = pipe, 0.0

    def _send(self, *message: Any) -> None:
        with suppress(OSError):
            self.pipe.send(message)

    def progress(self, step: int, steps: int) -> None:
        if time.monotonic() - self.told > PATIENCE:
            self.told = time.monotonic()
            self._send("progress", step / steps)

    def finished(self, run: str, figure: float, name: str, dataset: str) -> None:
        self._send("finished", run, figure, name, dataset)

    def failed(self, run: str, reason: str, crashed: bool) -> None:
        self._send("failed", run, reason, crashed)

    def refused(self, run: str, reason: str) -> None:
        self._send("refused", run, reason)

    def warned(self, line: str) -> None:
        self._send("warned", line)


def _work(pipe: Connection, stop: Event, threads: int, command: Sequence[str]) -> None:
    """The life of a worker: it looks and trains as it is told, until the pipe closes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent says when to stop
    import torch

    from dropbench import runner
    from dropbench.runs.folder import BusyError
    from dropbench.sweep.local import Local
    from dropbench.sweep.sizing import look

    torch.set_num_threads(threads)
    parent = os.getppid()
    local = Local(command, {}, lambda: stop.is_set() or os.getppid() != parent, _Relay(pipe))
    try:
        pipe.send(("hello", torch.cuda.device_count() if torch.cuda.is_available() else 0))
        while True:
            verb, *words = pipe.recv()
            if verb == "threads":
                torch.set_num_threads(words[0])
            elif verb == "load":
                with suppress(Exception):  # whoever needs them says what is wrong with them
                    local.data(words[0].config)
            elif verb == "look":
                try:
                    config = words[0][0].config
                    runner.device_of(config.device)
                    local.data(config)
                    pipe.send(("loaded",))
                    pipe.send(("looked", look(local, *words)))
                except UserError as error:
                    pipe.send(("looked", Look(str(error), {})))
                except Exception:  # its runs will say it, each in its folder
                    pipe.send(("looked", Look(None, {1: 0.0})))
            else:
                stack, local.hydra, until = words
                kind, line = "done", ""
                try:
                    local.train(stack, until)
                except runner.Interrupted:
                    kind = "interrupted"
                except BusyError as error:
                    kind, line = "busy", str(error)
                except UserError as error:
                    kind, line = "refused", str(error)
                pipe.send(("over", kind, line))
    except (EOFError, OSError):
        return
