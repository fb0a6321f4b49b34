"""Factors on the rate: one file is one policy."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.spec import Clock, Signals, Site

#: What a policy remembers, each entry a tensor with a leading run axis, so that a checkpoint holds it.
State = dict[str, "Tensor"]


class Policy(Part):
    """Abstract: a non-negative factor on the base rate. Policies combine by multiplication, so their order is nothing.

    Class attributes:
        needs: names of the fields of `Signals` that `update` reads; the runner computes no others.
    """

    folder = "policies"
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def factor(self, site: Site, clock: Clock, state: Mapping[str, Tensor], facts: Mapping[str, Tensor]) -> Tensor:
        """The factor at a site now: [R], or [R, batch or 1, units or 1].

        Args:
            site: where.
            clock: when.
            state: of this policy.
            facts: figures of the examples of the batch, each [R, batch].
        """

    def init(self, runs: int) -> State:
        """The state of `runs` runs before training."""
        return {}

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> State:
        """The state after a control tick."""
        return dict(state)

    def acts(self) -> bool:
        """Whether the factor is ever above 0 in training; a strategy that never acts is refused."""
        return True
