"""Reading run folders: whatever lies there, nothing raises, nothing hangs, every run is accounted for."""

from __future__ import annotations

import fcntl
import json
import os
import random
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from recorded import result, study, write

from dropbench.compare.table import tally
from dropbench.errors import UserError
from dropbench.runs.find import folders, read
from dropbench.runs.records import read_run


def test_every_field(tmp_path: Path) -> None:
    record = read_run(write(tmp_path / "main" / "the-run", result(3, 2.25)))
    assert (record.id, record.study, record.state, record.reason) == ("the-run", "main", "done", "")
    assert (record.seed, record.rate, record.rule, record.epoch) == (3, 0.5, "validation_best", 17)
    assert record.task == "classification"
    assert record.choices == {"dataset": "digits", "model": "mlp", "strategy": "standard", "optimizer": "sgd_dropout"}
    assert (record.figure("test.error"), record.figure("test.rmse"), record.figure("nonsense")) == (2.25, None, None)
    assert record.seconds == {"total": 7.0, "train": 3.5}
    assert record.rates["hidden1"] == {"asked": 0.5, "realised": 0.4998}
    assert record.settings["model.widths"] == [256, 256]
    assert record.sizes == {"epochs": 30, "steps": 900, "parameters": 85002, "peak_memory_bytes": 123456789}


def test_figures_measured_again_are_read_where_they_are(tmp_path: Path) -> None:
    plain = read_run(write(tmp_path / "plain", result(0, 2.0)))
    assert list(plain.figures) == ["train", "validation", "test"]
    more = {"test_mc": {"error": 1.5, "entropy": 0.25}, "test_pruned": {"error": 8.0}, "test_guessed": {"error": 0.0}}
    record = read_run(write(tmp_path / "more", result(0, 2.0) | more))
    assert list(record.figures) == ["train", "validation", "test", "test_mc", "test_pruned"]
    assert (record.figure("test_mc.error"), record.figure("test_mc.entropy")) == (1.5, 0.25)
    assert (record.figure("test_pruned.error"), record.figure("validation_mc.error")) == (8.0, None)


@pytest.mark.parametrize("value", [None, [], "x", {"error": "low"}, {"error": float("nan")}])
def test_figures_measured_again_that_are_none(tmp_path: Path, value: object) -> None:
    record = read_run(write(tmp_path / "run", result() | {"test_mc": value}))
    assert (record.state, record.figures["test_mc"]) == ("done", {})


# ---- what it was made from and with

CPU: dict[str, Any] = {
    "versions": {"dropbench": "0.3.0", "torch": "2.13.0+cpu"},
    "hardware": {"device": "cpu", "name": "a processor"},
    "git": {"commit": "1a2b3c4d5e6f70819283", "dirty": False},
    "determinism": {"tf32": True},
    "data": {"sha256": "ab" * 32},
}
CUDA = CPU | {"hardware": {"device": "cuda:1", "name": "a card"}}


