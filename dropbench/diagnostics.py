"""What dropout is said to do to a net, measured: `diagnostics=true`. Nothing here moves a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dropbench.signals import gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.data import Split
    from dropbench.models import Parameter
    from dropbench.spec import Site

#: A unit is inactive where its value is this close to 0.
INACTIVE = 1e-6
#: Mini-batches whose gradients are compared.
BATCHES = 8


def activations(forward: Callable[[NoiseFn, Split], Tensor], split: Split, sites: Sequence[Site]) -> dict[str, Tensor]:
    """The share of values within 1e-6 of 0 at every hidden site, without noise, [R].

    Dropout is said to make activations sparse: Srivastava et al., "Dropout", JMLR 2014, section 7.2.
    """
    hidden = [site for site in sites if site.kind == "hidden"]
    _, gates = gradients(forward, split, hidden, "factor")
    return {site.name: (gates.values[site.name].abs() <= INACTIVE).flatten(1).float().mean(1) for site in hidden}


def weight_norms(params: Mapping[str, Tensor], declared: Mapping[str, Parameter]) -> dict[str, Tensor]:
    """The norm of every weight matrix, [R]; dropout is said to make weights larger."""
    return {
        name: params[name].detach().flatten(1).square().sum(1).sqrt() for name, item in declared.items() if item.decays
    }


def gradient_by_step(
    forward: Callable[[NoiseFn, Split], Tensor], split: Split, sites: Sequence[Site]
) -> dict[str, Tensor]:
    """The mean norm over examples of the gradient of the loss at the recurrent state that enters each step, [R, steps].

    Does the long dependency get a gradient? Bengio, Simard, Frasconi, "Learning long-term dependencies with gradient
    descent is difficult", IEEE Transactions on Neural Networks 5 (1994).
    """
    states = [site for site in sites if site.kind == "state"]
    if not states:
        return {}
    found, _ = gradients(forward, split, states, "addend")  # [R, steps, batch, 1, units]
    return {name: grad.square().sum((-1, -2)).sqrt().mean(2) for name, grad in found.items()}


def gradient_spread(batches: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """How far the gradients of mini-batches differ in direction, and how long they are, [R].

    Formula: `spread = mean over pairs i < j of (1 - cos(g_i, g_j)) / 2`; `norm = mean |g_i|`.

    Args:
        batches: for each mini-batch the gradients of all parameters, each [R, ...].

    Source: Liu, Xu, Jin, Shen, Darrell, "Dropout reduces underfitting", ICML 2023.
    """
    flat = torch.stack([torch.cat([grad.flatten(1) for grad in each], 1) for each in batches], 1)  # [R, batches, all]
    norms = flat.square().sum(2).sqrt()
    unit = flat / norms.clamp(min=1e-12).unsqueeze(2)
    cosines = unit @ unit.transpose(1, 2)
    one, other = torch.triu_indices(len(batches), len(batches), 1, device=flat.device)
    return {"spread": ((1 - cosines[:, one, other]) / 2).mean(1), "norm": norms.mean(1)}


def of_run(figures: Mapping[str, Mapping[str, Tensor]], run: int) -> dict[str, dict[str, Any]]:
    """The figures of one run as plain numbers and lists."""
    return {kind: {name: value[run].tolist() for name, value in each.items()} for kind, each in figures.items()}
