"""What every strategy keeps: each YAML under conf/strategy, found recursively, on MLP, CNN and LSTM.

A new strategy is held to all of this without a line here. A strategy and a model that do not go together must say why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch
from support import MODELS, MemorySink, choices, data_of, message, tiny

from dropbench import runner
from dropbench.config import Config, check
from dropbench.errors import UserError
from dropbench.policies.gradual import Gradual
from dropbench.runner import Interrupted, Trainer
from dropbench.schema import plain
from dropbench.spec import Clock
from dropbench.stack import stacked
from dropbench.strategy import StepNoise, spread
from dropbench.streams import Streams

STRATEGIES = choices("strategy")
PAIRS = [(strategy, model) for strategy in STRATEGIES for model in MODELS]
CPU = torch.device("cpu")
#: Three runs of a stack differ in seeds and real numbers.
RUNS = ({"seed": 0}, {"seed": 1, "strategy.rate": 0.3}, {"seed": 2**64 - 1, "optimizer.learning_rate": 0.03})
STEPS = 6  # 48 examples in batches of 16, twice
SIGMAS = 5


class Training:
    """One training of a stack by the real loop, and all that passed: draws, masks, rates, gradients, records."""

    def __init__(self, *configs: Config, stop_after: int | None = None, goes_on: Training | None = None) -> None:
        self.configs, self.runs = configs, len(configs)
        self.draws: dict[tuple[str, int, str], torch.Tensor] = {}
        self.masks: dict[tuple[int, str], Any] = {}
        self.rates: dict[tuple[int, str], torch.Tensor] = {}
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.sink = MemorySink(self.runs, stop_after)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "StepNoise", self._noise())
            patch.setattr(runner, "Streams", self._streams())
            self.trainer = Trainer(configs, data_of(configs[0].dataset), CPU, self.sink)
            self.trainer.optimizer = WatchedOptimizer(self.trainer.optimizer, self.gradients)
            if goes_on is not None:
                self.trainer.state.restore(goes_on.sink.checkpoints)
            try:
                self.trainer.run()
            except Interrupted:
                assert stop_after is not None

    def _noise(self) -> type[StepNoise]:
        seen = self

        class Watched(StepNoise):
            def perturbation(self, site, shape):
                result = super().perturbation(site, shape)
                if result is not None:
                    placement = self.placements[site]
                    key = (self.clock.step, site)
                    seen.masks[key] = result
                    seen.rates[key] = self.strategy.rate_at(placement.site, self.clock, self.state, self.facts)
                return result

        return Watched

    def _streams(self) -> type[Streams]:
        draws = self.draws

        class Watched(Streams):
            pass

        for method in ("bits", "uniform", "normal", "permutation", "integers"):

            def watched(self, purpose, step, site, *rest, _name=method):
                result = getattr(super(Watched, self), _name)(purpose, step, site, *rest)
                draws[purpose, step, site] = result
                return result

            setattr(Watched, method, watched)
        return Watched

    @property
    def params(self) -> dict[str, torch.Tensor]:
        state = self.trainer.state
        both = (("last", state.params), ("selected", state.selected), ("optimizer", state.optimizer))
        return {f"{kind}/{name}": value.detach() for kind, part in both for name, value in part.items()}

    def perturbations(self, run: int) -> dict[tuple[int, str, str], torch.Tensor]:
        """Scale, mix and shift of every step and site, of one run."""
        return {
            (*key, part): getattr(mask, part)[run]
            for key, mask in self.masks.items()
            for part in ("scale", "mix", "shift")
            if getattr(mask, part) is not None
        }


class WatchedOptimizer:
    def __init__(self, inner: Any, seen: list[dict[str, torch.Tensor]]) -> None:
        self.inner, self.seen = inner, seen

    def step(self, params, gradients, state, clock, declared):
        self.seen.append({name: value.clone() for name, value in gradients.items()})
        self.inner.step(params, gradients, state, clock, declared)

    def rate(self, clock):
        return self.inner.rate(clock)


class Pair:
    """A strategy on a model, and the trainings that the tests below look at, each made once."""

    def __init__(self, strategy: str, model: str) -> None:
        self.strategy, self.model = strategy, model
        self.configs = [tiny(strategy, model, changes) for changes in RUNS]
        self.first = self.configs[0]
        self.data = data_of(self.first.dataset)
        self.sites = self.first.model.sites(self.data.facts)
        self.placements = self.first.strategy.place(self.sites)  # raises where the pair makes no sense

    @cached_property
    def stack(self) -> Training:
        return Training(*self.configs)

    @cached_property
    def interrupted(self) -> Training:
        return Training(*self.configs, stop_after=4)

    def noise(self, runs: int, step: int) -> StepNoise:
        """The noise of step `step` of 100 of `runs` runs like the first, in a batch of all examples."""
        strategy = stacked([self.first.strategy] * runs)
        facts = {name: figure.expand(runs, -1) for name, figure in self.data.train.facts.items()}
        clock, streams = Clock(step, 100, 0, 1), Streams(tuple(range(runs)))
        return StepNoise(strategy, self.placements, streams, clock, strategy.init(runs), facts, watched=True)

    def shape(self, name: str, runs: int, *, drawn: bool = False) -> tuple[int, ...]:
        """Of a value at a site in a batch of all examples; `drawn`: of what is drawn for it."""
        placement = self.placements[name]
        lengths = {"batch": len(self.data.train), "step": 6, "row": 6, "column": 6, "source": 9}
        lengths["unit"] = placement.site.units
        return (runs, *(1 if drawn and axis in placement.shared else lengths[axis] for axis in placement.site.axes))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are computed many times faster by one thread than by threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    try:
        yield Pair(*request.param)
    except UserError as error:
        pytest.skip(f"refused: {error}")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_acts_on_some_model_and_a_refusal_has_a_reason(strategy):
    refusals = []
    for model in MODELS:
        try:
            Pair(strategy, model)
        except UserError:
            with pytest.raises(UserError) as error:
                Pair(strategy, model)
            refusals.append(message(error))
    assert len(refusals) < len(MODELS), refusals
    for line in refusals:
        assert line.startswith("strategy."), line


@pytest.mark.parametrize(
    "strategy", [name for name in STRATEGIES if name.split("/")[0] in ("none", "standard", "gradual")]
)
@pytest.mark.parametrize("model", MODELS)
def test_the_strategies_for_every_model_are_refused_by_none(strategy, model):
    assert bool(Pair(strategy, model).placements) == (strategy != "none")


def test_it_builds_and_survives_a_round_trip(pair):
    for config in pair.configs:
        assert check(plain(config)) == config


def test_the_training_is_whole(pair):
    """The guard of all tests below: it trained, acted at every placed site in every step, and drew for nothing else."""
    training = pair.stack
    assert training.trainer.state.step == STEPS
    assert all(result is not None and "error" not in result for result in training.sink.results)
    assert set(training.masks) == {(step, site) for step in range(STEPS) for site in pair.placements}
    noises = {(step, site) for purpose, step, site in training.draws if purpose == "noise"}
    assert noises == set(training.masks)
    assert {purpose for purpose, _, _ in training.draws} <= {"init", "order", "noise"}
    before = Trainer(pair.configs, pair.data, CPU, MemorySink(3)).state.params
    for name, value in training.trainer.state.params.items():
        assert not torch.equal(value, before[name]), name


def test_a_stack_of_three_equals_three_runs_alone(pair):
    stack = pair.stack
    for run, config in enumerate(pair.configs):
        alone = Training(config)
        assert set(alone.draws) == set(stack.draws)
        for key, drawn in alone.draws.items():  # noise, initial weights and data order
            assert torch.equal(drawn[0], stack.draws[key][run]), key
        assert alone.rates.keys() == stack.rates.keys()
        for key, rate in alone.rates.items():
            assert torch.equal(rate[0], stack.rates[key][run]), key
        here, there = alone.perturbations(0), stack.perturbations(run)
        assert here.keys() == there.keys()
        for key, part in here.items():
            assert torch.equal(part, there[key]), key
        for mine, theirs in zip(alone.sink.records[0], stack.sink.records[run], strict=True):
            assert mine["training_loss"] == pytest.approx(theirs["training_loss"], rel=1e-4)
            assert mine["validation"]["loss"] == pytest.approx(theirs["validation"]["loss"], rel=1e-4)
        for name, value in alone.params.items():
            torch.testing.assert_close(value[0], stack.params[name][run], rtol=1e-3, atol=1e-5)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(pair):
    again = Training(*pair.configs)
    for key, drawn in pair.stack.draws.items():
        assert torch.equal(drawn, again.draws[key]), key
    for name, value in pair.stack.params.items():
        assert torch.equal(value, again.params[name]), name  # the same command gives the same bits
    by_purpose: dict[str, list[torch.Tensor]] = {}
    for (purpose, _, _), drawn in pair.stack.draws.items():
        by_purpose.setdefault(purpose, []).append(drawn.flatten(1).double())
    for purpose, drawn in by_purpose.items():
        numbers = torch.cat(drawn, 1)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(numbers[one], numbers[other]), purpose


def test_no_step_repeats_the_draws_of_another(pair):
    for site in pair.placements:
        drawn = [pair.stack.draws["noise", step, site].flatten().tolist() for step in range(STEPS)]
        assert len({tuple(numbers) for numbers in drawn}) == STEPS


@pytest.mark.parametrize("step", [0, 10, 30, 60, 99])
def test_the_realised_rate_lies_in_the_binomial_interval_of_the_asked_one(pair, step):
    runs = 8
    noise = pair.noise(runs, step)
    for name in pair.placements:
        noise.perturbation(name, pair.shape(name, runs))
        asked, realised = noise.asked[name], noise.realised[name]
        assert asked.shape == realised.shape == (runs,)
        count = math.prod(pair.shape(name, 1, drawn=True))
        for rate, share in zip(asked.tolist(), realised.tolist(), strict=True):
            assert 0 <= rate < 1
            if rate == 0:
                assert share == 0
            else:
                assert abs(share - rate) <= SIGMAS * math.sqrt(rate * (1 - rate) / count) + 10 / count + 2**-17, name


def test_some_rate_is_above_0_at_some_time(pair):
    """A strategy that acts somewhere acts at some time."""
    highest = dict.fromkeys(pair.placements, 0.0)
    for step in (0, 10, 30, 60, 99):
        noise = pair.noise(1, step)
        for name in highest:
            noise.perturbation(name, pair.shape(name, 1))
            highest[name] = max(highest[name], noise.asked[name].item())
    assert all(rate > 0.01 for rate in highest.values()), highest


def test_factors_are_non_negative_and_commute(pair):
    trainer = pair.stack.trainer
    extra = {"another": Gradual(start=0.25, end=0.75, until=1.0)}
    runs = len(pair.configs)
    facts = trainer.data.train.gather(torch.arange(16).expand(runs, 16))[2]
    policies = {**extra, **pair.first.strategy.policies}
    orders = [policies, dict(reversed(policies.items()))]
    strategies = [stacked([replace(config.strategy, policies=order) for config in pair.configs]) for order in orders]
    state = {"another": {}, **trainer.state.policies}
    for step in range(STEPS + 1):
        clock = Clock(step, STEPS, 0, 2)
        for site in pair.sites:
            product = torch.ones(())
            for name, policy in strategies[0].policies.items():
                factor = policy.factor(site, clock, state[name], facts)
                assert factor.shape[0] == runs
                assert factor.dim() in (1, 3)
                assert factor.isfinite().all()
                assert (factor >= 0).all()
                product = product * (factor if factor.dim() == 3 else factor.view(-1, 1, 1))
            one, other = (strategy.rate_at(site, clock, state, facts) for strategy in strategies)
            torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
            assert (one >= 0).all()
            assert (one <= strategies[0].cap.view(-1, *(1 for _ in one.shape[1:]))).all()
            base = strategies[0].rate
            base = base.minimum(strategies[0].input_rate) if site.kind == "input" else base
            expected = (base.view(-1, 1, 1) * product).minimum(strategies[0].cap.view(-1, 1, 1))
            torch.testing.assert_close(one.view(runs, *(one.shape[1:] or (1, 1))), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("step", [10, 60])
def test_the_mean_of_the_noise_is_what_stands_in_evaluation(pair, step):
    runs = 128
    noise = pair.noise(runs, step)
    for name, placement in pair.placements.items():
        shape = pair.shape(name, runs)
        value = torch.tensor(2.0).expand(shape)
        fallback = torch.tensor(-1.0).expand(shape)
        rate = noise.strategy.rate_at(placement.site, noise.clock, noise.state, noise.facts)
        expected = noise.strategy.noise.expect(spread(rate, placement.site.axes))
        aim = (value if expected is None else expected(value, fallback)).double()
        result = noise.perturbation(name, shape)(value, fallback).double()
        assert result.shape == shape
        difference = result - aim
        count = math.prod(pair.shape(name, runs, drawn=True))
        assert difference.mean().abs() <= SIGMAS * difference.std() / math.sqrt(count), name


def test_evaluation_is_deterministic_and_draws_nothing(pair, monkeypatch):
    trainer = pair.stack.trainer

    def fail(*_):
        raise AssertionError("evaluation draws")

    monkeypatch.setattr(Streams, "_words", fail)
    first = trainer._measure(trainer.state.selected, trainer.data.validation)
    assert first == trainer._measure(trainer.state.selected, trainer.data.validation)
    assert all(math.isfinite(value) for figure in first.values() for value in figure)
    reported = [result["validation"] for result in pair.stack.sink.results]
    assert reported == [{name: figure[run] for name, figure in first.items()} for run in range(3)]
    if pair.placements:  # the guard guards
        with pytest.raises(AssertionError, match="evaluation draws"):
            trainer._update(torch.arange(16).expand(3, 16), 0, 0)


def test_resume_equals_no_interruption(pair):
    stopped = pair.interrupted
    assert stopped.trainer.state.step == 4  # in the middle of an epoch
    resumed = Training(*pair.configs, goes_on=stopped)
    assert len(stopped.gradients) == 4
    assert len(resumed.gradients) == 2
    whole = pair.stack
    for key in resumed.draws:
        if key[0] == "noise":
            assert torch.equal(resumed.draws[key], whole.draws[key]), key
    for name, value in whole.params.items():
        assert torch.equal(resumed.params[name], value), name
    for run in range(3):
        assert stopped.sink.records[run] + resumed.sink.records[run] == whole.sink.records[run]
        assert resumed.sink.results[run] == whole.sink.results[run]
    assert [history.score for history in resumed.trainer.state.histories] == [
        history.score for history in whole.trainer.state.histories
    ]


def test_gradients_are_finite_and_reach_every_parameter(pair):
    seen = pair.stack.gradients
    assert len(seen) == STEPS
    assert set(seen[0]) == set(pair.stack.trainer.trained)
    for name in seen[0]:
        every = torch.stack([gradients[name] for gradients in seen])
        assert every.isfinite().all(), name
        assert (every.abs().flatten(2).amax((0, 2)) > 0).all(), name


def test_rate_0_is_no_dropout(pair):
    zero = Training(tiny(pair.strategy, pair.model, {"strategy.rate": 0}))
    none = tiny("none", pair.model)
    plainly = Training(replace(none, strategy=replace(none.strategy, objective=pair.first.strategy.objective)))
    assert all((rate == 0).all() for rate in zero.rates.values())
    for name, value in plainly.params.items():
        assert torch.equal(zero.params[name], value), name
    own = ("sites", "policies")
    for mine, theirs in zip(zero.sink.records[0], plainly.sink.records[0], strict=True):
        assert {k: v for k, v in mine.items() if k not in own} == {k: v for k, v in theirs.items() if k not in own}
    assert zero.sink.results[0]["test"] == plainly.sink.results[0]["test"]
    if pair.placements:  # and a rate is not no dropout
        assert any(not torch.equal(pair.stack.params[name][0], value[0]) for name, value in plainly.params.items())


def test_no_run_reaches_another(pair):
    """Another run in the middle of the stack changes not a bit of those beside it."""
    changes = {"seed": 99, "strategy.rate": 0.1, "optimizer.learning_rate": 1.0, "optimizer.max_norm": 0.5}
    strange = tiny(pair.strategy, pair.model, changes)
    other = Training(pair.configs[0], strange, pair.configs[2])
    for run in (0, 2):
        for name, value in pair.stack.params.items():
            assert torch.equal(other.params[name][run], value[run]), name
        assert other.sink.records[run] == pair.stack.sink.records[run]
        assert other.sink.results[run] == pair.stack.sink.results[run]
        for mine, theirs in zip(other.gradients, pair.stack.gradients, strict=True):
            for name, value in mine.items():
                assert torch.equal(value[run], theirs[name][run]), name
    assert other.sink.records[1] != pair.stack.sink.records[1]


def test_all_state_is_tensors_with_a_leading_run_axis(pair):
    training = pair.interrupted
    state = training.trainer.state
    tensors = {
        **state.params, **state.optimizer, **state.selected, **state.rates,
        **{f"loss{step}": loss for step, loss in enumerate(state.losses)},
        **{f"{name}/{key}": value for name, part in state.policies.items() for key, value in part.items()},
    }  # fmt: skip
    assert len(state.losses) == 1  # one step since the evaluation
    assert set(state.policies) == set(pair.first.strategy.policies)
    assert set(state.rates) == set(pair.placements)
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor), name
        assert tensor.shape[:1] == (3,), name
    assert len(state.histories) == 3
    for run, checkpoint in enumerate(training.sink.checkpoints):
        assert torch.equal(checkpoint.tensors["losses"], state.losses[0][run : run + 1])
        for name, value in state.params.items():
            assert torch.equal(checkpoint.tensors[f"params/{name}"], value[run]), name
        for name, part in state.policies.items():
            for key, value in part.items():
                assert torch.equal(checkpoint.tensors[f"policies/{name}/{key}"], value[run]), name
