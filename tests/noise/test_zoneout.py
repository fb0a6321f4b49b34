"""Zoneout against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from places import place, rates, same_bits, words

from dropbench.noise.zoneout import Zoneout
from dropbench.spec import Site
from dropbench.streams import Streams

NOISE = Zoneout()
CARRY = place(Site("layer1.carry_h", "carry", 1.0, ("step", "batch", "unit"), 4))
NEW = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
OLD = torch.tensor([[10.0, 20.0, 30.0, 40.0]])


def test_a_value_below_the_rate_keeps_its_old_value_and_nothing_is_scaled():
    perturbation = NOISE.perturb(words(0.0, 0.24, 0.25, 0.9), rates(0.25), CARRY)
    assert perturbation(NEW, OLD).tolist() == [[10, 20, 3, 4]]
    assert NOISE.realised(perturbation).tolist() == [0.5]
    assert perturbation.shift is None
    assert perturbation.readout is None


def test_what_is_taken_of_old_and_new_is_always_one_whole():
    draw = Streams((0, 1)).bits("noise", 0, "x", (3, 5, 7))
    perturbation = NOISE.perturb(draw, rates(0.1, 0.8, dims=4), CARRY)
    assert torch.equal(perturbation.scale + perturbation.mix, torch.ones(2, 3, 5, 7))
    assert perturbation.scale.unique().tolist() == [0, 1]
    expected = NOISE.expect(rates(0.1, 0.8, dims=4), CARRY)
    assert torch.equal(expected.scale + expected.mix, torch.ones(2, 1, 1, 1))


def test_rate_0_is_the_new_value_bit_for_bit_in_training_and_evaluation():
    new, old = torch.tensor([[1e-42, 3.3e38, 0.1, -7.0]]), torch.tensor([[5.0, -3.3e38, 0.3, 1e-42]])
    assert same_bits(NOISE.perturb(words(0.0, 0.1, 0.5, 0.99), rates(0.0), CARRY)(new, old), new)
    assert same_bits(NOISE.expect(rates(0.0), CARRY)(new, old), new)


def test_at_the_highest_rate_the_state_all_but_freezes():
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(1, -1)
    perturbation = NOISE.perturb(every, rates(0.9999), CARRY)
    assert int(perturbation.scale.sum()) == 2**16 - 65529  # round(0.9999 * 2**16) words keep the old value
    state = torch.zeros(1, 1)
    for _ in range(10):
        state = NOISE.expect(rates(0.9999), CARRY)(torch.ones(1, 1), state)
    assert state.item() == pytest.approx(1 - 0.9999**10, rel=1e-3)  # 10 steps, one thousandth of the way


def test_evaluation_is_the_mixture():
    # 0.25 * 10 + 0.75 * 1 and so on
    assert NOISE.expect(rates(0.25), CARRY)(NEW, OLD).tolist() == [[3.25, 6.5, 9.75, 13.0]]


def test_the_mean_over_masks_is_the_evaluation():
    count, rate = 200_000, 0.15
    draw = Streams((0,)).bits("noise", 0, "x", (count,))
    mean = NOISE.perturb(draw, rates(rate), CARRY)(torch.tensor([[2.0]]), torch.tensor([[-3.0]])).mean().item()
    expected = NOISE.expect(rates(rate), CARRY)(torch.tensor([[2.0]]), torch.tensor([[-3.0]])).item()
    assert expected == pytest.approx(0.15 * -3 + 0.85 * 2)
    assert abs(mean - expected) < 4.5 * 5 * (rate * (1 - rate) / count) ** 0.5  # values 5 apart


def test_the_gradient_of_a_unit_that_is_kept_flows_through_its_old_value():
    new, old = NEW.clone().requires_grad_(), OLD.clone().requires_grad_()
    perturbation = NOISE.perturb(words(0.0, 0.1, 0.5, 0.9), rates(0.25), CARRY)
    to_new, to_old = torch.autograd.grad(perturbation(new, old).sum(), (new, old))
    assert to_new.tolist() == [[0, 0, 1, 1]]
    assert to_old.tolist() == [[1, 1, 0, 0]]
