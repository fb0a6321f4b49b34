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
from functools import cache, cached_property, partial
from itertools import chain
from math import hypot
from pathlib import Path
from struct import Struct, error
from typing import TYPE_CHECKING, Any

from dropbench.runs import records
from dropbench.runs.records import ForeignError, RunRecord, content, has_seed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NAME = ".index"
#: The file is written when so many runs were read that are not in it.
MANY = 50
#: A file that was changed so lately could change again without a sign of it: some disks count time in two seconds.
SETTLED = 2_000_000_000
_LARGEST = 128 << 20  # 10,000 runs take 4 MB
_FILES = 8  # columns that tell whether the two files are the same
_ABSENT = (0, 0, 0, 0)


def _signature(status: os.stat_result | None) -> tuple[int, int, int, int]:
    """What a file changes when its content does; of a file that is not there, zeros."""
    if status is None:
        return _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


@dataclass(frozen=True, eq=False)
class _Kind:
    """What runs have in common whose records differ in nothing but the seed, and numbers.

    Args:
        about: `state`, `study`, `group`, `task`, `rule`.
        choices: see `RunRecord`.
        stamp: see `RunRecord`.
        settings: as of the runs, None in place of a seed that is `own`.
        own: whether the settings name the seed of the run.
        layout: the names of the numbers: of `figures` and `rates` those of each part, of `seconds` and `sizes`.
        types: of seed, rate, epoch and the numbers in the order of the layout: `q`, `d`, or `-` where there is none.
    """

    about: Sequence[str]
    choices: Mapping[str, str]
    stamp: Mapping[str, str]
    settings: dict[str, Any]
    own: bool
    layout: Mapping[str, Any]
    types: str

    @cached_property
    def row(self) -> Struct:
        """How the row of a run is packed."""
        return Struct(f"<{'QqqQ' * 2}{self.types.replace('-', '')}")

    @cached_property
    def _places(self) -> tuple[list[int], dict[str, list[tuple[str, Sequence[str], slice]]]]:
        """Where in a row seed, rate and epoch stand (0: nowhere), and each group of numbers."""
        at = _FILES
        first = []
        for kind in self.types[:3]:
            first.append(at if kind != "-" else 0)
            at += kind != "-"
        places: dict[str, list[tuple[str, Sequence[str], slice]]] = {"figures": [], "rates": []}
        for field, part, names in _parts(self.layout):
            places.setdefault(field, []).append((part, names, slice(at, at + len(names))))
            at += len(names)
        return first, places

    @cached_property
    def _common(self) -> dict[str, Any]:
        """The fields of the record that all runs share."""
        fields = dict(zip(("state", "study", "group", "task", "rule"), self.about, strict=True))
        return fields | {"reason": "", "choices": self.choices, "stamp": self.stamp}

    def record(self, path: str, row: tuple[Any, ...]) -> RunRecord:
        """The record of a run in this row. Path and mappings are made when they are asked for: few of 10,000 are."""
        seed, rate, epoch = self._places[0]
        # Its __init__ sets a frozen field at a time, which takes as long as the rest.
        record = object.__new__(RunRecord)
        vars(record).update(
            self._common,
            seed=row[seed] if seed else None,
            rate=row[rate] if rate else None,
            epoch=row[epoch] if epoch else None,
            _late=partial(self._late, path, row),
        )
        return record

    def _late(self, path: str, row: tuple[Any, ...], field: str) -> Path | Mapping[str, Any]:
        """The path or a mapping in the record of a run."""
        if field == "path":
            return Path(path)
        if field == "settings":
            return self.settings | {"seed": row[self._places[0][0]]} if self.own else self.settings
        parts = {
            part: dict(zip(names, row[at]))  # noqa: B905 - as long; it is hot
            for part, names, at in self._places[1][field]
        }
        return parts if field in ("figures", "rates") else parts[""]


