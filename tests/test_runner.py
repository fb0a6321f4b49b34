"""The one loop: what it computes does not depend on the stack, on an interruption, or on what a neighbour does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from support import MODELS, TINY, MemorySink, config, data_of
from torch import Tensor

from dropbench import nets, runner
from dropbench.acting import StepNoise
from dropbench.config import Config
from dropbench.data import Data, Split
from dropbench.data.figures import with_figures
from dropbench.errors import UserError
from dropbench.evaluation import Examples, evaluate, gaussian_nll
from dropbench.models import Parameter
from dropbench.noise import Noise, Perturbation, Place
from dropbench.noise.bernoulli import Bernoulli
from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.policies import Policy, along
from dropbench.policies.gradual import Gradual
from dropbench.runner import Interrupted, Trainer, device_of
from dropbench.runs.checkpoint import Checkpoint
from dropbench.spec import PerRun, Scene, Signals, Site, vector

CPU = torch.device("cpu")
NETS = ("mlp", "cnn", "lstm")
#: Rates and learning rates that differ from run to run.
THREE = (
    ("seed=3", "strategy.rate=0.2", "optimizer.learning_rate=0.05"),
    ("seed=0", "strategy.rate=0.5", "optimizer.learning_rate=0.1"),
    ("seed=18446744073709551615", "strategy.rate=0.7", "optimizer.learning_rate=0.2"),
)


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    device_of("cpu")
    yield
    torch.set_num_threads(before)


def tiny(strategy: str, net: str, *overrides: str) -> Config:
    """A run that takes a blink: 48 digits, batches of 16, 2 epochs."""
    return config(f"strategy={strategy}", *MODELS[net], *TINY, *overrides)


def run(
    configs: Sequence[Config], data: Data | None = None, stop_after: int | None = None,
    checkpoints: Sequence[Checkpoint] = (), device: torch.device = CPU,
) -> MemorySink:  # fmt: skip
    """Trains a stack to its end, or until it is asked to stop."""
    sink = MemorySink(len(configs), stop_after)
    try:
        runner.train(configs, data or data_of(configs[0].dataset), device, sink, checkpoints)
    except Interrupted:
        assert stop_after is not None
    return sink


def weights(sink: MemorySink, run: int = 0) -> dict[str, Tensor]:
    """Parameters, optimizer, policies and all, as last saved."""
    saved = sink.checkpoints[run]
    assert saved is not None
    return saved.tensors


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def close(ours: Any, theirs: Any, rel: float, path: str = "") -> None:
    """Numbers agree to rounding, everything else exactly, at every depth."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys(), path
        for key, value in theirs.items():
            close(ours[key], value, rel, f"{path}.{key}")
    elif isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=rel, abs=rel), path
    else:
        assert ours == theirs, path


