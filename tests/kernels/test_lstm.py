"""The LSTM steps differentiated by hand, against autograd on the formula and against finite differences."""

from __future__ import annotations

import pytest
import torch

from dropbench.kernels import native
from dropbench.kernels.lstm import NAME, can_do, lstm_layer
from dropbench.noise import Perturbation

RUNS, STEPS, BATCH, HIDDEN = 2, 4, 3, 2
DOUBLE = torch.float64


def mask(*shape: int) -> torch.Tensor:
    """0 or 1.5, and never all of one kind."""
    values = (torch.rand(*shape) > 0.4).to(DOUBLE) * 1.5
    values.view(-1)[0], values.view(-1)[-1] = 0, 1.5
    return values


def actions(kinds: str, whole=(RUNS, STEPS, BATCH, HIDDEN)) -> dict[str, Perturbation]:
    torch.manual_seed(len(kinds))
    runs, _, batch, hidden = whole
    kept = {site: (torch.rand(*whole) > 0.5).to(DOUBLE) for site in ("carry_c", "carry_h")}
    skipped = (torch.rand(*whole[:3], 1) > 0.5).to(DOUBLE)
    all_of = {
        "state": Perturbation(mask(*whole)),
        "sequence": Perturbation(mask(runs, 1, batch, hidden)),
        "batch": Perturbation(mask(runs, 1, 1, hidden)),
        "candidate": Perturbation(mask(*whole)),
        "cell": Perturbation(mask(runs, 1, batch, hidden), readout=torch.full((runs, 1, 1, 1), 1.7, dtype=DOUBLE)),
        "carry_c": Perturbation(kept["carry_c"], mix=1 - kept["carry_c"]),
        "carry_h": Perturbation(0.9 * kept["carry_h"], mix=1 - kept["carry_h"]),
        "step": Perturbation(skipped, mix=1 - skipped),
    }
    sites = {"sequence": "state", "batch": "state", "step": "carry_c"}
    return {sites.get(kind, kind): all_of[kind] for kind in kinds.split()}


