"""Expectation-linear dropout against the published formula."""

from __future__ import annotations

import math

import pytest
import torch
from answers import RUNS, classes, mean_square, plain, reals

from dropbench.objectives.expectation_linear import ExpectationLinear
from dropbench.stack import stacked


def test_by_hand():
    # with noise z1 = (0, 0), without z = (3, -1), y = 0: CE(P1) = log 2, mean (z1 - z)^2 = (9 + 1) / 2
    outputs = torch.tensor([[[[0.0, 0.0]], [[3.0, -1.0]]]])
    objective = stacked([ExpectationLinear(kappa=0.25)])
    terms = objective.terms(outputs, torch.tensor([[0]]))
    assert terms["distance"].tolist() == [5]
    assert terms["cross_entropy"].tolist() == pytest.approx([math.log(2)])
    assert objective.total(terms).tolist() == pytest.approx([math.log(2) + 1.25])


@pytest.mark.parametrize(
    "answers", [classes(2), classes(2, per_step=True), reals(2)], ids=["classes", "steps", "reals"]
)
def test_the_formula_of_the_paper(answers):
    # CE(P1) + kappa mean (z1 - z)^2; the last copy is that without noise, and its own loss does not count
    outputs, targets = answers
    kappas = (0.0, 0.25, 3.0)
    expected = [
        plain(outputs[run, 0], targets[run]) + kappa * mean_square(outputs[run, 0], outputs[run, 1], targets[run])
        for run, kappa in enumerate(kappas)
    ]
    result = stacked([ExpectationLinear(kappa=kappa) for kappa in kappas]).loss(outputs, targets)
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_passes_through_both_outputs():
    outputs, targets = reals(2)
    outputs.requires_grad_()
    loss = stacked([ExpectationLinear(kappa=0.5)] * RUNS).loss(outputs, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), outputs)
    noisy, clean = outputs.detach().unbind(1)
    count = noisy[0].numel()
    torch.testing.assert_close(gradient[:, 0], (2 * (noisy - targets) + (noisy - clean)) / count)
    torch.testing.assert_close(gradient[:, 1], (clean - noisy) / count)


def test_label_smoothing_acts_on_the_loss_with_noise():
    outputs, targets = classes(2)
    result = stacked([ExpectationLinear(label_smoothing=0.2)] * RUNS).terms(outputs, targets)["cross_entropy"]
    assert result.tolist() == pytest.approx(
        [plain(outputs[run, 0], targets[run], 0.2) for run in range(RUNS)], rel=1e-5
    )


def test_one_copy_has_noise_and_one_has_none():
    assert ExpectationLinear().copies == 1
    assert ExpectationLinear.clean