class Watch:
    """Sees every mask, every batch and every network input of the runs trained under it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.masks: dict[tuple[int, str], Tensor] = {}
        self.batches: list[Tensor] = []
        bind, gather = StepNoise.perturbation, Split.gather

        def perturbation(noise: StepNoise, site: str, shape: tuple[int, ...], drive: Tensor | None = None) -> Any:
            found = bind(noise, site, shape, drive)
            if found is not None:
                self.masks[noise.scene.clock.step, site] = found.scale.clone()
            return found

        def gathered(split: Split, index: Tensor) -> Any:
            self.batches.append(index.clone())
            return gather(split, index)

        monkeypatch.setattr(StepNoise, "perturbation", perturbation)
        monkeypatch.setattr(Split, "gather", gathered)

    def take(self) -> tuple[dict[tuple[int, str], Tensor], list[Tensor]]:
        """What was seen since the last time."""
        seen = self.masks, self.batches
        self.masks, self.batches = {}, []
        return seen


# ---- deterministic


@pytest.mark.parametrize("net", NETS)
def test_the_same_config_twice_gives_the_same_bits(net):
    configs = [tiny("gradual", net, "seed=4")]
    once, again = run(configs), run(configs)
    assert once.records == again.records
    assert once.results == again.results
    assert same(weights(once), weights(again))
    assert once.records[0][-1]["epoch"] == 2
    other = run([tiny("gradual", net, "seed=5")])
    assert other.records != once.records


@pytest.mark.parametrize(
    ("net", "shared"),
    [
        *((net, ()) for net in NETS),
        ("mlp", ("optimizer.clip_norm=0.05", "optimizer.max_norm=0.5", "model.batch_norm=true")),
        (
            "lstm",
            ("optimizer=adam", "optimizer.clip_norm=0.01", "optimizer.weight_decay=0.1", "strategy.noise=gaussian"),
        ),
    ],
)
def test_a_stack_of_three_equals_each_alone(monkeypatch, net, shared):
    """Initial weights, order and masks bit for bit; losses, figures and trained weights to rounding."""
    watch = Watch(monkeypatch)
    configs = [tiny("standard", net, *shared, *overrides) for overrides in THREE]
    initial = Trainer(configs, data_of(configs[0].dataset), CPU, MemorySink(3)).state.params
    together = run(configs)
    masks, batches = watch.take()
    assert len(batches) == 6
    assert masks
    for slot, each in enumerate(configs):
        own = Trainer([each], data_of(each.dataset), CPU, MemorySink(1)).state.params
        assert same({name: value[slot] for name, value in initial.items()}, {name: v[0] for name, v in own.items()})
        alone = run([each])
        own_masks, own_batches = watch.take()
        assert own_masks.keys() == masks.keys()
        for key, mask in own_masks.items():
            assert torch.equal(mask[0], masks[key][slot]), key
        for step, index in enumerate(own_batches):
            assert torch.equal(index[0], batches[step][slot])
        for mine, theirs in zip(together.records[slot], alone.records[0], strict=True):
            close(mine, theirs, 1e-4)
        close(together.results[slot], alone.results[0], 1e-4)
        for name, value in weights(alone).items():
            torch.testing.assert_close(weights(together, slot)[name], value, atol=1e-5, rtol=1e-4)


def test_runs_of_a_stack_differ_as_their_numbers_do():
    """Otherwise the test above would hold for a stack that trains one run three times."""
    sink = run([tiny("standard", "mlp", *overrides) for overrides in THREE])
    assert len({records[-1]["training_loss"] for records in sink.records}) == 3
    assert [records[0]["sites"]["hidden1"]["rate"] for records in sink.records] == pytest.approx([0.2, 0.5, 0.7])
    for records in sink.records:
        for site in records[0]["sites"].values():
            assert site["dropped"] == pytest.approx(site["rate"], abs=0.12)
    first, second, third = (records[0]["learning_rate"] for records in sink.records)
    assert second / first == pytest.approx(2)
    assert third / second == pytest.approx(2)


@pytest.mark.parametrize("slot", [0, 7, 31])
def test_a_run_is_the_same_in_every_slot(monkeypatch, slot):
    watch = Watch(monkeypatch)
    base = tiny("standard", "mlp", "epochs=1", "seed=5")
    alone = run([base])
    own_masks, own_batches = watch.take()
    configs = [replace(base, seed=100 + number) for number in range(32)]
    configs[slot] = base
    crowd = run(configs)
    masks, batches = watch.take()
    for key, mask in own_masks.items():
        assert torch.equal(mask[0], masks[key][slot])
        assert sum(torch.equal(mask[0], other) for other in masks[key]) == 1
    for own, index in zip(own_batches, batches, strict=True):
        assert torch.equal(own[0], index[slot])
    close(crowd.results[slot], alone.results[0], 1e-4)


def test_weights_and_order_are_keyed_by_the_seed_alone(monkeypatch):
    """What makes a comparison of strategies a paired one."""
    watch = Watch(monkeypatch)
    seen = []
    for strategy in ("none", "standard", "gradual/late"):
        each = tiny(strategy, "mlp", "seed=6")
        trainer = Trainer([each], data_of(each.dataset), CPU, MemorySink(1))
        initial = {name: value.detach().clone() for name, value in trainer.state.params.items()}
        trainer.run()
        seen.append((initial, watch.take()[1]))
    for initial, batches in seen[1:]:
        assert same(initial, seen[0][0])
        assert all(torch.equal(one, other) for one, other in zip(batches, seen[0][1], strict=True))


# ---- resume


@pytest.mark.parametrize(
    ("net", "strategy", "overrides"),
    [
        ("mlp", "gradual", ("model.batch_norm=true", "optimizer=adam", "evaluation.every=2")),
        ("mlp", "standard", ("early_stop=1", "strategy.noise=gaussian")),
        ("cnn", "standard", ("optimizer=sgd",)),
        ("lstm", "gradual/annealed", ("precision=bfloat16",)),
    ],
)
def test_a_run_that_is_stopped_at_any_step_goes_on_as_if_it_had_not(net, strategy, overrides):
    """Bit for bit, for a stack of two: metrics, weights and results."""
    configs = [
        tiny(strategy, net, "dataset.train_size=40", "epochs=3", *overrides, f"seed={seed}", f"strategy.rate={rate}")
        for seed, rate in ((1, 0.3), (2, 0.6))
    ]
    whole = run(configs)
    steps = whole.steps
    assert steps == 9 or "early_stop=1" in overrides
    for stop in range(1, steps + 1):
        before = run(configs, stop_after=stop)
        assert before.steps == stop
        assert before.results == [None, None]
        saved = [each for each in before.checkpoints if each is not None]
        assert [each.facts["step"] for each in saved] == [stop, stop]
        after = run(configs, checkpoints=saved)
        for slot in range(2):
            assert before.records[slot] + after.records[slot] == whole.records[slot], stop
            assert same(weights(after, slot), weights(whole, slot)), stop
        assert after.results == whole.results, stop


def test_a_run_goes_on_from_two_interruptions_in_one_epoch():
    configs = [tiny("standard", "mlp", "dataset.train_size=64")]
    whole = run(configs)
    first = run(configs, stop_after=1)
    second = run(configs, stop_after=3, checkpoints=first.checkpoints)
    third = run(configs, checkpoints=second.checkpoints)
    assert first.records[0] + second.records[0] + third.records[0] == whole.records[0]
    assert third.results == whole.results


def test_a_run_goes_on_alone_from_a_checkpoint_of_a_stack():
    configs = [tiny("standard", "mlp", *overrides) for overrides in THREE]
    saved = run(configs, stop_after=4).checkpoints[1]
    alone = run([configs[1]], checkpoints=[saved])
    close(alone.results[0], run(configs).results[1], 1e-4)


def test_a_checkpoint_of_another_net_is_refused():
    small, large = tiny("standard", "mlp"), tiny("standard", "mlp", "model.widths=[8,6]")
    saved = run([small], stop_after=1).checkpoints
    with pytest.raises(ValueError, match="does not hold the state of this run"):
        run([large], checkpoints=saved)


def test_checkpoints_are_written_now_and_then(monkeypatch):
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    saved = []

    class Sink(MemorySink):
        def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
            super().checkpoint(run, checkpoint)
            saved.append((run, checkpoint.facts["step"]))

    configs = [tiny("standard", "mlp", "seed=0"), tiny("standard", "mlp", "seed=1")]
    runner.train(configs, data_of(configs[0].dataset), CPU, Sink(2))
    assert saved == [(slot, step) for step in (1, 2, 3, 4, 5, 6, 6) for slot in (0, 1)]


def test_an_interrupted_run_has_no_result_and_was_saved():
    sink = MemorySink(1, stop_after=2)
    each = tiny("standard", "mlp")
    with pytest.raises(Interrupted):
        runner.train([each], data_of(each.dataset), CPU, sink)
    assert sink.steps == 2
    assert sink.results == [None]
    assert sink.checkpoints[0] is not None


# ---- until an epoch


def run_until(
    configs: Sequence[Config],
    until: int | None,
    checkpoints: Sequence[Checkpoint | None] = (),
    stop_after: int | None = None,
) -> MemorySink:
    sink = MemorySink(len(configs), stop_after)
    saved = [each for each in checkpoints if each is not None]
    runner.train(configs, data_of(configs[0].dataset), CPU, sink, saved, until)
    return sink


def steps_of(sink: MemorySink) -> list[int]:
    return [each.facts["step"] for each in sink.checkpoints if each is not None]


@pytest.mark.parametrize("until", [(1,), (2,), (3,), (1, 2, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize(("net", "every"), [("mlp", 1), ("lstm", 2)])
def test_runs_that_are_left_at_an_epoch_go_on_as_if_they_had_not(net, every, until):
    """Bit for bit, for a stack of two, whether they are evaluated at that epoch or not."""
    configs = [
        tiny("gradual", net, "epochs=4", f"evaluation.every={every}", f"seed={seed}", f"strategy.rate={rate}")
        for seed, rate in ((1, 0.3), (2, 0.6))
    ]
    whole = run(configs)
    records: list[list[dict[str, Any]]] = [[], []]
    saved: list[Checkpoint | None] = []
    reached = 0
    for epoch in until:
        part = run_until(configs, epoch, saved)
        reached, saved = max(reached, epoch), part.checkpoints
        assert part.results == [None, None]
        assert steps_of(part) == [3 * reached] * 2
        for slot in range(2):
            records[slot] += part.records[slot]
            assert [record["epoch"] for record in records[slot]] == list(range(every, reached + 1, every))
    rest = run_until(configs, None, saved)
    assert rest.results == whole.results
    for slot in range(2):
        assert records[slot] + rest.records[slot] == whole.records[slot]
        assert same(weights(rest, slot), weights(whole, slot))


@pytest.mark.parametrize("until", [2, 3, 1000])
def test_an_epoch_at_or_beyond_the_last_is_the_end(until):
    configs = [tiny("standard", "mlp")]
    assert run_until(configs, until).results == run(configs).results


def test_a_run_that_lacks_its_result_alone_gets_it_whatever_the_epoch():
    """It was interrupted after its last step."""
    configs = [tiny("standard", "mlp")]
    saved = run(configs, stop_after=6).checkpoints
    assert steps_of(run(configs, stop_after=6)) == [6]
    assert run_until(configs, 1, saved).results == run(configs).results


def test_until_an_epoch_one_may_be_interrupted():
    configs = [tiny("standard", "mlp")]
    with pytest.raises(Interrupted):
        run_until(configs, 2, stop_after=4)
    with pytest.raises(Interrupted):
        run_until(configs, 1, stop_after=3)


def test_runs_that_have_all_stopped_early_have_their_results_at_once():
    shared = ("optimizer=sgd", "early_stop=1", "epochs=8", "seed=2")
    stuck = tiny("standard", "mlp", *shared, "optimizer.learning_rate=1e-30")
    lively = tiny("standard", "mlp", *shared, "optimizer.learning_rate=0.05", "strategy.rate=0.1")
    whole = run([stuck, lively])
    assert whole.results[0]["epochs"] == 2 < whole.results[1]["epochs"]
    assert run_until([stuck], 4).results == run([stuck]).results != [None]
    part = run_until([stuck, lively], 2)
    assert part.results == [None, None]  # the other one still learns
    rest = run_until([stuck, lively], None, part.checkpoints)
    assert rest.results == whole.results


# ---- pace


class Clockwork:
    """A clock that steps and evaluations move: those by the seconds given, these by 0.1 an example."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: Sequence[float]) -> None:
        self.now, self.steps, self.places = 0.0, list(steps), list[int]()

        def update(trainer: Trainer, index: Tensor, epoch: int, position: int) -> None:
            assert (epoch, trainer.state.step) == (0, position)
            assert index.shape == (trainer.nets.runs, trainer.batch_size)
            trainer.state.losses.append(torch.zeros(trainer.nets.runs))
            self.now += self.steps[len(self.places)]
            self.places.append(position)

        def measure(each: nets.Nets, present: nets.Present, split: Split) -> None:
            self.now += 0.1 * len(split)

        monkeypatch.setattr(runner, "time", self)
        monkeypatch.setattr(Trainer, "_update", update)
        monkeypatch.setattr(nets.Nets, "measure", measure)

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("overrides", "steps", "patience", "places", "expected"),
    [
        ((), [3, 1, 2], 5, [0, 1, 2], 2 * 3 + 2),  # 6 s in 3 steps, 3 steps an epoch; 20 examples that validate
        ((), [3, 1, 2], 4, [0, 1], 2 * 3 + 2),
        ((), [3, 1, 2], 0, [0], 3 * 3 + 2),
        (("evaluation.every=2",), [3, 1, 2], 0, [0], 3 * 3 + 1),
        (("batch_size=48",), [9, 1], 9.5, [0, 0], 5 + 2),  # an epoch of one step
        (("batch_size=4",), [1] * 20, 13.5, [*range(12), 0, 1], 12 + 2),
        (("batch_size=2",), [1], 0, [0], 24 + 2),  # 16 of 20 examples are judged, and stand for all
    ],
)
def test_the_pace_is_that_of_a_few_steps_and_a_part_of_an_evaluation(
    monkeypatch, overrides, steps, patience, places, expected
):
    configs = [tiny("standard", "mlp", *overrides, f"seed={seed}") for seed in range(3)]
    trainer = Trainer(configs, data_of(configs[0].dataset), CPU, MemorySink(3))
    for _ in range(2):
        with monkeypatch.context() as patch:
            clockwork = Clockwork(patch, steps)
            assert trainer.pace(patience) == pytest.approx(expected)
            assert clockwork.places == places
            assert trainer.state.losses == []


