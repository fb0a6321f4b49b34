"""Remembers what the runs of a folder say, in one hidden file beside them: a cache that never changes an answer.

A run counts as known only while the sizes, times and inodes of its `result.json` and `record.json` are those they had
when it was read; else it is read again. What could have changed within the grain of the clock is not remembered. Where
anything about the file is in doubt, it is as if it were not there, and a folder that cannot be written has none.

    dropbench index EDITION CRC-32 LENGTH
    {"parts": [...], "kinds": [...], "names": [...]}     LENGTH bytes of JSON: what many runs share is there once
    rows                                                 of each run: 2 x (size, mtime, ctime, inode), then its numbers
"""

from __future__ import annotations

import json
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain, repeat
from pathlib import Path
from struct import Struct, error
from typing import TYPE_CHECKING, Any

from dropbench.runs import records
from dropbench.runs.records import HIGHEST, ForeignError, RunRecord, content, has_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

NAME = ".index"
#: The file is written when so many runs were read that are not in it.
MANY = 50
#: A file that was changed so lately could change again without a sign of it: some disks count time in two seconds.
SETTLED = 2_000_000_000
_LARGEST = 128 << 20  # 10,000 runs take 4 MB
_FILES = "QqqQ" * 2  # columns that tell whether the two files are the same
_ABSENT = (0, 0, 0, 0)
_TYPES = {int: "q", float: "d", type(None): "-"}
_READ = {kind: Struct(f"<{kind}").unpack_from for kind in "Qqd"}
_WIDTH = 8  # bytes of a number
_NO_ROWS = memoryview(b"")


def _signature(status: os.stat_result | None) -> tuple[int, int, int, int]:
    """What a file changes when its content does; of a file that is not there, zeros."""
    if status is None:
        return _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True, eq=False)
class _Layout:
    """How the rows of some runs are packed.

    Args:
        names: of the numbers: of `figures` and `rates` those of each part, of `seconds` and `sizes`.
        types: of seed, rate, epoch and the numbers in the order of the names: `q`, `d`, or `-` where there is none.
    """

    names: Mapping[str, Any]
    types: str

    @cached_property
    def row(self) -> Struct:
        """Of the whole row."""
        return Struct(f"<{_FILES}{self.types.replace('-', '')}")

    @cached_property
    def head(self) -> Struct:
        """Of its start, which is looked at in every run: the files, then seed, rate and epoch."""
        return Struct(f"<{_FILES}{self.types[:3].replace('-', '')}")

    @cached_property
    def first(self) -> list[int]:
        """Where in a row seed, rate and epoch stand; 0: nowhere."""
        there = [kind != "-" for kind in self.types[:3]]
        return [len(_FILES) + sum(there[:place]) if has else 0 for place, has in enumerate(there)]

    @cached_property
    def groups(self) -> dict[str, list[tuple[str, Sequence[str], slice]]]:
        """Where in a row the numbers of each field stand: part, names, places."""
        at = len(_FILES) + sum(kind != "-" for kind in self.types[:3])
        groups: dict[str, list[tuple[str, Sequence[str], slice]]] = {"figures": [], "rates": []}
        for field, part, names in _parts(self.names):
            groups.setdefault(field, []).append((part, names, slice(at, at + len(names))))
            at += len(names)
        return groups

    @cached_property
    def numbers(self) -> dict[tuple[str | None, str], tuple[Callable[[memoryview, int], tuple[Any, ...]], int]]:
        """What reads a figure (by split and name) or a number of seconds (by None and name), and from which byte on."""
        types = _FILES + self.types.replace("-", "")
        return {
            (part or None, name): (_READ[types[place]], _WIDTH * place)
            for field in ("figures", "seconds")
            for part, names, at in self.groups[field]
            for place, name in enumerate(names, at.start)
        }


