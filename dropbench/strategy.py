"""A dropout strategy = where x noise x policies x objective, and what it does in one step.

The rate at a site is `clip(base * product of policy factors, 0, cap)`. The base is `rate`; at input sites it is the
smaller of `rate` and `input_rate`. The model calls `noise(site, value)`: it sees no rate, no seed and no mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from dropbench.errors import UserError
from dropbench.noise import Noise, Perturbation
from dropbench.objectives import Objective
from dropbench.policies import Policy, State
from dropbench.spec import TRANSITION_KINDS, Cap, Rate, Site, vector

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.spec import Clock, Signals
    from dropbench.streams import Purpose, Streams

Place = Literal[
    "auto", "nowhere", "transition",
    "input", "embedding", "hidden", "state", "candidate", "cell", "carry", "recurrent_weight",
]  # fmt: skip
Axis = Literal["auto", "batch", "step", "unit", "row", "column", "source"]


class NoiseFn(Protocol):
    """What a model calls where noise may act."""

    def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        """The value [R, ...] that goes on from `site`; `fallback` is the old value that a carry site may keep."""

    def perturbation(self, site: str, shape: tuple[int, ...]) -> Perturbation | None:
        """The action at `site` on a value of `shape` [R, ...], for layers that apply it themselves; None for none."""


@dataclass(frozen=True)
class Placement:
    """A site on which a strategy acts, and the axes along which its mask is shared."""

    site: Site
    shared: frozenset[str]


@dataclass(frozen=True)
class Strategy:
    """A dropout strategy as the config states it and, with its numbers stacked, as R runs follow it.

    Args:
        noise: what replaces a value.
        objective: what is minimised.
        rate: the highest rate that is reached, the probability of dropping, in [0, 1).
        input_rate: bound on the rate at input sites.
        where: kinds of sites; `transition`: the transition site recommended for the noise; `auto`: that one in a
            recurrent model, else input and hidden; `nowhere`: no site.
        share: axes along which a mask is shared; `auto`: what the noise recommends at its transition site, else none.
        policies: factors on the rate, by name.
        cap: highest rate after all factors.
    """

    noise: Noise
    objective: Objective
    rate: Rate = 0.5
    input_rate: Rate = 0.2
    where: tuple[Place, ...] = ("auto",)
    share: tuple[Axis, ...] = ("auto",)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    cap: Cap = 0.95

    def canonical(self) -> Strategy:
        """The same strategy without what means nothing: one that acts nowhere has no rate and no policy."""
        if self.where == ("nowhere",):
            return replace(self, rate=0.0, input_rate=0.0, share=("auto",), policies={})
        return self

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Signals` that some policy reads."""
        return frozenset().union(*(policy.needs for policy in self.policies.values()))

    def place(self, sites: tuple[Site, ...]) -> dict[str, Placement]:
        """Chooses the sites to act on, by name.

        Raises:
            UserError: the strategy could not act on a model with these sites.
        """
        if self.where == ("nowhere",):
            return {}
        for name, policy in self.policies.items():
            if not policy.acts():
                raise UserError(f"strategy.policies.{name}: its factor never leaves 0, so the strategy would never act")
        kinds = self._kinds(sites)
        placements = {
            site.name: Placement(site, self._shared(site)) for site in sites if site.kind in kinds & self.noise.kinds
        }
        if not placements:
            there = ", ".join(sorted({site.kind for site in sites}))
            raise UserError(
                f"strategy.where={','.join(self.where)}: {self.noise.kind()} noise acts on "
                f"{', '.join(sorted(self.noise.kinds))}, and the model has {there}: it would act nowhere"
            )
        axes = {axis for placement in placements.values() for axis in placement.site.axes}
        for axis in self.share:
            if axis != "auto" and axis not in axes:
                there = ", ".join(sorted(axes))
                raise UserError(f"strategy.share={axis}: no such axis at the chosen sites; they have {there}")
        return placements

    def init(self, runs: int) -> dict[str, State]:
        """The state of the policies of `runs` runs before training."""
        return {name: policy.init(runs) for name, policy in self.policies.items()}

    def update(self, state: Mapping[str, State], signals: Signals) -> dict[str, State]:
        """The state of the policies after a control tick."""
        return {name: policy.update(state[name], signals) for name, policy in self.policies.items()}

    def rate_at(self, site: Site, clock: Clock, state: Mapping[str, State], facts: Mapping[str, Tensor]) -> Tensor:
        """The rate at a site now: [R], or [R, batch or 1, units or 1] where a policy tells examples or units apart."""
        rate = vector(self.rate)
        if site.kind == "input":
            rate = rate.minimum(vector(self.input_rate))
        for name, policy in self.policies.items():
            factor = policy.factor(site, clock, state[name], facts)
            if factor.dim() > rate.dim():
                rate = rate.view(-1, 1, 1)
            rate = rate * (factor.view(-1, 1, 1) if factor.dim() < rate.dim() else factor)
        cap = vector(self.cap)
        return rate.clamp(min=0).minimum(cap.view(-1, 1, 1) if rate.dim() == 3 else cap)

    def _kinds(self, sites: tuple[Site, ...]) -> frozenset[str]:
        recurrent = any(site.kind in TRANSITION_KINDS for site in sites)
        kinds: set[str] = set()
        for place in self.where:
            if place == "transition" or (place == "auto" and recurrent):
                kinds.add(self.noise.transition[0])
            elif place == "auto":
                kinds.update(("input", "hidden"))
            else:
                kinds.add(place)
        return frozenset(kinds)

    def _shared(self, site: Site) -> frozenset[str]:
        if "auto" not in self.share:
            return frozenset(self.share)
        kind, shared = self.noise.transition
        return frozenset(shared) if site.kind == kind else frozenset()


