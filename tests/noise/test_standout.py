"""Standout against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from places import DELICATE, HIDDEN, place, rates, same_bits

from dropbench.noise.standout import Standout
from dropbench.spec import Site
from dropbench.stack import stacked
from dropbench.streams import Streams


def noise(*slopes: float) -> Standout:
    return stacked([Standout(slope=slope) for slope in slopes])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_keep_probability_by_hand():
    # rate 0.5: beta = logit(0.5) = 0; slope 1 and z = log 3 keep with 3/4, z = -log 3 with 1/4, z = 0 with 1/2
    drive = torch.tensor([[math.log(3), -math.log(3), 0.0]])
    one, at = noise(1.0), place(drive=drive)
    rate = one.effective(rates(0.5), at)
    assert rate[0].tolist() == pytest.approx([0.25, 0.75, 0.5])
    assert one.expect(rate, at)(torch.full((1, 3), 4.0))[0].tolist() == pytest.approx([3, 1, 2])


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_it_is_the_sigmoid_of_the_pre_activation_with_the_logit_of_the_keep_probability_as_offset(rate):
    drive = torch.tensor([[-3.0, -0.2, 0.0, 1.0, 6.0]])
    for slope in (-1.0, 0.3, 2.0):
        at = place(drive=drive)
        beta = math.log((1 - rate) / rate)
        kept = [sigmoid(slope * z + beta) for z in drive[0].tolist()]
        assert (1 - noise(slope).effective(rates(rate), at))[0].tolist() == pytest.approx(kept, rel=1e-5, abs=1e-6)


def test_a_value_is_dropped_where_the_draw_is_below_its_own_rate_and_nothing_is_scaled():
    drive = torch.tensor([[math.log(3), -math.log(3), 0.0]])
    one, at = noise(1.0), place(drive=drive)
    rate = one.effective(rates(0.5), at)
    scale = [one.perturb(torch.full((1, 3), draw), rate, at).scale[0].tolist() for draw in (0.24, 0.26, 0.6, 0.8)]
    assert scale == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 1]]
    assert one.realised(one.perturb(torch.full((1, 3), 0.6), rate, at)).item() == pytest.approx(1 / 3)


def test_slope_0_is_plain_dropout_that_is_not_inverted():
    drive = 5 * torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    draw = Streams((0,)).uniform("noise", 0, "x", (4, 6))
    one, at = noise(0.0), place(drive=drive)
    rate = one.effective(rates(0.3, dims=3), at)
    torch.testing.assert_close(rate, torch.full((1, 4, 6), 0.3))
    assert torch.equal(one.perturb(draw, rate, at).scale, (draw >= 0.3).float())
    torch.testing.assert_close(one.expect(rate, at).scale, torch.full((1, 4, 6), 0.7))


def test_every_run_has_its_own_slope():
    drive = torch.full((2, 1), 2.0)
    kept = 1 - noise(0.0, 1.0).effective(rates(0.5, 0.5), place(drive=drive))
    assert kept.flatten().tolist() == pytest.approx([0.5, sigmoid(2)])


def test_the_mean_over_masks_is_the_evaluation():
    count = 200_000
    drive = torch.tensor([[[-1.0, 0.5]]])
    one, at = noise(1.0), place(drive=drive)
    rate = one.effective(rates(0.3, dims=3), at)
    scale = one.perturb(Streams((0,)).uniform("noise", 0, "x", (count, 2)), rate, at).scale.double().mean(1)[0]
    expected = one.expect(rate, at).scale[0, 0].tolist()
    for mean, kept in zip(scale.tolist(), expected, strict=True):
        assert abs(mean - kept) < 4.5 * math.sqrt(kept * (1 - kept) / count)


def test_no_gradient_passes_through_the_draw_but_evaluation_has_one():
    drive = torch.tensor([[0.3, -0.8]], dtype=torch.float64, requires_grad=True)
    one, at = noise(1.0), place(drive=drive)
    rate = one.effective(rates(0.4), at)
    assert not one.perturb(torch.tensor([[0.5, 0.5]]), rate, at).scale.requires_grad
    kept = one.expect(rate, at).scale
    (gradient,) = torch.autograd.grad(kept.sum(), drive)
    assert gradient[0].tolist() == pytest.approx((kept * (1 - kept))[0].tolist(), rel=1e-5)


def test_rate_0_gives_exactly_the_value_back_in_training_and_evaluation():
    at, one = place(drive=torch.tensor([[-50.0, -1.0, 0.0, 1.0, 50.0, 3.0]])), noise(1.0)
    rate = one.effective(rates(0.0), at)
    draw = torch.tensor([[2**-24, 0.1, 0.2, 0.5, 0.9, 0.99]])
    assert same_bits(one.perturb(draw, rate, at)(DELICATE), DELICATE)
    assert same_bits(one.expect(rate, at)(DELICATE), DELICATE)


def test_it_needs_the_pre_activation():
    assert Standout().misfit(HIDDEN) is None
    reason = Standout().misfit(Site("hidden1", "hidden", 1.0, ("batch", "unit"), 3))
    assert "hidden1" in reason
    assert "model=mlp" in reason
