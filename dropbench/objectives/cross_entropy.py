"""Cross-entropy of class numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.objectives import Objective, plain
from dropbench.spec import Share

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy, the mean over what is asked: one answer an example, or one a step.

    Formula: `L = -mean sum_k t_k log softmax(z)_k`, `t_k = (1 - e) [k = y] + e / classes`, e = `label_smoothing`, over
    the targets that are not -100 (padding).

    Args:
        label_smoothing: share of the target that is spread over all classes.

    Source of the smoothing: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, CVPR 2016.
    """

    label_smoothing: Share | None = None
    tasks = frozenset({"classification"})

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """See `Objective.terms`."""
        return {"cross_entropy": plain(outputs, targets, self.label_smoothing).mean(1)}
