"""What a result holds beside its figures: predictions, calibration, cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import MODELS, TINY, MemorySink, config, data_of
from torch import Tensor

from dropbench import runner
from dropbench.config import Config
from dropbench.data import Data
from dropbench.evaluation import BINS, Predicted, Reliability, evaluate
from dropbench.nets import Nets
from dropbench.runner import Interrupted, Trainer, device_of
from dropbench.spec import Facts

CPU = torch.device("cpu")
SPLITS = ("validation", "test", "validation_mc", "test_mc")
SEQUENCES = (
    "model=lstm", "model.hidden=8", "epochs=2", "batch_size=16", "dataset.train_size=64",
    "dataset.validation_size=20", "dataset.test_size=30",
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors on a shared machine: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    device_of("cpu")
    yield
    torch.set_num_threads(before)


def tiny(*overrides: str) -> Config:
    return config(*MODELS["mlp"], *TINY, *overrides)


def run(configs: Sequence[Config], stop_after: int | None = None, checkpoints: Any = ()) -> MemorySink:
    sink = MemorySink(len(configs), stop_after)
    try:
        runner.train(configs, data_of(configs[0].dataset), CPU, sink, checkpoints)
    except Interrupted:
        assert stop_after is not None
    return sink


def costs(sink: MemorySink, slot: int = 0) -> tuple[int, int]:
    result = sink.results[slot]
    assert result is not None
    assert result["cost"].keys() == {"samples", "forward_passes"}
    assert all(type(value) is int for value in result["cost"].values())
    return result["cost"]["samples"], result["cost"]["forward_passes"]


# ---- predictions


def test_predictions_are_kept_where_they_are_asked_for_and_change_nothing():
    each = tiny("evaluation.samples=3")
    without, kept = run([each]), run([replace(each, save_predictions=True)])
    assert without.predicted == [{}]
    assert kept.predicted[0].keys() == set(SPLITS)
    assert kept.records == without.records
    assert kept.results == without.results
    assert run([replace(tiny(), save_predictions=True)]).predicted[0].keys() == {"validation", "test"}


def test_figures_of_the_predictions_are_those_of_the_result():
    """Of every run of a stack, with plain numpy."""
    stack = [
        tiny("evaluation.samples=3", "save_predictions=true", "epochs=4", f"seed={seed}", f"strategy.rate={rate}")
        for seed, rate in ((0, 0.2), (1, 0.5), (2, 0.6))
    ]
    sink, data = run(stack), data_of(stack[0].dataset)
    for predicted, result in zip(sink.predicted, sink.results, strict=True):
        assert result is not None
        for name in SPLITS:
            split = getattr(data, name.removesuffix("_mc"))
            outputs, targets = (part.numpy() for part in predicted[name])
            assert (outputs.dtype, targets.dtype) == (np.float32, np.int64)
            assert outputs.shape == (len(split), 10)
            np.testing.assert_array_equal(targets, split.targets.numpy())
            np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)
            assert 100 * (outputs.argmax(1) != targets).mean() == pytest.approx(result[name]["error"], abs=1e-12)
            nll = -np.log(outputs[np.arange(len(targets)), targets].astype(float)).mean()
            assert nll == pytest.approx(result[name]["nll"], rel=1e-5)
    first, second = (each["test"][0] for each in sink.predicted[:2])
    assert not torch.equal(first, second)
    assert not torch.equal(first, sink.predicted[0]["test_mc"][0])


def test_predictions_of_a_stack_are_those_of_each_run_alone():
    stack = [tiny("evaluation.samples=2", "save_predictions=true", f"seed={seed}") for seed in (4, 9)]
    together = run(stack)
    for slot, each in enumerate(stack):
        alone = run([each]).predicted[0]
        for name in SPLITS:
            torch.testing.assert_close(together.predicted[slot][name][0], alone[name][0], rtol=1e-5, atol=1e-6)


def test_predictions_of_a_regression():
    each = config("dataset=adding", *SEQUENCES, "evaluation.samples=3", "save_predictions=true")
    sink = run([each])
    result = sink.results[0]
    assert result is not None
    assert "calibration" not in result
    for name in SPLITS:
        outputs, targets = (part.numpy() for part in sink.predicted[0][name])
        assert (outputs.dtype, targets.dtype) == (np.float32, np.float32)
        assert outputs.shape == targets.shape == ({"v": 20, "t": 30}[name[0]], 1)
        assert math.sqrt(((outputs - targets) ** 2).mean()) == pytest.approx(result[name]["rmse"], rel=1e-5)


def test_an_answer_a_step_is_an_item_where_it_is_asked():
    each = config(
        "dataset=copy_memory", *SEQUENCES, "dataset.symbols=2", "dataset.alphabet=3", "evaluation.samples=2",
        "save_predictions=true",
    )  # fmt: skip
    data = data_of(each.dataset)
    asked = data.test.targets.clone()
    asked[:, ::3] = -100
    asked[7] = -100
    sink = MemorySink(1)
    runner.train([each], replace(data, test=replace(data.test, targets=asked)), CPU, sink)
    result = sink.results[0]
    assert result is not None
    for name in ("test", "test_mc"):
        outputs, targets = (part.numpy() for part in sink.predicted[0][name])
        np.testing.assert_array_equal(targets, asked[asked >= 0].numpy())
        assert len(outputs) == len(targets)
        assert 100 * (outputs.argmax(1) != targets).mean() == pytest.approx(result[name]["error"], abs=1e-12)
    assert sum(result["calibration"]["count"]) == int((asked >= 0).sum())


def test_a_run_that_failed_has_no_predictions():
    wild = tiny("save_predictions=true", "optimizer=sgd", "optimizer.learning_rate=1e9")
    calm = replace(wild, optimizer=replace(wild.optimizer, learning_rate=0.01))  # type: ignore[call-arg]
    sink = run([wild, calm])
    assert sink.results[0] is not None
    assert "error" in sink.results[0]
    assert sink.predicted[0] == {}
    assert sink.predicted[1].keys() == {"validation", "test"}


def test_predictions_are_gathered_over_passes():
    """Two passes; the second is shorter, and an answer is not asked."""
    predicted = Predicted(Facts("vector", (2,), "classification", 2))
    predicted(torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]]), torch.tensor([1, 0]))
    predicted(torch.tensor([[[math.log(4), 0.0], [9.0, 9.0]]]), torch.tensor([0, -100]))
    outputs, targets = predicted.all()
    torch.testing.assert_close(outputs, torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.8, 0.2]]]))
    assert targets.tolist() == [1, 0, 0]


# ---- calibration


def logits(*confidences: float) -> Tensor:
    """Of two classes, where class 0 has these probabilities."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p, 1 - p], -1).log().float().unsqueeze(0)


