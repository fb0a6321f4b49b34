"""What replaces a value where a strategy acts: one file is one noise."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from dropbench.parts import Part

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.spec import Scene, Site, SiteKind


@dataclass(frozen=True)
class Perturbation:
    """What a noise does to one site in one step: `y = value * scale + fallback * mix + shift`, element by element.

    A noise states its action in this form, rather than as a function of the value, so that a recurrent layer can draw
    all its steps at once and differentiate them by hand.

    Args:
        scale: broadcastable to the value [R, ...].
        mix: likewise, the weight of the fallback (the old state, where there is one); None for 0.
        shift: likewise; None for 0.
        readout: likewise, of a value that is carried from step to step: the factor where it is read, not where it is
            carried, since a factor on what is carried would be taken to the power of the steps; None for 1.
    """

    scale: Tensor
    mix: Tensor | None = None
    shift: Tensor | None = None
    readout: Tensor | None = None

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
        return Perturbation(scale, pick(self.mix), pick(self.shift), pick(self.readout))


@dataclass(frozen=True)
class Place:
    """What a noise may know of where it acts, besides the rate; most need none of it.

    Args:
        site: where.
        scene: when, and in which nets.
        learned: the noise's own parameters at the site, by the names of `Noise.learned`, each [R, *shape].
        drive: the pre-activation [R, ...] of the value, where the model hands it over.
    """

    site: Site
    scene: Scene
    learned: Mapping[str, Tensor] = field(default_factory=dict)
    drive: Tensor | None = None


class Noise(Part):
    """Abstract: what replaces a value.

    Class attributes:
        draw: what it draws an element: `bits` (int16 words of `Streams.bits`), `uniform` or `normal`.
        kinds: the kinds of sites where it makes sense.
        transition: the kind of transition site recommended for it, and the axes its mask is shared along there;
            `where: transition` means this. None: it has no place in a transition.
        whole_maps: whether the mask of a map is one number, unless `share` says otherwise.
        rescales: whether it divides what it keeps by the keep probability, so that `scaling=test` can undo that.
    """

    folder = "noise"
    draw: ClassVar[Literal["bits", "uniform", "normal"]]
    kinds: ClassVar[frozenset[SiteKind]]
    transition: ClassVar[tuple[SiteKind, tuple[str, ...]] | None] = None
    whole_maps: ClassVar[bool] = False
    rescales: ClassVar[bool] = False

    def misfit(self, site: Site) -> str | None:
        """Why the noise cannot act at a site of the right kind, or None."""
        return None

    def learned(self, site: Site) -> tuple[Parameter, ...]:
        """Parameters of its own at a site, trained with those of the model."""
        return ()

    def effective(self, rate: Tensor, place: Place) -> Tensor:
        """The rate that acts where `rate` is asked for; another one where rates are learned."""
        return rate

    @abstractmethod
    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """The perturbation of one training step.

        Args:
            draw: [R, ...], 1 along shared axes.
            rate: broadcastable to `draw`, the probability of dropping, or its equivalent (see `effective`).
            place: where.
        """

    @abstractmethod
    def realised(self, perturbation: Perturbation) -> Tensor:
        """The rate [R] that a perturbation turned out to have, to be held against the one asked for."""

    def expect(self, rate: Tensor, place: Place) -> Perturbation | None:
        """What stands at the site in evaluation: the mean of `perturb`, or None where that is the value itself."""
        return None

    def penalty(self, rate: Tensor, place: Place) -> Tensor | None:
        """A term [R] of the loss that keeps learned rates from falling to 0, or None."""
        return None


def limits(rate: Tensor) -> tuple[Tensor, Tensor]:
    """The least int16 word that is kept, and the scale of what is kept."""
    return _limits(rate) if rate.numel() == len(rate) else _new_limits(rate)


def _new_limits(rate: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    return ((rate * 2**16).round() - 2**15).to(torch.int16), 1 / (1 - rate)


#: A constant rate is one tensor in all steps of a training (tensors hash by identity), so it is worth remembering; a
#: rate for each element is new in every step, and 64 of the size of a weight would fill the memory.
_limits = lru_cache(maxsize=64)(_new_limits)