@dataclass(frozen=True, eq=False)
class _Kind:
    """What runs have in common whose records differ in nothing but the seed, and numbers.

    Args:
        about: `state`, `study`, `group`, `task`, `rule`.
        choices: see `RunRecord`.
        stamp: see `RunRecord`.
        settings: as of the runs, None in place of a seed that is `own`.
        own: whether the settings name the seed of the run.
        layout: of the numbers.
    """

    about: Sequence[str]
    choices: Mapping[str, str]
    stamp: Mapping[str, str]
    settings: dict[str, Any]
    own: bool
    layout: _Layout

    @cached_property
    def _common(self) -> dict[str, Any]:
        """The attributes of the record of a run, with those that are its own left empty."""
        fields = dict(zip(("state", "study", "group", "task", "rule"), self.about, strict=True))
        lacking = dict.fromkeys(("seed", "rate", "epoch", "_late"))
        return fields | {"reason": "", "choices": self.choices, "stamp": self.stamp} | lacking

    def record(self, run: _Run, head: tuple[Any, ...]) -> RunRecord:
        """The record of a run with this start of its row; path and mappings are made if they are asked for: few are."""
        seed, rate, epoch = self.layout.first
        # Its __init__ sets a frozen field at a time, which takes as long as the rest.
        record, fields = object.__new__(RunRecord), self._common.copy()
        fields["seed"] = head[seed] if seed else None
        fields["rate"] = head[rate] if rate else None
        fields["epoch"] = head[epoch] if epoch else None
        fields["_late"] = run
        object.__setattr__(record, "__dict__", fields)
        return record


class _Run:
    """The rest of a record, see `records.Late`; what is no finite number is left out, as `records` does.

    Args:
        kind: of the run.
        path: of its folder.
        rows: of all runs.
        at: where its own begins.
    """

    __slots__ = ("at", "kind", "path", "rows")

    def __init__(self, kind: _Kind, path: str, rows: memoryview, at: int) -> None:
        self.kind, self.path, self.rows, self.at = kind, path, rows, at

    def field(self, name: str) -> Any:
        """See `records.Late`."""
        if name == "path":
            return Path(self.path)
        kind, layout = self.kind, self.kind.layout
        row = layout.row.unpack_from(self.rows, self.at)
        if name == "settings":
            return kind.settings | {"seed": row[layout.first[0]]} if kind.own else kind.settings
        parts = {
            part: {
                name: value
                for name, value in zip(names, row[at])  # noqa: B905 - as long; it is hot
                if -HIGHEST < value < HIGHEST
            }
            for part, names, at in layout.groups[name]
        }
        return parts if name in ("figures", "rates") else parts[""]

    def number(self, split: str | None, name: str) -> float | None:
        """See `records.Late`."""
        if (found := self.kind.layout.numbers.get((split, name))) is None:
            return None
        read, place = found
        value: float = read(self.rows, self.at + place)[0]
        return value if -HIGHEST < value < HIGHEST else None


