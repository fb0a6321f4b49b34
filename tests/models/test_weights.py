"""Noise at weights: one mask for the batch, or one an example, which equals a loop over the examples."""

from __future__ import annotations

import pytest
import torch
from nets import (
    BATCH,
    COLOUR,
    PER_STEP,
    SEQUENCE,
    VECTOR,
    Fixed,
    Recorded,
    bernoulli,
    close,
    drawing,
    loss_of,
    random_inputs,
    random_params,
    strategy_of,
)

from dropbench.models import Model
from dropbench.models.cnn import CNN
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.models.moments import RunningMoments
from dropbench.noise import Perturbation
from dropbench.spec import Facts

SEEDS = (3, 4)
MODELS: dict[str, tuple[Model, Facts]] = {
    "linear": (MLP((9, 7), batch_norm=True), VECTOR),
    "conv": (CNN((4, 5), dense=(6,), batch_norm=True, residual=1), COLOUR),
    "lstm": (LSTM(5, 2, "lstm", bidirectional=True), SEQUENCE),
    "gru": (LSTM(5, 2, "gru"), PER_STEP),
    "rnn": (LSTM(5, 1, "rnn"), SEQUENCE),
}
models = pytest.mark.parametrize(("model", "facts"), MODELS.values(), ids=MODELS)


def weight_sites(model: Model, facts: Facts) -> set[str]:
    return {site.name for site in model.sites(facts) if site.kind in ("weight", "recurrent_weight")}


def weights_of(site: str) -> str:
    return site.replace("recurrent_weight", "weight_hh")


@models
def test_every_weight_but_that_of_the_output_has_a_site(model, facts):
    weights = {item.name for item in model.parameters(facts) if item.decays}
    assert {weights_of(site) for site in weight_sites(model, facts)} == weights - {"output.weight"}


@models
def test_a_mask_an_example_equals_a_loop_over_the_examples(model, facts):
    where = ("weight", "recurrent_weight") if isinstance(model, LSTM) else ("weight",)
    noise = Recorded(drawing(bernoulli(0.4, where), model, facts, SEEDS))
    params, inputs = random_params(model, facts, runs=2), random_inputs(facts, runs=2)
    together = model.apply(params, inputs, noise, RunningMoments(params), facts)
    assert set(noise.actions) == weight_sites(model, facts)
    trained = [value for value in params.values() if value.requires_grad]
    gradients = torch.autograd.grad(loss_of(together), trained)
    each = []
    for example in range(BATCH):
        mine = slice(example, example + 1)
        own = Fixed({site: Perturbation(action.scale[:, mine]) for site, action in noise.actions.items()})
        each.append(model.apply(params, inputs[:, mine], own, RunningMoments(params), facts))
    for site, action in noise.actions.items():
        assert action.scale.shape == (2, BATCH, *params[weights_of(site)].shape[1:])
        assert not torch.equal(action.scale[:, 0], action.scale[:, 1])
    close(together, torch.cat(each, 1))
    for mine, theirs in zip(gradients, torch.autograd.grad(loss_of(torch.cat(each, 1)), trained), strict=True):
        close(mine, theirs)


@models
def test_a_mask_for_the_batch_is_a_net_of_masked_weights(model, facts):
    where = strategy_of("dropconnect") if isinstance(model, LSTM) else bernoulli(0.5, ("weight",), ("batch",))
    noise = Recorded(drawing(where, model, facts, SEEDS))
    params, inputs = random_params(model, facts, runs=2), random_inputs(facts, runs=2)
    outputs = model.apply(params, inputs, noise, RunningMoments(params), facts)
    masks = {weights_of(site): action.scale[:, 0] for site, action in noise.actions.items()}
    assert masks.keys() == {weights_of(site) for site in weight_sites(model, facts)}
    masked = {
        name: (value * masks.get(name, 1.0)).detach().requires_grad_(value.requires_grad)
        for name, value in params.items()
    }
    expected = model.apply(masked, inputs, Fixed({}), RunningMoments(masked), facts)
    close(outputs, expected)
    loss_of(outputs).backward()
    loss_of(expected).backward()
    for name, mask in masks.items():
        assert set(mask.unique().tolist()) == {0.0, 2.0}
        close(params[name].grad, masked[name].grad * mask)
        assert not params[name].grad[mask == 0].any()  # a dropped weight learns nothing
        assert params[name].grad[mask != 0].any()


@pytest.mark.parametrize(("model", "facts"), [MODELS["linear"], MODELS["conv"]], ids=["linear", "conv"])
def test_a_dropped_unit_has_no_gradient(model, facts):
    """Unit 1 of the first hidden layer is dropped: neither what leads to it nor what it feeds learns."""
    first = next(site for site in model.sites(facts) if site.kind == "hidden")
    mask = torch.ones(1, 1, first.units, *(1 for _ in first.axes[2:]))
    mask[:, :, 1] = 0
    params = random_params(model, facts)
    noise = Fixed({first.name: Perturbation(mask)})
    loss_of(model.apply(params, random_inputs(facts), noise, RunningMoments(params), facts)).backward()
    into = params[f"{first.name}.weight"].grad[0]
    into = (into.T if into.dim() == 2 else into).flatten(1).abs().sum(1)
    assert into[1] == 0
    assert into[torch.arange(first.units) != 1].any()
    for feeds in first.feeds:
        fed = params[feeds].grad[0]
        fed = (fed if fed.dim() == 2 else fed.transpose(0, 1)).flatten(1).abs().sum(1)
        if "branch" in feeds or not getattr(model, "residual", 0):  # a branch adds to a dropped map
            assert fed[1] == 0
        assert fed.any()
