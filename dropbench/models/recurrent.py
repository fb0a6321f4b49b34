"""Stacked recurrent layers whose state transitions are open to noise.

Inside a layer stand five kinds of transition sites (state h, memory c, at one step t):

    recurrent_weight  the matrix U of the transition, for the whole batch or one an example
    state             the copy of h that enters the product with U; one for all gates, or one a gate
    candidate         the additive update g (LSTM), n (GRU)
    cell              the new memory c (LSTM)
    carry             the step from old to new state: carry_h, and carry_c in an LSTM; the old state is the fallback

Every scale enters once: the state site masks the copy of h that is multiplied by U, never the h that is carried, and
the cell site masks what is carried without scaling it; its scale stands where the memory is read. So no scale compounds
over time. Values are time-major, [R, steps, batch, units].

Behind the end of a sequence (`lengths`) nothing moves: the state stays what it was, and what is given out is 0.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dropbench.models import Parameter
from dropbench.models.layers import noisy_weight
from dropbench.spec import Site, SiteKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.noise import Perturbation

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


def recurrent_sites(name: str, cell: Cell, inputs: int, hidden: int, depth: float) -> tuple[Site, ...]:
    """The transition sites of one direction of a layer, and that at the weights of its inputs."""
    gates, weight = GATES[cell], f"{name}.weight_hh"
    matrix = ("batch", "source", "unit")
    declared = [
        Site(
            f"{name}.weight_ih", "weight", depth, matrix, gates * hidden,
            weight=f"{name}.weight_ih", shape=(inputs, gates * hidden),
        )
    ]  # fmt: skip
    for site, kind in SITES[cell]:
        if kind == "recurrent_weight":
            shape = (hidden, gates * hidden)
            declared.append(Site(f"{name}.{site}", kind, depth, matrix, shape[1], weight=weight, shape=shape))
        elif kind == "state":
            axes = ("step", "batch", "gate", "unit")
            declared.append(Site(f"{name}.{site}", kind, depth, axes, hidden, weight=weight, feeds=(weight,)))
        else:
            declared.append(Site(f"{name}.{site}", kind, depth, ("step", "batch", "unit"), hidden, weight=weight))
    return tuple(declared)


def recurrent_layer(
    params: Mapping[str, Tensor],
    name: str,
    cell: Cell,
    inputs: Tensor,
    noise: NoiseFn,
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One direction of a layer.

    Args:
        params: of `recurrent_parameters`.
        name: of the direction.
        cell: kind of the transition.
        inputs: [R, steps, batch, inputs].
        noise: acts on the transition sites.
        reverse: whether to walk from the last step of each sequence to the first.
        lengths: steps of each sequence, int64 [R, batch]; None where all have `steps`.

    Returns:
        The states of all steps [R, steps, batch, hidden], 0 behind the end of a sequence, and the last one walked to
        [R, batch, hidden].
    """
    import torch

    runs, steps, batch, _ = inputs.shape
    hidden = params[f"{name}.weight_hh"].shape[1]
    recurrent_bias = params[f"{name}.bias_hh"].unsqueeze(1)
    bias = params[f"{name}.bias_ih"].unsqueeze(1)
    if cell != "gru":  # the candidate of a GRU sees its recurrent bias through the reset gate
        bias = bias + recurrent_bias
    weight_ih = noisy_weight(params, f"{name}.weight_ih", noise, batch)
    weight = noisy_weight(params, f"{name}.weight_hh", noise, batch, f"{name}.recurrent_weight")
    shapes = {"state": (runs, steps, batch, GATES[cell], hidden)}
    actions = {
        site: noise.perturbation(f"{name}.{site}", shapes.get(kind, (runs, steps, batch, hidden)))
        for site, kind in SITES[cell]
        if kind != "recurrent_weight"
    }
    state = actions["state"]
    if state is not None and state.scale.shape[3] == 1:
        actions["state"] = state.at(3, 0)
    if cell == "lstm":
        from dropbench.kernels.lstm import can_do, lstm_layer

        if can_do(weight, actions):
            if weight_ih.dim() == 3:
                walked = lstm_layer(inputs, weight_ih, bias, weight, actions, reverse=reverse, lengths=lengths)
            else:
                projected = _projected(inputs, weight_ih, bias)
                walked = lstm_layer(projected, None, None, weight, actions, reverse=reverse, lengths=lengths)
            return walked, _last(walked, reverse, lengths)
    transition = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}[cell]
    valid = None
    if lengths is not None:
        valid = (torch.arange(steps, device=inputs.device).view(-1, 1) < lengths.unsqueeze(1)).unsqueeze(-1)

    projected = _projected(inputs, weight_ih, bias)
    h = projected.new_zeros(runs, batch, hidden)
    c = h
    states: list[Tensor] = [h] * steps
    gates = projected.unbind(1)
    for step in reversed(range(steps)) if reverse else range(steps):
        at = {site: action.at(1, step) for site, action in actions.items() if action is not None}
        new_h, new_c = transition(gates[step], h, c, weight, recurrent_bias, at)
        if valid is None:
            h, c = new_h, new_c
        else:
            h, c = torch.where(valid[:, step], new_h, h), torch.where(valid[:, step], new_c, c)
        states[step] = h
    walked = torch.stack(states, 1)
    return (walked if valid is None else walked * valid), h