@dataclass
class StepNoise:
    """The `NoiseFn` of one training step: draws, perturbs and, when watched, notes the rates.

    Args:
        strategy: stacked.
        placements: from `Strategy.place`.
        streams: of the runs.
        clock: gives the step that keys the draws.
        state: of the policies.
        facts: figures of the examples of this batch, each [R, batch].
        watched: whether to note the asked and the realised rate of every site.
        purpose: of the draws: `noise` in training, `eval` in Monte Carlo evaluation.
    """

    strategy: Strategy
    placements: Mapping[str, Placement]
    streams: Streams
    clock: Clock
    state: Mapping[str, State]
    facts: Mapping[str, Tensor]
    watched: bool = False
    purpose: Purpose = "noise"
    asked: dict[str, Tensor] = field(default_factory=dict)
    realised: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        """See `NoiseFn`."""
        perturbation = self.perturbation(site, tuple(value.shape))
        return value if perturbation is None else perturbation(value, fallback)

    def perturbation(self, site: str, shape: tuple[int, ...]) -> Perturbation | None:
        """See `NoiseFn`."""
        placement = self.placements.get(site)
        if placement is None:
            return None
        axes = placement.site.axes
        rate = self.strategy.rate_at(placement.site, self.clock, self.state, self.facts)
        drawn = tuple(1 if axis in placement.shared else length for axis, length in zip(axes, shape[1:], strict=True))
        noise = self.strategy.noise
        draw = getattr(self.streams, noise.draw)(self.purpose, self.clock.step, site, drawn)
        perturbation = noise.perturb(draw, spread(rate, axes))
        if self.watched:
            self.asked[site] = rate.flatten(1).mean(1) if rate.dim() > 1 else rate
            self.realised[site] = noise.realised(perturbation)
        return perturbation


@dataclass(frozen=True)
class ExpectedNoise:
    """The `NoiseFn` of evaluation: the mean of the noise, and nothing drawn."""

    strategy: Strategy
    placements: Mapping[str, Placement]
    clock: Clock
    state: Mapping[str, State]
    facts: Mapping[str, Tensor]

    def __call__(self, site: str, value: Tensor, fallback: Tensor | None = None) -> Tensor:
        """See `NoiseFn`."""
        perturbation = self.perturbation(site, tuple(value.shape))
        return value if perturbation is None else perturbation(value, fallback)

    def perturbation(self, site: str, shape: tuple[int, ...]) -> Perturbation | None:
        """See `NoiseFn`."""
        placement = self.placements.get(site)
        if placement is None:
            return None
        rate = self.strategy.rate_at(placement.site, self.clock, self.state, self.facts)
        return self.strategy.noise.expect(spread(rate, placement.site.axes))


def spread(rate: Tensor, axes: tuple[str, ...]) -> Tensor:
    """Views a rate [R] or [R, batch, units] so that it broadcasts over a value with these axes after the run axis."""
    if rate.dim() == 1:
        return rate.view(-1, *(1 for _ in axes))
    lengths = {"batch": rate.shape[1], "unit": rate.shape[2]}
    return rate.reshape(rate.shape[0], *(lengths.get(axis, 1) for axis in axes))
