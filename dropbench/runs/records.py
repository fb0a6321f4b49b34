"""Reads run folders back. Whatever lies there, nothing raises and every run is accounted for.

The state of a run is derived, never stored: `result.json` present = done or failed (unreadable if it is torn or not one
of ours); otherwise running while the file `lock` is held; else pruned where `pruned.json` says so; else interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dropbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dropbench.config import Run

State = Literal["done", "failed", "pruned", "running", "interrupted", "unreadable"]
STATES: tuple[State, ...] = ("done", "failed", "pruned", "running", "interrupted", "unreadable")
#: Stands in the folder of a run that a sweep with `prune` stopped.
PRUNED = "pruned.json"
#: Stands in the folder of a run with `save_predictions=true`.
PREDICTIONS = "predictions.safetensors"
SPLITS = ("train", "validation", "test")
#: What is measured of a run: the splits, and where it was asked for the held-out ones again, by the mean of passes with
#: noise (`mc`) and after the least of the net was cut (`pruned`).
MEASURED = (*SPLITS, "validation_mc", "test_mc", "validation_pruned", "test_pruned")
_MARKS = frozenset({"result.json", "config.yaml", "lock"})  # one of them makes a folder a run folder
_DEPTH = 2  # root / study / run
_LARGEST = 8 << 20  # a result.json is a few kilobytes


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run. Only a run that is `done` has every field.

    Args:
        path: the run folder.
        state: see the module.
        reason: why it is unreadable.
        study: what it belongs to.
        seed: of the run.
        group: a hash of everything in the config but the seed: runs of one group differ by seed alone.
        task: `classification` or `regression`.
        choices: the names of `dataset`, `model`, `strategy` and `optimizer`.
        rate: the highest that the strategy reaches.
        rule: that selected the epoch.
        epoch: that was selected.
        figures: of what is `MEASURED`, finite ones only: `figures["test"]["error"]`; beside the splits those that
            are there.
        seconds: `total`, `train`.
        rates: of each site, `asked` and `realised`.
        settings: the whole config that gives the run its meaning, by dotted key.
        sizes: `epochs`, `steps`, `parameters`, `peak_memory_bytes`, `samples`, `forward_passes`.
        stamp: what it was made from and with, as far as it is recorded: `data` (their hash), `code` (version, commit),
            `compute` (kind of device, precision, version of torch). Runs are paired only where these are the same.
    """

    path: Path
    state: State
    reason: str = ""
    study: str = ""
    seed: int | None = None
    group: str = ""
    task: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    rate: float | None = None
    rule: str = ""
    epoch: int | None = None
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    rates: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    stamp: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.path.name

    def figure(self, name: str) -> float | None:
        """A figure by its full name, `test.error` or `test_mc.error`."""
        split, _, figure = name.partition(".")
        return self.figures.get(split, {}).get(figure)


def read(paths: Iterable[str | Path] = ("outputs",)) -> list[RunRecord]:
    """Reads all runs under the paths, each once, in the order of their names.

    Raises:
        UserError: there is no run under one of the paths.
    """
    return [read_run(folder) for folder in folders(paths)]


def folders(paths: Iterable[str | Path] = ("outputs",)) -> list[Path]:
    """The run folders under the paths; each path is a run folder, a study, or a folder of studies.

    Raises:
        UserError: there is none under one of the paths.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(
                f"{path}: there is no such folder" if not path.exists() else f"{path}: this is not a folder"
            )
        runs, _ = _walk(os.fspath(path), _DEPTH, set())
        if not runs:
            raise UserError(f"{path}: there is no run folder in it")
        for identity, folder in runs:
            found.setdefault(identity, Path(folder))
    return list(found.values())


_Found = list[tuple[tuple[int, int], str]]


def _walk(folder: str, depth: int, seen: set[tuple[int, int]]) -> tuple[_Found, bool]:
    """The run folders in `folder`, and whether it is one itself. Links are followed, each folder is entered once."""
    identity = _identity(folder)
    if identity in seen:
        return [], False
    seen.add(identity)
    try:
        with os.scandir(folder) as entries:
            content = list(entries)
    except PermissionError:
        return [(identity, folder)], False  # what cannot be listed is counted, as unreadable
    except OSError:
        return [], False  # a loop of links, or gone meanwhile
    if not _MARKS.isdisjoint(entry.name for entry in content):
        return [(identity, folder)], True
    found: _Found = []
    if depth:
        bare: _Found = []
        runs_here = False
        # A run goes by its own name before the names of links to it.
        for entry in sorted(content, key=lambda entry: (entry.is_symlink(), entry.name)):
            if entry.name.startswith(".") or not _is_folder(entry):
                continue
            inner, is_run = _walk(entry.path, depth - 1, seen)
            found += inner
            runs_here |= is_run
            if not inner and not entry.is_symlink():
                bare.append((_identity(entry.path), entry.path))
        if runs_here:  # a study: what lies beside the runs was to be a run
            found = sorted(found + bare, key=lambda run: run[1])
    return found, False


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError:
        return (-1, hash(path))
    return (status.st_dev, status.st_ino)


def read_run(folder: Path) -> RunRecord:
    """Reads one run folder; never raises."""
    try:
        try:
            return _parse(folder, json.loads(_content(folder / "result.json")))
        except FileNotFoundError:
            unfinished = _unfinished(folder)
        if unfinished.state != "running" and (folder / "result.json").exists():  # it finished just now
            return _parse(folder, json.loads(_content(folder / "result.json")))
    except _ForeignError as error:
        return RunRecord(folder, "unreadable", f"result.json: {error}")
    except OSError as error:
        return RunRecord(folder, "unreadable", f"result.json: {error.strerror}")
    except (ValueError, RecursionError):
        return RunRecord(folder, "unreadable", "result.json: torn or not JSON")
    return unfinished


def is_done(run: Run, state: State | None = None) -> bool:
    """Whether nothing is left to do for a run that is asked for.

    It is not where the run is to be trained again, or is to keep predictions that are not there.

    Args:
        run: the run.
        state: of its folder, where that is known.
    """
    if run.config.rerun or (state or read_run(run.path).state) != "done":
        return False
    return not run.config.save_predictions or (run.path / PREDICTIONS).exists()


class _ForeignError(Exception):
    """The file is JSON, and not the record of a run."""


def _content(path: Path) -> bytes:
    """The bytes of a file that is a plain one, and not a pipe that would make us wait."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _ForeignError("not a plain file")
        if status.st_size > _LARGEST:
            raise _ForeignError("too large")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_LARGEST)
    finally:
        os.close(descriptor)