@pytest.mark.parametrize(("net", "strategy"), [("mlp", "standard"), ("cnn", "gradual"), ("lstm", "standard")])
def test_to_look_at_the_pace_tells_nothing(net, strategy):
    configs = [tiny(strategy, net, f"seed={seed}", "strategy.policies.gap={}") for seed in range(2)]
    sink = MemorySink(2)
    pace = Trainer(configs, data_of(configs[0].dataset), CPU, sink).pace(0.0)
    assert 0 < pace < math.inf
    assert (sink.records, sink.results, sink.checkpoints, sink.steps) == ([[], []], [None] * 2, [None] * 2, 0)


# ---- selection and early stop


def params_at(each: Config, step: int) -> dict[str, Tensor]:
    saved = weights(run([each], stop_after=step))
    return {name.removeprefix("params/"): value for name, value in saved.items() if name.startswith("params/")}


def selected(sink: MemorySink) -> dict[str, Tensor]:
    return {
        name.removeprefix("selected/"): value for name, value in weights(sink).items() if name.startswith("selected/")
    }


def scores(sink: MemorySink, run: int = 0) -> list[tuple[float, float]]:
    """What a run is judged by: its validation error, and where that is equal the loss."""
    return [(record["validation"]["error"], record["validation"]["loss"]) for record in sink.records[run]]


