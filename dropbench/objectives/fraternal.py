"""Fraternal dropout: two masks must give one output (Zolna et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective, distance, plain
from dropbench.spec import NonNegative, Share, vector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fraternal(Objective):
    """The mean loss of two passes with masks of their own, and the squared distance of their outputs.

    Formula: `L = (CE(P1) + CE(P2)) / 2 + kappa mean (z1 - z2)^2`, z before the softmax.

    Args:
        kappa: weight of the distance.
        label_smoothing: of CE.

    Source: Zolna, Arpit, Suhubdy, Bengio, "Fraternal dropout", ICLR 2018.
    """

    kappa: NonNegative = 0.15
    label_smoothing: Share | None = None
    tasks = frozenset({"classification", "regression"})

    @property
    def copies(self) -> int:
        """Two."""
        return 2

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The mean of both plain losses, and the distance before it is weighted."""
        one, other = outputs.float().unbind(1)
        return {
            "cross_entropy": plain(outputs, targets, self.label_smoothing).mean(1),
            "distance": distance(one, other, targets),
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighs the distance."""
        return terms["cross_entropy"] + vector(self.kappa) * terms["distance"]
