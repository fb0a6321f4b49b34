"""The layer-wise policy against numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scenes import HIDDEN, scene

from dropbench.errors import UserError
from dropbench.policies.layerwise import Layerwise
from dropbench.schema import build
from dropbench.spec import Facts
from dropbench.stack import stacked

FACTS = Facts("vector", (5,), "classification", 2)


def factors(policy: Layerwise, *depths: float) -> list[float]:
    one = stacked([policy])
    return [one.factor(replace(HIDDEN, depth=depth), {}, scene()).item() for depth in depths]


def test_linear_by_hand():
    # 0.2 + 0.8 d
    assert factors(Layerwise(), 0.0, 0.25, 0.5, 1.0) == pytest.approx([0.2, 0.4, 0.6, 1.0])
    assert factors(Layerwise(bottom=1.0, top=0.5), 0.0, 0.5, 1.0) == pytest.approx([1.0, 0.75, 0.5])


def test_from_0_it_is_the_rule_of_stochastic_depth():
    layers = 4
    expected = [layer / layers for layer in range(layers + 1)]
    assert factors(Layerwise(bottom=0.0), *expected) == pytest.approx(expected)


def test_exponential_by_hand():
    # 0.25 * 4^d
    policy = Layerwise(shape="exponential", bottom=0.25)
    assert factors(policy, 0.0, 0.5, 1.0) == pytest.approx([0.25, 0.5, 1.0])
    falling = Layerwise(shape="exponential", bottom=0.9, top=0.1)
    assert factors(falling, 0.0, 0.5, 1.0) == pytest.approx([0.9, 0.3, 0.1])  # 0.9 / 9^d
    one, two, three = factors(policy, 1 / 3, 2 / 3, 1.0)
    assert two / one == pytest.approx(three / two)  # one factor from layer to layer


def test_every_run_has_its_own_numbers_and_time_does_not_matter():
    two = stacked([Layerwise(), Layerwise(bottom=0.6, top=0.0)])
    middle = replace(HIDDEN, depth=0.5)
    for progress in (0.0, 0.9):
        assert two.factor(middle, {}, scene(progress=progress)).tolist() == pytest.approx([0.6, 0.3])
    assert Layerwise.timed


def test_a_factor_that_is_0_everywhere_does_not_act():
    assert not Layerwise(bottom=0.0, top=0.0).acts()
    assert Layerwise(bottom=0.0).acts()
    assert Layerwise(bottom=0.5, top=0.0).acts()


def test_one_depth_alone_is_refused():
    deep, shallow = HIDDEN, replace(HIDDEN, name="hidden0", depth=0.5)
    assert Layerwise().idle((shallow, deep), FACTS) is None
    assert "one depth" in Layerwise().idle((deep, replace(deep, name="other")), FACTS)


def test_the_exponential_cannot_begin_or_end_at_0():
    for bottom, top in ((0.0, 1.0), (0.5, 0.0)):
        with pytest.raises(ValueError, match=f"bottom={bottom}, top={top}: must be above 0"):
            Layerwise(shape="exponential", bottom=bottom, top=top)
    with pytest.raises(UserError, match=r"policies\.layerwise: bottom=0\.0, top=1\.0: must be above 0"):
        build(Layerwise, {"shape": "exponential", "bottom": 0}, "strategy.policies.layerwise")
