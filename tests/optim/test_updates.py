"""SGD and Adam against torch.optim, and a stack of runs against each run alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dropbench.models import Parameter
from dropbench.optim.adam import Adam
from dropbench.optim.schedules import Decay
from dropbench.optim.sgd import SGD
from dropbench.spec import Clock
from dropbench.stack import stacked

STEPS = 50
DECLARED = {
    parameter.name: parameter
    for parameter in (
        Parameter("hidden.weight", (6, 8), unit_axis=1, decays=True),
        Parameter("hidden.bias", (8,)),
        Parameter("map.weight", (4, 3, 2, 2), unit_axis=0, decays=True),
        Parameter("out.weight", (8, 3), decays=True),
        Parameter("out.bias", (3,)),
        Parameter("gain", ()),
    )
}


def random(seed, runs, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: scale * torch.randn(runs, *parameter.shape, generator=generator) for name, parameter in DECLARED.items()
    }


def train(optimizer, params, gradients_of, steps=STEPS):
    """Trains a copy of `params`; `gradients_of(step, params)` gives the gradients of an update."""
    params = {name: value.clone() for name, value in params.items()}
    state = optimizer.init(params)
    for step in range(steps):
        optimizer.step(params, gradients_of(step, params), state, Clock(step, steps, 0, 1), DECLARED)
    return params, state


def losses(step, params):
    """Of each run, [R]: a small net on a batch of its own at every step, and bowls for the maps and the gain."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs, targets = torch.randn(5, 6, generator=generator), torch.randn(5, 3, generator=generator)
    hidden = torch.tanh(inputs @ params["hidden.weight"] + params["hidden.bias"].unsqueeze(1))
    outputs = hidden @ params["out.weight"] + params["out.bias"].unsqueeze(1)
    bowl = (params["map.weight"] - step / STEPS).square().flatten(1).mean(1)
    return (outputs - targets).square().mean((1, 2)) + bowl + (params["gain"] - 1).square()


def gradients_of_net(step, params):
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    return dict(zip(leaves, torch.autograd.grad(losses(step, leaves).sum(), list(leaves.values())), strict=True))


def train_torch(make, params, weight_decay=0.0):
    params = {name: value.clone().requires_grad_() for name, value in params.items()}
    groups = [
        {"params": [params[name]], "weight_decay": weight_decay if declared.decays else 0.0}
        for name, declared in DECLARED.items()
    ]
    optimizer = make(groups)
    for step in range(STEPS):
        optimizer.zero_grad()
        losses(step, params).sum().backward()
        optimizer.step()
    return {name: value.detach() for name, value in params.items()}


def assert_equal(ours, theirs, tolerance):
    for name in DECLARED:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [None, 0.0, 0.05])
def test_sgd_is_torch(momentum, nesterov, weight_decay):
    if nesterov and momentum == 0.0:
        pytest.skip("torch refuses it")
    optimizer = SGD(learning_rate=0.05, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)
    start = random(1, runs=1, scale=0.3)
    ours, _ = train(stacked([optimizer]), start, gradients_of_net)
    theirs = train_torch(
        lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=momentum, nesterov=nesterov),
        start,
        weight_decay or 0.0,
    )
    assert_equal(ours, theirs, 1e-6)
    assert not torch.allclose(ours["out.weight"], start["out.weight"], atol=1e-2)


def test_nesterov_without_momentum_is_plain_descent():
    start = random(2, runs=1, scale=0.3)
    ahead, _ = train(stacked([SGD(momentum=0.0, nesterov=True)]), start, gradients_of_net)
    plain, _ = train(stacked([SGD(momentum=0.0)]), start, gradients_of_net)
    assert_equal(ahead, plain, 0)


@pytest.mark.parametrize("beta2", [0.99, 0.999])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [None, 0.0, 0.05])
def test_adam_is_torch(beta2, decoupled, weight_decay):
    optimizer = Adam(learning_rate=0.003, beta2=beta2, decoupled=decoupled, weight_decay=weight_decay)
    start = random(3, runs=1, scale=0.3)
    ours, _ = train(stacked([optimizer]), start, gradients_of_net)
    cls = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = train_torch(lambda groups: cls(groups, lr=0.003, betas=(0.9, beta2)), start, weight_decay or 0.0)
    assert_equal(ours, theirs, 1e-6)
    assert not torch.allclose(ours["out.weight"], start["out.weight"], atol=1e-2)


def test_first_step_of_adam_by_hand():
    """The first step is the learning rate against the sign of the gradient, however small beta leaves the means."""
    params = {name: torch.zeros(1, *declared.shape) for name, declared in DECLARED.items()}
    ours, _ = train(stacked([Adam(learning_rate=0.25)]), params, lambda step, _: random(4, 1), steps=1)
    for name, gradient in random(4, 1).items():
        torch.testing.assert_close(ours[name], -0.25 * gradient.sign(), rtol=0, atol=1e-6)


