"""What a stack writes is written behind its back: nothing that was promised of it is weaker."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from tiny_runs import after, never, outcome, run_of, strays

from dropbench import runner
from dropbench.config import Run
from dropbench.errors import UserError
from dropbench.runs import checkpoint
from dropbench.runs.checkpoint import NAME, Checkpoint, steps
from dropbench.runs.files import lines
from dropbench.runs.folder import METRICS, RunFolder
from dropbench.runs.records import read_run
from dropbench.state import State
from dropbench.sweep.local import Local
from dropbench.sweep.report import Report

SOON = 20.0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)


def some(root: Path, count: int, *words: str) -> list[Run]:
    return [run_of(root, "mlp", f"seed={seed}", *words) for seed in range(count)]


def trained(runs: Sequence[Run], report: Report | None = None, interrupted: Any = never) -> None:
    Local([], {}, interrupted, report or Report()).train(runs)


def test_everything_that_is_written_while_a_stack_trains_is_written_elsewhere(tmp_path, monkeypatch, every_step):
    at: dict[str, set[bool]] = {}
    for name in ("start", "metrics", "checkpoint", "finish"):
        call = getattr(RunFolder, name)

        def noted(folder: RunFolder, *args: Any, name: str = name, call: Any = call) -> None:
            at.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            call(folder, *args)

        monkeypatch.setattr(RunFolder, name, noted)
    trained(some(tmp_path, 2))
    assert at == {"start": {False}, "metrics": {False}, "checkpoint": {False}, "finish": {True}}


def test_a_result_is_written_when_all_else_of_its_run_is_there(tmp_path, monkeypatch):
    """However slow the disk is."""
    save, finish = checkpoint.save, RunFolder.finish
    found: list[tuple[list[int], int]] = []

    def slow(folder: Path, state: Checkpoint) -> None:
        threading.Event().wait(0.05)
        save(folder, state)

    def finished(folder: RunFolder, *args: Any) -> None:
        found.append((steps(folder.path), len(list(lines(folder.path / METRICS)))))
        finish(folder, *args)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(RunFolder, "finish", finished)
    trained(some(tmp_path, 3))
    assert found == [([6], 2)] * 3


def test_an_evaluation_is_reported_when_it_is_on_the_disk(tmp_path):
    class Heard(Report):
        def __init__(self) -> None:
            super().__init__()
            self.there: list[bool] = []

        def evaluated(self, run: str, record: dict[str, Any]) -> None:
            rows = lines(tmp_path / "main" / run / METRICS)
            self.there.append(record["epoch"] in [row["epoch"] for row in rows])

    heard = Heard()
    trained(some(tmp_path, 3), heard)
    assert heard.there == [True] * 6


def test_what_is_saved_is_the_state_at_its_step_though_the_training_goes_on(tmp_path, monkeypatch, every_step):
    """The disk is so slow that the next step is always done before the checkpoint of this one is written."""
    save, update = checkpoint.save, runner.Trainer._update
    stepped = threading.Event()
    saved: dict[int, Checkpoint] = {}

    def late(folder: Path, state: Checkpoint) -> None:
        if state.facts["step"] < 6:
            assert stepped.wait(SOON)
        stepped.clear()
        saved[state.facts["step"]] = state
        save(folder, state)

    def updated(trainer: runner.Trainer, *args: Any) -> None:
        update(trainer, *args)
        stepped.set()

    (calm,) = some(tmp_path / "calm", 1)
    trained([calm])
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", late)
        patch.setattr(runner.Trainer, "_update", updated)
        (run,) = some(tmp_path / "late", 1)
        trained([run])
    assert outcome(run.path) == outcome(calm.path)
    weights = [saved[step].tensors["params/output.weight"] for step in range(1, 7)]
    for step in range(1, 6):
        (other,) = some(tmp_path / f"at{step}", 1)
        with pytest.raises(runner.Interrupted):
            trained([other], None, after(step - 1))
        found, _ = checkpoint.load(other.path, step)
        assert found is not None
        assert torch.equal(found.tensors["params/output.weight"], weights[step - 1])


def test_no_more_than_one_checkpoint_a_run_waits(tmp_path, monkeypatch, every_step):
    waiting, most = 0, 0
    save, checkpoints = checkpoint.save, State.checkpoints

    def copied(state: Any) -> list[Checkpoint]:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        return checkpoints(state)

    def slow(folder: Path, state: Checkpoint) -> None:
        nonlocal waiting
        threading.Event().wait(0.02)
        save(folder, state)
        waiting -= 1

    monkeypatch.setattr(State, "checkpoints", copied)
    monkeypatch.setattr(checkpoint, "save", slow)
    trained(some(tmp_path, 1))
    assert waiting == 0
    assert most == 2  # one is being written, one was just copied


def refusing(monkeypatch: pytest.MonkeyPatch, name: str, place: int, code: int) -> None:
    """Lets the disk refuse the n-th call of a method of the run folders."""
    call, count = getattr(RunFolder, name), 0

    def refused(folder: RunFolder, *args: Any) -> None:
        nonlocal count
        count += 1
        if count == place:
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(code, "no")))
                call(folder, *args)
        call(folder, *args)

    monkeypatch.setattr(RunFolder, name, refused)


@pytest.mark.parametrize(("name", "place"), [("start", 2), ("metrics", 1), ("metrics", 4), ("checkpoint", 3)])
@pytest.mark.parametrize(("code", "told"), [(errno.ENOSPC, "disk full: "), (errno.EIO, "input/output error: ")])
def test_what_the_disk_refuses_behind_is_said_in_one_line_and_the_same_command_mends_it(
    tmp_path, monkeypatch, every_step, name, place, code, told
):
    calm = some(tmp_path / "calm", 2)
    trained(calm)
    runs = some(tmp_path / "refused", 2)
    report = Report()
    with monkeypatch.context() as patch:
        refusing(patch, name, place, code)
        with pytest.raises(UserError) as error:
            trained(runs, report)
    assert str(error.value).startswith(told + str(tmp_path))
    assert "\n" not in str(error.value)
    assert (report.failures, report.warnings) == ({}, [])
    assert not any(read_run(run.path).state == "done" for run in runs)
    trained(runs)
    for run, other in zip(runs, calm, strict=True):
        assert outcome(run.path) == outcome(other.path)
        assert strays(run.path) == []


def test_who_is_stopped_is_not_told_that_it_is_saved_when_it_is_not(tmp_path, monkeypatch):
    runs = some(tmp_path, 2)
    refusing(monkeypatch, "checkpoint", 2, errno.ENOSPC)
    with pytest.raises(UserError, match="disk full"):
        trained(runs, None, after(3))


def test_an_error_of_our_own_behind_fails_the_run_and_not_the_program(tmp_path, monkeypatch):
    """And costs its neighbour nothing."""
    broken, whole = some(tmp_path, 2)
    save = RunFolder.checkpoint

    def wrong(folder: RunFolder, state: Checkpoint) -> None:
        if folder.path == broken.path:
            raise RuntimeError("wrong")
        save(folder, state)

    report = Report()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", wrong)
        trained([broken, whole], report)
    assert report.failures == {broken.id: "RuntimeError: wrong"}
    assert [read_run(run.path).state for run in (broken, whole)] == ["failed", "done"]
    trained([broken])
    assert read_run(broken.path).state == "done"


def test_the_program_ends_at_once_with_the_checkpoint_before(tmp_path, monkeypatch, every_step):
    """What still waits for the disk is dropped: what lies there is sound, and the run goes on from it."""
    (calm,) = some(tmp_path / "calm", 1)
    trained([calm])
    (run,) = some(tmp_path / "ended", 1)
    save, going, done, asked = RunFolder.checkpoint, threading.Event(), list[int](), iter(range(1, 7))

    def slow(folder: RunFolder, state: Checkpoint) -> None:
        if state.facts["step"] == 3:
            going.set()
            threading.Event().wait(0.2)
        save(folder, state)
        done.append(state.facts["step"])

    def ended() -> bool:
        if next(asked) < 4:
            return False
        assert going.wait(SOON)
        raise SystemExit(130)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", slow)
        with pytest.raises(SystemExit):
            trained([run], None, ended)
    assert done == [1, 2, 3]
    assert steps(run.path) == [3, 2]
    assert (run.path / NAME).exists()
    trained([run])
    assert outcome(run.path) == outcome(calm.path)
