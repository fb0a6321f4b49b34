"""Concrete dropout against the published formulas, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from places import DELICATE, HIDDEN, place, rates, same_bits

from dropbench.noise.concrete import Concrete
from dropbench.spec import Site
from dropbench.stack import stacked
from dropbench.streams import Streams


def noise(*settings: tuple[float, float]) -> Concrete:
    """A stack of runs with these temperatures and length scales."""
    return stacked([Concrete(temperature=temperature, length_scale=scale) for temperature, scale in settings])


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def published_scale(p: float, u: float, temperature: float) -> float:
    """(1 - z) / (1 - p), z = sigmoid((log p - log(1 - p) + log u - log(1 - u)) / t)."""
    z = sigmoid((math.log(p) - math.log(1 - p) + math.log(u) - math.log(1 - u)) / temperature)
    return (1 - z) / (1 - p)


def published_penalty(p: float, norm2: float, units: int, examples: int, length_scale: float, k: int) -> float:
    """w ||W||^2 / (1 - p) + d K (p log p + (1 - p) log(1 - p)), w = l^2 / N, d = k / N."""
    weight = length_scale**2 / examples * norm2 / (1 - p)
    return weight + k / examples * units * (p * math.log(p) + (1 - p) * math.log(1 - p))


def test_by_hand():
    # t = 1: z = p u / (p u + (1 - p)(1 - u)); p = 0.2 and u = 0.5 give z = 0.2, u = 0.8 gives z = 0.5
    perturbation = noise((1.0, 0.0)).perturb(torch.tensor([[0.5, 0.8]]), rates(0.2), place())
    assert perturbation.scale[0].tolist() == pytest.approx([0.8 / 0.8, 0.5 / 0.8], abs=1e-6)
    assert perturbation.mix is None
    assert perturbation.shift is None


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_mask_is_that_of_the_paper(temperature):
    draw = torch.tensor([[0.01, 0.3, 0.5, 0.69, 0.71, 0.97]])
    for p in (0.05, 0.3, 0.6):
        scale = noise((temperature, 0.0)).perturb(draw, rates(p), place()).scale[0].tolist()
        expected = [published_scale(p, u, temperature) for u in draw[0].tolist()]
        assert scale == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_low_temperature_drops_where_u_is_above_the_keep_probability():
    draw = torch.tensor([[0.1, 0.69, 0.71, 0.9]])
    assert noise((0.001, 0.0)).perturb(draw, rates(0.3), place()).scale[0].tolist() == pytest.approx(
        [1 / 0.7, 1 / 0.7, 0, 0], abs=1e-5
    )


def test_the_learned_rate_begins_at_the_asked_one_and_moves_on_the_logit():
    two = noise((0.1, 0.0), (0.1, 0.0))
    learned = {"logit": torch.tensor([0.0, 1.5])}
    p = two.effective(rates(0.1, 0.1), place(learned=learned))
    assert p.flatten().tolist() == pytest.approx([0.1, sigmoid(logit(0.1) + 1.5)], abs=1e-6)
    (parameter,) = two.learned(HIDDEN)
    assert (parameter.name, parameter.shape, parameter.init, parameter.decays) == ("logit", (), "zeros", False)


def test_the_mean_of_the_relaxed_mask_is_near_the_keep_probability_and_evaluation_is_the_value():
    # the relaxed mask is not exact: what it is worth on average is an integral over u, here by the midpoint rule
    count = 20_000
    for p in (0.1, 0.5):
        draw = ((torch.arange(count) + 0.5) / count).unsqueeze(0)
        scale = noise((0.1, 0.0)).perturb(draw, rates(p), place()).scale
        exact = sum(published_scale(p, (n + 0.5) / count, 0.1) for n in range(count)) / count
        assert scale.mean().item() == pytest.approx(exact, rel=1e-5)
        assert exact == pytest.approx(1, abs=0.01)
    assert noise((0.1, 0.0)).expect(rates(0.5), place()) is None


def test_the_realised_rate_is_the_share_dropped_by_more_than_half():
    draw = Streams((0,)).uniform("noise", 0, "x", (200_000,))
    one = noise((0.1, 0.0))
    for p in (0.05, 0.4):
        assert one.realised(one.perturb(draw, rates(p), place())).item() == pytest.approx(p, abs=0.005)


@pytest.mark.parametrize(("task", "k"), [("classification", 1), ("regression", 2)])
def test_the_penalty_is_that_of_the_paper(task, k):
    # W of 3 units into 2: ||W||^2 = 1 + 4 + 9 + 16 + 25 + 36 = 91, and 4 times as much in the second run
    weight = torch.arange(1.0, 7.0).view(1, 3, 2) * torch.tensor([1.0, 2.0]).view(2, 1, 1)
    here = place(params={"output.weight": weight}, examples=50, task=task)
    result = noise((0.1, 0.01), (0.1, 0.5)).penalty(rates(0.2, 0.6, dims=3), here)
    expected = [published_penalty(0.2, 91, 3, 50, 0.01, k), published_penalty(0.6, 364, 3, 50, 0.5, k)]
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_penalty_by_hand():
    # p = 1/2, one weight of 2, K = 3, N = 4, l = 1: (4 / (1/2) - 3 log 2) / 4 = 2 - 0.75 log 2
    here = place(params={"output.weight": torch.tensor([[[2.0]]])}, examples=4)
    result = noise((0.1, 1.0)).penalty(rates(0.5), here)
    assert result.tolist() == pytest.approx([2 - 0.75 * math.log(2)])


def test_all_weights_that_a_site_feeds_count():
    site = Site("input", "input", 0.0, ("batch", "unit"), 1, feeds=("a", "b"))
    here = place(site, params={"a": torch.full((1, 1, 2), 3.0), "b": torch.ones(1, 1, 4)}, examples=1)
    result = noise((0.1, 1.0)).penalty(rates(0.5), here)
    assert result.item() == pytest.approx((18 + 4) / 0.5 - math.log(2), rel=1e-6)


def test_gradients_of_mask_and_penalty_reach_rate_and_weights():
    draw = torch.tensor([[[0.1, 0.45, 0.8]]], dtype=torch.float64).expand(2, 1, 3)
    value = torch.tensor([[[1.0, -2.0, 0.5]]], dtype=torch.float64).expand(2, 1, 3)
    one = noise((0.5, 0.3), (1.0, 0.1))

    def loss(learned, weight):
        here = place(learned={"logit": learned}, params={"output.weight": weight})
        p = one.effective(rates(0.1, 0.4, dims=3).double(), here)
        return one.perturb(draw, p, here)(value), one.penalty(p, here)

    learned = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    weight = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(loss, (learned, weight))


def test_rate_0_gives_exactly_the_value_back_and_nothing_is_learned():
    two = noise((0.1, 0.5), (10.0, 0.5))
    learned, weight = torch.tensor([3.0, 0.0]).requires_grad_(), torch.ones(2, 3, 2, requires_grad=True)
    here = place(learned={"logit": learned}, params={"output.weight": weight})
    p = two.effective(rates(0.0, 0.0), here)
    draw = torch.tensor([[1e-7, 0.1, 0.5, 0.9, 0.99, 1 - 2**-24]]).expand(2, 6)
    value = DELICATE.expand(2, 6).contiguous()
    perturbation = two.perturb(draw, p, here)
    assert same_bits(perturbation(value), value)
    penalty = two.penalty(p, here)
    assert penalty.tolist() == [0, 0]
    for gradient in torch.autograd.grad(perturbation.scale.sum() + penalty.sum(), (learned, weight)):
        assert not gradient.any()


def test_an_element_at_rate_0_does_not_spoil_the_gradient_of_the_others():
    learned = torch.zeros(1, requires_grad=True)
    here = place(learned={"logit": learned}, params={"output.weight": torch.ones(1, 3, 2)})
    one = noise((0.1, 0.01))
    gradients = []
    for asked in ([0.0, 0.3], [0.3]):
        p = one.effective(torch.tensor([asked]), here)
        draw = torch.tensor([[0.68] * len(asked)])
        (gradient,) = torch.autograd.grad(one.perturb(draw, p, here).scale.sum(), learned)
        gradients.append(gradient.item())
    assert gradients[0] == pytest.approx(gradients[1])
    assert gradients[1] != 0


def test_the_masks_of_maps_are_shared_along_rows_and_columns():
    assert Concrete.whole_maps
