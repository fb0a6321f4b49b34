"""Models against the same nets in torch.nn, recurrent transitions against a plain walk, sites against their use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dropbench.compose import Composer
from dropbench.config import check
from dropbench.errors import UserError
from dropbench.models import Model, layers
from dropbench.models.cnn import CNN
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.models.moments import BatchMoments, RunningMoments
from dropbench.models.recurrent import GATES, SITES, recurrent_layer, recurrent_parameters
from dropbench.noise import Perturbation
from dropbench.noise.bernoulli import Bernoulli
from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.spec import SITE_KINDS, Clock, Facts
from dropbench.stack import stacked
from dropbench.strategy import StepNoise, Strategy
from dropbench.streams import Streams

IMAGE = Facts("image", (1, 8, 8), "classification", 10)
COLOUR = Facts("image", (3, 8, 8), "classification", 4)
VECTOR = Facts("vector", (11,), "classification", 5)
SEQUENCE = Facts("sequence", (7, 3), "classification", 4)
PER_STEP = Facts("sequence", (7, 3), "classification", 4, per_step=True)
EVERYWHERE = tuple(kind for kind in SITE_KINDS if kind != "carry")  # Bernoulli noise has no fallback
BATCH = 6


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def noise_at(rate: float, model: Model, facts: Facts, seeds: tuple[int, ...] = (3,)) -> StepNoise:
    """Bernoulli noise of one rate at every site of a model, as the runner binds it."""
    strategy = Strategy(Bernoulli(), CrossEntropy(), rate=rate, input_rate=rate, where=EVERYWHERE, share=())
    placements = strategy.place(model.sites(facts))
    return StepNoise(stacked([strategy] * len(seeds)), placements, Streams(seeds), Clock(0, 9, 0, 3), {}, {})


def random_params(model: Model, facts: Facts, runs: int = 1) -> dict[str, Tensor]:
    """Values for every parameter, nothing left at 0 or 1."""
    generator = torch.Generator().manual_seed(1)
    params = {}
    for item in model.parameters(facts):
        fan = max(1, torch.Size(item.shape).numel() // max(item.shape)) if len(item.shape) > 1 else 4
        value = torch.randn(runs, *item.shape, generator=generator) / fan**0.5
        if item.name.endswith((".variance", ".gain")):
            value = 0.5 + value.abs()
        params[item.name] = value.requires_grad_(item.trained)
    return params


def random_inputs(facts: Facts, runs: int = 1, batch: int = BATCH) -> Tensor:
    return torch.randn(runs, batch, *facts.shape, generator=torch.Generator().manual_seed(2))


def loss_of(outputs: Tensor) -> Tensor:
    """Something every output matters to, differently."""
    weights = torch.linspace(-1, 1, outputs[0].numel()).view(outputs.shape[1:])
    return (outputs * weights).sum() + outputs.square().mean()


class Pairs:
    """Which parameter of ours is which of a torch net, and how it lies there."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Tensor, Callable[[Tensor], Tensor]]] = []

    def add(self, name: str, theirs: Tensor, turned: bool = False) -> None:
        self.found.append((name, theirs, (lambda value: value.T) if turned else (lambda value: value)))

    def linear(self, name: str, layer: nn.Linear) -> nn.Linear:
        self.add(f"{name}.weight", layer.weight, turned=True)
        self.add(f"{name}.bias", layer.bias)
        return layer

    def norm(self, name: str, layer: Any) -> Any:
        self.add(f"{name}.gain", layer.weight)
        self.add(f"{name}.offset", layer.bias)
        self.add(f"{name}.mean", layer.running_mean)
        self.add(f"{name}.variance", layer.running_var)
        return layer

    def copy(self, params: Mapping[str, Tensor]) -> None:
        assert {name for name, _, _ in self.found} == params.keys()
        with torch.no_grad():
            for name, theirs, turn in self.found:
                theirs.copy_(turn(params[name][0]))

    def check_gradients(self, params: Mapping[str, Tensor]) -> None:
        for name, theirs, turn in self.found:
            if params[name].requires_grad:
                assert params[name].grad is not None, name
                assert params[name].grad.abs().max() > 0, name
                close(turn(params[name].grad[0]), theirs.grad)

    def check_values(self, params: Mapping[str, Tensor]) -> None:
        for name, theirs, turn in self.found:
            close(turn(params[name][0]), theirs)


FUNCTIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "selu": nn.SELU}


