"""Durable files: a file is either the old one or the new one, and a record that was reported is on the disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dropbench.errors import UserError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def check_suffix(path: Path, suffixes: Sequence[str]) -> None:
    """Refuses a file that would not be what its name says.

    Raises:
        UserError: the suffix is none of these.
    """
    if path.suffix.lower() not in suffixes:
        shown = path.suffix or "no suffix"
        raise UserError(f"--out={path}: {shown}; allowed: {', '.join(suffixes)}{nearest(path.suffix, suffixes)}")


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turns what the disk refuses into one line about `path`."""
    try:
        yield
    except OSError as error:
        reason = {errno.ENOSPC: "disk full", errno.EDQUOT: "disk full (quota)"}
        told = reason.get(error.errno or 0, os.strerror(error.errno or errno.EIO).lower())
        raise UserError(f"{told}: {error.filename or path}") from error


def write(path: Path, content: bytes, before: Path | None = None) -> None:
    """Replaces `path` in one piece: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        path: of the file.
        content: all of it.
        before: where the file that was there stays, if it is to stay; a kill between the two renames leaves it there.
    """
    temporary = path.with_name(f".{path.name}.new")
    with disk(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if before is not None and path.exists():
                path.replace(before)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def plain(path: Path, largest: int) -> bytes:
    """The beginning of a plain file, at most `largest` bytes; b"" where there is none that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would make us wait
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return b""
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(largest)
        finally:
            os.close(descriptor)
    except (OSError, ValueError):
        return b""


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump(value: Any) -> str:
    """JSON in one line; a figure that is not finite becomes null, since JSON has no name for it."""
    return json.dumps(finite(value), separators=(", ", ": "), ensure_ascii=False, allow_nan=False)


def line(record: dict[str, Any]) -> bytes:
    """One line of `metrics.jsonl`: the record and, last, the CRC-32 of what stands before it."""
    body = dump(record)[:-1]
    return f'{body}, "crc": "{zlib.crc32(body.encode()):08x}"}}\n'.encode()


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole and unharmed records of a `metrics.jsonl`; torn or damaged lines are passed over."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for text in content.split(b"\n")[:-1]:
        record = unsealed(text)
        if record is not None:
            yield record


def unsealed(text: bytes) -> dict[str, Any] | None:
    """The record in one line, as `line` wrote it; None where it is torn or damaged."""
    body, mark, checksum = text.rpartition(b', "crc": "')
    if not mark or checksum != f'{zlib.crc32(body):08x}"}}'.encode():
        return None
    record = json.loads(body + b"}")
    return record if isinstance(record, dict) else None


def finite(value: Any) -> Any:
    """The value with null in place of figures that are not finite, for JSON."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
