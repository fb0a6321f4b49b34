"""Optimizers of stacked runs: one file is one optimizer, each coefficient may differ from run to run."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from dropbench.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.spec import Clock


class Optimizer(Part):
    """Abstract: an update rule as functions; its state is data."""

    folder = "optim"

    @abstractmethod
    def init(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state before the first update: named tensors with a leading run axis."""

    @abstractmethod
    def step(
        self,
        params: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        clock: Clock,
        declared: Mapping[str, Parameter],
    ) -> None:
        """One update, in place.

        Args:
            params: trained parameters by name, each [R, *shape].
            gradients: likewise; only read, since two of them may share their memory.
            state: from `init`.
            clock: for schedules; `clock.step` is the number of updates done before this one.
            declared: what the model said of each parameter.
        """

    @abstractmethod
    def rate(self, clock: Clock) -> Tensor:
        """The learning rate of each run now, [R]."""
