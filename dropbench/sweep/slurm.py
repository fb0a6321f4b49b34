"""Trains the stacks of a sweep on a Slurm cluster: a detached array job, an array task a stack.

A task that is preempted, or that has used up its time, saves, is queued again and goes on from there. What becomes of a
run stands in its folder; what waits or runs, `squeue` says. Nothing else is asked: many clusters keep no accounts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropbench.errors import UserError
from dropbench.runs.files import disk, dump, write
from dropbench.runs.records import is_done, read_run
from dropbench.sweep import manifest
from dropbench.terminal import tell

if TYPE_CHECKING:
    from types import FrameType

    from dropbench.config import Run
    from dropbench.sweep.slurm_settings import Slurm

#: In the folder of a study: what was submitted, and the logs of the tasks. Readers of runs pass over hidden folders.
FOLDER = ".slurm"
#: Most tasks of an array job: Slurm's default `MaxArraySize`.
MOST_TASKS = 1000
#: How often a task may use up its time.
MOST_TIMEOUTS = 100
#: Seconds that a task has to save before its time is over; Slurm itself is up to a minute late.
NOTICE = 90
#: Seconds after which a queue that does not answer is given up.
PATIENCE = 30


def submit(path: Path, stacks: Sequence[Sequence[Run]], settings: Slurm) -> list[str]:
    """Hands stacks to the cluster and returns at once.

    Stacks whose rates are made of the records of other runs form a second job, which waits for the first.

    Args:
        path: of the manifest of the sweep.
        stacks: of its runs; at least one.
        settings: what a task asks for.

    Returns:
        The ids of the jobs; each is recorded in `<study>/.slurm/<job id>.json`.

    Raises:
        UserError: submitit or Slurm is not installed, or Slurm refuses.
    """
    jobs: list[str] = []
    for late in (False, True):
        chosen = [stack for stack in stacks if stack[0].config.needs_record is late]
        if chosen:
            jobs.append(_submit(path.resolve(), chosen, settings, jobs))
    return jobs


def _submit(path: Path, stacks: Sequence[Sequence[Run]], settings: Slurm, after: Sequence[str]) -> str:
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError
    except ImportError:
        raise UserError("launcher=slurm: submitit is not installed; pip install 'dropbench[slurm]'") from None
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise UserError(f"launcher=slurm: there is no {command} here; a machine of the cluster has it")
    logs = path.parent / FOLDER
    with disk(logs):
        logs.mkdir(exist_ok=True)
    extensions = stacks[0][0].config.extensions
    parts = [stacks[first::MOST_TASKS] for first in range(min(len(stacks), MOST_TASKS))]
    tasks = [
        Task(str(path), tuple(tuple(run.id for run in stack) for stack in part), extensions, time.time())
        for part in parts
    ]
    executor = SlurmExecutor(logs, max_num_timeout=MOST_TIMEOUTS)
    executor.update_parameters(**_parameters(settings, path.parent.name, after))
    before = set(logs.iterdir())
    try:
        with _outside():
            jobs = executor.submit_array(tasks)
    except (FailedSubmissionError, UncompletedJobError) as error:
        for file in set(logs.iterdir()) - before:
            file.unlink()
        raise UserError(f"launcher=slurm: {_line(str(error)) or 'sbatch failed'}") from None
    job = str(jobs[0].job_id).partition("_")[0]
    record = {
        "manifest": path.name,
        "submitted": datetime.now(UTC).isoformat(timespec="seconds"),
        "tasks": [[run for stack in task.stacks for run in stack] for task in tasks],
    }
    write(logs / f"{job}.json", (dump(record) + "\n").encode())
    return job


def minutes(duration: int | str) -> int:
    """Whole minutes, rounded up, of `90`, `H:MM:SS` or `D-HH:MM:SS`."""
    days, _, clock = str(duration).rpartition("-")
    *hours, last = clock.split(":")
    if not hours:
        return int(last)
    seconds = (int(days or 0) * 24 + int(hours[0])) * 3600 + int(hours[1]) * 60 + int(last)
    return max(1, -(-seconds // 60))


def _parameters(settings: Slurm, study: str, after: Sequence[str]) -> dict[str, Any]:
    """What submitit writes into the batch script."""
    limit = minutes(settings.time)
    asked = {
        "job_name": _name(study),
        "time": limit,
        "signal_delay_s": min(NOTICE, 15 * limit),
        "cpus_per_task": settings.cpus,
        "srun_args": [f"--cpus-per-task={settings.cpus}"],  # since 22.05 srun takes one, whatever the job has
        "gpus_per_node": settings.gpus or None,
        "mem": settings.memory,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "constraint": settings.constraint,
        "array_parallelism": settings.parallel or MOST_TASKS,
        "setup": list(settings.setup) or None,
        "dependency": f"afterany:{':'.join(after)}" if after else None,
        "additional_parameters": {"requeue": True},  # where the cluster's default is not to
    }
    return {key: value for key, value in asked.items() if value is not None}


def _name(study: str) -> str:
    return f"dropbench-{study}"


@contextmanager
def _outside() -> Iterator[None]:
    """Hides that this process may be part of a job: one that is submitted would inherit what it asked for."""
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {key: value for key, value in os.environ.items() if key == "SLURM_CONF" or key.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(kept)
        yield


def _line(text: str) -> str:
    """The lines of what a program complained of, as one."""
    return " ".join(part.strip() for part in text.splitlines() if part.strip())


# ---- what a task does, on its node


@dataclass(frozen=True)
class Task:
    """One array task: trains its stacks, one after the other. submitit pickles, calls and checkpoints it.

    Args:
        manifest: path of the manifest.
        stacks: ids of the runs of each stack.
        extensions: packages that the user named.
        submitted: seconds since the epoch; what a run to be trained anew has from before does not count.
    """

    manifest: str
    stacks: tuple[tuple[str, ...], ...]
    extensions: tuple[str, ...]
    submitted: float

    def __call__(self) -> None:
        """Trains what is not done, then leaves, by way of submitit where the task is to be queued again.

        Raises:
            SystemExit: some runs failed (3), the disk refuses (2), or a signal came (128 + its number).
        """
        with _Signals() as signals:
            try:
                failed = self._train(signals.asked)
            except UserError as error:
                tell(str(error))
                sys.exit(2)
        if signals.asked():
            signals.hand_on()
        if failed:
            sys.exit(3)

    def checkpoint(self) -> Any:
        """What submitit puts into the queue: the same task, since what is done stands in the folders of the runs."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _train(self, interrupted: Callable[[], bool]) -> bool:
        """Trains what can be; returns whether some runs failed."""
        from dropbench.sweep.live import View
        from dropbench.sweep.workers import Crew, SweepReport

        sweep = manifest.load(Path(self.manifest))
        if Path(sweep.folder).is_dir():
            os.chdir(sweep.folder)
        with Crew(sweep.command, interrupted) as crew:  # its process loads torch meanwhile
            ids = {name for stack in self.stacks for name in stack}
            found, hydra = sweep.compose(sweep.composer(self.extensions), ids)
            runs = {run.id: self._once(run) for run in found}
            if ids - runs.keys():
                raise UserError(
                    f"{self.manifest}: {min(ids - runs.keys())} is not in it any more; submit the sweep again"
                )
            stacks = [[runs[name] for name in stack] for stack in self.stacks]
            free = [[run for run in stack if not _taken(run)] for stack in stacks]
            many = sum(map(len, free))
            with View(many, len(runs) - many, 1, shown=True) as view:
                report = SweepReport(view, first=found[0].config.on_failure == "stop")
                crew.size(1, 0)
                went_on = crew.train([stack for stack in free if stack], report, hydra)
                held = [run for stack, tried in zip(stacks, free, strict=True) for run in stack if run not in tried]
                if went_on:  # another process had those: it may have stopped meanwhile
                    left = [[run] for run in held if not _taken(run)]
                    view.grew(len(left))
                    crew.train(left, report, hydra)
        for name, reason in report.refusals.items():
            tell(f"refused: {name}: {reason}")
        return bool(report.failures)

    def _once(self, run: Run) -> Run:
        """The run; one to be trained anew that was begun since the task was submitted goes on instead."""
        try:
            begun = (run.path / "record.json").stat().st_mtime >= self.submitted
        except OSError:
            begun = False
        return replace(run, config=replace(run.config, rerun=False)) if begun and run.config.rerun else run


