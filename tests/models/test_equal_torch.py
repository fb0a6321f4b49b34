"""Models against the same nets in torch.nn, with the same weights: outputs, gradients, running figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from nets import (
    BATCH,
    COLOUR,
    IMAGE,
    PER_STEP,
    SEQUENCE,
    VECTOR,
    Fixed,
    Recorded,
    bernoulli,
    close,
    config,
    drawing,
    generator,
    loss_of,
    random_inputs,
    random_params,
    strategy_of,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dropbench.acting import NoiseFn
from dropbench.models import Model, layers
from dropbench.models.cnn import CNN
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.models.moments import BatchMoments, RunningMoments
from dropbench.objectives import plain
from dropbench.spec import Facts


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

    def conv(self, name: str, layer: nn.Conv2d) -> nn.Conv2d:
        self.add(f"{name}.weight", layer.weight)
        self.add(f"{name}.bias", layer.bias)
        return layer

    def norm(self, name: str, layer: Any) -> Any:
        layer.double()  # it makes new tensors of the running figures
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
            close(turn(params[name][0]).double(), theirs)


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
    return nn.Sequential(*modules).double(), pairs


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, value: Tensor) -> Tensor:
        return value + self.inner(value)


def torch_cnn(model: CNN, facts: Facts) -> tuple[nn.Module, Pairs]:
    pairs, modules = Pairs(), []
    channels, side = facts.shape[0], facts.shape[1]
    assert facts.shape[1] == facts.shape[2]

    def convolution(name: str, inputs: int, outputs: int) -> list[nn.Module]:
        layer = pairs.conv(name, nn.Conv2d(inputs, outputs, model.kernel, padding="same"))
        return [layer, pairs.norm(name, nn.BatchNorm2d(outputs))] if model.batch_norm else [layer]

    function = FUNCTIONS[model.activation]
    for block, maps in enumerate(model.maps, start=1):
        pool = nn.MaxPool2d(model.pool, model.stride, padding=(model.pool - 1) // 2)
        modules += [*convolution(f"conv{block}", channels, maps), pool, function()]
        channels, side = maps, pool(torch.zeros(1, side, side)).shape[-1]
        for branch in range(1, model.residual + 1):
            name = f"branch{block}.{branch}"
            first, second = convolution(f"{name}.a", maps, maps), convolution(f"{name}.b", maps, maps)
            modules.append(Residual(nn.Sequential(function(), *first, function(), *second)))
    modules.append(nn.Flatten())
    width = channels * side * side
    for layer_number, units in enumerate(model.dense, start=1):
        modules += [pairs.linear(f"dense{layer_number}", nn.Linear(width, units)), function()]
        width = units
    modules.append(pairs.linear("output", nn.Linear(width, facts.outputs)))
    return nn.Sequential(*modules).double(), pairs


class TorchRecurrent(nn.Module):
    """nn.LSTM, nn.GRU or nn.RNN and a linear layer on its last state, or on every state."""

    def __init__(self, model: LSTM, features: int, facts: Facts) -> None:
        super().__init__()
        kind = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[model.cell]
        self.inner = kind(features, model.hidden, model.layers, bidirectional=model.bidirectional, batch_first=True)
        self.output = nn.Linear(model.hidden * (1 + model.bidirectional), facts.outputs)
        self.directions, self.per_step = 1 + model.bidirectional, facts.per_step

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        if lengths is None:
            states, last = self.inner(sequence)
        else:
            packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
            states, last = self.inner(packed)
            states = pad_packed_sequence(states, batch_first=True, total_length=sequence.shape[1])[0]
        last = last[0] if isinstance(last, tuple) else last
        return self.output(states if self.per_step else torch.cat(list(last[-self.directions :]), -1))


def torch_recurrent(model: LSTM, features: int, facts: Facts) -> tuple[TorchRecurrent, Pairs]:
    net, pairs = TorchRecurrent(model, features, facts).double(), Pairs()
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


def no_noise(model: Model, facts: Facts) -> list[NoiseFn]:
    """Nothing at the sites; then a rate of 0: shared as it goes; then a mask for every element of every site."""
    shared = bernoulli(0.0, share=("batch", "step", "gate") if isinstance(model, LSTM) else ("batch",))
    return [Fixed({}), drawing(shared, model, facts), drawing(bernoulli(0.0), model, facts)]


def check_equal(
    model: Model, facts: Facts, net: nn.Module, pairs: Pairs, prepare: Prepare = lambda inputs: inputs
) -> None:
    """Three batches in training mode, gradients and running moments compared after each; then evaluation."""
    params = random_params(model, facts)
    pairs.copy(params)
    net.train()
    batches = torch.randn(3, 1, BATCH, *facts.shape, generator=generator(2), dtype=torch.float64)
    for batch, noise in zip(batches, no_noise(model, facts), strict=True):
        for tensor in (*params.values(), *net.parameters()):
            tensor.grad = None
        inputs, theirs_in = batch.clone().requires_grad_(), batch[0].clone().requires_grad_()
        ours = model.apply(params, inputs, noise, BatchMoments(params), facts)
        theirs = net(prepare(theirs_in))
        close(ours[0], theirs)
        loss_of(ours).backward()
        loss_of(theirs.unsqueeze(0)).backward()
        pairs.check_gradients(params)
        close(inputs.grad[0], theirs_in.grad)
        pairs.check_values(params)
    net.eval()
    params = {name: value.detach().double() for name, value in params.items()}
    pairs.copy(params)
    batch = random_inputs(facts)
    ours = model.apply(params, batch, Fixed({}), RunningMoments(params), facts)
    close(ours[0], net(prepare(batch[0])))


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


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("residual", [1, 2])
def test_cnn_with_residual_branches(activation, batch_norm, residual):
    model = CNN((3, 4), dense=(5,), activation=activation, batch_norm=batch_norm, residual=residual)
    check_equal(model, COLOUR, *torch_cnn(model, COLOUR))


def test_the_cnn_of_the_2014_paper_has_its_sizes():
    model = config("model=cnn_2014").model
    assert isinstance(model, CNN)
    assert (model.kernel, model.pool, model.stride) == (5, 3, 2)
    assert (model.maps, model.dense) == ((96, 128, 256), (2048, 2048))


RECURRENT = [
    LSTM(5, layers, cell, bidirectional)
    for cell in ("lstm", "gru", "rnn")
    for layers in (1, 2)
    for bidirectional in (False, True)
]
recurrent = pytest.mark.parametrize(
    "model", RECURRENT, ids=lambda model: f"{model.cell}{model.layers}{'both' if model.bidirectional else ''}"
)
answers = pytest.mark.parametrize("facts", [SEQUENCE, PER_STEP], ids=["last", "per_step"])


@recurrent
@answers
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
    ramp = torch.arange(20.0, dtype=torch.float64).view(1, 1, 1, 4, 5).expand(3, 2, 1, 4, 5)
    runs = random_params(model, facts, runs=3)

    class Look(Fixed):
        def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
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


# ---- sequences of several lengths

LENGTHS = torch.tensor([4, 7, 1, 5, 7, 2])
PADDING = torch.arange(7) >= LENGTHS.view(-1, 1)


@recurrent
@answers
def test_sequences_of_several_lengths_equal_packed_ones(model, facts):
    params, (net, pairs) = random_params(model, facts), torch_recurrent(model, 3, facts)
    pairs.copy(params)
    inputs = random_inputs(facts).requires_grad_()
    theirs_in = inputs[0].detach().clone().requires_grad_()
    ours = model.apply(params, inputs, Fixed({}), BatchMoments(params), facts, LENGTHS.view(1, -1))
    theirs = net(theirs_in, LENGTHS)
    close(ours[0], theirs)
    loss_of(ours).backward()
    loss_of(theirs.unsqueeze(0)).backward()
    pairs.check_gradients(params)
    close(inputs.grad[0], theirs_in.grad)
    assert not inputs.grad[0][PADDING].any()
    assert (inputs.grad[0][~PADDING].abs().amax(1) > 0).all()
    if facts.per_step:
        close(ours[0][PADDING], params["output.bias"][0].expand(int(PADDING.sum()), -1))


@recurrent
@answers
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_padding_neither_trains_nor_counts(model, facts, rate):
    """Whatever stands in it, losses and gradients keep every bit, with noise at all sites or without."""
    targets = torch.arange(BATCH).remainder(4).view(1, -1)
    if facts.per_step:
        targets = targets.unsqueeze(2).repeat(1, 1, 7).masked_fill(PADDING, -100)
    results = []
    for filling in (0.0, 100.0, -1.0):
        params = random_params(model, facts)
        inputs = random_inputs(facts).masked_fill(PADDING.unsqueeze(2), filling)
        noise = drawing(bernoulli(rate), model, facts)
        outputs = model.apply(params, inputs, noise, BatchMoments(params), facts, LENGTHS.view(1, -1))
        loss = plain(outputs.unsqueeze(1), targets).sum()
        gradients = torch.autograd.grad(loss, list(params.values()))
        results.append((loss.detach(), *gradients))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


@recurrent
@pytest.mark.parametrize("share", [(), ("batch", "gate")], ids=["own", "shared"])
def test_lengths_that_are_all_the_same_are_no_lengths(model, share):
    params, inputs = random_params(model, PER_STEP), random_inputs(PER_STEP)
    noise = drawing(bernoulli(0.4, share=share), model, PER_STEP)
    results = []
    for lengths in (None, torch.full((1, BATCH), 7)):
        outputs = model.apply(params, inputs, noise, BatchMoments(params), PER_STEP, lengths)
        results.append((outputs, *torch.autograd.grad(loss_of(outputs), list(params.values()))))
    for one, two in zip(*results, strict=True):
        close(one, two)


# ---- weight drop


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weight_drop_is_the_torch_net_run_with_the_masked_matrix(cell, bidirectional):
    model = LSTM(5, 2, cell, bidirectional)
    params, (net, pairs) = random_params(model, SEQUENCE), torch_recurrent(model, 3, SEQUENCE)
    noise = Recorded(drawing(strategy_of("transition/weight"), model, SEQUENCE))
    ours = model.apply(params, random_inputs(SEQUENCE), noise, BatchMoments(params), SEQUENCE)
    masks = {
        site.replace("recurrent_weight", "weight_hh"): action.scale[0, 0] for site, action in noise.actions.items()
    }
    assert len(masks) == 2 * (1 + bidirectional)
    assert all(set(mask.unique().tolist()) == {0.0, 2.0} for mask in masks.values())  # one mask for the whole batch
    pairs.copy({name: value * masks[name] if name in masks else value for name, value in params.items()})
    theirs = net(random_inputs(SEQUENCE)[0])
    close(ours[0], theirs)
    loss_of(ours).backward()
    loss_of(theirs.unsqueeze(0)).backward()
    for name, value, turn in pairs.found:
        close(params[name].grad[0], turn(value.grad) * masks.get(name, 1.0))


# ---- a stack equals its runs alone

BIG = Facts("image", (3, 18, 18), "classification", 4)
STACKED: dict[str, tuple[Model, Facts]] = {
    "mlp": (MLP((9, 7), batch_norm=True), VECTOR),
    "cnn_grouped": (CNN((4, 5), dense=(6,), batch_norm=True, residual=1), COLOUR),
    "cnn_looped": (CNN((4, 5), dense=(6,)), BIG),
    "lstm": (LSTM(5, 2, "lstm", bidirectional=True), PER_STEP),
    "lstm_rows": (LSTM(5, 2, "lstm", bidirectional=True), IMAGE),
    "gru": (LSTM(5, 2, "gru"), SEQUENCE),
    "rnn_rows": (LSTM(5, 1, "rnn", bidirectional=True), IMAGE),
}


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize(("model", "facts"), STACKED.values(), ids=STACKED)
def test_three_in_a_stack_equal_each_alone(model, facts, shared):
    axes = ("batch", "gate") if isinstance(model, LSTM) else ("batch",)
    seeds, strategy = (4, 0, 2**64 - 1), bernoulli(0.4, share=axes if shared else ())
    params, inputs = random_params(model, facts, runs=3), random_inputs(facts, runs=3)
    lengths = torch.stack([LENGTHS, LENGTHS.flip(0), LENGTHS.roll(1)]) if facts.form == "sequence" else None
    before = {name: value.detach().clone() for name, value in params.items()}
    noise = drawing(strategy, model, facts, seeds)
    outputs = model.apply(params, inputs, noise, BatchMoments(params), facts, lengths)
    sum(loss_of(outputs[run : run + 1]) for run in range(3)).backward()
    for run, seed in enumerate(seeds):
        alone = {
            name: value[run : run + 1].clone().requires_grad_(params[name].requires_grad)
            for name, value in before.items()
        }
        noise = drawing(strategy, model, facts, (seed,))
        own = None if lengths is None else lengths[run : run + 1]
        single = model.apply(alone, inputs[run : run + 1], noise, BatchMoments(alone), facts, own)
        close(outputs[run : run + 1], single)
        loss_of(single).backward()
        for name, value in alone.items():
            close(params[name][run : run + 1], value)
            if value.requires_grad:
                close(params[name].grad[run : run + 1], value.grad)


@pytest.mark.parametrize(("device", "groups"), [("cpu", [1, 1, 1]), ("meta", [3])])  # meta: shapes of any other device
def test_each_run_has_its_own_convolution_on_a_cpu_and_is_a_group_elsewhere(monkeypatch, device, groups):
    called = []
    conv2d = torch.conv2d

    def counting(*args: Any, **kwargs: Any) -> Tensor:
        called.append(kwargs.get("groups", 1))
        return conv2d(*args, **kwargs)

    monkeypatch.setattr(torch, "conv2d", counting)
    monkeypatch.setattr(nn.functional, "conv2d", counting)
    shapes = {"c.weight": (3, 4, 2, 3, 3), "c.bias": (3, 4)}
    params = {name: torch.randn(shape, device=device) for name, shape in shapes.items()}
    value = torch.randn(3, 5, 2, 8, 8, device=device)
    result = layers.conv(params, "c", value)
    assert called == groups
    assert result.shape == (3, 5, 4, 8, 8)
    for run in range(3 if device == "cpu" else 0):
        alone = conv2d(value[run], params["c.weight"][run], params["c.bias"][run], padding=1)
        assert torch.equal(result[run], alone)  # it rounds as it does alone


def test_the_groups_of_one_convolution_are_the_convolutions_of_the_runs():
    params = {"c.weight": torch.randn(3, 4, 2, 3, 3).double(), "c.bias": torch.randn(3, 4).double()}
    value = torch.randn(3, 5, 2, 8, 8).double()
    result = layers.grouped_conv(value, params["c.weight"], params["c.bias"], padding=1)
    for run in range(3):
        close(
            result[run],
            nn.functional.conv2d(value[run], params["c.weight"][run], params["c.bias"][run], padding=1),
        )
