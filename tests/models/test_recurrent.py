"""The transitions of recurrent layers: each site against a plain walk, and what each strategy there must do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from nets import (
    BATCH,
    CELLS,
    HIDDEN,
    SEQUENCE,
    STEPS,
    SYMBOLS,
    Fixed,
    Recorded,
    bernoulli,
    close,
    drawing,
    expecting,
    layer_inputs,
    layer_params,
    loss_of,
    random_params,
    some_action,
    some_actions,
    strategy_of,
    walk,
)
from torch import Tensor

from dropbench.acting import Acting, StepNoise
from dropbench.models.lstm import LSTM
from dropbench.models.moments import RunningMoments
from dropbench.models.recurrent import GATES, SITES, recurrent_layer
from dropbench.noise import Perturbation
from dropbench.spec import Facts

ALL_SITES = [(cell, *site) for cell in CELLS for site in (("weight_ih", "weight"), *SITES[cell])]
cells = pytest.mark.parametrize("cell", CELLS)


def model_of(cell: str) -> LSTM:
    """A model whose first layer is that of `layer_params`."""
    return LSTM(HIDDEN, cell=cell)


def noise_of(name: str, cell: str, **changes: float) -> StepNoise:
    """What a strategy does in a training step of `model_of`."""
    return drawing(replace(strategy_of(name), **changes), model_of(cell), SEQUENCE)


def actions_of(noise: Acting, cell: str) -> dict[str, Perturbation]:
    """What acts on the layer of `layer_params`, by site."""
    recorded = Recorded(noise)
    recurrent_layer(layer_params(cell), "layer1", cell, layer_inputs(), recorded)
    return recorded.actions


def from_step(step: int) -> Tensor:
    """1 up to a step, 0 from there, [1, steps, 1, 1]."""
    return (torch.arange(STEPS) < step).double().view(1, STEPS, 1, 1)


# ---- each site acts as the formula says


@pytest.mark.parametrize(("cell", "site", "kind"), ALL_SITES)
def test_each_site_acts_as_the_formula_says(cell, site, kind):
    inputs = layer_inputs()
    actions = {f"layer1.{site}": some_action(site, kind, cell)}
    ours, theirs = layer_params(cell), layer_params(cell)
    states, last = recurrent_layer(ours, "layer1", cell, inputs, Fixed(actions))
    expected, _ = walk(cell, theirs, inputs[0], actions)
    close(states[0], expected)
    close(last[0], expected[-1])
    quiet, _ = recurrent_layer(ours, "layer1", cell, inputs, Fixed({}))
    if site == "carry_c":
        assert (quiet - states)[:, 1:].abs().max() > 1e-2  # what is carried is seen a step later
    else:
        assert (quiet - states).abs().max() > 1e-2
    loss_of(states).backward()
    loss_of(expected.unsqueeze(0)).backward()
    for name, value in ours.items():
        close(value.grad, theirs[name].grad)


@cells
def test_all_sites_at_once(cell):
    params, inputs, actions = layer_params(cell), layer_inputs(), some_actions(cell)
    states, _ = recurrent_layer(params, "layer1", cell, inputs, Fixed(actions))
    close(states[0], walk(cell, params, inputs[0], actions)[0])


def parts_of(action: Perturbation) -> tuple[Tensor | None, ...]:
    return action.scale, action.mix, action.shift, action.readout


def mirrored(action: Perturbation) -> Perturbation:
    """With the steps in the opposite order."""
    return Perturbation(*(None if part is None else part.flip(1) for part in parts_of(action)))


@cells
def test_a_reverse_walk_is_a_walk_over_the_mirrored_sequence(cell):
    params, inputs, actions = layer_params(cell), layer_inputs(), some_actions(cell)
    turned = {site: action if "weight" in site else mirrored(action) for site, action in actions.items()}
    states, last = recurrent_layer(params, "layer1", cell, inputs, Fixed(actions), reverse=True)
    expected, _ = walk(cell, params, inputs[0].flip(0), turned)
    close(states[0].flip(0), expected)
    close(last[0], expected[-1])


@cells
@pytest.mark.parametrize("reverse", [False, True])
def test_a_padded_sequence_walks_as_it_would_alone(cell, reverse):
    params, inputs, actions = layer_params(cell), layer_inputs(), some_actions(cell)
    lengths = torch.tensor([[1, 7, 3, 6, 2, 7]])
    states, last = recurrent_layer(params, "layer1", cell, inputs, Fixed(actions), reverse=reverse, lengths=lengths)
    for example, steps in enumerate(lengths[0].tolist()):
        mine = slice(example, example + 1)
        own = {
            site: Perturbation(*(
                part if part is None else part[:, mine] if "weight" in site else part[:, :steps, mine]
                for part in parts_of(action)
            ))
            for site, action in actions.items()
        }  # fmt: skip
        alone, end = recurrent_layer(params, "layer1", cell, inputs[:, :steps, mine], Fixed(own), reverse=reverse)
        close(states[:, :steps, mine], alone)
        close(last[:, mine], end)
        assert not states[:, steps:, example].any()


# ---- state: masks for each gate or for all, for each step or a sequence


@cells
def test_untied_masks_equal_a_masked_product_for_each_gate(cell):
    actions = actions_of(noise_of("transition/untied", cell), cell)
    mask = actions["layer1.state"].scale
    assert mask.shape == (1, 1, BATCH, GATES[cell], HIDDEN)
    if cell != "rnn":
        assert not torch.equal(mask[:, :, :, 0], mask[:, :, :, 1])
    params, inputs = layer_params(cell), layer_inputs()
    states, _ = recurrent_layer(params, "layer1", cell, inputs, noise_of("transition/untied", cell))
    close(states[0], walk(cell, params, inputs[0], actions)[0])


@cells
def test_tied_masks_equal_one_masked_product_for_all_gates(cell):
    noise = noise_of("transition/variational", cell)
    action = actions_of(noise, cell)["layer1.state"]
    assert action.scale.shape == (1, 1, BATCH, 1, HIDDEN)
    params, inputs = layer_params(cell), layer_inputs()
    states, _ = recurrent_layer(params, "layer1", cell, inputs, noise)
    close(states[0], walk(cell, params, inputs[0], {"layer1.state": action})[0])
    same = Fixed({"layer1.state": Perturbation(action.scale.expand(1, 1, BATCH, GATES[cell], HIDDEN))})
    close(states, recurrent_layer(params, "layer1", cell, inputs, same)[0])  # untied masks that happen to be the same


@pytest.mark.parametrize(
    ("cell", "name", "site"),
    [
        *((cell, name, "state") for cell in CELLS for name in ("transition/variational", "transition/untied")),
        ("lstm", "transition/cell", "cell"),
    ],
)
def test_a_mask_of_a_sequence_is_constant_in_time_and_differs_over_the_batch(cell, name, site):
    mask = actions_of(noise_of(name, cell), cell)[f"layer1.{site}"].scale
    assert mask.shape[1:3] == (1, BATCH)
    assert len({tuple(row.flatten().tolist()) for row in mask[0, 0]}) > 1


@cells
def test_a_mask_of_a_step_differs_in_time(cell):
    mask = actions_of(noise_of("transition/state", cell), cell)["layer1.state"].scale
    assert mask.shape == (1, STEPS, BATCH, 1, HIDDEN)
    assert len({tuple(row.flatten().tolist()) for row in mask[0]}) == STEPS


@cells
def test_masking_the_state_never_touches_the_state_that_is_carried(cell):
    """The copy of h that enters the product is 0, or far too large; what is carried stays as it was."""
    keep = Perturbation(from_step(1), 1 - from_step(1))
    for factor in (0.0, 20.0):
        masked = Perturbation(torch.full((1, 1, 1, 1, 1), factor))
        actions = {"layer1.state": masked, "layer1.carry_h": keep}
        states, _ = recurrent_layer(layer_params(cell), "layer1", cell, layer_inputs(), Fixed(actions))
        assert states[:, 0].abs().min() > 0
        for step in range(1, STEPS):
            assert torch.equal(states[:, step], states[:, 0])


def test_the_update_gate_of_a_gru_carries_the_unmasked_state():
    params = layer_params("gru")
    with torch.no_grad():
        params["layer1.weight_ih"].zero_()
        params["layer1.weight_ih"][0, 0, HIDDEN : 2 * HIDDEN] = 100.0  # feature 0 opens or shuts the update gate z
        params["layer1.weight_ih"][0, 1, 2 * HIDDEN :] = 1.0
    inputs = torch.ones_like(layer_inputs())
    inputs[:, 0, :, 0] = -1.0  # z = 0: h becomes the candidate; afterwards z = 1: h stays
    masked = Fixed({"layer1.state": Perturbation(torch.full((1, 1, 1, 1, 1), 3.0))})
    states, _ = recurrent_layer(params, "layer1", "gru", inputs, masked)
    assert states[:, 0].abs().min() > 0.01
    for step in range(1, STEPS):
        close(states[:, step], states[:, 0])


@cells
def test_a_dropped_unit_has_no_gradient(cell):
    """Unit 1 of the copy of h is dropped: what it would be multiplied by learns nothing, all else does."""
    params, inputs = layer_params(cell), layer_inputs()
    mask = torch.ones(1, 1, 1, 1, HIDDEN)
    mask[..., 1] = 0
    states, _ = recurrent_layer(params, "layer1", cell, inputs, Fixed({"layer1.state": Perturbation(mask)}))
    loss_of(states).backward()
    rows = params["layer1.weight_hh"].grad[0].abs().sum(1)
    assert rows[1] == 0
    assert (rows[[0, 2, 3]] > 0).all()


# ---- carry: zoneout and skipped steps


@cells
def test_a_carry_that_keeps_everything_freezes_the_state(cell):
    keep = Perturbation(from_step(2), 1 - from_step(2))
    sites = {f"layer1.{site}": keep for site, kind in SITES[cell] if kind == "carry"}
    states, last = recurrent_layer(layer_params(cell), "layer1", cell, layer_inputs(), Fixed(sites))
    assert (states[:, 1] - states[:, 0]).abs().max() > 1e-2
    for step in range(2, STEPS):
        assert torch.equal(states[:, step], states[:, 1])
    assert torch.equal(last, states[:, 1])


@cells
def test_zoneout_at_a_rate_near_1_freezes_the_state(cell):
    certain = {"rate": 0.9999, "cap": 0.9999, "rates": {}}
    drawn = noise_of("transition/zoneout", cell, **certain)
    params, inputs = layer_params(cell), layer_inputs()
    states, _ = recurrent_layer(params, "layer1", cell, inputs, drawn)
    assert not states.any()  # as it began
    expected = expecting(replace(strategy_of("transition/zoneout"), **certain), model_of(cell), SEQUENCE)
    states, _ = recurrent_layer(params, "layer1", cell, inputs, expected)
    assert 0 < states.abs().max() <= 1e-4 * STEPS


def test_zoneout_has_rates_of_its_own_for_h_and_c():
    strategy = strategy_of("transition/zoneout")
    model = LSTM(64)
    actions: dict[str, Perturbation] = {}
    for noise, places in ((expecting, "mix"), (drawing, "drawn")):
        recorded = Recorded(noise(strategy, model, SEQUENCE))
        for site in ("layer1.carry_c", "layer1.carry_h"):
            actions[places, site] = recorded.perturbation(site, (1, 100, 20, 64))
    for site, rate in (("layer1.carry_c", 0.15), ("layer1.carry_h", 0.05)):
        mean, drawn = actions["mix", site], actions["drawn", site]
        assert mean.mix.item() == pytest.approx(rate)
        assert mean.scale.item() == pytest.approx(1 - rate)
        assert drawn.mix.mean() == pytest.approx(rate, abs=4 * math.sqrt(rate / 128_000))
        assert torch.equal(drawn.mix + drawn.scale, torch.ones_like(drawn.mix))


@cells
def test_the_gradient_of_a_zoned_unit_flows_through_its_old_state(cell):
    """Unit 1 keeps the state of step 0 to the end: it learns from step 0, as if the sequence had ended there."""
    frozen = torch.zeros(1, STEPS, 1, HIDDEN)
    frozen[:, 1:, :, 1] = 1
    keep = Perturbation(1 - frozen, frozen)
    actions = {f"layer1.{site}": keep for site, kind in SITES[cell] if kind == "carry"}
    gradients = []
    for steps in (STEPS, 1):
        inputs = layer_inputs()[:, :steps].requires_grad_()
        _, last = recurrent_layer(layer_params(cell), "layer1", cell, inputs, Fixed(actions if steps > 1 else {}))
        gradients.append(torch.autograd.grad(last[..., 1].sum(), inputs)[0])
    assert not gradients[0][:, 1:].any()
    assert gradients[0][:, 0].abs().min() > 0
    close(gradients[0][:, 0], gradients[1][:, 0])


@cells
def test_skipped_steps_are_skipped_by_a_sample_as_a_whole(cell):
    """h and c of a sample walk as they would over the steps that are left."""
    noise = noise_of("transition/step", cell, rate=0.4)
    actions = actions_of(noise, cell)
    carries = [action for site, action in actions.items() if "carry" in site]
    assert len(actions) == len(carries) == (2 if cell == "lstm" else 1)
    for action in carries:
        assert action.mix.shape == (1, STEPS, BATCH, 1)  # all units
        assert torch.equal(action.mix, carries[0].mix)  # and h and c together
    skipped = carries[0].mix[0, :, :, 0].bool()
    assert 0 < skipped.sum() < skipped.numel()
    params, inputs = layer_params(cell), layer_inputs()
    states, last = recurrent_layer(params, "layer1", cell, inputs, noise)
    for example in range(BATCH):
        left = ~skipped[:, example]
        alone, _ = recurrent_layer(params, "layer1", cell, inputs[:, left, example : example + 1], Fixed({}))
        close(states[:, left, example], alone[:, :, 0])
        close(last[:, example], alone[:, -1, 0])
    for step in range(1, STEPS):
        assert torch.equal(states[:, step, skipped[step]], states[:, step - 1, skipped[step]])


# ---- candidate


def test_a_candidate_at_a_rate_near_1_lets_the_memory_forget_and_no_more():
    inputs, params = layer_inputs(), layer_params("lstm")
    actions = {"layer1.candidate": Perturbation(from_step(1))}
    states, _ = recurrent_layer(params, "layer1", "lstm", inputs, Fixed(actions))
    weights = [params[f"layer1.{name}"][0] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    memory, h = None, torch.zeros(BATCH, HIDDEN, dtype=torch.float64)
    for step, x in enumerate(inputs[0]):
        i, f, g, o = (x @ weights[0] + h @ weights[1] + weights[2] + weights[3]).chunk(4, 1)
        memory = i.sigmoid() * g.tanh() if memory is None else f.sigmoid() * memory
        h = o.sigmoid() * memory.tanh()
        close(states[0, step], h)


def test_the_state_of_a_gru_without_candidates_fades():
    actions = {"layer1.candidate": Perturbation(from_step(1))}
    states, _ = recurrent_layer(layer_params("gru"), "layer1", "gru", layer_inputs(), Fixed(actions))
    for step in range(1, STEPS):
        share = states[:, step] / states[:, step - 1]
        assert (share > 0).all()
        assert (share < 1).all()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_strategy_that_drops_candidates_near_a_rate_of_1_adds_nothing(cell):
    noise = noise_of("transition/candidate", cell, rate=0.9999, cap=0.9999)
    states, _ = recurrent_layer(layer_params(cell), "layer1", cell, layer_inputs(), noise)
    assert not states.any()


# ---- cell


def holding(steps: int) -> tuple[dict[str, Tensor], Tensor]:
    """An LSTM that writes its memory in step 0 and keeps it; inputs of `steps` steps."""
    params = {name: torch.zeros_like(value) for name, value in layer_params("lstm").items()}
    gates = params["layer1.weight_ih"][0].unflatten(1, (4, HIDDEN))
    gates[0, 0], gates[1, 0] = 50.0, -50.0  # the input gate opens with feature 0, shuts with feature 1
    params["layer1.bias_ih"][0].unflatten(0, (4, HIDDEN))[1:] = torch.tensor([50.0, 1.0, 50.0]).view(3, 1)
    inputs = torch.zeros(1, steps, BATCH, 3, dtype=torch.float64)
    inputs[:, 0, :, 0], inputs[:, 1:, :, 1] = 1.0, 1.0
    return params, inputs


def test_a_masked_memory_is_carried_unscaled_and_scaled_where_it_is_read():
    params, inputs = holding(100)
    noise = noise_of("transition/cell", "lstm", rate=0.5)
    action = actions_of(noise, "lstm")["layer1.cell"]
    kept = action.scale[0, 0]
    assert kept.shape == (BATCH, HIDDEN)
    assert set(kept.unique().tolist()) == {0.0, 1.0}
    assert action.readout.item() == 2.0
    states, _ = recurrent_layer(params, "layer1", "lstm", inputs, noise)
    expected = 2.0 * math.tanh(math.tanh(1.0)) * kept.double()
    for step in (0, 1, 99):  # no step changes what was read at the first
        close(states[0, step], expected)
    quiet = expecting(strategy_of("transition/cell"), model_of("lstm"), SEQUENCE)
    states, _ = recurrent_layer(params, "layer1", "lstm", inputs, quiet)
    close(states[0, 99], torch.full_like(states[0, 99], math.tanh(math.tanh(1.0))))


def test_a_masked_memory_with_the_scale_in_evaluation_is_read_times_the_keep_probability():
    params, inputs = holding(100)
    strategy, model = replace(strategy_of("transition/cell"), rate=0.25), model_of("lstm")
    drawn = drawing(strategy, model, SEQUENCE, test_scaled=True)
    kept = actions_of(drawn, "lstm")["layer1.cell"].scale[0, 0]
    states, _ = recurrent_layer(params, "layer1", "lstm", inputs, drawn)
    close(states[0, 99], math.tanh(math.tanh(1.0)) * kept.double())
    expected = expecting(strategy, model, SEQUENCE, test_scaled=True)
    states, _ = recurrent_layer(params, "layer1", "lstm", inputs, expected)
    close(states[0, 99], torch.full_like(states[0, 99], 0.75 * math.tanh(math.tanh(1.0))))


# ---- symbols


def test_a_dropped_symbol_is_dropped_at_all_its_places_in_a_sequence():
    facts = Facts("sequence", (40, 8), "classification", 4, symbols=True)
    model, strategy = LSTM(5), replace(strategy_of("embedding"), rate=0.5)
    symbols = torch.randint(8, (2, BATCH, 40), generator=torch.Generator().manual_seed(1))
    inputs = torch.nn.functional.one_hot(symbols, 8).double()
    noise, params = Recorded(drawing(strategy, model, facts, seeds=(1, 2))), random_params(model, facts, runs=2)
    model.apply(params, inputs, noise, RunningMoments(params), facts)
    assert set(noise.actions) == {"embedding"}
    passed = noise.values["embedding"].transpose(1, 2)  # [R, batch, steps, symbols]
    kinds = set()
    for run in range(2):
        for example in range(BATCH):
            factors = {}
            for step, symbol in enumerate(symbols[run, example].tolist()):
                factor = passed[run, example, step, symbol].item()
                assert factor in (0.0, 2.0)
                assert factors.setdefault(symbol, factor) == factor
            kinds.add(tuple(sorted(factors.items())))
    assert len(kinds) > BATCH  # sequences and runs drop symbols of their own


def test_word_types_are_told_apart_from_input_features():
    """Features that are no symbols pass the input site alone."""
    kinds = {facts.symbols: [site.kind for site in LSTM().sites(facts)] for facts in (SEQUENCE, SYMBOLS)}
    assert "embedding" not in kinds[False]
    assert kinds[True][:2] == ["embedding", "input"]


# ---- several of these together


SHARES = [
    (),
    ("batch",),
    ("batch", "gate"),
    ("batch", "step", "gate"),
    ("step",),
    ("gate",),
    ("step", "gate"),
    ("unit",),
]


@pytest.mark.parametrize("share", SHARES, ids="-".join)
@cells
def test_masks_of_any_sharing_at_all_sites(cell, share):
    noise = drawing(bernoulli(0.3, share=share), model_of(cell), SEQUENCE)
    actions, inputs = actions_of(noise, cell), layer_inputs()
    assert actions.keys() >= {f"layer1.{site}" for site, kind in SITES[cell] if kind != "carry"}
    ours, theirs = layer_params(cell), layer_params(cell)
    states, _ = recurrent_layer(ours, "layer1", cell, inputs, noise)
    expected, _ = walk(cell, theirs, inputs[0], actions)
    close(states[0], expected)
    loss_of(states).backward()
    loss_of(expected.unsqueeze(0)).backward()
    for name, value in ours.items():
        close(value.grad, theirs[name].grad)
