"""Alpha dropout, which goes with SELU (Klambauer et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.noise import Noise, Perturbation, limits

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site

#: What SELU tends to at minus infinity, - lambda alpha.
LOW = -1.7580993408473766


@dataclass(frozen=True)
class Alpha(Noise):
    """A dropped unit takes the lowest value of SELU; an affine map then restores mean 0 and variance 1.

    Formula: `y = a (x m + low (1 - m)) + b`, `m ~ Bernoulli(q)`, `q = 1 - rate`, `low = -1.7580993`,
    `a = (q + low^2 q rate)^(-1/2)`, `b = -a rate low`; in evaluation `y = x`.

    It keeps mean and variance of units of mean 0 and variance 1, not the mean of each unit.

    Source: Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks", NIPS 2017.
    """

    draw = "bits"
    kinds = frozenset({"hidden"})

    def misfit(self, site: Site) -> str | None:
        """It is made for one activation."""
        if site.activation == "selu":
            return None
        return "it keeps mean and variance of SELU units alone; nearest: model.activation=selu (model=mlp, cnn)"

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """One scale and one shift an element."""
        import torch

        threshold, _ = limits(rate)
        kept = torch.empty(0, device=draw.device)
        torch.ge(draw, threshold, out=kept)
        a = ((1 - rate) * (1 + LOW**2 * rate)).rsqrt()
        return Perturbation(kept * a, shift=(1 - rate - kept) * (a * LOW))  # a low (1 - m) + b

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that were dropped."""
        return (perturbation.scale == 0).flatten(1).float().mean(1)
