"""Cross-entropy in C against that of torch, figures and gradients."""

from __future__ import annotations

import pytest
import torch

from dropbench.kernels import loss, native

SHAPES = {"an answer an example": (3, 2, 7, 10), "an answer a step": (3, 2, 5, 4, 6), "one": (1, 1, 1, 2)}


@pytest.fixture(autouse=True)
def compiled():
    if native.library(loss.NAME) is None:
        pytest.skip(native.reason(loss.NAME))


def drawn(shape: tuple[int, ...], size: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and targets of which every third asks nothing, but for the first."""
    generator = torch.Generator().manual_seed(0)
    outputs = (size * torch.randn(*shape, generator=generator)).requires_grad_()
    targets = torch.randint(shape[-1], (shape[0], *shape[2:-1]), generator=generator)
    targets.view(shape[0], -1)[:, 2::3] = -100
    return outputs, targets


@pytest.mark.parametrize("smoothing", [None, [0.0, 0.1, 0.5]])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_as_in_torch(shape, smoothing):
    outputs, targets = drawn(shape)
    spread = None if smoothing is None else torch.tensor(smoothing)[: shape[0]]
    above = torch.arange(1.0, shape[0] * shape[1] + 1).view(shape[:2])
    found, expected = (inner(outputs, targets, spread) for inner in (loss._native, loss._torch))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(each, outputs, above)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_by_hand():
    outputs = torch.tensor([[[[0.0, 0.0], [0.0, torch.tensor(3.0).log()]]]])
    found = loss._native(outputs, torch.tensor([[0, 1]]), None)
    # log 2 and log(4 / 3), and their mean
    assert found.item() == pytest.approx((0.69314718 + 0.28768207) / 2, abs=1e-6)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_large_logits_do_not_overflow(size):
    outputs, targets = drawn(SHAPES["an answer an example"], size)
    found, expected = (inner(outputs, targets, None) for inner in (loss._native, loss._torch))
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_what_is_not_a_number_stays_none():
    outputs, targets = drawn(SHAPES["an answer an example"])
    with torch.no_grad():
        outputs[1, 0, 0, 3] = float("nan")
    found = loss._native(outputs, targets, None)
    assert found.isnan().tolist() == [[False, False], [True, False], [False, False]]


@pytest.mark.parametrize("target", [-1, 10, 2**40])
def test_a_target_that_is_no_class_is_refused(target):
    outputs, targets = drawn(SHAPES["an answer an example"])
    targets[2, 0] = target
    with pytest.raises(IndexError, match=r"a target is no class"):
        loss._native(outputs, targets, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stack_is_each_run_alone_bit_for_bit(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        outputs, targets = drawn((5, 2, 400, 10))
        together = loss._native(outputs, targets, None)
        (of_all,) = torch.autograd.grad(together.sum(), outputs)
        for run in range(5):
            mine = outputs[run : run + 1].detach().requires_grad_()
            alone = loss._native(mine, targets[run : run + 1], None)
            assert torch.equal(alone[0], together[run])
            assert torch.equal(torch.autograd.grad(alone.sum(), mine)[0][0], of_all[run])
    finally:
        torch.set_num_threads(before)


def test_many_classes_go_by_torch(monkeypatch):
    monkeypatch.setattr(loss, "_native", lambda *arguments: pytest.fail("too many classes"))
    outputs, targets = drawn((1, 1, 4, loss.MOST_CLASSES + 1))
    assert loss.cross_entropy(outputs, targets, None).shape == (1, 1)
