"""Stacks in their folders: what a run comes to depends neither on its neighbours nor on interruptions."""

from __future__ import annotations

import json
import os
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from tiny_runs import after, never, outcome, rows, run_of, strays

from dropbench import runner
from dropbench.config import Run
from dropbench.errors import UserError
from dropbench.runs.checkpoint import NAME, steps
from dropbench.runs.folder import ERROR, RECORD, RESULT, BusyError, RunFolder
from dropbench.runs.predictions import read
from dropbench.runs.records import PREDICTIONS, PRUNED, is_done, read_run
from dropbench.sweep.local import Local, flat
from dropbench.sweep.report import Report


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small tensors on a shared machine: threads only wait for one another, and so do runs for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


#: 3 steps an epoch, 2 epochs, and a rate of its own for each seed.
def some(root: Path, count: int, net: str = "mlp", *words: str) -> list[Run]:
    return [run_of(root, net, f"seed={seed}", f"strategy.rate={0.2 + seed / 50}", *words) for seed in range(count)]


class Heard(Report):
    """Remembers what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.done: dict[str, tuple[float, str, str]] = {}
        self.steps: list[int] = []

    def progress(self, step: int, steps: int) -> None:
        self.steps.append(step)

    def finished(self, run: str, figure: float, name: str, dataset: str) -> None:
        self.done[run] = (figure, name, dataset)


def trained(runs: Sequence[Run], until: int | None = None, interrupted: Callable[[], bool] = never) -> Heard:
    heard = Heard()
    Local(["dropbench", "train"], {}, interrupted, heard).train(runs, until)
    return heard


def calm(heard: Heard) -> None:
    """Nothing had to be mended, and nothing failed."""
    assert (heard.failures, heard.refusals, heard.warnings, heard.crashed) == ({}, {}, [], False)


def stopped(runs: Sequence[Run], step: int) -> None:
    """Trains a stack up to a step, where it is interrupted."""
    with pytest.raises(runner.Interrupted):
        trained(runs, None, after(step - 1))


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after each step."""
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)


def check_equal(ours: Sequence[Run], theirs: Sequence[Run]) -> None:
    """Results, metrics and weights, bit for bit; and no file that a calm run would not have."""
    for one, other in zip(ours, theirs, strict=True):
        assert outcome(one.path) == outcome(other.path)
        assert strays(one.path) == []


# ---- the stack does not matter


@pytest.mark.parametrize("net", ["mlp", "lstm"])
def test_alone_and_in_stacks_of_any_size_runs_come_to_the_same(tmp_path, net):
    """Exactly: every sum goes over one run alone, in an order that does not depend on how many there are.

    A library of kernels for another CPU might choose another order for other sizes of a batch of matrices. There this
    would be too strict, and results would agree to rounding.
    """
    alone = some(tmp_path / "alone", 17, net)
    for run in alone:
        calm(trained([run]))
    for size in (2, 3, 5, 17):
        stacked = some(tmp_path / f"by{size}", 17, net)
        for at in range(0, 17, size):
            calm(trained(stacked[at : at + size]))
        check_equal(stacked, alone)
    assert len({json.dumps(outcome(run.path)[0]["validation"]) for run in alone}) > 10  # runs do differ


def test_what_is_told_and_recorded_of_a_stack(tmp_path):
    runs = some(tmp_path, 3)
    heard = trained(runs)
    calm(heard)
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    for slot, run in enumerate(runs):
        result = json.loads((run.path / RESULT).read_text())
        assert heard.done[run.id] == (result["validation"]["error"], "error", "digits")
        assert (result["id"], result["status"], result["seed"]) == (run.id, "done", slot)
        assert (result["group"], result["rate"]) == (run.group, run.config.strategy.rate)
        assert result["settings"]["dataset.train_size"] == 40
        record = json.loads((run.path / RECORD).read_text())
        assert record["stack"] == {"size": 3, "slot": slot, "first": runs[0].id}
        assert (record["command"], record["group"]) == (["dropbench", "train"], run.group)
        assert (record["choices"], record["folder"]) == (dict(run.choices), str(Path.cwd()))


def test_settings_are_told_by_dotted_keys():
    nested = {"a": 1, "b": {"c": [1], "d": {"e": None, "f": {}}}}
    assert flat(nested) == {"a": 1, "b.c": [1], "b.d.e": None}


