"""Reads a run folder back. Whatever lies there, nothing raises.

The state of a run is derived, never stored: `result.json` present = done or failed (unreadable if it is torn or not one
of ours); otherwise running while the file `lock` is held; else pruned where `pruned.json` says so; else interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

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
#: A number is one to compute with if it is between this and its opposite.
HIGHEST = 1e100
_LARGEST = 8 << 20  # a result.json is a few kilobytes
_SIZES = ("epochs", "steps", "parameters", "peak_memory_bytes")
_COST = ("samples", "forward_passes")


class Late(Protocol):
    """What makes the rest of a record when it is asked for: the index has 10,000 of them."""

    def field(self, name: str) -> Any:
        """A field of the record.

        Raises:
            KeyError: it makes none of that name.
        """

    def number(self, split: str | None, name: str) -> float | None:
        """A figure of a split, or without one a number of `seconds`, and the field is not made."""


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

    _late: ClassVar[Late | None] = None  # of a record that the index gives, in place of path and mappings

    def __getattr__(self, name: str) -> Any:
        """What has not been made yet."""
        if self._late is None or name.startswith("_"):
            raise AttributeError(name)
        try:
            value = vars(self)[name] = self._late.field(name)
        except KeyError:
            raise AttributeError(name) from None
        return value

    @property
    def id(self) -> str:
        """The name of the folder."""
        return self.path.name

    def figure(self, name: str) -> float | None:
        """A figure by its full name, `test.error` or `test_mc.error`."""
        split, _, figure = name.partition(".")
        if self._late is not None:
            return self._late.number(split, figure)
        return self.figures.get(split, {}).get(figure)

    @property
    def duration(self) -> float | None:
        """The seconds that the run took in all."""
        return self.seconds.get("total") if self._late is None else self._late.number(None, "total")


def read_run(folder: Path) -> RunRecord:
    """Reads one run folder; never raises."""
    return read_with(folder, Shared())[0]


#: `result.json` and `record.json` as they were when they were read; None for one that is not there.
Files = tuple[os.stat_result, os.stat_result | None]


def read_with(folder: Path, shared: Shared) -> tuple[RunRecord, Files | None]:
    """One run folder, and what its record was read from where it stays true as long as those files stay the same."""
    try:
        try:
            return _finished(folder, shared)
        except FileNotFoundError:
            unfinished = _unfinished(folder)
        if unfinished.state != "running" and (folder / "result.json").exists():  # it finished just now
            return _finished(folder, shared)
    except ForeignError as error:
        return RunRecord(folder, "unreadable", f"result.json: {error}"), None
    except OSError as error:
        return RunRecord(folder, "unreadable", f"result.json: {error.strerror}"), None
    except (ValueError, RecursionError):
        return RunRecord(folder, "unreadable", "result.json: torn or not JSON"), None
    return unfinished, None


def is_done(run: Run, state: State | None = None) -> bool:
    """Whether nothing is left to do for a run that is asked for.

    It is not where the run is to be trained again, or is to keep predictions that are not there.

    Args:
        run: the run.
        state: of its folder, where that is known.
    """
    if run.config.rerun or (state or read_run(run.path).state) != "done":
        return False
    return not run.config.save_predictions or os.path.isfile(run.path / PREDICTIONS)  # noqa: PTH113 (never raises)


class ForeignError(Exception):
    """The file is there, and not what it should be."""


class Shared:
    """What many runs have in common, each once in memory."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], dict[str, Any]] = {}

    def one(self, value: dict[str, Any]) -> dict[str, Any]:
        """The first value that was given and has the same content, down to the types."""
        values = value.values()  # as keys, 1, 1.0 and True are equal, and so are 0.0 and -0.0
        key = (*value, *map(type, values), *(repr(v) if not v or type(v) in (list, dict) else v for v in values))
        return self._known.setdefault(key, value)

    def settings(self, settings: dict[str, Any], seed: int | None) -> dict[str, Any]:
        """The settings of a run; what all seeds share is there once."""
        if not has_seed(settings, seed):
            return self.one(settings)
        return self.one(settings | {"seed": None}) | {"seed": seed}


def has_seed(settings: Mapping[str, object], seed: int | None) -> bool:
    """Whether the settings name the seed of the run."""
    return seed is not None and type(settings.get("seed")) is int and settings["seed"] == seed


