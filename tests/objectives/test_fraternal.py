"""Fraternal dropout against the published formula."""

from __future__ import annotations

import math

import pytest
import torch
from answers import RUNS, classes, mean_square, plain, reals

from dropbench.objectives.fraternal import Fraternal
from dropbench.stack import stacked


def test_by_hand():
    # z1 = (0, 0), z2 = (2, 0), y = 0: mean (z1 - z2)^2 = 2; CE1 = log 2, CE2 = log(1 + e^-2)
    outputs = torch.tensor([[[[0.0, 0.0]], [[2.0, 0.0]]]])
    objective = stacked([Fraternal(kappa=0.5)])
    terms = objective.terms(outputs, torch.tensor([[0]]))
    likelihood = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert terms["distance"].tolist() == [2]
    assert terms["cross_entropy"].tolist() == pytest.approx([likelihood])
    assert objective.total(terms).tolist() == pytest.approx([likelihood + 1])


@pytest.mark.parametrize(
    "answers", [classes(2), classes(2, per_step=True), reals(2)], ids=["classes", "steps", "reals"]
)
def test_the_formula_of_the_paper(answers):
    # 1/2 (CE1 + CE2) + kappa mean (z1 - z2)^2, over what is asked
    outputs, targets = answers
    kappas = (0.0, 0.15, 3.0)
    expected = [
        (plain(outputs[run, 0], targets[run]) + plain(outputs[run, 1], targets[run])) / 2
        + kappa * mean_square(outputs[run, 0], outputs[run, 1], targets[run])
        for run, kappa in enumerate(kappas)
    ]
    result = stacked([Fraternal(kappa=kappa) for kappa in kappas]).loss(outputs, targets)
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_outputs_have_no_distance():
    outputs, targets = classes(1)
    terms = stacked([Fraternal()] * RUNS).terms(outputs.expand(-1, 2, -1, -1), targets)
    assert terms["distance"].tolist() == [0, 0, 0]


def test_the_gradient_of_the_distance_passes_through_both_outputs():
    outputs, targets = reals(2)
    outputs.requires_grad_()
    distance = stacked([Fraternal()] * RUNS).terms(outputs, targets)["distance"]
    (gradient,) = torch.autograd.grad(distance.sum(), outputs)
    expected = 2 * (outputs[:, 0] - outputs[:, 1]) / outputs[0, 0].numel()
    torch.testing.assert_close(gradient, torch.stack([expected, -expected], 1))


def test_label_smoothing_acts_on_both_losses():
    outputs, targets = classes(2)
    result = stacked([Fraternal(label_smoothing=0.2)] * RUNS).terms(outputs, targets)["cross_entropy"]
    expected = [sum(plain(outputs[run, copy], targets[run], 0.2) for copy in range(2)) / 2 for run in range(RUNS)]
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_it_repeats_the_batch_twice_with_noise():
    assert Fraternal().copies == 2
    assert not Fraternal.clean