SGDS = [
    SGD(learning_rate=0.1, momentum=0.5, momentum_start=0.2, momentum_ramp=0.5, weight_decay=0.1, max_norm=1.0),
    SGD(learning_rate=0.01, momentum=0.95, momentum_ramp=0.0, weight_decay=0.0, max_norm=3.0),
    SGD(learning_rate=0.3, warmup=0.2, momentum=0.0, momentum_ramp=1.0, weight_decay=0.01, max_norm=2.0),
]
ADAMS = [
    Adam(learning_rate=0.01, beta1=0.5, weight_decay=0.1, max_norm=1.0),
    Adam(learning_rate=0.1, beta2=0.9, eps=0.1, weight_decay=0.0, max_norm=3.0),
    Adam(learning_rate=0.001, beta1=0.0, warmup=0.5, weight_decay=0.01, max_norm=2.0),
]
FAMILIES = [
    SGDS,
    [replace(each, nesterov=True) for each in SGDS],
    [replace(each, weight_decay=None, max_norm=None) for each in SGDS],
    [replace(each, clip_norm=norm) for each, norm in zip(SGDS, (1.0, 5.0, 100.0), strict=True)],
    [
        replace(each, decay=Decay("cosine", final=final), clip_norm=2.0)
        for each, final in zip(SGDS, (0.0, 0.5, 0.1), strict=True)
    ],
    [
        replace(each, decay=Decay("exponential", final=final), clip_norm=None)
        for each, final in zip(SGDS, (0.001, 0.5, 0.1), strict=True)
    ],
    [replace(each, decay=Decay("step", gamma=gamma)) for each, gamma in zip(SGDS, (0.0, 0.5, 1.0), strict=True)],
    ADAMS,
    [replace(each, decoupled=True) for each in ADAMS],
    [replace(each, clip_norm=norm) for each, norm in zip(ADAMS, (1.0, 5.0, 100.0), strict=True)],
]


def slice_of(tensors, run):
    return {name: value[run : run + 1] for name, value in tensors.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_is_each_run_alone(family):
    start = random(5, runs=3)
    together, states = train(stacked(family), start, lambda step, _: random(step, 3))
    for run, optimizer in enumerate(family):
        alone, state = train(
            stacked([optimizer]), slice_of(start, run), lambda step, _, run=run: slice_of(random(step, 3), run)
        )
        # Bit for bit, but for the norm of the whole gradient, which is summed in another order.
        relative = 0 if optimizer.clip_norm is None else 1e-6
        for ours, theirs in ((together, alone), (states, state)):
            for name, value in slice_of(ours, run).items():
                torch.testing.assert_close(value, theirs[name], rtol=relative, atol=relative)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_run_touches_another(family):
    """A run that has diverged leaves its neighbours bit for bit as they were."""

    def diverged(step, _):
        gradients = random(step, 3)
        for value in gradients.values():
            value[1] = torch.nan
        return gradients

    start = random(6, runs=3)
    healthy, _ = train(stacked(family), start, lambda step, _: random(step, 3))
    sick, _ = train(stacked(family), start, diverged)
    for run in (0, 2):
        assert_equal(slice_of(sick, run), slice_of(healthy, run), 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_state_can_be_cut_and_resumed(family):
    """State is tensors with a leading run axis, and all that an optimizer remembers."""
    optimizer, params = stacked(family), random(7, runs=3)
    whole, _ = train(optimizer, params, lambda step, _: random(step, 3), steps=20)
    state = optimizer.init(params)
    assert all(value.shape[0] == 3 and not value.any() for value in state.values())
    for step in range(20):
        if step == 10:
            params, state = ({name: value.clone() for name, value in each.items()} for each in (params, state))
        stacked(family).step(params, random(step, 3), state, Clock(step, 20, 0, 1), DECLARED)
    assert_equal(params, whole, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_read_only(family):
    """Two gradients may be one tensor, as autograd gives them for a + b."""
    gradients = random(8, 3)
    before = {name: value.clone() for name, value in gradients.items()}
    train(stacked(family), random(9, 3), lambda step, _: gradients, steps=2)
    assert_equal(gradients, before, 0)


def test_biases_do_not_decay():
    zero = {name: torch.zeros(1, *declared.shape) for name, declared in DECLARED.items()}
    for optimizer in (SGD(weight_decay=0.5), Adam(weight_decay=0.5), Adam(weight_decay=0.5, decoupled=True)):
        start = random(10, 1)
        after, _ = train(stacked([optimizer]), start, lambda step, _: zero, steps=3)
        for name, declared in DECLARED.items():
            assert torch.equal(after[name], start[name]) == (not declared.decays)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_on_cuda_it_is_the_same_and_never_waits(family):
    start = random(11, runs=3)
    gradients = [random(step, 3) for step in range(STEPS)]
    expected, _ = train(stacked(family), start, lambda step, _: gradients[step])
    device = {name: value.cuda() for name, value in start.items()}
    there = [{name: value.cuda() for name, value in each.items()} for each in gradients]
    optimizer = stacked(family, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        result, _ = train(optimizer, device, lambda step, _: there[step])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_equal({name: value.cpu() for name, value in result.items()}, expected, 1e-5)