def test_what_is_done_is_left_alone(tmp_path):
    runs = some(tmp_path, 3)
    calm(trained(runs[1:2]))
    before = {path: path.read_bytes() for path in runs[1].path.rglob("*") if path.is_file() and path.name != "lock"}
    assert trained(runs).done.keys() == {runs[0].id, runs[2].id}
    assert {path: path.read_bytes() for path in before} == before
    assert trained(runs).steps == []


def test_rerun_trains_what_is_done_anew(tmp_path):
    first = some(tmp_path, 2)
    trained(first)
    result = first[0].path / RESULT
    result.write_text(result.read_text().replace('"status": "done"', '"status": "done", "mark": 1'))
    (first[1].path / PRUNED).write_text("{}")
    again = some(tmp_path, 2, "mlp", "rerun=true")
    assert again[0].path == first[0].path
    heard = trained(again)
    calm(heard)
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    assert "mark" not in json.loads(result.read_text())
    assert strays(first[1].path) == []


def test_rerun_does_not_go_on(tmp_path):
    stopped(some(tmp_path, 2), 4)
    heard = trained(some(tmp_path, 2, "mlp", "rerun=true"))
    assert heard.steps == [1, 2, 3, 4, 5, 6]


# ---- predictions


KEEP = "save_predictions=true"


def wrong(run: Run) -> dict[str, float]:
    """The error in percent of what is kept, by split."""
    found = read(run.path)
    assert found is not None
    return {name: 100 * (part.outputs.argmax(1) != part.targets).mean() for name, part in found.parts.items()}


def test_predictions_lie_beside_the_result_and_agree_with_it(tmp_path):
    kept, plain = some(tmp_path / "kept", 3, "mlp", KEEP), some(tmp_path / "plain", 3)
    calm(trained(kept))
    calm(trained(plain))
    for run, other in zip(kept, plain, strict=True):
        assert run.id == other.id  # to keep something is no other run
        assert outcome(run.path) == outcome(other.path)
        assert strays(run.path) == [PREDICTIONS]
        result = json.loads((run.path / RESULT).read_text())
        assert wrong(run) == pytest.approx({name: result[name]["error"] for name in ("validation", "test")}, abs=1e-12)
    assert len({(run.path / PREDICTIONS).read_bytes() for run in kept}) == 3


@pytest.mark.parametrize("words", [(), ("early_stop=1", "epochs=6", "optimizer.learning_rate=1e-9")])
def test_a_run_that_is_done_is_evaluated_once_more_for_its_predictions(tmp_path, words):
    first, asked = some(tmp_path, 3, "mlp", *words), some(tmp_path, 3, "mlp", *words, KEEP)
    calm(trained(first))
    before = [outcome(run.path) for run in first]
    assert all(is_done(run) for run in first)
    assert not any(is_done(run) for run in asked)
    heard = trained(asked)
    calm(heard)
    assert heard.steps == []  # nothing is trained
    assert heard.done.keys() == {run.id for run in asked}
    assert all(is_done(run) for run in asked)
    assert [outcome(run.path) for run in asked] == before
    assert len(wrong(asked[0])) == 2
    assert trained(asked).done == {}


def test_one_that_is_done_and_one_that_is_not_keep_their_predictions(tmp_path):
    calm(trained(some(tmp_path / "parts", 1)))
    whole, parts = some(tmp_path / "whole", 2, "mlp", KEEP), some(tmp_path / "parts", 2, "mlp", KEEP)
    calm(trained(whole))
    calm(trained(parts))
    for one, other in zip(parts, whole, strict=True):
        assert outcome(one.path) == outcome(other.path)
        assert (one.path / PREDICTIONS).read_bytes() == (other.path / PREDICTIONS).read_bytes()


def test_a_run_whose_checkpoint_is_gone_is_trained_anew_for_its_predictions(tmp_path):
    (run,) = some(tmp_path, 1)
    trained([run])
    before = outcome(run.path)
    for path in run.path.glob("checkpoint*"):
        path.unlink()
    (asked,) = some(tmp_path, 1, "mlp", KEEP)
    assert trained([asked]).steps == [1, 2, 3, 4, 5, 6]
    assert outcome(run.path) == before
    assert is_done(asked)


