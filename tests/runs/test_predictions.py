"""The file of predictions: what was written is read; whatever else lies there, nothing raises."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as packed

from dropbench.errors import UserError
from dropbench.runs import predictions
from dropbench.runs.predictions import Part, Predictions, read, save
from dropbench.runs.records import PREDICTIONS

PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], dtype=np.float32)
CLASSES = np.array([2, 0], dtype=np.int64)
REALS = np.array([[1.5], [-2.0]], dtype=np.float32)


def put(folder: Path, **tensors: Any) -> None:
    content = packed({name.replace("__", "."): tensor for name, tensor in tensors.items()})
    (folder / PREDICTIONS).write_bytes(content)


def parts(folder: Path) -> set[str] | None:
    found = read(folder)
    return None if found is None else set(found.parts)


def test_what_was_written_is_read(tmp_path):
    wide = np.asfortranarray(PROBABILITIES)
    save(tmp_path, Predictions({"validation": Part(PROBABILITIES, CLASSES), "test_mc": Part(wide, CLASSES)}))
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS]
    found = read(tmp_path)
    assert found is not None
    assert found.parts.keys() == {"validation", "test_mc"}
    for part in found.parts.values():
        np.testing.assert_array_equal(part.outputs, PROBABILITIES)
        np.testing.assert_array_equal(part.targets, CLASSES)
        assert (part.outputs.dtype, part.targets.dtype, part.classes) == (np.float32, np.int64, True)


def test_a_regression_is_told_from_a_classification(tmp_path):
    save(tmp_path, Predictions({"test": Part(REALS, REALS + 1)}))
    found = read(tmp_path)
    assert found is not None
    assert not found.parts["test"].classes
    np.testing.assert_array_equal(found.parts["test"].targets, REALS + 1)


def test_a_second_file_replaces_the_first(tmp_path):
    save(tmp_path, Predictions({"test": Part(REALS, REALS)}))
    save(tmp_path, Predictions({"validation": Part(REALS, REALS)}))
    assert parts(tmp_path) == {"validation"}


def test_a_disk_that_refuses_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such file or directory"):
        save(tmp_path / "gone", Predictions({"test": Part(REALS, REALS)}))


# ---- what lies there may be anything


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (PROBABILITIES.astype(np.float64), CLASSES),
        (PROBABILITIES, CLASSES.astype(np.int32)),
        (PROBABILITIES, CLASSES[:1]),
        (PROBABILITIES[:0], CLASSES[:0]),
        (PROBABILITIES[:, :0], CLASSES),
        (PROBABILITIES, CLASSES + 1),  # there is no class 3
        (PROBABILITIES, CLASSES - 1),
        (PROBABILITIES, CLASSES.reshape(2, 1)),
        (PROBABILITIES[0], CLASSES),
        (PROBABILITIES * 2, CLASSES),
        (-PROBABILITIES, CLASSES),
        (PROBABILITIES * np.float32(np.nan), CLASSES),
        (PROBABILITIES + np.float32(np.inf), CLASSES),
        (np.array(0.5, np.float32), np.array(0)),
        (np.array(0.5, np.float32), np.array(0.0, np.float32)),
        (REALS, REALS[:1]),
        (REALS, REALS[:, 0]),
        (REALS, REALS * np.float32(np.inf)),
        (REALS, np.array([[True], [False]])),
    ],
)
def test_a_split_that_is_not_sound_is_left_out(tmp_path, outputs, targets):
    put(tmp_path, test__outputs=outputs, test__targets=targets)
    assert parts(tmp_path) == set()
    put(
        tmp_path, test__outputs=outputs, test__targets=targets,
        validation__outputs=PROBABILITIES, validation__targets=CLASSES,
    )  # fmt: skip
    assert parts(tmp_path) == {"validation"}


def test_what_is_not_known_is_passed_over(tmp_path):
    put(tmp_path, test__outputs=REALS, train__outputs=REALS, train__targets=REALS)
    assert parts(tmp_path) == set()


def test_where_there_is_no_file_there_is_nothing(tmp_path):
    assert read(tmp_path) is None
    assert read(tmp_path / "gone") is None
    assert read(Path("a\0b")) is None


def test_what_is_no_plain_file_is_not_read(tmp_path):
    path = tmp_path / PREDICTIONS
    os.mkfifo(path)
    assert read(tmp_path) is None
    path.unlink()
    path.mkdir()
    assert read(tmp_path) is None
    path.rmdir()
    path.symlink_to(path)
    assert read(tmp_path) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert read(tmp_path) is None


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    save(tmp_path, Predictions({"test": Part(REALS, REALS)}))
    size = (tmp_path / PREDICTIONS).stat().st_size
    monkeypatch.setattr(predictions, "_LARGEST", size)
    assert parts(tmp_path) == {"test"}
    monkeypatch.setattr(predictions, "_LARGEST", size - 1)
    assert read(tmp_path) is None


def test_a_file_that_is_cut_anywhere_is_not_read(tmp_path):
    save(tmp_path, Predictions({"test": Part(PROBABILITIES, CLASSES)}))
    whole = (tmp_path / PREDICTIONS).read_bytes()
    for length in range(len(whole)):
        (tmp_path / PREDICTIONS).write_bytes(whole[:length])
        assert read(tmp_path) is None


def headed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63),
        headed(b"[" * 50_000),
        headed([]),
        headed({"test.outputs": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
        headed({"test.outputs": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "F4", "shape": [8], "data_offsets": [0, 4]}}, b"1234"),
        headed({"test.outputs": {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]}}, b"1234"),
    ],
)
def test_a_hostile_header_raises_nothing(tmp_path, content):
    (tmp_path / PREDICTIONS).write_bytes(content)
    assert parts(tmp_path) in (None, set())


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_whatever_byte_is_changed_nothing_raises(tmp_path_factory, at, value):
    folder = tmp_path_factory.mktemp("run")
    save(folder, Predictions({"test": Part(PROBABILITIES, CLASSES), "validation": Part(REALS, REALS)}))
    content = bytearray((folder / PREDICTIONS).read_bytes())
    content[at % len(content)] = value
    (folder / PREDICTIONS).write_bytes(content)
    found = read(folder)
    for part in found.parts.values() if found else ():
        assert np.isfinite(part.outputs).all()
        assert len(part.outputs) == len(part.targets)
