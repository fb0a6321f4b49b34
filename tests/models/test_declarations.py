"""What a model declares is what it does: sites, parameters, refusals, widths."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from nets import (
    BATCH,
    COLOUR,
    IMAGE,
    PER_STEP,
    SEQUENCE,
    SYMBOLS,
    VECTOR,
    Fixed,
    close,
    config,
    random_inputs,
    random_params,
)
from torch import Tensor

from dropbench.errors import UserError
from dropbench.models import Model, wider
from dropbench.models.cnn import CNN
from dropbench.models.layers import activation
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.models.moments import BatchMoments
from dropbench.spec import SITE_KINDS, Facts


class Checking:
    """A `NoiseFn` that holds each call against the declaration."""

    def __init__(self, model: Model, facts: Facts, runs: int, batch: int) -> None:
        self.sites = {site.name: site for site in model.sites(facts)}
        self.runs, self.batch, self.steps = runs, batch, {facts.shape[0]} if facts.form == "sequence" else set()
        self.calls: list[str] = []

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        self.perturbation(site, tuple(value.shape), drive)
        function = self.sites[site].activation
        assert (drive is None) == (function is None)
        if function is not None:
            close(value, activation(function)(drive))
        return value

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> None:
        assert site in self.sites, f"{site} is not declared"
        declared = self.sites[site]
        assert len(shape) == 1 + len(declared.axes)
        assert shape[0] == self.runs
        lengths = dict(zip(declared.axes, shape[1:], strict=True))
        assert lengths["unit"] == declared.units
        assert lengths["batch"] == self.batch
        if declared.shape:
            assert shape[2:] == declared.shape
        if "step" in lengths:
            self.steps.add(lengths["step"])
        self.calls.append(site)


CASES: list[tuple[Model, Facts]] = [
    *((MLP(widths, batch_norm=norm), VECTOR) for widths in ((), (5,), (5, 4, 3)) for norm in (False, True)),
    *((MLP((5,), activation=name), VECTOR) for name in ("tanh", "sigmoid", "gelu", "selu")),
    (MLP((5,)), COLOUR),
    *((CNN(maps, dense=dense), COLOUR) for maps in ((), (4,), (4, 5, 6)) for dense in ((), (7, 8))),
    (CNN((4,), batch_norm=True), IMAGE),
    *((CNN((4, 5), activation=name, residual=2), IMAGE) for name in ("relu", "gelu")),
    *(
        (LSTM(5, layers, cell, both), facts)
        for cell in ("lstm", "gru", "rnn")
        for layers in (1, 2)
        for both in (False, True)
        for facts in (SEQUENCE, PER_STEP, SYMBOLS)
    ),
    *((LSTM(5, read=read), COLOUR) for read in ("rows", "pixels", "permuted_pixels")),
]
cases = pytest.mark.parametrize(("model", "facts"), CASES, ids=[str(number) for number in range(len(CASES))])


@cases
def test_sites(model, facts):
    sites = model.sites(facts)
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    for kinds in ({"input", "hidden", "weight", "state"}, {"branch"}):
        depths = [site.depth for site in sites if site.kind in kinds]
        assert depths == sorted(depths)
        assert all(0 <= depth <= 1 for depth in depths)
        assert not depths or len(sites) == 1 or depths[-1] == 1
    assert sites[0].depth == 0
    shapes = {item.name: item.shape for item in model.parameters(facts)}
    for site in sites:
        assert site.kind in SITE_KINDS
        assert len(set(site.axes)) == len(site.axes)
        assert set(site.axes) <= {"batch", "step", "gate", "unit", "row", "column", "source"}
        assert site.weight is None or site.weight in shapes
        assert site.shape == (shapes[site.weight] if site.kind in ("weight", "recurrent_weight") else ())
        for name in site.feeds:  # the units of the site stand among the inputs of the weight
            sources = shapes[name][1 if len(shapes[name]) == 4 else 0]
            assert sources % site.units == 0
            assert sources == site.units or "row" in site.axes or facts.form == "image"
    params, checking = random_params(model, facts, runs=2), Checking(model, facts, 2, BATCH)
    outputs = model.apply(params, random_inputs(facts, runs=2), checking, BatchMoments(params), facts)
    assert checking.calls == names  # each once, in the order of the data's way, and nothing else
    assert len(checking.steps) <= 1
    assert outputs.shape == (2, BATCH, *((facts.shape[0],) if facts.per_step else ()), facts.outputs)


@cases
def test_parameters(model, facts):
    """Names are unique, all are used, and each unit axis is that of a hidden layer's weights."""
    declared = model.parameters(facts)
    assert len({item.name for item in declared}) == len(declared)
    params = random_params(model, facts)
    outputs = model.apply(params, random_inputs(facts), Fixed({}), BatchMoments(params), facts)
    trained = [params[item.name] for item in declared if item.trained]
    assert all(gradient is not None for gradient in torch.autograd.grad(outputs.sum(), trained))
    for item in declared:
        is_weight = "weight" in item.name
        assert item.decays == is_weight
        assert (item.unit_axis is not None) == (is_weight and not item.name.startswith("output"))


@pytest.mark.parametrize(("model", "facts"), [(MLP(), PER_STEP), (CNN(), VECTOR), (CNN(), SEQUENCE), (LSTM(), VECTOR)])
def test_data_that_a_model_cannot_be_fed_are_refused_with_what_can(model, facts):
    with pytest.raises(UserError, match=r"^model\.kind=\w+: .*; nearest: ") as error:
        model.parameters(facts)
    assert "\n" not in str(error.value)


def test_poolings_that_leave_nothing_are_refused():
    with pytest.raises(UserError, match=r"^model\.maps: nothing is left of 8x8 images after 4 poolings$"):
        CNN((2, 2, 2, 2)).parameters(IMAGE)


# ---- widths divided by the keep probability


@pytest.mark.parametrize("tenths", range(10))
def test_widths_are_divided_by_the_keep_probability_and_rounded_up(tenths):
    widths = tuple(range(1, 300))
    exact = tuple(math.ceil(width / (1 - Fraction(tenths, 10))) for width in widths)
    assert wider(widths, 1 - tenths / 10) == exact


@pytest.mark.parametrize(
    ("words", "widths"),
    [
        (("model=mlp", "model.widths=[10,7]", "strategy.rate=0.5"), {"widths": (20, 14)}),
        (("model=mlp", "model.widths=[10,7]", "strategy.rate=0.3"), {"widths": (15, 10)}),
        (("model=mlp", "model.widths=[10,7]", "strategy=none"), {"widths": (10, 7)}),
        (("model=cnn", "model.maps=[3]", "model.dense=[9]", "strategy.rate=0.25"), {"maps": (4,), "dense": (12,)}),
        (("model=cnn", "model.maps=[3]", "model.dense=[9]", "strategy.rate=0.5"), {"maps": (4,), "dense": (18,)}),
        (("model=lstm", "model.hidden=9", "strategy.rate=0.1"), {"hidden": 10}),
    ],
    ids=["half", "rounded", "none", "cnn", "cnn_maps_are_bounded", "lstm"],
)
def test_a_widened_model_is_one_of_wider_layers(words, widths):
    assert config(*words, "model.widen=true").model == replace(config(*words).model, **widths)
