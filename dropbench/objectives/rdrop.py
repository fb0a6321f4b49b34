"""R-Drop: two masks must give one answer (Liang et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dropbench.objectives import Objective, asked_mean, is_classes, plain
from dropbench.spec import NonNegative, Share, vector

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Rdrop(Objective):
    """Two passes with masks of their own, in one forward of the doubled batch, and the divergence between them.

    Formula, the mean over what is asked: `L = CE(P1) + CE(P2) + alpha KL`, `KL = (KL(P1 | P2) + KL(P2 | P1)) / 2`; the
    gradient passes through both directions. For real targets `L = (SE1 + SE2) / 2 + alpha mean (z1 - z2)^2`, SE the
    squared error.

    alpha in other code: where the two CE are averaged, alpha / 2; where 1/2 is left out of the KL, alpha / 2; where KL
    is summed over a batch of B (`reduction: sum`), alpha / B.

    Args:
        alpha: weight of the divergence, by the paper's convention.
        reduction: of the KL over the examples: mean, or sum as in some published code. Padding never counts.
        label_smoothing: of CE.

    Source: Liang et al., "R-Drop: regularized dropout for neural networks", NeurIPS 2021.
    """

    alpha: NonNegative = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    label_smoothing: Share | None = None
    tasks = frozenset({"classification", "regression"})

    @property
    def copies(self) -> int:
        """Two."""
        return 2

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The sum of both plain losses (the mean, of squared errors), and the divergence before it is weighted."""
        both = plain(outputs, targets, self.label_smoothing).sum(1)
        if not is_classes(targets):
            both = both / 2
        return {
            "cross_entropy": both,
            "kl": self._divergence(outputs, targets),
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weighs the divergence."""
        return terms["cross_entropy"] + vector(self.alpha) * terms["kl"]

    def _divergence(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if not is_classes(targets):
            squares = (outputs[:, 0].float() - outputs[:, 1].float()).square().flatten(1)
            return squares.mean(1) if self.reduction == "mean" else squares.sum(1)
        one, other = outputs.float().log_softmax(-1).unbind(1)
        # (KL(P | Q) + KL(Q | P)) / 2 = sum (p - q) (log p - log q) / 2
        each = ((one.exp() - other.exp()) * (one - other)).sum(-1) / 2
        mean = asked_mean(each.unsqueeze(1), targets).squeeze(1)
        return mean if self.reduction == "mean" else mean * (targets != -100).flatten(1).sum(1)
