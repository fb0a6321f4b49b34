"""Dropping what is least informative, or what is most: a rate for some elements and 0 for the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from dropbench.policies import Policy, along
from dropbench.policies.scores import given
from dropbench.spec import PerRun, Range, vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.policies import State
    from dropbench.spec import Facts, Scene, Signals, Site

#: Kinds of sites at weights, where single weights are targeted, column by column; elsewhere whole units.
_WEIGHTS = ("weight", "recurrent_weight")


@dataclass(frozen=True)
class Targeted(Policy):
    """The factor is 1 for a share `gamma` of the elements of a site, chosen by score, and 0 for the rest.

    Formula: `f_j = [rank of s_j < round(gamma n)]`, the rank rising with the score if `protective` (the least important
    are dropped), falling if `adversarial` (the most important are). The expected share that is dropped is `gamma rate`.

    Elements are units (of a layer, of the recurrent state) or, at weights, the weights into one unit. Scores:

        magnitude          the norm of the weights into the unit, over all gates; at weights |w|; anew every step
        saliency           |value x gradient of the loss|, a running mean over epochs
        gradient_conflict  how often halves of a training piece disagree on the sign of the gradient, a running mean;
                           what is in conflict overfits, so `protective` spares what agrees and drops what does not
        given              from a JSON file, a list of numbers for each site

    Args:
        score: what ranks the elements.
        direction: protective or adversarial.
        gamma: share of the elements that is targeted.
        memory: share of a running mean that an epoch keeps.
        file: of scores, for `given`.
        shuffle: whether the scores of a site are dealt out at random (`control=shuffled`).

    What is dropped is scaled as elsewhere, so that evaluation is the mean; the paper does not rescale, and draws
    the masks of weights alone. Saliency, conflict and recurrent units are combinations without published figures.

    Source: Gomez, Zhang, Kamalakara, Madaan, Swersky, Gal, Hinton, "Learning sparse networks using targeted dropout",
    2019.
    """

    score: Literal["magnitude", "saliency", "gradient_conflict", "given"] = "magnitude"
    direction: Literal["protective", "adversarial"] = "protective"
    gamma: Annotated[PerRun, Range(0, 1, open_low=True)] = 0.5
    memory: Annotated[PerRun, Range(0, 1, open_high=True)] = 0.8
    file: str | None = None
    shuffle: bool = False

    def __post_init__(self) -> None:
        """A file of scores goes with `given`, and with nothing else."""
        if (self.score == "given") != (self.file is not None):
            raise ValueError(
                f"file={self.file}: score={self.score} " + ("needs one" if self.file is None else "has none")
            )

    @property
    def needs(self) -> frozenset[str]:
        """What the score is made of."""
        return frozenset({"saliency": {"saliency"}, "gradient_conflict": {"conflict"}}.get(self.score, ()))

    @property
    def files(self) -> tuple[str, ...]:
        """The file of scores."""
        return () if self.file is None else (self.file,)

    def init(self, runs: int, sites: Sequence[Site]) -> State:
        """Running means of measured scores, [R, units]; 0 before the first measurement."""
        import torch

        if self.file is not None:
            return {site.name: torch.tensor(given(self.file, site)).expand(runs, -1).clone() for site in sites}
        if not self.needs:
            return {}
        return {site.name: torch.zeros(runs, site.units) for site in sites}

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> State:
        """Moves the running means."""
        measured = {"saliency": signals.saliency, "gradient_conflict": signals.conflict}.get(self.score, {})
        kept = vector(self.memory).unsqueeze(1)
        return {
            name: (kept * old + (1 - kept) * measured[name]).where((old != 0).any(1, keepdim=True), measured[name])
            if name in measured
            else old
            for name, old in state.items()
        }

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        """0 or 1, along the units, or along the sources and units of a weight."""
        if site.kind not in _WEIGHTS:
            scores = state[site.name] if site.name in state else scene.norms(site)
            assert scores is not None
            if self.score == "gradient_conflict":
                scores = -scores
            return along(site, self._chosen(scores.unsqueeze(1), site, scene).squeeze(1), "unit")
        from dropbench.ranking import by_unit, from_unit

        assert site.weight is not None
        weight = scene.params[site.weight].detach()
        axes = tuple(axis for axis in site.axes if axis != "batch")
        chosen = self._chosen(by_unit(weight.abs(), axes.index("unit")), site, scene)
        return along(site, from_unit(chosen, weight, axes.index("unit")), *axes)

    def _chosen(self, scores: Tensor, site: Site, scene: Scene) -> Tensor:
        """Ranks [R, rows, elements] along the last axis: 1 for the share that is targeted, 0 for the rest."""
        from dropbench.ranking import least

        count = scores.shape[-1]
        if self.shuffle:
            order = scene.streams.permutation("noise", 0, f"{site.name}.shuffle", count)
            scores = scores.gather(-1, order.unsqueeze(1).expand_as(scores))
        scores = scores if self.direction == "protective" else -scores
        return least(scores, (vector(self.gamma) * count).round())

    def misfit(self, site: Site, shared: frozenset[str]) -> str | None:
        """What has no score cannot be ranked, and some element must be targeted."""
        if site.kind in ("input", "embedding"):
            return "units of hidden layers, of recurrent states and weights are scored, not those of the input"
        if self.score == "magnitude" and site.weight is None:
            return f"score=magnitude: no weights of its own lead to the units of {site.name}"
        if self.score != "magnitude" and site.kind in _WEIGHTS:
            return f"score={self.score}: units are scored, and {site.name} stands at weights; nearest: magnitude"
        what, count = "unit", site.units
        if site.kind in _WEIGHTS:
            what, count = "weight into a unit", math.prod(site.shape) // site.units
        if isinstance(self.gamma, float) and round(self.gamma * count) < 1:
            return f"gamma={self.gamma:g}: no {what} of the {count} at {site.name} would be targeted"
        return None

    def idle(self, sites: Sequence[Site], facts: Facts) -> str | None:
        """Reads a given file once, so that a fault in it is found before training."""
        if self.file is not None:
            for site in sites:
                given(self.file, site)
        return None

    def shuffled(self) -> Policy:
        """Scores dealt out at random."""
        from dataclasses import replace

        return replace(self, shuffle=True)
