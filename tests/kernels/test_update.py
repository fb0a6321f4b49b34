"""The update in C against that of torch, and a stack of runs against each run alone."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from dropbench.kernels import native, update
from dropbench.models import Parameter

DECLARED = {
    parameter.name: parameter
    for parameter in (
        Parameter("wide.weight", (37, 300), unit_axis=1, decays=True),
        Parameter("map.weight", (5, 3, 3, 3), unit_axis=0, decays=True),
        Parameter("long.weight", (8, 200), unit_axis=0, decays=True),
        Parameter("out.weight", (300, 31), decays=True),
        Parameter("bias", (300,)),
        Parameter("gain", ()),
        Parameter("small.weight", (7, 6), unit_axis=1, decays=True),
        Parameter("small.bias", (6,)),
    )
}
CASES = list(product([False, True], repeat=4))


@pytest.fixture(autouse=True)
def compiled():
    if native.library(update.NAME) is None:
        pytest.skip(native.reason(update.NAME))


def drawn(runs: int, seed: int, size: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: size * torch.randn(runs, *item.shape, generator=generator) for name, item in DECLARED.items()}


def numbers(values: list[float], on: bool = True) -> torch.Tensor | None:
    return torch.tensor(values) if on else None


def moved(inner, runs: slice, clip: bool, decay: bool, bound: bool, nesterov: bool) -> dict[str, torch.Tensor]:
    """Weights and velocities of some of three runs after two updates."""
    params = {name: value[runs].clone() for name, value in drawn(3, 0, 0.2).items()}
    state = {f"velocity.{name}": value[runs].clone() for name, value in drawn(3, 1, 0.1).items()}
    for step in range(2):
        gradients = {name: value[runs] for name, value in drawn(3, 2 + step, 1.0).items()}
        inner(
            params, gradients, state, DECLARED,
            torch.tensor([0.1, 0.05, 0.2])[runs], torch.tensor([0.9, 0.5, 0.0])[runs],
            None if not clip else torch.tensor([1.0, 0.5, 0.1])[runs],
            None if not decay else torch.tensor([0.0, 0.01, 0.1])[runs],
            None if not bound else torch.tensor([0.5, 1.0, 3.0])[runs],
            nesterov,
        )  # fmt: skip
    return params | state


@pytest.mark.parametrize("case", CASES)
def test_as_in_torch(case):
    native_, torch_ = (moved(inner, slice(None), *case) for inner in (update._native_sgd, update._torch_sgd))
    for name, value in torch_.items():
        torch.testing.assert_close(native_[name], value, rtol=2e-6, atol=2e-6, msg=name)


def test_max_norm_acts_here():
    bounded, free = (moved(update._native_sgd, slice(None), False, False, on, False) for on in (True, False))
    for name in ("wide.weight", "map.weight", "long.weight"):
        assert not torch.equal(bounded[name], free[name])
    norms = bounded["wide.weight"].square().sum(1).sqrt().amax(1)
    assert (norms <= torch.tensor([0.5, 1.0, 3.0]) * (1 + 1e-5)).all()
    assert norms[0] > 0.499
    for name in ("out.weight", "bias", "gain"):
        assert torch.equal(bounded[name], free[name])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stack_moves_as_each_run_alone_bit_for_bit(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = moved(update._native_sgd, slice(None), True, True, True, True)
        for run in range(3):
            alone = moved(update._native_sgd, slice(run, run + 1), True, True, True, True)
            for name, value in alone.items():
                assert torch.equal(value[0], together[name][run]), name
    finally:
        torch.set_num_threads(before)


def test_gradients_are_only_read_and_need_not_be_contiguous():
    gradient = torch.randn(2, 8, 200, generator=torch.Generator().manual_seed(0))
    slanted = gradient.transpose(1, 2).contiguous().transpose(1, 2)
    weight = Parameter("w", (8, 200))
    found = []
    for each in (gradient, slanted):
        before, value = each.clone(), torch.ones(2, 8, 200)
        state = {"velocity.w": torch.zeros_like(value)}
        update._native_sgd(
            {"w": value}, {"w": each}, state, {"w": weight}, torch.ones(2), torch.ones(2), None, None, None, False
        )
        assert torch.equal(each, before)
        found.append(value)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], 1 - gradient)


@pytest.mark.parametrize("gap", [0, 1, 5])
def test_no_bit_depends_on_where_the_memory_lies(gap):
    """Compilers make loops for vectors, for their ends and for memory that may overlap: all must round alike."""
    room, used = torch.empty(2**17), 0

    def near(value: torch.Tensor) -> torch.Tensor:
        nonlocal used
        place = room[used : used + value.numel()].view(value.shape)
        used += value.numel() + gap
        return place.copy_(value)

    def after(place) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in drawn(1, 0, 0.2).items():
            gradient, velocity = drawn(1, 1, 1.0)[name], drawn(1, 2, 0.1)[name]
            w, v, g = place(value), place(velocity), place(gradient)
            rate, momentum, bound = torch.tensor([0.07]), torch.tensor([0.93]), torch.tensor([0.5])
            for _ in range(3):
                update._native_sgd(
                    {name: w}, {name: g}, {f"velocity.{name}": v}, DECLARED, rate, momentum, momentum, rate, bound, True
                )
            found |= {name: w, f"velocity.{name}": v}
        return found

    plain = after(torch.Tensor.clone)
    for name, value in after(near).items():
        assert torch.equal(value, plain[name]), name
