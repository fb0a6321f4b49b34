"""What policies and diagnostics see of the training, measured between steps on a fixed piece of the data.

A gate is a factor of 1 (or an addend of 0) at a site. The gradient of the loss with respect to a factor is the value
times its gradient, with respect to an addend the gradient alone; so one pass with gates measures both at any site of
any model, those inside a recurrent layer included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from dropbench.noise import Perturbation
from dropbench.objectives import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.data import Split
    from dropbench.spec import Site

#: Share of the training set that is held out for policies that watch the generalisation gap.
HELD_OUT = 0.1
#: Examples on which gradients are looked at.
GATED = 256
#: Halves that are compared for `conflict`: this many groups, two by two.
GROUPS = 16


@dataclass
class Gates:
    """The `NoiseFn` that perturbs nothing and through which gradients are seen.

    Args:
        sites: to be gated, by name; at others nothing stands.
        form: whether gates are factors or addends.
        gates: by site, filled while the model computes.
        values: by site, what passed; of sites that the model does not open itself.
        device: of the gates.
    """

    sites: Mapping[str, Site]
    form: Literal["factor", "addend"]
    device: torch.device
    gates: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        """See `NoiseFn`."""
        self.values[site] = value.detach()
        perturbation = self.perturbation(site, tuple(value.shape))
        return value if perturbation is None else perturbation(value)

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """See `NoiseFn`."""
        if site not in self.sites:
            return None
        shape = tuple(
            1 if axis == "gate" else length for axis, length in zip(("run", *self.sites[site].axes), shape, strict=True)
        )
        one = torch.ones(shape, device=self.device) if self.form == "factor" else torch.zeros(shape, device=self.device)
        self.gates[site] = one.requires_grad_()
        if self.form == "factor":
            return Perturbation(one)
        return Perturbation(torch.ones((1,) * len(shape), device=self.device), shift=one)


def gradients(
    forward: Callable[[NoiseFn, Split], Tensor], split: Split, sites: Sequence[Site], form: Literal["factor", "addend"]
) -> tuple[dict[str, Tensor], Gates]:
    """The gradient of the summed loss of `split` with respect to a gate at each site that the loss depends on.

    Args:
        forward: (noise, examples) -> outputs [R, batch, ...].
        split: the examples.
        sites: to be gated.
        form: see `Gates`.

    Returns:
        By site the gradient, with the axes of the site (`gate` of length 1), of the sum over examples of their losses;
        and the gates, with what passed.
    """
    gates = Gates({site.name: site for site in sites}, form, split.inputs.device)
    with torch.enable_grad():
        outputs = forward(gates, split)
        targets = split.targets.expand(outputs.shape[0], *split.targets.shape)
        loss = plain(outputs.unsqueeze(1), targets).sum() * len(split)
        names = list(gates.gates)
        found = torch.autograd.grad(loss, [gates.gates[name] for name in names], allow_unused=True)
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}, gates


def per_unit(gradient: Tensor, site: Site) -> Tensor:
    """Sums a gradient over all axes but run, batch and unit: [R, batch, units]."""
    batch, unit = site.axes.index("batch") + 1, site.axes.index("unit") + 1
    moved = gradient.movedim((batch, unit), (1, 2))
    return moved.flatten(3).sum(3) if moved.dim() > 3 else moved


def saliency(gradient: Tensor, site: Site) -> Tensor:
    """The mean of |value x gradient| over everything but the units, [R, units]; `gradient` is that of a factor."""
    unit = site.axes.index("unit") + 1
    return gradient.abs().movedim(unit, 1).flatten(2).mean(2)


def conflict(gradient: Tensor, site: Site) -> Tensor:
    """How often two groups of examples disagree on the sign of a unit's mean gradient, [R, units], in [0, 1]."""
    each = per_unit(gradient, site)
    runs, batch, units = each.shape
    groups = max(2, min(GROUPS, batch // 2 * 2))
    size = batch // groups
    signs = each[:, : groups * size].view(runs, groups, size, units).sum(2).sign()
    return (signs[:, ::2] * signs[:, 1::2] < 0).float().mean(1)
