"""What replaces a value where a strategy acts: one file is one noise."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from dropbench.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.spec import SiteKind


@dataclass(frozen=True)
class Perturbation:
    """What a noise does to one site in one step: `y = value * scale + fallback * mix + shift`, element by element.

    A noise states its action in this form, rather than as a function of the value, so that a recurrent layer can draw
    all its steps at once and differentiate them by hand.

    Args:
        scale: broadcastable to the value [R, ...].
        mix: likewise, the weight of the fallback (the old state, where there is one); None for 0.
        shift: likewise; None for 0.
    """

    scale: Tensor
    mix: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        """Applies the perturbation to `value` [R, ...]; `fallback` is needed where `mix` is set."""
        result = value * self.scale.to(value.dtype)
        if self.mix is not None:
            assert fallback is not None, "this noise mixes with an old value, and the site has none"
            result = result + fallback * self.mix.to(value.dtype)
        if self.shift is not None:
            result = result + self.shift.to(value.dtype)
        return result

    def at(self, axis: int, index: int) -> Perturbation:
        """The perturbation at one `index` of an `axis` (a time step); an axis of length 1 is shared by all."""

        def pick(part: Tensor | None) -> Tensor | None:
            return None if part is None else part.select(axis, index if part.shape[axis] > 1 else 0)

        scale = pick(self.scale)
        assert scale is not None
        return Perturbation(scale, pick(self.mix), pick(self.shift))


class Noise(Part):
    """Abstract: what replaces a value.

    Class attributes:
        draw: what it draws an element: `bits` (int16 words of `Streams.bits`), `uniform` or `normal`.
        kinds: the kinds of sites where it makes sense.
        transition: the kind of transition site recommended for it, and the axes its mask is shared along there;
            `where: transition` means this.
    """

    folder = "noise"
    draw: ClassVar[Literal["bits", "uniform", "normal"]]
    kinds: ClassVar[frozenset[SiteKind]]
    transition: ClassVar[tuple[SiteKind, tuple[str, ...]]]

    @abstractmethod
    def perturb(self, draw: Tensor, rate: Tensor) -> Perturbation:
        """The perturbation of one training step.

        Args:
            draw: [R, ...], 1 along shared axes.
            rate: broadcastable to `draw`, the probability of dropping, or its equivalent.
        """

    @abstractmethod
    def realised(self, perturbation: Perturbation) -> Tensor:
        """The rate [R] that a perturbation turned out to have, to be held against the one asked for."""

    def expect(self, rate: Tensor) -> Perturbation | None:
        """What stands at the site in evaluation: the mean of `perturb`, or None where that is the value itself."""
        return None
