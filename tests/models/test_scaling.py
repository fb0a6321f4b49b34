"""Where the noise is scaled: what is kept, in training (inverted), or everything, in evaluation (test)."""

from __future__ import annotations

import pytest
import torch
from nets import (
    COLOUR,
    SEQUENCE,
    VECTOR,
    Fixed,
    Recorded,
    bernoulli,
    close,
    drawing,
    expecting,
    random_inputs,
    random_params,
    strategy_of,
)

from dropbench.acting import Acting
from dropbench.models import Model
from dropbench.models.cnn import CNN
from dropbench.models.layers import linear
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.models.moments import RunningMoments
from dropbench.noise import Perturbation
from dropbench.spec import Facts

RATE, KEEP = 0.25, 0.75
MODELS: dict[str, tuple[Model, Facts]] = {
    "mlp": (MLP((9, 7)), VECTOR),
    "cnn": (CNN((4, 5), dense=(6,), residual=1), COLOUR),
    "lstm": (LSTM(5), SEQUENCE),
    "gru": (LSTM(5, cell="gru"), SEQUENCE),
}
models = pytest.mark.parametrize(("model", "facts"), MODELS.values(), ids=MODELS)


def actions_of(noise: Acting, model: Model, facts: Facts) -> dict[str, Perturbation]:
    recorded, params = Recorded(noise), random_params(model, facts)
    model.apply(params, random_inputs(facts), recorded, RunningMoments(params), facts)
    return recorded.actions


@models
def test_both_scalings_keep_the_same_and_differ_in_the_scale(model, facts):
    strategy = bernoulli(RATE)
    inverted = actions_of(drawing(strategy, model, facts), model, facts)
    unscaled = actions_of(drawing(strategy, model, facts, test_scaled=True), model, facts)
    assert inverted.keys() == unscaled.keys() == {site.name for site in model.sites(facts)} - {
        "layer1.carry_h", "layer1.carry_c",
    }  # fmt: skip
    for site, action in unscaled.items():
        close(action.scale, (inverted[site].scale > 0).float())
        assert action.readout is None
        if site != "layer1.cell":
            close(inverted[site].scale, action.scale / KEEP)


@models
def test_evaluation_does_nothing_or_takes_everything_times_the_keep_probability(model, facts):
    strategy = bernoulli(RATE)
    assert not actions_of(expecting(strategy, model, facts), model, facts)
    for site, action in actions_of(expecting(strategy, model, facts, test_scaled=True), model, facts).items():
        factor = action.readout if site == "layer1.cell" else action.scale
        assert factor.unique().tolist() == [KEEP]


def test_weight_drop_scaled_in_evaluation_is_the_matrix_times_the_keep_probability():
    model, facts = MODELS["lstm"]
    params, inputs = random_params(model, facts), random_inputs(facts)
    noise = expecting(strategy_of("transition/weight"), model, facts, test_scaled=True)
    halved = {name: value * (0.5 if name.endswith("weight_hh") else 1.0) for name, value in params.items()}
    close(
        model.apply(params, inputs, noise, RunningMoments(params), facts),
        model.apply(halved, inputs, Fixed({}), RunningMoments(params), facts),
    )


@pytest.mark.parametrize("share", [(), ("batch",)], ids=["own", "shared"])
@pytest.mark.parametrize("where", ["input", "weight"])
@pytest.mark.parametrize("test_scaled", [False, True], ids=["inverted", "test"])
def test_the_mean_over_masks_of_one_linear_step_is_the_step_of_evaluation(where, share, test_scaled):
    runs = 4000
    model, strategy = MLP((5,)), bernoulli(RATE, (where,), share)
    single = random_params(model, VECTOR)
    params = {name: value.detach().expand(runs, *value.shape[1:]) for name, value in single.items()}
    inputs = random_inputs(VECTOR, batch=2)

    def step(noise: Acting, params: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        return linear(params, "hidden1", noise("input", inputs), noise)

    drawn = step(
        drawing(strategy, model, VECTOR, tuple(range(runs)), test_scaled=test_scaled),
        params, inputs.expand(runs, -1, -1),
    )  # fmt: skip
    expected = step(expecting(strategy, model, VECTOR, test_scaled=test_scaled), single, inputs)[0]
    error = drawn.std(0) / runs**0.5
    assert (error > 0).all()
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()
    product = inputs[0] @ single["hidden1.weight"][0] * (KEEP if test_scaled else 1.0)
    close(expected, product + single["hidden1.bias"][0])
