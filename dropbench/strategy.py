"""A dropout strategy = where x noise x policies x objective.

The rate at a site is `clip(base * product of policy factors, 0, cap)`. The base is `rate`, bounded by `input_rate` at
input sites (`image_rate` where images enter a convolution), by `map_rate` at maps, and by what `rates` says of a site.
What a strategy does in one step stands in `acting.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, Literal

from dropbench.errors import UserError, nearest
from dropbench.noise import Noise
from dropbench.objectives import Objective
from dropbench.policies import Policy, State
from dropbench.spec import SITE_KINDS, TRANSITION_KINDS, Cap, Rate, Site, vector

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dropbench.spec import Facts, PerRun, Scene, Signals

Where = Literal[
    "auto", "nowhere", "transition", "map",
    "input", "embedding", "hidden", "branch", "weight", "state", "candidate", "cell", "carry", "recurrent_weight",
]  # fmt: skip
Axis = Literal["auto", "batch", "step", "gate", "unit", "row", "column", "source", "site"]
_WEIGHTS = frozenset({"weight", "recurrent_weight"})


@dataclass(frozen=True)
class Placement:
    """A site on which a strategy acts, the axes along which its mask is shared, and the name that keys its draws."""

    site: Site
    shared: frozenset[str]
    key: str


@dataclass(frozen=True)
class Strategy:
    """A dropout strategy as the config states it and, with its numbers stacked, as R runs follow it.

    Args:
        noise: what replaces a value.
        objective: what is minimised.
        rate: the highest rate that is reached, the probability of dropping, in [0, 1).
        input_rate: bound on the rate at input sites.
        image_rate: bound on the rate at images that enter a convolution.
        map_rate: bound on the rate at the maps of a convolution.
        rates: bounds on the rates of single sites, by a pattern for their names (`hidden1`, `*.carry_h`) or by kind;
            the first that fits counts, and the three bounds above do not.
        where: kinds of sites; `map`: hidden maps of a convolution; `transition`: the transition site recommended for
            the noise; `auto`: that one in a recurrent model, else input and hidden; `nowhere`: no site.
        share: axes along which a mask is shared, `site` for one mask at all sites of a kind in a layer; `auto`: what
            the noise recommends at its transition site, the batch at weights, else the gates.
        policies: factors on the rate, by name.
        cap: highest rate after all factors.
    """

    noise: Noise
    objective: Objective
    rate: Rate = 0.5
    input_rate: Rate = 0.2
    image_rate: Rate = 0.1
    map_rate: Rate = 0.25
    rates: Mapping[str, Rate] = field(default_factory=dict)
    where: tuple[Where, ...] = ("auto",)
    share: tuple[Axis, ...] = ("auto",)
    policies: Mapping[str, Policy] = field(default_factory=dict)
    cap: Cap = 0.95

    def canonical(self) -> Strategy:
        """The same strategy without what means nothing: one that acts nowhere has no rate and no policy."""
        if self.where == ("nowhere",):
            nothing = {"rate": 0.0, "input_rate": 0.0, "image_rate": 0.0, "map_rate": 0.0, "rates": {}, "policies": {}}
            return replace(self, share=("auto",), **nothing)  # type: ignore[arg-type]
        return self

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `Signals` that some policy reads."""
        return frozenset().union(*(policy.needs for policy in self.policies.values()))

    @property
    def figures(self) -> frozenset[str]:
        """Names of the figures of examples that some policy reads."""
        return frozenset().union(*(policy.figures for policy in self.policies.values()))

    def place(self, sites: tuple[Site, ...], facts: Facts) -> dict[str, Placement]:
        """Chooses the sites to act on, by name.

        Raises:
            UserError: the strategy could not act on a model with these sites, or on such data.
        """
        if self.where == ("nowhere",):
            return {}
        for name, policy in self.policies.items():
            if not policy.acts():
                raise UserError(f"strategy.policies.{name}: its factor never leaves 0, so the strategy would never act")
        kinds = self._kinds(sites)
        there = [site for site in sites if site.kind in kinds or ("map" in kinds and site.maps)]
        if not there:
            raise UserError(
                f"strategy.where={','.join(self.where)}: no such site in the model, which has "
                f"{', '.join(dict.fromkeys(site.kind for site in sites))}{_hint(kinds)}"
            )
        able = [site for site in there if site.kind in self.noise.kinds]
        if not able:
            raise UserError(
                f"strategy.where={','.join(self.where)}: {self.noise.kind()} noise acts on "
                f"{', '.join(kind for kind in SITE_KINDS if kind in self.noise.kinds)}"
            )
        able = _fitting(able, [self.noise.misfit(site) for site in able], f"strategy.noise={self.noise.kind()}")
        self._check_share(able)
        for name, policy in self.policies.items():
            reasons = [policy.misfit(site, self._shared(site)) for site in able]
            able = _fitting(able, reasons, f"strategy.policies.{name}")
        for name, policy in self.policies.items():
            reason = policy.idle(able, facts)
            if reason is not None:
                raise UserError(f"strategy.policies.{name}: {reason}")
        self._check_rates(able)
        return {site.name: Placement(site, self._shared(site), self._key(site)) for site in able}

    def init(self, runs: int, sites: tuple[Site, ...], device: torch.device | str = "cpu") -> dict[str, State]:
        """The state of the policies of `runs` runs before training."""
        return {
            name: {key: value.to(device) for key, value in policy.init(runs, sites).items()}
            for name, policy in self.policies.items()
        }

    def update(self, state: Mapping[str, State], signals: Signals) -> dict[str, State]:
        """The state of the policies after a control tick."""
        return {name: policy.update(state[name], signals) for name, policy in self.policies.items()}

    def rate_at(self, site: Site, state: Mapping[str, State], scene: Scene) -> Tensor:
        """The rate at a site now: [R], or with the axes of the site where a policy tells its elements apart."""
        rate = vector(self.rate)
        bound = self._bound(site)
        if bound is not None:
            rate = rate.minimum(vector(bound))
        for name, policy in self.policies.items():
            factor = policy.factor(site, state[name], scene)
            if factor.dim() > rate.dim():
                rate = _widened(rate, factor.dim())
            rate = rate * _widened(factor, rate.dim())
        return rate.clamp(min=0).minimum(_widened(vector(self.cap), rate.dim()))

    def _bound(self, site: Site) -> PerRun | None:
        for pattern, bound in self.rates.items():
            if _fits(pattern, site):
                return bound
        if site.kind in ("input", "embedding"):
            return self.image_rate if "row" in site.axes else self.input_rate
        return self.map_rate if site.maps else None

    def _kinds(self, sites: tuple[Site, ...]) -> frozenset[str]:
        recurrent = any(site.kind in TRANSITION_KINDS for site in sites)
        transition = self.noise.transition
        kinds: set[str] = set()
        for place in self.where:
            if transition is not None and (place == "transition" or (place == "auto" and recurrent)):
                kinds.add(transition[0])
            elif place == "auto":
                kinds.update(("input", "hidden"))
            else:
                kinds.add(place)
        return frozenset(kinds)

    def _shared(self, site: Site) -> frozenset[str]:
        if "auto" not in self.share:
            return frozenset(self.share)
        if self.noise.transition is not None and site.kind == self.noise.transition[0]:
            return frozenset(self.noise.transition[1]) | ({"batch"} if site.kind in _WEIGHTS else set())
        if site.kind in _WEIGHTS:
            return frozenset({"batch"})
        return frozenset({"gate"}) | (
            frozenset({"row", "column"}) if self.noise.whole_maps and site.maps else frozenset()
        )

    def _key(self, site: Site) -> str:
        layer = site.name.rpartition(".")[0]
        return f"{layer}.{site.kind}" if "site" in self.share and layer else site.name

    def _check_share(self, sites: list[Site]) -> None:
        axes = {axis for site in sites for axis in site.axes} | {"auto", "site"}
        for axis in self.share:
            if axis not in axes:
                there = ", ".join(sorted(axes - {"auto", "site"}))
                hint = {"step": "; nearest: model=lstm", "gate": "; nearest: model=lstm", "row": "; nearest: model=cnn"}
                raise UserError(
                    f"strategy.share={axis}: no such axis at the chosen sites; they have {there}{hint.get(axis, '')}"
                )

    def _check_rates(self, sites: list[Site]) -> None:
        for pattern in self.rates:
            if not any(_fits(pattern, site) for site in sites):
                known = [site.name for site in sites]
                raise UserError(
                    f"strategy.rates.{pattern}: no such site is chosen; known: {', '.join(known)}"
                    f"{nearest(pattern, known)}"
                )


def _fitting(sites: list[Site], reasons: list[str | None], key: str) -> list[Site]:
    """The sites without a reason against them; where there are none, that of the last is told."""
    if None not in reasons:
        raise UserError(f"{key}: {reasons[-1]}")
    return [site for site, reason in zip(sites, reasons, strict=True) if reason is None]


def _hint(kinds: frozenset[str]) -> str:
    """Where sites of these kinds are to be had."""
    if kinds & frozenset(TRANSITION_KINDS):
        return "; nearest: model=lstm"
    hints = {
        "map": "model=cnn",
        "branch": "model=cnn_residual",
        "embedding": "model=lstm with data of symbols (dataset=temporal_order, copy_memory)",
    }
    return next((f"; nearest: {hint}" for kind, hint in hints.items() if kind in kinds), "")


@cache
def _fits(pattern: str, site: Site) -> bool:
    return pattern == site.kind or fnmatchcase(site.name, pattern)


def _widened(value: Tensor, dims: int) -> Tensor:
    """[R] with axes of length 1 behind, so that it has `dims`; anything else as it is."""
    return value.view(-1, *(1,) * (dims - 1)) if value.dim() == 1 else value
