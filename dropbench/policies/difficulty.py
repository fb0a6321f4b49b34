"""A rate that follows how hard the task still is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.policies import Policy
from dropbench.spec import Factor, PerRun, Range, vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.policies import State
    from dropbench.spec import Scene, Signals, Site


@dataclass(frozen=True)
class Difficulty(Policy):
    """The factor is the level of the training loss, held against that before training: an easy task gets less.

    Formula: `f = clip((m / m_0)^power, floor, 1)`; `m` is a running mean over epochs of the loss without noise on a
    piece of what trains, `m <- memory m + (1 - memory) loss`, and `m_0` the loss before the first step.

    Args:
        power: below 1 the factor falls later than the loss.
        memory: share of the running mean that an epoch keeps.
        floor: lowest factor.

    Source: none with published figures known; the honest baselines are the curriculum schedules (see `gradual`).
    """

    power: Annotated[PerRun, Range(0, 10, open_low=True)] = 0.5
    memory: Annotated[PerRun, Range(0, 1, open_high=True)] = 0.8
    floor: Factor = 0.1

    @property
    def needs(self) -> frozenset[str]:
        """The loss without noise: with noise, a higher rate would call for a higher rate."""
        return frozenset({"clean_loss"})

    def init(self, runs: int, sites: Sequence[Site]) -> State:
        """The running mean and its start, [R]; 0 stands for not yet measured."""
        import torch

        return {key: torch.zeros_like(vector(self.floor)) for key in ("level", "first")}

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """[R], the same at every site."""
        ratio = (state["level"] / state["first"].clamp(min=1e-12)) ** vector(self.power)
        return ratio.maximum(vector(self.floor)).clamp(max=1)

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> State:
        """Moves the running mean."""
        assert signals.clean_loss is not None
        new = state["first"] == 0
        kept = vector(self.memory)
        level = (kept * state["level"] + (1 - kept) * signals.clean_loss).where(~new, signals.clean_loss)
        return {"level": level, "first": state["first"].where(~new, signals.clean_loss)}
