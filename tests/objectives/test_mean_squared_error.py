"""Mean squared error against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from dropbench.objectives.mean_squared_error import MeanSquaredError

LOSS = MeanSquaredError().loss


def test_by_hand():
    outputs = torch.tensor([[1.0, 2.0], [0.0, -1.0]])[None, None]  # [1 run, 1 copy, batch 2, 2 outputs]
    targets = torch.tensor([[[0.0, 4.0], [0.0, 2.0]]])
    loss = LOSS(outputs, targets)  # (1 + 4 + 0 + 9) / 4
    assert loss.shape == (1,)
    assert loss.item() == 3.5


def test_every_run_has_its_own_loss():
    outputs, targets = torch.tensor([1.0, 5.0]).view(2, 1, 1, 1), torch.tensor([0.0, 2.0]).view(2, 1, 1)
    assert LOSS(outputs, targets).tolist() == [1, 9]


def test_copies_are_averaged():
    assert LOSS(torch.tensor([1.0, 3.0]).view(1, 2, 1, 1), torch.zeros(1, 1, 1)).item() == 5


def test_the_gradient_is_that_of_a_mean():
    outputs = torch.tensor([1.0, 2.0]).view(1, 1, 2, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSS(outputs, torch.zeros(1, 2, 1)).sum(), outputs)
    assert gradient.flatten().tolist() == [1, 2]  # 2 z / n


def test_low_precision_is_summed_in_float32():
    loss = LOSS(torch.full((1, 1, 1, 1), 3.0, dtype=torch.bfloat16), torch.full((1, 1, 1), 0.5))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(6.25)
