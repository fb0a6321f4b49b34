"""Standout: a unit is kept the more surely, the more it is driven (Ba and Frey, 2013)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.noise import Noise, Perturbation
from dropbench.spec import PerRun, Range, vector

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site


@dataclass(frozen=True)
class Standout(Noise):
    """The keep probability of every unit and example depends on its own pre-activation (the tied form, pi = W).

    Formula: `y = x m`, `m ~ Bernoulli(k)`, `k = sigmoid(slope z + logit(1 - rate))`, z the pre-activation; in
    evaluation `y = x k`. No gradient passes through the draw. `slope = 0` is plain dropout, not inverted.

    Args:
        slope: alpha of the paper; its beta is `logit(1 - rate)`.

    Source: Ba and Frey, "Adaptive dropout for training deep neural networks", NIPS 2013.
    """

    slope: Annotated[PerRun, Range(-100, 100)] = 1.0
    draw = "uniform"
    kinds = frozenset({"hidden"})

    def misfit(self, site: Site) -> str | None:
        """It needs the pre-activation."""
        if site.activation is not None:
            return None
        return f"{site.name} has no one pre-activation that could set its rate; nearest: model=mlp, cnn"

    def effective(self, rate: Tensor, place: Place) -> Tensor:
        """`1 - k`, element by element."""
        assert place.drive is not None
        slope = vector(self.slope).view(-1, *(1 for _ in place.drive.shape[1:]))
        return (-(slope * place.drive.float()) + rate.logit()).sigmoid()

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Keeps an element with probability `1 - rate`."""
        return Perturbation((draw >= rate.detach()).to(draw.dtype))

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that were dropped."""
        return (perturbation.scale == 0).flatten(1).float().mean(1)

    def expect(self, rate: Tensor, place: Place) -> Perturbation:
        """The mean."""
        return Perturbation(1 - rate)
