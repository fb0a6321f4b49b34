"""Convolutions of several runs, differentiated by hand, against those of torch, one run after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from dropbench.kernels.conv import convolve

POOLINGS = [None, (2, 2), (3, 2), (3, 3), (1, 1), (4, 3)]


def drawn(runs: int, kernel: int = 3, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Value, weight and bias; maps of whole numbers, so that windows have several largest values."""
    generator = torch.Generator().manual_seed(runs)
    shapes = ((runs, 5, 2, 9, 8), (runs, 4, 2, kernel, kernel), (runs, 4))
    return [torch.randint(-2, 3, shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def alone(value: Tensor, weight: Tensor, bias: Tensor, padding: int, pooling: tuple[int, int] | None) -> Tensor:
    maps = conv2d(value, weight, bias, padding=padding)
    return maps if pooling is None else max_pool2d(maps, *pooling, padding=(pooling[0] - 1) // 2)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("runs", [1, 2, 5])
def test_values_and_gradients_are_those_of_torch_to_the_bit(runs, kernel, pooling):
    parts = drawn(runs, kernel)
    result = convolve(*parts, kernel // 2, pooling)
    weights = torch.rand(result.shape)
    ours = torch.autograd.grad((result * weights).sum(), parts)
    for run in range(runs):
        own = [part[run].detach().requires_grad_() for part in parts]
        expected = alone(*own, kernel // 2, pooling)
        assert torch.equal(result[run], expected)
        theirs = torch.autograd.grad((expected * weights[run]).sum(), own)
        for mine, other in zip(ours, theirs, strict=True):
            assert torch.equal(mine[run], other)


@pytest.mark.parametrize("pooling", [None, (2, 2)])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (1, 2), (0, 2)])
def test_only_what_is_asked_for_is_differentiated(wanted, pooling):
    parts = drawn(3)
    all_three = torch.autograd.grad(convolve(*parts, 1, pooling).square().sum(), parts)
    some = [part if place in wanted else part.detach() for place, part in enumerate(parts)]
    found = torch.autograd.grad(convolve(*some, 1, pooling).square().sum(), [some[place] for place in wanted])
    for place, gradient in zip(wanted, found, strict=True):
        torch.testing.assert_close(gradient, all_three[place])


@pytest.mark.parametrize("pooling", [None, (2, 2), (3, 2)])
def test_the_gradient_is_the_slope(pooling):
    parts = [part.detach() for part in drawn(2, dtype=torch.double)]
    generator = torch.Generator().manual_seed(0)
    parts = [(part + torch.rand(part.shape, generator=generator)).requires_grad_() for part in parts]
    assert torch.autograd.gradcheck(lambda *them: convolve(*them, 1, pooling), parts)


def test_what_is_not_a_number_stays_so():
    value, weight, bias = (part.detach() for part in drawn(1))
    value[0, 0, 0, 0, 0] = torch.nan
    result = convolve(value, weight, bias, 1, (2, 2))
    assert result[0, 0].isnan().any()
    assert not result[0, 1:].isnan().any()


def test_values_with_other_strides_are_read_as_they_look():
    value, weight, bias = (part.detach() for part in drawn(3))
    turned = value.movedim(0, 2).contiguous().movedim(2, 0)
    assert not turned.is_contiguous()
    assert torch.equal(convolve(turned, weight, bias, 1, (2, 2)), convolve(value, weight, bias, 1, (2, 2)))


@pytest.mark.parametrize("pooling", [None, (2, 2)])
def test_with_autocast_it_computes_in_half_precision_and_gradients_have_the_types_of_the_parameters(pooling):
    parts = drawn(2)
    with torch.autocast("cpu", torch.bfloat16):
        result = convolve(*parts, 1, pooling)
        expected = torch.stack([alone(*(part[run] for part in parts), 1, pooling) for run in range(2)])
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, expected)
    ours = torch.autograd.grad(result.float().sum(), parts)
    theirs = torch.autograd.grad(expected.float().sum(), parts)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=0.02, atol=0.02)
