"""Checkpoints: what is saved comes back to the bit; what is damaged or hostile is passed over, and runs no code."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from dropbench.errors import UserError
from dropbench.runs import checkpoint, files
from dropbench.runs.checkpoint import NAME, PREVIOUS, Checkpoint, load, save, steps

OLD = Checkpoint({"params/w": torch.arange(12.0).view(3, 4)}, {"step": 1, "seq": 0})
NEW = Checkpoint(
    {
        "params/w": torch.tensor([[1.5, -0.0], [float("inf"), 1e-45]]),
        "params/Größe": torch.linspace(-1, 1, 300),
        "losses": torch.empty(0),
        "scalar": torch.tensor(3.0),
        "flags": torch.tensor([True, False]),
        "count": torch.tensor([2**62, -1]),
        "half": torch.tensor([1.0, 3.0], dtype=torch.bfloat16),
    },
    {"step": 2, "seq": 1, "history": {"score": [float("inf")], "rates": {"hidden1": [0.1, 0.2]}}},
)


def equal(ours: Checkpoint | None, theirs: Checkpoint) -> bool:
    return (
        ours is not None
        and ours.facts == theirs.facts
        and ours.tensors.keys() == theirs.tensors.keys()
        and all(
            ours.tensors[name].dtype == value.dtype
            and ours.tensors[name].shape == value.shape
            and ours.tensors[name].reshape(-1).view(torch.uint8).tolist()
            == value.reshape(-1).view(torch.uint8).tolist()
            for name, value in theirs.tensors.items()
        )
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder with two checkpoints."""
    save(tmp_path, OLD)
    save(tmp_path, NEW)
    return tmp_path


def test_what_is_saved_comes_back_to_the_bit(folder):
    found, complaints = load(folder)
    assert equal(found, NEW)
    assert complaints == []


def test_views_and_tensors_that_share_memory_are_saved_as_they_look(tmp_path):
    base = torch.arange(24.0).view(4, 6).requires_grad_()
    shared = Checkpoint({"a": base[1], "b": base.T, "c": base[:, 2:4]}, {"step": 0})
    save(tmp_path, shared)
    assert equal(load(tmp_path)[0], shared)


def test_the_one_before_stays(folder):
    (folder / NAME).unlink()
    assert equal(load(folder)[0], OLD)
    assert sorted(path.name for path in folder.iterdir()) == [PREVIOUS]


def test_no_checkpoint_is_no_complaint(tmp_path):
    assert load(tmp_path) == (None, [])


def passed_over(folder: Path) -> None:
    """The newest is named as damaged, in one line, and the one before it is used."""
    found, complaints = load(folder)
    assert equal(found, OLD)
    (complaint,) = complaints
    assert str(folder / NAME) in complaint
    assert "\n" not in complaint


def places(size: int) -> list[int]:
    """64 places in a file: its ends and others everywhere."""
    return sorted({0, 7, 8, size - 1, *random.Random(5).sample(range(size), 60)})


def test_a_file_cut_at_any_place_is_passed_over(folder):
    content = (folder / NAME).read_bytes()
    for length in places(len(content)):
        (folder / NAME).write_bytes(content[:length])
        passed_over(folder)


def test_a_file_with_any_bit_flipped_is_passed_over(folder):
    content = (folder / NAME).read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    found = places(len(content)) + places(header)
    assert any(at >= header for at in found)
    for number, at in enumerate(found):
        (folder / NAME).write_bytes(content[:at] + bytes([content[at] ^ 1 << number % 8]) + content[at + 1 :])
        passed_over(folder)


def test_when_both_are_damaged_there_is_none_and_both_are_named(folder):
    for name in (NAME, PREVIOUS):
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
    found, complaints = load(folder)
    assert found is None
    assert [name in complaint for name, complaint in zip((NAME, PREVIOUS), complaints, strict=True)] == [True, True]


