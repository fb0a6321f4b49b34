"""How many runs train best as one stack: what is measured, and when no more is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from tiny_runs import never, run_of

from dropbench import runner
from dropbench.config import Run
from dropbench.errors import UserError
from dropbench.stack import MOST_RUNS
from dropbench.sweep import sizing
from dropbench.sweep.local import Local
from dropbench.sweep.plan import Look
from dropbench.sweep.report import Report
from dropbench.sweep.sizing import look


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors on a shared machine: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Pace = float | Exception | Sequence[float]


def some(root: Path, count: int, *words: str) -> list[Run]:
    return [run_of(root, "mlp", f"seed={seed}", *words) for seed in range(count)]


def looked(runs: Sequence[Run], total: int = 10**9, workers: int = 1) -> Look:
    return look(Local([], {}, never, Report()), runs, total, workers)


class Machine:
    """What the training of a stack takes, in place of a measurement.

    Args:
        paces: seconds that an epoch of a stack takes, by its size: at all visits, or one by one; an error is raised.

    Attributes:
        asked: sizes, visit by visit, apart from those that warmed up.
        now: seconds; a visit takes one, and warming up none.
        used: bytes, the most so far; each run of a stack takes `each` of them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, paces: Mapping[int, Pace]) -> None:
        self.paces, self.asked, self.now, self.used, self.each = paces, list[int](), 0.0, 1000, 0
        self.warm: set[runner.Trainer] = set()

        def pace(trainer: runner.Trainer, patience: float) -> float:
            size = trainer.nets.runs
            if trainer not in self.warm:
                assert patience == 0.0
                self.warm.add(trainer)
                self.used += size * self.each
                return 1e9
            assert patience == sizing.PATIENCE
            self.asked.append(size)
            found = self.paces[size]
            if isinstance(found, Sequence):
                found = found[self.asked.count(size) - 1]
            if isinstance(found, Exception):
                raise found
            self.now += 1.0
            return found

        monkeypatch.setattr(runner.Trainer, "pace", pace)
        monkeypatch.setattr(sizing, "time", self)
        monkeypatch.setattr(runner, "peak_memory", lambda device: self.used)

    @property
    def sizes(self) -> list[int]:
        """In the order of their first visits."""
        return list(dict.fromkeys(self.asked))

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """By default a run takes the less the larger its stack."""

    def made(paces: Mapping[int, Pace] | None = None) -> Machine:
        return Machine(monkeypatch, paces or {size: 10.0 + size for size in range(1, 100)})

    return made


# ---- which sizes


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (4, [1, 2, 4]),
        (5, [1, 2, 4, 5]),
        (9, [1, 2, 4, 8, 9]),
        (16, [1, 2, 4, 8, 16]),
    ],
)
def test_sizes_are_doubled_up_to_what_there_is(tmp_path, machine, count, sizes):
    it = machine()
    found = looked(some(tmp_path, count))
    assert it.sizes == sizes
    assert found == Look(None, {size: (10.0 + size) / size for size in sizes})


def test_the_time_is_that_of_a_run_in_its_stack(tmp_path, machine):
    machine({1: 3.0, 2: 4.0, 4: 6.0})
    assert looked(some(tmp_path, 4)).seconds == {1: 3.0, 2: 2.0, 4: 1.5}


@pytest.mark.parametrize(("typed", "sizes"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (100, [1, 2, 4, 6])])
def test_a_typed_size_bounds_it(tmp_path, machine, typed, sizes):
    it = machine()
    looked(some(tmp_path, 6, f"stack={typed}"))
    assert it.sizes == sizes


