"""One run folder, held by one process: `outputs/<study>/<run id>/`."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dropbench import schema
from dropbench.errors import UserError
from dropbench.runs import checkpoint
from dropbench.runs.files import disk, dump, line, lines, sync_folder, write
from dropbench.runs.records import PREDICTIONS, PRUNED

if TYPE_CHECKING:
    from io import FileIO

    from dropbench.config import Run

RESULT, METRICS, ERROR, RECORD, CONFIG, LOCK = (
    "result.json", "metrics.jsonl", "error.txt", "record.json", "config.yaml", "lock",
)  # fmt: skip
_ATTEMPTS, _PATIENCE = 50, 2


class _Plainly(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """In C, where PyYAML has it: 15 times faster; and without aliases, which `reopen` refuses to read."""

    def ignore_aliases(self, data: object) -> bool:
        return True


class BusyError(UserError):
    """Another process holds the run folder."""


def _hold(path: Path, lock: int) -> None:
    """Takes the lock of a run folder and writes who has it."""
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).split(b"\n")[0].decode(errors="replace")
            if attempt + 1 == _ATTEMPTS or (attempt >= _PATIENCE and holder):
                raise BusyError(f"run folder busy: {path} is held by process {holder or 'unknown'}") from None
            time.sleep(0.02)  # a reader holds the lock for an instant; a holder soon writes its number
    name = f"{os.getpid()}\n".encode()
    os.pwrite(lock, name, 0)
    os.ftruncate(lock, len(name))


@dataclass
class RunFolder:
    """A run folder that this process holds. The lock is the kernel's, so a kill frees it.

    Args:
        path: of the folder.
        lock: the open lock file.
        seq: number of the next metrics record.
        complaints: what was found damaged, a line each.
    """

    path: Path
    lock: FileIO
    seq: int = 0
    complaints: list[str] = field(default_factory=list)
    _metrics: int = field(default=-1, repr=False)

    @classmethod
    def take(cls, path: Path) -> RunFolder:
        """Makes the folder if it is not there, and holds it.

        Raises:
            BusyError: another process holds it.
            UserError: the disk refuses.
        """
        with disk(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b", buffering=0)
            try:
                _hold(path, lock.fileno())
            except BaseException:
                lock.close()
                raise
        return cls(path, lock)

    def start(self, run: Run, record: dict[str, Any], hydra: dict[str, str]) -> None:
        """Clears what an earlier attempt left and writes what is known before the first step."""
        with disk(self.path):
            for name in (RESULT, ERROR, PRUNED, PREDICTIONS, METRICS, checkpoint.NAME, checkpoint.PREVIOUS):
                (self.path / name).unlink(missing_ok=True)
            (self.path / ".hydra").mkdir(exist_ok=True)
        for name, text in hydra.items():
            write(self.path / ".hydra" / name, text.encode())
        write(self.path / CONFIG, _yaml(schema.plain(run.config)).encode())
        write(self.path / RECORD, (dump(record) + "\n").encode())
        self.seq = 0
        self._open()

    def resume(self, step: int | None = None) -> checkpoint.Checkpoint | None:
        """Goes back to the newest sound checkpoint, or that of `step`: what was written after it is cut.

        None where there is none.
        """
        found, complaints = checkpoint.load(self.path, step)
        self.complaints = complaints
        if found is None:
            return None
        count = found.facts.get("seq")
        kept = [record for record in lines(self.path / METRICS) if isinstance(count, int) and record["seq"] < count]
        if not isinstance(count, int) or [record["seq"] for record in kept] != list(range(count)):
            self.complaints.append(f"{self.path / METRICS} lacks records that the checkpoint counts")
            return None
        with disk(self.path):
            for name in (RESULT, ERROR, PRUNED, PREDICTIONS):  # of an attempt that failed, or was stopped
                (self.path / name).unlink(missing_ok=True)
        write(self.path / METRICS, b"".join(line(record) for record in kept))
        self.seq = len(kept)
        self._open()
        return found

    def metrics(self, record: dict[str, Any]) -> None:
        """Appends one evaluation to `metrics.jsonl`: one write, then fsync."""
        content = line({"seq": self.seq, **record})
        with disk(self.path / METRICS):
            if os.write(self._metrics, content) != len(content):
                raise OSError(errno.ENOSPC, "short write", str(self.path / METRICS))
            os.fsync(self._metrics)
        self.seq += 1

    def checkpoint(self, state: checkpoint.Checkpoint) -> None:
        """Saves the state after the records written so far."""
        checkpoint.save(self.path, replace(state, facts={**state.facts, "seq": self.seq}))

    def finish(self, result: dict[str, Any], error: str | None = None) -> None:
        """Writes `result.json`, last: its presence means done, or failed where there is an error."""
        if error is not None:
            write(self.path / ERROR, (error.rstrip() + "\n").encode())
        write(self.path / RESULT, (dump(result) + "\n").encode())

    def close(self) -> None:
        """Lets the folder go."""
        if self._metrics >= 0:
            os.close(self._metrics)
            self._metrics = -1
        self.lock.close()

    def _open(self) -> None:
        path = self.path / METRICS
        if self._metrics >= 0:
            os.close(self._metrics)
        with disk(path):
            self._metrics = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            sync_folder(self.path)


def _yaml(data: dict[str, Any]) -> str:
    text: str = yaml.dump(data, Dumper=_Plainly, sort_keys=False, allow_unicode=True)
    return text