@pytest.mark.parametrize("rule", ["validation_best", "last"])
def test_selection(rule):
    """The run wanders, so that its best evaluation is not its last."""
    each = tiny(
        "standard", "mlp", "optimizer=sgd", "optimizer.learning_rate=0.8", "epochs=12", f"selection={rule}", "seed=8"
    )
    sink = run([each])
    judged = scores(sink)
    best = judged.index(min(judged)) + 1
    assert 1 < best < 12
    epoch = best if rule == "validation_best" else 12
    result = sink.results[0]
    assert result["selection"] == {"rule": rule, "epoch": epoch}
    assert result["validation"] == sink.records[0][epoch - 1]["validation"]
    assert (result["epochs"], result["steps"]) == (12, 36)
    assert same(selected(sink), params_at(each, 3 * epoch))
    better = [at + 1 for at in range(12) if judged[at] < min([(math.inf, 0.0), *judged[:at]])]
    marked = [record["epoch"] for record in sink.records[0] if record["selected"]]
    assert marked == (better if rule == "validation_best" else list(range(1, 13)))


def test_the_lower_loss_selects_among_equal_errors(monkeypatch):
    figures = iter([(50.0, 2.0), (40.0, 3.0), (40.0, 2.5), (40.0, 2.5), (45.0, 0.1), (40.0, 2.4), (40.0, 2.6)])

    def measured(forward: Any, split: Split, facts: Any, runs: int, seen: Sequence[Any]) -> Any:
        error, loss = next(figures) if len(split) == 20 and not forward_is_train(split) else (0.0, 0.0)
        for each in seen:
            each(torch.zeros(runs, len(split), 10), split.targets)
        return {"loss": [loss], "error": [error], "nll": [loss], "ece": [0.0], "brier": [0.0]}

    each = tiny("standard", "mlp", "epochs=6")
    validation = data_of(each.dataset).validation.inputs

    def forward_is_train(split: Split) -> bool:
        return not torch.equal(split.inputs, validation)

    monkeypatch.setattr(nets, "evaluate", measured)
    sink = run([each])
    assert [record["selected"] for record in sink.records[0]] == [True, True, True, False, False, True]
    assert sink.results[0]["selection"]["epoch"] == 6


@pytest.mark.parametrize("rule", ["validation_best", "last"])
def test_a_run_that_stops_early_is_the_same_alone_and_beside_one_that_goes_on(rule):
    shared = ("optimizer=sgd", "early_stop=2", "epochs=8", f"selection={rule}", "seed=2")
    stuck = tiny("standard", "mlp", *shared, "optimizer.learning_rate=1e-30")
    lively = tiny("standard", "mlp", *shared, "optimizer.learning_rate=0.05", "strategy.rate=0.1")
    alone, together = run([stuck]), run([stuck, lively])
    result = alone.results[0]
    assert (result["epochs"], result["steps"]) == (3, 9)
    assert result["selection"] == {"rule": rule, "epoch": 1 if rule == "validation_best" else 3}
    assert alone.steps == 9  # a stack of which no run learns stops
    assert together.results[1]["epochs"] > 3
    assert len(together.records[1]) == together.results[1]["epochs"]
    assert len(together.records[0]) == len(alone.records[0]) == 3
    close(together.results[0], result, 1e-5)
    at_stop = params_at(stuck, 9 if rule == "last" else 3)
    kept = {name: weights(together)[f"selected/{name}"] for name in at_stop}
    for name, value in kept.items():
        torch.testing.assert_close(value, at_stop[name], atol=1e-6, rtol=1e-5)


def test_early_stop_counts_evaluations_without_a_better_one():
    each = tiny("standard", "mlp", "optimizer=sgd", "optimizer.learning_rate=0.5", "early_stop=2", "epochs=30")
    sink = run([each])
    judged = scores(sink)
    best = judged.index(min(judged)) + 1
    assert len(judged) == sink.results[0]["epochs"] == best + 2 < 30
    waited = 0
    for at in range(1, len(judged) - 1):  # it did not stop before
        waited = 0 if judged[at] < min(judged[:at]) else waited + 1
        assert waited < 2


# ---- a loss that is not finite

#: Decay that makes weights 1,000 times as large at every step: a few epochs, and they overflow.
WILD = ("optimizer.learning_rate=1", "optimizer.weight_decay=1000")
CALM = ("optimizer.learning_rate=0.05", "optimizer.weight_decay=0.0001")


def first_bad_step(each: Config) -> int:
    """Found step by step, with no evaluation in between."""
    for step in range(11):
        if not torch.isfinite(weights(run([each], stop_after=step + 1))["losses"]).all():
            return step
    raise AssertionError("every loss is finite")