class Index:
    """The index of one folder that has runs in it.

    Args:
        folder: in which the runs lie.
        device: on which it lies.
        there: whether there is a file to look into.
    """

    def __init__(self, folder: str, device: int, there: bool) -> None:
        self.folder, self.device = Path(folder), device
        self._known = _load(f"{folder}/{NAME}") if there else {}
        self._kept: list[tuple[str, _Kind, bytes]] = []
        self._kinds: dict[tuple[object, ...], _Kind] = {}
        self._new = 0

    def get(self, entry: os.DirEntry[str]) -> tuple[tuple[int, int], RunRecord] | None:
        """Device and inode of a run folder, and its record; None if it is not known, or no longer what it was."""
        if (found := self._known.get(entry.name)) is None:
            return None
        kind, packed = found
        row = kind.row.unpack(packed)
        try:
            result = os.stat(f"{entry.path}/result.json")  # noqa: PTH116 - 20,000 Paths would take time
            if _signature(result) != row[:4]:
                return None
            try:
                beside = os.stat(f"{entry.path}/record.json")  # noqa: PTH116
            except FileNotFoundError:
                beside = None
            if _signature(beside) != row[4:_FILES]:
                return None
            # The listing gives the inode unless something is mounted there, or a link leads away.
            if result.st_dev == self.device and not entry.is_symlink():
                identity = (result.st_dev, entry.inode())
            else:
                folder = os.stat(entry.path)  # noqa: PTH116
                identity = (folder.st_dev, folder.st_ino)
        except (OSError, ValueError):
            return None
        if not hypot(*row) < 1e100:  # every number is finite, and one to compute with
            return None
        self._kept.append((entry.name, kind, packed))
        return identity, kind.record(entry.path, row)

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
            kind = self._kinds[key] = _Kind(about, record.choices, record.stamp, settings, own, layout, types)
        with suppress(error):  # an integer too large for a row
            packed = kind.row.pack(*files, *(number for number in first if number is not None), *numbers)
            self._kept.append((record.path.name, kind, packed))
            self._new += 1

    def save(self) -> None:
        """Writes the file if that is worth it; where it cannot be written there is none."""
        if self._new < MANY or (edition := _edition()) is None:
            return
        with suppress(ValueError, RecursionError):  # settings nested deeper than JSON is written
            text = _encoded(self._kept, edition)
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


_TYPES = {int: "q", float: "d", type(None): "-"}


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
                kind.layout,
                kind.types,
            )
        ]
        for kind in members
    ]
    names = [[name for name, _ in rows] for rows in members.values()]
    header = f'{{"parts": [{", ".join(parts)}], "kinds": {json.dumps(kinds)}, "names": {json.dumps(names)}}}'.encode()
    body = b"".join([header, *(packed for rows in members.values() for _, packed in rows)])
    return f"dropbench index {edition} {zlib.crc32(body):08x} {len(header)}\n".encode() + body


def _load(path: str) -> dict[str, tuple[_Kind, bytes]]:
    """The runs in an index by their names: what they share, and a row; none where anything is in doubt."""
    try:
        first, _, body = content(path, _LARGEST)[0].partition(b"\n")
        *words, checksum, length = first.decode("ascii").split(" ")
        if words != ["dropbench", "index", _edition()] or checksum != f"{zlib.crc32(body):08x}":
            return {}
        return _decoded(json.loads(body[: int(length)]), body[int(length) :])
    except (OSError, ForeignError, ValueError, TypeError, LookupError, AttributeError, RecursionError, error):
        return {}


def _decoded(header: dict[str, Any], rows: bytes) -> dict[str, tuple[_Kind, bytes]]:
    """See `_load`.

    Raises:
        ValueError, TypeError, LookupError, AttributeError, struct.error: this is no index.
    """
    parts = header["parts"]
    found: dict[str, tuple[_Kind, bytes]] = {}
    at = 0
    for numbers, names in zip(header["kinds"], header["names"], strict=True):
        about, choices, stamp, keys, values, own, layout, types = (parts[number] for number in numbers)
        _check(about, choices, stamp, keys, own, layout, types, names)
        kind = _Kind(about, choices, stamp, dict(zip(keys, values, strict=True)), own, layout, types)
        size = kind.row.size
        for name in names:
            found[name] = kind, rows[at : at + size]
            at += size
    if at != len(rows):
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
