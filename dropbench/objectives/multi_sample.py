"""Multi-sample dropout: many masks for one batch (Inoue, 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.objectives import Objective, plain
from dropbench.spec import Range, Share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MultiSample(Objective):
    """The mean of the plain loss over M copies of the batch, each with masks of its own.

    Formula: `L = mean over m of CE(P_m)`.

    Args:
        samples: M.
        label_smoothing: of CE.

    Source: Inoue, "Multi-sample dropout for accelerated training and better generalization", 2019.
    """

    samples: Annotated[int, Range(2, 64)] = 8
    label_smoothing: Share | None = None
    tasks = frozenset({"classification", "regression"})

    @property
    def copies(self) -> int:
        """M."""
        return self.samples

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `Objective.terms`."""
        return {"cross_entropy": plain(outputs, targets, self.label_smoothing).mean(1)}
