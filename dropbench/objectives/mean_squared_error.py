"""Mean squared error of real targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective, plain

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MeanSquaredError(Objective):
    """Mean squared error over the batch and the outputs.

    Formula: `L = mean (z - y)^2`.
    """

    tasks = frozenset({"regression"})

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `Objective.terms`."""
        return {"mean_squared_error": plain(outputs, targets).mean(1)}