def test_predictions_of_an_earlier_attempt_do_not_outlive_it(tmp_path):
    runs = some(tmp_path, 2, "mlp", KEEP)
    trained(runs)
    trained(some(tmp_path, 2, "mlp", "rerun=true"))
    assert [(run.path / PREDICTIONS).exists() for run in runs] == [False, False]
    trained(runs)
    (runs[0].path / RESULT).unlink()  # as if it had been interrupted
    with pytest.raises(runner.Interrupted):
        trained(some(tmp_path, 2, "mlp", "rerun=true")[:1], None, after(2))
    assert not (runs[0].path / PREDICTIONS).exists()


def test_what_is_not_a_file_counts_as_no_predictions(tmp_path):
    (run,) = some(tmp_path, 1, "mlp", KEEP)
    trained([run])
    (run.path / PREDICTIONS).unlink()
    (run.path / PREDICTIONS).mkdir()
    assert not is_done(run)
    with pytest.raises(UserError, match="is a directory"):
        trained([run])
    (run.path / PREDICTIONS).rmdir()
    (run.path / PREDICTIONS).symlink_to("/proc/1/root/x" if os.getuid() else "nowhere")
    assert not is_done(run)
    calm(trained([run]))
    assert is_done(run)


# ---- a run that raises


def raising(monkeypatch: pytest.MonkeyPatch, seed: int, step: int, error: type[BaseException] = RuntimeError) -> None:
    """Lets every stack with a run of this seed raise after so many steps."""
    update = runner.Trainer._update

    def updated(trainer: runner.Trainer, *args: Any) -> None:
        if trainer.state.step == step and seed in trainer.nets.streams.seeds:
            raise error(f"seed {seed} is poisonous")
        update(trainer, *args)

    monkeypatch.setattr(runner.Trainer, "_update", updated)


@pytest.mark.parametrize("step", [0, 2, 3, 5])
@pytest.mark.parametrize("poisonous", [0, 2, 3])
def test_a_run_that_raises_costs_no_other_run_its_result(tmp_path, monkeypatch, poisonous, step):
    calm(trained(some(tmp_path / "whole", 4)))
    runs = some(tmp_path / "poisoned", 4)
    with monkeypatch.context() as patch:
        raising(patch, poisonous, step)
        heard = trained(runs)
    assert heard.failures == {runs[poisonous].id: f"RuntimeError: seed {poisonous} is poisonous"}
    assert heard.crashed
    others = [run for slot, run in enumerate(runs) if slot != poisonous]
    assert heard.done.keys() == {run.id for run in others}
    check_equal(others, [run for slot, run in enumerate(some(tmp_path / "whole", 4)) if slot != poisonous])
    failed = runs[poisonous].path
    assert read_run(failed).state == "failed"
    told = (failed / ERROR).read_text()
    assert told.startswith("Traceback (most recent call last):")
    assert told.endswith(f"RuntimeError: seed {poisonous} is poisonous\n")
    result = json.loads((failed / RESULT).read_text())
    assert result["error"] == f"RuntimeError: seed {poisonous} is poisonous"
    assert (result["status"], result["seed"], result["group"]) == ("failed", poisonous, runs[poisonous].group)
    assert not any((run.path / ERROR).exists() for run in others)
    calm(trained(runs))  # the next command tries it again
    check_equal(runs, some(tmp_path / "whole", 4))


def test_two_that_raise_are_told_and_the_third_is_done(tmp_path, monkeypatch):
    calm(trained(some(tmp_path / "whole", 3)))
    runs = some(tmp_path / "poisoned", 3)
    raising(monkeypatch, 0, 2)
    raising(monkeypatch, 2, 4)
    heard = trained(runs)
    assert list(heard.failures) == [runs[0].id, runs[2].id]
    check_equal(runs[1:2], some(tmp_path / "whole", 3)[1:2])


def test_halves_go_on_from_their_checkpoints(tmp_path, monkeypatch, every_step):
    """Seed 3 raises at the sixth step of six: nobody trains the first five once more."""
    runs = some(tmp_path, 4)
    raising(monkeypatch, 3, 5)
    heard = trained(runs)
    assert heard.steps == [1, 2, 3, 4, 5, 6, 6]  # of four, of the half without it, of the one beside it
    assert list(heard.failures) == [runs[3].id]