def stamp(folder: Path, facts: dict[str, Any] | str | bytes, **changes: Any) -> Mapping[str, str]:
    """The stamp of a run with this `record.json`."""
    write(folder, result(settings={"precision": "float32"}, **changes))
    content = json.dumps(facts) if isinstance(facts, dict) else facts
    (folder / "record.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_run(folder).stamp


@pytest.mark.parametrize(
    ("facts", "code", "compute"),
    [
        (CPU, "0.3.0 (commit 1a2b3c4d5e6f)", "cpu float32 torch 2.13.0+cpu"),
        (CPU | {"git": {"commit": "1a2b3c4d5e6f7", "dirty": True}}, "0.3.0 (commit 1a2b3c4d5e6f, changed since)", None),
        (CPU | {"git": None}, "0.3.0", None),
        (CPU | {"git": {"commit": None, "dirty": True}}, "0.3.0", None),
        (CUDA, None, "cuda float32 torch 2.13.0+cpu tf32"),
        (CUDA | {"determinism": {"tf32": False}}, None, "cuda float32 torch 2.13.0+cpu"),
        (CPU | {"versions": {"dropbench": "0.3.0"}}, "0.3.0 (commit 1a2b3c4d5e6f)", "cpu float32"),
    ],
)
def test_the_stamp(tmp_path: Path, facts: dict[str, Any], code: str | None, compute: str | None) -> None:
    found = stamp(tmp_path / "run", facts)
    assert found["data"] == "ab" * 32
    assert code in (None, found["code"])
    assert compute in (None, found["compute"])


def test_a_stamp_says_only_what_is_recorded(tmp_path: Path) -> None:
    assert read_run(write(tmp_path / "without", result())).stamp == {}
    assert stamp(tmp_path / "failed", CPU, status="failed") == {}
    assert stamp(tmp_path / "empty", {}) == {}
    no_device = CPU | {"hardware": {}, "data": {"sha256": 7}, "versions": []}
    assert stamp(tmp_path / "some", no_device) == {"code": "(commit 1a2b3c4d5e6f)"}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "[" * 100_000, b"\xff", '{"versions": 1, "git": [2], "data": "x"}']
)
def test_a_stamp_that_is_torn_or_foreign(tmp_path: Path, content: str | bytes) -> None:
    assert stamp(tmp_path / "run", content) == {}
    assert read_run(tmp_path / "run").state == "done"


def test_a_record_that_is_a_pipe_a_folder_or_huge(tmp_path: Path) -> None:
    pipe, folder, huge = (write(tmp_path / name, result()) for name in ("pipe", "folder", "huge"))
    os.mkfifo(pipe / "record.json")
    (folder / "record.json").mkdir()
    with (huge / "record.json").open("wb") as file:
        file.truncate(1 << 40)
    assert [(record.state, record.stamp) for record in read([tmp_path])] == [("done", {})] * 3


def test_what_a_run_cost(tmp_path: Path) -> None:
    cost = {"samples": 3663, "forward_passes": 7326, "epochs": 1, "other": 2}
    sizes = read_run(write(tmp_path / "run", result() | {"cost": cost})).sizes
    assert (sizes["samples"], sizes["forward_passes"], sizes["epochs"]) == (3663, 7326, 30)
    assert "other" not in sizes
    for number, value in enumerate((None, [], {"samples": "many"}, {"samples": True})):
        assert "samples" not in read_run(write(tmp_path / str(number), result() | {"cost": value})).sizes


def test_states(tmp_path: Path) -> None:
    counts = Counter(record.state for record in read([study(tmp_path)]))
    assert counts == {"done": 6, "failed": 1, "interrupted": 1, "unreadable": 1}


def test_a_held_lock_means_running(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", None)
    (folder / "lock").touch()
    assert read_run(folder).state == "interrupted"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_run(folder).state == "running"
        (folder / "config.yaml").unlink()  # not written yet
        assert read_run(folder).state == "running"
    assert read_run(folder).state == "interrupted"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "null",
        "[1, 2]",
        '"done"',
        "{}",
        '{"status": "done"}',
        '{"status": ["done"]}',
        "[" * 100_000,
        '{"a":' * 100_000,
        b"\xff\xfe\x00",
        "1" * 5000,
        "NaN",
    ],
)
def test_torn_empty_and_foreign_results(tmp_path: Path, content: str | bytes) -> None:
    record = read_run(write(tmp_path / "run", content))
    assert record.state == "unreadable"
    assert record.reason.startswith("result.json: ")


@pytest.mark.parametrize("key", ["seed", "choices", "rate", "group", "task", "test", "status"])
@pytest.mark.parametrize("value", [None, [], "x", True, {"a": {"b": []}}])
def test_a_result_with_a_wrong_field(tmp_path: Path, key: str, value: object) -> None:
    record = read_run(write(tmp_path / "run", result() | {key: value}))
    valid = key in ("group", "task") or (key == "test" and isinstance(value, dict))
    assert record.state == ("done" if valid else "unreadable")