def test_bins_by_hand():
    """15 bins: 0.9 and 0.91 lie in the 14th, (13/15, 14/15]; 0.6 in the 9th, (8/15, 9/15], and 0.98 in the 15th."""
    reliability = Reliability()
    reliability(logits(0.9, 0.91, 0.59), torch.tensor([0, 1, 0]))
    reliability(logits(0.02, 0.5), torch.tensor([1, -100]))
    found = reliability.of_run(0)
    count = [0] * BINS
    count[8], count[13], count[14] = 1, 2, 1
    assert found["count"] == count
    assert found["confidence"][8] == pytest.approx(0.59)
    assert found["confidence"][13] == pytest.approx(0.905)
    assert found["confidence"][14] == pytest.approx(0.98)
    assert [found["accuracy"][at] for at in (8, 13, 14)] == [1.0, 0.5, 1.0]
    for name in ("confidence", "accuracy"):
        assert [value is None for value in found[name]] == [size == 0 for size in count]


def test_each_run_has_bins_of_its_own():
    reliability = Reliability()
    reliability(torch.cat([logits(0.99, 0.99), logits(0.01, 0.6)]), torch.tensor([0, 0]))
    one, other = reliability.of_run(0), reliability.of_run(1)
    assert (one["count"][14], one["accuracy"][14]) == (2, 1.0)
    assert (other["count"][14], other["accuracy"][14], other["count"][8]) == (1, 0.0, 1)


def test_the_calibration_error_is_that_of_the_bins():
    for net in ("mlp", "lstm"):
        each = config(*MODELS[net], *TINY, "epochs=6", "strategy=standard")
        result = run([each]).results[0]
        assert result is not None
        bins, items = result["calibration"], len(data_of(each.dataset).test)
        assert [len(bins[name]) for name in ("count", "confidence", "accuracy")] == [15, 15, 15]
        assert sum(bins["count"]) == items
        filled = [at for at, size in enumerate(bins["count"]) if size]
        error = sum(bins["count"][at] / items * abs(bins["accuracy"][at] - bins["confidence"][at]) for at in filled)
        assert error == pytest.approx(result["test"]["ece"], rel=1e-9)
        right = sum(bins["count"][at] * bins["accuracy"][at] for at in filled)
        assert 100 * (1 - right / items) == pytest.approx(result["test"]["error"], abs=1e-9)


