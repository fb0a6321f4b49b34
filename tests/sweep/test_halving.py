"""Successive halving: who stops at a rung, by figures written by hand; the driver, with crews that are no processes."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result
from tiny_runs import never, outcome, run_of, strays

from dropbench.config import Run
from dropbench.runs.files import line, lines
from dropbench.runs.folder import METRICS, RESULT
from dropbench.runs.records import PRUNED, read_run
from dropbench.sweep.engine import Stacks, train, train_halving
from dropbench.sweep.halving import MARKS, rung, score, stop, worst
from dropbench.sweep.local import Local
from dropbench.sweep.plan import plan
from dropbench.sweep.workers import SweepReport


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a shared machine: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setting(tmp_path: Path) -> Callable[..., list[Run]]:
    """The runs of one setting, a seed each; settings differ by their rate."""
    base = run_of(tmp_path, "mlp", "epochs=8", "prune=0.5")

    def made(rate: float, seeds: int = 2, **changes: Any) -> list[Run]:
        strategy = replace(base.config.strategy, rate=rate)
        config = replace(base.config, strategy=strategy, **changes)
        return [replace(base, config=replace(config, seed=seed)) for seed in range(seeds)]

    return made


def record(run: Run, errors: Mapping[int, float] | Sequence[float]) -> None:
    """Writes evaluations: validation errors by epoch, or of epochs 1, 2, ..."""
    by_epoch = errors if isinstance(errors, Mapping) else dict(enumerate(errors, 1))
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "config.yaml").write_text("seed: 0\n")
    rows = [
        {"seq": seq, "epoch": epoch, "train": {"error": 0.0}, "validation": {"error": error, "loss": 100 - error}}
        for seq, (epoch, error) in enumerate(by_epoch.items())
    ]
    (run.path / METRICS).write_bytes(b"".join(map(line, rows)))


def fail(run: Run) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / RESULT).write_text('{"status": "failed", "error": "the loss is not finite"}')


# ---- rungs


@pytest.mark.parametrize(
    ("epochs", "every", "rungs"),
    [
        (200, 1, [50, 100]),
        (8, 1, [2, 4]),
        (10, 1, [3, 5]),  # the next one after 2.5
        (10, 4, [4, 8]),
        (9, 3, [3, 6]),
        (30, 8, [8, 16]),
        (30, 20, [20, 20]),
        (10, 6, [6, 6]),
        (3, 5, [3, 3]),  # evaluated at the end alone
        (2, 1, [1, 1]),
        (1, 1, [1, 1]),
    ],
)
def test_a_rung_is_the_evaluation_at_or_next_after_its_mark(tmp_path, epochs, every, rungs):
    config = run_of(tmp_path, "mlp", f"epochs={epochs}", f"evaluation.every={every}").config
    assert [rung(config, mark) for mark in MARKS] == rungs


# ---- scores


def test_a_score_is_the_best_so_far(setting):
    (run,) = setting(0.1, 1)
    record(run, [30.0, 10.0, 20.0, 5.0])
    assert [score(run, epoch) for epoch in (1, 2, 3, 4)] == [30.0, 10.0, 10.0, 5.0]


def test_a_run_without_evaluations_has_the_worst_score(setting):
    never_begun, early, torn = setting(0.1, 3)
    record(early, {5: 1.0})
    record(torn, [1.0])
    (torn.path / METRICS).write_bytes((torn.path / METRICS).read_bytes()[:-1])
    assert [score(run, 4) for run in (never_begun, early, torn)] == [math.inf] * 3


def test_a_failed_run_has_the_worst_score_whatever_it_was_before(setting):
    (run,) = setting(0.1, 1)
    record(run, [1.0, 1.0])
    assert score(run, 2) == 1.0
    fail(run)
    assert score(run, 2) == math.inf


def test_a_figure_that_is_not_finite_is_the_worst(setting):
    (run,) = setting(0.1, 1)
    record(run, [20.0, math.nan])  # written as null
    assert score(run, 1) == 20.0
    assert score(run, 2) == math.inf


def test_regression_is_judged_by_rmse_and_what_has_neither_by_its_loss(setting):
    run, other = setting(0.1, 2)
    for each, figures in ((run, {"loss": 4.0, "rmse": 2.0}), (other, {"loss": 4.0})):
        each.path.mkdir(parents=True)
        (each.path / METRICS).write_bytes(line({"seq": 0, "epoch": 1, "validation": figures}))
    assert [score(each, 1) for each in (run, other)] == [2.0, 4.0]


# ---- who stops

#: Errors at epochs 1, 2, 3 of two seeds, by rate. The best at the rung, epoch 2, and their means: see the test.
FIVE = {
    0.1: ([10.0, 90.0, 90.0], [95.0, 20.0, 90.0]),  # 10 and 20: 15
    0.2: ([12.0, 13.0, 90.0], [40.0, 14.0, 90.0]),  # 12 and 14: 13
    0.3: ([30.0, 31.0, 1.0], [11.0, 10.0, 1.0]),  # 30 and 10: 20, best of all at epoch 3
    0.4: ([16.0, 16.0, 1.0], [17.0, 16.0, 1.0]),  # 16 and 16: 16
    0.5: ([14.0, 50.0, 90.0], [50.0, 17.0, 90.0]),  # 14 and 17: 15.5
}


@pytest.fixture
def five(setting) -> dict[float, list[Run]]:
    settings = {rate: setting(rate) for rate in FIVE}
    for rate, runs in settings.items():
        for run, errors in zip(runs, FIVE[rate], strict=True):
            record(run, errors)
    return settings


def every(settings: Mapping[float, list[Run]]) -> list[Run]:
    return [run for runs in settings.values() for run in runs]


@pytest.mark.parametrize(
    ("share", "stopped"),
    [
        (0.0, {}),
        (0.19, {}),  # of five settings 0.95, rounded down
        (0.2, {0.3: 20.0}),
        (0.5, {0.3: 20.0, 0.4: 16.0}),
        (0.6, {0.3: 20.0, 0.4: 16.0, 0.5: 15.5}),
        (1.0, {0.1: 15.0, 0.3: 20.0, 0.4: 16.0, 0.5: 15.5}),  # one always stays
    ],
)
def test_the_worst_of_five_settings_of_two_seeds(five, share, stopped):
    expected = {five[rate][0].group: mean for rate, mean in stopped.items()}
    assert worst(every(five), 0, share) == expected
    shuffled = every(five)
    random.Random(0).shuffle(shuffled)
    assert worst(shuffled, 0, share) == expected


def test_at_the_second_rung_what_came_meanwhile_counts(five):
    """At epoch 4, where the best of 0.3 and of 0.4 is 1."""
    assert set(worst(every(five), 1, 0.4)) == {five[0.1][0].group, five[0.5][0].group}


def test_equal_settings_are_told_apart_by_name_alone(setting):
    settings = {rate: setting(rate) for rate in (0.1, 0.2, 0.3, 0.4)}
    for run in every(settings):
        record(run, [7.0, 7.0])
    groups = sorted(runs[0].group for runs in settings.values())
    assert list(worst(every(settings), 0, 0.5)) == groups[2:]
    assert list(worst(every(settings)[::-1], 0, 0.5)) == groups[2:]


def test_a_setting_of_which_a_run_failed_is_the_worst(five):
    fail(five[0.2][1])
    assert worst(every(five), 0, 0.2) == {five[0.2][0].group: math.inf}


def test_of_settings_that_all_failed_one_stays(five):
    for run in every(five):
        fail(run)
    assert len(worst(every(five), 0, 1.0)) == 4


def test_data_sets_and_models_are_judged_apart(five):
    """The other task is harder by far, so that together all of it would stop."""

    def other(key: str) -> dict[float, list[Run]]:
        return {rate: [replace(run, choices={**run.choices, key: "x"}) for run in runs] for rate, runs in five.items()}

    hard, model = other("dataset"), other("model")
    for settings, shift in ((hard, 100.0), (model, 200.0)):
        for rate, runs in settings.items():
            for run, errors in zip(runs, FIVE[rate], strict=True):
                record(run, [error + shift for error in errors])
    found = worst([*every(five), *every(hard), *every(model)], 0, 0.2)
    assert found == {five[0.3][0].group: 20.0, hard[0.3][0].group: 120.0, model[0.3][0].group: 220.0}


def test_runs_of_different_lengths_are_judged_apart(setting):
    short = {rate: setting(rate, epochs=8) for rate in (0.1, 0.2)}
    long = {rate: setting(rate, epochs=16) for rate in (0.1, 0.2)}
    for rate in (0.1, 0.2):
        for run in short[rate]:
            record(run, {2: 50.0 + rate})
        for run in long[rate]:
            record(run, {4: 10.0 + rate})
    assert set(worst([*every(short), *every(long)], 0, 0.5)) == {short[0.2][0].group, long[0.2][0].group}


@pytest.mark.parametrize(("epochs", "deciding"), [(1, []), (2, [0]), (3, [0, 1]), (8, [0, 1])])
def test_nothing_is_decided_at_the_end_nor_twice_at_one_epoch(setting, epochs, deciding):
    settings = {rate: setting(rate, epochs=epochs) for rate in (0.1, 0.2)}
    for run in every(settings):
        record(run, [1.0] * epochs)
    assert [number for number in range(len(MARKS)) if worst(every(settings), number, 0.5)] == deciding


def test_where_all_evaluations_come_at_the_end_nothing_is_decided(setting):
    base = setting(0.1)[0].config.evaluation
    settings = {rate: setting(rate, evaluation=replace(base, every=8)) for rate in (0.1, 0.2)}
    for run in every(settings):
        record(run, {8: 1.0})
    assert [worst(every(settings), number, 0.5) for number in range(len(MARKS))] == [{}, {}]


def test_why_a_run_stopped_is_written_in_its_folder(five):
    run = five[0.3][0]
    stop(run, 2, 20.0, 0.5)
    assert json.loads((run.path / PRUNED).read_text()) == {"epoch": 2, "score": 20.0, "share": 0.5}
    assert read_run(run.path).state == "pruned"
    stop(run, 2, math.inf, 0.5)
    assert json.loads((run.path / PRUNED).read_text())["score"] is None


# ---- the driver


class Told:
    """A view that remembers which runs were left."""

    def __init__(self) -> None:
        self.left: list[str] = []

    def dropped(self, run: str) -> None:
        self.left.append(run)

    def finished(self, run: str, figure: float, name: str, dataset: str) -> None: ...

    def failed(self, run: str, reason: str) -> None: ...

    def note(self, line: str) -> None: ...


class Written:
    """A crew that writes what runs come to, in place of training them, and may be interrupted after so many stacks.

    Args:
        errors: validation error of each epoch, by id.
        stacks: that it trains before it is interrupted.
        failing: the epoch at which a run fails, by id.
        stopping: the epoch at which a run is done by its `early_stop`, by id.
    """

    def __init__(
        self,
        errors: Mapping[str, Sequence[float]],
        stacks: float = math.inf,
        failing: Mapping[str, int] | None = None,
        stopping: Mapping[str, int] | None = None,
    ) -> None:
        self.errors, self.stacks, self.failing, self.stopping = errors, stacks, failing or {}, stopping or {}
        self.trained: list[tuple[int | None, list[str]]] = []

    def devices(self) -> int:
        return 0

    def size(self, workers: int, gpus: int) -> None: ...

    def train(self, stacks: Any, report: SweepReport, hydra: Any, until: float | None = None) -> bool:
        for stack in stacks:
            if self.stacks <= 0:
                return False
            self.stacks -= 1
            end = None if until is None else rung(stack[0].config, until)
            self.trained.append((end, [run.id for run in stack]))
            for run in stack:
                self._train(run, end, report)
        return True

    def _train(self, run: Run, end: int | None, report: SweepReport) -> None:
        if read_run(run.path).state == "done":
            return
        for name in (PRUNED, RESULT):
            (run.path / name).unlink(missing_ok=True)
        errors = self.errors[run.id]
        fails, stops = self.failing.get(run.id, math.inf), self.stopping.get(run.id, math.inf)
        last = int(min(len(errors) if end is None else end, fails, stops))
        written = len(list(lines(run.path / METRICS)))
        record(run, errors[: max(last, written)])
        if last == fails:
            fail(run)
            report.failed(run.id, "the loss is not finite", False)
        elif last in (len(errors), stops):
            (run.path / RESULT).write_text(json.dumps(result(run.config.seed, errors[-1])))
            report.finished(run.id, errors[-1], "error", "digits")


def halved(runs: Sequence[Run], crew: Any, refused: Mapping[str, str] | None = None) -> tuple[bool, Told]:
    """Trains runs with `prune`, in stacks of two."""
    planned = plan(runs)
    todo = [run for run in planned.todo if run.id not in (refused or {})]
    stacks = tuple(tuple(todo[at : at + 2]) for at in range(0, len(todo), 2))
    view = Told()
    report = SweepReport(view, first=False)  # type: ignore[arg-type]
    return train_halving(Stacks(planned, stacks, 1, 1.0, refused or {}), crew, report, {}), view


def states(runs: Sequence[Run]) -> list[str]:
    return [read_run(run.path).state for run in runs]


#: Errors of 8 epochs of two seeds, by rate. At epoch 2 the worst two of four stop, at epoch 4 the worse of two.
FOUR = {
    0.1: ([50, 9, 9, 8, 8, 8, 8, 8], [50, 9, 9, 7, 7, 7, 7, 7]),  # 9, then 7.5: stays
    0.2: ([50, 8, 8, 8, 1, 1, 1, 1], [50, 8, 8, 8, 1, 1, 1, 1]),  # 8, then 8: stops at epoch 4
    0.3: ([50, 10, 1, 1, 1, 1, 1, 1], [50, 10, 1, 1, 1, 1, 1, 1]),  # 10: stops at epoch 2
    0.4: ([50, 20, 1, 1, 1, 1, 1, 1], [50, 2, 1, 1, 1, 1, 1, 1]),  # 11: stops at epoch 2
}


@pytest.fixture
def four(setting) -> dict[float, list[Run]]:
    return {rate: setting(rate) for rate in FOUR}


def errors_of(settings: Mapping[float, list[Run]]) -> dict[str, Sequence[float]]:
    return {run.id: errors for rate, runs in settings.items() for run, errors in zip(runs, FOUR[rate], strict=True)}


def check_four(four: Mapping[float, list[Run]]) -> None:
    """What becomes of them, whatever happens on the way."""
    for rate, state in ((0.1, "done"), (0.2, "pruned"), (0.3, "pruned"), (0.4, "pruned")):
        assert states(four[rate]) == [state] * 2, rate
    facts = {rate: [json.loads((run.path / PRUNED).read_text()) for run in four[rate]] for rate in (0.2, 0.3, 0.4)}
    assert facts == {
        0.2: [{"epoch": 4, "score": 8.0, "share": 0.5}] * 2,
        0.3: [{"epoch": 2, "score": 10.0, "share": 0.5}] * 2,
        0.4: [{"epoch": 2, "score": 11.0, "share": 0.5}] * 2,
    }


def test_the_worst_settings_stop_and_the_others_go_on(four):
    crew = Written(errors_of(four))
    complete, view = halved(every(four), crew)
    assert complete
    check_four(four)
    stack = {rate: [run.id for run in runs] for rate, runs in four.items()}
    assert crew.trained == [
        *((2, stack[rate]) for rate in (0.1, 0.2, 0.3, 0.4)),
        *((4, stack[rate]) for rate in (0.1, 0.2)),
        (None, stack[0.1]),
    ]
    assert sorted(view.left) == sorted(run.id for rate in (0.2, 0.3, 0.4) for run in four[rate])
    found = plan(every(four))
    assert [len(found.done), len(found.pruned), len(found.todo)] == [2, 6, 0]


@pytest.mark.parametrize("stacks", range(7))
def test_a_sweep_that_is_interrupted_anywhere_decides_the_same(four, stacks):
    """Seven stacks are trained in all, and one that was interrupted goes on with what is planned then."""
    complete, _ = halved(every(four), Written(errors_of(four), stacks))
    assert not complete
    complete, _ = halved(every(four)[::-1], Written(errors_of(four)))
    assert complete
    check_four(four)
    before = {path: path.read_bytes() for run in every(four) for path in run.path.iterdir()}
    crew = Written(errors_of(four))
    assert halved(every(four), crew)[0]
    assert crew.trained == []  # nothing is left to do
    assert {path: path.read_bytes() for run in every(four) for path in run.path.iterdir()} == before


def test_a_done_run_counts_and_is_not_stopped(four):
    """0.4 was trained to its end before; it is third at the first rung, and 0.3 the last."""
    crew = Written(errors_of(four))
    report = SweepReport(Told(), first=False)  # type: ignore[arg-type]
    for run in four[0.4]:
        crew._train(run, None, report)
    halved(every(four), crew)
    assert states(four[0.4]) == ["done", "done"]
    assert not any((run.path / PRUNED).exists() for run in four[0.4])
    assert [states(four[rate]) for rate in (0.1, 0.2, 0.3)] == [["done"] * 2, ["pruned"] * 2, ["pruned"] * 2]


def test_a_failed_run_stops_its_setting_and_stays_failed(four):
    failing = four[0.1][0]
    halved(every(four), Written(errors_of(four), failing={failing.id: 2}))
    assert states(four[0.1]) == ["failed", "pruned"]
    assert not (failing.path / PRUNED).exists()
    assert json.loads((four[0.1][1].path / PRUNED).read_text()) == {"epoch": 2, "score": None, "share": 0.5}
    assert states(four[0.4]) == ["pruned"] * 2  # 11, the last but one
    assert [states(four[rate]) for rate in (0.2, 0.3)] == [["pruned"] * 2, ["done"] * 2]  # at epoch 4, 8 and 1


@pytest.mark.parametrize("stacks", range(8))
def test_a_run_that_fails_between_the_rungs_is_judged_the_same_each_time(four, stacks):
    """Each command tries it again."""
    failing = {four[0.1][0].id: 3}
    halved(every(four), Written(errors_of(four), stacks, failing))
    for _ in range(2):
        halved(every(four), Written(errors_of(four), failing=failing))
        assert states(four[0.1]) == ["failed", "pruned"]
        assert [states(four[rate])[0] for rate in (0.2, 0.3, 0.4)] == ["done", "pruned", "pruned"]
        assert json.loads((four[0.1][1].path / PRUNED).read_text()) == {"epoch": 4, "score": None, "share": 0.5}


def test_a_refused_run_is_not_in_it(four):
    refused = dict.fromkeys((run.id for run in four[0.4]), "cannot act")
    halved(every(four), Written(errors_of(four)), refused)
    assert not any(run.path.exists() for run in four[0.4])
    assert [states(four[rate]) for rate in (0.1, 0.2, 0.3)] == [["done"] * 2, ["pruned"] * 2, ["pruned"] * 2]
    assert json.loads((four[0.2][0].path / PRUNED).read_text())["epoch"] == 4  # one of three first, and one of two


def test_prune_of_nothing_trains_all(four):
    settings = {
        rate: [replace(run, config=replace(run.config, prune=0.0)) for run in runs] for rate, runs in four.items()
    }
    crew = Written(errors_of(four))
    assert halved(every(settings), crew)[0]
    assert set(states(every(four))) == {"done"}


def test_what_was_stopped_before_is_not_told_again(four):
    """The view takes each of them from the runs that are to be trained."""
    halved(every(four), Written(errors_of(four), stacks=5))  # interrupted between the rungs
    assert [run.id for run in plan(every(four)).pruned] == [run.id for rate in (0.3, 0.4) for run in four[rate]]
    _, view = halved(every(four), Written(errors_of(four)))
    assert view.left == [run.id for run in four[0.2]]
    _, view = halved(every(four), Written(errors_of(four)))
    assert view.left == []


def test_a_run_that_is_done_by_the_rung_is_not_stopped(four):
    """By `early_stop`; its setting is among the worst."""
    early = four[0.4][0]
    _, view = halved(every(four), Written(errors_of(four), stopping={early.id: 2}))
    assert states(four[0.4]) == ["done", "pruned"]
    assert not (early.path / PRUNED).exists()
    assert early.id not in view.left


# ---- with runs that are trained


class Here:
    """A crew that trains in this process."""

    def devices(self) -> int:
        return 0

    def size(self, workers: int, gpus: int) -> None: ...

    def train(self, stacks: Any, report: SweepReport, hydra: Any, until: float | None = None) -> bool:
        for stack in stacks:
            Local(["dropbench"], {}, never, report).train(stack, until and rung(stack[0].config, until))
        return True


def trained(root: Path, prune: float | None) -> list[Run]:
    words = ("epochs=4", f"prune={'null' if prune is None else prune}")
    runs = [run_of(root, "mlp", *words, f"strategy.rate={rate}") for rate in (0.1, 0.5, 0.9)]
    view = Told()
    report = SweepReport(view, first=False)  # type: ignore[arg-type]
    planned = plan(runs)
    prepared = Stacks(planned, (planned.todo,) if planned.todo else (), 1, 1.0, {})
    assert (train if prune is None else train_halving)(prepared, Here(), report, {})  # type: ignore[operator]
    assert (report.failures, report.refusals, report.warnings) == ({}, {}, [])
    return runs


def test_what_was_pruned_goes_on_without_prune_and_comes_to_the_same(tmp_path):
    pruned = trained(tmp_path / "pruned", 0.4)  # one of three at epoch 1, none of two at epoch 2
    assert sorted(states(pruned)) == ["done", "done", "pruned"]
    (stopped,) = (run for run in pruned if read_run(run.path).state == "pruned")
    assert json.loads((stopped.path / PRUNED).read_text())["epoch"] == 1
    assert len(list(lines(stopped.path / METRICS))) == 1
    again = trained(tmp_path / "pruned", None)
    assert states(again) == ["done"] * 3
    whole = trained(tmp_path / "whole", None)
    for ours, theirs in zip(again, whole, strict=True):
        assert outcome(ours.path) == outcome(theirs.path)
        assert strays(ours.path) == []  # no pruned.json


def test_twins_that_need_records_are_trained_in_a_sweep_with_prune(tmp_path):
    words = ("epochs=4", "prune=0.0", "strategy.policies.gap={}")
    gap, its_twin = runs = [run_of(tmp_path, "mlp", *words, f"control={control}") for control in ("none", "mean")]
    assert its_twin.config.needs_record
    report = SweepReport(Told(), first=False)  # type: ignore[arg-type]
    assert train_halving(Stacks(plan(runs), ((gap,), (its_twin,)), 1, 1.0, {}), Here(), report, {})  # type: ignore[arg-type]
    assert report.refusals == {}
    assert states(runs) == ["done", "done"]
