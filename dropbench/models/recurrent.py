"""Stacked recurrent layers whose state transitions are open to noise.

Inside a layer stand five kinds of transition sites (state h, memory c, at one step t):

    recurrent_weight  the matrix U of the transition, once a sequence
    state             the copy of h that enters the product with U
    candidate         the additive update g (LSTM), n (GRU)
    cell              the new memory c (LSTM)
    carry             the step from old to new state: carry_h, and carry_c in an LSTM; the old state is the fallback

Every noise value enters once: the state site masks the copy of h that is multiplied by U, never the h that is carried,
so inverted scaling cannot compound over time. Values are time-major, [R, steps, batch, units].
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dropbench.models import Parameter
from dropbench.spec import Site, SiteKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.noise import Perturbation
    from dropbench.strategy import NoiseFn

Cell = Literal["lstm", "gru", "rnn"]
GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn": 1}
SITES: dict[Cell, tuple[tuple[str, SiteKind], ...]] = {
    "lstm": (
        ("recurrent_weight", "recurrent_weight"),
        ("state", "state"),
        ("candidate", "candidate"),
        ("cell", "cell"),
        ("carry_c", "carry"),
        ("carry_h", "carry"),
    ),
    "gru": (
        ("recurrent_weight", "recurrent_weight"),
        ("state", "state"),
        ("candidate", "candidate"),
        ("carry_h", "carry"),
    ),
    "rnn": (("recurrent_weight", "recurrent_weight"), ("state", "state"), ("carry_h", "carry")),
}


def recurrent_parameters(name: str, cell: Cell, inputs: int, hidden: int) -> tuple[Parameter, ...]:
    """Parameters of one direction of a layer, named as in `torch.nn.LSTM`, matrices transposed.

    Matrices start uniform with variance `1 / fan-in` (LeCun et al., 1998), biases within `1 / sqrt(hidden)`, those of
    the forget gates of an LSTM higher by 1 (Jozefowicz, Zaremba, Sutskever, ICML 2015).
    """
    bound, width = 1 / math.sqrt(hidden), GATES[cell] * hidden
    forget = (hidden, 2 * hidden) if cell == "lstm" else None
    return (
        Parameter(f"{name}.weight_ih", (inputs, width), bound=math.sqrt(3 / inputs), unit_axis=1, decays=True),
        Parameter(f"{name}.weight_hh", (hidden, width), bound=math.sqrt(3 / hidden), unit_axis=1, decays=True),
        Parameter(f"{name}.bias_ih", (width,), bound=bound),
        Parameter(f"{name}.bias_hh", (width,), bound=bound, raised=forget),
    )


def recurrent_sites(name: str, cell: Cell, hidden: int, depth: float) -> tuple[Site, ...]:
    """The transition sites of one direction of a layer."""
    return tuple(
        Site(f"{name}.{site}", kind, depth, ("source", "unit"), GATES[cell] * hidden)
        if kind == "recurrent_weight"
        else Site(f"{name}.{site}", kind, depth, ("step", "batch", "unit"), hidden)
        for site, kind in SITES[cell]
    )


def recurrent_layer(
    params: Mapping[str, Tensor], name: str, cell: Cell, inputs: Tensor, noise: NoiseFn, *, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """One direction of a layer.

    Args:
        params: of `recurrent_parameters`.
        name: of the direction.
        cell: kind of the transition.
        inputs: [R, steps, batch, inputs].
        noise: acts on the transition sites.
        reverse: whether to walk from the last step to the first.

    Returns:
        The states of all steps [R, steps, batch, hidden], and the last one walked to [R, batch, hidden].
    """
    import torch

    runs, steps, batch, _ = inputs.shape
    hidden = params[f"{name}.weight_hh"].shape[1]
    bias = params[f"{name}.bias_ih"].unsqueeze(1)
    if cell != "gru":  # the candidate of a GRU sees its recurrent bias through the reset gate
        bias = bias + params[f"{name}.bias_hh"].unsqueeze(1)
    projected = torch.baddbmm(bias, inputs.reshape(runs, steps * batch, -1), params[f"{name}.weight_ih"])
    projected = projected.view(runs, steps, batch, -1)

    weight = noise(f"{name}.recurrent_weight", params[f"{name}.weight_hh"])
    actions = {
        site: noise.perturbation(f"{name}.{site}", (runs, steps, batch, hidden))
        for site, kind in SITES[cell]
        if kind != "recurrent_weight"
    }
    transition = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[cell]
    recurrent_bias = params[f"{name}.bias_hh"].unsqueeze(1)

    h = projected.new_zeros(runs, batch, hidden)
    c = h
    states: list[Tensor] = [h] * steps
    gates = projected.unbind(1)
    for step in reversed(range(steps)) if reverse else range(steps):
        at = {site: action.at(1, step) for site, action in actions.items() if action is not None}
        h, c = transition(gates[step], h, c, weight, recurrent_bias, at)
        states[step] = h
    return torch.stack(states, 1), h


Actions = dict[str, "Perturbation"]


def _act(at: Actions, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
    return at[site](value, fallback) if site in at else value


def _lstm(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, _: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`i, f, o = s(xW + hU + b)`, `g = tanh(..)`, `c' = f c + i g`, `h' = o tanh(c')` (the c' before its carry)."""
    import torch

    i, f, g, o = torch.baddbmm(gates, _act(at, "state", h), weight).chunk(4, -1)
    candidate = _act(at, "candidate", g.tanh())
    memory = _act(at, "cell", f.sigmoid() * c + i.sigmoid() * candidate)
    return _act(at, "carry_h", o.sigmoid() * memory.tanh(), h), _act(at, "carry_c", memory, c)


def _gru(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`r, z = s(xW + hU + b)`, `n = tanh(xW + r (hU + b))`, `h' = (1 - z) n + z h`."""
    import torch

    hidden = h.shape[-1]
    recurrent = torch.baddbmm(bias, _act(at, "state", h), weight)
    r, z = (gates[..., : 2 * hidden] + recurrent[..., : 2 * hidden]).sigmoid().chunk(2, -1)
    n = (gates[..., 2 * hidden :] + r * recurrent[..., 2 * hidden :]).tanh()
    return _act(at, "carry_h", (1 - z) * _act(at, "candidate", n) + z * h, h), c


def _rnn(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, _: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`h' = tanh(xW + hU + b)`."""
    import torch

    return _act(at, "carry_h", torch.baddbmm(gates, _act(at, "state", h), weight).tanh(), h), c
