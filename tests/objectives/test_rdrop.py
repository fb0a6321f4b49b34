"""R-Drop against the published formula, and against two separate forward passes with the same masks."""

from __future__ import annotations

import math

import pytest
import torch
from answers import BATCH, RUNS, classes, plain, reals
from torch.nn.functional import cross_entropy, kl_div

from dropbench.acting import StepNoise
from dropbench.models.mlp import MLP
from dropbench.noise.bernoulli import Bernoulli
from dropbench.objectives.rdrop import Rdrop
from dropbench.spec import Clock, Facts, Scene
from dropbench.stack import stacked
from dropbench.strategy import Strategy
from dropbench.streams import Streams

FACTS = Facts("vector", (6,), "classification", 4)


def rdrop(*alphas: float, **changes: object) -> Rdrop:
    return stacked([Rdrop(alpha=alpha, **changes) for alpha in alphas])


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(P | Q) = sum p log(p / q) of logits, for each answer."""
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


def published(one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> tuple[float, float, int]:
    """Of one run in float64: CE1 + CE2, the summed (KL(P1 | P2) + KL(P2 | P1)) / 2, and how many answers are asked."""
    asked = targets != -100
    one, other = one.double(), other.double()
    divergence = (kl(one, other) + kl(other, one))[asked].sum().item() / 2
    return plain(one, targets) + plain(other, targets), divergence, int(asked.sum())


def test_by_hand():
    # P1 = (1/2, 1/2), P2 = (4/5, 1/5), y = 0: CE1 + CE2 = log 2 + log 5/4
    outputs = torch.tensor([[[[0.5, 0.5]], [[0.8, 0.2]]]]).log()
    terms = rdrop(2.0).terms(outputs, torch.tensor([[0]]))
    one = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    other = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert terms["cross_entropy"].tolist() == pytest.approx([math.log(2) + math.log(1.25)])
    assert terms["kl"].tolist() == pytest.approx([(one + other) / 2])
    assert terms["kl"].item() == pytest.approx(0.2079442, abs=1e-6)  # 0.15 log 4
    assert rdrop(2.0).total(terms).tolist() == pytest.approx([math.log(2.5) + 0.3 * math.log(4)])


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_terms_are_those_of_the_paper_and_padding_does_not_count(per_step, reduction):
    outputs, targets = classes(2, per_step=per_step)
    objective = rdrop(0.5, 1.0, 5.0, reduction=reduction)
    terms = objective.terms(outputs, targets)
    for run, alpha in enumerate((0.5, 1.0, 5.0)):
        likelihood, divergence, count = published(outputs[run, 0], outputs[run, 1], targets[run])
        divergence = divergence / count if reduction == "mean" else divergence
        assert terms["cross_entropy"][run].item() == pytest.approx(likelihood, rel=1e-5)
        assert terms["kl"][run].item() == pytest.approx(divergence, rel=1e-5)
        assert objective.loss(outputs, targets)[run].item() == pytest.approx(likelihood + alpha * divergence, rel=1e-5)


@pytest.mark.parametrize("per_step", [False, True])
def test_what_padding_answers_does_not_matter(per_step):
    outputs, targets = classes(2, per_step=per_step)
    other = outputs.clone()
    other.transpose(0, 1)[:, targets == -100] = 50.0 * torch.eye(7)[:2].unsqueeze(1)  # each copy sure of another class
    for reduction in ("mean", "sum"):
        objective = rdrop(1.0, 1.0, 1.0, reduction=reduction)
        assert torch.equal(objective.loss(outputs, targets), objective.loss(other, targets))


def test_equal_outputs_have_a_divergence_of_0_and_twice_the_loss():
    outputs, targets = classes(1)
    terms = rdrop(3.0, 3.0, 3.0).terms(outputs.expand(-1, 2, -1, -1), targets)
    assert terms["kl"].tolist() == [0, 0, 0]
    assert terms["cross_entropy"].tolist() == pytest.approx(
        [2 * plain(outputs[run, 0], targets[run]) for run in range(3)], rel=1e-5
    )


def test_the_order_of_the_copies_does_not_matter():
    outputs, targets = classes(2)
    objective = rdrop(1.0, 1.0, 1.0)
    torch.testing.assert_close(objective.loss(outputs, targets), objective.loss(outputs.flip(1), targets))


def test_the_gradient_passes_through_both_directions():
    outputs, targets = classes(2)
    outputs.requires_grad_()
    (ours,) = torch.autograd.grad(rdrop(2.0, 2.0, 2.0).loss(outputs, targets).sum(), outputs)
    loss = torch.zeros(())
    for run in range(RUNS):
        asked = targets[run] != -100
        one, other = outputs[run, 0, asked].log_softmax(-1), outputs[run, 1, asked].log_softmax(-1)
        loss = loss + cross_entropy(one, targets[run, asked]) + cross_entropy(other, targets[run, asked])
        loss = loss + 2.0 / 2 * kl_div(other, one, log_target=True, reduction="batchmean")  # KL(P1 | P2)
        loss = loss + 2.0 / 2 * kl_div(one, other, log_target=True, reduction="batchmean")
    torch.testing.assert_close(ours, torch.autograd.grad(loss, outputs)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("reduction", "share"), [("mean", 1), ("sum", BATCH * 2)])
def test_of_real_targets_it_is_the_squared_error_and_the_squared_difference(reduction, share):
    outputs, targets = reals(2)
    terms = rdrop(0.8, 1.0, 2.0, reduction=reduction).terms(outputs, targets)
    for run in range(RUNS):
        one, other = outputs[run].double()
        likelihood = (((one - targets[run]) ** 2).mean() + ((other - targets[run]) ** 2).mean()) / 2
        assert terms["cross_entropy"][run].item() == pytest.approx(likelihood.item(), rel=1e-5)
        assert terms["kl"][run].item() == pytest.approx(((one - other) ** 2).mean().item() * share, rel=1e-5)


def test_label_smoothing_acts_on_both_losses_and_not_on_the_divergence():
    outputs, targets = classes(2)
    terms = stacked([Rdrop(label_smoothing=0.1)] * 3).terms(outputs, targets)
    expected = [sum(plain(outputs[run, copy], targets[run], 0.1) for copy in range(2)) for run in range(RUNS)]
    assert terms["cross_entropy"].tolist() == pytest.approx(expected, rel=1e-5)
    assert torch.equal(terms["kl"], stacked([Rdrop()] * 3).terms(outputs, targets)["kl"])


@pytest.mark.parametrize("rates", [(0.5, 0.2), (0.0, 0.3)])
def test_one_forward_of_the_doubled_batch_is_two_forwards_with_the_same_masks(rates):
    """Loss and gradients of two runs, against plain float64 arithmetic on each run and copy by itself."""
    generator, runs, alpha = torch.Generator().manual_seed(0), 2, 1.5
    model, objective = MLP(widths=(5,)), rdrop(alpha, alpha)
    params = {
        item.name: torch.randn(runs, *item.shape, generator=generator).requires_grad_()
        for item in model.parameters(FACTS)
    }
    inputs = torch.randn(runs, BATCH, 6, generator=generator)
    targets = torch.randint(0, 4, (runs, BATCH), generator=generator)
    strategies = [Strategy(noise=Bernoulli(), objective=Rdrop(), rate=rate) for rate in rates]
    streams = Streams((3, 4))
    noise = StepNoise(
        strategy=stacked(strategies), placements=strategies[0].place(model.sites(FACTS), FACTS), state={},
        scene=Scene(Clock(7, 100, 0, 1), params, {}, BATCH, "classification", streams), streams=streams,
    )  # fmt: skip

    doubled = model.apply(params, inputs.repeat(1, 2, 1), noise, None, FACTS)
    terms = objective.terms(doubled.view(runs, 2, BATCH, 4), targets)
    ours = torch.autograd.grad(objective.total(terms).sum(), list(params.values()))

    masks = {
        name: noise.perturbation(name, (runs, 2 * BATCH, units)).scale for name, units in (("input", 6), ("hidden1", 5))
    }
    precise = {name: value.detach().double().requires_grad_() for name, value in params.items()}
    for run, rate in enumerate(rates):
        answers = []
        for half in (slice(0, BATCH), slice(BATCH, 2 * BATCH)):
            value = inputs[run].double() * masks["input"][run, half]
            value = value @ precise["hidden1.weight"][run] + precise["hidden1.bias"][run]
            value = value.relu() * masks["hidden1"][run, half]
            answers.append(value @ precise["output.weight"][run] + precise["output.bias"][run])
        one, other = answers
        likelihood = cross_entropy(one, targets[run]) + cross_entropy(other, targets[run])
        divergence = (kl(one, other) + kl(other, one)).mean() / 2
        assert terms["cross_entropy"][run].item() == pytest.approx(likelihood.item(), rel=1e-5)
        assert terms["kl"][run].item() == pytest.approx(divergence.item(), rel=1e-4)
        assert (terms["kl"][run].item() == 0) == (rate == 0)
        theirs = torch.autograd.grad(likelihood + alpha * divergence, list(precise.values()))
        for mine, other_way in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine[run].double(), other_way[run], atol=1e-5, rtol=1e-4)


def test_it_repeats_the_batch_twice_with_noise():
    assert Rdrop().copies == 2
    assert not Rdrop.clean
