"""Factors on the rate: one file is one policy."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.spec import Facts, Scene, Signals, Site

#: What a policy remembers, each entry a tensor with a leading run axis, so that a checkpoint holds it.
State = dict[str, "Tensor"]


class Policy(Part):
    """Abstract: a non-negative factor on the base rate. Policies combine by multiplication, so their order is nothing.

    Class attributes:
        timed: whether the factor is a function of the clock and the site alone, so that its mean over a training is
            known before.
    """

    folder = "policies"
    timed: ClassVar[bool] = False

    @property
    def needs(self) -> frozenset[str]:
        """Names of the fields of `Signals` that `update` reads; the runner computes no others."""
        return frozenset()

    @property
    def figures(self) -> frozenset[str]:
        """Names of the figures of examples that `factor` reads (see `data.figures`)."""
        return frozenset()

    @property
    def files(self) -> tuple[str, ...]:
        """Files whose content decides the factor, so that it belongs to the meaning of a run."""
        return ()

    @abstractmethod
    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """The factor at a site now.

        Args:
            site: where.
            state: of this policy.
            scene: when, in which nets, on which examples.

        Returns:
            [R], the same for all elements; or a tensor with the axes of the site after the run axis, of length 1 along
            those on which it does not depend (see `along`).
        """

    def init(self, runs: int, sites: Sequence[Site]) -> State:
        """The state of `runs` runs before training; `sites`: where the strategy acts."""
        return {}

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> State:
        """The state after a control tick. There is one before the first step, and one after every epoch."""
        return dict(state)

    def acts(self) -> bool:
        """Whether the factor is ever above 0 in training; a strategy that never acts is refused."""
        return True

    def misfit(self, site: Site, shared: frozenset[str]) -> str | None:
        """Why the policy cannot set a rate at a site whose mask is shared along some axes; it is then left out."""
        return None

    def idle(self, sites: Sequence[Site], facts: Facts) -> str | None:
        """Why the policy would tell nothing apart at the sites that are left, on such data; the strategy is refused."""
        return None

    def shuffled(self) -> Policy | None:
        """The twin for `control=shuffled`, whose choice of elements is random; None where there is no choice."""
        return None


def along(site: Site, figures: Tensor, *axes: str) -> Tensor:
    """Views `figures` [R, ...], whose axes are `axes`, so that they broadcast over a value at the site."""
    lengths = dict(zip(axes, figures.shape[1:], strict=True))
    order = [axes.index(axis) + 1 for axis in site.axes if axis in lengths]
    return figures.permute(0, *order).reshape(len(figures), *(lengths.get(axis, 1) for axis in site.axes))
