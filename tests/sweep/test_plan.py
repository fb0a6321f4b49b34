"""What is to be done of what was asked for, and how it is cut into stacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from tiny_runs import run_of

from dropbench.config import Run
from dropbench.runs.folder import CONFIG, ERROR, RECORD, RESULT, RunFolder
from dropbench.runs.records import PREDICTIONS, PRUNED, read_run
from dropbench.sweep.plan import Look, Plan, cut, expected, plan, shapes

#: What a run takes in a stack of so many, when stacks help.
FASTER = {1: 10.0, 2: 6.0, 4: 4.0, 8: 3.5}


@pytest.fixture
def seeds(tmp_path: Path) -> Callable[..., list[Run]]:
    """Runs that differ by seed alone."""
    base = run_of(tmp_path)

    def made(count: int, **changes: object) -> list[Run]:
        return [replace(base, config=replace(base.config, seed=seed, **changes)) for seed in range(count)]  # type: ignore[arg-type]

    return made


def put(run: Run, name: str, content: object) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / CONFIG).write_text("seed: 0\n")
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (run.path / name).write_bytes(text)


def done(run: Run) -> None:
    choices = dict.fromkeys(("dataset", "model", "strategy", "optimizer"), "x")
    result = {"status": "done", "choices": choices, "seed": 0, "group": "g", "task": "classification", "rate": 0.5}
    put(run, RESULT, {**result, "test": {"error": 1.0}})
    assert read_run(run.path).state == "done"


def began(run: Run, first: object) -> None:
    put(run, RECORD, {"stack": {"size": 2, "slot": 0, "first": first}})


def ids(runs: Sequence[Run]) -> list[str]:
    return [run.id for run in runs]


# ---- what is to be done


def test_what_lies_in_the_folders_sorts_the_runs(seeds):
    fresh, finished, failed, pruned, begun, torn = runs = seeds(6)
    done(finished)
    put(failed, RESULT, {"status": "failed", "error": "the loss is not finite"})
    put(pruned, PRUNED, {"epoch": 1})
    began(begun, "another")
    put(torn, RESULT, b'{"status": "do')
    states = [read_run(run.path).state for run in runs]
    assert states == ["unreadable", "done", "failed", "pruned", "interrupted", "unreadable"]
    found = plan(runs)
    assert ids(found.done) == [finished.id]
    assert ids(found.pruned) == []  # without `prune` it goes on
    assert ids(found.todo) == ids([fresh, failed, pruned, begun, torn])
    assert found.begun == {failed.id: "", pruned.id: "", begun.id: "another"}
    assert found.asked == 6
    assert sorted(found.paths) == sorted(run.path for run in runs)


def test_with_prune_what_such_a_sweep_stopped_stays_stopped(seeds):
    runs = seeds(3, prune=0.5)
    put(runs[1], PRUNED, {"epoch": 1})
    found = plan(runs)
    assert ids(found.pruned) == [runs[1].id]
    assert ids(found.todo) == ids([runs[0], runs[2]])
    assert runs[1].id not in found.begun
    assert str(found) == "3 runs: 0 done, 1 pruned, 0 duplicates, 2 to do"


def test_rerun_does_everything_again(seeds):
    runs = seeds(3, rerun=True, prune=0.5)
    done(runs[0])
    put(runs[1], PRUNED, {"epoch": 1})
    found = plan(runs)
    assert (found.done, found.pruned) == ((), ())
    assert ids(found.todo) == ids(runs)


def test_what_is_done_without_the_predictions_that_are_asked_for_is_to_be_done(seeds):
    runs = bare, kept, fresh = seeds(3, save_predictions=True)
    done(bare)
    done(kept)
    put(kept, PREDICTIONS, b"")
    found = plan(runs)
    assert (ids(found.done), ids(found.todo)) == ([kept.id], ids([bare, fresh]))
    assert found.begun == {bare.id: ""}
    assert str(found) == "3 runs: 1 done, 0 duplicates, 2 to do"
    assert ids(plan(seeds(3)).done) == ids([bare, kept])
    again = plan(seeds(3, save_predictions=True, rerun=True))
    assert ids(again.todo) == ids(runs)


def test_each_run_is_planned_once(seeds):
    runs = seeds(3)
    done(runs[2])
    again = replace(runs[0], overrides=("seed=0",))
    found = plan([runs[0], runs[1], again, runs[2], runs[2], runs[1]])
    assert ids(found.todo) == ids(runs[:2])
    assert ids(found.done) == [runs[2].id]
    assert str(found) == "6 runs: 1 done, 3 duplicates, 2 to do"
    assert str(plan([runs[0], runs[1], runs[0]])) == "3 runs: 0 done, 1 duplicate, 2 to do"


def test_the_same_run_in_two_studies_is_two(tmp_path):
    one, other = run_of(tmp_path, "mlp", "study=one"), run_of(tmp_path, "mlp", "study=other")
    assert one.id == other.id
    done(one)
    found = plan([one, other])
    assert [run.config.study for run in found.done] == ["one"]
    assert [run.config.study for run in found.todo] == ["other"]


def test_nothing_is_nothing():
    assert str(plan([])) == "0 runs: 0 done, 0 duplicates, 0 to do"
    assert plan([]) == Plan(0, (), (), (), {})


def test_a_run_that_is_trained_elsewhere_is_to_be_done(seeds):
    """Its stack waits until it is free; by then it may be done."""
    (run,) = seeds(1)
    folder = RunFolder.take(run.path)
    assert ids(plan([run]).todo) == [run.id]
    folder.close()


def test_begun_is_read_from_the_record_and_damage_is_no_error(seeds):
    damaged = [
        b"", b"{", b"null", b"[]", b"5", b'"first"', b'{"stack": 5}', b'{"stack": []}', b'{"stack": {}}',
        b'{"stack": null}', b'{"stack": {"first": 5}}', b'{"stack": {"first": null}}', b'{"stack": {"first": ["a"]}}',
        b'{"stack": {"first": "a"}', b"[" * 100_000, b"\xff\xfe", b"\0" * 100, b'{"stack": ' + b"9" * 5_000 + b"}",
    ]  # fmt: skip
    runs = seeds(len(damaged) + 3)
    for run, content in zip(runs, damaged, strict=False):
        put(run, RECORD, content)
    no_record, a_folder, sound = runs[len(damaged) :]
    put(no_record, ERROR, b"")
    (a_folder.path / RECORD).mkdir(parents=True)
    put(a_folder, ERROR, b"")
    began(sound, "digits-mlp-standard-r0.5-s0-00000000")
    found = plan(runs).begun
    assert list(found) == ids(runs)
    assert found.pop(sound.id) == "digits-mlp-standard-r0.5-s0-00000000"
    assert set(found.values()) == {""}


# ---- shapes


def test_a_shape_is_what_may_share_a_stack(tmp_path):
    def made(*words: str) -> Run:
        return run_of(tmp_path, "mlp", *words)

    wide = [made("model.widths=[6]"), made("model.widths=[6]", "seed=1")]
    standard = [made(), made("strategy.rate=0.1"), made("seed=3", "optimizer.learning_rate=0.3")]
    other = [made("strategy=standard")]
    mixed = [wide[0], standard[0], standard[1], other[0], wide[1], standard[2]]
    assert [ids(group) for group in shapes(mixed)] == [ids(wide), ids(standard), ids(other)]


def test_runs_that_need_records_come_last(tmp_path):
    gap, its_twin = (
        run_of(tmp_path, "mlp", "strategy.policies.gap={}", f"control={control}") for control in ("none", "mean")
    )
    timed = run_of(tmp_path, "mlp", "control=mean")  # of which the mean is known before
    assert [its_twin.config.needs_record, timed.config.needs_record] == [True, False]
    found = shapes([its_twin, timed, gap])
    assert [ids(group) for group in found] == [[timed.id], [gap.id], [its_twin.id]]


# ---- stacks


def sizes(stacks: Sequence[Sequence[Run]]) -> list[int]:
    return [len(stack) for stack in stacks]


def test_one_worker_takes_the_size_with_the_least_time_a_run(seeds):
    runs = seeds(16)
    assert sizes(cut(runs, Look(None, FASTER), {}, workers=1, groups=1)) == [8, 8]
    slower = {1: 10.0, 2: 6.0, 4: 7.0}
    assert sizes(cut(runs, Look(None, slower), {}, workers=1, groups=1)) == [2] * 8
    assert sizes(cut(runs, Look(None, {1: 1.0}), {}, workers=1, groups=1)) == [1] * 16


def test_more_workers_take_smaller_stacks_when_some_would_be_idle(seeds):
    """16 runs by t(n) n rounds, the best of 1, 2, 4, 8.

    W = 1: 160, 96, 64, 56. W = 2: 80, 48, 32, 28. W = 4: 40, 24, 16, 28. W = 8: 20, 12, 16, 28. W = 16: 10, 12, 16, 28.
    """
    runs, look = seeds(16), Look(None, FASTER)
    assert [sizes(cut(runs, look, {}, workers, groups=1))[0] for workers in (1, 2, 4, 8, 16)] == [8, 8, 4, 2, 1]


def test_with_several_shapes_the_end_is_shared(seeds):
    """W = 4 by t(n) (runs / W + n (1 - 1/W) / shapes).

    Two shapes: 10 (4 + 3/8) = 43.75, 6 (4 + 3/4) = 28.5, 4 (4 + 3/2) = 22, 3.5 (4 + 3) = 24.5; with six the last are
    4 (4 + 1/2) = 18 and 3.5 (4 + 1) = 17.5, since others keep the workers busy.
    """
    runs, look = seeds(16), Look(None, FASTER)
    assert sizes(cut(runs, look, {}, workers=4, groups=2)) == [4] * 4
    assert sizes(cut(runs, look, {}, workers=4, groups=6)) == [8, 8]


def test_pieces_are_as_few_as_can_be_and_of_nearly_equal_size(seeds):
    look = Look(None, {1: 2.0, 2: 1.5, 4: 1.0})
    found = {count: sizes(cut(seeds(count), look, {}, workers=1, groups=1)) for count in (1, 2, 4, 5, 6, 9, 10, 11)}
    assert {count: sorted(pieces) for count, pieces in found.items()} == {
        1: [1], 2: [2], 4: [4], 5: [2, 3], 6: [3, 3], 9: [3, 3, 3], 10: [3, 3, 4], 11: [3, 4, 4],
    }  # fmt: skip


def test_a_typed_size_is_an_upper_bound_for_all(seeds):
    runs = seeds(10, stack=3)
    assert sorted(sizes(cut(runs, Look(None, FASTER), {}, workers=1, groups=1))) == [2, 2, 3, 3]
    begun = dict.fromkeys(ids(runs[:7]), runs[0].id)
    found = cut(runs, Look(None, FASTER), begun, workers=1, groups=1)
    assert sorted(sizes(found)) == [2, 2, 3, 3]
    assert {run.id for stack in found[:3] for run in stack} == set(begun)


def test_what_began_together_goes_on_together(seeds):
    runs = seeds(9)
    a, b = runs[0].id, runs[5].id
    begun = {runs[0].id: a, runs[2].id: a, runs[3].id: a, runs[5].id: b, runs[1].id: b, runs[8].id: ""}
    found = [ids(stack) for stack in cut(runs, Look(None, {1: 1.0, 2: 0.9}), begun, workers=4, groups=1)]
    assert ids([runs[0], runs[2], runs[3]]) in found
    assert ids([runs[1], runs[5]]) in found
    rest = [stack for stack in found if stack[0] not in (a, runs[1].id)]
    assert [name for stack in rest for name in stack] == ids([runs[4], runs[6], runs[7], runs[8]])


def test_when_all_began_together_nothing_is_left_to_cut(seeds):
    runs = seeds(3)
    begun = dict.fromkeys(ids(runs), "elsewhere")  # the first of them may be done
    assert [ids(stack) for stack in cut(runs, Look(None, FASTER), begun, workers=2, groups=1)] == [ids(runs)]


def test_without_a_measurement_each_run_is_trained_alone(seeds):
    assert sizes(cut(seeds(3), Look(None, {}), {}, workers=1, groups=1)) == [1, 1, 1]


@cache
def many(typed: object) -> list[Run]:
    base = run_of(Path("outputs"))
    return [replace(base, config=replace(base.config, seed=seed, stack=typed)) for seed in range(40)]  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 40),
    measured=st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(1e-3, 1e3), min_size=1),
    typed=st.sampled_from(["auto", 1, 3, 4, 32]),
    together=st.lists(st.integers(0, 4), min_size=40, max_size=40),
    workers=st.integers(1, 9),
    groups=st.integers(1, 5),
)
def test_every_run_is_in_one_stack(count, measured, typed, together, workers, groups):
    runs = many(typed)[:count]
    begun = {run.id: f"first{number}" for run, number in zip(runs, together, strict=False) if number}
    stacks = cut(runs, Look(None, measured), begun, workers, groups)
    assert sorted(run.config.seed for stack in stacks for run in stack) == list(range(count))
    assert all(stacks)
    if typed != "auto":
        assert max(sizes(stacks)) <= typed
    fresh = [stack for stack in stacks if stack[0].id not in begun]
    if fresh:
        assert max(sizes(fresh)) - min(sizes(fresh)) <= 1
    for number in range(1, 5):
        mine = [stack for stack in stacks if begun.get(stack[0].id) == f"first{number}"]
        assert all(begun.get(run.id) == f"first{number}" for stack in mine for run in stack)
        assert typed != "auto" or len(mine) <= 1


# ---- time


def test_the_time_of_a_stack_is_that_of_the_largest_size_measured_below_it(seeds):
    look = Look(None, {1: 3.0, 2: 2.0, 4: 1.0})
    assert [expected(seeds(count), look, epochs=10) for count in (1, 2, 3, 4, 7)] == [30, 40, 60, 40, 70]


def test_a_stack_below_every_size_takes_the_smallest(seeds):
    assert expected(seeds(1), Look(None, {4: 1.5, 8: 1.0}), epochs=2) == 3
