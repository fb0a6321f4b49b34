"""Max-norm is torch.renorm, clipping is torch.nn.utils.clip_grad_norm_, both run by run."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dropbench.models import Parameter
from dropbench.optim.constraints import bound_units, clipping, direction


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "unit_axis"), [((30, 20), 1), ((20, 30), 0), ((8, 3, 5, 5), 0), ((3, 8, 5), 1), ((7, 4, 6), 2)]
)
@pytest.mark.parametrize("scale", [0.01, 0.5, 10.0])
def test_max_norm_is_renorm(shape, unit_axis, scale):
    limits = torch.tensor([0.5, 3.0, 4.0])
    weight = scale * normal(3, *shape)
    expected = torch.stack(
        [torch.renorm(run, 2, unit_axis, float(limit)) for run, limit in zip(weight, limits, strict=True)]
    )
    bound_units({"w": weight}, {"w": Parameter("w", shape, unit_axis=unit_axis)}, limits)
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-6)


def test_max_norm_by_hand():
    """Columns are units: (3, 4) of norm 5 shrinks to 2.5; (0.6, 0.8) of norm 1 and (0, 0) stay."""
    weight = torch.tensor([[[3.0, 0.6, 0.0], [4.0, 0.8, 0.0]]])
    bound_units({"w": weight}, {"w": Parameter("w", (2, 3), unit_axis=1)}, torch.tensor([2.5]))
    torch.testing.assert_close(weight, torch.tensor([[[1.5, 0.6, 0.0], [2.0, 0.8, 0.0]]]))


def test_max_norm_leaves_what_has_no_units():
    weight = 100 * normal(2, 4, 5)
    before = weight.clone()
    bound_units({"w": weight}, {"w": Parameter("w", (4, 5))}, torch.tensor([1.0, 1.0]))
    assert torch.equal(weight, before)


@given(
    limits=st.lists(st.floats(0.01, 10), min_size=1, max_size=4),
    scale=st.floats(0.001, 100),
    seed=st.integers(0, 1000),
)
def test_max_norm_bounds_every_unit_and_turns_none(limits, scale, seed):
    weight = scale * normal(len(limits), 5, 6, seed=seed)
    before, limit = weight.clone(), torch.tensor(limits)
    bound_units({"w": weight}, {"w": Parameter("w", (5, 6), unit_axis=1)}, limit)
    norm = weight.norm(dim=1)
    assert (norm <= limit.view(-1, 1) * (1 + 1e-5)).all()
    torch.testing.assert_close(norm, torch.minimum(before.norm(dim=1), limit.view(-1, 1)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.cosine_similarity(weight, before, dim=1), torch.ones(len(limits), 6))


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_clipping_is_clip_grad_norm(scale):
    limits = torch.tensor([0.5, 5.0, 50.0])
    gradients = {
        "a": scale * normal(3, 4, 5),
        "b": scale * normal(3, 5, seed=1),
        "c": scale * normal(3, 2, 3, 2, seed=2),
    }
    clip = clipping(gradients.values(), limits)
    assert clip.shape == (3,)
    for run in range(3):
        leaves = [torch.nn.Parameter(value[run].clone()) for value in gradients.values()]
        for leaf in leaves:
            leaf.grad = leaf.detach().clone()
        torch.nn.utils.clip_grad_norm_(leaves, float(limits[run]))
        for leaf, gradient in zip(leaves, gradients.values(), strict=True):
            ours = direction(gradient, gradient, clip, None)[run]
            torch.testing.assert_close(ours, leaf.grad, rtol=1e-6, atol=1e-6)


def test_clipping_by_hand():
    """Norms 5 and 0.5 against a bound of 1; the norm is that of all parameters together."""
    gradients = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]
    torch.testing.assert_close(clipping(gradients, torch.tensor([1.0, 1.0])), torch.tensor([0.2, 1.0]))


def test_runs_stay_apart_where_a_parameter_has_no_axes():
    """torch takes a sum over no axes as one over all, runs included."""
    torch.testing.assert_close(
        clipping([torch.tensor([4.0, 0.5])], torch.tensor([1.0, 1.0])), torch.tensor([0.25, 1.0])
    )
    gains = torch.tensor([[4.0, 0.5], [-0.5, -4.0]])
    bound_units({"g": gains}, {"g": Parameter("g", (2,), unit_axis=0)}, torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(gains, torch.tensor([[1.0, 0.5], [-0.5, -2.0]]))


def test_direction_by_hand():
    gradient, value = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    half, tenth = torch.tensor([0.5, 1.0]), torch.tensor([0.1, 0.0])
    assert direction(gradient, value, None, None) is gradient
    expected = {
        (True, False): [[0.5, 1.0], [3.0, 4.0]],
        (False, True): [[2.0, 4.0], [3.0, 4.0]],
        (True, True): [[1.5, 3.0], [3.0, 4.0]],
    }
    for (clips, decays), result in expected.items():
        ours = direction(gradient, value, half if clips else None, tenth if decays else None)
        torch.testing.assert_close(ours, torch.tensor(result))
    assert gradient.tolist() == [[1, 2], [3, 4]]
