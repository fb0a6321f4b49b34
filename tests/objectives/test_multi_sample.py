"""Multi-sample dropout against the published formula."""

from __future__ import annotations

import math

import pytest
import torch
from answers import RUNS, classes, plain, reals

from dropbench.objectives.multi_sample import MultiSample
from dropbench.stack import stacked


def test_by_hand():
    # the probabilities of the answer in three copies are 1/2, 1/4 and 4/5: log 2, log 4, log 5/4
    outputs = torch.tensor([[[[0.5, 0.5]], [[0.25, 0.75]], [[0.8, 0.2]]]]).log()
    loss = stacked([MultiSample(samples=3)]).loss(outputs, torch.tensor([[0]]))
    assert loss.tolist() == pytest.approx([math.log(10) / 3])


@pytest.mark.parametrize(
    "answers", [classes(4), classes(4, per_step=True), reals(4)], ids=["classes", "steps", "reals"]
)
def test_it_is_the_mean_of_the_losses_and_not_the_loss_of_the_mean(answers):
    outputs, targets = answers
    loss = stacked([MultiSample(samples=4)] * RUNS).loss(outputs, targets).tolist()
    each = [sum(plain(outputs[run, copy], targets[run]) for copy in range(4)) / 4 for run in range(RUNS)]
    assert loss == pytest.approx(each, rel=1e-5)
    of_the_mean = [plain(outputs[run].mean(0), targets[run]) for run in range(RUNS)]
    assert all(here > there for here, there in zip(loss, of_the_mean, strict=True))  # both losses are convex


def test_label_smoothing_acts_on_every_copy():
    outputs, targets = classes(2)
    loss = stacked([MultiSample(samples=2, label_smoothing=0.2)] * RUNS).loss(outputs, targets)
    expected = [sum(plain(outputs[run, copy], targets[run], 0.2) for copy in range(2)) / 2 for run in range(RUNS)]
    assert loss.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_batch_is_repeated_as_often_as_there_are_samples():
    assert MultiSample(samples=5).copies == 5
    assert MultiSample().copies == 8
    assert not MultiSample.clean
