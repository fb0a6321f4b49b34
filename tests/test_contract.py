"""What every strategy keeps: each YAML under conf/strategy, found recursively, on MLP, CNN and LSTM.

A new strategy is held to all of this without a line here. A strategy and a model that do not go together must say why;
where the plain net of a kind refuses, its variants are tried (SELU, residual branches, layers, symbols).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, NamedTuple

import pytest
import torch
from support import MODELS, VARIANTS, MemorySink, choices, data_of, message, tiny

from dropbench import nets
from dropbench.acting import ExpectedNoise, StepNoise
from dropbench.config import Config, check
from dropbench.errors import UserError
from dropbench.evaluation import Figures
from dropbench.final import final
from dropbench.nets import Present
from dropbench.noise import Noise, Perturbation
from dropbench.policies.gradual import Gradual
from dropbench.runner import Interrupted, Trainer
from dropbench.schema import plain
from dropbench.spec import Clock
from dropbench.stack import stacked
from dropbench.streams import Streams

STRATEGIES = choices("strategy")
CPU = torch.device("cpu")
FEW = {"dataset.train_size": 32}
#: Three runs of a stack differ in seeds and real numbers.
RUNS = ({"seed": 0}, {"seed": 1, "strategy.rate": 0.3}, {"seed": 2**64 - 1, "optimizer.learning_rate": 0.03})
STEPS = 4  # 32 examples in batches of 16, twice; 24, where some are held out
MANY = 256
LOOKS = (0, 10, 30, 60, 99)  # of 100 steps
SIGMAS = 5


class Law(NamedTuple):
    """What a noise keeps of the promises on its rate and its mean, where it is not all of them.

    Args:
        drops: whether it drops anything in training.
        together: elements that fall together, so that there are fewer draws than elements.
        overlap: what may be missing of the asked rate, in units of its square.
        bias: how far the mean of what is multiplied may be from 1.
        cuts: whether evaluation sets some elements to 0, of which then nothing is promised.
        moments: whether it keeps mean 0 and variance 1 of all units rather than the mean of each.
    """

    drops: bool = True
    together: int = 1
    overlap: float = 0.0
    bias: float = 0.0
    cuts: bool = False
    moments: bool = False


#: A noise without an entry keeps every promise exactly.
LAWS = {
    "alpha": Law(moments=True),
    "dropblock": Law(together=9, overlap=2.0),  # squares of 3 x 3
    "concrete": Law(bias=0.02),  # a relaxed mask
    "sparse": Law(drops=False, cuts=True),
}


@cache
def refusal(strategy: str, model: str) -> str | None:
    """Why a strategy and a model do not go together, or None."""
    config = tiny(strategy, model, FEW)
    facts = data_of(config.dataset).facts
    try:
        config.strategy.place(config.model.sites(facts), facts)
    except UserError as error:
        return str(error)
    return None


def tried(strategy: str) -> list[str]:
    """The models on which a strategy is tried."""
    kinds = [model for model in MODELS if refusal(strategy, model) is not None]
    return [*MODELS, *(model for model in VARIANTS if strategy == "standard" or model.partition("/")[0] in kinds)]


TRIED = [(strategy, model) for strategy in STRATEGIES for model in tried(strategy)]
PAIRS = [pair for pair in TRIED if refusal(*pair) is None]
REFUSED = [pair for pair in TRIED if refusal(*pair) is not None]


class Training:
    """One training of a stack by the real loop, and all that passed: draws, masks, rates, gradients, records."""

    def __init__(self, *configs: Config, stop_after: int | None = None, goes_on: Training | None = None) -> None:
        self.configs, self.runs = configs, len(configs)
        self.draws: dict[tuple[str, int, str], torch.Tensor] = {}
        self.masks: dict[tuple[int, str], Perturbation] = {}
        self.rates: dict[tuple[int, str], torch.Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.sink = MemorySink(self.runs, stop_after)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nets, "StepNoise", self._noise())
            patch.setattr(nets, "Streams", self._streams())
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
            def perturbation(self, site, shape, drive=None):
                result = super().perturbation(site, shape, drive)
                if result is not None:
                    key = (self.scene.clock.step, site)
                    parts = {name: getattr(result, name) for name in PARTS}
                    seen.masks[key] = Perturbation(
                        **{name: None if part is None else part.detach() for name, part in parts.items()}
                    )
                    seen.rates[key] = self._rate(self.placements[site], drive)[0].detach()
                    seen.shapes.setdefault(site, shape[1:])
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
        """The parts of the perturbation of every step and site, of one run."""
        return {
            (*key, part): getattr(mask, part)[run]
            for key, mask in self.masks.items()
            for part in PARTS
            if getattr(mask, part) is not None
        }


PARTS = ("scale", "mix", "shift", "readout")


class WatchedOptimizer:
    def __init__(self, inner: Any, seen: list[dict[str, torch.Tensor]]) -> None:
        self.inner, self.seen = inner, seen

    def step(self, params, gradients, state, clock, declared):
        self.seen.append({name: value.clone() for name, value in gradients.items()})
        self.inner.step(params, gradients, state, clock, declared)

    def rate(self, clock):
        return self.inner.rate(clock)


PLAIN: dict[str, Training] = {}


def without_noise(configs: list[Config]) -> Training:
    """The training of a stack that draws no noise, the same for many strategies."""
    key = repr([plain(config) for config in configs])
    if key not in PLAIN:
        PLAIN[key] = Training(*configs)
    return PLAIN[key]


class Pair:
    """A strategy on a model, and the trainings that the tests below look at, each made once."""

    def __init__(self, strategy: str, model: str) -> None:
        self.strategy, self.model = strategy, model
        self.configs = [self.tiny(changes) for changes in RUNS]
        self.first = self.configs[0]
        self.noise = self.first.strategy.noise
        self.law = LAWS.get(self.noise.kind(), Law())
        self.data = data_of(self.first.dataset)
        self.placements = self.first.strategy.place(self.first.model.sites(self.data.facts), self.data.facts)
        self.keys = {placement.key for placement in self.placements.values()}

    def tiny(self, changes: dict[str, Any], strategy: str | None = None) -> Config:
        return tiny(strategy or self.strategy, self.model, {**FEW, **changes})

    @property
    def looks_at_nets(self) -> bool:
        """Whether rates or masks come of what the nets compute, which a stack computes with another rounding."""
        learned = any(self.noise.learned(placement.site) for placement in self.placements.values())
        computed = type(self.noise).effective is not Noise.effective
        return bool(self.first.strategy.needs) or learned or computed

    @cached_property
    def stack(self) -> Training:
        return Training(*self.configs)

    @cached_property
    def interrupted(self) -> Training:
        return Training(*self.configs, stop_after=STEPS - 1)

    @cached_property
    def stranger(self) -> Config:
        """A run at rate 0, unlike the others of the stack in every number."""
        return self.tiny({"seed": 99, "strategy.rate": 0, "optimizer.learning_rate": 0.4})

    @cached_property
    def beside_a_stranger(self) -> Training:
        return Training(self.configs[0], self.stranger, self.configs[2])

    @cached_property
    def many(self) -> Trainer:
        """Many runs like the first, before their first step."""
        return Trainer([replace(self.first, seed=seed) for seed in range(MANY)], self.data, CPU, MemorySink(MANY))

    def facts(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        """Of the first 16 examples, as often as the objective repeats them."""
        index = torch.arange(16).repeat(trainer.nets.strategy.objective.copies)
        return trainer.data.train.gather(index.expand(trainer.nets.runs, -1))[2]

    def noises(self, step: int, *, test_scaled: bool = False) -> tuple[StepNoise, ExpectedNoise]:
        """What many runs do to a batch at step `step` of 100, in training and in evaluation."""
        trainer, clock = self.many, Clock(step, 100, 0, 1)
        facts = self.facts(trainer)
        present = Present(trainer.state.params, trainer.state.policies, clock)
        training = trainer.nets.drawn(present, facts, watched=True)
        evaluation = trainer.nets.expected(present, facts)
        return replace(training, test_scaled=test_scaled), replace(evaluation, test_scaled=test_scaled)

    def value(self, name: str) -> torch.Tensor:
        """What stands at a site in many runs: the weight, numbers of mean 0 and variance 1, or one number."""
        shape, site = (MANY, *self.stack.shapes[name]), self.placements[name].site
        if site.shape:
            return self.many.state.params[site.weight].detach().unsqueeze(1).expand(shape)
        return numbers(shape) if self.law.moments else torch.tensor(2.0).expand(shape)

    def drive(self, name: str) -> torch.Tensor | None:
        """Pre-activations of many runs at a site that has some."""
        shape = (MANY, *self.stack.shapes[name])
        return None if self.placements[name].site.activation is None else numbers(shape)

    def draws_of(self, name: str) -> int:
        """Numbers drawn for a site, in one run."""
        return self.stack.draws["noise", 0, self.placements[name].key][0].numel()


def numbers(shape: tuple[int, ...]) -> torch.Tensor:
    return Streams(tuple(range(shape[0]))).normal("data", 0, "contract", shape[1:])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small are computed many times faster by one thread than by threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(*request.param)


# ---- which pairs there are


@pytest.mark.parametrize(("strategy", "model"), REFUSED, ids="-".join)
def test_a_refused_pair_says_why(strategy, model):
    with pytest.raises(UserError) as error:
        Pair(strategy, model)
    assert message(error).startswith("strategy."), "the line names the key that does not fit"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_acts_on_some_model(strategy):
    assert any(name == strategy for name, _ in PAIRS), [refusal(*pair) for pair in REFUSED if pair[0] == strategy]


FOR_ALL = ("none", "standard", "gaussian", "rdrop", "gradual", "adaptive", "targeted", "combined", "dropconnect")


@pytest.mark.parametrize("strategy", FOR_ALL)
@pytest.mark.parametrize("model", MODELS)
def test_the_strategies_for_every_model_are_refused_by_none(strategy, model):
    assert bool(Pair(strategy, model).placements) == (strategy != "none")


# ---- the contract


def test_it_builds_and_survives_a_round_trip(pair):
    for config in pair.configs:
        assert check(plain(config)) == config


def test_the_training_is_whole(pair):
    """The guard of all tests below: it trained, acted at every placed site in every step, and drew for nothing else."""
    training = pair.stack
    assert training.trainer.state.step == STEPS
    assert all(result is not None and "error" not in result for result in training.sink.results)
    assert set(training.masks) == {(step, site) for step in range(STEPS) for site in pair.placements}
    noises = {(step, key) for purpose, step, key in training.draws if purpose == "noise"}
    assert noises == {(step, key) for step in range(STEPS) for key in pair.keys}
    assert {purpose for purpose, _, _ in training.draws} <= {"init", "order", "noise"}
    before = Trainer(pair.configs, pair.data, CPU, MemorySink(3)).state.params
    after = training.trainer.state.params
    for name, value in after.items():
        # Batch norm takes away what a bias before it adds: its gradient is nothing but rounding.
        if name.replace(".bias", ".gain") not in after or not name.endswith(".bias"):
            assert not torch.equal(value, before[name]), name


def test_a_stack_of_three_equals_three_runs_alone(pair):
    """Draws bit for bit; masks and rates too, where they do not come of what the nets compute."""
    stack = pair.stack
    close = {"rtol": 1e-3, "atol": 1e-4} if pair.looks_at_nets else {"rtol": 0, "atol": 0}
    for run, config in enumerate(pair.configs):
        alone = Training(config)
        assert set(alone.draws) == set(stack.draws)
        for key, drawn in alone.draws.items():  # noise, initial weights and data order
            assert torch.equal(drawn[0], stack.draws[key][run]), key
        assert alone.rates.keys() == stack.rates.keys()
        for key, rate in alone.rates.items():
            torch.testing.assert_close(rate[0], stack.rates[key][run], **close)
        here, there = alone.perturbations(0), stack.perturbations(run)
        assert here.keys() == there.keys()
        for key, part in here.items():
            torch.testing.assert_close(part, there[key], **close)
        for mine, theirs in zip(alone.sink.records[0], stack.sink.records[run], strict=True):
            assert mine["training_loss"] == pytest.approx(theirs["training_loss"], rel=1e-4)
            assert mine["validation"]["loss"] == pytest.approx(theirs["validation"]["loss"], rel=1e-4)
        for name, value in alone.params.items():
            torch.testing.assert_close(value[0], stack.params[name][run], rtol=1e-3, atol=1e-5)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(pair):
    for key, drawn in pair.interrupted.draws.items():
        assert torch.equal(drawn, pair.stack.draws[key]), key
    by_purpose: dict[str, list[torch.Tensor]] = {}
    for (purpose, _, _), drawn in pair.stack.draws.items():
        by_purpose.setdefault(purpose, []).append(drawn.flatten(1).double())
    for purpose, drawn in by_purpose.items():
        each = torch.cat(drawn, 1)
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not torch.equal(each[one], each[other]), purpose


def test_no_step_and_no_site_repeats_the_draws_of_another(pair):
    drawn = [value.flatten().tolist() for (purpose, _, _), value in pair.stack.draws.items() if purpose == "noise"]
    assert len({tuple(each) for each in drawn}) == STEPS * len(pair.keys)


def test_the_realised_rate_lies_in_the_binomial_interval_of_the_asked_one(pair):
    """Of many runs together; and a strategy that acts somewhere acts at some time."""
    highest = dict.fromkeys(pair.placements, 0.0)
    for step in LOOKS:
        noise, _ = pair.noises(step)
        for name in pair.placements:
            noise.perturbation(name, (MANY, *pair.stack.shapes[name]), pair.drive(name))
            asked, realised = noise.asked[name], noise.realised[name]
            assert asked.shape == realised.shape == (MANY,)
            assert ((asked >= 0) & (asked < 1)).all()
            assert realised[asked == 0].eq(0).all()
            rate, share = asked.mean().item(), realised.double().mean().item()
            highest[name] = max(highest[name], rate)
            if not pair.law.drops:
                assert share == 0
                continue
            count = pair.draws_of(name) / pair.law.together
            interval = SIGMAS * math.sqrt(rate * (1 - rate) / (count * MANY)) + 2**-17
            if pair.noise.draw == "normal":  # the rate is no linear function of the variance that was drawn
                interval += 2 / count
            assert -interval - pair.law.overlap * rate**2 <= share - rate <= interval, (step, name)
    assert all(rate > 0.01 for rate in highest.values()), highest


def test_factors_are_non_negative_and_commute(pair):
    trainer = pair.stack.trainer
    extra = {"another": Gradual(start=0.25, end=0.75, until=1.0)}
    policies = {**extra, **pair.first.strategy.policies}
    one, other, none = (
        stacked([replace(config.strategy, policies=order) for config in pair.configs])
        for order in (policies, dict(reversed(policies.items())), {})
    )
    state = {"another": {}, **trainer.state.policies}
    for step in range(STEPS + 1):
        present = Present(trainer.state.params, trainer.state.policies, Clock(step, STEPS, 0, 2))
        scene = trainer.nets.expected(present, pair.facts(trainer)).scene
        for placement in pair.placements.values():
            site = placement.site
            dims = 1 + len(site.axes)
            product = torch.ones(3).view(-1, *(1,) * (dims - 1))
            for name, policy in one.policies.items():
                factor = policy.factor(site, state[name], scene)
                assert factor.shape[0] == 3
                assert factor.dim() in (1, dims)
                assert factor.isfinite().all()
                assert (factor >= 0).all()
                product = product * factor.view(*factor.shape, *(1,) * (dims - factor.dim()))
            rate = one.rate_at(site, state, scene)
            torch.testing.assert_close(rate, other.rate_at(site, state, scene), rtol=1e-6, atol=0)
            base, cap = (each.view(-1, *(1,) * (dims - 1)) for each in (none.rate_at(site, {}, scene), one.cap))
            rate = rate.view(*rate.shape, *(1,) * (dims - rate.dim()))
            torch.testing.assert_close(rate, (base * product).minimum(cap), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("scaling", ["inverted", "test"])
def test_the_mean_of_the_noise_is_what_stands_in_evaluation(pair, scaling):
    """What a linear site reads, over many runs, at two times; at the first unit by unit too."""
    if scaling == "test" and not pair.noise.rescales:
        with pytest.raises(UserError, match=r"^scaling=test: "):
            pair.tiny({"scaling": "test"})
        return
    for step in LOOKS[1::2]:
        training, evaluation = pair.noises(step, test_scaled=scaling == "test")
        for name in pair.placements:
            value, drive = pair.value(name), pair.drive(name)
            acted = training.perturbation(name, value.shape, drive)
            stands = evaluation.perturbation(name, value.shape, drive)
            noisy, aim = read(acted, value), read(stands, value)
            assert noisy.shape == aim.shape == value.shape
            if pair.law.cuts:
                noisy = noisy.where(aim != 0, 0.0)
            difference, count = noisy - aim, MANY * pair.draws_of(name)
            bias = pair.law.bias * value.abs().max().item()
            assert is_0(difference, count, bias), name
            if acted.mix is not None:
                old = [read(each, torch.zeros_like(value), value) for each in (acted, stands)]
                assert is_0(old[0] - old[1], count), name
            if pair.law.moments:
                assert is_0(noisy.square() - 1, count), name
            elif step == LOOKS[1]:
                unit = 1 + pair.placements[name].site.axes.index("unit")
                by_run = difference.movedim(unit, 1).flatten(2).mean(2)  # [runs, units]
                assert all(is_0(each, MANY, bias) for each in by_run.unbind(1)), name


def read(perturbation: Perturbation | None, value: torch.Tensor, fallback: torch.Tensor | None = None) -> torch.Tensor:
    """What is read where a perturbation acts; `fallback`: the old value, by default 0."""
    if perturbation is None:
        return value.double()
    result = perturbation(value, torch.zeros_like(value) if fallback is None else fallback)
    return (result if perturbation.readout is None else result * perturbation.readout).detach().double()


def is_0(differences: torch.Tensor, count: int, bias: float = 0.0) -> bool:
    """Whether the mean of differences that come of `count` draws is 0, or as near as `bias`."""
    return bool(differences.mean().abs() <= SIGMAS * differences.std() / math.sqrt(count) + bias + 1e-7)


def test_evaluation_is_deterministic_and_draws_nothing(pair, monkeypatch):
    trainer = pair.stack.trainer

    def fail(*_):
        raise AssertionError("evaluation draws")

    monkeypatch.setattr(Streams, "_words", fail)

    def figures() -> dict[str, Figures]:
        return final(trainer.nets, trainer._selected(), trainer.data, trainer.config.evaluation, keep=False).figures

    first = figures()
    assert first == figures()
    assert set(first) == {"train", "validation", "test"}
    assert all(math.isfinite(value) for split in first.values() for figure in split.values() for value in figure)
    for split, each in first.items():
        for run, result in enumerate(pair.stack.sink.results):
            assert result[split] == {name: figure[run] for name, figure in each.items()}
    for name in pair.placements:  # the guard guards
        present = Present(trainer.state.params, trainer.state.policies, Clock(0, STEPS, 0, 2))
        noise, shape = trainer.nets.drawn(present, pair.facts(trainer)), pair.stack.shapes[name]
        with pytest.raises(AssertionError, match="evaluation draws"):
            noise.perturbation(name, (3, *shape), torch.zeros(3, *shape))


def test_resume_equals_no_interruption(pair):
    stopped = pair.interrupted
    assert stopped.trainer.state.step == STEPS - 1  # in the middle of an epoch
    resumed = Training(*pair.configs, goes_on=stopped)
    assert len(stopped.gradients) == STEPS - 1
    assert len(resumed.gradients) == 1
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
        assert (every.abs().view(STEPS, 3, -1).amax((0, 2)) > 0).all(), name


def test_rate_0_is_no_dropout(pair):
    """Bit for bit, beside two runs with noise.

    To rounding, where gates have products of their own, where a mask is learned and gradients add up in another order,
    and on a batch so large that its gradients, laid out in memory in another way after a noise, go through another
    kernel.
    """
    zero, slot = pair.beside_a_stranger, 1
    needs = pair.first.strategy.needs & {"held_out_loss"}  # who follows it trains on less
    policies = {name: policy for name, policy in pair.first.strategy.policies.items() if policy.needs & needs}
    changes = {"where": ("nowhere",), "objective": pair.first.strategy.objective, "policies": policies}
    nothing = replace(pair.tiny({}, "none").strategy, **changes)
    plainly = without_noise([replace(config, strategy=nothing) for config in zero.configs])
    assert all((rate[slot] == 0).all() for rate in zero.rates.values())
    gates = any("gate" in each.site.axes and "gate" not in each.shared for each in pair.placements.values())
    learned = any(pair.noise.learned(each.site) for each in pair.placements.values())
    rounded = gates or learned or pair.first.strategy.objective.copies > 2
    close = {"rtol": 1e-4, "atol": 1e-6} if rounded else {"rtol": 0, "atol": 0}
    for name, value in plainly.params.items():
        torch.testing.assert_close(zero.params[name][slot], value[slot], **close)
    for mine, theirs in zip(zero.sink.records[slot], plainly.sink.records[slot], strict=True):
        assert mine["training_loss"] == pytest.approx(theirs["training_loss"], rel=close["rtol"], abs=0)
        for split in ("train", "validation"):
            assert mine[split]["loss"] == pytest.approx(theirs[split]["loss"], rel=close["rtol"], abs=0)
    if pair.placements:  # and a rate is not no dropout
        assert any(not torch.equal(zero.params[name][0], value[0]) for name, value in plainly.params.items())


def test_no_run_reaches_another(pair):
    """Another run in the middle of the stack changes not a bit of those beside it."""
    other = pair.beside_a_stranger
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
        **state.params, **state.optimizer, **state.selected, **state.rates, **state.terms,
        **{f"loss{step}": loss for step, loss in enumerate(state.losses)},
        **{
            f"{kind}/{name}/{key}": value
            for kind, policies in (("now", state.policies), ("selected", state.selected_policies))
            for name, part in policies.items() for key, value in part.items()
        },
    }  # fmt: skip
    assert len(state.losses) == 1  # one step since the evaluation
    assert set(state.policies) == set(state.selected_policies) == set(pair.first.strategy.policies)
    assert set(state.rates) == set(pair.placements)
    for name, tensor in tensors.items():
        assert isinstance(tensor, torch.Tensor), name
        assert tensor.shape[:1] == (3,), name
    assert len(state.histories) == 3
    for run, checkpoint in enumerate(training.sink.checkpoints):
        assert torch.equal(checkpoint.tensors["losses"], state.losses[0][run : run + 1])
        for name, value in state.params.items():
            assert torch.equal(checkpoint.tensors[f"params/{name}"], value[run]), name
        for name, value in state.terms.items():
            assert torch.equal(checkpoint.tensors[f"terms/{name}"], value[run]), name
        for name, part in state.policies.items():
            for key, value in part.items():
                assert torch.equal(checkpoint.tensors[f"policies/{name}/{key}"], value[run]), name
                selected = state.selected_policies[name][key][run]
                assert torch.equal(checkpoint.tensors[f"selected_policies/{name}/{key}"], selected), name
