"""DropBlock: squares of a map are dropped together (Ghiasi et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.noise import Noise, Perturbation
from dropbench.spec import Range

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site


@dataclass(frozen=True)
class Dropblock(Noise):
    """Squares of b x b values are dropped, at random places of every map.

    Formula: seeds `~ Bernoulli(g)` at the places where a square fits, `g = rate F^2 / (b^2 (F - b + 1)^2)` for maps of
    F x F; `m` is 0 on the squares of the seeds; `y = x m (values / kept values)`, counted in each run; in evaluation
    `y = x`. Squares may overlap, so a little less than `rate` is dropped.

    Args:
        size: b, the side of a square; a map smaller than that is dropped as a whole.

    Source: Ghiasi, Lin, Le, "DropBlock: a regularization method for convolutional networks", NeurIPS 2018.
    """

    size: Annotated[int, Range(1, 256)] = 3
    draw = "uniform"
    kinds = frozenset({"hidden", "branch"})

    def misfit(self, site: Site) -> str | None:
        """Squares need rows and columns."""
        return None if site.maps else "its squares need maps; nearest: model=cnn"

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """Grows squares to the right and down from their seeds."""
        from torch.nn.functional import max_pool2d, pad

        rows, columns = draw.shape[-2:]
        high, wide = min(self.size, rows), min(self.size, columns)
        fits = (rows - high + 1) * (columns - wide + 1)
        seeds = draw[..., : rows - high + 1, : columns - wide + 1]
        chance = rate * (rows * columns / (high * wide * fits))
        squares = (seeds < chance).to(draw.dtype).flatten(0, -3)
        grown = max_pool2d(pad(squares, (wide - 1, wide - 1, high - 1, high - 1)), (high, wide), 1)
        kept = 1 - grown.view_as(draw)
        share = kept.flatten(1).mean(1).clamp(min=1 / kept[0].numel())
        return Perturbation(kept / share.view(-1, *(1 for _ in kept.shape[1:])))

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The share of elements that were dropped."""
        return (perturbation.scale == 0).flatten(1).float().mean(1)