def content(path: str, largest: int = _LARGEST) -> tuple[bytes, os.stat_result]:
    """The bytes of a file that is a plain one, and not a pipe that would make us wait; and what it was before.

    Raises:
        ForeignError: it is no plain file, or one of more than `largest` bytes.
        OSError: it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ForeignError("not a plain file")
        if status.st_size > largest:
            raise ForeignError("too large")
        return os.read(descriptor, status.st_size + 1), status
    finally:
        os.close(descriptor)


def _finished(folder: Path, shared: Shared) -> tuple[RunRecord, Files | None]:
    """A run that has a result."""
    path = os.fspath(folder)
    text, result = content(f"{path}/result.json")
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ForeignError("not the record of a run")
    status = data.get("status")
    if status not in ("done", "failed"):
        raise ForeignError("no status")
    known, beside = True, None
    facts: dict[str, Any] = {}
    try:
        if status == "done":
            text, beside = content(f"{path}/record.json")
            facts = json.loads(text)
        else:
            beside = os.stat(f"{path}/record.json")  # noqa: PTH116
    except FileNotFoundError:
        pass
    except (OSError, ForeignError):
        known = False
    except (ValueError, RecursionError):
        pass
    record = _parse(folder, data, facts if isinstance(facts, dict) else {}, shared)
    return record, (result, beside) if known and _text(data, "study") else None


def _parse(folder: Path, data: dict[str, Any], facts: dict[str, Any], shared: Shared) -> RunRecord:
    """The record of a run with this `result.json` and, where it is done, this `record.json`."""
    selection, settings, cost = (_mapping(data, key) for key in ("selection", "settings", "cost"))
    seed = _whole(data, "seed")
    record = RunRecord(
        path=folder,
        state=data["status"],
        study=_text(data, "study") or folder.parent.name,
        seed=seed,
        group=_text(data, "group") or _group(data),
        task=_text(data, "task") or _task(_mapping(data, "test")),
        choices=shared.one({key: value for key, value in _mapping(data, "choices").items() if isinstance(value, str)}),
        rate=_number(data.get("rate")),
        rule=_text(selection, "rule"),
        epoch=_whole(selection, "epoch"),
        figures={name: _numbers(_mapping(data, name)) for name in MEASURED if name in data or name in SPLITS},
        seconds=_numbers(_mapping(data, "seconds")),
        rates={site: _numbers(value) for site, value in _mapping(data, "rates").items() if isinstance(value, dict)},
        settings=shared.settings(settings, seed),
        sizes=_numbers({key: data.get(key) for key in _SIZES} | {key: cost.get(key) for key in _COST}),
        stamp=shared.one(_stamp(facts, _text(settings, "precision"))),
    )
    if record.state == "done":
        missing = [key for key in ("dataset", "model", "strategy", "optimizer") if key not in record.choices]
        for name, there in (
            (f"choices.{missing[0] if missing else ''}", not missing),
            ("seed", record.seed is not None),
            ("task", record.task),
            ("rate", record.rate is not None),
            ("test", record.figures["test"] or isinstance(data.get("test"), dict)),
        ):
            if not there:
                raise ForeignError(f"no {name}")
    return record


def _group(result: dict[str, Any]) -> str:
    """What tells runs apart but for their seed, where a result does not say it: what it has of the config."""
    settings = {key: value for key, value in _mapping(result, "settings").items() if key != "seed"}
    told = [settings, *(result.get(key) for key in ("choices", "rate", "epochs", "steps", "parameters"))]
    return f"{zlib.crc32(json.dumps(told, sort_keys=True).encode()):08x}"


def _task(figures: dict[str, Any]) -> str:
    """What was learned, where a result does not say it: by the figures of the test set."""
    return "classification" if "error" in figures else "regression" if "rmse" in figures else ""


def _stamp(facts: dict[str, Any], precision: str) -> dict[str, str]:
    """See `RunRecord.stamp`; what `record.json` does not say is left out."""
    versions, hardware, git = (_mapping(facts, key) for key in ("versions", "hardware", "git"))
    code, device = _text(versions, "dropbench"), _text(hardware, "device").partition(":")[0]
    if commit := _text(git, "commit"):
        code = f"{code} (commit {commit[:12]}{', changed since' if git.get('dirty') else ''})".strip()
    torch = _text(versions, "torch")
    tf32 = device == "cuda" and _mapping(facts, "determinism").get("tf32")
    compute = (device, precision, torch and f"torch {torch}", "tf32" if tf32 else "")
    told = {
        "data": _text(_mapping(facts, "data"), "sha256"),
        "code": code,
        "compute": " ".join(filter(None, compute)) if device else "",
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
    return intern(value) if isinstance(value, str) else ""


def _whole(data: dict[str, Any], key: str) -> int | None:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: object) -> float | None:
    """The value if it is a finite number, and of a size that can be computed with."""
    return value if (type(value) is float or type(value) is int) and -HIGHEST < value < HIGHEST else None


def _numbers(data: dict[str, Any]) -> dict[str, float]:
    return {  # the condition of `_number`, which 10,000 times 40 calls would make slow
        intern(key): value
        for key, value in data.items()
        if (type(value) is float or type(value) is int) and -HIGHEST < value < HIGHEST
    }
