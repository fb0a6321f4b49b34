"""Concrete dropout: the rate of every site is learned (Gal, Hron, Kendall, 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.models import Parameter
from dropbench.noise import Noise, Perturbation
from dropbench.spec import NonNegative, PerRun, Range, vector

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site


@dataclass(frozen=True)
class Concrete(Noise):
    """A relaxed mask, through which the gradient reaches the rate p of the site; one p a site.

    Formula: `y = x (1 - z) / (1 - p)`, `z = sigmoid((logit p + logit u) / temperature)`, `u ~ U(0, 1)`,
    `logit p = logit rate + (what is learned)`; in evaluation `y = x`. The loss gets, for N training examples,

        (length_scale^2 |W|^2 / (1 - p) + k K (p log p + (1 - p) log(1 - p))) / N

    W being the weights that the site feeds, K its units; k = 1 for classification, 2 for regression.

    `rate` is where p begins; policies move this beginning. Masks of maps are shared along rows and columns.

    Args:
        temperature: of the relaxation.
        length_scale: of the prior on the weights.

    Source: Gal, Hron, Kendall, "Concrete dropout", NIPS 2017.
    """

    temperature: Annotated[PerRun, Range(0.001, 10)] = 0.1
    length_scale: NonNegative = 0.01
    draw = "uniform"
    kinds = frozenset({"input", "hidden", "state"})
    transition = ("state", ("step", "gate"))
    whole_maps = True

    def learned(self, site: Site) -> tuple[Parameter, ...]:
        """What is added to the logit of the rate."""
        return (Parameter("logit", (), "zeros"),)

    def effective(self, rate: Tensor, place: Place) -> Tensor:
        """The learned rate; 0 where 0 is asked for."""
        learned = place.learned["logit"].view(-1, *(1 for _ in rate.shape[1:]))
        return (rate.logit() + learned).sigmoid()

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """The relaxed mask."""
        temperature = vector(self.temperature).view(-1, *(1 for _ in rate.shape[1:]))
        on = rate > 0  # the logit of 0 has no gradient
        kept = (-(rate.where(on, 0.5).logit() + draw.logit()) / temperature).sigmoid()
        return Perturbation((kept / (1 - rate)).where(on, 1.0))

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that were dropped by more than half."""
        scale = perturbation.scale.detach().flatten(1)
        return (scale < scale.amax(1, keepdim=True) / 2).float().mean(1)

    def penalty(self, rate: Tensor, place: Place) -> Tensor:
        """The terms of the prior; 0 where rate 0 is asked for, and nothing is learned."""
        asked, scene = rate.flatten(1).mean(1), place.scene
        p = asked.where(asked > 0, 0.5)
        k = 1 if scene.task == "classification" else 2
        entropy = k * place.site.units * (p.xlogy(p) + (1 - p).xlogy(1 - p))
        for name in place.site.feeds:
            squares = scene.params[name].flatten(1).square().sum(1)
            entropy = entropy + vector(self.length_scale) ** 2 * squares / (1 - p)
        return (entropy / scene.examples).where(asked > 0, 0.0)
