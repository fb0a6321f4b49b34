"""How the coefficients of an optimizer move with the progress of training. Every number may differ from run to run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dropbench.spec import Factor, PerRun, Range, vector

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.spec import Clock

#: What is kept of a running figure from one update to the next.
Kept = Annotated[PerRun, Range(0, 1, open_high=True)]
Milestone = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Decay:
    """A factor on the learning rate that falls from 1 to `final` while training, update by update.

    Formula: with `t` the share of the training that is done and `f = final`,

        constant      1
        step          gamma ^ (number of milestones <= t)
        exponential   f ^ t
        inverse_time  1 / (1 + (1 / f - 1) t)
        cosine        f + (1 - f) (1 + cos(pi t)) / 2
        linear        1 - (1 - f) t

    Args:
        shape: of the fall.
        final: factor at the end of training; above 0 for exponential and inverse_time. Of no effect on constant, step.
        milestones: of step, shares of the training; the same in all runs of a stack.
        gamma: of step, the factor of each milestone.

    Sources: exponential and linear, Hinton et al., "Improving neural networks by preventing co-adaptation of feature
    detectors", 2012; inverse time, Robbins and Monro, 1951; cosine, Loshchilov and Hutter, "SGDR", ICLR 2017.
    """

    shape: Literal["constant", "step", "exponential", "inverse_time", "cosine", "linear"] = "constant"
    final: Factor = 0.01
    milestones: tuple[Milestone, ...] = (0.5, 0.75)
    gamma: Factor = 0.1

    def __post_init__(self) -> None:
        """Checks that the fall can reach its end, as long as that is a number."""
        if self.shape in ("exponential", "inverse_time") and isinstance(self.final, float) and self.final == 0:
            raise ValueError(f"final={self.final} must be above 0 for shape={self.shape}")

    def factor(self, clock: Clock) -> Tensor:
        """The factor of each run now, [R]."""
        import torch

        final = vector(self.final)
        t: PerRun = clock.step / clock.steps  # a tensor where the step is captured: kernels/graph.py
        if self.shape == "step":
            return vector(self.gamma) ** sum(t >= milestone for milestone in self.milestones)
        if self.shape == "exponential":
            return final**t
        if self.shape == "inverse_time":
            return 1 / (1 + (1 / final - 1) * t)
        if self.shape == "cosine":
            wave = math.cos(math.pi * t) if isinstance(t, float) else (math.pi * t).cos()
            return final + (1 - final) * ((1 + wave) / 2)
        if self.shape == "linear":
            return 1 - (1 - final) * t
        return torch.ones_like(final)


def warmed(share: PerRun, clock: Clock) -> Tensor:
    """The factor of the learning rate that rises linearly over the first updates, [R].

    Formula: `min(1, (step + 1) / (share steps))`, so the first update already moves and a share of 0 is no warm-up.

    Args:
        share: of the training.
        clock: when.

    Source: Goyal et al., "Accurate, large minibatch SGD", 2017.
    """
    return ((clock.step + 1) / (vector(share) * clock.steps)).clamp(max=1)


def ramped(start: PerRun, end: PerRun, share: PerRun, clock: Clock) -> Tensor:
    """A coefficient that moves linearly from `start` to `end` and stays there, [R].

    Formula: `start + (end - start) min(1, progress / share)`; a share of 0 is `end` throughout.

    Args:
        start: value at the first update.
        end: value from `share` on.
        share: of the training.
        clock: when.

    Source: the momentum of Srivastava et al., "Dropout", JMLR 2014, appendix A.2.
    """
    import torch

    passed = (clock.step / clock.steps / vector(share)).nan_to_num(nan=1, posinf=1).clamp(max=1)
    return torch.lerp(vector(start), vector(end), passed)
