"""Generated tasks: the answer is worked out again from the inputs alone, by another way."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dropbench.data import Data, Dataset, Split
from dropbench.data.adding import Adding
from dropbench.data.copy_memory import CopyMemory
from dropbench.data.figures import with_figures
from dropbench.data.temporal_order import TemporalOrder
from dropbench.errors import UserError
from dropbench.parts import find
from dropbench.schema import build
from dropbench.spec import Facts

NOWHERE = Path("/nonexistent")
SIZES = {"train_size": 300, "validation_size": 40, "test_size": 50}
TASKS = (TemporalOrder, Adding, CopyMemory)


VARIABLE = (TemporalOrder, Adding)
#: Steps of the longest and of the shortest sequence.
LENGTHS = [(10, None), (37, None), (100, None), (11, 10), (100, 10)]


def parts(data: Data) -> list[Split]:
    return [data.train, data.validation, data.test]


def cut(part: Split) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each sequence without its padding, which is 0, and its target."""
    count, length = part.inputs.shape[:2]
    steps = part.facts["steps"].tolist() if part.facts else [length] * count
    for sequence, end in zip(part.inputs, steps, strict=True):
        assert not sequence[end:].any()
    return [(part.inputs[number, :end], part.targets[number]) for number, end in enumerate(steps)]


@pytest.mark.parametrize(("length", "shortest"), LENGTHS)
def test_temporal_order(length: int, shortest: int | None) -> None:
    data = TemporalOrder(length=length, shortest=shortest, **SIZES).load(NOWHERE)
    assert data.facts == Facts("sequence", (length, 8), "classification", 4, symbols=True, shortest=shortest)
    for part in parts(data):
        assert part.targets.dtype == torch.int64
        assert part.inputs.shape == (len(part), length, 8)
        for sequence, target in cut(part):
            steps = len(sequence)
            assert set(sequence.flatten().tolist()) == {0.0, 1.0}
            assert sequence.sum(1).tolist() == [1] * steps
            text = "".join("abcdXYEB"[symbol] for symbol in sequence.argmax(1).tolist())
            assert (text[0], text[-1]) == ("E", "B")
            assert not set(text[1:-1]) & set("EB")
            (first, one), (second, other) = [(at, symbol) for at, symbol in enumerate(text) if symbol in "XY"]
            assert ["XX", "XY", "YX", "YY"].index(one + other) == target
            assert steps // 10 <= first <= steps // 5
            assert steps // 2 <= second <= 6 * steps // 10
    assert data.train.targets.bincount(minlength=4).min() > 300 / 4 - 4 * math.sqrt(300 * 3 / 16)


