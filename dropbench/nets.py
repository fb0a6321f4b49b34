"""R nets of one shape with their strategy: what a loop trains, and what an evaluation measures.

Nothing here remembers a time: every method is told which weights, which state of the policies and which moment of the
training are meant (`Present`), be it now or the moment that was selected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from dropbench.acting import ExpectedNoise, StepNoise, learned_name
from dropbench.data.figures import STEPS
from dropbench.diagnostics import BATCHES, activations, gradient_by_step, gradient_spread, weight_norms
from dropbench.evaluation import evaluate, examples, monte_carlo
from dropbench.models.moments import BatchMoments, RunningMoments
from dropbench.objectives import plain
from dropbench.pruning import without_units, without_weights
from dropbench.signals import GATED
from dropbench.spec import Scene
from dropbench.stack import stacked
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.config import Config
    from dropbench.data import Split
    from dropbench.evaluation import Examples, Figures, Seen
    from dropbench.models import Moments
    from dropbench.objectives import Objective
    from dropbench.policies import State
    from dropbench.spec import Clock, Facts
    from dropbench.streams import Purpose


@dataclass(frozen=True)
class Present:
    """The nets at one moment.

    Args:
        params: by name, each [R, *shape].
        policies: their state.
        clock: the moment.
    """

    params: Mapping[str, Tensor]
    policies: Mapping[str, State]
    clock: Clock


class Nets:
    """R nets of one shape.

    Args:
        configs: of the runs; they differ in seeds and real numbers alone.
        facts: of the data.
        examples: that train.
        device: where they are.

    Attributes:
        strategy: stacked.
        streams: of the runs.
        sites: of the model.
        placements: of the strategy.
        declared: the parameters of the model, and those that the noise learns.
        late: whether noise acts on values alone, so that copies of a batch need not differ before the first noise.
    """

    def __init__(self, configs: Sequence[Config], facts: Facts, examples: int, device: torch.device) -> None:
        self.config = configs[0]  # for what the runs have in common
        self.runs, self.facts, self.examples, self.device = len(configs), facts, examples, device
        self.model, strategy = self.config.model, self.config.strategy
        self.strategy = stacked([config.strategy for config in configs], device)
        self.streams = Streams(tuple(config.seed for config in configs), device)
        self.sites = self.model.sites(facts)
        self.placements = strategy.place(self.sites, facts)
        learned = [
            replace(item, name=learned_name(name, item.name))
            for name, placement in self.placements.items()
            for item in strategy.noise.learned(placement.site)
        ]
        self.declared = {item.name: item for item in (*self.model.parameters(facts), *learned)}
        kinds = {placement.site.kind for placement in self.placements.values()}
        self.late = bool(kinds) and kinds <= {"input", "embedding", "hidden"}
        self._constant: dict[str, Tensor] = {}

    def forward(
        self,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        noise: NoiseFn,
        moments: Moments,
        facts: Mapping[str, Tensor],
    ) -> Tensor:
        """The outputs [R, batch, ...] for `inputs` [R, batch, *shape] with the `facts` of these examples."""
        arguments = (params, inputs, noise, moments, self.facts, facts.get(STEPS))
        if self.config.precision != "bfloat16":
            return self.model.apply(*arguments)
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.model.apply(*arguments)

    def copies(
        self,
        present: Present,
        inputs: Tensor,
        facts: Mapping[str, Tensor],
        objective: Objective,
        *,
        watched: bool,
    ) -> tuple[Tensor, StepNoise]:
        """The outputs [R, copies, batch, ...] of a step as the objective wants them, and the noise that acted."""
        copies, moments = objective.copies, BatchMoments(present.params)
        each = {name: figure.repeat(1, copies) for name, figure in facts.items()}
        noise = self.drawn(present, each, watched=watched, copies=copies if self.late else 1)
        if self.late or copies == 1:
            outputs = self.forward(present.params, inputs, noise, moments, facts)
        else:
            repeated = inputs.repeat(1, copies, *(1 for _ in inputs.shape[2:]))
            outputs = self.forward(present.params, repeated, noise, moments, each)
        outputs = outputs.view(self.runs, copies, -1, *outputs.shape[2:])
        if objective.clean:
            quiet = self.expected(present, facts)
            clean = self.forward(present.params, inputs, quiet, moments, facts)
            outputs = torch.cat([outputs, clean.unsqueeze(1)], 1)
        return outputs, noise

    def drawn(
        self,
        present: Present,
        facts: Mapping[str, Tensor],
        *,
        watched: bool = False,
        purpose: Purpose = "noise",
        key: int | None = None,
        copies: int = 1,
    ) -> StepNoise:
        """The noise of a training step, or of a Monte Carlo pass; see `StepNoise`."""
        return StepNoise(
            strategy=self.strategy, placements=self.placements, state=present.policies, streams=self.streams,
            scene=self._scene(present, facts), test_scaled=self.config.scaling == "test", constant=self._constant,
            watched=watched, purpose=purpose, key=key, copies=copies,
        )  # fmt: skip

    def expected(self, present: Present, facts: Mapping[str, Tensor]) -> ExpectedNoise:
        """The mean of the noise; see `ExpectedNoise`."""
        return ExpectedNoise(
            strategy=self.strategy, placements=self.placements, state=present.policies,
            scene=self._scene(present, facts), test_scaled=self.config.scaling == "test", constant=self._constant,
        )  # fmt: skip

    def measure(
        self,
        present: Present,
        split: Split,
        wrap: Callable[[ExpectedNoise], NoiseFn] | None = None,
        seen: Sequence[Seen] = (),
    ) -> Figures:
        """The figures of a split without noise; `wrap` may put something around its mean; `seen`: see `evaluate`."""
        moments = RunningMoments(present.params)

        def forward(batch: Examples) -> Tensor:
            noise = self.expected(present, batch.facts)
            return self.forward(present.params, batch.inputs, wrap(noise) if wrap else noise, moments, batch.facts)

        return evaluate(forward, split, self.facts, self.runs, seen)

    def sampled(
        self,
        present: Present,
        split: Split,
        samples: int,
        variance: list[float] | None,
        seen: Sequence[Seen] = (),
    ) -> Figures:
        """The figures of the mean prediction of `samples` passes with noise; see `monte_carlo`."""
        moments = RunningMoments(present.params)

        def forward(batch: Examples, key: int) -> Tensor:
            noise = self.drawn(present, batch.facts, purpose="eval", key=key)
            return self.forward(present.params, batch.inputs, noise, moments, batch.facts)

        return monte_carlo(forward, split, self.facts, self.runs, samples, variance, seen)

    def pruned(self, present: Present, split: Split, share: float) -> Figures:
        """The figures of a split after the `share` of smallest units or weights of every net was cut."""
        if self.config.evaluation.prune_by == "weights":
            return self.measure(replace(present, params=without_weights(present.params, self.declared, share)), split)
        return self.measure(present, split, lambda noise: without_units(noise, self.sites, noise.scene, share))

    def opened(self, present: Present) -> Callable[[NoiseFn, Split], Tensor]:
        """A forward pass in which what is given stands at the sites, in place of the noise; see `signals.gradients`."""
        params = {name: tensor.detach() for name, tensor in present.params.items()}

        def forward(noise: NoiseFn, split: Split) -> Tensor:
            inputs, facts = examples(split, self.runs)
            return self.forward(params, inputs, noise, RunningMoments(params), facts)

        return forward

    def diagnose(self, present: Present, train: Split, batch_size: int) -> dict[str, dict[str, Tensor]]:
        """What `diagnostics=true` adds to a record, each figure [R] or [R, steps]."""
        trained = [
            present.params[name] for name, item in self.declared.items() if item.trained and ".noise." not in f".{name}"
        ]
        batches = []
        for batch in range(min(BATCHES, -(-len(train) // batch_size))):
            part = train.part(batch * batch_size, (batch + 1) * batch_size)
            inputs, facts = examples(part, self.runs)
            noise = self.drawn(present, facts, purpose="eval", key=present.clock.step * BATCHES + batch)
            outputs = self.forward(present.params, inputs, noise, RunningMoments(present.params), facts)
            losses = plain(outputs.unsqueeze(1), part.targets.expand(self.runs, *part.targets.shape))
            batches.append(torch.autograd.grad(losses.sum(), trained))
        forward, piece = self.opened(present), train.part(0, GATED)
        return {
            "inactive": activations(forward, piece, self.sites),
            "weight_norms": weight_norms(present.params, self.declared),
            "gradient_by_step": gradient_by_step(forward, piece, self.sites),
            "gradient": gradient_spread(batches),
        }

    def _scene(self, present: Present, facts: Mapping[str, Tensor]) -> Scene:
        return Scene(present.clock, present.params, self.declared, self.examples, self.facts.task, self.streams, facts)