def test_figures_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    figures = {"error": float("nan"), "loss": float("inf"), "nll": 10**400, "ece": "0.1", "brier": True, "x": 1}
    record = read_run(write(tmp_path / "run", json.dumps(result(test=figures))))
    assert record.figures["test"] == {"x": 1}


def test_a_result_that_is_a_pipe_a_folder_or_huge(tmp_path: Path) -> None:
    pipe, folder, huge = (write(tmp_path / name, None) for name in ("pipe", "folder", "huge"))
    os.mkfifo(pipe / "result.json")
    (folder / "result.json").mkdir()
    with (huge / "result.json").open("wb") as file:
        file.truncate(1 << 40)
    assert [record.state for record in read([tmp_path])] == ["unreadable"] * 3


def test_links_neither_loop_nor_count_twice(tmp_path: Path) -> None:
    root = study(tmp_path / "outputs")
    real = root / "main" / "digits-mlp-none-r0-s0-cccccccc"
    (root / "main" / "a-up").symlink_to(root)
    (root / "main" / "a-again").symlink_to(real)
    (root / "main" / "self").symlink_to(root / "main" / "self")
    (root / "gone").symlink_to(tmp_path / "nowhere")
    (root / "a-study").symlink_to(root / "main")
    elsewhere = write(tmp_path / "scratch" / "far" / "run", result(9))
    (root / "far").symlink_to(elsewhere.parent)
    found = folders([root])
    assert len(found) == 10
    assert real in found
    assert root / "far" / "run" in found


def test_a_folder_beside_runs_without_any_file_is_counted(tmp_path: Path) -> None:
    root = study(tmp_path)
    (root / "main" / "zz-empty").mkdir()
    (root / "main" / ".hidden").mkdir()
    (root / "study-without-runs").mkdir()
    (root / ".gitignore").write_text("*")
    found = read([root])
    assert len(found) == 10
    assert found[-1].reason == "neither result.json nor config.yaml nor lock"
    assert tally(found) == "10 runs: 6 done, 1 failed, 1 interrupted, 2 unreadable"


def test_a_folder_that_cannot_be_listed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = study(tmp_path)
    write(root / "main" / "zz", result(5))
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("zz"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(folders([root])) == 10


def test_paths_of_every_level_in_any_mixture(tmp_path: Path) -> None:
    root = study(tmp_path)
    run = root / "main" / "digits-mlp-none-r0-s0-cccccccc"
    assert folders([run]) == [run]
    assert len(folders([root / "main"])) == 9
    assert len(folders([run, root / "main", root])) == 9
    assert folders([root]) == sorted(folders([root]))
    assert len(folders([write(root / "deep" / "er" / "est" / "run", result()).parent.parent])) == 1
    assert len(folders([root])) == 9  # no deeper than root/study/run


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "nul"])
def test_nothing_found_names_the_path(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    if kind == "file":
        path.touch()
    if kind == "empty":
        (path / "study").mkdir(parents=True)
    if kind == "nul":
        path = tmp_path / "\0"
    with pytest.raises(UserError, match=f"^{tmp_path}"):
        read([study(tmp_path / "good"), path])


def test_random_mutations_never_raise(tmp_path: Path) -> None:
    chance = random.Random(0)
    good = json.dumps(result()).encode()
    folder = write(tmp_path / "run", good)
    states = Counter()
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.randrange(3)] = chance.randbytes(chance.randrange(3))
        (folder / "result.json").write_bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])
        states[read_run(folder).state] += 1
    assert set(states) == {"done", "unreadable"}


def test_what_a_result_need_not_say_is_found_out(tmp_path: Path) -> None:
    bare = [{k: v for k, v in result(seed, 2.0).items() if k not in ("group", "task", "settings")} for seed in (0, 1)]
    other = {k: v for k, v in result(0, 2.0, epochs=10).items() if k not in ("group", "task", "settings")}
    found = [read_run(write(tmp_path / "main" / f"run{i}", content)) for i, content in enumerate([*bare, other])]
    assert [record.state for record in found] == ["done"] * 3
    assert found[0].group == found[1].group != found[2].group
    assert {record.task for record in found} == {"classification"}
