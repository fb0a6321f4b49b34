"""Rates that follow the progress of training (Morerio et al., 2017; Rennie et al., 2014; Liu et al., 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dropbench.policies import Policy
from dropbench.spec import Factor, PerRun, Range, Share, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.spec import Scene, Site


@dataclass(frozen=True)
class Gradual(Policy):
    """The factor moves from `start` to `end` between the shares `after` and `until` of the training.

    Formula: `start + (end - start) s(u)`, with `u = clip((progress - after) / (until - after), 0, 1)` and `s(u)` one of

        linear       u
        exponential  1 - exp(-steepness u)       (curriculum dropout, gamma = 10 / T)
        cosine       (1 - cos(pi u)) / 2
        step         0 for u < 1, then 1

    Args:
        shape: of the way from start to end.
        start: factor before `after`.
        end: factor from `until` on (the exponential comes within exp(-steepness) of it).
        after: share of the training at which it begins to move.
        until: share of the training at which it arrives.
        steepness: of the exponential.

    Sources: exponential rise, Morerio, Cavazza, Volpi, Vidal, Murino, "Curriculum Dropout", ICCV 2017; falling to 0,
    Rennie, Goel, Thomas, "Annealed dropout", SLT 2014; early and late windows, Liu et al., ICML 2023.
    """

    shape: Literal["linear", "exponential", "cosine", "step"] = "linear"
    start: Factor = 0.0
    end: Factor = 1.0
    after: Share = 0.0
    until: Share = 0.5
    steepness: Annotated[PerRun, Range(0, 1000, open_low=True)] = 10.0
    timed = True

    def __post_init__(self) -> None:
        """Checks the window, as long as it is made of numbers."""
        if isinstance(self.after, float) and isinstance(self.until, float) and self.after >= self.until:
            raise ValueError(f"after={self.after} must be less than until={self.until}")

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """[R], the same at every site."""
        after, until, start, end, steepness = (
            vector(value) for value in (self.after, self.until, self.start, self.end, self.steepness)
        )
        passed = ((scene.clock.progress - after) / (until - after)).clamp(0, 1)
        if self.shape == "linear":
            way = passed
        elif self.shape == "exponential":
            way = 1 - (-steepness * passed).exp()
        elif self.shape == "cosine":
            way = (1 - (math.pi * passed).cos()) / 2
        else:
            way = (passed >= 1).to(passed.dtype)
        return start + (end - start) * way

    def acts(self) -> bool:
        """A factor that starts and ends at 0 never acts."""
        return not (self.start == 0 and self.end == 0)