def test_what_looks_on_changes_no_figure():
    data = data_of(tiny().dataset)
    facts = data.facts
    fixed = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))

    def forward(batch: Any) -> Tensor:
        return batch.inputs.flatten(2) @ fixed

    assert evaluate(forward, data.test, facts, 1) == evaluate(
        forward, data.test, facts, 1, (Reliability(), Predicted(facts))
    )


# ---- cost


def counted(monkeypatch: pytest.MonkeyPatch, each: Config, data: Data) -> tuple[MemorySink, int]:
    """A run, and the examples that its net was given by updates and control ticks, each as often as it came out."""
    total, watching = 0, False
    forward = Nets.forward

    def seen(nets: Nets, *args: Any) -> Tensor:
        nonlocal total
        outputs = forward(nets, *args)
        total += outputs.shape[1] * watching
        return outputs

    def watched(name: str) -> None:
        method = getattr(Trainer, name)

        def called(trainer: Trainer, *args: Any) -> None:
            nonlocal watching
            watching = True
            method(trainer, *args)
            watching = False

        monkeypatch.setattr(Trainer, name, called)

    monkeypatch.setattr(Nets, "forward", seen)
    watched("_update")
    watched("_control_tick")
    sink = MemorySink(1)
    runner.train([each], data, CPU, sink)
    return sink, total


@pytest.mark.parametrize(
    ("words", "samples", "passes"),
    [
        (("strategy=none",), 96, 96),  # 48 examples, 2 epochs
        (("strategy=standard", "dataset.train_size=40"), 80, 80),  # the last batch of an epoch is half a batch
        (("strategy=rdrop",), 96, 2 * 96),
        (("strategy=fraternal",), 96, 2 * 96),
        (("strategy=multi_sample", "strategy.objective.samples=5"), 96, 5 * 96),  # of which the head alone is repeated
        (("strategy=expectation_linear",), 96, 2 * 96),  # one with noise, one without
        (("strategy=targeted/saliency",), 96, 96 + 3 * 48),  # before the first epoch, and after each of two
        (("strategy=gradual", "epochs=3", "evaluation.every=2"), 144, 144),
    ],
)
def test_costs_by_hand(monkeypatch, words, samples, passes):
    each = tiny(*words)
    sink, sent = counted(monkeypatch, each, data_of(each.dataset))
    assert costs(sink) == (samples, passes)
    assert sent == passes


#: Strategies with a policy that asks for examples that do not train.
HOLD_OUT = ("strategy=adaptive", "strategy=combined/adaptive_targeted")


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=adaptive",),
        ("strategy=adaptive", "strategy.objective.kind=rdrop"),
        ("strategy=adaptive/difficulty",),
        ("strategy=adaptive/complexity",),
        ("strategy=targeted/gradient_conflict",),
        ("strategy=combined/adaptive_targeted",),
        ("strategy=standout",),
        ("strategy=concrete",),
        ("strategy=adaptive", "control=mean", "strategy.objective.kind=cross_entropy"),
    ],
)
def test_what_is_counted_is_what_went_through_the_net(monkeypatch, words):
    """300 examples, more than are looked at for gradients; 50 of them are held out where a policy asks for it."""
    each = tiny("dataset.train_size=300", *words)
    sink, sent = counted(monkeypatch, each, data_of(each.dataset))
    samples, passes = costs(sink)
    assert passes == sent
    assert samples == 2 * (250 if words[0] in HOLD_OUT else 300)


def test_records_have_the_cost_so_far():
    each = tiny("strategy=targeted/saliency", "epochs=4", "evaluation.every=2")
    sink = run([each])
    assert [(record["samples"], record["forward_passes"]) for record in sink.records[0]] == [
        (2 * 48, 2 * 48 + 3 * 48),
        (4 * 48, 4 * 48 + 5 * 48),
    ]
    assert costs(sink) == (4 * 48, 9 * 48)


def test_the_cost_survives_an_interruption():
    each = tiny("strategy=targeted/saliency", "epochs=3")
    part = run([each], stop_after=4)
    rest = run([each], None, [checkpoint for checkpoint in part.checkpoints if checkpoint is not None])
    assert costs(rest) == costs(run([each])) == (144, 144 + 4 * 48)


def test_a_run_that_stopped_early_cost_what_it_cost_alone():
    shared = ("optimizer=sgd", "early_stop=2", "epochs=8", "seed=2")
    stuck = tiny(*shared, "optimizer.learning_rate=1e-30")
    lively = tiny(*shared, "optimizer.learning_rate=0.05", "strategy.rate=0.1")
    both = run([stuck, lively])
    assert costs(both) == costs(run([stuck])) == (3 * 48, 3 * 48)
    assert costs(both, 1)[0] > 3 * 48
