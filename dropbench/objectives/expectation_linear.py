"""Expectation-linear dropout: the pass with a mask must be close to that without (Ma et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective, distance, plain
from dropbench.spec import NonNegative, Share, vector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ExpectationLinear(Objective):
    """The loss of a pass with noise, and the squared distance of its outputs from those of evaluation.

    Formula: `L = CE(P1) + kappa mean (z1 - z)^2`, z the outputs without noise; the gradient passes through both.

    Args:
        kappa: weight of the distance.
        label_smoothing: of CE.

    Source: Ma, Gao, Hu, Yu, Deng, Hovy, "Dropout with expectation-linear regularization", ICLR 2017; on outputs before
    the softmax, as Zolna et al., 2018, compare it.
    """

    kappa: NonNegative = 0.25
    label_smoothing: Share | None = None
    tasks = frozenset({"classification", "regression"})
    clean = True

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The plain loss of the pass with noise, and the distance before it is weighted."""
        noisy, clean = outputs.float().unbind(1)
        return {
            "cross_entropy": plain(outputs[:, :1], targets, self.label_smoothing).squeeze(1),
            "distance": distance(noisy, clean, targets),
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighs the distance."""
        return terms["cross_entropy"] + vector(self.kappa) * terms["distance"]
