"""Removes run folders: none that is running, nothing that lies elsewhere; what is left half never reads as done."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.errors import UserError
from dropbench.runs.records import PRUNED, read_run

if TYPE_CHECKING:
    from dropbench.runs.records import RunRecord

_RESULT, _LOCK = "result.json", "lock"
#: What dropbench writes at the top of a run folder, and no other program writes two of.
_OURS = frozenset({_RESULT, _LOCK, PRUNED, "config.yaml", "record.json", "metrics.jsonl", "error.txt", ".hydra"})
_ATTEMPTS, _PAUSE = 10, 0.02  # a reader holds the lock for an instant


def obstacle(record: RunRecord, below: Path) -> str:
    """Why a run must stay, `` if it may go.

    Args:
        record: as it was read.
        below: the folder in which it was found; a link between the two leads elsewhere.
    """
    if record.state == "running":
        return "it is running"
    place = below
    for part in record.path.relative_to(below).parts:
        place /= part
        if place.is_symlink():
            return "a link leads there; remove it by its own path"
    try:
        names = {entry.name for entry in os.scandir(record.path)}
    except OSError as error:
        return f"it cannot be listed: {os.strerror(error.errno or 0).lower()}"
    # A folder of somebody's configs or notes may stand among runs, or look like one.
    if record.state not in ("done", "failed") and len(names & _OURS) < 2 and not names <= _OURS:
        return "it does not look like a run of dropbench; remove it by hand"
    return ""


def size(folder: Path) -> int:
    """The bytes of the files in a folder; links are not followed."""
    total, places = 0, [os.fspath(folder)]
    while places:
        try:
            with os.scandir(places.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        places.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:  # gone meanwhile, or closed to us
            continue
    return total


def remove(record: RunRecord) -> None:
    """Removes a run folder while its lock is held: the result first, the lock last.

    Raises:
        UserError: it is running, is no longer in the state that was read, or the disk refuses.
    """
    path = record.path.resolve()
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            lock = _hold(folder)
            try:
                # Whoever trains must hold the lock, so what is read now stays so; our own lock reads as running.
                state = read_run(path).state
                if state not in (record.state, "running"):
                    raise UserError(f"{record.path}: it is {state} by now; it stays")
                _empty(folder)
                os.rmdir(path)  # noqa: PTH106 (says which path)
            finally:
                os.close(lock)
        finally:
            os.close(folder)
    except BlockingIOError:
        raise UserError(f"{record.path}: it is running; it stays") from None
    except OSError as error:
        where = f": {error.filename}" if error.filename not in (None, os.fspath(path)) else ""
        raise UserError(f"{record.path}: {os.strerror(error.errno or 0).lower()}{where}") from error
    except RecursionError:
        raise UserError(f"{record.path}: its folders are too deep to be removed") from None


def _hold(folder: int) -> int:
    """Takes the lock of an open run folder; raises BlockingIOError while another process has it."""
    lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644, dir_fd=folder)
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt + 1 == _ATTEMPTS:
                os.close(lock)
                raise
            time.sleep(_PAUSE)
        except OSError:
            break  # a file system without locks, where nothing can train
    return lock


def _empty(folder: int) -> None:
    """Removes what is in an open folder; what links lead to stays."""
    with os.scandir(folder) as entries:
        folders = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    for name in sorted(folders, key=lambda name: (name != _RESULT, name == _LOCK)):
        if folders[name]:
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)
