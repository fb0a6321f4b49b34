"""Variational dropout: Gaussian noise of learned size (Kingma, Salimans, Welling, 2015)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.models import Parameter
from dropbench.noise import Noise, Perturbation

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site


@dataclass(frozen=True)
class Variational(Noise):
    """Gaussian dropout whose variance alpha is learned, one a site, between 0 and 1.

    Formula: `y = x (1 + sqrt(alpha) e)`, `e ~ N(0, 1)`, `log alpha = logit rate + (what is learned)`, at most 0; in
    evaluation `y = x`. The loss gets, for N training examples and K units, `K KL(alpha) / N`, with

        -KL(alpha) = 0.5 log alpha + 1.16145124 alpha - 1.50204118 alpha^2 + 0.58629921 alpha^3   (+ constant)

    The rate that is recorded is that of Bernoulli dropout with this variance, `alpha / (1 + alpha)`: at most 1/2.

    Source: Kingma, Salimans, Welling, "Variational dropout and the local reparameterization trick", NIPS 2015: noise on
    what a layer receives (type A).
    """

    draw = "normal"
    kinds = frozenset({"input", "hidden", "state"})
    transition = ("state", ("step", "gate"))

    def learned(self, site: Site) -> tuple[Parameter, ...]:
        """What is added to log alpha."""
        return (Parameter("log_alpha", (), "zeros"),)

    def effective(self, rate: Tensor, place: Place) -> Tensor:
        """`alpha / (1 + alpha)`, at most 1/2; 0 where 0 is asked for."""
        learned = place.learned["log_alpha"].view(-1, *(1 for _ in rate.shape[1:]))
        return (rate.logit() + learned).clamp(max=0).sigmoid()

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Scales by 1 + sqrt(alpha) e."""
        return Perturbation(1 + draw * (rate / (1 - rate)).clamp(min=1e-30).sqrt() * (rate > 0))

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The rate whose variance the drawn factors have."""
        variance = (perturbation.scale.detach() - 1).flatten(1).square().mean(1)
        return variance / (1 + variance)

    def penalty(self, rate: Tensor, place: Place) -> Tensor:
        """The approximated divergence from the log-uniform prior, for each example; 0 where rate 0 is asked for."""
        p = rate.flatten(1).mean(1)
        return (divergence(p / (1 - p)) * (place.site.units / place.scene.examples)).where(p > 0, 0.0)


def divergence(alpha: Tensor) -> Tensor:
    """`KL(alpha)` up to a constant, for 0 < alpha <= 1 (Kingma et al., 2015, equation 14)."""
    negative = 0.5 * alpha.clamp(min=1e-8).log() + alpha * (1.16145124 + alpha * (-1.50204118 + alpha * 0.58629921))
    return -negative
