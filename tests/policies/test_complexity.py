"""A rate for each example: factors worked out by hand, and the axes along which they lie."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scenes import CARRY, HIDDEN, MAP, STATE, WEIGHT, scene

from dropbench.policies import along
from dropbench.policies.complexity import Complexity
from dropbench.spec import Facts
from dropbench.stack import stacked

#: Two runs, three examples.
FIGURES = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.25, 0.0]])
#: floor + (1 - floor) c with floors 0.2 and 0.5.
EXPECTED = torch.tensor([[0.2, 0.6, 1.0], [1.0, 0.625, 0.5]])
TWO = stacked([Complexity(floor=0.2), Complexity(floor=0.5)])
NOW = scene(facts={"compressed": FIGURES})


@pytest.mark.parametrize(
    ("site", "shape"),
    [
        (HIDDEN, (2, 3, 1)),
        (CARRY, (2, 1, 3, 1)),
        (STATE, (2, 1, 3, 1, 1)),
        (MAP, (2, 3, 1, 1, 1)),
        (replace(MAP, axes=("unit", "row", "batch")), (2, 1, 1, 3)),
    ],
    ids=lambda value: "-".join(value.axes) if hasattr(value, "axes") else None,
)
def test_the_factors_by_hand_lie_along_the_batch(site, shape):
    factor = TWO.factor(site, {}, NOW)
    assert factor.shape == shape
    torch.testing.assert_close(factor.flatten(1), EXPECTED)


def test_along_sorts_axes_as_the_site_has_them():
    figures = torch.arange(24.0).view(2, 3, 4)  # [R, unit, batch]
    result = along(STATE, figures, "unit", "batch")  # the site has step, batch, gate, unit
    assert result.shape == (2, 1, 4, 1, 3)
    assert torch.equal(result[:, 0, :, 0], figures.transpose(1, 2))


def test_a_complex_example_gets_more_than_a_simple_one():
    factor = stacked([Complexity()]).factor(HIDDEN, {}, scene(facts={"compressed": FIGURES[:1]}))
    assert (factor[0, :, 0].diff() > 0).all()


def test_each_measure_reads_its_own_figure():
    now = scene(facts={"compressed": FIGURES[:1], "length": 1 - FIGURES[:1]})
    for measure, expected in (("compressed", [0.1, 0.55, 1.0]), ("length", [1.0, 0.55, 0.1])):
        policy = Complexity(measure=measure)
        assert policy.figures == {measure}
        assert stacked([policy]).factor(HIDDEN, {}, now).flatten().tolist() == pytest.approx(expected)


def test_without_examples_it_is_the_factor_of_the_middle():
    assert TWO.factor(HIDDEN, {}, scene()).tolist() == pytest.approx([0.6, 0.75])


def test_a_mask_of_the_whole_batch_has_no_rate_for_each_example():
    policy = Complexity()
    assert policy.misfit(HIDDEN, frozenset()) is None
    assert policy.misfit(STATE, frozenset({"step", "gate"})) is None
    assert "whole batch" in policy.misfit(HIDDEN, frozenset({"batch"}))
    assert "whole batch" in policy.misfit(replace(WEIGHT, axes=("source", "unit")), frozenset())


def test_sequences_that_are_all_as_long_are_not_told_apart_by_length():
    same, unequal = (Facts("sequence", (9, 2), "classification", 2, shortest=shortest) for shortest in (None, 4))
    assert "measure=compressed" in Complexity(measure="length").idle((HIDDEN,), same)
    assert Complexity(measure="length").idle((HIDDEN,), unequal) is None
    assert Complexity().idle((HIDDEN,), same) is None