class Index:
    """The index of one folder that has runs in it.

    Args:
        folder: in which the runs lie.
        device: on which it lies.
        there: whether there is a file to look into.
    """

    def __init__(self, folder: str, device: int, there: bool) -> None:
        self.folder, self.device = Path(folder), device
        self._known, self._rows = _load(f"{folder}/{NAME}") if there else ({}, _NO_ROWS)
        self._kept: list[str] = []
        self._new: list[tuple[str, _Kind, bytes]] = []
        self._kinds: dict[tuple[object, ...], _Kind] = {}

    def get(self, entry: os.DirEntry[str]) -> tuple[tuple[int, int], RunRecord] | None:
        """Device and inode of a run folder, and its record; None if it is not known, or no longer what it was."""
        if (found := self._known.get(entry.name)) is None:
            return None
        kind, at = found
        head = kind.layout.head.unpack_from(self._rows, at)
        path = entry.path
        try:
            result = os.stat(f"{path}/result.json")  # noqa: PTH116 - 20,000 Paths would take time
            if _signature(result) != head[:4]:
                return None
            try:
                beside = os.stat(f"{path}/record.json")  # noqa: PTH116
            except FileNotFoundError:
                beside = None
            if _signature(beside) != head[4:8]:
                return None
            # The listing gives the inode unless something is mounted there, or a link leads away.
            if result.st_dev == self.device and not entry.is_symlink():
                identity = (result.st_dev, entry.inode())
            else:
                folder = os.stat(path)  # noqa: PTH116
                identity = (folder.st_dev, folder.st_ino)
        except (OSError, ValueError):
            return None
        record = kind.record(_Run(kind, path, self._rows, at), head)
        if record.rate is not None and not -HIGHEST < record.rate < HIGHEST:
            return None
        self._kept.append(entry.name)
        return identity, record

    def put(self, record: RunRecord, result: os.stat_result, beside: os.stat_result | None, now: int) -> None:
        """Remembers a run that was read.

        Args:
            record: of a run that is done or failed, and says of which study it is.
            result: its `result.json` before it was read.
            beside: its `record.json` likewise; None where there is none.
            now: ns; when the reading began, or before.
        """
        files = (*_signature(result), *_signature(beside))
        if max(files[1], files[2], files[5], files[6]) > now - SETTLED:
            return
        own = has_seed(record.settings, record.seed)
        groups = (*record.figures.values(), *record.rates.values(), record.seconds, record.sizes)
        numbers = [*chain.from_iterable(group.values() for group in groups)]
        first = (record.seed, record.rate, record.epoch)
        types = "".join([_TYPES[type(number)] for number in (*first, *numbers)])
        about = (record.state, record.study, record.group, record.task, record.rule)
        settings = {**record.settings, "seed": None} if own else dict(record.settings)
        # Where these are the same, so is all that the kind holds: values in common are there once, see `records`.
        shared = (id(record.choices), id(record.stamp), *settings, *map(id, settings.values()))
        names = (*record.figures, *record.rates, *map(tuple, groups))
        key = (about, types, own, len(record.figures), names, shared)
        if (kind := self._kinds.get(key)) is None:
            layout = {
                "figures": {split: [*figures] for split, figures in record.figures.items()},
                "rates": {site: [*rates] for site, rates in record.rates.items()},
                "seconds": [*record.seconds],
                "sizes": [*record.sizes],
            }
            # It holds what it was found by, lest another value come to have the id.
            kind = _Kind(about, record.choices, record.stamp, settings, own, _Layout(layout, types))
            self._kinds[key] = kind
        with suppress(error):  # an integer too large for a row
            packed = kind.layout.row.pack(*files, *(number for number in first if number is not None), *numbers)
            self._new.append((record.path.name, kind, packed))

    def save(self) -> None:
        """Writes the file if that is worth it; where it cannot be written there is none."""
        if len(self._new) < MANY or (edition := _edition()) is None:
            return
        with suppress(ValueError, RecursionError):  # settings nested deeper than JSON is written
            text = _encoded([*self._remembered(), *self._new], edition)
            temporary = self.folder / f"{NAME}.{os.getpid()}"
            with suppress(OSError):
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
                try:
                    with os.fdopen(descriptor, "wb") as file:
                        file.write(text)
                    temporary.replace(self.folder / NAME)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise

    def _remembered(self) -> Iterator[tuple[str, _Kind, bytes]]:
        """Of the runs that were known and are as they were: name, kind and row."""
        for name in self._kept:
            kind, at = self._known[name]
            yield name, kind, bytes(self._rows[at : at + kind.layout.row.size])


def _parts(layout: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[str]]]:
    """The groups of numbers in a row: field of the record, part of it, names."""
    for field in ("figures", "rates"):
        for part, names in layout[field].items():
            yield field, part, names
    for field in ("seconds", "sizes"):
        yield field, "", layout[field]


@cache
def _edition() -> str | None:
    """Which code read the runs: by other code, they might read otherwise."""
    try:
        return f"{zlib.crc32(Path(__file__).read_bytes() + Path(records.__file__).read_bytes()):08x}"
    except OSError:  # not from files
        return None


