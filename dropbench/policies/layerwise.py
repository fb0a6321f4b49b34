"""A rate for every layer: lower layers less, higher layers more, or the reverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dropbench.policies import Policy
from dropbench.spec import Factor, vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.spec import Facts, Scene, Site


@dataclass(frozen=True)
class Layerwise(Policy):
    """The factor moves with the depth d of a site, 0 at the input and 1 at the last hidden layer.

    Formula: linear `bottom + (top - bottom) d`; exponential `bottom (top / bottom)^d`.

    A rate by name for every layer is no policy but `strategy.rates`.

    Args:
        shape: of the way from bottom to top.
        bottom: factor at the input, d = 0; above 0 for exponential.
        top: factor at the last hidden layer, d = 1.

    Source: the linear rule of Huang et al., "Deep networks with stochastic depth", ECCV 2016, for dropout; rates by
    layer already in Srivastava et al., JMLR 2014, appendix B.
    """

    shape: Literal["linear", "exponential"] = "linear"
    bottom: Factor = 0.2
    top: Factor = 1.0
    timed = True

    def __post_init__(self) -> None:
        """Checks that the exponential can leave the bottom, as long as it is a number."""
        if self.shape == "exponential" and isinstance(self.bottom, float) and 0 in (self.bottom, self.top):
            raise ValueError(f"bottom={self.bottom}, top={self.top}: must be above 0 for shape=exponential")

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """[R], the same at all times."""
        bottom, top = vector(self.bottom), vector(self.top)
        if self.shape == "exponential":
            return bottom ** (1 - site.depth) * top**site.depth
        return bottom + (top - bottom) * site.depth

    def acts(self) -> bool:
        """A factor that is 0 everywhere never acts."""
        return not (self.bottom == 0 and self.top == 0)

    def idle(self, sites: Sequence[Site], facts: Facts) -> str | None:
        """One depth has one rate, which would be plain dropout under another name."""
        if len({site.depth for site in sites}) > 1:
            return None
        return "all chosen sites stand at one depth, so every rate would be the same; nearest: more layers"