def test_the_checksum_covers_facts_names_types_and_values(folder):
    """Files that are sound safetensors, and not what was saved."""

    def put(tensors: dict[str, torch.Tensor], facts: dict[str, Any], sealed: Checkpoint = NEW) -> None:
        digest = checkpoint._digest(sealed.tensors, json.dumps(sealed.facts, sort_keys=True))
        text = json.dumps(facts, sort_keys=True)
        (folder / NAME).write_bytes(safetensors.torch.save(tensors, {"facts": text, "sha256": digest}))

    put(NEW.tensors, NEW.facts)
    assert equal(load(folder)[0], NEW)  # so what follows fails for its own reason
    w = NEW.tensors["params/w"]
    for tensors, facts in (
        (NEW.tensors, {**NEW.facts, "step": 3}),
        ({**NEW.tensors, "params/w": w.view(4)}, NEW.facts),
        ({**NEW.tensors, "params/w": w.view(torch.int32)}, NEW.facts),
        ({**NEW.tensors, "more": w.clone()}, NEW.facts),
        ({name: value for name, value in NEW.tensors.items() if name != "scalar"}, NEW.facts),
    ):
        put(tensors, facts)
        passed_over(folder)


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_ever_run(folder, tmp_path):
    mark = tmp_path / "executed"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (folder / NAME).write_bytes(pickle.dumps(Bomb(mark), protocol))
        passed_over(folder)
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save({"params/w": Bomb(mark)}, stream, _use_new_zipfile_serialization=zipped)
        (folder / NAME).write_bytes(stream.getvalue())
        passed_over(folder)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()  # it would have gone off