def _taken(run: Run) -> bool:
    """Whether there is nothing to do: it is done, or another process trains it."""
    state = read_run(run.path).state
    return state == "running" or is_done(run, state)


class _Signals:
    """What Slurm says while a task trains: the notice before it is stopped (USR2), and the order to stop (TERM).

    Slurm sends them to every process of a task. They are blocked here, which workers inherit, so that this process
    alone hears them and tells the workers to save; its handlers are for threads that were there before.
    """

    def __init__(self) -> None:
        from submitit.slurm.slurm import SlurmJobEnvironment

        self.notice: int = SlurmJobEnvironment._usr_sig()
        self.watched = {self.notice, int(signal.SIGTERM)}
        self.got: set[int] = set()

    def __enter__(self) -> _Signals:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self.watched)
        self._before = {number: signal.signal(number, self._caught) for number in self.watched}
        return self

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)  # what waits is caught now
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to save and stop."""
        self.got |= self.watched & signal.sigpending()
        return bool(self.got)

    def hand_on(self) -> None:
        """Leaves, once everything is saved: back into the queue, if the job is not being cancelled.

        A preemption with a time of grace begins with TERM too, and a task that leaves then is not queued again by
        Slurm; unlike that of a cancelled job, its state is still RUNNING.
        """
        submitits = self._before[self.notice]
        if callable(submitits) and (self.notice in self.got or _own_state() == "RUNNING"):
            submitits(self.notice, None)
        sys.exit(128 + min(self.got))

    def _caught(self, number: int, _: FrameType | None) -> None:
        self.got.add(number)


def _own_state() -> str:
    """The state of the task that this process is, `` where that is not known."""
    environ = os.environ
    job = environ.get("SLURM_JOB_ID", "")
    if "SLURM_ARRAY_JOB_ID" in environ:
        job = f"{environ['SLURM_ARRAY_JOB_ID']}_{environ['SLURM_ARRAY_TASK_ID']}"
    lines, _ = _squeue([job])
    return lines[0].split("|")[1] if lines else ""


# ---- what waits and what runs


@dataclass(frozen=True)
class Job:
    """One array job that was submitted.

    Args:
        id: Slurm's.
        manifest: name of the file.
        submitted: when, ISO 8601.
        tasks: ids of the runs of each task.
        states: of the tasks that the queue has, by their number: `PENDING`, `RUNNING`, ...
    """

    id: str
    manifest: str
    submitted: str
    tasks: tuple[tuple[str, ...], ...]
    states: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Queue:
    """The jobs of a study.

    Args:
        jobs: that were ever submitted, in the order of time.
        note: why it is not known what waits and what runs; or None.
    """

    jobs: tuple[Job, ...] = ()
    note: str | None = None

    @property
    def runs(self) -> dict[str, str]:
        """The state of the task of each run that the queue has, by its id."""
        found: dict[str, str] = {}
        for job in self.jobs:
            for number, state in job.states.items():
                for run in job.tasks[number]:
                    if found.get(run) != "RUNNING":
                        found[run] = state
        return found


def queued(study: Path) -> set[str]:
    """Ids of the runs of a study that wait or run on the cluster, as far as can be seen from here."""
    return set(look(study).runs)


def look(study: Path) -> Queue:
    """The jobs of a study, by their records and by one call of `squeue`; never raises."""
    jobs = sorted(_records(study / FOLDER), key=lambda job: (job.submitted, job.id))
    if not jobs:
        return Queue()
    lines, note = _squeue([job.id for job in jobs])
    states: dict[str, dict[int, str]] = {}
    for line in lines:
        name, state, title = line.split("|", 2)
        job, _, number = name.partition("_")
        ours = title == _name(study.resolve().name)  # a cluster that was set up anew counts from 1 again
        if ours and (not number or number.isdecimal()):
            states.setdefault(job, {})[int(number or 0)] = state
    known = [
        replace(job, states={n: state for n, state in states.get(job.id, {}).items() if n < len(job.tasks)})
        for job in jobs
    ]
    return Queue(tuple(known), note)


def _records(folder: Path) -> Iterator[Job]:
    """What was submitted; files that are not the record of it are passed over."""
    for file in folder.glob("*.json"):
        try:
            data = json.loads(file.read_bytes())
            tasks = tuple(tuple(map(str, task)) for task in data["tasks"])
            yield Job(file.stem, str(data["manifest"]), str(data["submitted"]), tasks)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            continue


def _squeue(jobs: Iterable[str]) -> tuple[list[str], str | None]:
    """`job_task|state|name` of the tasks of jobs that the queue has; why that is not known, or None."""
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%j", f"--jobs={','.join(jobs)}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)  # noqa: S603
    except FileNotFoundError:
        return [], "there is no squeue here: what waits or runs on the cluster is not known"
    except (OSError, subprocess.TimeoutExpired):
        return [], "squeue does not answer: what waits or runs on the cluster is not known"
    if done.returncode and "Invalid job id" not in done.stderr:  # which it says of jobs that ended long ago
        last = (done.stderr.strip().splitlines() or ["squeue failed"])[-1]
        return [], f"{last}: what waits or runs on the cluster is not known"
    return [line for line in done.stdout.splitlines() if line.count("|") >= 2], None