def _parse(folder: Path, data: object) -> RunRecord:
    if not isinstance(data, dict):
        raise _ForeignError("not the record of a run")
    status = data.get("status")
    if status not in ("done", "failed"):
        raise _ForeignError("no status")
    selection = _mapping(data, "selection")
    record = RunRecord(
        path=folder,
        state=status,
        study=_text(data, "study") or folder.parent.name,
        seed=_whole(data, "seed"),
        group=_text(data, "group"),
        task=_text(data, "task"),
        choices={key: value for key, value in _mapping(data, "choices").items() if isinstance(value, str)},
        rate=_number(data.get("rate")),
        rule=_text(selection, "rule"),
        epoch=_whole(selection, "epoch"),
        figures={name: _numbers(_mapping(data, name)) for name in MEASURED if name in data or name in SPLITS},
        seconds=_numbers(_mapping(data, "seconds")),
        rates={site: _numbers(value) for site, value in _mapping(data, "rates").items() if isinstance(value, dict)},
        settings=_mapping(data, "settings"),
        sizes=_numbers({key: data.get(key) for key in ("epochs", "steps", "parameters", "peak_memory_bytes")})
        | _numbers(_mapping(data, "cost")),
        stamp=_stamp(folder, data) if status == "done" else {},
    )
    if status == "done":
        missing = [key for key in ("dataset", "model", "strategy", "optimizer") if key not in record.choices]
        for name, there in (
            (f"choices.{missing[0] if missing else ''}", not missing),
            ("seed", record.seed is not None),
            ("group", record.group),
            ("task", record.task),
            ("rate", record.rate is not None),
            ("test", record.figures["test"] or isinstance(data.get("test"), dict)),
        ):
            if not there:
                raise _ForeignError(f"no {name}")
    return record


def _stamp(folder: Path, result: dict[str, Any]) -> dict[str, str]:
    """See `RunRecord.stamp`; what `record.json` does not say is left out."""
    try:
        record = json.loads(_content(folder / "record.json"))
    except (OSError, ValueError, RecursionError, _ForeignError):
        return {}
    if not isinstance(record, dict):
        return {}
    versions, hardware, git = (_mapping(record, key) for key in ("versions", "hardware", "git"))
    code = _text(versions, "dropbench")
    if commit := _text(git, "commit"):
        code += f" (commit {commit[:12]}{', changed since' if git.get('dirty') else ''})"
    device = _text(hardware, "device").partition(":")[0]
    words = [device, _text(_mapping(result, "settings"), "precision")]
    words += [f"torch {torch}"] if (torch := _text(versions, "torch")) else []
    words += ["tf32"] if device == "cuda" and _mapping(record, "determinism").get("tf32") else []
    told = {
        "data": _text(_mapping(record, "data"), "sha256"),
        "code": code,
        "compute": " ".join(word for word in words if word) if device else "",
    }
    return {aspect: value for aspect, value in told.items() if value}


def _unfinished(folder: Path) -> RunRecord:
    """A run that has no result yet."""
    if _held(folder / "lock"):
        return RunRecord(folder, "running", study=folder.parent.name)
    if (folder / PRUNED).exists():
        return RunRecord(folder, "pruned", study=folder.parent.name)
    if (folder / "config.yaml").exists() or (folder / "lock").exists():
        return RunRecord(folder, "interrupted", study=folder.parent.name)
    return RunRecord(folder, "unreadable", "neither result.json nor config.yaml nor lock", study=folder.parent.name)


def _held(lock: Path) -> bool:
    """Whether a process holds the lock of a run; asked for the blink of an eye, without waiting."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(descriptor)  # which gives the lock back
    return False


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _text(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _whole(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    """The value if it is a finite number, and of a size that can be computed with."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100 else None


def _numbers(data: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in data.items() if _number(value) is not None}
