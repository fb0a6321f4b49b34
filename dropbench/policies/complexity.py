"""A rate of its own for every example of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dropbench.policies import Policy, along
from dropbench.spec import Factor, vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.spec import Facts, Scene, Site


@dataclass(frozen=True)
class Complexity(Policy):
    """The factor grows with the complexity of an example: long or complex sequences get a higher rate than short ones.

    Formula: `f = floor + (1 - floor) c`; `c` in [0, 1] is where the example's complexity lies between the least and
    the greatest of the training set.

    Args:
        measure: `compressed`, the bytes that the example takes after zlib, at 8 bits a value (an upper bound on its
            Kolmogorov complexity; both a longer and a less regular sequence take more); or `length`, its steps.
        floor: lowest factor.

    Source: none with published figures known.
    """

    measure: Literal["compressed", "length"] = "compressed"
    floor: Factor = 0.1

    @property
    def figures(self) -> frozenset[str]:
        """The measure."""
        return frozenset({self.measure})

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """Along the batch; in evaluation, where no examples are at hand, [R]: the factor of the middle."""
        floor = vector(self.floor)
        if self.measure not in scene.facts:
            return floor + (1 - floor) / 2
        return along(site, floor.unsqueeze(1) + (1 - floor.unsqueeze(1)) * scene.facts[self.measure], "batch")

    def misfit(self, site: Site, shared: frozenset[str]) -> str | None:
        """A mask for the whole batch has one rate."""
        if "batch" in site.axes and "batch" not in shared:
            return None
        return f"a rate for every example, and the mask at {site.name} is that of the whole batch"

    def idle(self, sites: Sequence[Site], facts: Facts) -> str | None:
        """Where all sequences are as long, so are all rates."""
        if self.measure == "length" and facts.shortest is None:
            return "measure=length: all sequences of this data set are as long; nearest: measure=compressed"
        return None
