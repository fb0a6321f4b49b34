"""What the tests of the models share: data, parameters in float64, noise, and a plain walk of a recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor
from torch.testing import assert_close

from dropbench.acting import Acting, ExpectedNoise, StepNoise
from dropbench.compose import Composer
from dropbench.config import Config, check
from dropbench.models import Model
from dropbench.models.recurrent import GATES, SITES, recurrent_parameters
from dropbench.noise import Perturbation
from dropbench.noise.bernoulli import Bernoulli
from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.spec import SITE_KINDS, Clock, Facts, Scene
from dropbench.stack import stacked
from dropbench.strategy import Strategy
from dropbench.streams import Streams

IMAGE = Facts("image", (1, 8, 8), "classification", 10)
COLOUR = Facts("image", (3, 8, 8), "classification", 4)
VECTOR = Facts("vector", (11,), "classification", 5)
SEQUENCE = Facts("sequence", (7, 3), "classification", 4)
PER_STEP = Facts("sequence", (7, 3), "classification", 4, per_step=True)
SYMBOLS = Facts("sequence", (7, 3), "classification", 4, symbols=True)
EVERYWHERE = tuple(kind for kind in SITE_KINDS if kind != "carry")  # Bernoulli noise has no fallback
BATCH, STEPS, FEATURES, HIDDEN = 6, 7, 3, 4
CELLS = tuple(SITES)


def close(ours: Tensor, theirs: Tensor) -> None:
    assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_params(model: Model, facts: Facts, runs: int = 1) -> dict[str, Tensor]:
    """Values for every parameter, nothing left at 0 or 1: float64, and running figures in float32, as they are kept."""
    params, source = {}, generator(1)
    for item in model.parameters(facts):
        fan = max(1, torch.Size(item.shape).numel() // max(item.shape)) if len(item.shape) > 1 else 4
        value = torch.randn(runs, *item.shape, generator=source, dtype=torch.float64) / fan**0.5
        if item.name.endswith((".variance", ".gain")):
            value = 0.5 + value.abs()
        params[item.name] = value.requires_grad_() if item.trained else value.float()
    return params


def random_inputs(facts: Facts, runs: int = 1, batch: int = BATCH) -> Tensor:
    return torch.randn(runs, batch, *facts.shape, generator=generator(2), dtype=torch.float64)


def loss_of(outputs: Tensor) -> Tensor:
    """Something every output matters to, differently."""
    weights = torch.linspace(-1, 1, outputs[0].numel(), dtype=outputs.dtype).view(outputs.shape[1:])
    return (outputs * weights).sum() + outputs.square().mean()


# ---- noise


class Fixed:
    """A `NoiseFn` with given actions."""

    def __init__(self, actions: Mapping[str, Perturbation]) -> None:
        self.actions = actions

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        return self.actions[site](value) if site in self.actions else value

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        return self.actions.get(site)


class Recorded:
    """A `NoiseFn` that keeps what passed the sites of another, and its actions."""

    def __init__(self, inner: Acting) -> None:
        self.inner = inner
        self.values: dict[str, Tensor] = {}
        self.actions: dict[str, Perturbation] = {}

    def __call__(self, site: str, value: Tensor, drive: Tensor | None = None) -> Tensor:
        action = self.perturbation(site, tuple(value.shape), drive)
        self.values[site] = value if action is None else action(value)
        return self.values[site]

    def perturbation(self, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Perturbation | None:
        action = self.inner.perturbation(site, shape, drive)
        if action is not None:
            self.actions[site] = action
        return action


@cache
def config(*overrides: str) -> Config:
    return check(Composer().compose(overrides).data)


def strategy_of(name: str) -> Strategy:
    """A strategy as its YAML has it."""
    return config(f"strategy={name}", "model=lstm", "dataset=temporal_order").strategy


def bernoulli(rate: float, where: tuple[str, ...] = EVERYWHERE, share: tuple[str, ...] = ()) -> Strategy:
    """Bernoulli noise of one rate at all sites of some kinds."""
    rates = {"rate": rate, "input_rate": rate, "image_rate": rate, "map_rate": rate}
    return Strategy(Bernoulli(), CrossEntropy(), **rates, where=where, share=share)  # type: ignore[arg-type]


def _bound(strategy: Strategy, model: Model, facts: Facts, seeds: tuple[int, ...]) -> dict[str, object]:
    return {
        "strategy": stacked([strategy] * len(seeds)),
        "placements": strategy.place(model.sites(facts), facts),
        "state": {},
        "scene": Scene(Clock(0, 9, 0, 3), {}, {}, 100, facts.task, Streams(seeds)),
    }


def drawing(
    strategy: Strategy, model: Model, facts: Facts, seeds: tuple[int, ...] = (3,), *, test_scaled: bool = False
) -> StepNoise:
    """The noise of a training step, as the runner binds it."""
    bound = _bound(strategy, model, facts, seeds)
    return StepNoise(**bound, streams=Streams(seeds), test_scaled=test_scaled)  # type: ignore[arg-type]


def expecting(
    strategy: Strategy, model: Model, facts: Facts, seeds: tuple[int, ...] = (3,), *, test_scaled: bool = False
) -> ExpectedNoise:
    """The noise of an evaluation."""
    return ExpectedNoise(**_bound(strategy, model, facts, seeds), test_scaled=test_scaled)  # type: ignore[arg-type]


# ---- one recurrent layer, named as the first of a model


def layer_params(cell: str, scale: float = 1.5) -> dict[str, Tensor]:
    source = generator(5)
    return {
        item.name: torch.randn(1, *item.shape, generator=source, dtype=torch.float64).div(scale).requires_grad_()
        for item in recurrent_parameters("layer1", cell, FEATURES, HIDDEN)
    }


def layer_inputs(batch: int = BATCH) -> Tensor:
    return torch.randn(1, STEPS, batch, FEATURES, generator=generator(7), dtype=torch.float64)


def some_action(site: str, kind: str, cell: str) -> Perturbation:
    """An action that is different in every element, every step, every example and every gate."""
    source, gates = generator(len(site)), GATES[cell]
    if kind in ("weight", "recurrent_weight"):
        rows = HIDDEN if kind == "recurrent_weight" else FEATURES
        return Perturbation(2 * torch.rand(1, BATCH, rows, gates * HIDDEN, generator=source))
    shape = (1, STEPS, BATCH, gates, HIDDEN) if kind == "state" else (1, STEPS, BATCH, HIDDEN)
    scale, mix, shift, readout = torch.rand(4, *shape, generator=source).unbind(0)
    return Perturbation(
        2 * scale,
        mix if kind == "carry" else None,
        shift if kind in ("state", "cell") else None,
        2 * readout if kind == "cell" else None,
    )


def some_actions(cell: str) -> dict[str, Perturbation]:
    """At all transition sites at once, and at the weights of the inputs."""
    named = (("weight_ih", "weight"), *SITES[cell])
    return {f"layer1.{site}": some_action(site, kind, cell) for site, kind in named}


def walk(
    cell: str, params: Mapping[str, Tensor], inputs: Tensor, actions: Mapping[str, Perturbation]
) -> tuple[Tensor, Tensor]:
    """States h and memories c [steps, batch, hidden] of one run, from the formulas, a product a gate and example.

    Args:
        cell: kind of the transition.
        params: of the layer.
        inputs: [steps, batch, features].
        actions: by site.
    """
    steps, batch, _ = inputs.shape
    gates = GATES[cell]
    W, U, b, bu = (params[f"layer1.{name}"][0] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    units = U.shape[0]

    def masked(site: str, weight: Tensor) -> Tensor:
        weight = weight.expand(batch, *weight.shape)
        return weight * actions[site].scale[0] if site in actions else weight

    W, U = masked("layer1.weight_ih", W), masked("layer1.recurrent_weight", U)

    def at(part: Tensor, step: int, gate: int | None = None) -> Tensor:
        if gate is not None:
            return part.expand(1, steps, batch, gates, units)[0, step, :, gate]
        return part.expand(1, steps, batch, units)[0, step]

    def act(site: str, step: int, value: Tensor, old: Tensor | None = None, gate: int | None = None) -> Tensor:
        action = actions.get(f"layer1.{site}")
        if action is None:
            return value
        result = value * at(action.scale, step, gate)
        if action.mix is not None:
            result = result + old * at(action.mix, step, gate)
        return result if action.shift is None else result + at(action.shift, step, gate)

    def product(value: Tensor, weight: Tensor) -> Tensor:
        return torch.stack([value[example] @ weight[example] for example in range(batch)])

    h = c = torch.zeros(batch, units, dtype=inputs.dtype)
    states, memories = [], []
    for step, x in enumerate(inputs):
        own = (product(x, W) + b).chunk(gates, 1)
        back = [
            product(act("state", step, h, gate=gate), U[..., gate * units : (gate + 1) * units])
            + bu[gate * units : (gate + 1) * units]
            for gate in range(gates)
        ]
        if cell == "rnn":
            h = act("carry_h", step, torch.tanh(own[0] + back[0]), h)
        elif cell == "gru":
            r, z = torch.sigmoid(own[0] + back[0]), torch.sigmoid(own[1] + back[1])
            n = torch.tanh(own[2] + r * back[2])
            h = act("carry_h", step, (1 - z) * act("candidate", step, n) + z * h, h)
        else:
            i, f, g, o = (one + other for one, other in zip(own, back, strict=True))
            new = act("cell", step, torch.sigmoid(f) * c + torch.sigmoid(i) * act("candidate", step, torch.tanh(g)))
            read = torch.sigmoid(o) * torch.tanh(new)
            if "layer1.cell" in actions and actions["layer1.cell"].readout is not None:
                read = read * at(actions["layer1.cell"].readout, step)
            h = act("carry_h", step, read, h)
            c = act("carry_c", step, new, c)
        states.append(h)
        memories.append(c)
    return torch.stack(states), torch.stack(memories)
