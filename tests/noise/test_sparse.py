"""Sparse variational dropout against the published formulas, written out in plain Python."""

from __future__ import annotations

import math

import pytest
import torch
from places import place, rates, same_bits

from dropbench.models import Parameter
from dropbench.noise import Place
from dropbench.noise.sparse import Sparse, divergence
from dropbench.spec import Site
from dropbench.stack import stacked
from dropbench.streams import Streams

SITE = Site("w", "weight", 1.0, ("batch", "source", "unit"), 2, weight="w", shape=(3, 2))
#: The variance of what is initialised within +- 0.6 is 0.36 / 3.
DECLARED = {"w": Parameter("w", (3, 2), bound=0.6, unit_axis=1)}
VARIANCE = 0.12
THETA = torch.tensor([[[0.5, -0.1], [1.0, -2.0], [0.02, 0.0]]])


def noise(*settings: tuple[float, float]) -> Sparse:
    """A stack of runs with these thresholds and warm-ups."""
    return stacked([Sparse(threshold=threshold, warmup=warmup) for threshold, warmup in settings])


def here(learned: torch.Tensor | None = None, theta: torch.Tensor = THETA, step: int = 0, examples: int = 10) -> Place:
    learned = torch.zeros_like(theta) if learned is None else learned
    return place(
        SITE, learned={"log_sigma2": learned}, params={"w": theta}, declared=DECLARED, step=step, examples=examples
    )


def published(log_alpha: float) -> float:
    """-KL = k1 sigmoid(k2 + k3 log alpha) - 0.5 log(1 + 1 / alpha) - k1 (Molchanov et al., equation 14)."""
    k1, k2, k3 = 0.63576, 1.8732, 1.48695
    return k1 / (1 + math.exp(-(k2 + k3 * log_alpha))) - 0.5 * math.log(1 + math.exp(-log_alpha)) - k1


def log_alpha(rate: float, theta: float, learned: float = 0.0) -> float:
    """log sigma^2 - log theta^2, within [-8, 8]; sigma^2 begins at alpha times the initial variance."""
    log_sigma2 = math.log(rate / (1 - rate) * VARIANCE) + learned
    return min(max(log_sigma2 - math.log(theta**2 + 1e-16), -8), 8)


def test_the_divergence_by_hand():
    # log alpha = 0: sigmoid(1.8732) = 0.8668281, so -KL = 0.5510946 - 0.3465736 - 0.63576 = -0.4312390
    assert divergence(torch.tensor([0.0])).item() == pytest.approx(0.4312390, abs=1e-6)


@pytest.mark.parametrize("at", [-8.0, -3.0, -1.0, 0.0, 0.5, 3.0, 8.0])
def test_the_divergence_is_that_of_the_paper(at):
    assert divergence(torch.tensor([at], dtype=torch.float64)).item() == pytest.approx(-published(at), rel=1e-9)


def test_a_weight_that_is_all_noise_costs_nothing():
    values = divergence(torch.linspace(-8, 8, 400, dtype=torch.float64))
    assert (values.diff() < 0).all()
    assert values[-1].item() == pytest.approx(0, abs=2e-4)


def test_the_noise_is_added_to_the_weight():
    # rate 0.2: alpha = 1/4, sigma = sqrt(0.25 * 0.12) = 0.1732051; what is learned adds to log sigma^2
    learned = torch.zeros(1, 3, 2)
    learned[0, 1, 0] = math.log(4)
    draw = torch.tensor([[[[1.0, -1.0], [1.0, 2.0], [0.0, 0.5]]]])
    perturbation = noise((3.0, 0.5)).perturb(draw, rates(0.2, dims=4), here(learned))
    sigma = 0.1732051
    expected = torch.tensor([[[sigma, -sigma], [2 * sigma, 2 * sigma], [0.0, sigma / 2]]])
    torch.testing.assert_close(perturbation(THETA.unsqueeze(1)), (THETA + expected).unsqueeze(1))
    assert noise((3.0, 0.5)).realised(perturbation).tolist() == [0]


def test_the_mean_over_draws_is_the_weight():
    count = 200_000
    theta = torch.full((1, 1, 1), 0.7)
    site = Site("w", "weight", 1.0, SITE.axes, 1, weight="w", shape=(1, 1))
    at = place(site, learned={"log_sigma2": torch.zeros(1, 1, 1)}, params={"w": theta}, declared=DECLARED)
    draw = Streams((0,)).normal("noise", 0, "w", (count, 1, 1))
    sample = noise((3.0, 0.5)).perturb(draw, rates(0.2, dims=4), at)(theta.unsqueeze(1)).double()
    assert abs(sample.mean().item() - 0.7) < 4.5 * math.sqrt(0.03 / count)
    assert sample.var().item() == pytest.approx(0.03, rel=0.02)


def test_evaluation_cuts_weights_whose_log_alpha_reaches_the_threshold():
    # rate 0.2, log sigma^2 = log 0.03: log alpha is -2.12, 1.10, -3.51, -4.89, 4.32 and (theta = 0, cut off) 8
    alphas = [log_alpha(0.2, theta) for theta in THETA.flatten().tolist()]
    assert alphas == pytest.approx([-2.1203, 1.0986, -3.5066, -4.8929, 4.3175, 8.0], abs=1e-4)
    for threshold, kept in ((3.0, [1, 1, 1, 1, 0, 0]), (1.0, [1, 0, 1, 1, 0, 0]), (5.0, [1, 1, 1, 1, 1, 0])):
        perturbation = noise((threshold, 0.5)).expect(rates(0.2, dims=4), here())
        assert perturbation(THETA.unsqueeze(1)).flatten().tolist() == (THETA.flatten() * torch.tensor(kept)).tolist()


