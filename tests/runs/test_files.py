"""Durable files: a file is the old one or the new one, and a line of metrics is whole or absent."""

from __future__ import annotations

import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropbench.errors import UserError
from dropbench.runs.files import dump, line, lines, unsealed, write

# ---- whole files


class Calls:
    """Notes the calls that make a file durable, and lets the n-th fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: int | None = None, code: int = errno.EIO) -> None:
        self.seen: list[str] = []
        self.fail, self.code = fail, code
        for name in ("fsync", "replace", "open"):
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        opened = io.open

        def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if "w" not in mode:
                return opened(file, mode, *args, **kwargs)
            self._note("create")
            return Stream(opened(file, mode, *args, **kwargs).detach())

        class Stream(io.BufferedWriter):
            def write(stream, content: Any) -> int:  # noqa: N805 - self is the calls
                self._note("write")
                return super().write(content)

        monkeypatch.setattr(io, "open", open_file)

    def _note(self, name: str) -> None:
        self.seen.append(name)
        if len(self.seen) - 1 == self.fail:
            raise OSError(self.code, os.strerror(self.code))

    def _wrapped(self, name: str, call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._note(name)
            return call(*args, **kwargs)

        return wrapped


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


ORDER = ["create", "write", "fsync", "replace", "open", "fsync"]


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        write(path, b"new")
    assert calls.seen == ORDER
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["result.json"]


@pytest.mark.parametrize("fail", range(len(ORDER)), ids=lambda at: f"{at}_{ORDER[at]}")
@pytest.mark.parametrize(("code", "told"), [(errno.EIO, "input/output error"), (errno.ENOSPC, "disk full")])
def test_whatever_call_fails_the_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch, fail, code, told):
    path = tmp_path / "result.json"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        Calls(patch, fail, code)
        with pytest.raises(UserError) as error:
            write(path, b"new" * 10_000)
    assert str(error.value) == f"{told}: {path}"
    replaced = fail > ORDER.index("replace")
    assert path.read_bytes() == (b"new" * 10_000 if replaced else b"old")
    assert names(tmp_path) == ["result.json"]
    write(path, b"again")
    assert path.read_bytes() == b"again"


def test_what_a_kill_left_is_overwritten(tmp_path):
    (tmp_path / ".result.json.new").write_bytes(b"torn and longer than the next one")
    write(tmp_path / "result.json", b"new")
    assert names(tmp_path) == ["result.json"]
    assert (tmp_path / "result.json").read_bytes() == b"new"


@pytest.mark.parametrize("where", ["missing/file", "a_file/file"])
def test_a_place_that_is_no_folder_is_one_line(tmp_path, where):
    (tmp_path / "a_file").touch()
    with pytest.raises(UserError, match=r"^(no such file or directory|not a directory): ") as error:
        write(tmp_path / where, b"")
    assert "\n" not in str(error.value)


# ---- lines of metrics

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = [
    {"seq": 0, "loss": 2.3, "sites": {"hidden1": {"rate": 0.5}}},
    {"seq": 1, "name": 'é "crc": "00000000"}\n', "loss": float("nan")},
    {"seq": 2, "loss": [1.5, float("inf")], "crc": "mine"},
]
READ = [RECORDS[0], {**RECORDS[1], "loss": None}, {**RECORDS[2], "loss": [1.5, None]}]


@given(st.dictionaries(st.text(), JSON, min_size=1, max_size=4))
def test_a_record_survives_its_line(record):
    text = line(record)
    assert text.endswith(b"\n")
    assert text.count(b"\n") == 1
    assert unsealed(text[:-1]) == record
    assert json.loads(text).keys() == record.keys() | {"crc"}  # any reader of JSON lines can read it


def written(path: Path) -> bytes:
    content = b"".join(line(record) for record in RECORDS)
    path.write_bytes(content)
    assert list(lines(path)) == READ
    return content


def test_figures_that_are_not_finite_become_null():
    assert dump({"a": [float("nan"), (float("-inf"), 1.0)]}) == '{"a": [null, [null, 1.0]]}'


def test_no_file_has_no_lines(tmp_path):
    assert list(lines(tmp_path / "metrics.jsonl")) == []


def test_a_last_line_cut_at_any_byte_is_absent_and_the_others_are_there(tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = written(path)
    for length in range(len(content) - len(line(RECORDS[-1])), len(content)):
        path.write_bytes(content[:length])
        assert list(lines(path)) == READ[:-1], length


def test_a_record_with_any_byte_changed_is_absent(tmp_path):
    path = tmp_path / "metrics.jsonl"
    content = written(path)
    starts = [0, len(line(RECORDS[0])), len(line(RECORDS[0])) + len(line(RECORDS[1])), len(content)]
    for at in range(len(content)):
        for bit in (1, 8, 128):
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            found = list(lines(path))
            hit = next(number for number in range(3) if starts[number] <= at < starts[number + 1])
            lost = {hit, hit + 1} if at == starts[hit + 1] - 1 else {hit}  # without its end, a line swallows the next
            assert found == [record for number, record in enumerate(READ) if number not in lost], (at, bit)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\x00" * 50,
        b"\xff\xfe",
        b"{}",
        b'{"seq": 1}',
        b'{"seq": 1, "crc": "00000000"}',
        b"[" * 100_000,
        b', "crc": "',
    ],
)
def test_garbage_between_lines_is_passed_over(tmp_path, garbage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(line(RECORDS[0]) + garbage + b"\n" + line(RECORDS[1]) + garbage)
    assert list(lines(path)) == READ[:2]
