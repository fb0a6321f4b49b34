"""Cross-entropy of class numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy, the mean over what is asked: one answer an example, or one a step.

    Formula: `L = -mean log softmax(z)[y]`, over the targets that are not -100 (padding).
    """

    tasks = frozenset({"classification"})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.loss`."""
        asked = targets.unsqueeze(1) != -100  # one copy axis, broadcast over the copies
        index = targets.unsqueeze(1).clamp(min=0).unsqueeze(-1).expand(*outputs.shape[:-1], 1)
        picked = outputs.float().log_softmax(-1).gather(-1, index).squeeze(-1)
        total = -(picked * asked).flatten(2).sum(2)
        return (total / asked.flatten(2).sum(2)).mean(1)