@pytest.mark.parametrize("net", ["mlp", "cnn"])
def test_a_run_that_blows_up_fails_with_its_step_and_leaves_its_neighbours_alone(net):
    def stack(*second: str) -> list[Config]:
        shared = ("optimizer=sgd", "epochs=4")
        return [
            tiny("standard", net, *shared, f"seed={seed}", *numbers)
            for seed, numbers in ((1, CALM), (2, second), (3, CALM))
        ]

    calm, wild = run(stack(*CALM)), run(stack(*WILD))
    assert calm.results[1]["epochs"] == 4
    step = first_bad_step(tiny("standard", net, "optimizer=sgd", "epochs=4", "seed=2", *WILD, "evaluation.every=4"))
    assert step > 0
    assert wild.results[1] == {"error": f"the loss is not finite at step {step} (epoch {-(-step // 3)})"}
    assert len(wild.records[1]) == -(-step // 3) - 1  # not a figure of the epoch in which it failed
    for slot in (0, 2):
        assert wild.records[slot] == calm.records[slot]
        assert wild.results[slot] == calm.results[slot]
        assert same(weights(wild, slot), weights(calm, slot))


def test_the_step_of_a_failure_is_known_after_a_resume_too():
    each = tiny("standard", "mlp", "optimizer=sgd", "epochs=4", *WILD, "evaluation.every=4")
    step = first_bad_step(each)
    for stop in (1, step, step + 1, 11):
        saved = run([each], stop_after=stop).checkpoints
        sink = run([each], checkpoints=saved)
        assert sink.results == [{"error": f"the loss is not finite at step {step} (epoch 4)"}]


def test_a_stack_of_failures_stops_has_no_results_and_reads_no_test_set():
    each = tiny("standard", "mlp", "optimizer=sgd", "epochs=50", *WILD)
    sink = MemorySink(2)
    data = spied(each, sink)
    runner.train([each, replace(each, seed=9)], data, CPU, sink)
    assert sink.steps < 12
    assert all(result.keys() == {"error"} for result in sink.results)
    assert data.test.reads == []


# ---- the test set


class Spied(Split):
    """Counts how often its inputs are read, and when."""

    def __init__(self, split: Split, sink: MemorySink) -> None:
        super().__init__(split.inputs, split.targets, split.facts)
        object.__setattr__(self, "reads", [])
        object.__setattr__(self, "sink", sink)

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "inputs" and "reads" in super().__getattribute__("__dict__"):
            self.reads.append(self.sink.steps)
        return value

    def __len__(self) -> int:
        return len(super().__getattribute__("targets"))

    def to(self, device: torch.device) -> Split:
        return self


def spied(each: Config, sink: MemorySink) -> Data:
    data = data_of(each.dataset)
    return replace(data, test=Spied(data.test.part(0, 30), sink))


@pytest.mark.parametrize("rule", ["validation_best", "last"])
def test_the_test_set_is_read_once_and_only_at_the_end(rule):
    configs = [tiny("standard", "mlp", "epochs=4", f"selection={rule}", f"seed={seed}") for seed in (0, 1)]
    sink = MemorySink(2)
    data = spied(configs[0], sink)
    runner.train(configs, data, CPU, sink)
    assert data.test.reads == [12]  # 30 examples are one piece
    assert all("test" not in record for records in sink.records for record in records)


def test_an_interrupted_run_never_reads_the_test_set():
    each = tiny("standard", "mlp")
    for stop in (1, 3, 6):
        sink = MemorySink(1, stop_after=stop)
        data = spied(each, sink)
        with pytest.raises(Interrupted):
            runner.train([each], data, CPU, sink)
        assert data.test.reads == []


def test_what_the_test_set_holds_changes_nothing_but_its_own_figures():
    each = tiny("gradual", "mlp", "epochs=4")
    data = data_of(each.dataset)
    other = replace(data, test=Split(torch.rand_like(data.test.inputs), data.test.targets.flip(0)))
    one, two = run([each], data), run([each], other)
    assert one.records == two.records
    assert same(weights(one), weights(two))
    differ = {key for key in one.results[0] if one.results[0][key] != two.results[0][key]}
    assert differ == {"test", "calibration"}  # which is that of the test set


def test_the_figures_of_a_result_are_those_of_the_selected_weights():
    each = tiny("standard", "mlp", "epochs=3")
    sink = run([each])
    data = data_of(each.dataset)
    net = selected(sink)

    def forward(batch: Examples) -> Tensor:
        value = batch.inputs.flatten(2)
        for layer in ("hidden1", "hidden2"):
            value = (value @ net[f"{layer}.weight"] + net[f"{layer}.bias"]).relu()
        return value @ net["output.weight"] + net["output.bias"]

    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        for figure, (value,) in evaluate(forward, split, data.facts, 1).items():
            assert sink.results[0][name][figure] == pytest.approx(value, rel=1e-5)
    assert sink.results[0]["parameters"] == 64 * 7 + 7 + 7 * 6 + 6 + 6 * 10 + 10


# ---- batches, epochs, evaluations


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(monkeypatch):
    watch = Watch(monkeypatch)
    configs = [tiny("none", "mlp", "dataset.train_size=45", f"seed={seed}") for seed in (0, 1)]
    sink = run(configs)
    _, batches = watch.take()
    assert [tuple(index.shape) for index in batches] == [
        (2, 16),
        (2, 16),
        (2, 13),
    ] * 2  # the last one is part of a batch
    orders = [torch.cat(batches[at : at + 3], 1)[slot].tolist() for at in (0, 3) for slot in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(45))
    assert len({tuple(order) for order in orders}) == 4
    assert sink.results[0]["steps"] == 6


@pytest.mark.parametrize("size", [48, 49, 1000])
def test_a_batch_is_at_most_the_training_set(monkeypatch, size):
    watch = Watch(monkeypatch)
    sink = run([tiny("standard", "mlp", f"batch_size={size}", "epochs=3")])
    assert [tuple(index.shape) for index in watch.take()[1]] == [(1, 48)] * 3
    assert (sink.results[0]["epochs"], sink.results[0]["steps"]) == (3, 3)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_evaluations(every, epochs):
    sink = run([tiny("standard", "mlp", "epochs=5", f"evaluation.every={every}")])
    assert [record["epoch"] for record in sink.records[0]] == epochs
    assert [record["step"] for record in sink.records[0]] == [3 * epoch for epoch in epochs]
    assert sink.results[0]["selection"]["epoch"] in epochs


def test_the_training_loss_is_the_mean_since_the_last_evaluation():
    each = tiny("standard", "mlp", "epochs=4", "evaluation.every=2")
    losses = weights(run([each], stop_after=5))["losses"].tolist()
    assert len(losses) == 5
    losses.append(
        weights(run([tiny("standard", "mlp", "epochs=4", "evaluation.every=4")], stop_after=6))["losses"][-1].item()
    )
    assert run([each]).records[0][0]["training_loss"] == pytest.approx(sum(losses) / 6, rel=1e-6)


def test_a_first_step_by_hand():
    """One update of plain gradient descent against autograd on the sum of nothing else."""
    each = tiny("none", "mlp", "optimizer=sgd", "optimizer.momentum=0", "optimizer.momentum_start=0")
    data = data_of(each.dataset)
    trainer = Trainer([each], data, CPU, MemorySink(1))
    params = {name: value[0].detach().clone().requires_grad_() for name, value in trainer.state.params.items()}
    index = trainer.nets.streams.permutation("order", 0, "train", 48)[0, :16]
    value = data.train.inputs[index].flatten(1)
    for layer in ("hidden1", "hidden2"):
        value = (value @ params[f"{layer}.weight"] + params[f"{layer}.bias"]).relu()
    outputs = value @ params["output.weight"] + params["output.bias"]
    loss = torch.nn.functional.cross_entropy(outputs, data.train.targets[index])
    loss.backward()
    saved = weights(run([each], stop_after=1))
    assert saved["losses"].tolist() == pytest.approx([loss.item()], rel=1e-5)
    for name, start in params.items():
        torch.testing.assert_close(saved[f"params/{name}"], start.detach() - 0.05 * start.grad, atol=1e-6, rtol=1e-5)


# ---- other tasks and precisions


@pytest.mark.parametrize("net", NETS)
def test_bfloat16_trains_close_to_float32(net):
    exact, rough = (
        run([tiny("standard", net, f"precision={precision}", "epochs=6", "seed=1")])
        for precision in ("float32", "bfloat16")
    )
    assert rough.records != exact.records
    for mine, theirs in zip(rough.records[0], exact.records[0], strict=True):
        assert math.isfinite(mine["training_loss"])
        assert mine["training_loss"] == pytest.approx(theirs["training_loss"], rel=0.05)
    close(rough.results[0]["test"]["loss"], exact.results[0]["test"]["loss"], 0.1)
    assert all(value.dtype == torch.float32 for name, value in weights(rough).items() if name.startswith("params/"))
    assert weights(rough)["losses"].dtype == torch.float32


SEQUENCES = ("dataset.length=10", "dataset.train_size=60", "dataset.validation_size=20", "dataset.test_size=30")
SHORT = (*SEQUENCES, "model=lstm", "model.hidden=6", "batch_size=16", "epochs=3")


def test_regression():
    each = config("dataset=adding", *SHORT, "strategy=standard")
    sink = run([each, replace(each, seed=1)])
    for result in sink.results:
        assert result["task"] == "regression"
        variance = result["train"]["loss"]
        for split in ("train", "validation", "test"):
            figures = result[split]
            assert figures.keys() == {"loss", "rmse", "nll"}
            assert figures["rmse"] ** 2 == pytest.approx(figures["loss"])
            assert figures["nll"] == pytest.approx(gaussian_nll(figures["loss"], variance))
    errors = [record["validation"]["rmse"] for record in sink.records[0]]
    assert sink.results[0]["selection"]["epoch"] == errors.index(min(errors)) + 1


def test_an_answer_a_step():
    each = config("dataset=copy_memory", *SHORT, "strategy=standard", "dataset.symbols=2", "dataset.alphabet=3")
    sink = run([each])
    assert sink.results[0]["test"].keys() == {"loss", "error", "nll", "ece", "brier"}
    assert math.isfinite(sink.results[0]["test"]["loss"])
    assert sink.records[0][-1]["training_loss"] < sink.records[0][0]["training_loss"]


def test_what_stands_behind_the_end_of_a_sequence_neither_trains_nor_counts():
    each = config("dataset=temporal_order", *SHORT, "dataset.length=20", "dataset.shortest=10", "strategy=standard")
    data = data_of(each.dataset)
    assert data.facts.shortest == 10

    def padded(split: Split) -> Split:
        behind = torch.arange(20).expand(len(split), 20) >= split.facts["steps"].unsqueeze(1)
        assert behind.any()
        return replace(split, inputs=torch.where(behind.unsqueeze(2), 7.0, split.inputs))

    other = replace(data, **{name: padded(getattr(data, name)) for name in ("train", "validation", "test")})
    one, two = run([each], data), run([each], other)
    assert one.records == two.records
    assert one.results == two.results


# ---- what objectives ask for


@dataclass(frozen=True)
class Twice(CrossEntropy):
    copies: ClassVar[int] = 2

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        runs, copies, batch, classes = outputs.shape
        assert (copies, classes) == (2, 10)
        assert targets.shape == (runs, batch)
        apart = (outputs[:, 0] - outputs[:, 1]).abs().flatten(1).amax(1)
        self.seen.append((apart > 1e-4).tolist())
        return super().terms(outputs, targets)

    seen: ClassVar[list[list[bool]]] = []


def test_an_objective_may_ask_for_two_copies_of_the_batch_with_noise_of_their_own():
    for strategy, differ in (("standard", True), ("none", False)):
        each = tiny(strategy, "mlp")
        each = replace(each, strategy=replace(each.strategy, objective=Twice()))
        Twice.seen.clear()
        sink = run([each, replace(each, seed=1)])
        assert Twice.seen == [[differ, differ]] * 6
        assert math.isfinite(sink.results[0]["test"]["loss"])


@pytest.mark.parametrize(
    ("net", "overrides"),
    [
        ("mlp", ("strategy.where=hidden",)),
        ("cnn", ("model.batch_norm=true",)),
        ("lstm", ("strategy.where=input",)),
        ("lstm", ("strategy.where=hidden", "model.layers=2")),
    ],
)
def test_copies_that_are_made_where_they_first_differ_are_copies_of_the_batch(net, overrides):
    each = tiny("rdrop", net, "selection=last", *overrides)
    records = []
    for late in (True, False):
        sink = MemorySink(1)
        trainer = Trainer([each], data_of(each.dataset), CPU, sink)
        assert trainer.nets.late
        trainer.nets.late = late
        trainer.run()
        records.append(sink.records[0])
    for mine, theirs in zip(*records, strict=True):
        close(mine, theirs, 1e-3)


@pytest.mark.parametrize("where", ["input", "embedding", "hidden", "state"])
def test_copies_of_sequences_keep_their_lengths(where):
    each = config(
        "dataset=temporal_order", *SHORT, "dataset.length=20", "dataset.shortest=10", "model.layers=2",
        "strategy=rdrop", f"strategy.where={where}",
    )  # fmt: skip
    assert math.isfinite(run([each]).results[0]["test"]["loss"])


@dataclass(frozen=True)
class BesideClean(CrossEntropy):
    clean: ClassVar[bool] = True

    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        noisy, clean = outputs.unbind(1)
        self.seen.append((noisy.detach(), clean.detach()))
        return {"noisy": noisy.square().mean((1, 2)), "clean": clean.square().mean((1, 2))}

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        return terms["noisy"] + 3 * terms["clean"]

    seen: ClassVar[list[tuple[Tensor, Tensor]]] = []


@pytest.mark.parametrize("scaling", ["inverted", "test"])
def test_an_objective_may_ask_for_a_copy_without_noise(scaling):
    """The outputs of evaluation: those of no dropout where noise is scaled in training."""
    seen = {}
    for strategy in ("standard", "none"):
        each = tiny(strategy, "mlp", f"scaling={scaling}")
        each = replace(each, strategy=replace(each.strategy, objective=BesideClean()))
        BesideClean.seen.clear()
        run([each], stop_after=1)
        ((noisy, clean),) = BesideClean.seen
        seen[strategy] = clean
        assert torch.equal(noisy, clean) == (strategy == "none")
    assert torch.allclose(seen["standard"], seen["none"]) == (scaling == "inverted")


def test_the_terms_of_an_objective_are_recorded_one_by_one():
    each = tiny("standard", "mlp")
    each = replace(each, strategy=replace(each.strategy, objective=BesideClean()))
    for record in run([each]).records[0]:  # every step of so short an epoch is watched
        terms = record["terms"]
        assert terms.keys() == {"noisy", "clean"}
        assert record["training_loss"] == pytest.approx(terms["noisy"] + 3 * terms["clean"], rel=1e-5)


# ---- what policies ask for


@dataclass(frozen=True)
class Listener(Policy):
    """The rate follows the training loss."""

    needs: ClassVar[frozenset[str]] = frozenset({"train_loss"})
    told: ClassVar[list[Signals]] = []

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        return state["level"]

    def init(self, runs: int, sites: Sequence[Site]) -> dict[str, Tensor]:
        return {"level": torch.ones(runs)}

    def update(self, state: Mapping[str, Tensor], signals: Signals) -> dict[str, Tensor]:
        self.told.append(signals)
        loss = signals.train_loss
        return dict(state) if loss is None else {"level": state["level"] * loss.tanh()}


def listening(*overrides: str, policy: Policy | None = None) -> Config:
    Listener.told.clear()
    each = tiny("standard", "mlp", "epochs=3", *overrides)
    return replace(each, strategy=replace(each.strategy, policies={"listener": policy or Listener()}))


def test_a_policy_gets_the_signals_it_needs_before_the_first_step_and_at_the_end_of_every_epoch():
    configs = [listening("seed=0"), listening("seed=1")]
    sink = run(configs)
    before, *told = Listener.told
    assert before == Signals()  # nothing has trained
    assert len(told) == 3
    level = torch.ones(2)
    for epoch, signals in enumerate(told):
        assert (signals.clean_loss, signals.held_out_loss) == (None, None)
        assert signals.saliency == signals.conflict == {}
        means = [records[epoch]["training_loss"] for records in sink.records]
        torch.testing.assert_close(signals.train_loss, torch.tensor(means))
        for slot in (0, 1):  # the rate of an epoch is that of its beginning
            assert sink.records[slot][epoch]["sites"]["hidden1"]["rate"] == pytest.approx(0.5 * level[slot].item())
            assert sink.records[slot][epoch]["signals"] == {"train_loss": pytest.approx(means[slot])}
        level = level * signals.train_loss.tanh()
        for slot in (0, 1):
            told_level = sink.records[slot][epoch]["policies"]["listener"]["level"]
            assert told_level == pytest.approx(level[slot].item())
    assert level[0] != level[1]


def test_the_state_of_a_policy_survives_an_interruption():
    configs = [listening("seed=0", "evaluation.every=2"), listening("seed=1", "evaluation.every=2")]
    whole = run(configs)
    for stop in range(1, 10):
        before = run(configs, stop_after=stop)
        after = run(configs, checkpoints=before.checkpoints)
        assert after.results == whole.results
        assert same(weights(after, 1), weights(whole, 1))


@dataclass(frozen=True)
class Auditor(Listener):
    """Hears everything."""

    needs: ClassVar[frozenset[str]] = frozenset({"clean_loss", "held_out_loss", "saliency", "conflict"})


def test_the_losses_a_policy_hears_are_those_of_evaluation_on_parts_of_the_training_set(monkeypatch):
    watch = Watch(monkeypatch)
    each = listening("dataset.train_size=60", policy=Auditor())
    data = data_of(each.dataset)
    trainer = Trainer([each], data, CPU, MemorySink(1))
    held_out, rest = trainer.held_out, trainer.data.train
    assert len(held_out) == 15  # a quarter of so few
    parts = [{tuple(row.tolist()) for row in split.inputs.flatten(1)} for split in (held_out, rest, data.train)]
    assert parts[0] | parts[1] == parts[2]  # what is held out was to train,
    assert not parts[0] & parts[1]  # and does not
    trainer.run()
    assert all(int(index.max()) < 45 for index in watch.take()[1])
    assert len(Auditor.told) == 4
    heard = Auditor.told[-1]
    net = {name: tensor.detach() for name, tensor in trainer.state.params.items()}

    def forward(batch: Examples) -> Tensor:
        value = batch.inputs.flatten(2)
        for layer in ("hidden1", "hidden2"):
            value = (value @ net[f"{layer}.weight"] + net[f"{layer}.bias"]).relu()
        return value @ net["output.weight"] + net["output.bias"]

    for split, loss in ((held_out, heard.held_out_loss), (rest.part(0, 15), heard.clean_loss)):
        assert loss.tolist() == pytest.approx(evaluate(forward, split, data.facts, 1)["loss"], rel=1e-5)
    shapes = {name: tuple(score.shape) for name, score in heard.saliency.items()}
    assert shapes == {"input": (1, 64), "hidden1": (1, 7), "hidden2": (1, 6)}
    assert all(((score >= 0) & (score <= 1)).all() for score in heard.conflict.values())


def test_a_run_without_such_a_policy_holds_nothing_out():
    each = tiny("standard", "mlp")
    assert Trainer([each], data_of(each.dataset), CPU, MemorySink(1)).held_out is None


@dataclass(frozen=True)
class ByExample(Policy):
    """A rate for every example, by the compressed size."""

    figures: ClassVar[frozenset[str]] = frozenset({"compressed"})
    seen: ClassVar[list[Tensor]] = []

    def factor(self, site: Site, state: Mapping[str, Tensor], scene: Scene) -> Tensor:
        self.seen.append(scene.facts["compressed"])
        return along(site, scene.facts["compressed"], "batch")


def test_figures_of_examples_reach_a_policy_with_every_copy_of_the_batch(monkeypatch):
    watch = Watch(monkeypatch)
    each = tiny("standard", "mlp")
    strategy = replace(each.strategy, objective=Twice(), policies={"example": ByExample()})
    each = replace(each, strategy=strategy)
    ByExample.seen.clear()
    run([each, replace(each, seed=1)], stop_after=1)
    masks, (index,) = watch.take()
    figures = with_figures(data_of(each.dataset), {"compressed"}).train.facts["compressed"]
    assert 0 == figures.min() < figures.max() == 1
    assert torch.equal(ByExample.seen[0], figures[index].repeat(1, 2))
    scale = masks[0, "hidden1"]
    largest = (1 / (1 - 0.5 * figures[index])).repeat(1, 2)
    torch.testing.assert_close(scale.amax(2), largest)


# ---- what noises ask for


@dataclass(frozen=True)
class Learning(Bernoulli):
    """A rate that is learned through the penalty alone, towards a level."""

    level: PerRun = 0.25

    def learned(self, site: Site) -> tuple[Parameter, ...]:
        return (Parameter("more", (), "ones"),)

    def effective(self, rate: Tensor, place: Place) -> Tensor:
        return rate * place.learned["more"].view(-1, *(1 for _ in rate.shape[1:]))

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        return super().perturb(draw, rate.detach(), place)

    def penalty(self, rate: Tensor, place: Place) -> Tensor:
        return 10 * (rate.flatten(1).mean(1) - vector(self.level)).square()


def test_what_a_noise_learns_is_trained_selected_saved_and_recorded():
    each = tiny("standard", "mlp", "epochs=3", "optimizer=sgd", "optimizer.momentum=0", "strategy.input_rate=0.5")
    configs = [
        replace(each, strategy=replace(each.strategy, noise=Learning(level=level)), seed=seed)
        for seed, level in enumerate((0.25, 0.75))
    ]
    whole = run(configs)
    for slot, level in enumerate((0.25, 0.75)):
        sites = [record["sites"]["hidden1"]["rate"] for record in whole.records[slot]]
        distances = [abs(rate - level) for rate in sites]
        assert distances == sorted(distances, reverse=True)  # it comes nearer
        assert distances[-1] < 0.15
        assert {f"params/noise.{site}.more" for site in ("input", "hidden1", "hidden2")} <= weights(whole, slot).keys()
        terms = [record["terms"] for record in whole.records[slot]]
        assert terms[-1]["penalty"] < terms[0]["penalty"]
        for record in whole.records[slot]:
            assert record["training_loss"] == pytest.approx(sum(record["terms"].values()), rel=1e-5)
    assert whole.results[0]["parameters"] == 64 * 7 + 7 + 7 * 6 + 6 + 6 * 10 + 10 + 3
    saved = run(configs, stop_after=5).checkpoints
    assert run(configs, checkpoints=saved).results == whole.results


@dataclass(frozen=True)
class Halving(Noise):
    """Multiplies by 1 - rate, in training and in evaluation: nothing is random, the rate is seen in every figure."""

    draw: ClassVar[str] = "bits"
    kinds: ClassVar[frozenset[str]] = frozenset({"hidden"})

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        return Perturbation(1 - rate)

    def expect(self, rate: Tensor, place: Place) -> Perturbation:
        return Perturbation(1 - rate)

    def realised(self, perturbation: Perturbation) -> Tensor:
        return 1 - perturbation.scale.flatten(1).mean(1)


@pytest.mark.parametrize("policy", [Gradual(until=1.0), Listener()], ids=lambda policy: policy.kind())
def test_a_result_is_measured_with_the_rates_of_the_selected_epoch(policy):
    each = tiny("standard", "mlp", "optimizer=sgd", "optimizer.learning_rate=0.8", "epochs=12", "seed=8")
    strategy = replace(each.strategy, noise=Halving(), where=("hidden",), policies={"moving": policy})
    configs = [replace(each, strategy=strategy), replace(each, strategy=strategy, seed=9)]
    sink = run(configs)
    for records, result in zip(sink.records, sink.results, strict=True):
        epoch = result["selection"]["epoch"]
        assert epoch < 12
        assert result["validation"] == records[epoch - 1]["validation"]
    saved = run(configs, stop_after=35).checkpoints  # long after those epochs
    assert run(configs, checkpoints=saved).results == sink.results


# ---- devices


def test_the_device_that_a_config_names():
    assert device_of("cpu") == CPU
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=rf"^device={name}: this machine has 0 CUDA devices .*; allowed: auto, cpu$"):
        device_of(name)


