"""Stochastic gradient descent with momentum, and what the dropout papers add to it (Srivastava et al., 2014)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dropbench.optim import Optimizer
from dropbench.optim.constraints import clipping
from dropbench.optim.schedules import Decay, Kept, ramped, warmed
from dropbench.spec import NonNegative, Positive, Share, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.spec import Clock


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent with momentum; a null switches a step of the recipe off.

    Formula: with `g` the clipped gradient plus `weight_decay w`, rate `a` and momentum `m` at this update,
    `v = m v + g`, then `w = w - a v`, or `w = w - a (g + m v)` by Nesterov, then max-norm. As `torch.optim.SGD`: the
    rate stands outside the velocity, so where the gradient is constant an update tends to `a g / (1 - m)`.

    Args:
        learning_rate: before warm-up and decay.
        warmup: share of the training over which the learning rate rises from near 0.
        decay: fall of the learning rate.
        momentum: share of the velocity that an update keeps.
        momentum_start: momentum at the first update.
        momentum_ramp: share of the training over which momentum moves from `momentum_start` to `momentum`; 0: none.
        nesterov: look ahead.
        weight_decay: factor of the L2 term in the gradient of weights (not of biases and gains).
        clip_norm: greatest norm of a run's whole gradient.
        max_norm: greatest norm of the weights into one hidden unit.

    Sources: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013;
    Srivastava et al., "Dropout", JMLR 2014, appendix A.
    """

    learning_rate: Positive = 0.05
    warmup: Share = 0.0
    decay: Decay = field(default_factory=Decay)
    momentum: Kept = 0.9
    momentum_start: Kept = 0.5
    momentum_ramp: Share = 0.0
    nesterov: bool = False
    weight_decay: NonNegative | None = None
    clip_norm: Positive | None = None
    max_norm: Positive | None = None

    def init(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The velocity of every parameter, `velocity.<name>`: 0."""
        import torch

        return {f"velocity.{name}": torch.zeros_like(value) for name, value in params.items()}

    def rate(self, clock: Clock) -> Tensor:
        """The learning rate of each run now, [R]."""
        return vector(self.learning_rate) * warmed(self.warmup, clock) * self.decay.factor(clock)

    def step(
        self,
        params: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        clock: Clock,
        declared: Mapping[str, Parameter],
    ) -> None:
        """One update, in place."""
        import torch

        from dropbench.kernels.update import sgd

        with torch.no_grad():
            sgd(
                params, gradients, state, declared, self.rate(clock),
                ramped(self.momentum_start, self.momentum, self.momentum_ramp, clock),
                clip=None if self.clip_norm is None else clipping(gradients.values(), self.clip_norm),
                decay=self.weight_decay, bound=self.max_norm, nesterov=self.nesterov,
            )  # fmt: skip
