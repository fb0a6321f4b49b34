"""Bernoulli dropout (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.noise import Noise, Perturbation, limits

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place


@dataclass(frozen=True)
class Bernoulli(Noise):
    """Inverted Bernoulli dropout: an element is 0 with probability `rate`, else divided by the keep probability.

    Formula: `y = x m / (1 - rate)`, `m ~ Bernoulli(1 - rate)`; in evaluation `y = x`.

    Locked, spatial and word dropout, stochastic depth and DropConnect are this noise with a shared axis, at a residual
    branch, or at a weight.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, JMLR 15 (2014).
    """

    draw = "bits"
    kinds = frozenset(
        {"input", "embedding", "hidden", "branch", "weight", "state", "candidate", "cell", "recurrent_weight"}
    )
    transition = ("state", ("step", "gate"))  # one mask a sequence on the copy of h (Gal and Ghahramani, 2016)
    rescales = True

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Keeps an element whose 16-bit word is not below `rate * 2**16`."""
        from dropbench.kernels.bits import kept

        return Perturbation(kept(draw, *limits(rate)))

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that were dropped."""
        return (perturbation.scale == 0).flatten(1).float().mean(1)
