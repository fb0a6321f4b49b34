"""The policy of difficulty against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from scenes import CARRY, HIDDEN, scene

from dropbench.policies.difficulty import Difficulty
from dropbench.spec import Signals
from dropbench.stack import stacked


def after(policy: Difficulty, *losses: list[float]) -> list[float]:
    """The factors of a stack after these losses."""
    state = policy.init(len(losses[0]), (HIDDEN,))
    for loss in losses:
        state = policy.update(state, Signals(clean_loss=torch.tensor(loss)))
    return policy.factor(HIDDEN, state, scene()).tolist()


def test_by_hand():
    # m0 = 2 before the first step: factor 1; then m = 0.75 * 2 + 0.25 * 0.4 = 1.6 and 0.75 * 1.6 + 0.25 * 0.4 = 1.3
    one = stacked([Difficulty(power=1.0, memory=0.75)])
    assert after(one, [2.0]) == [1.0]
    assert after(one, [2.0], [0.4]) == pytest.approx([0.8])
    assert after(one, [2.0], [0.4], [0.4]) == pytest.approx([0.65])


def test_the_power_bends_it():
    # without memory the level is the last loss: (0.5 / 2)^power
    three = stacked([Difficulty(power=power, memory=0.0) for power in (0.5, 1.0, 1.5)])
    assert after(three, [2.0] * 3, [0.5] * 3) == pytest.approx([0.5, 0.25, 0.125])


def test_it_stays_between_floor_and_1():
    two = stacked([Difficulty(power=1.0, memory=0.0, floor=floor) for floor in (0.1, 0.3)])
    assert after(two, [2.0, 2.0], [0.02, 0.02]) == pytest.approx([0.1, 0.3])
    assert after(two, [2.0, 2.0], [6.0, 2.1]) == [1.0, 1.0]


def test_an_easy_task_gets_less_than_a_hard_one():
    two = stacked([Difficulty()] * 2)
    easy, hard = after(two, [2.3, 2.3], *[[0.1, 2.0]] * 6)
    assert easy < 0.7 < hard


def test_every_run_has_its_own_first_loss():
    two = stacked([Difficulty(power=1.0, memory=0.5)] * 2)
    assert after(two, [1.0, 4.0], [0.5, 1.0]) == pytest.approx([0.75, 0.625])


def test_it_is_the_same_at_every_site_and_asks_for_the_loss_without_noise():
    one = stacked([Difficulty()])
    state = one.update(one.init(1, (HIDDEN, CARRY)), Signals(clean_loss=torch.tensor([1.5])))
    assert torch.equal(one.factor(HIDDEN, state, scene()), one.factor(CARRY, state, scene(progress=0.5)))
    assert Difficulty().needs == {"clean_loss"}
    assert not Difficulty.timed
