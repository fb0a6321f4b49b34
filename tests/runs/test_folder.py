"""A run folder: held by one process, cut back to its checkpoint, finished last; any I/O call may fail."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import after, outcome, rows, run_of, strays, train

from dropbench import runner
from dropbench.errors import UserError
from dropbench.runs.checkpoint import NAME, PREVIOUS, Checkpoint
from dropbench.runs.files import line, lines
from dropbench.runs.folder import ERROR, LOCK, METRICS, RESULT, RunFolder
from dropbench.runs.records import read_run
from dropbench.schema import plain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "outputs" / "main" / "run"


def state(step: int) -> Checkpoint:
    return Checkpoint({"params/w": torch.full((3,), float(step))}, {"step": step})


def begun(path: Path) -> RunFolder:
    folder = RunFolder.take(path)
    folder.start(run_of(path.parents[2]), {"started": "now"}, {"config.yaml": "seed: 0\n"})
    return folder


def filled(path: Path) -> bytes:
    """A folder left with two records before its checkpoint and two after; returns the metrics."""
    folder = begun(path)
    for seq in range(4):
        folder.metrics({"epoch": seq + 1, "loss": 1 / (seq + 1)})
        if seq == 1:
            folder.checkpoint(state(8))
    folder.close()
    return (path / METRICS).read_bytes()


# ---- the lock


def test_a_folder_is_held_by_one(path):
    first = RunFolder.take(path)
    with pytest.raises(UserError) as error:
        RunFolder.take(path)
    assert str(error.value) == f"run folder busy: {path} is held by process {os.getpid()}"
    assert read_run(path).state == "running"
    first.close()
    RunFolder.take(path).close()
    assert (path / LOCK).read_text() == f"{os.getpid()}\n"
    assert read_run(path).state == "interrupted"


def test_a_folder_held_by_another_process_is_free_when_that_is_killed(path):
    code = f"""
import sys
from pathlib import Path
from dropbench.runs.folder import RunFolder
folder = RunFolder.take(Path({str(path)!r}))
print("held", flush=True)
sys.stdin.read()
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=rf"^run folder busy: .* is held by process {other.pid}$"):
            RunFolder.take(path)
        other.send_signal(signal.SIGKILL)
        other.wait()
    folder = RunFolder.take(path)
    folder.close()


def test_a_busy_folder_is_left_as_it_is(path):
    with pytest.raises(runner.Interrupted):
        train([run_of(path.parents[2])], after(4))
    (run,) = path.parents[2].glob("*/*/")
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != LOCK}
    holder = RunFolder.take(run)
    with pytest.raises(UserError, match="busy"):
        train([run_of(path.parents[2])])
    holder.close()
    assert {file.name: file.read_bytes() for file in run.iterdir() if file.is_file() and file.name != LOCK} == before


def test_a_place_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    with pytest.raises(UserError, match=r"^(not a directory|file exists): "):
        RunFolder.take(tmp_path / "outputs" / "main" / "run")


# ---- start, resume, finish


def test_start_writes_what_is_known_and_clears_what_was_left(path):
    path.mkdir(parents=True)
    for name in (RESULT, ERROR, METRICS, NAME, PREVIOUS):
        (path / name).write_text("left by an earlier attempt")
    folder = begun(path)
    run = run_of(path.parents[2])
    assert yaml.safe_load((path / "config.yaml").read_text()) == json.loads(json.dumps(plain(run.config)))
    assert json.loads((path / "record.json").read_text()) == {"started": "now"}
    assert (path / ".hydra" / "config.yaml").read_text() == "seed: 0\n"
    assert (path / METRICS).read_bytes() == b""
    for name in (RESULT, ERROR, NAME, PREVIOUS):
        assert not (path / name).exists()
    folder.close()
    assert strays(path) == []


def test_records_are_numbered_and_appended(path):
    filled(path)
    assert [(row["seq"], row["epoch"]) for row in lines(path / METRICS)] == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_a_record_is_on_the_disk_when_it_is_reported(path, monkeypatch):
    folder = begun(path)
    calls = []
    monkeypatch.setattr(os, "write", lambda descriptor, content: calls.append("write") or len(content))
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    folder.metrics({"epoch": 1})
    assert calls == ["write", "fsync"]
    monkeypatch.undo()
    folder.close()


def test_a_record_of_which_only_a_part_was_written_is_a_full_disk(path, monkeypatch):
    folder = begun(path)
    folder.metrics({"epoch": 1})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:10]))
        with pytest.raises(UserError, match=rf"^disk full: {path / METRICS}$"):
            folder.metrics({"epoch": 2})
    folder.close()
    assert [row["epoch"] for row in lines(path / METRICS)] == [1]


