"""Generated tasks: the answer is worked out again from the inputs alone, by another way."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from dropbench.data import Data, Dataset
from dropbench.data.adding import Adding
from dropbench.data.copy_memory import CopyMemory
from dropbench.data.temporal_order import TemporalOrder
from dropbench.errors import UserError
from dropbench.parts import find
from dropbench.schema import build
from dropbench.spec import Facts

NOWHERE = Path("/nonexistent")
SIZES = {"train_size": 300, "validation_size": 40, "test_size": 50}
TASKS = (TemporalOrder, Adding, CopyMemory)


def parts(data: Data) -> list[object]:
    return [data.train, data.validation, data.test]


@pytest.mark.parametrize("length", [10, 37, 100])
def test_temporal_order(length: int) -> None:
    data = TemporalOrder(length=length, **SIZES).load(NOWHERE)
    assert data.facts == Facts("sequence", (length, 8), "classification", 4)
    for part in parts(data):
        assert part.targets.dtype == torch.int64
        for sequence, target in zip(part.inputs, part.targets, strict=True):
            assert set(sequence.flatten().tolist()) == {0.0, 1.0}
            assert sequence.sum(1).tolist() == [1] * length
            text = "".join("abcdXYEB"[symbol] for symbol in sequence.argmax(1).tolist())
            assert (text[0], text[-1]) == ("E", "B")
            assert not set(text[1:-1]) & set("EB")
            (first, one), (second, other) = [(at, symbol) for at, symbol in enumerate(text) if symbol in "XY"]
            assert ["XX", "XY", "YX", "YY"].index(one + other) == target
            assert length // 10 <= first <= length // 5
            assert length // 2 <= second <= 6 * length // 10
    assert data.train.targets.bincount(minlength=4).min() > 300 / 4 - 4 * math.sqrt(300 * 3 / 16)


@pytest.mark.parametrize("length", [10, 37, 100])
def test_adding(length: int) -> None:
    data = Adding(length=length, **SIZES).load(NOWHERE)
    assert Adding.objective == "mean_squared_error"
    assert data.facts == Facts("sequence", (length, 2), "regression", 1)
    for part in parts(data):
        assert part.targets.dtype == torch.float32
        assert part.targets.shape == (len(part), 1)
        for sequence, target in zip(part.inputs.double(), part.targets, strict=True):
            values, marks = sequence.unbind(1)
            assert 0 < values.min() <= values.max() < 1
            assert sorted(marks.tolist()) == [0] * (length - 2) + [1, 1]
            assert marks[: length // 2].sum() == 1
            assert float(values @ marks) == pytest.approx(float(target), abs=1e-6)


def test_adding_baseline() -> None:
    data = Adding(length=10, train_size=20_000).load(NOWHERE)
    assert float((data.train.targets - 1).square().mean()) == pytest.approx(1 / 6, abs=0.006)  # 4 deviations


@pytest.mark.parametrize(("length", "symbols", "alphabet"), [(10, 10, 8), (25, 3, 2), (12, 1, 5)])
def test_copy_memory(length: int, symbols: int, alphabet: int) -> None:
    data = CopyMemory(length=length, symbols=symbols, alphabet=alphabet, **SIZES).load(NOWHERE)
    steps = length + 2 * symbols
    assert data.facts == Facts("sequence", (steps, alphabet + 2), "classification", alphabet + 1, per_step=True)
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


@pytest.mark.parametrize("task", TASKS)
def test_the_same_for_every_run_and_nested(task: type[Dataset]) -> None:
    one, again = (task(**SIZES).load(NOWHERE) for _ in range(2))
    larger = task(**{**SIZES, "train_size": 500}).load(NOWHERE)
    assert torch.equal(one.train.inputs, again.train.inputs)
    assert torch.equal(one.train.inputs, larger.train.inputs[:300])
    assert torch.equal(one.train.targets, larger.train.targets[:300])
    assert torch.equal(one.test.inputs, larger.test.inputs)
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