def _encoded(runs: Sequence[tuple[str, _Kind, bytes]], edition: str) -> bytes:
    """The content of an index.

    Raises:
        ValueError, RecursionError: a setting cannot be written as JSON.
    """
    members: dict[_Kind, list[tuple[str, bytes]]] = {}
    for name, kind, packed in runs:
        members.setdefault(kind, []).append((name, packed))
    parts: dict[str, int] = {}

    def part(value: object) -> int:
        return parts.setdefault(json.dumps(value), len(parts))

    kinds = [
        [
            part(each)
            for each in (
                kind.about,
                kind.choices,
                kind.stamp,
                [*kind.settings],
                [*kind.settings.values()],
                kind.own,
                kind.layout.names,
                kind.layout.types,
            )
        ]
        for kind in members
    ]
    names = [[name for name, _ in rows] for rows in members.values()]
    header = f'{{"parts": [{", ".join(parts)}], "kinds": {json.dumps(kinds)}, "names": {json.dumps(names)}}}'.encode()
    body = b"".join([header, *(packed for rows in members.values() for _, packed in rows)])
    return f"dropbench index {edition} {zlib.crc32(body):08x} {len(header)}\n".encode() + body


def _load(path: str) -> tuple[dict[str, tuple[_Kind, int]], memoryview]:
    """What an index says; none where anything is in doubt.

    Returns:
        Of each run, by its name, what it shares and where its row begins, and the rows.
    """
    try:
        text = content(path, _LARGEST)[0]
        end = text.index(b"\n")
        *words, checksum, told = text[:end].decode("ascii").split(" ")
        body, length = memoryview(text)[end + 1 :], int(told)
        if words != ["dropbench", "index", _edition()] or checksum != f"{zlib.crc32(body):08x}":
            return {}, _NO_ROWS
        return _decoded(json.loads(bytes(body[:length])), len(body[length:])), body[length:]
    except (OSError, ForeignError, ValueError, TypeError, LookupError, AttributeError, RecursionError, error):
        return {}, _NO_ROWS


def _decoded(header: dict[str, Any], size: int) -> dict[str, tuple[_Kind, int]]:
    """See `_load`; `size` is that of all rows.

    Raises:
        ValueError, TypeError, LookupError, AttributeError, struct.error: this is no index.
    """
    parts = header["parts"]
    layouts: dict[tuple[int, ...], _Layout] = {}
    found: dict[str, tuple[_Kind, int]] = {}
    at = 0
    for numbers, names in zip(header["kinds"], header["names"], strict=True):
        about, choices, stamp, keys, values, own, columns, types = (parts[number] for number in numbers)
        _check(about, choices, stamp, keys, own, columns, types, names)
        layout = layouts.setdefault(tuple(numbers[-2:]), _Layout(columns, types))
        kind = _Kind(about, choices, stamp, dict(zip(keys, values, strict=True)), own, layout)
        end = at + layout.row.size * len(names)
        found.update(zip(names, zip(repeat(kind), range(at, end, layout.row.size)), strict=True))
        at = end
    if at != size:
        raise ValueError("rows are missing or left over")
    return found


def _check(about: Any, choices: Any, stamp: Any, keys: Any, own: Any, layout: Any, types: Any, names: Any) -> None:
    """That a kind is one.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is none.
    """
    state, *_ = about
    texts = [*about, *choices.values(), *stamp.values(), *keys, *names]
    count = 3
    for _, _, columns in _parts(layout):
        texts += columns
        count += len(columns)
    if (
        len(about) != 5
        or state not in ("done", "failed")
        or {*map(type, texts)} != {str}
        or not isinstance(own, bool)
        or (own and (types[0] != "q" or "seed" not in keys))
        or len(types) != count
        or not {*types[:1]} <= {*"q-"}
        or not {*types[1:2]} <= {*"qd-"}
        or not {*types[2:3]} <= {*"q-"}
        or not {*types[3:]} <= {*"qd"}
    ):
        raise ValueError("no kind of runs")