def with_header(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def sealed(tensors: dict[str, torch.Tensor], facts: str) -> bytes:
    """A file with the right checksum: anyone can make one."""
    return safetensors.torch.save(tensors, {"facts": facts, "sha256": checkpoint._digest(tensors, facts)})


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "empty": b"",
    "nothing_but_zeros": bytes(64),
    "header_of_2_63": with_header({}, length=2**63),
    "header_of_2_64": with_header({}, length=2**64 - 1),
    "header_of_1_gb": with_header({}, length=2**30),
    "header_longer_than_the_file": with_header({"w": ONE}, bytes(8), length=500),
    "header_of_no_json": with_header(b"[" * 100_000),
    "header_of_no_utf8": with_header(b'{"\xff": 1}'),
    "header_of_a_list": with_header([]),
    "no_metadata": with_header({"w": ONE}, bytes(8)),
    "metadata_of_numbers": with_header({"__metadata__": {"facts": 1}, "w": ONE}, bytes(8)),
    "overlapping_offsets": with_header({"v": ONE, "w": ONE}, bytes(8)),
    "offsets_beyond_the_end": with_header({"w": {**ONE, "data_offsets": [0, 2**40]}}, bytes(8)),
    "offsets_backwards": with_header({"w": {**ONE, "data_offsets": [8, 0]}}, bytes(8)),
    "a_shape_of_2_62": with_header({"w": {**ONE, "shape": [2**31, 2**31]}}, bytes(8)),
    "a_shape_that_wraps": with_header({"w": {**ONE, "shape": [2**32, 2**32, 2]}}, bytes(8)),
    "a_shape_below_0": with_header({"w": {**ONE, "shape": [-2]}}, bytes(8)),
    "a_type_unknown": with_header({"w": {**ONE, "dtype": "F31"}}, bytes(8)),
    "a_type_of_4_bits": with_header({"w": {"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}}, bytes(8)),
    "a_type_of_exponents": with_header({"w": {"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}}, bytes(8)),
    "many_empty_tensors": with_header(
        {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(10_000)}
    ),
    "bytes_after_the_end": sealed(NEW.tensors, json.dumps(NEW.facts)) + b"more",
    "facts_that_are_no_json": sealed({"w": torch.ones(2)}, "{"),
    "facts_that_are_too_deep": sealed({"w": torch.ones(2)}, "[" * 100_000),
    "facts_that_are_a_list": sealed({"w": torch.ones(2)}, "[]"),
    "facts_without_a_step": sealed({"w": torch.ones(2)}, '{"seq": 1}'),
    "facts_with_a_step_of_text": sealed({"w": torch.ones(2)}, '{"step": "2", "seq": 1}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_passed_over_and_take_little_memory(folder, name):
    (folder / NAME).write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        passed_over(folder)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_what_is_no_file_is_passed_over(folder):
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    passed_over(folder)


def test_a_disk_that_is_full_is_one_line_and_leaves_a_sound_checkpoint(folder, monkeypatch):
    import errno

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    third = Checkpoint(OLD.tensors, {"step": 3, "seq": 2})
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match=r"^disk full: .*checkpoint\.safetensors$"):
            save(folder, third)
    found, complaints = load(folder)
    assert equal(found, NEW)
    assert complaints == []
    assert steps(folder) == [2, 1]  # both stay as they were
    save(folder, third)
    assert equal(load(folder)[0], third)


def test_between_the_two_renames_the_one_before_is_there(folder, monkeypatch):
    """What a kill leaves at that moment."""
    replace, third = os.replace, Checkpoint(OLD.tensors, {"step": 3, "seq": 2})

    class KilledError(BaseException):
        pass

    def killed(source: Any, target: Any) -> None:
        if Path(target).name == NAME:
            raise KilledError
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KilledError):
            save(folder, third)
    assert equal(load(folder)[0], NEW)
    assert steps(folder) == [2]
    save(folder, third)
    assert equal(load(folder)[0], third)
    assert sorted(path.name for path in folder.iterdir()) == [PREVIOUS, NAME]


def test_the_digest_is_a_sha256_over_what_it_should_be():
    tensors = {"b": torch.tensor([1.0]), "a": torch.tensor([[2]], dtype=torch.int16)}
    expected = hashlib.sha256(
        b'{"step": 1}' + b"a torch.int16 (1, 1)" + struct.pack("<h", 2) + b"b torch.float32 (1,)" + struct.pack("<f", 1)
    )
    assert checkpoint._digest(tensors, '{"step": 1}') == expected.hexdigest()


# ---- at a step


def test_the_steps_that_are_kept_are_told_the_newest_first(folder):
    assert steps(folder) == [2, 1]
    save(folder, Checkpoint(OLD.tensors, {"step": 7}))
    assert steps(folder) == [7, 2]
    (folder / NAME).unlink()
    assert steps(folder) == [2]
    (folder / PREVIOUS).unlink()
    assert steps(folder) == []
    assert steps(folder / "nowhere") == []


@pytest.mark.parametrize("step", [None, 0, 1, 2, 3])
def test_what_is_newer_than_a_step_is_passed_over_without_a_word(folder, step):
    expected = {None: NEW, 0: None, 1: OLD, 2: NEW, 3: NEW}[step]
    found, complaints = load(folder, step)
    assert complaints == []
    assert found is None if expected is None else equal(found, expected)


def test_of_what_is_damaged_the_one_before_is_used_at_a_step_too(folder):
    (folder / NAME).write_bytes((folder / NAME).read_bytes()[:-1])
    found, complaints = load(folder, 2)
    assert equal(found, OLD)
    assert len(complaints) == 1
    assert load(folder, 0)[0] is None


def test_steps_read_no_more_than_the_headers(folder):
    """What follows may be damaged: the checksum is looked at when a checkpoint is used."""
    content = bytearray((folder / NAME).read_bytes())
    content[-1] ^= 1
    (folder / NAME).write_bytes(content)
    assert steps(folder) == [2, 1]
    passed_over(folder)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "facts_with_a_step_of_text"])
def test_hostile_headers_have_no_step(folder, name):
    (folder / NAME).write_bytes(HOSTILE[name])
    assert steps(folder) == [1]


@pytest.mark.parametrize("step", ["Infinity", "1e400", '"2"', "2.5"])
def test_a_step_is_a_whole_number(folder, step):
    (folder / NAME).write_bytes(sealed({"w": torch.ones(2)}, f'{{"seq": 1, "step": {step}}}'))
    assert steps(folder) == [1]


def test_what_is_no_file_has_no_step(folder):
    (folder / NAME).unlink()
    (folder / NAME).mkdir()
    assert steps(folder) == [1]