def _projected(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x W + b` for all steps at once, [R, steps, batch, gates * hidden]; W may be one an example."""
    import torch

    if weight.dim() == 4:
        return torch.matmul(inputs.unsqueeze(3), weight.unsqueeze(1)).squeeze(3) + bias.unsqueeze(1)
    return torch.baddbmm(bias, inputs.flatten(1, 2), weight).view(*inputs.shape[:3], -1)


def _last(walked: Tensor, reverse: bool, lengths: Tensor | None) -> Tensor:
    """The last state walked to, [R, batch, hidden]."""
    if reverse or lengths is None:
        return walked[:, 0 if reverse else -1]
    last = (lengths - 1).clamp(min=0)[:, None, :, None].expand(-1, -1, -1, walked.shape[-1])
    return walked.gather(1, last).squeeze(1)


Actions = dict[str, "Perturbation"]


def _act(at: Actions, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
    return at[site](value, fallback) if site in at else value


def _product(h: Tensor, weight: Tensor, at: Actions, bias: Tensor) -> Tensor:
    """`bias + (h after the noise at the state site) U`, [R, batch, gates * hidden].

    Args:
        h: [R, batch, hidden].
        weight: U [R, hidden, gates * hidden], or [R, batch, hidden, gates * hidden].
        at: the noise of this step; at the state site [R, batch, gates, hidden] where gates differ.
        bias: broadcastable to the result.
    """
    import torch

    if "state" in at:
        action = at["state"]
        if action.scale.dim() > h.dim():  # a mask for each gate
            runs, batch, hidden = h.shape
            copies = action(h.unsqueeze(2)).transpose(1, 2)  # [R, gates, batch, hidden]
            each = weight.view(runs, *weight.shape[1:-1], -1, hidden).movedim(-2, 1)
            if weight.dim() == 4:
                product = torch.matmul(copies.unsqueeze(3), each).squeeze(3)
            else:
                product = torch.matmul(copies, each)
            return bias + product.transpose(1, 2).reshape(runs, batch, -1)
        h = action(h)
    if weight.dim() == 4:
        return bias + torch.matmul(h.unsqueeze(2), weight).squeeze(2)
    return torch.baddbmm(bias, h, weight)


def _lstm(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, _: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`i, f, o = s(xW + hU + b)`, `g = tanh(..)`, `c' = f c + i g`, `h' = o tanh(c')` (the c' before its carry)."""
    i, f, g, o = _product(h, weight, at, gates).chunk(4, -1)
    candidate = _act(at, "candidate", g.tanh())
    memory = _act(at, "cell", f.sigmoid() * c + i.sigmoid() * candidate)
    read = o.sigmoid() * memory.tanh()
    if "cell" in at and at["cell"].readout is not None:
        read = read * at["cell"].readout.to(read.dtype)
    return _act(at, "carry_h", read, h), _act(at, "carry_c", memory, c)


def _gru(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, bias: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`r, z = s(xW + hU + b)`, `n = tanh(xW + r (hU + b))`, `h' = (1 - z) n + z h`."""
    hidden = h.shape[-1]
    recurrent = _product(h, weight, at, bias)
    r, z = (gates[..., : 2 * hidden] + recurrent[..., : 2 * hidden]).sigmoid().chunk(2, -1)
    n = (gates[..., 2 * hidden :] + r * recurrent[..., 2 * hidden :]).tanh()
    return _act(at, "carry_h", (1 - z) * _act(at, "candidate", n) + z * h, h), c


def _rnn(gates: Tensor, h: Tensor, c: Tensor, weight: Tensor, _: Tensor, at: Actions) -> tuple[Tensor, Tensor]:
    """`h' = tanh(xW + hU + b)`."""
    return _act(at, "carry_h", _product(h, weight, at, gates).tanh(), h), c
