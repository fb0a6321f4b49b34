"""The form in which every noise states its action: `y = value * scale + fallback * mix + shift`."""

from __future__ import annotations

import pytest
import torch

from dropbench.noise import Perturbation


def test_all_three_terms():
    value, fallback = torch.tensor([[2.0, 3.0]]), torch.tensor([[10.0, 20.0]])
    scale, mix, shift = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, -0.5]])
    assert Perturbation(scale)(value).tolist() == [[2, 0]]
    assert Perturbation(scale, mix)(value, fallback).tolist() == [[2, 20]]
    assert Perturbation(scale, None, shift)(value).tolist() == [[2.5, -0.5]]
    assert Perturbation(scale, mix, shift)(value, fallback).tolist() == [[2.5, 19.5]]


def test_a_fallback_that_is_not_mixed_in_does_nothing():
    assert Perturbation(torch.tensor([[2.0]]))(torch.tensor([[3.0]]), torch.tensor([[float("nan")]])).tolist() == [[6]]


def test_to_mix_without_a_fallback_is_a_bug():
    with pytest.raises(AssertionError, match="old value"):
        Perturbation(torch.ones(1, 1), torch.ones(1, 1))(torch.ones(1, 1))


def test_at_takes_one_step_and_a_shared_axis_serves_all():
    scale = torch.arange(24.0).view(2, 3, 1, 4)  # [R, steps, batch, units]
    mix = torch.tensor([[7.0], [8.0]]).view(2, 1, 1, 1)
    whole = Perturbation(scale, mix, -scale)
    for step in range(3):
        at = whole.at(1, step)
        assert torch.equal(at.scale, scale[:, step])
        assert torch.equal(at.shift, -scale[:, step])
        assert at.mix.flatten().tolist() == [7, 8]
    bare = Perturbation(mix).at(1, 2)
    assert bare.scale.shape == (2, 1, 1)
    assert bare.mix is None
    assert bare.shift is None
    assert bare.readout is None


def test_the_factor_of_a_readout_is_picked_with_its_step_and_does_nothing_to_what_is_carried():
    readout = torch.arange(6.0).view(1, 3, 1, 2)
    whole = Perturbation(torch.ones(1, 1, 1, 1), readout=readout)
    assert whole.at(1, 2).readout.tolist() == [[[4, 5]]]
    assert whole(torch.full((1, 3, 1, 2), 7.0)).unique().tolist() == [7]


def test_at_then_call_is_call_then_pick():
    generator = torch.Generator().manual_seed(0)
    scale, mix, shift = (torch.rand(2, 5, 3, 4, generator=generator) for _ in range(3))
    value, fallback = (torch.rand(2, 5, 3, 4, generator=generator) for _ in range(2))
    whole = Perturbation(scale, mix[:, :1], shift[..., :1])
    for step in range(5):
        assert torch.equal(whole.at(1, step)(value[:, step], fallback[:, step]), whole(value, fallback)[:, step])


def test_the_value_keeps_its_dtype():
    perturbation = Perturbation(torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1))
    half = torch.ones(1, 1, dtype=torch.bfloat16)
    assert perturbation(half, half).dtype == torch.bfloat16