def by_formula(projected, weight, at, reverse, lengths=None):
    """The formula of the docstring, step by step, for autograd."""
    runs, steps, batch, wide = projected.shape
    h = c = projected.new_zeros(runs, batch, wide // 4)
    states = {}
    for step in reversed(range(steps)) if reverse else range(steps):
        now = {site: action.at(1, step) for site, action in at.items()}
        entered = h * now["state"].scale if "state" in now else h
        i, f, g, o = (projected[:, step] + entered @ weight).chunk(4, -1)
        candidate = g.tanh() * (now["candidate"].scale if "candidate" in now else 1)
        memory = f.sigmoid() * c + i.sigmoid() * candidate
        read_scale = 1
        if "cell" in now:
            memory, read_scale = memory * now["cell"].scale, now["cell"].readout
        read = o.sigmoid() * memory.tanh() * read_scale
        if "carry_h" in now:
            read = read * now["carry_h"].scale + h * now["carry_h"].mix
        if "carry_c" in now:
            memory = memory * now["carry_c"].scale + c * now["carry_c"].mix
        if lengths is None:
            h, c = read, memory
        else:
            valid = (step < lengths).unsqueeze(-1)
            h, c = torch.where(valid, read, h), torch.where(valid, memory, c)
        states[step] = h if lengths is None else h * valid
    return torch.stack([states[step] for step in range(steps)], 1)


KINDS = ["", "state", "sequence", "batch", "candidate", "cell", "carry_c", "carry_h", "step", "carry_c carry_h",
         "state candidate cell carry_c carry_h"]  # fmt: skip


def some_lengths(padded: bool, runs: int = RUNS, steps: int = STEPS, batch: int = BATCH) -> torch.Tensor | None:
    """From 1 to all steps, mixed."""
    return (torch.arange(runs * batch) * 3 % steps + 1).view(runs, batch) if padded else None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_states_and_gradients_are_those_of_the_formula(kinds, reverse, padded):
    at, lengths = actions(kinds), some_lengths(padded)
    projected = torch.randn(RUNS, STEPS, BATCH, 4 * HIDDEN, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(RUNS, HIDDEN, 4 * HIDDEN, dtype=DOUBLE, requires_grad=True)

    def layer(projected, weight):
        return lstm_layer(projected, None, None, weight, at, reverse=reverse, lengths=lengths)

    ours, plain = layer(projected, weight), by_formula(projected, weight, at, reverse, lengths)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (projected, weight), above),
        torch.autograd.grad(plain, (projected, weight), above),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(layer, (projected, weight))


def test_what_it_cannot_do_is_left_to_autograd():
    weight = torch.zeros(RUNS, HIDDEN, 4 * HIDDEN)
    whole = torch.ones(RUNS, STEPS, BATCH, HIDDEN)
    assert can_do(weight, {"state": Perturbation(whole), "cell": None})
    assert not can_do(weight.unsqueeze(1), {})  # a weight for every example
    assert not can_do(
        weight, {"state": Perturbation(torch.ones(RUNS, STEPS, BATCH, 4, HIDDEN))}
    )  # a mask for each gate
    assert not can_do(weight, {"candidate": Perturbation(whole, shift=whole)})
    assert not can_do(weight, {"candidate": Perturbation(whole.clone().requires_grad_())})  # a learned rate


# ---- lstm.c


@pytest.fixture
def compiled(monkeypatch):
    """The way in C, whichever is faster here."""
    if native.library(NAME) is None:
        pytest.skip(native.reason(NAME))
    monkeypatch.setattr(native, "chosen", lambda name, trial: True)


def sample(runs, steps, batch, inputs, hidden):
    """x, W, b and U in float32, to be differentiated."""
    torch.manual_seed(hidden)
    shapes = [
        (runs, steps, batch, inputs),
        (runs, inputs, 4 * hidden),
        (runs, 1, 4 * hidden),
        (runs, hidden, 4 * hidden),
    ]
    fans = (1, inputs, 1, hidden)
    return [(torch.randn(shape) / fan**0.5).requires_grad_() for shape, fan in zip(shapes, fans, strict=True)]


def gradients(states, tensors):
    """The states, and the gradients of them weighted differently."""
    above = torch.cos(torch.arange(states.numel())).view_as(states).to(states.dtype)
    return [states, *torch.autograd.grad(states, tensors, above)]


def exact_gradients(tensors, at, reverse=False, lengths=None):
    """Those of the formula, by autograd in float64."""
    *outer, weight = doubled = [tensor.detach().double().requires_grad_() for tensor in tensors]
    projected = outer[0]
    if len(outer) > 1:
        inputs, weight_ih, bias = outer
        projected = (inputs.flatten(1, 2) @ weight_ih + bias).view(*inputs.shape[:3], -1)
    return gradients(by_formula(projected, weight, at, reverse, lengths), doubled)


def close(ours, theirs):
    """Float32 has 6e-8; a gradient of a weight sums up a hundred terms."""
    for mine, exact in zip(ours, theirs, strict=True):
        assert (mine - exact).abs().max() <= 3e-6 * (1 + exact.abs().max())


# Vectors have 4, 8 or 16 units, blocks up to 6 rows, panels up to 64 units: whole ones, and rests of all of them.
SIZES = [(1, 5, 6, 3, 16), (2, 4, 1, 1, 1), (3, 6, 13, 5, 33), (2, 1, 20, 70, 64), (1, 9, 7, 4, 130), (5, 2, 3, 17, 48)]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.usefixtures("compiled")
def test_the_steps_in_c_are_those_of_the_formula(size, reverse, padded):
    runs, steps, batch, _, hidden = size
    lengths = some_lengths(padded, runs, steps, batch)
    for kinds in KINDS:
        tensors, at = sample(*size), actions(kinds, (runs, steps, batch, hidden))
        ours = gradients(lstm_layer(*tensors, at, reverse=reverse, lengths=lengths), tensors)
        close(ours, exact_gradients(tensors, at, reverse, lengths))


@pytest.mark.usefixtures("compiled")
def test_the_steps_in_c_from_inputs_that_are_multiplied_already():
    """One weight of the inputs an example is multiplied by torch."""
    inputs, weight_ih, bias, weight = sample(2, 5, 7, 3, 19)
    projected = (inputs.flatten(1, 2) @ weight_ih + bias).view(2, 5, 7, -1).detach().requires_grad_()
    at = actions("state", (2, 5, 7, 19))
    ours = gradients(lstm_layer(projected, None, None, weight, at), (projected, weight))
    close(ours, exact_gradients((projected, weight), at))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.usefixtures("compiled")
def test_a_run_computes_the_same_bits_alone_and_in_any_stack_with_any_threads(threads):
    size = runs, steps, batch, _, hidden = (5, 6, 29, 4, 35)
    tensors, at = sample(*size), actions("state cell", (runs, steps, batch, hidden))

    def some(first, last):
        mine = [tensor[first:last].detach().clone().requires_grad_() for tensor in tensors]
        own = {
            site: Perturbation(
                action.scale[first:last], readout=None if action.readout is None else action.readout[first:last]
            )
            for site, action in at.items()
        }
        states = lstm_layer(*mine, own)
        return [states, *torch.autograd.grad(states, mine, torch.ones_like(states))]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [some(run, run + 1) for run in range(runs)]
        torch.set_num_threads(threads)
        for last in range(1, runs + 1):
            for first in range(last):
                for index, together in enumerate(some(first, last)):
                    for run in range(first, last):
                        assert torch.equal(together[run - first], alone[run][index][0])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kinds", ["", "state", "state candidate cell carry_c carry_h"])
@pytest.mark.usefixtures("compiled")
def test_nothing_is_kept_without_gradients_and_the_bits_are_the_same(kinds):
    tensors, at = sample(2, 5, 9, 3, 37), actions(kinds, (2, 5, 9, 37))
    states = lstm_layer(*tensors, at)
    with torch.no_grad():
        assert torch.equal(lstm_layer(*tensors, at), states)


@pytest.mark.usefixtures("compiled")
def test_any_layout_and_gradients_of_some_only():
    """Inputs with the batch first, a gradient from above that is one number, inputs that are not differentiated."""
    inputs, *weights = sample(2, 4, 6, 3, 10)
    turned = inputs.detach().transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    at = actions("state", (2, 4, 6, 10))
    ours = torch.autograd.grad(lstm_layer(turned, *weights, at).sum(), weights)
    close(ours, torch.autograd.grad(lstm_layer(inputs, *weights, at).sum(), weights))


@pytest.mark.usefixtures("compiled")
def test_gates_saturate_and_what_is_no_number_stays_none():
    hidden = 20
    weight = torch.zeros(1, hidden, 4 * hidden)
    for size in (30.0, 1e4, float("inf")):
        given = torch.full((1, 3, 2, 4 * hidden), size)
        memory, states = 0.0, lstm_layer(given, None, None, weight, {})
        for step in range(3):
            memory += 1
            torch.testing.assert_close(states[:, step], torch.full((1, 2, hidden), memory).tanh(), rtol=5e-7, atol=0)
        assert lstm_layer(-given, None, None, weight, {}).abs().max() < 1e-25
    given[0, 0, 1, 2 * hidden + 3] = float("nan")
    lost = lstm_layer(given, None, None, weight, {}).isnan()[0]
    assert lost[0, 1].nonzero().tolist() == [[3]]
    assert lost[1:, 1].all()  # by way of U
    assert not lost[:, 0].any()
