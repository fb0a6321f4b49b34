"""Cross-entropy against numbers worked out by hand and against torch."""

from __future__ import annotations

import math

import pytest
import torch
from answers import classes, plain
from torch.nn.functional import cross_entropy

from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.stack import stacked

LOSS = CrossEntropy().loss


def logits(*probabilities: tuple[float, ...]) -> torch.Tensor:
    """Outputs whose softmax is known, off by a constant: [1, 1, batch, classes]."""
    return torch.tensor(probabilities).log().add(3)[None, None]


def test_by_hand():
    outputs = logits((0.5, 0.25, 0.25), (0.1, 0.1, 0.8))
    loss = LOSS(outputs, torch.tensor([[1, 2]]))
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx((math.log(4) + math.log(1.25)) / 2, abs=1e-6)  # 0.804719


def test_every_run_has_its_own_loss():
    both = torch.cat([logits((0.5, 0.5)), logits((0.2, 0.8))])
    assert LOSS(both, torch.tensor([[0], [0]])).tolist() == pytest.approx([math.log(2), math.log(5)])


def test_minus_100_is_not_asked():
    outputs = logits((0.5, 0.25, 0.25), (0.1, 0.1, 0.8), (0.9, 0.05, 0.05))
    assert LOSS(outputs, torch.tensor([[1, -100, -100]])).item() == pytest.approx(math.log(4))
    assert LOSS(outputs, torch.tensor([[-100, 2, 0]])).item() == pytest.approx((math.log(1.25) - math.log(0.9)) / 2)


def test_what_is_not_asked_has_no_gradient():
    outputs = logits((0.5, 0.5), (0.5, 0.5)).requires_grad_()
    (gradient,) = torch.autograd.grad(LOSS(outputs, torch.tensor([[-100, 0]])).sum(), outputs)
    assert gradient[0, 0].tolist() == [[0, 0], [-0.5, 0.5]]


def test_an_answer_a_step_and_padding_weigh_every_asked_answer_alike():
    # two sequences of two steps, the second with one answer: the mean is over three answers
    outputs = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[0.2, 0.8], [0.5, 0.5]]]).log()[None, None]
    targets = torch.tensor([[[0, 1], [0, -100]]])
    expected = (math.log(2) + math.log(4 / 3) + math.log(5)) / 3
    assert LOSS(outputs, targets).item() == pytest.approx(expected)


def test_copies_are_averaged():
    copies = torch.cat([logits((0.5, 0.5)), logits((0.2, 0.8))], 1)  # [1, 2, 1, 2]
    assert LOSS(copies, torch.tensor([[0]])).item() == pytest.approx((math.log(2) + math.log(5)) / 2)


@pytest.mark.parametrize("per_step", [False, True])
def test_as_torch(per_step):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 2, 5, 4) if per_step else (3, 2, 5)
    outputs = 4 * torch.randn(*shape, 7, generator=generator)
    targets = torch.randint(0, 7, (shape[0], *shape[2:]), generator=generator)
    targets[:, 1] = -100
    expected = [
        sum(cross_entropy(outputs[run, copy].flatten(0, -2), targets[run].flatten()).item() for copy in range(2)) / 2
        for run in range(3)
    ]
    assert LOSS(outputs, targets).tolist() == pytest.approx(expected, abs=1e-6)


def test_extreme_outputs_and_low_precision_stay_finite():
    outputs = torch.tensor([[[[1000.0, -1000.0]]]])
    assert LOSS(outputs, torch.tensor([[0]])).item() == 0
    assert LOSS(outputs, torch.tensor([[1]])).item() == 2000
    loss = LOSS(torch.zeros(1, 1, 1, 3, dtype=torch.bfloat16), torch.tensor([[1]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(3))


# ---- label smoothing


def smoothed(*shares: float) -> CrossEntropy:
    return stacked([CrossEntropy(label_smoothing=share) for share in shares])


def test_label_smoothing_by_hand():
    # p = (1/2, 1/4, 1/4), y = 1, e = 0.3: the targets are 0.1, 0.8 and 0.1
    outputs = logits((0.5, 0.25, 0.25))
    loss = smoothed(0.3).loss(outputs, torch.tensor([[1]]))
    assert loss.item() == pytest.approx(0.1 * math.log(2) + 0.8 * math.log(4) + 0.1 * math.log(4))
    assert smoothed(1.0).loss(outputs, torch.tensor([[1]])).item() == pytest.approx(math.log(32) / 3)


@pytest.mark.parametrize("per_step", [False, True])
def test_label_smoothing_as_torch_with_a_share_for_each_run(per_step):
    outputs, targets = classes(2, per_step=per_step)
    shares = (0.0, 0.1, 0.7)
    expected = [
        (plain(outputs[run, 0], targets[run], share) + plain(outputs[run, 1], targets[run], share)) / 2
        for run, share in enumerate(shares)
    ]
    assert smoothed(*shares).loss(outputs, targets).tolist() == pytest.approx(expected, abs=1e-5)


def test_the_gradient_of_label_smoothing_is_that_of_torch():
    outputs, targets = classes(1)
    outputs.requires_grad_()
    (ours,) = torch.autograd.grad(smoothed(0.2, 0.2, 0.2).loss(outputs, targets).sum(), outputs)
    theirs = sum(cross_entropy(outputs[run, 0], targets[run], label_smoothing=0.2) for run in range(3))
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, outputs)[0])


def test_no_smoothing_and_a_smoothing_of_0_are_the_same():
    outputs, targets = classes(1)
    assert torch.equal(smoothed(0.0, 0.0, 0.0).loss(outputs, targets), LOSS(outputs, targets))


def test_the_only_term_is_the_loss():
    outputs, targets = classes(1)
    terms = CrossEntropy().terms(outputs, targets)
    assert list(terms) == ["cross_entropy"]
    assert torch.equal(terms["cross_entropy"], LOSS(outputs, targets))
    assert CrossEntropy().copies == 1
    assert not CrossEntropy.clean
