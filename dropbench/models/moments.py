"""Where a normalising layer gets its mean and variance: from the batch in training, from running figures otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

MOMENTUM = 0.1


@dataclass(frozen=True)
class BatchMoments:
    """Moments of the batch; moves the running figures `NAME.mean` and `NAME.variance` towards them, in place.

    Formula: `running += 0.1 (batch - running)`, the variance with n - 1, as in `torch.nn.BatchNorm1d`.
    """

    params: Mapping[str, Tensor]

    def __call__(self, name: str, value: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """See `Moments`."""
        mean = value.mean(over, keepdim=True)
        variance = (value - mean).square().mean(over, keepdim=True)
        count = value.numel() // mean.numel()
        for figure, batch in (("mean", mean), ("variance", variance * (count / max(count - 1, 1)))):
            running = self.params[f"{name}.{figure}"]
            running.lerp_(batch.detach().float().view_as(running), MOMENTUM)
        return mean, variance


@dataclass(frozen=True)
class RunningMoments:
    """The running figures."""

    params: Mapping[str, Tensor]

    def __call__(self, name: str, value: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """See `Moments`."""
        shape = tuple(1 if axis in over else length for axis, length in enumerate(value.shape))
        return self.params[f"{name}.mean"].view(shape), self.params[f"{name}.variance"].view(shape)
