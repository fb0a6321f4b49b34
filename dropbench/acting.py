"""What a strategy does while a model computes: the callables that a model calls at its sites.

The model calls `noise(site, value)`: it sees no rate, no seed and no mode. Which of these callables it is given
decides: `StepNoise` draws (training, Monte Carlo), `ExpectedNoise` draws nothing (evaluation).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from dropbench.noise import Perturbation, Place

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.policies import State
    from dropbench.spec import Scene
    from dropbench.strategy import Placement, Strategy
    from dropbench.streams import Purpose, Streams


class NoiseFn(Protocol):
    """What a model calls where noise may act."""

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        """The value [R, ...] that goes on from `site`; `drive`: its pre-activation, where it has one."""

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """The action at `site` on a value of `shape` [R, ...], for layers that apply it themselves; None for none."""


@dataclass(kw_only=True)
class Acting(ABC):
    """Abstract: a strategy bound to the present of R nets.

    Args:
        strategy: stacked.
        placements: from `Strategy.place`.
        state: of the policies.
        scene: the present.
        test_scaled: whether the noise is not divided by the keep probability in training, and multiplied by it in
            evaluation (`scaling=test`).
        constant: rates that no policy moves, by site; filled here, for all steps of a training.
    """

    strategy: Strategy
    placements: Mapping[str, Placement]
    state: Mapping[str, State]
    scene: Scene
    test_scaled: bool = False
    constant: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        """See `NoiseFn`."""
        perturbation = self.perturbation(site, tuple(value.shape), drive)
        return value if perturbation is None else perturbation(value)

    @abstractmethod
    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """See `NoiseFn`."""

    def _rate(self, placement: Placement, drive: Tensor | None) -> tuple[Tensor, Place]:
        """The rate that acts, with the axes of the site, and what else the noise may know."""
        site, noise = placement.site, self.strategy.noise
        rate = self.constant.get(site.name)
        if rate is None:
            rate = self.strategy.rate_at(site, self.state, self.scene)
            if rate.dim() == 1:
                rate = rate.view(-1, *(1,) * len(site.axes))
            if not self.strategy.policies:
                self.constant[site.name] = rate
        learned = {item.name: self.scene.params[learned_name(site.name, item.name)] for item in noise.learned(site)}
        place = Place(site, self.scene, learned, drive)
        return noise.effective(rate, place), place


@dataclass(kw_only=True)
class StepNoise(Acting):
    """Draws, perturbs and, when watched, notes the rates.

    Args:
        streams: of the runs.
        watched: whether to note the asked and the realised rate of every site.
        purpose: of the draws: `noise` in training, `eval` in Monte Carlo evaluation.
        key: of the draws beside the purpose, where it is not the step.
        copies: how often the batch is to be repeated before noise first acts on a value, each copy with its own noise.
        asked: rates [R] by site, noted.
        realised: likewise.
        penalties: terms [R] of the loss, by site.
    """

    streams: Streams
    watched: bool = False
    purpose: Purpose = "noise"
    key: int | None = None
    copies: int = 1
    asked: dict[str, Tensor] = field(default_factory=dict)
    realised: dict[str, Tensor] = field(default_factory=dict)
    penalties: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        """See `NoiseFn`; what comes before the first noise is computed once for all copies."""
        if self.copies > 1 and site in self.placements:
            axis = self.placements[site].site.axes.index("batch") + 1
            times = [self.copies if place == axis else 1 for place in range(value.dim())]
            value, self.copies = value.repeat(times), 1
            drive = None if drive is None else drive.repeat(times)
        return super().__call__(site, value, drive)

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """See `NoiseFn`."""
        placement = self.placements.get(site)
        if placement is None:
            return None
        noise, shared = self.strategy.noise, placement.shared
        rate, place = self._rate(placement, drive)
        axes = placement.site.axes
        drawn = tuple(1 if axis in shared else length for axis, length in zip(axes, shape[1:], strict=True))
        step = self.scene.clock.step if self.key is None else self.key
        draw = getattr(self.streams, noise.draw)(self.purpose, step, placement.key, drawn)
        perturbation = noise.perturb(draw, rate, place)
        penalty = noise.penalty(rate, place)
        if penalty is not None:
            self.penalties[site] = penalty
        if self.watched:
            self.asked[site] = rate.detach().flatten(1).mean(1)
            self.realised[site] = noise.realised(perturbation)
        if self.test_scaled:
            return replace(perturbation, scale=perturbation.scale * (1 - rate))
        if placement.site.kind == "cell":
            return replace(perturbation, scale=perturbation.scale * (1 - rate), readout=1 / (1 - rate))
        return perturbation


@dataclass(kw_only=True)
class ExpectedNoise(Acting):
    """The mean of the noise, and nothing drawn."""

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        """See `NoiseFn`."""
        placement = self.placements.get(site)
        if placement is None:
            return None
        rate, place = self._rate(placement, drive)
        if self.test_scaled:
            if placement.site.kind == "cell":
                return Perturbation(rate.new_ones(()).expand_as(rate), readout=1 - rate)
            return Perturbation(1 - rate)
        return self.strategy.noise.expect(rate, place)


def learned_name(site: str, name: str) -> str:
    """The name under which a parameter of the noise at a site stands among those of the model."""
    return f"noise.{site}.{name}"