def test_a_device_beyond_the_last_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"^device=cuda:2: .*; allowed: auto, cpu, cuda:0, cuda:1$"):
        device_of("cuda:2")
    assert device_of("cuda:1") == torch.device("cuda:1")
    assert device_of("auto") == torch.device("cuda")


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device that torch can use")


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("net", NETS)
def test_cuda_trains_as_the_cpu_does(monkeypatch, net):
    """Weights, order and masks bit for bit; figures closely; and twice the same bits."""
    watch = Watch(monkeypatch)
    configs = [tiny("standard", net, *overrides) for overrides in THREE]
    cuda = device_of("cuda")
    own = Trainer(configs, data_of(configs[0].dataset), cuda, MemorySink(3)).state.params
    theirs = Trainer(configs, data_of(configs[0].dataset), CPU, MemorySink(3)).state.params
    assert same({name: value.cpu() for name, value in own.items()}, theirs)
    there = run(configs, device=cuda)
    masks, batches = watch.take()
    here = run(configs)
    own_masks, own_batches = watch.take()
    assert same({str(key): value.cpu() for key, value in masks.items()}, {str(k): v for k, v in own_masks.items()})
    assert all(torch.equal(index.cpu(), other) for index, other in zip(batches, own_batches, strict=True))
    for slot in range(3):
        for mine, other in zip(there.records[slot], here.records[slot], strict=True):
            assert mine["training_loss"] == pytest.approx(other["training_loss"], rel=1e-3)
        assert there.results[slot]["test"]["loss"] == pytest.approx(here.results[slot]["test"]["loss"], rel=1e-2)
    again = run(configs, device=cuda)
    assert again.records == there.records
    assert all(same(weights(again, slot), weights(there, slot)) for slot in range(3))


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("net", NETS)
def test_a_run_on_cuda_goes_on_from_an_interruption(net):
    configs = [tiny("gradual", net, "seed=1")]
    cuda = device_of("cuda")
    whole = run(configs, device=cuda)
    saved = run(configs, stop_after=4, device=cuda).checkpoints
    after = run(configs, checkpoints=saved, device=cuda)
    assert after.results == whole.results
    assert same(weights(after), weights(whole))


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("net", NETS)
def test_bfloat16_on_cuda(net):
    sink = run([tiny("standard", net, "precision=bfloat16")], device=device_of("cuda"))
    assert math.isfinite(sink.results[0]["test"]["loss"])