def check_resumed(path: Path) -> None:
    folder = RunFolder.take(path)
    found = folder.resume()
    assert found is not None
    assert found.facts["step"] == 8
    assert found.tensors["params/w"].tolist() == [8.0] * 3
    assert folder.complaints == []
    folder.metrics({"epoch": 3})
    folder.metrics({"epoch": 4})
    folder.close()
    assert [(row["seq"], row["epoch"]) for row in rows(path)] == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert len(list(lines(path / METRICS))) == 4
    assert strays(path) == []


def test_resume_cuts_what_was_recorded_after_the_checkpoint(path):
    filled(path)
    check_resumed(path)


def test_resume_heals_a_tail_torn_at_any_byte(path):
    content = filled(path)
    last = content.splitlines(keepends=True)
    for length in range(len(content) - len(last[3]), len(content), 3):
        (path / METRICS).write_bytes(content[:length])
        check_resumed(path)
    for garbage in (b"\x00" * 30, b"\xff\n", b'{"seq": 2}\n', line({"seq": 7}), line({"seq": 2, "epoch": 99})):
        (path / METRICS).write_bytes(b"".join(last[:2]) + garbage)
        check_resumed(path)
        (path / METRICS).write_bytes(last[0] + b"garbage in the middle\n" + b"".join(last[1:]))
        check_resumed(path)


@pytest.mark.parametrize(
    "damage", [lambda rows: rows[1:], lambda rows: rows[:1], lambda rows: [rows[1], rows[0]], lambda rows: []]
)
def test_a_checkpoint_that_counts_records_which_are_gone_is_not_trusted(path, damage):
    content = filled(path)
    (path / METRICS).write_bytes(b"".join(damage(content.splitlines(keepends=True)[:2])))
    folder = RunFolder.take(path)
    assert folder.resume() is None
    (complaint,) = folder.complaints
    assert complaint == f"{path / METRICS} lacks records that the checkpoint counts"
    folder.close()


@pytest.mark.parametrize("facts", [{"step": 8}, {"step": 8, "seq": "2"}, {"step": 8, "seq": None}])
def test_a_checkpoint_without_a_count_of_records_is_not_trusted(path, facts):
    from dropbench.runs import checkpoint

    filled(path)
    checkpoint.save(path, Checkpoint({"params/w": torch.ones(3)}, facts))
    folder = RunFolder.take(path)
    assert folder.resume() is None
    assert len(folder.complaints) == 1
    folder.close()


def test_resume_falls_back_to_the_checkpoint_before_and_says_so(path):
    folder = begun(path)
    for seq in range(3):
        folder.metrics({"epoch": seq + 1})
        folder.checkpoint(state(seq))
    folder.close()
    (path / NAME).write_bytes(b"damaged")
    folder = RunFolder.take(path)
    found = folder.resume()
    assert found is not None
    assert (found.facts["step"], folder.seq) == (1, 2)
    assert len(folder.complaints) == 1
    folder.close()
    assert [row["epoch"] for row in rows(path)] == [1, 2]


def test_resume_clears_the_failure_before(path):
    filled(path)
    folder = RunFolder.take(path)
    folder.resume()
    folder.finish({"status": "failed", "error": "no luck"}, "no luck")
    folder.close()
    assert read_run(path).state == "failed"
    folder = RunFolder.take(path)
    assert folder.resume() is not None
    assert not (path / ERROR).exists()
    assert not (path / RESULT).exists()
    assert read_run(path).state == "running"
    folder.close()


