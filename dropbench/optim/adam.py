"""Adam, and AdamW where weight decay is decoupled (Kingma and Ba, 2015; Loshchilov and Hutter, 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dropbench.optim import Optimizer
from dropbench.optim.constraints import clipping
from dropbench.optim.schedules import Decay, Kept, warmed
from dropbench.spec import NonNegative, Positive, Share, vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.spec import Clock


@dataclass(frozen=True)
class Adam(Optimizer):
    """Steps of the size of the learning rate, each weight by its own scale; a null switches a step of the recipe off.

    Formula: with `g` the clipped gradient, rate `a` and `n` the number of this update from 1,
    `m = beta1 m + (1 - beta1) g`, `s = beta2 s + (1 - beta2) g^2`, and
    `w = w - a (m / (1 - beta1^n)) / (sqrt(s / (1 - beta2^n)) + eps)`, then max-norm. Weight decay adds `weight_decay w`
    to `g`, or, decoupled, multiplies `w` by `1 - a weight_decay` first. As `torch.optim.Adam` and `torch.optim.AdamW`.

    Args:
        learning_rate: before warm-up and decay.
        warmup: share of the training over which the learning rate rises from near 0.
        decay: fall of the learning rate.
        beta1: share of the mean of gradients that an update keeps.
        beta2: share of the mean of squared gradients that an update keeps.
        eps: least scale of a gradient.
        decoupled: weight decay as in AdamW.
        weight_decay: of weights (not of biases and gains).
        clip_norm: greatest norm of a run's whole gradient.
        max_norm: greatest norm of the weights into one hidden unit.

    Sources: Kingma and Ba, "Adam: a method for stochastic optimization", ICLR 2015; Loshchilov and Hutter, "Decoupled
    weight decay regularization", ICLR 2019.
    """

    learning_rate: Positive = 0.001
    warmup: Share = 0.0
    decay: Decay = field(default_factory=Decay)
    beta1: Kept = 0.9
    beta2: Kept = 0.999
    eps: Positive = 1e-8
    decoupled: bool = False
    weight_decay: NonNegative | None = None
    clip_norm: Positive | None = None
    max_norm: Positive | None = None

    def init(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Decaying sums of gradients and of their squares, `sum.<name>` and `squares.<name>`: 0.

        They lack the factors `1 - beta` of means, which join the other coefficients: fewer passes over memory.
        """
        import torch

        kinds = ("sum", "squares")
        return {f"{kind}.{name}": torch.zeros_like(value) for kind in kinds for name, value in params.items()}

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

        from dropbench.kernels.update import adam

        with torch.no_grad():
            rate, beta1, beta2 = self.rate(clock), vector(self.beta1), vector(self.beta2)
            # m / (1 - beta1^n) = weight1 * sum, and so for the squares; `scale` is taken out of the denominator.
            weight1, weight2 = (_weight(beta, clock.step + 1) for beta in (beta1, beta2))
            scale = weight2.sqrt()
            size, eps = -rate * weight1 / scale, vector(self.eps) / scale
            decay = None if self.weight_decay is None else vector(self.weight_decay)
            shrink = None if decay is None else 1 - rate * decay
            adam(
                params, gradients, state, declared, size, eps, beta1, beta2,
                clip=None if self.clip_norm is None else clipping(gradients.values(), self.clip_norm),
                decay=None if self.decoupled else decay, shrink=shrink if self.decoupled else None, bound=self.max_norm,
            )  # fmt: skip


def _weight(beta: Tensor, updates: int) -> Tensor:
    """`(1 - beta) / (1 - beta^updates)`, [R], exact where beta is close to 1."""
    return (beta - 1) / (updates * beta.log()).expm1()