@pytest.mark.parametrize("count", [1, 3])
def test_what_raises_while_results_are_written_leaves_those_that_are(tmp_path, monkeypatch, count):
    """What was written stays, and is told once."""
    runs = some(tmp_path, count)
    told: list[str] = []
    finished = Heard.finished

    def broken(heard: Heard, run: str, *args: Any) -> None:
        told.append(run)
        finished(heard, run, *args)
        if run == runs[count // 2].id:
            raise RuntimeError("the view broke")

    monkeypatch.setattr(Heard, "finished", broken)
    assert trained(runs).failures == {}
    assert told == [run.id for run in runs]
    assert [read_run(run.path).state for run in runs] == ["done"] * count


def test_a_loss_that_is_not_finite_is_a_failure_and_no_crash(tmp_path):
    wild = ("optimizer=sgd", "optimizer.learning_rate=1", "optimizer.weight_decay=100000", "epochs=4")
    mild = ("optimizer=sgd", "optimizer.learning_rate=0.05", "optimizer.weight_decay=0.0001", "epochs=4")
    runs = [run_of(tmp_path, "mlp", "seed=0", *mild), run_of(tmp_path, "mlp", "seed=1", *wild)]
    heard = trained(runs)
    ((name, reason),) = heard.failures.items()
    assert (name, heard.crashed) == (runs[1].id, False)
    assert reason.startswith("the loss is not finite at step ")
    assert (runs[1].path / ERROR).read_text() == f"{reason}\n"
    assert [read_run(run.path).state for run in runs] == ["done", "failed"]


def test_memory_of_a_stack_that_raised_is_free_when_its_halves_are_trained(tmp_path, monkeypatch):
    """As it was too large, maybe."""
    born: list[weakref.ref[runner.Trainer]] = []
    alive: list[int] = []
    init, update = runner.Trainer.__init__, runner.Trainer._update

    def noted(trainer: runner.Trainer, *args: Any) -> None:
        alive.append(sum(each() is not None for each in born))
        born.append(weakref.ref(trainer))
        init(trainer, *args)

    def short(trainer: runner.Trainer, *args: Any) -> None:
        if trainer.nets.runs > 1:
            raise MemoryError
        update(trainer, *args)

    monkeypatch.setattr(runner.Trainer, "__init__", noted)
    monkeypatch.setattr(runner.Trainer, "_update", short)
    calm(trained(some(tmp_path, 4)))
    assert alive == [0] * 7


def test_where_one_wants_to_see_it_an_exception_of_a_run_alone_is_raised(tmp_path, monkeypatch):
    monkeypatch.setenv("DROPBENCH_DEBUG", "1")
    (run,) = some(tmp_path, 1)
    raising(monkeypatch, 0, 1)
    with pytest.raises(RuntimeError, match="poisonous"):
        trained([run])
    assert read_run(run.path).state == "failed"


# ---- interruptions


@pytest.mark.parametrize("step", range(1, 7))
def test_a_stack_goes_on_from_any_step_as_one(tmp_path, step):
    calm(trained(some(tmp_path / "whole", 3)))
    runs = some(tmp_path / "stopped", 3)
    stopped(runs, step)
    assert [read_run(run.path).state for run in runs] == ["interrupted"] * 3
    heard = trained(runs)
    calm(heard)
    assert heard.steps == list(range(step + 1, 7))
    check_equal(runs, some(tmp_path / "whole", 3))


def apart(root: Path, standing: Sequence[int]) -> list[Run]:
    """A stack of 9 steps that was killed when its members had their last two checkpoints at different steps."""
    runs = some(root / "runs", len(standing), "mlp", "epochs=3")
    for step in set(standing):
        copy = some(root / f"at{step}", len(standing), "mlp", "epochs=3")
        stopped(copy, step)
        for run, other, mine in zip(runs, copy, standing, strict=True):
            if mine == step:
                shutil.copytree(other.path, run.path)
                assert steps(run.path) == [step, step - 1]
    return runs


def lose(run: Run) -> None:
    """Takes the newest checkpoint away."""
    (run.path / NAME).unlink()


def damage(run: Run) -> None:
    """Damages the newest checkpoint behind its header."""
    content = bytearray((run.path / NAME).read_bytes())
    content[-1] ^= 1
    (run.path / NAME).write_bytes(content)


def whole(root: Path, count: int) -> list[Run]:
    runs = some(root / "whole", count, "mlp", "epochs=3")
    calm(trained(runs))
    return runs


@pytest.mark.parametrize(
    ("standing", "lost", "common"),
    [
        ((6, 7, 6), (), 6),  # one was saved once more before the kill
        ((7, 6, 7), (), 6),
        ((6, 6, 6), (2,), 5),  # before the last evaluation, which the others have recorded
        ((6, 6, 6), (0, 1), 5),
        ((7, 6, 7), (2,), 6),
        ((7, 7, 7), (), 7),
    ],
)
def test_members_whose_checkpoints_are_of_different_steps_go_on_together(tmp_path, every_step, standing, lost, common):
    """From the newest step that all of them have saved, bit for bit to the undisturbed end."""
    runs = apart(tmp_path, standing)
    for slot in lost:
        lose(runs[slot])
    heard = trained(runs)
    calm(heard)
    assert heard.steps == list(range(common + 1, 10))
    check_equal(runs, whole(tmp_path, 3))


def test_members_that_have_no_step_in_common_go_on_apart(tmp_path, every_step):
    runs = apart(tmp_path, (6, 7, 6))
    lose(runs[2])
    assert [steps(run.path) for run in runs] == [[6, 5], [7, 6], [5]]
    heard = trained(runs)
    calm(heard)
    assert heard.steps == [7, 8, 9, 8, 9, 6, 7, 8, 9]  # each from its newest
    check_equal(runs, whole(tmp_path, 3))


def test_a_member_that_was_never_begun_starts_beside_those_that_go_on(tmp_path, every_step):
    runs = apart(tmp_path, (6, 6, 6))
    shutil.rmtree(runs[0].path)
    heard = trained(runs)
    calm(heard)
    assert heard.steps == [*range(1, 10), 7, 8, 9]
    check_equal(runs, whole(tmp_path, 3))


def test_a_member_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(tmp_path, every_step):
    runs = apart(tmp_path, (6, 6, 6))
    damage(runs[1])
    heard = trained(runs)
    (warning,) = heard.warnings
    assert warning.startswith(f"{runs[1].path / NAME} is damaged")
    assert heard.steps == [7, 8, 9, 6, 7, 8, 9]
    check_equal(runs, whole(tmp_path, 3))


def test_a_checkpoint_of_another_net_is_told_and_trained_anew(tmp_path):
    runs = some(tmp_path / "runs", 2)
    stopped(runs, 4)
    other = some(tmp_path / "other", 2, "mlp", "model.widths=[4]")
    stopped(other, 4)
    for run, wrong in zip(runs, other, strict=True):
        shutil.copy(wrong.path / NAME, run.path / NAME)
    heard = trained(runs)
    assert heard.warnings == [
        f"{run.path}: the checkpoint does not hold the state of this run; it is trained anew" for run in runs
    ]
    assert heard.steps == [1, 2, 3, 4, 5, 6]
    fresh = some(tmp_path / "fresh", 2)
    calm(trained(fresh))
    check_equal(runs, fresh)


def test_what_ends_the_program_is_no_failure_of_a_run(tmp_path, monkeypatch):
    runs = some(tmp_path, 2)
    with monkeypatch.context() as patch:
        raising(patch, 0, 3, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            trained(runs)
    check_free(runs)
    assert [read_run(run.path).state for run in runs] == ["interrupted"] * 2
    calm(trained(runs))


def test_a_disk_that_refuses_is_told_and_is_no_failure_of_a_run(tmp_path, monkeypatch):
    runs = some(tmp_path, 2)

    def full(folder: RunFolder, record: Any) -> None:
        raise UserError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "metrics", full)
        with pytest.raises(UserError, match="disk full"):
            trained(runs)
    check_free(runs)
    assert [read_run(run.path).state for run in runs] == ["interrupted"] * 2
    calm(trained(runs))


# ---- folders that are held


def check_free(runs: Sequence[Run]) -> None:
    for run in runs:
        RunFolder.take(run.path).close()


@pytest.mark.parametrize("busy", [0, 1, 2])
@pytest.mark.parametrize("begun", [False, True])
def test_a_stack_of_which_a_folder_is_held_waits_and_touches_nothing(tmp_path, busy, begun):
    runs = some(tmp_path, 3)
    if begun:
        stopped(runs, 4)

    def files() -> dict[Path, bytes]:
        found = [path for run in runs for path in run.path.rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in found if path.name != "lock"}

    before = files()
    holder = RunFolder.take(runs[busy].path)
    heard = Heard()
    with pytest.raises(BusyError, match=f"^run folder busy: {runs[busy].path} is held by process {os.getpid()}$"):
        Local([], {}, never, heard).train(runs)
    calm(heard)
    assert heard.steps == []
    assert files() == before
    check_free([run for slot, run in enumerate(runs) if slot != busy])
    assert read_run(runs[busy].path).state == "running"
    holder.close()
    calm(trained(runs))
    check_free(runs)


def test_folders_are_held_while_their_runs_are_trained(tmp_path):
    runs = some(tmp_path, 2)
    states: list[list[str]] = []

    def look() -> bool:
        states.append([read_run(run.path).state for run in runs])
        return False

    calm(trained(runs, None, look))
    assert states[0] == ["running", "running"]
    check_free(runs)


# ---- refusals


def test_what_cannot_be_trained_is_told_and_the_rest_is_trained(tmp_path):
    never_acts = ("strategy.policies.gradual.start=0.0", "strategy.policies.gradual.end=0.0")
    runs = some(tmp_path / "runs", 3)
    refused = run_of(tmp_path / "runs", "mlp", "seed=7", *never_acts)
    heard = trained([runs[0], refused, *runs[1:]])
    reason = "strategy.policies.gradual: its factor never leaves 0, so the strategy would never act"
    assert heard.refusals == {refused.id: reason}
    assert not refused.path.exists()
    assert heard.failures == {}
    alone = some(tmp_path / "alone", 3)
    calm(trained(alone))
    check_equal(runs, alone)


def test_where_all_are_refused_nothing_is_written(tmp_path):
    runs = some(tmp_path, 2, "mlp", "strategy.policies.gradual.start=0.0", "strategy.policies.gradual.end=0.0")
    assert trained(runs).refusals.keys() == {run.id for run in runs}
    assert list(tmp_path.iterdir()) == []


def test_a_twin_waits_for_the_record_of_the_run_that_it_controls(tmp_path):
    gap, its_twin = (
        run_of(tmp_path, "mlp", "strategy.policies.gap={}", f"control={control}") for control in ("none", "mean")
    )
    heard = trained([its_twin])
    assert heard.refusals == {
        its_twin.id: f"control=mean: needs the result of the run that it controls; train that first: {gap.path}"
    }
    calm(trained([gap]))
    calm(trained([its_twin]))
    asked = {site: figures["asked"] for site, figures in read_run(gap.path).rates.items()}
    for row in rows(its_twin.path):
        assert {site: figures["rate"] for site, figures in row["sites"].items()} == pytest.approx(asked)


# ---- until an epoch


@pytest.mark.parametrize("net", ["mlp", "lstm"])
def test_runs_that_are_left_at_an_epoch_are_interrupted_and_go_on(tmp_path, net):
    runs = some(tmp_path / "runs", 3, net, "epochs=3")
    for epoch in (1, 2):
        heard = trained(runs, epoch)
        calm(heard)
        assert heard.done == {}
        assert heard.steps == [3 * epoch - 2, 3 * epoch - 1, 3 * epoch]
        for run in runs:
            assert read_run(run.path).state == "interrupted"
            assert not (run.path / RESULT).exists()
            assert steps(run.path)[0] == 3 * epoch
            assert [row["epoch"] for row in rows(run.path)] == list(range(1, epoch + 1))
    calm(trained(runs))
    undisturbed = some(tmp_path / "whole", 3, net, "epochs=3")
    calm(trained(undisturbed))
    check_equal(runs, undisturbed)


def test_runs_that_are_beyond_the_epoch_stay_where_they_are(tmp_path):
    runs = some(tmp_path, 2, "mlp", "epochs=3")
    stopped(runs, 8)
    (runs[0].path / PRUNED).write_text("{}")
    heard = trained(runs, 1)
    assert heard.steps == []
    assert [steps(run.path)[0] for run in runs] == [8, 8]
    assert [len(rows(run.path)) for run in runs] == [2, 2]
    assert [read_run(run.path).state for run in runs] == ["interrupted"] * 2


def test_an_epoch_beyond_the_last_is_the_end(tmp_path):
    runs = some(tmp_path, 2)
    assert len(trained(runs, 5).done) == 2


# ---- data


def test_runs_with_the_same_data_share_them(tmp_path):
    local = Local([], {}, never, Report())
    one, other = some(tmp_path, 2)
    larger = run_of(tmp_path, "mlp", "dataset.train_size=41")
    assert local.data(one.config)[0] is local.data(other.config)[0]
    assert local.data(larger.config)[0] is not local.data(one.config)[0]
    assert len({local.data(run.config)[1] for run in (one, other, larger)}) == 2
