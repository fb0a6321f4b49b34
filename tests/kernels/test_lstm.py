"""The LSTM steps differentiated by hand, against autograd on the formula and against finite differences."""

from __future__ import annotations

import pytest
import torch

from dropbench.kernels.lstm import can_do, lstm_steps
from dropbench.noise import Perturbation

RUNS, STEPS, BATCH, HIDDEN = 2, 4, 3, 2
DOUBLE = torch.float64


def mask(*shape: int) -> torch.Tensor:
    """0 or 1.5, and never all of one kind."""
    values = (torch.rand(*shape) > 0.4).to(DOUBLE) * 1.5
    values.view(-1)[0], values.view(-1)[-1] = 0, 1.5
    return values


def actions(kinds: str) -> dict[str, Perturbation | None]:
    torch.manual_seed(len(kinds))
    whole = (RUNS, STEPS, BATCH, HIDDEN)
    kept = {site: (torch.rand(*whole) > 0.5).to(DOUBLE) for site in ("carry_c", "carry_h")}
    all_of = {
        "state": Perturbation(mask(*whole)),
        "sequence": Perturbation(mask(RUNS, 1, BATCH, HIDDEN)),
        "batch": Perturbation(mask(RUNS, 1, 1, HIDDEN)),
        "candidate": Perturbation(mask(*whole)),
        "cell": Perturbation(mask(RUNS, 1, BATCH, HIDDEN), readout=torch.full((RUNS, 1, 1, 1), 1.7, dtype=DOUBLE)),
        "carry_c": Perturbation(kept["carry_c"], mix=1 - kept["carry_c"]),
        "carry_h": Perturbation(0.9 * kept["carry_h"], mix=1 - kept["carry_h"]),
    }
    sites = {"sequence": "state", "batch": "state"}
    return {sites.get(kind, kind): all_of[kind] for kind in kinds.split()}


def by_formula(projected, weight, at, reverse):
    """The formula of the docstring, step by step, for autograd."""
    h = c = projected.new_zeros(RUNS, BATCH, HIDDEN)
    states = {}
    for step in reversed(range(STEPS)) if reverse else range(STEPS):
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
        h, c = read, memory
        states[step] = h
    return torch.stack([states[step] for step in range(STEPS)], 1)


KINDS = ["", "state", "sequence", "batch", "candidate", "cell", "carry_c", "carry_h", "carry_c carry_h",
         "state candidate cell carry_c carry_h"]  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_states_and_gradients_are_those_of_the_formula(kinds, reverse):
    at = actions(kinds)
    projected = torch.randn(RUNS, STEPS, BATCH, 4 * HIDDEN, dtype=DOUBLE, requires_grad=True)
    weight = torch.randn(RUNS, HIDDEN, 4 * HIDDEN, dtype=DOUBLE, requires_grad=True)
    ours, plain = lstm_steps(projected, weight, at, reverse=reverse), by_formula(projected, weight, at, reverse)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    above = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (projected, weight), above),
        torch.autograd.grad(plain, (projected, weight), above),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda p, w: lstm_steps(p, w, at, reverse=reverse), (projected, weight))


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