def test_the_memory_of_weights_bounds_it_unless_a_size_is_typed(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(sizing, "capacity", lambda parameters: 3)
    it = machine()
    looked(some(tmp_path, 6))
    assert it.sizes == [1, 2, 3]
    it.asked.clear()
    looked(some(tmp_path, 6, "stack=6"))
    assert it.sizes == [1, 2, 4, 6]
    monkeypatch.undo()
    small = run_of(tmp_path, "mlp").config
    data, _ = Local([], {}, never, Report()).data(small)
    assert sizing.capacity(small.model.parameters(data.facts)) == MOST_RUNS


# ---- when it is enough


def test_no_larger_size_is_tried_once_a_run_takes_much_longer_in_two_on_end(tmp_path, machine):
    """4 is 9 % slower a run than 2, the best, so that one goes on; 8 and 16 are 12 % slower."""
    it = machine({1: 1.0, 2: 1.0, 4: 4 * 0.5 * 1.09, 8: 8 * 0.5 * 1.12, 16: 16 * 0.5 * 1.12})
    found = looked(some(tmp_path, 33))
    assert it.sizes == [1, 2, 4, 8, 16]
    assert found.seconds[16] == pytest.approx(0.56)


def test_one_visit_at_a_bad_moment_hides_no_larger_size(tmp_path, machine):
    it = machine({1: 1.0, 2: 9.0, 4: 2.0, 8: 3.0})
    found = looked(some(tmp_path, 8))
    assert it.sizes == [1, 2, 4, 8]
    assert min(found.seconds, key=found.seconds.__getitem__) == 8


def test_sizes_near_the_best_are_visited_in_turn_and_their_fastest_visit_counts(tmp_path, machine):
    """The first visit to 8 is 10.8 % slower than that to 4, which is near for a while: it is none of them at first."""
    machines = {1: 9.0, 2: 2.1, 4: [4.0, 4.4, 4.4, 3.6, 4.4], 8: [8.7, 8.7, 8.7, 7.0, 8.7]}
    it = machine(machines)
    found = looked(some(tmp_path, 8))
    assert it.asked == [1, 2, 4, 8, *[2, 4, 8] * 2, *[2, 4, 8], *[4, 8]]
    assert found.seconds == {1: 9.0, 2: 1.05, 4: 0.9, 8: 0.875}


def test_one_size_far_ahead_is_visited_once(tmp_path, machine):
    it = machine({1: 1.0, 2: 1.0, 4: 1.0})
    looked(some(tmp_path, 4))
    assert it.asked == [1, 2, 4]


@pytest.mark.parametrize(
    ("total", "asked"),
    [
        (1, [1]),
        (999, [1, 2]),
        (1001, [1, 2, 4]),
        (2500, [1, 2, 4, 8]),
        (3500, [1, 2, 4, 8, 1]),
        (5001, [1, 2, 4, 8, 1, 2, 4]),
    ],
)
def test_looking_takes_a_small_share_of_the_whole_training(tmp_path, machine, monkeypatch, total, asked):
    """2 % of `total` runs of 2 epochs of 25 ms, a visit takes a second: for 1,000 runs, one after the first."""
    monkeypatch.setattr(sizing, "LEAST", 0.0)
    it = machine({size: 0.025 * size for size in (1, 2, 4, 8)})
    looked(some(tmp_path, 8), total)
    assert it.asked == (asked if total > 1 else [1, 2])


def test_some_looking_is_done_for_the_shortest_training(tmp_path, machine, monkeypatch):
    monkeypatch.setattr(sizing, "LEAST", 2.5)
    it = machine({size: 1e-6 * size for size in (1, 2, 4, 8)})
    looked(some(tmp_path, 8), 1)
    assert it.asked == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("free", "workers", "sizes"),
    [
        (1.0, 1, [1]),
        (399, 1, [1]),
        (400, 1, [1, 2]),
        (1200, 1, [1, 2, 4]),
        (1200, 3, [1, 2]),
        (1200, 4, [1]),
        (1e9, 4, [1, 2, 4, 8]),
    ],
)
def test_what_twice_the_memory_would_overfill_is_not_tried(tmp_path, machine, monkeypatch, free, workers, sizes):
    """A run takes 100 bytes, the stacks that are looked at stay, and may take half of what is free for a worker."""
    monkeypatch.setattr(sizing, "_free", lambda device: free)
    it = machine()
    it.each = 100
    looked(some(tmp_path, 8), workers=workers)
    assert it.sizes == sizes


def test_memory_that_is_free_is_known():
    assert 2**20 < sizing._free(torch.device("cpu")) < 2**50


def test_where_the_kernel_does_not_tell_a_guess_is_made(monkeypatch):
    def missing(self: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert sizing._free(torch.device("cpu")) == 2**32


# ---- what cannot be trained

NEVER_ACTS = ("strategy.policies.gradual.start=0.0", "strategy.policies.gradual.end=0.0")
REASON = "strategy.policies.gradual: its factor never leaves 0, so the strategy would never act"


def test_why_a_shape_cannot_be_trained_is_told(tmp_path, machine):
    asked = machine().asked
    assert looked(some(tmp_path, 3, *NEVER_ACTS)) == Look(REASON, {})
    assert asked == []


def test_a_run_that_is_refused_does_not_refuse_the_others_of_its_shape(tmp_path, machine):
    """They differ in real numbers alone, and so they have one shape."""
    refused = run_of(tmp_path, "mlp", "seed=9", *NEVER_ACTS)
    for runs in ([refused, *some(tmp_path, 3)], [*some(tmp_path, 3), refused]):
        it = machine()
        assert looked(runs).refused is None
        assert it.sizes == [1, 2, 3]


def test_a_twin_that_needs_a_record_is_looked_at_before_there_is_one(tmp_path, machine):
    machine()
    its_twin = run_of(tmp_path, "mlp", "strategy.policies.gap={}", "control=mean")
    assert its_twin.config.needs_record
    assert looked([its_twin]) == Look(None, {1: 11.0})


def test_data_or_devices_that_are_not_there_are_told(tmp_path, machine, monkeypatch):
    machine()
    with pytest.raises(UserError, match="device=cuda:99"):
        looked(some(tmp_path, 2, "device=cuda:99"))

    def missing(dataset: Any, folder: Path) -> None:
        raise UserError("no data")

    (run,) = some(tmp_path, 1)
    monkeypatch.setattr(type(run.config.dataset), "load", missing)
    with pytest.raises(UserError, match="no data"):
        looked([run])


def test_when_a_larger_stack_raises_what_was_measured_stays(tmp_path, machine):
    """Memory was short, or one of the runs is poisonous."""
    machine({1: 2.0, 2: 3.0, 4: MemoryError()})
    assert looked(some(tmp_path, 8)) == Look(None, {1: 2.0, 2: 1.5})


def test_when_the_first_run_raises_so_does_the_look(tmp_path, machine):
    machine({1: RuntimeError("poisonous")})
    with pytest.raises(RuntimeError, match="poisonous"):
        looked(some(tmp_path, 8))


# ---- for real


def test_a_look_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = looked(some(tmp_path / "outputs", 4))
    assert found.refused is None
    assert set(found.seconds) >= {1, 2}
    assert all(0 < seconds < 60 for seconds in found.seconds.values())
    assert list(tmp_path.iterdir()) == []