@pytest.mark.parametrize(("length", "shortest"), LENGTHS)
def test_adding(length: int, shortest: int | None) -> None:
    data = Adding(length=length, shortest=shortest, **SIZES).load(NOWHERE)
    assert Adding.objective == "mean_squared_error"
    assert data.facts == Facts("sequence", (length, 2), "regression", 1, shortest=shortest)
    for part in parts(data):
        assert part.targets.dtype == torch.float32
        assert part.targets.shape == (len(part), 1)
        assert part.inputs.shape == (len(part), length, 2)
        for sequence, target in cut(part):
            steps = len(sequence)
            values, marks = sequence.double().unbind(1)
            assert 0 < values.min() <= values.max() < 1
            assert sorted(marks.tolist()) == [0] * (steps - 2) + [1, 1]
            assert marks[: steps // 2].sum() == 1
            assert float(values @ marks) == pytest.approx(float(target), abs=1e-6)


@pytest.mark.parametrize("task", VARIABLE)
def test_lengths_are_uniform_from_the_shortest_to_the_longest(task: type[Dataset]) -> None:
    train = task(length=13, shortest=10, train_size=4000).load(NOWHERE).train
    steps = train.facts["steps"]
    assert (steps.dtype, steps.shape) == (torch.int64, (4000,))
    counts = steps.bincount()
    assert counts[:10].tolist() == [0] * 10
    assert counts[10:].sum() == 4000
    assert (counts[10:] - 1000).abs().max() < 4 * math.sqrt(4000 * 3 / 16)


@pytest.mark.parametrize("task", VARIABLE)
def test_every_place_of_its_window_is_taken(task: type[Dataset]) -> None:
    """Windows of sequences of 10 and of 11 steps, by hand: 1 to 2 and 5 to 6; two halves."""
    train = task(length=11, shortest=10, train_size=1000).load(NOWHERE).train
    seen: dict[int, set[int]] = {10: set(), 11: set()}
    for sequence, _ in cut(train):
        marks = sequence[:, 4:6].sum(1) if task is TemporalOrder else sequence[:, 1]
        seen[len(sequence)] |= set(marks.nonzero().flatten().tolist())
    if task is TemporalOrder:
        assert seen == {10: {1, 2, 5, 6}, 11: {1, 2, 5, 6}}
    else:
        assert seen == {10: set(range(10)), 11: set(range(11))}


@pytest.mark.parametrize("task", VARIABLE)
def test_all_as_long_as_length_have_no_steps_among_their_facts(task: type[Dataset]) -> None:
    fixed = task(length=20, **SIZES).load(NOWHERE)
    assert all(part.facts == {} for part in parts(fixed))
    varying = task(length=20, shortest=19, **SIZES).load(NOWHERE)
    full = varying.train.facts["steps"] == 20
    assert 0 < full.sum() < 300
    # the lengths are drawn beside everything else: a sequence of full length is the same one
    assert torch.equal(varying.train.inputs[full], fixed.train.inputs[full])
    assert torch.equal(varying.train.targets[full], fixed.train.targets[full])


def test_a_policy_is_told_the_length_of_each_sequence() -> None:
    data = with_figures(Adding(length=30, shortest=10, **SIZES).load(NOWHERE), ["length"])
    for part in parts(data):
        assert torch.equal(part.facts["length"], (part.facts["steps"].float() - 10) / 20)


@pytest.mark.parametrize("task", VARIABLE)
@pytest.mark.parametrize(
    ("shortest", "line"),
    [
        (9, r"dataset\.shortest=9: out of range; allowed: 10 <= value <= 10000"),
        (20, r"dataset: shortest=20: allowed: less than length=20, or null"),
        (21, r"dataset: shortest=21: allowed: less than length=20, or null"),
        ("ten", r"dataset\.shortest=ten: allowed: a whole number or null"),
    ],
)
def test_a_shortest_that_is_not_shorter_is_refused(task: type[Dataset], shortest: object, line: str) -> None:
    with pytest.raises(UserError, match=f"^{line}$"):
        build(task, {"length": 20, "shortest": shortest}, "dataset")


def test_adding_baseline() -> None:
    data = Adding(length=10, train_size=20_000).load(NOWHERE)
    assert float((data.train.targets - 1).square().mean()) == pytest.approx(1 / 6, abs=0.006)  # 4 deviations


@pytest.mark.parametrize(("length", "symbols", "alphabet"), [(10, 10, 8), (25, 3, 2), (12, 1, 5)])
def test_copy_memory(length: int, symbols: int, alphabet: int) -> None:
    data = CopyMemory(length=length, symbols=symbols, alphabet=alphabet, **SIZES).load(NOWHERE)
    steps = length + 2 * symbols
    shape = (steps, alphabet + 2)
    assert data.facts == Facts("sequence", shape, "classification", alphabet + 1, per_step=True, symbols=True)
    for part in parts(data):
        assert part.targets.dtype == torch.int64
        assert part.targets.shape == (len(part), steps)
        for sequence, target in zip(part.inputs, part.targets.tolist(), strict=True):
            assert sequence.sum(1).tolist() == [1] * steps
            shown = sequence.argmax(1).tolist()
            word = [symbol for symbol in shown if symbol < alphabet]
            assert shown == word + [alphabet] * (length - 1) + [alphabet + 1] + [alphabet] * symbols
            assert target == [alphabet] * (length + symbols) + word
            assert len(word) == symbols
    # of Arjovsky et al.: the delimiter stands at T + 10 counted from 1, ten before the last step
    assert data.train.inputs[0, :, alphabet + 1].argmax() == steps - symbols - 1


@pytest.mark.parametrize(
    "task",
    [*(task(**SIZES) for task in TASKS), *(task(shortest=20, **SIZES) for task in VARIABLE)],
    ids=["temporal_order", "adding", "copy_memory", "temporal_order_variable", "adding_variable"],
)
def test_the_same_for_every_run_and_nested(task: TemporalOrder | Adding | CopyMemory) -> None:
    one, again = (task.load(NOWHERE) for _ in range(2))
    larger = replace(task, train_size=500).load(NOWHERE)
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert torch.equal(one.train.inputs, larger.train.inputs[:300])
    assert torch.equal(one.train.targets, larger.train.targets[:300])
    assert torch.equal(one.test.inputs, larger.test.inputs)
    for name, figure in one.train.facts.items():
        assert torch.equal(figure, again.train.facts[name])
        assert torch.equal(figure, larger.train.facts[name][:300])
    assert not torch.equal(one.train.inputs[:40], one.validation.inputs)
    assert len(torch.cat([part.inputs for part in parts(one)]).unique(dim=0)) == 390  # no test sequence trains


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"length": 10**12}, r"dataset\.length=1000000000000: out of range"),
        ({"length": 9}, r"dataset\.length=9: out of range; allowed: 10 <= value <= 10000"),
        ({"train_size": 10**12}, r"dataset\.train_size=1000000000000: out of range"),
        ({"test_size": 0}, r"dataset\.test_size=0: out of range"),
        (
            {"length": 10**4, "train_size": 10**6},
            r"dataset: 1003000 sequences of 100\d\d steps .* allowed: at most 4 GB",
        ),
    ],
)
def test_absurd_sizes_are_refused_at_once(task: type[Dataset], values: dict[str, int], line: str) -> None:
    with pytest.raises(UserError, match=line):
        build(task, values, "dataset")
    assert find(Dataset, task.kind(), "dataset") is task
