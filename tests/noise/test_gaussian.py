"""Gaussian dropout against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from places import DELICATE, place, rates, same_bits

from dropbench.noise.gaussian import Gaussian
from dropbench.streams import Streams

NOISE = Gaussian()


def test_the_scale_is_one_plus_sigma_times_the_draw():
    # sigma = sqrt(p / (1 - p)): 1 at 0.5, 1/2 at 0.2, 3 at 0.9
    draw = torch.tensor([[-1.0, 0.0, 2.0]]).expand(3, 3)
    perturbation = NOISE.perturb(draw, rates(0.5, 0.2, 0.9), place())
    expected = torch.tensor([[0.0, 1.0, 3.0], [0.5, 1.0, 2.0], [-2.0, 1.0, 7.0]])
    torch.testing.assert_close(perturbation.scale, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(perturbation(torch.full((3, 1), 10.0)), 10 * expected, atol=1e-4, rtol=1e-5)


def test_the_realised_rate_is_that_of_the_variance():
    # scales 0 and 2: variance 1, and p = v / (1 + v) = 1/2; scales 0.5 and 1.5: v = 1/4, p = 1/5
    perturbation = NOISE.perturb(torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [0.5, -0.5]]), rates(0.5, 0.2, 0.0), place())
    assert NOISE.realised(perturbation).tolist() == pytest.approx([0.5, 0.2, 0.0])


def test_rate_0_gives_exactly_the_value_back():
    draw = torch.tensor([[5.0, -3.0, 0.1, 1.0, 0.0, -0.2]])
    assert same_bits(NOISE.perturb(draw, rates(0.0), place())(DELICATE), DELICATE)


def test_mean_and_variance_are_those_of_bernoulli_dropout():
    count = 400_000
    for rate in (0.1, 0.5, 0.8):
        variance = rate / (1 - rate)
        perturbation = NOISE.perturb(Streams((0,)).normal("noise", 0, "x", (count,)), rates(rate), place())
        result = perturbation(torch.tensor([[1.0]])).double()
        assert abs(result.mean().item() - 1) < 4.5 * (variance / count) ** 0.5
        assert abs(result.var().item() - variance) < 4.5 * variance * (2 / count) ** 0.5
        assert NOISE.realised(perturbation).item() == pytest.approx(rate, abs=0.005)
    assert NOISE.expect(rates(0.5), place()) is None
