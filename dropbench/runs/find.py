"""Finds the run folders under some paths, and reads them; every run is accounted for."""

from __future__ import annotations

import gc
import os
import time
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dropbench.errors import UserError
from dropbench.runs.index import NAME, Index
from dropbench.runs.records import Shared, read_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dropbench.runs.records import RunRecord

_MARKS = frozenset({"result.json", "config.yaml", "lock"})  # one of them makes a folder a run folder
_DEPTH = 2  # root / study / run


def read(paths: Iterable[str | Path] = ("outputs",), index: bool = True) -> list[RunRecord]:
    """Reads all runs under the paths, each once, in the order of their names.

    Args:
        paths: see `folders`.
        index: whether to use, and keep up, what earlier readings left beside the runs (see `runs.index`).

    Raises:
        UserError: there is no run under one of the paths.
    """
    collecting = gc.isenabled()
    gc.disable()  # there is no garbage here, and to look for it among 10,000 records takes time
    try:
        return _read_all(paths, index)
    finally:
        if collecting:
            gc.enable()


def _read_all(paths: Iterable[str | Path], index: bool) -> list[RunRecord]:
    now = time.time_ns()
    shared = Shared()
    records = []
    indexes: dict[Index, None] = {}
    for run in _found(paths, index):
        record = run.record
        if record is None:
            record, files = read_with(Path(run.path), shared)
            if files is not None and run.listed is not None:
                run.listed.put(record, *files, now)
                indexes.setdefault(run.listed)
        records.append(record)
    for each in indexes:
        each.save()
    return records


def folders(paths: Iterable[str | Path] = ("outputs",)) -> list[Path]:
    """The run folders under the paths; each path is a run folder, a study, or a folder of studies.

    Raises:
        UserError: there is none under one of the paths.
    """
    return [Path(run.path) for run in _found(paths, index=False)]


class _Found(NamedTuple):
    """A run folder.

    Args:
        identity: device and inode.
        path: the folder.
        listed: the index of the folder in which it lies, if that is used.
        record: what that knows of it.
    """

    identity: tuple[int, int]
    path: str
    listed: Index | None = None
    record: RunRecord | None = None


def _found(paths: Iterable[str | Path], index: bool) -> Iterable[_Found]:
    """The run folders under the paths; raises as `folders` does."""
    found: dict[tuple[int, int], _Found] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(
                f"{path}: there is no such folder" if not path.exists() else f"{path}: this is not a folder"
            )
        runs, _ = _walk(os.fspath(path), _DEPTH, set(), index)
        if not runs:
            raise UserError(f"{path}: there is no run folder in it")
        for run in runs:
            found.setdefault(run.identity, run)
    return found.values()


def _walk(folder: str, depth: int, seen: set[tuple[int, int]], index: bool) -> tuple[list[_Found], bool]:
    """The run folders in `folder`, and whether it is one itself. Links are followed, each folder is entered once."""
    identity = _identity(folder)
    if identity in seen:
        return [], False
    seen.add(identity)
    try:
        with os.scandir(folder) as entries:
            inside = list(entries)
    except PermissionError:
        return [_Found(identity, folder)], False  # what cannot be listed is counted, as unreadable
    except OSError:
        return [], False  # a loop of links, or gone meanwhile
    names = {entry.name for entry in inside}
    if not _MARKS.isdisjoint(names):
        return [_Found(identity, folder)], True
    found: list[_Found] = []
    if depth:
        bare: list[_Found] = []
        runs_here = False
        known = Index(folder, identity[0], NAME in names) if index else None
        inside.sort(key=attrgetter("name"))
        inside.sort(key=os.DirEntry.is_symlink)  # a run goes by its own name before the names of links to it
        for entry in inside:
            if entry.name.startswith(".") or not _is_folder(entry):
                continue
            inner: list[_Found] = []
            is_run = False
            if known is None or (hit := known.get(entry)) is None:
                inner, is_run = _walk(entry.path, depth - 1, seen, index)
                if is_run:
                    inner = [run._replace(listed=known) for run in inner]
            elif hit[0] not in seen:
                seen.add(hit[0])
                found.append(_Found(hit[0], entry.path, known, hit[1]))
                runs_here = True
                continue
            found += inner
            runs_here |= is_run
            if not inner and not entry.is_symlink():
                bare.append(_Found(_identity(entry.path), entry.path))
        if runs_here:  # a study: what lies beside the runs was to be a run
            found = sorted(found + bare, key=attrgetter("path"))
    return found, False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path for each of 10,000 takes time
    except (OSError, ValueError):
        return (-1, hash(path))
    return (status.st_dev, status.st_ino)
