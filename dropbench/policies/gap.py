"""A rate that follows the generalisation gap."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.policies import Policy
from dropbench.spec import Factor, NonNegative, PerRun, Range, vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.policies import State
    from dropbench.spec import Scene, Signals, Site


@dataclass(frozen=True)
class Gap(Policy):
    """An integrating controller: the factor rises while the gap is above its target, and falls below it.

    Formula: `f <- clip(f + gain (held-out loss - training loss - target), floor, 1)`, before the first step and after
    every epoch.

    Both losses are measured without noise, at the epoch's end, on pieces of the training set of one size. The held-out
    piece neither trains nor selects: a run that follows the gap trains on a tenth less (of a small set, on up to a
    quarter less).

    Args:
        target: the gap that is tolerated, in units of the loss (nats).
        gain: change of the factor an epoch for each unit of gap beyond the target.
        start: factor before the first measurement.
        floor: lowest factor.

    Source: none known that owns it; an integral controller as in engineering.
    """

    target: NonNegative = 0.05
    gain: Annotated[PerRun, Range(0, 1000, open_low=True)] = 0.5
    start: Factor = 0.2
    floor: Factor = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """Both losses without noise."""
        return frozenset({"clean_loss", "held_out_loss"})

    def init(self, runs: int, sites: Sequence[Site]) -> State:
        """The factor, [R]."""
        return {"factor": vector(self.start).clone()}

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """[R], the same at every site."""
        return state["factor"]

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> State:
        """One step of the controller."""
        assert signals.held_out_loss is not None
        assert signals.clean_loss is not None
        error = signals.held_out_loss - signals.clean_loss - vector(self.target)
        moved = state["factor"] + vector(self.gain) * error
        return {"factor": moved.maximum(vector(self.floor)).clamp(max=1)}
