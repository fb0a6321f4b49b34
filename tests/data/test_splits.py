"""Stratified splits: exact sizes, fair shares, one nested in the other, and the same for ever."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dropbench.data.splits import divide, stratified
from dropbench.errors import UserError


def digest(index: Tensor) -> str:
    return hashlib.sha256(index.numpy().astype("<i8").tobytes()).hexdigest()[:16]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 60), min_size=2, max_size=8), st.randoms(use_true_random=False))
def test_every_beginning_is_stratified(sizes: list[int], random: object) -> None:
    labels = torch.tensor([number for number, size in enumerate(sizes) for _ in range(size)])
    labels = labels[torch.tensor(random.sample(range(len(labels)), len(labels)))]  # type: ignore[attr-defined]
    order = stratified(labels, "any")
    assert sorted(order.tolist()) == list(range(len(labels)))
    seats = torch.zeros(len(sizes), dtype=torch.long)
    for seat, example in enumerate(order):
        chosen = int(labels[example])
        if seat < len(sizes):  # one each first
            assert seats[chosen] == 0
        else:  # then Webster's rule: the highest n / (seats + 1/2)
            claims = torch.tensor(sizes).double() / (seats + 0.5)
            claims[seats >= torch.tensor(sizes)] = -1
            assert claims[chosen] >= claims.max() * (1 - 1e-12)
        seats[chosen] += 1


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 10), st.integers(30, 200), st.integers(0, 10**6), st.data())
def test_divide_is_exact_disjoint_and_nested(classes: int, count: int, salt: int, data: st.DataObject) -> None:
    labels = torch.cat([torch.arange(classes), (torch.arange(count - classes) * (salt + 1) // 7) % classes])
    held = data.draw(st.integers(classes, count - classes), "validation_size")
    train, validation = divide(labels, held, None)
    assert len(validation) == held
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(count))
    if len(train) > classes:
        large = data.draw(st.integers(classes, len(train)), "large")
        small = data.draw(st.integers(classes, large), "small")
        parts = [divide(labels, held, size) for size in (small, large)]
        assert [len(part) for part, _ in parts] == [small, large]
        assert set(parts[0][0].tolist()) <= set(parts[1][0].tolist()) <= set(train.tolist())
        assert all(torch.equal(part, validation) for _, part in parts)
        assert torch.equal(train[labels[train].argsort()].unique(), train)  # rising, no doubles


def test_balanced_classes_get_equal_shares() -> None:
    labels = torch.arange(1000) % 10
    train, validation = divide(labels, 200, 100)
    assert labels[validation].bincount().tolist() == [20] * 10
    assert labels[train].bincount().tolist() == [10] * 10


def test_golden() -> None:
    """Results of one minor version are comparable: the split may not move."""
    labels = torch.arange(1000) ** 2 % 7
    train, validation = divide(labels, 150, 300)
    assert (digest(stratified(labels, "test")), digest(validation), digest(train)) == GOLDEN


@pytest.mark.parametrize(
    ("held", "size", "line"),
    [
        (9, None, "dataset.validation_size=9: out of range; allowed: 10 <= value <= 90"),
        (91, None, "dataset.validation_size=91: out of range; allowed: 10 <= value <= 90"),
        (20, 9, "dataset.train_size=9: out of range; allowed: 10 <= value <= 80"),
        (20, 81, "dataset.train_size=81: out of range; allowed: 10 <= value <= 80"),
    ],
)
def test_sizes_that_cannot_be(held: int, size: int | None, line: str) -> None:
    with pytest.raises(UserError, match="^" + line):
        divide(torch.arange(100) % 10, held, size)


GOLDEN = ("43904d5979ef66e3", "40e085d2345f0e5d", "cb1bcabaa2910190")
