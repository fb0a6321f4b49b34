"""Mean squared error of real targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MeanSquaredError(Objective):
    """Mean squared error over the batch and the outputs.

    Formula: `L = mean (z - y)^2`.
    """

    tasks = frozenset({"regression"})

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """See `Objective.loss`."""
        return (outputs.float() - targets.unsqueeze(1)).square().flatten(1).mean(1)