def test_every_run_has_its_own_threshold():
    two = noise((1.0, 0.5), (5.0, 0.5)).expect(rates(0.2, 0.2, dims=4), here(theta=THETA.expand(2, 3, 2)))
    assert two.scale.flatten(1).tolist() == [[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]


def test_a_weight_just_at_the_threshold_is_cut():
    theta = THETA[:, :1, :1]  # log alpha = -2.1203 + what is learned
    site = Site("w", "weight", 1.0, SITE.axes, 1, weight="w", shape=(1, 1))
    kept = []
    for more in (-1e-3, 1e-3):
        learned = torch.full((1, 1, 1), 3 - log_alpha(0.2, 0.5) + more)
        at = place(site, learned={"log_sigma2": learned}, params={"w": theta}, declared=DECLARED)
        kept.append(noise((3.0, 0.5)).expect(rates(0.2, dims=4), at).scale.item())
    assert kept == [1, 0]


def test_the_penalty_is_the_sum_over_weights_shared_out_over_the_examples():
    theta, warm = torch.cat([THETA, 2 * THETA]), noise((3.0, 0.0), (3.0, 0.0))
    result = warm.penalty(rates(0.2, 0.6, dims=4), here(theta=theta, examples=50))
    expected = [
        -sum(published(log_alpha(rate, weight)) for weight in run.flatten().tolist()) / 50
        for rate, run in zip((0.2, 0.6), theta, strict=True)
    ]
    assert result.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("theta", "bound"), [(100.0, -8.0), (1e-4, 8.0)])
def test_log_alpha_is_cut_to_8_either_way(theta, bound):
    # log 0.03 - log theta^2 is -12.7 and 14.9; past the bound neither what is learned nor the weight has a gradient
    weights = torch.full((1, 3, 2), theta, requires_grad=True)
    learned = torch.zeros(1, 3, 2, requires_grad=True)
    penalty = noise((3.0, 0.0)).penalty(rates(0.2, dims=4), here(learned, weights, examples=1))
    assert penalty.item() == pytest.approx(-6 * published(bound), rel=1e-3)
    for gradient in torch.autograd.grad(penalty.sum(), (learned, weights)):
        assert not gradient.any()


def test_the_penalty_comes_in_over_the_warm_up():
    # of 100 steps, a warm-up over a half and over a quarter
    two, theta = noise((3.0, 0.5), (3.0, 0.25)), THETA.expand(2, 3, 2)
    whole = two.penalty(rates(0.2, 0.2, dims=4), here(theta=theta, step=99))
    for step, shares in ((0, (0, 0)), (10, (0.2, 0.4)), (25, (0.5, 1)), (50, (1, 1))):
        result = two.penalty(rates(0.2, 0.2, dims=4), here(theta=theta, step=step))
        assert (result / whole).tolist() == pytest.approx(shares, abs=1e-6), step


def test_gradients_of_noise_and_penalty_reach_sigma_and_weight():
    draw = torch.linspace(-2, 2, 6, dtype=torch.float64).view(1, 1, 3, 2)
    one = noise((3.0, 0.5))

    def loss(learned, theta):
        at = here(learned, theta, step=20)
        rate = rates(0.2, dims=4).double()
        return one.perturb(draw, rate, at)(theta.unsqueeze(1)), one.penalty(rate, at)

    theta = torch.tensor([[[0.5, -0.1], [1.0, -2.0], [0.2, 0.3]]], dtype=torch.float64, requires_grad=True)
    learned = torch.linspace(-1, 1, 6, dtype=torch.float64).view(1, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(loss, (learned, theta))


def test_rate_0_gives_exactly_the_weight_back_and_nothing_is_learned():
    theta = THETA.clone().requires_grad_()
    learned = torch.full((1, 3, 2), 2.0).requires_grad_()
    at, one = here(learned, theta, step=99), noise((0.0, 0.5))
    draw = torch.tensor([5.0, -3.0, 0.1, 1.0, 0.5, -0.2]).view(1, 1, 3, 2)
    perturbation = one.perturb(draw, rates(0.0, dims=4), at)
    weight = perturbation(theta.unsqueeze(1))
    assert same_bits(weight[:, 0].detach(), THETA)
    assert same_bits(one.expect(rates(0.0, dims=4), at)(THETA.unsqueeze(1))[:, 0], THETA)
    penalty = one.penalty(rates(0.0, dims=4), at)
    assert penalty.tolist() == [0]
    to_theta, to_sigma = torch.autograd.grad(weight.sum() + penalty.sum(), (theta, learned))
    assert to_theta.unique().tolist() == [1]
    assert not to_sigma.any()


def test_what_is_learned_has_the_shape_of_the_weight():
    (parameter,) = Sparse().learned(SITE)
    assert (parameter.name, parameter.shape, parameter.init, parameter.decays) == ("log_sigma2", (3, 2), "zeros", False)
