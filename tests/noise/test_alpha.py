"""Alpha dropout against the published formula, and against that of torch."""

from __future__ import annotations

import math

import pytest
import torch
from places import DELICATE, HIDDEN, place, rates, same_bits, words
from torch.nn.functional import alpha_dropout

from dropbench.noise.alpha import LOW, Alpha
from dropbench.spec import Site
from dropbench.streams import Streams

NOISE = Alpha()
#: lambda and alpha of SELU.
LAMBDA, ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def constants(rate: float) -> tuple[float, float]:
    """a = (q + low^2 q p)^(-1/2) and b = -a p low."""
    q, low = 1 - rate, -LAMBDA * ALPHA
    a = (q + low**2 * q * rate) ** -0.5
    return a, -a * rate * low


def test_the_lowest_value_is_the_limit_of_selu():
    assert pytest.approx(-LAMBDA * ALPHA, abs=1e-12) == LOW
    assert torch.selu(torch.tensor(-100.0, dtype=torch.float64)).item() == pytest.approx(LOW, abs=1e-12)


def test_by_hand():
    # p = 0.5: a = (0.5 + 3.0909133 / 4)^(-1/2) = 0.8864053, b = 0.8864053 * 0.5 * 1.7580993 = 0.7791932
    a, b = constants(0.5)
    assert (a, b) == pytest.approx((0.8864053, 0.7791932), abs=1e-6)
    perturbation = NOISE.perturb(words(0.1, 0.9), rates(0.5), place())
    dropped, kept = perturbation(torch.tensor([[2.0, 2.0]]))[0].tolist()
    assert dropped == pytest.approx(-0.7791932, abs=1e-6)  # a low + b: at p = 0.5 that is -b
    assert kept == pytest.approx(2 * 0.8864053 + 0.7791932, abs=1e-6)
    assert NOISE.realised(perturbation).tolist() == [0.5]


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.3, 0.5, 0.9])
def test_a_and_b_are_those_of_the_paper_and_of_torch(rate):
    a, b = constants(rate)
    perturbation = NOISE.perturb(words(0.0, 0.9999), rates(rate), place())
    low, zero = perturbation(torch.zeros(1, 2, dtype=torch.float64))[0].tolist()
    one = perturbation(torch.ones(1, 2, dtype=torch.float64))[0, 1].item()
    assert (low, zero, one - zero) == pytest.approx((a * -LAMBDA * ALPHA + b, b, a), rel=1e-5)
    torch.manual_seed(0)
    theirs = alpha_dropout(torch.ones(1000, dtype=torch.float64), rate, training=True).unique().tolist()
    assert sorted([low, one]) == pytest.approx(theirs, rel=1e-5)


def test_mean_0_and_variance_1_survive():
    count = 400_000
    for rate in (0.05, 0.1, 0.5):
        streams = Streams((0,))
        value = streams.normal("data", 0, "x", (count,))
        result = NOISE.perturb(streams.bits("noise", 0, "x", (count,)), rates(rate), place())(value).double()
        fourth = (result - result.mean()).pow(4).mean().item()
        assert abs(result.mean().item()) < 4.5 / math.sqrt(count)
        assert abs(result.var().item() - 1) < 4.5 * math.sqrt((fourth - 1) / count)


def test_it_is_not_the_mean_of_each_unit_that_survives():
    # a unit that is always 2 has the mean a (q 2 + p low) + b = 2 a q
    a, _ = constants(0.3)
    draw = Streams((0,)).bits("noise", 0, "x", (400_000,))
    mean = NOISE.perturb(draw, rates(0.3), place())(torch.tensor([[2.0]])).mean().item()
    assert mean == pytest.approx(2 * a * 0.7, abs=0.01)
    assert NOISE.expect(rates(0.3), place()) is None


def test_rate_0_gives_exactly_the_value_back():
    assert same_bits(NOISE.perturb(words(0.0, 0.1, 0.2, 0.5, 0.7, 0.99), rates(0.0), place())(DELICATE), DELICATE)


def test_every_run_has_its_own_rate():
    perturbation = NOISE.perturb(words(0.2).expand(2, 1), rates(0.1, 0.5), place())
    kept = constants(0.1)
    assert perturbation(torch.ones(2, 1)).flatten().tolist() == pytest.approx(
        [sum(kept), constants(0.5)[0] * LOW + constants(0.5)[1]], abs=1e-6
    )


def test_a_dropped_unit_has_no_gradient():
    value = torch.ones(1, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(NOISE.perturb(words(0.1, 0.9), rates(0.5), place())(value).sum(), value)
    assert gradient[0].tolist() == pytest.approx([0, constants(0.5)[0]])


def test_it_goes_with_selu_alone():
    assert NOISE.misfit(HIDDEN) is None
    for function in ("relu", None):
        reason = NOISE.misfit(Site("hidden1", "hidden", 1.0, ("batch", "unit"), 3, activation=function))
        assert "model.activation=selu" in reason
