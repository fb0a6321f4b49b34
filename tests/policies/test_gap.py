"""The controller of the generalisation gap against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scenes import CARRY, HIDDEN, scene

from dropbench.policies.gap import Gap
from dropbench.spec import Signals
from dropbench.stack import stacked


def losses(clean: list[float], held_out: list[float]) -> Signals:
    return Signals(clean_loss=torch.tensor(clean), held_out_loss=torch.tensor(held_out))


def test_by_hand():
    # f <- clip(f + 0.5 (held out - training - 0.05), 0, 1), from 0.2
    policy = stacked([Gap()])
    state = policy.init(1, (HIDDEN,))
    expected = {
        (0.30, 0.75): 0.4,  # 0.2 + 0.5 * 0.4
        (0.20, 0.25): 0.4,  # just the target
        (0.50, 0.45): 0.35,  # 0.4 - 0.5 * 0.1
        (0.10, 2.15): 1.0,  # 0.35 + 0.5 * 2.0, clipped
        (3.05, 0.10): 0.0,  # 1 - 0.5 * 3.0, clipped
        (0.00, 0.25): 0.1,  # no wind-up: it leaves the end at once
    }
    assert policy.factor(HIDDEN, state, scene()).tolist() == pytest.approx([0.2])
    for (clean, held_out), factor in expected.items():
        state = policy.update(state, losses([clean], [held_out]))
        assert policy.factor(HIDDEN, state, scene()).tolist() == pytest.approx([factor], abs=1e-6)


def test_every_run_has_its_own_controller():
    three = stacked([Gap(), Gap(target=0.0, gain=2.0, start=0.5), Gap(start=0.4, floor=0.3)])
    state = three.init(3, (HIDDEN, CARRY))
    assert state["factor"].tolist() == pytest.approx([0.2, 0.5, 0.4])
    state = three.update(state, losses([1.0, 1.0, 1.0], [1.25, 1.2, 0.25]))
    # 0.2 + 0.5 * 0.2; 0.5 + 2 * 0.2; 0.4 - 0.5 * 0.8 = 0, below the floor
    assert state["factor"].tolist() == pytest.approx([0.3, 0.9, 0.3])
    assert torch.equal(three.factor(HIDDEN, state, scene()), three.factor(CARRY, state, scene(progress=0.9)))


def test_an_update_leaves_the_state_before_it_alone():
    policy = stacked([Gap()])
    before = policy.init(1, (HIDDEN,))
    after = policy.update(before, losses([0.0], [1.0]))
    assert before["factor"].tolist() == pytest.approx([0.2])
    assert after["factor"].tolist() == pytest.approx([0.675])
    assert policy.start.tolist() == pytest.approx([0.2])


def test_it_asks_for_both_losses_without_noise():
    assert Gap().needs == {"clean_loss", "held_out_loss"}
    assert not Gap.timed