def torch_mlp(model: MLP, facts: Facts) -> tuple[nn.Module, Pairs]:
    pairs, modules, width = Pairs(), [nn.Flatten()], facts.size
    for layer, units in enumerate(model.widths, start=1):
        modules.append(pairs.linear(f"hidden{layer}", nn.Linear(width, units)))
        if model.batch_norm:
            modules.append(pairs.norm(f"hidden{layer}", nn.BatchNorm1d(units)))
        modules.append(FUNCTIONS[model.activation]())
        width = units
    modules.append(pairs.linear("output", nn.Linear(width, facts.outputs)))
    return nn.Sequential(*modules), pairs


def torch_cnn(model: CNN, facts: Facts) -> tuple[nn.Module, Pairs]:
    pairs, modules = Pairs(), []
    channels, side = facts.shape[0], facts.shape[1]
    assert facts.shape[1] == facts.shape[2]
    for block, maps in enumerate(model.maps, start=1):
        layer = nn.Conv2d(channels, maps, model.kernel, padding="same")
        pairs.add(f"conv{block}.weight", layer.weight)
        pairs.add(f"conv{block}.bias", layer.bias)
        modules.append(layer)
        if model.batch_norm:
            modules.append(pairs.norm(f"conv{block}", nn.BatchNorm2d(maps)))
        pool = nn.MaxPool2d(model.pool, model.stride, padding=(model.pool - 1) // 2)
        modules += [FUNCTIONS[model.activation](), pool]
        channels, side = maps, pool(torch.zeros(1, side, side)).shape[-1]
    modules.append(nn.Flatten())
    width = channels * side * side
    for layer_number, units in enumerate(model.dense, start=1):
        modules.append(pairs.linear(f"dense{layer_number}", nn.Linear(width, units)))
        modules.append(FUNCTIONS[model.activation]())
        width = units
    modules.append(pairs.linear("output", nn.Linear(width, facts.outputs)))
    return nn.Sequential(*modules), pairs


class TorchRecurrent(nn.Module):
    """nn.LSTM, nn.GRU or nn.RNN and a linear layer on its last state, or on every state."""

    def __init__(self, model: LSTM, features: int, facts: Facts) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[model.cell]
        self.inner = kind(features, model.hidden, model.layers, bidirectional=model.bidirectional, batch_first=True)
        self.output = nn.Linear(model.hidden * (1 + model.bidirectional), facts.outputs)
        self.directions, self.per_step = 1 + model.bidirectional, facts.per_step

    def forward(self, sequence: Tensor) -> Tensor:
        states, last = self.inner(sequence)
        last = last[0] if isinstance(last, tuple) else last
        return self.output(states if self.per_step else torch.cat(list(last[-self.directions :]), -1))


def torch_recurrent(model: LSTM, features: int, facts: Facts) -> tuple[nn.Module, Pairs]:
    net, pairs = TorchRecurrent(model, features, facts), Pairs()
    for layer in range(model.layers):
        for suffix, name in ("", ""), ("_reverse", ".reverse"):
            if suffix and not model.bidirectional:
                continue
            for ours in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                theirs = getattr(net.inner, f"{ours}_l{layer}{suffix}")
                pairs.add(f"layer{layer + 1}{name}.{ours}", theirs, turned=ours.startswith("weight"))
    pairs.linear("output", net.output)
    return net, pairs


Prepare = Callable[[Tensor], Tensor]


def check_equal(
    model: Model, facts: Facts, net: nn.Module, pairs: Pairs, prepare: Prepare = lambda inputs: inputs
) -> None:
    """Three batches in training mode, gradients and running moments compared after each; then evaluation."""
    params = random_params(model, facts)
    pairs.copy(params)
    net.train()
    for batch in torch.randn(3, 1, BATCH, *facts.shape, generator=torch.Generator().manual_seed(2)):
        for tensor in (*params.values(), *net.parameters()):
            tensor.grad = None
        inputs, theirs_in = batch.clone().requires_grad_(), batch[0].clone().requires_grad_()
        ours = model.apply(params, inputs, noise_at(0.0, model, facts), BatchMoments(params), facts)
        theirs = net(prepare(theirs_in))
        close(ours[0], theirs)
        loss_of(ours).backward()
        loss_of(theirs.unsqueeze(0)).backward()
        pairs.check_gradients(params)
        close(inputs.grad[0], theirs_in.grad)
        pairs.check_values(params)
    net.eval()
    batch = random_inputs(facts)
    ours = model.apply(params, batch, noise_at(0.0, model, facts), RunningMoments(params), facts)
    close(ours[0], net(prepare(batch[0])))


# ---- equal to torch.nn


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_mlp(activation, batch_norm):
    model = MLP((9, 7), activation, batch_norm)
    check_equal(model, VECTOR, *torch_mlp(model, VECTOR))


@pytest.mark.parametrize("widths", [(), (5,), (6, 5, 4)])
def test_mlp_of_any_depth_on_flattened_images(widths):
    model = MLP(widths)
    check_equal(model, COLOUR, *torch_mlp(model, COLOUR))


@pytest.mark.parametrize("facts", [IMAGE, COLOUR])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(("kernel", "pool", "stride"), [(3, 2, 2), (5, 3, 2), (7, 2, 1), (3, 1, 1)])
def test_cnn(facts, batch_norm, kernel, pool, stride):
    model = CNN((4, 5), kernel, pool, stride, (6,), batch_norm=batch_norm)
    check_equal(model, facts, *torch_cnn(model, facts))


@pytest.mark.parametrize(("maps", "dense"), [((4,), ()), ((), (5,)), ((3, 3, 3), (6, 5))])
def test_cnn_of_any_depth(maps, dense):
    model = CNN(maps, dense=dense, activation="tanh")
    check_equal(model, IMAGE, *torch_cnn(model, IMAGE))


def test_the_cnn_of_the_2014_paper():
    model = check(Composer().compose(["model=cnn_2014"]).data).model
    assert isinstance(model, CNN)
    assert (model.maps, model.dense) == ((96, 128, 256), (2048, 2048))
    facts = Facts("image", (3, 12, 12), "classification", 10)
    check_equal(model, facts, *torch_cnn(model, facts))


RECURRENT = [
    LSTM(5, layers, cell, bidirectional)
    for cell in ("lstm", "gru", "rnn")
    for layers in (1, 2)
    for bidirectional in (False, True)
]


@pytest.mark.parametrize("model", RECURRENT, ids=lambda model: f"{model.cell}{model.layers}{model.bidirectional}")
@pytest.mark.parametrize("facts", [SEQUENCE, PER_STEP], ids=["last", "per_step"])
def test_recurrent(model, facts):
    check_equal(model, facts, *torch_recurrent(model, 3, facts))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_recurrent_on_the_rows_of_an_image(cell):
    model = LSTM(5, cell=cell, read="rows")
    facts = Facts("image", (3, 4, 6), "classification", 4)  # a row is its pixels of all channels
    check_equal(
        model, facts, *torch_recurrent(model, 3 * 6, facts),
        lambda images: torch.stack([images[:, :, row].flatten(1) for row in range(4)], 1),
    )  # fmt: skip


def test_recurrent_on_the_pixels_of_an_image():
    model = LSTM(5, read="pixels")
    facts = Facts("image", (3, 4, 5), "classification", 4)
    check_equal(model, facts, *torch_recurrent(model, 3, facts), lambda images: images.flatten(2).transpose(1, 2))


def test_recurrent_on_permuted_pixels_reads_one_order_for_every_run():
    model = LSTM(5, read="permuted_pixels")
    facts = Facts("image", (1, 4, 5), "classification", 4)
    seen = {}
    ramp = torch.arange(20.0).view(1, 1, 1, 4, 5).expand(3, 2, 1, 4, 5)
    runs = random_params(model, facts, runs=3)

    class Look(Fixed):
        def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
            seen.setdefault(site, value)
            return value

    model.apply(runs, ramp, Look({}), RunningMoments(runs), facts)
    order = seen["input"][0, :, 0, 0].long()
    assert (seen["input"] == order.view(1, 20, 1, 1)).all()
    assert order.sort().values.tolist() == list(range(20))
    assert order.tolist() != list(range(20))
    check_equal(
        model, facts, *torch_recurrent(model, 1, facts), lambda images: images.flatten(2).transpose(1, 2)[:, order]
    )


# ---- a stack equals its runs alone

BIG = Facts("image", (3, 18, 18), "classification", 4)
STACKED: list[tuple[Model, Facts]] = [
    (MLP((9, 7), batch_norm=True), VECTOR),
    (CNN((4, 5), dense=(6,), batch_norm=True), COLOUR),
    (CNN((4, 5), dense=(6,)), BIG),
    (LSTM(5, 2, "lstm", bidirectional=True), PER_STEP),
    (LSTM(5, 2, "gru"), SEQUENCE),
    (LSTM(5, 1, "rnn", bidirectional=True), IMAGE),
]


@pytest.mark.parametrize(
    ("model", "facts"), STACKED, ids=["mlp", "cnn_grouped", "cnn_looped", "lstm", "gru", "rnn_rows"]
)
def test_three_in_a_stack_equal_each_alone(model, facts):
    seeds = (4, 0, 2**64 - 1)
    params, inputs = random_params(model, facts, runs=3), random_inputs(facts, runs=3)
    before = {name: value.detach().clone() for name, value in params.items()}
    outputs = model.apply(params, inputs, noise_at(0.4, model, facts, seeds), BatchMoments(params), facts)
    sum(loss_of(outputs[run : run + 1]) for run in range(3)).backward()
    for run, seed in enumerate(seeds):
        alone = {
            name: value[run : run + 1].clone().requires_grad_(params[name].requires_grad)
            for name, value in before.items()
        }
        noise = noise_at(0.4, model, facts, (seed,))
        single = model.apply(alone, inputs[run : run + 1], noise, BatchMoments(alone), facts)
        close(outputs[run : run + 1], single)
        loss_of(single).backward()
        for name, value in alone.items():
            close(params[name][run : run + 1], value)
            if value.requires_grad:
                close(params[name].grad[run : run + 1], value.grad)


@pytest.mark.parametrize(("side", "groups"), [(8, [3]), (16, [3]), (17, [1, 1, 1])])
def test_runs_are_groups_on_small_maps_and_walk_one_by_one_on_large_ones(monkeypatch, side, groups):
    called = []
    conv2d = nn.functional.conv2d

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        called.append(kwargs.get("groups", 1))
        return conv2d(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "conv2d", counting)
    params = {"c.weight": torch.randn(3, 4, 2, 3, 3), "c.bias": torch.randn(3, 4)}
    value = torch.randn(3, 5, 2, side, side)
    result = layers.conv(params, "c", value)
    assert called == groups
    for run in range(3):
        close(result[run], conv2d(value[run], params["c.weight"][run], params["c.bias"][run], padding=1))


# ---- the transitions of recurrent layers


class Fixed:
    """A `NoiseFn` with given actions."""

    def __init__(self, actions: Mapping[str, Perturbation]) -> None:
        self.actions = actions

    def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        return self.actions[site](value, fallback) if site in self.actions else value

    def perturbation(self, site: str, shape: tuple[int, ...]) -> Perturbation | None:
        return self.actions.get(site)


def parts_of(action: Perturbation) -> tuple[Tensor | None, ...]:
    return action.scale, action.mix, action.shift


def walk(cell: str, params: Mapping[str, Tensor], inputs: Tensor, actions: Mapping[str, Perturbation]) -> list[Tensor]:
    """The states of one run, written down from the formulas; inputs [steps, batch, features]."""
    W, U, b, bu = (params[f"layer.{name}"][0] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

    def act(site: str, step: int, value: Tensor, old: Tensor | None = None) -> Tensor:
        action = actions.get(f"layer.{site}")
        if action is None:
            return value
        scale, mix, shift = (None if part is None else part[0, step] for part in parts_of(action))
        value = value * scale
        if mix is not None:
            value = value + old * mix
        return value if shift is None else value + shift

    weight = actions.get("layer.recurrent_weight")
    U = U if weight is None else U * weight.scale[0]
    units = U.shape[0]
    h = c = torch.zeros(inputs.shape[1], units)
    states = []
    for step, x in enumerate(inputs):
        own, back = x @ W + b, act("state", step, h) @ U + bu
        if cell == "rnn":
            h = act("carry_h", step, torch.tanh(own + back), h)
        elif cell == "gru":
            r, z = (torch.sigmoid(own[:, at] + back[:, at]) for at in (slice(units), slice(units, 2 * units)))
            n = torch.tanh(own[:, 2 * units :] + r * back[:, 2 * units :])
            h = act("carry_h", step, (1 - z) * act("candidate", step, n) + z * h, h)
        else:
            i, f, g, o = (own + back).split(units, 1)
            new = act("cell", step, torch.sigmoid(f) * c + torch.sigmoid(i) * act("candidate", step, torch.tanh(g)))
            h = act("carry_h", step, torch.sigmoid(o) * torch.tanh(new), h)
            c = act("carry_c", step, new, c)
        states.append(h)
    return states


STEPS, HIDDEN = 6, 4


def layer_params(cell: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        item.name: torch.randn(1, *item.shape, generator=generator).div(1.5).requires_grad_()
        for item in recurrent_parameters("layer", cell, 3, HIDDEN)
    }


def some_action(site: str, kind: str, cell: str) -> Perturbation:
    """An action that is different in every element and every step."""
    generator = torch.Generator().manual_seed(6)
    if kind == "recurrent_weight":
        return Perturbation(2 * torch.rand(1, HIDDEN, GATES[cell] * HIDDEN, generator=generator))
    scale, mix, shift = torch.rand(3, 1, STEPS, BATCH, HIDDEN, generator=generator).unbind(0)
    return Perturbation(2 * scale, mix if kind == "carry" else None, shift if kind in ("state", "cell") else None)


@pytest.mark.parametrize(("cell", "site", "kind"), [(cell, *site) for cell, sites in SITES.items() for site in sites])
def test_each_transition_site_acts_as_the_formula_says(cell, site, kind):
    inputs = torch.randn(1, STEPS, BATCH, 3, generator=torch.Generator().manual_seed(7))
    actions = {f"layer.{site}": some_action(site, kind, cell)}
    ours, theirs = layer_params(cell), layer_params(cell)
    states, last = recurrent_layer(ours, "layer", cell, inputs, Fixed(actions))
    expected = torch.stack(walk(cell, theirs, inputs[0], actions))
    close(states[0], expected)
    close(last[0], expected[-1])
    quiet, _ = recurrent_layer(ours, "layer", cell, inputs, Fixed({}))
    if site == "carry_c":
        assert (quiet - states)[:, 1:].abs().max() > 1e-2  # what is carried is seen a step later
    else:
        assert (quiet - states).abs().max() > 1e-2
    loss_of(states).backward()
    loss_of(expected.unsqueeze(0)).backward()
    for name, value in ours.items():
        close(value.grad, theirs[name].grad)


@pytest.mark.parametrize("cell", SITES)
def test_all_transition_sites_at_once(cell):
    inputs = torch.randn(1, STEPS, BATCH, 3, generator=torch.Generator().manual_seed(7))
    actions = {f"layer.{site}": some_action(site, kind, cell) for site, kind in SITES[cell]}
    params = layer_params(cell)
    states, _ = recurrent_layer(params, "layer", cell, inputs, Fixed(actions))
    close(states[0], torch.stack(walk(cell, params, inputs[0], actions)))


@pytest.mark.parametrize("cell", SITES)
def test_a_reverse_walk_is_a_walk_over_the_mirrored_sequence(cell):
    inputs = torch.randn(1, STEPS, BATCH, 3, generator=torch.Generator().manual_seed(7))
    actions = {f"layer.{site}": some_action(site, kind, cell) for site, kind in SITES[cell]}
    mirrored = {
        site: action
        if "weight" in site
        else Perturbation(*(None if part is None else part.flip(1) for part in parts_of(action)))
        for site, action in actions.items()
    }
    params = layer_params(cell)
    states, last = recurrent_layer(params, "layer", cell, inputs, Fixed(actions), reverse=True)
    expected = torch.stack(walk(cell, params, inputs[0].flip(0), mirrored))
    close(states[0].flip(0), expected)
    close(last[0], expected[-1])


def from_step(step: int) -> Tensor:
    """1 up to a step, 0 from there, [1, steps, 1, 1]."""
    return (torch.arange(STEPS) < step).float().view(1, STEPS, 1, 1)


@pytest.mark.parametrize("cell", SITES)
def test_a_carry_that_keeps_everything_freezes_the_state(cell):
    inputs = torch.randn(1, STEPS, BATCH, 3, generator=torch.Generator().manual_seed(7))
    keep = Perturbation(from_step(2), 1 - from_step(2))
    sites = ["carry_h", "carry_c"] if cell == "lstm" else ["carry_h"]
    states, last = recurrent_layer(
        layer_params(cell), "layer", cell, inputs, Fixed({f"layer.{site}": keep for site in sites})
    )
    assert (states[:, 1] - states[:, 0]).abs().max() > 1e-2
    for step in range(2, STEPS):
        assert torch.equal(states[:, step], states[:, 1])
    assert torch.equal(last, states[:, 1])


@pytest.mark.parametrize("cell", SITES)
def test_masking_the_state_never_touches_the_state_that_is_carried(cell):
    """The copy of h that enters the product is 0, or far too large; what is carried stays as it was."""
    inputs = torch.randn(1, STEPS, BATCH, 3, generator=torch.Generator().manual_seed(7))
    keep = Perturbation(from_step(1), 1 - from_step(1))
    for factor in (0.0, 20.0):
        masked = Perturbation(torch.full((1, 1, 1, 1), factor))
        actions = {"layer.state": masked, "layer.carry_h": keep}
        states, _ = recurrent_layer(layer_params(cell), "layer", cell, inputs, Fixed(actions))
        assert states[:, 0].abs().min() > 0
        for step in range(1, STEPS):
            assert torch.equal(states[:, step], states[:, 0])


def test_the_update_gate_of_a_gru_carries_the_unmasked_state():
    params = layer_params("gru")
    with torch.no_grad():
        params["layer.weight_ih"].zero_()
        params["layer.weight_ih"][0, 0, HIDDEN : 2 * HIDDEN] = 100.0  # feature 0 opens or shuts the update gate z
        params["layer.weight_ih"][0, 1, 2 * HIDDEN :] = 1.0
    inputs = torch.ones(1, STEPS, BATCH, 3)
    inputs[:, 0, :, 0] = -1.0  # z = 0: h becomes the candidate; afterwards z = 1: h stays
    masked = Fixed({"layer.state": Perturbation(torch.full((1, 1, 1, 1), 3.0))})
    states, _ = recurrent_layer(params, "layer", "gru", inputs, masked)
    assert states[:, 0].abs().min() > 0.01
    for step in range(1, STEPS):
        close(states[:, step], states[:, 0])


# ---- what a model declares is what it does


class Checking:
    """A `NoiseFn` that holds each call against the declaration."""

    def __init__(self, model: Model, facts: Facts, runs: int, batch: int) -> None:
        self.sites = {site.name: site for site in model.sites(facts)}
        self.runs, self.batch, self.steps = runs, batch, {facts.shape[0]} if facts.form == "sequence" else set()
        self.calls: list[str] = []

    def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        self.perturbation(site, tuple(value.shape))
        return value

    def perturbation(self, site: str, shape: tuple[int, ...]) -> None:
        assert site in self.sites, f"{site} is not declared"
        declared = self.sites[site]
        assert len(shape) == 1 + len(declared.axes)
        assert shape[0] == self.runs
        lengths = dict(zip(declared.axes, shape[1:], strict=True))
        assert lengths["unit"] == declared.units
        assert lengths.get("batch", self.batch) == self.batch
        if "step" in lengths:
            self.steps.add(lengths["step"])
        self.calls.append(site)


CASES: list[tuple[Model, Facts]] = [
    *((MLP(widths, batch_norm=norm), VECTOR) for widths in ((), (5,), (5, 4, 3)) for norm in (False, True)),
    (MLP((5,)), COLOUR),
    *((CNN(maps, dense=dense), COLOUR) for maps in ((), (4,), (4, 5, 6)) for dense in ((), (7, 8))),
    (CNN((4,), batch_norm=True), IMAGE),
    *((model, facts) for model in RECURRENT for facts in (SEQUENCE, PER_STEP)),
    *((LSTM(5, read=read), COLOUR) for read in ("rows", "pixels", "permuted_pixels")),
]


@pytest.mark.parametrize(("model", "facts"), CASES, ids=str)
def test_sites(model, facts):
    sites = model.sites(facts)
    names = [site.name for site in sites]
    assert len(set(names)) == len(names)
    depths = [site.depth for site in sites]
    assert depths == sorted(depths)
    assert all(0 <= depth <= 1 for depth in depths)
    assert depths[0] == 0
    assert len(sites) == 1 or depths[-1] == 1
    for site in sites:
        assert site.kind in SITE_KINDS
        assert len(set(site.axes)) == len(site.axes)
        assert set(site.axes) <= {"batch", "step", "unit", "row", "column", "source"}
    params, checking = random_params(model, facts, runs=2), Checking(model, facts, 2, BATCH)
    outputs = model.apply(params, random_inputs(facts, runs=2), checking, BatchMoments(params), facts)
    assert checking.calls == names  # each once, in the order of the data's way, and nothing else
    assert len(checking.steps) <= 1
    assert outputs.shape == (2, BATCH, *((facts.shape[0],) if facts.per_step else ()), facts.outputs)


@pytest.mark.parametrize(("model", "facts"), CASES, ids=str)
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
