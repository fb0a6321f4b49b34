"""Variational dropout against the published formulas, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from places import DELICATE, HIDDEN, place, rates, same_bits

from dropbench.noise.variational import Variational, divergence
from dropbench.streams import Streams

NOISE = Variational()


def negative_divergence(alpha: float) -> float:
    """Kingma et al., equation 14, without its constant."""
    return 0.5 * math.log(alpha) + 1.16145124 * alpha - 1.50204118 * alpha**2 + 0.58629921 * alpha**3


def test_the_divergence_by_hand():
    # alpha = 1: 1.16145124 - 1.50204118 + 0.58629921 = 0.24570927; alpha = 0.1: -1.1512925 + 0.1161451 - 0.0150204
    # + 0.0005863 = -1.0495815
    points = torch.tensor([1.0, 0.1])
    assert divergence(points).tolist() == pytest.approx([-0.24570927, 1.0495815], abs=1e-6)


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.05, 0.25, 0.5, 0.9, 1.0])
def test_the_divergence_is_the_published_polynomial(alpha):
    result = divergence(torch.tensor([alpha], dtype=torch.float64))
    assert result.item() == pytest.approx(-negative_divergence(alpha), rel=1e-12)


def test_the_divergence_falls_all_the_way_to_alpha_1():
    values = divergence(torch.linspace(0.001, 1, 1000, dtype=torch.float64))
    assert (values.diff() < 0).all()


def test_the_scale_is_one_plus_the_root_of_alpha_times_the_draw():
    # rate 0.2 is alpha = 1/4, rate 0.5 is alpha = 1
    draw = torch.tensor([[-1.0, 0.0, 2.0]]).expand(2, 3)
    perturbation = NOISE.perturb(draw, rates(0.2, 0.5), place())
    expected = torch.tensor([[0.5, 1.0, 2.0], [0.0, 1.0, 3.0]])
    torch.testing.assert_close(perturbation.scale, expected)
    assert NOISE.realised(perturbation)[1].item() == pytest.approx((5 / 3) / (1 + 5 / 3))


def test_log_alpha_is_the_logit_of_the_rate_plus_what_is_learned_and_at_most_0():
    learned = {"log_alpha": torch.tensor([0.0, 0.7, 9.0])}
    p = NOISE.effective(rates(0.2, 0.2, 0.2), place(learned=learned)).flatten()
    alpha = (p / (1 - p)).tolist()
    assert alpha == pytest.approx([0.25, 0.25 * math.exp(0.7), 1.0], rel=1e-5)
    (parameter,) = NOISE.learned(HIDDEN)
    assert (parameter.name, parameter.shape, parameter.init, parameter.decays) == ("log_alpha", (), "zeros", False)


def test_the_penalty_counts_every_unit_and_is_shared_out_over_the_examples():
    # K = 3 units, N = 50 examples
    result = NOISE.penalty(rates(0.2, 0.5, dims=3), place(examples=50))
    expected = [-3 / 50 * negative_divergence(0.25), -3 / 50 * negative_divergence(1.0)]
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_mean_and_variance():
    count = 400_000
    for rate in (0.1, 0.5):
        alpha = rate / (1 - rate)
        scale = NOISE.perturb(Streams((0,)).normal("noise", 0, "x", (count,)), rates(rate), place()).scale.double()
        assert abs(scale.mean().item() - 1) < 4.5 * (alpha / count) ** 0.5
        assert abs(scale.var().item() - alpha) < 4.5 * alpha * (2 / count) ** 0.5
    assert NOISE.expect(rates(0.5), place()) is None


def test_gradients_of_noise_and_penalty_reach_log_alpha():
    draw = torch.tensor([[[-1.0, 0.3, 2.0]]], dtype=torch.float64).expand(2, 1, 3)

    def loss(learned):
        here = place(learned={"log_alpha": learned})
        p = NOISE.effective(rates(0.1, 0.3, dims=3).double(), here)
        return NOISE.perturb(draw, p, here).scale, NOISE.penalty(p, here)

    learned = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, (learned,))


def test_rate_0_gives_exactly_the_value_back_and_nothing_is_learned():
    learned = torch.tensor([3.0]).requires_grad_()
    here = place(learned={"log_alpha": learned})
    p = NOISE.effective(rates(0.0), here)
    perturbation = NOISE.perturb(torch.tensor([[5.0, -3.0, 0.1, 1.0, 0.0, -0.2]]), p, here)
    assert same_bits(perturbation(DELICATE), DELICATE)
    penalty = NOISE.penalty(p, here)
    assert penalty.tolist() == [0]
    (gradient,) = torch.autograd.grad(perturbation.scale.sum() + penalty.sum(), learned)
    assert gradient.tolist() == [0]