def test_a_result_is_written_last_in_one_piece_and_after_its_error(path, monkeypatch):
    folder = begun(path)
    replaced = []
    replace = os.replace

    def noted(source: Any, target: Any) -> None:
        replaced.append((Path(source).name, Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "replace", noted)
    folder.finish({"status": "failed", "loss": float("nan")}, "Traceback:\n  it broke\n\n")
    assert replaced == [(".error.txt.new", ERROR), (".result.json.new", RESULT)]
    assert json.loads((path / RESULT).read_text()) == {"status": "failed", "loss": None}
    assert (path / ERROR).read_text() == "Traceback:\n  it broke\n"
    folder.close()


# ---- runs in their folders


@pytest.mark.parametrize("net", ["mlp", "cnn", "lstm"])
def test_a_run_goes_on_in_its_folder_from_any_step(tmp_path, net):
    whole = run_of(tmp_path / "whole", net)
    train([whole])
    expected = outcome(whole.path)
    assert strays(whole.path) == []
    for stop in range(6):
        run = run_of(tmp_path / f"stopped{stop}", net)
        with pytest.raises(runner.Interrupted):
            train([run], after(stop))
        assert read_run(run.path).state == "interrupted"
        steps: list[bool] = []
        report = train([run], lambda steps=steps: bool(steps.append(True))).report
        assert len(steps) == 5 - stop  # it was saved, and did not begin anew
        assert (report.failures, report.warnings) == ({}, [])
        assert outcome(run.path) == expected
        assert read_run(run.path).state == "done"


def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    whole = run_of(tmp_path / "whole")
    train([whole])
    run = run_of(tmp_path / "damaged")
    with pytest.raises(runner.Interrupted):
        train([run], after(4))
    newest = run.path / NAME
    newest.write_bytes(newest.read_bytes()[:-3])
    steps = []
    report = train([run], lambda: bool(steps.append(1))).report
    (warning,) = report.warnings
    assert str(newest) in warning
    assert len(steps) < 6  # it did not begin anew
    assert outcome(run.path) == outcome(whole.path)


def test_a_run_whose_checkpoints_are_both_damaged_begins_anew(tmp_path):
    whole = run_of(tmp_path / "whole")
    train([whole])
    run = run_of(tmp_path / "damaged")
    with pytest.raises(runner.Interrupted):
        train([run], after(4))
    for name in (NAME, PREVIOUS):
        (run.path / name).write_bytes(b"")
    assert len(train([run]).report.warnings) == 2
    assert outcome(run.path) == outcome(whole.path)


def test_runs_of_a_stack_that_stand_at_different_steps_all_come_to_their_end(tmp_path):
    def runs(place: str) -> list[Any]:
        return [run_of(tmp_path / place, "mlp", f"seed={seed}") for seed in (0, 1, 2)]

    train(runs("whole"))
    ahead = runs("apart")
    for stop, run in ((2, ahead[0]), (4, ahead[1])):
        with pytest.raises(runner.Interrupted):
            train([run], after(stop))
    train(ahead)
    for ours, theirs in zip(ahead, runs("whole"), strict=True):
        mine, other = outcome(ours.path), outcome(theirs.path)
        assert mine[0].keys() == other[0].keys()
        assert [row["epoch"] for row in mine[1]] == [1, 2]
        for name, value in other[2].items():
            torch.testing.assert_close(torch.tensor(mine[2][name]), torch.tensor(value), atol=1e-5, rtol=1e-4)


def test_an_exception_in_the_middle_fails_the_runs_with_its_traceback_and_the_next_attempt_mends_it(
    tmp_path, monkeypatch
):
    run = run_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(runner.Trainer, "_control_tick", lambda self: 1 / 0)
        report = train([run]).report
    assert report.failures == {run.id: "ZeroDivisionError: division by zero"}
    folder = run.path
    assert read_run(folder).state == "failed"
    assert "Traceback" in (folder / ERROR).read_text()
    assert train([run]).report.failures == {}
    assert read_run(folder).state == "done"
    assert strays(folder) == []  # no error.txt beside a result


class Faults:
    """Lets the n-th call that touches the disk under a folder fail, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, fail: int, code: int) -> None:
        self.count, self.folder, self.fail, self.code = 0, folder, fail, code
        self.where = "none"
        for module, names in ((os, ("fsync", "replace", "open", "write", "unlink", "mkdir")), (io, ("open",))):
            for name in names:
                monkeypatch.setattr(module, name, self._wrapped(name, getattr(module, name)))

    def _wrapped(self, name: str, call: Any) -> Any:
        def wrapped(place: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(place, int) or Path(place).is_relative_to(self.folder):
                self.count += 1
                if self.count == self.fail:
                    self.where = f"{name} {place}"
                    raise OSError(self.code, os.strerror(self.code))
            return call(place, *args, **kwargs)

        return wrapped


def test_each_call_to_the_disk_fails_once_and_the_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    """One line for the user, never a failed run; then the same command, and the same result to the bit."""
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # only its failure matters here, and it is slow
    short = ("dataset.train_size=20", "epochs=1")
    whole = run_of(tmp_path / "whole", "mlp", *short)
    train([whole])
    expected = outcome(whole.path)
    lines_told: list[str] = []
    for fail in range(1, 1000):
        run = run_of(tmp_path / str(fail), "mlp", *short)
        with monkeypatch.context() as patch:
            faults = Faults(patch, tmp_path, fail, (errno.EIO, errno.ENOSPC)[fail % 2])
            try:
                assert train([run]).report.failures == {}, faults.where
            except UserError as error:
                lines_told.append(str(error))
        if faults.count < fail:
            break
        if read_run(run.path).state != "done":
            assert train([run]).report.failures == {}, faults.where
        assert outcome(run.path) == expected, faults.where
        assert strays(run.path) == [], faults.where
    assert len(lines_told) > 30
    for each in lines_told:
        assert each.startswith(("disk full: ", "input/output error: "))
        assert str(tmp_path) in each
        assert "\n" not in each
