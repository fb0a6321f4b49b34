"""Multiplicative Gaussian noise (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.noise import Noise, Perturbation

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place


@dataclass(frozen=True)
class Gaussian(Noise):
    """Gaussian dropout: the same mean and variance as Bernoulli dropout at the same rate, without a zero.

    Formula: `y = x (1 + sigma e)`, `e ~ N(0, 1)`, `sigma^2 = rate / (1 - rate)`; in evaluation `y = x`.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, JMLR 15 (2014), section 10.
    """

    draw = "normal"
    kinds = frozenset({"input", "embedding", "hidden", "branch", "weight", "state", "candidate", "recurrent_weight"})
    transition = ("state", ("step", "gate"))

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Scales by 1 + sigma e."""
        return Perturbation(1 + draw * (rate / (1 - rate)).sqrt())

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The rate whose variance the drawn factors have: `v / (1 + v)`."""
        variance = (perturbation.scale - 1).flatten(1).square().mean(1)
        return variance / (1 + variance)
