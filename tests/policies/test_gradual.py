"""The gradual policy and every YAML that sets it, against numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from scenes import CARRY, HIDDEN, scene

from dropbench.errors import UserError
from dropbench.policies.gradual import Gradual
from dropbench.schema import build
from dropbench.stack import stacked

FOLDER = Path(__file__).parents[2] / "conf" / "strategy"


def factors(*policies: Gradual, at: float) -> torch.Tensor:
    return stacked(policies).factor(HIDDEN, {}, scene(progress=at))


def factor(policy: Gradual, at: float) -> float:
    result = factors(policy, at=at)
    assert result.shape == (1,)
    return result.item()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [  # with u = 0, 1/4, 1/2, 3/4, 1
        ("linear", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("exponential", (0.0, 0.9179150, 0.9932621, 0.9994469, 0.9999546)),  # 1 - exp(-10 u)
        ("cosine", (0.0, 0.1464466, 0.5, 0.8535534, 1.0)),  # (1 - cos(pi u)) / 2
        ("step", (0.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_shapes(shape, expected):
    # between 0.2 and 0.6 of the training u = 1/4 stands at 0.3
    policy = Gradual(shape=shape, after=0.2, until=0.6)
    for at, value in zip((0.2, 0.3, 0.4, 0.5, 0.6), expected, strict=True):
        assert factor(policy, at) == pytest.approx(value, abs=2e-6), at
    assert factor(policy, 0.0) == factor(policy, 0.1) == 0
    assert factor(policy, 0.8) == factor(policy, 1.0) == pytest.approx(expected[-1])


@pytest.mark.parametrize("shape", ["linear", "exponential", "cosine", "step"])
def test_start_and_end_stretch_the_shape(shape):
    plain, stretched, falling = (
        Gradual(shape=shape, start=start, end=end) for start, end in ((0.0, 1.0), (0.25, 0.75), (1.0, 0.0))
    )
    for at in (0.0, 0.1, 0.33, 0.5, 0.9):
        way = factor(plain, at)
        assert factor(stretched, at) == pytest.approx(0.25 + 0.5 * way, abs=1e-6)
        assert factor(falling, at) == pytest.approx(1 - way, abs=1e-6)


def test_steepness():
    policy = Gradual(shape="exponential", until=1.0, steepness=2.0)
    assert factor(policy, 0.5) == pytest.approx(1 - math.exp(-1), abs=1e-6)


def test_every_run_has_its_own_numbers():
    one, other = Gradual(until=1.0), Gradual(start=1.0, end=0.5, after=0.2, until=0.6)
    assert factors(one, other, at=0.4).tolist() == pytest.approx([0.4, 0.75])


def test_the_site_and_the_number_of_steps_do_not_matter():
    policy = stacked([Gradual(until=1.0)])
    short = policy.factor(HIDDEN, {}, scene(progress=0.3, steps=100))
    assert torch.equal(short, policy.factor(CARRY, {}, scene(progress=0.3, steps=1000)))
    assert policy.init(3, (HIDDEN, CARRY)) == {}
    assert policy.needs == frozenset()
    assert Gradual.timed


def test_a_final_evaluation_looks_at_the_step_that_each_run_was_selected_at():
    now = scene(progress=1.0, steps=100)
    late = replace(now, clock=replace(now.clock, selected=torch.tensor([20, 70])))
    factor = stacked([Gradual(until=1.0)] * 2).factor(HIDDEN, {}, late)
    assert factor.tolist() == pytest.approx([0.2, 0.7])


def test_a_window_must_have_a_length():
    for after, until in ((0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(ValueError, match=f"after={after} must be less than until={until}"):
            Gradual(after=after, until=until)
    with pytest.raises(UserError, match=r"policies\.gradual: after=0\.5 must be less"):
        build(Gradual, {"after": 0.5}, "strategy.policies.gradual")


def test_a_factor_that_never_leaves_0_does_not_act():
    assert not Gradual(start=0.0, end=0.0).acts()
    assert Gradual(start=0.1, end=0.0).acts()
    assert Gradual(start=0.0, end=0.1).acts()


#: Share of the full rate at 0, 0.1, 1/4, 1/2 and 1 of the training.
RISES = {
    "gradual": (0, 0.2, 0.5, 1, 1),
    "gradual/exponential": (0, 0.6321206, 0.9179150, 0.9932621, 0.9999546),
    "gradual/cosine": (0, 0.0954915, 0.5, 1, 1),
    "gradual/switch": (0, 0, 0, 1, 1),
    "gradual/late": (0, 0, 1, 1, 1),
    "gradual/early": (1, 0.5, 0, 0, 0),
    "gradual/annealed": (1, 0.9, 0.75, 0.5, 0),
    "gradual/annealed_exponential": (1, 0.3678794, 0.0820850, 0.0067379, 0.0000454),
    "gradual/annealed_cosine": (1, 0.9755283, 0.8535534, 0.5, 0),
}


def test_every_yaml_of_the_family_is_checked_here():
    assert set(RISES) == {"gradual", *(f"gradual/{path.stem}" for path in (FOLDER / "gradual").rglob("*.yaml"))}


@pytest.mark.parametrize("name", RISES)
def test_yaml(name):
    node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert list(node["policies"]) == ["gradual"]
    assert node["rate"] == 0.5
    policy = build(Gradual, node["policies"]["gradual"])
    for at, value in zip((0.0, 0.1, 0.25, 0.5, 1.0), RISES[name], strict=True):
        assert factor(policy, at) == pytest.approx(value, abs=1e-6), at
