"""Zoneout: state units that now and then keep their old value (Krueger et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.noise import Noise, Perturbation, limits

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place


@dataclass(frozen=True)
class Zoneout(Noise):
    """A unit of the state keeps its old value with probability `rate`.

    Formula: `y = d old + (1 - d) new`, `d ~ Bernoulli(rate)`; in evaluation `y = rate old + (1 - rate) new`.

    In an LSTM both c and h have such a step; the new h is computed from the new c before its own. Sharing the mask
    along the units and sites skips whole transitions (stochastic depth in time).

    Source: Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
    """

    draw = "bits"
    kinds = frozenset({"carry"})
    transition = ("carry", ())

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Keeps the old value where the 16-bit word is below `rate * 2**16`."""
        import torch

        threshold, _ = limits(rate)
        new = torch.empty(0, device=draw.device)
        torch.ge(draw, threshold, out=new)
        return Perturbation(new, mix=1 - new)

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that kept the old value."""
        assert perturbation.mix is not None
        return perturbation.mix.flatten(1).mean(1)

    def expect(self, rate: Tensor, place: Place) -> Perturbation:
        """The running mixture."""
        return Perturbation(1 - rate, mix=rate)
