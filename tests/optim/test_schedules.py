"""Learning-rate decay, warm-up and the momentum ramp: numbers by hand, and torch's schedulers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.optim import lr_scheduler

from dropbench.errors import UserError
from dropbench.models import Parameter
from dropbench.optim.adam import Adam
from dropbench.optim.schedules import Decay, ramped, warmed
from dropbench.optim.sgd import SGD
from dropbench.schema import build
from dropbench.spec import Clock
from dropbench.stack import stacked


def at(step, steps=100):
    return Clock(step, steps, 0, 1)


def vectors(*values):
    return (torch.tensor([float(value)]) for value in values)


BY_HAND = [
    (Decay("constant"), 1, 1, 1),
    (Decay("step", milestones=(0.5, 0.75), gamma=0.1), 1, 0.1, 0.01),
    (Decay("step", milestones=(), gamma=0.1), 1, 1, 1),
    (Decay("exponential", final=0.01), 1, 0.1, 0.01),
    (Decay("inverse_time", final=0.2), 1, 1 / 3, 0.2),  # 1 + 4 t
    (Decay("cosine", final=0.1), 1, 0.55, 0.1),
    (Decay("cosine", final=0.0), 1, 0.5, 0),
    (Decay("linear", final=0.2), 1, 0.6, 0.2),
]


@pytest.mark.parametrize(("decay", "start", "middle", "end"), BY_HAND)
def test_decay_by_hand(decay, start, middle, end):
    factors = [float(stacked([decay]).factor(at(step))) for step in (0, 50, 100)]
    assert factors == pytest.approx([start, middle, end], abs=1e-6)


def test_cosine_at_a_quarter_and_step_at_its_milestones():
    assert float(stacked([Decay("cosine", final=0.0)]).factor(at(25))) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    decay = stacked([Decay("step", milestones=(0.3, 0.6), gamma=0.5)])
    factors = [float(decay.factor(at(step))) for step in (29, 30, 59, 60, 99)]
    assert factors == [1, 0.5, 0.5, 0.25, 0.25]


COUNTERPARTS = [
    (Decay("constant"), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    (
        Decay("step", milestones=(0.5, 0.75), gamma=0.2),
        lambda o: lr_scheduler.MultiStepLR(o, milestones=[50, 75], gamma=0.2),
    ),
    (Decay("exponential", final=0.01), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.01 ** (1 / 100))),
    (Decay("inverse_time", final=0.2), lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + 0.04 * step))),
    (Decay("cosine", final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=100, eta_min=0.05)),
    (Decay("linear", final=0.2), lambda o: lr_scheduler.LinearLR(o, 1.0, 0.2, total_iters=100)),
]


def torch_rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("cls", [SGD, Adam])
@pytest.mark.parametrize(("decay", "make"), COUNTERPARTS)
def test_rates_are_those_of_torchs_schedulers(cls, decay, make):
    optimizer = stacked([cls(learning_rate=0.5, decay=decay)])
    rates = [float(optimizer.rate(at(step))) for step in range(100)]
    assert rates == pytest.approx(torch_rates(make), abs=1e-6)


def test_warm_up_by_hand_and_by_torch():
    (share,) = vectors(0.1)
    rises = [float(warmed(share, at(step))) for step in (0, 4, 9, 10, 99)]
    assert rises == pytest.approx([0.1, 0.5, 1, 1, 1])
    optimizer = stacked([SGD(learning_rate=0.5, warmup=0.1)])
    rates = [float(optimizer.rate(at(step))) for step in range(100)]
    assert rates == pytest.approx(torch_rates(lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=9)), abs=1e-6)


def test_no_warm_up_is_one_from_the_start():
    (share,) = vectors(0)
    assert [float(warmed(share, at(step))) for step in (0, 1, 99)] == [1, 1, 1]


def test_warm_up_multiplies_decay():
    optimizer = stacked([SGD(learning_rate=2.0, warmup=0.5, decay=Decay("linear", final=0.0))])
    assert float(optimizer.rate(at(24))) == pytest.approx(2 * 0.5 * 0.76)


def test_momentum_ramp_by_hand():
    start, end, share = vectors(0.5, 0.95, 0.5)
    values = [float(ramped(start, end, share, at(step))) for step in (0, 10, 25, 50, 75, 99)]
    assert values == pytest.approx([0.5, 0.59, 0.725, 0.95, 0.95, 0.95])


def test_no_ramp_is_the_end_from_the_first_step():
    start, end, share = vectors(0.5, 0.9, 0)
    assert [float(ramped(start, end, share, at(step))) for step in (0, 1, 99)] == pytest.approx([0.9, 0.9, 0.9])


def test_the_update_uses_the_ramp():
    """With unit gradient and rate: v1 = 1, v2 = m(1/2) + 1 with m(1/2) = (0 + 0.8) / 2."""
    optimizer = stacked([SGD(learning_rate=1.0, momentum=0.8, momentum_start=0.0, momentum_ramp=1.0)])
    weight = {"w": torch.zeros(1, 1)}
    state = optimizer.init(weight)
    for step in range(2):
        optimizer.step(weight, {"w": torch.ones(1, 1)}, state, at(step, 2), {"w": Parameter("w", (1,))})
    assert float(weight["w"]) == pytest.approx(-(1 + 1.4))


def test_runs_have_rates_of_their_own():
    parts = [
        SGD(learning_rate=rate, warmup=warmup, decay=Decay("cosine", final=final))
        for rate, warmup, final in ((0.1, 0.0, 0.0), (1.0, 0.3, 0.5), (3.0, 1.0, 1.0))
    ]
    together = stacked(parts)
    for step in (0, 13, 50, 99):
        rates = together.rate(at(step))
        assert rates.shape == (3,)
        assert torch.equal(rates, torch.cat([stacked([part]).rate(at(step)) for part in parts]))


@pytest.mark.parametrize("shape", ["exponential", "inverse_time"])
def test_a_fall_that_cannot_reach_zero_says_so(shape):
    with pytest.raises(UserError, match=r"optimizer\.decay: final=0\.0 must be above 0"):
        build(SGD, {"decay": {"shape": shape, "final": 0}}, "optimizer")
    assert replace(Decay("cosine", final=0.0), shape="linear").final == 0
