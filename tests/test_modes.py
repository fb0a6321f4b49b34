"""Modes that stand beside every strategy: Monte Carlo, pruning, scaling, controls, diagnostics, records, resume."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
import torch
from support import MODELS, TINY, MemorySink, config, data_of, message
from torch import Tensor

from dropbench import evaluation, runner
from dropbench.cli import main
from dropbench.config import Config
from dropbench.control import twin
from dropbench.data import Split
from dropbench.diagnostics import gradient_spread
from dropbench.errors import UserError
from dropbench.evaluation import monte_carlo
from dropbench.nets import Present
from dropbench.pruning import without_units, without_weights
from dropbench.runner import Interrupted, Trainer
from dropbench.spec import Clock, Facts, Scene
from dropbench.streams import Streams

CPU = torch.device("cpu")
CLASSES = Facts("vector", (4,), "classification", 4)
REALS = Facts("vector", (1,), "regression", 1)
ADDING = ("dataset=adding", "dataset.length=10", "dataset.train_size=48", "dataset.validation_size=20",
          "dataset.test_size=20", "batch_size=16", "epochs=2", *MODELS["lstm"])  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    runner.device_of("cpu")
    yield
    torch.set_num_threads(before)


def tiny(strategy: str, net: str = "mlp", *overrides: str) -> Config:
    """A run that takes a blink: 48 digits, 3 steps an epoch, 2 epochs."""
    return config(f"strategy={strategy}", *MODELS[net], *TINY, *overrides)


def run(*configs: Config, stop_after: int | None = None, checkpoints: Sequence[Any] = ()) -> MemorySink:
    """Trains a stack to its end, or until it is asked to stop."""
    sink = MemorySink(len(configs), stop_after)
    try:
        runner.train(configs, data_of(configs[0].dataset), CPU, sink, checkpoints)
    except Interrupted:
        assert stop_after is not None
    return sink


def result_of(*configs: Config) -> dict[str, Any]:
    """What the first run ends with."""
    found = run(*configs).results[0]
    assert found is not None
    return found


def saved(sink: MemorySink, slot: int = 0) -> dict[str, Tensor]:
    """Parameters, optimizer, policies and all, as last saved."""
    checkpoint = sink.checkpoints[slot]
    assert checkpoint is not None
    return checkpoint.tensors


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


# ---- Monte Carlo


def test_probabilities_are_averaged_and_not_logits():
    """Two passes, (0.8, 0.2) and (0.4, 0.6) for the right answer and for the wrong one: P = (0.6, 0.4)."""
    passes = [torch.tensor([0.8, 0.2]).log(), torch.tensor([0.4, 0.6]).log()]
    split = Split(torch.zeros(2, 2), torch.tensor([0, 1]))
    figures = monte_carlo(
        lambda batch, key: passes[key % 2].expand(1, 2, 2), split, Facts("vector", (2,), "classification", 2), 1, 2
    )
    assert figures.keys() == {"loss", "nll", "error", "ece", "brier", "entropy"}
    assert figures["nll"] == figures["loss"] == pytest.approx([-(math.log(0.6) + math.log(0.4)) / 2])
    assert figures["error"] == [50.0]
    assert figures["brier"] == pytest.approx([(0.4**2 * 2 + 0.6**2 * 2) / 2])
    assert figures["ece"] == pytest.approx([0.1])
    assert figures["entropy"] == pytest.approx([-(0.6 * math.log(0.6) + 0.4 * math.log(0.4))])


def test_what_is_not_asked_has_no_entropy():
    split = Split(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, -100]]))
    facts = Facts("sequence", (3, 4), "classification", 4, per_step=True)
    figures = monte_carlo(lambda batch, key: torch.zeros(1, 1, 3, 4), split, facts, 1, 2)
    assert figures["entropy"] == figures["nll"] == pytest.approx([math.log(4)])


def test_regression_averages_predictions_and_densities():
    """Predictions 1 and 3 of a target 2, variance 1/2: the mean is right, each density is exp(-1) / sqrt(pi)."""
    split = Split(torch.zeros(3, 1), torch.full((3, 1), 2.0))
    figures = monte_carlo(
        lambda batch, key: torch.full((2, 3, 1), 1.0 + 2 * (key % 2)), split, REALS, 2, 2, variance=[0.5, 2.0]
    )
    assert figures["rmse"] == [0, 0]
    assert figures["nll"] == pytest.approx(
        [1 + math.log(math.pi) / 2, 0.25 + math.log(4 * math.pi) / 2]  # (y - z)^2 / (2 v) + log(2 pi v) / 2
    )
    uneven = monte_carlo(
        lambda batch, key: torch.full((1, 3, 1), (2.0, 4.0)[key % 2]), split, REALS, 1, 2, variance=[1.0]
    )
    assert uneven["rmse"] == pytest.approx([1.0])
    density = (1 + math.exp(-2)) / 2 / math.sqrt(2 * math.pi)
    assert uneven["nll"] == pytest.approx([-math.log(density)])


def test_no_two_passes_have_one_key():
    """Over the pieces of a split too: otherwise the 1st and the 257th example would share their masks."""
    keys: list[int] = []

    def forward(batch: evaluation.Examples, key: int) -> Tensor:
        keys.append(key)
        return batch.inputs

    monte_carlo(forward, Split(torch.zeros(600, 4), torch.zeros(600, dtype=torch.int64)), CLASSES, 1, 5)
    assert sorted(keys) == list(range(15))


@pytest.mark.parametrize(
    ("strategy", "net"), [("standard", "mlp"), ("transition/zoneout", "lstm"), ("adaptive/complexity", "cnn")]
)
def test_monte_carlo_figures_are_those_of_the_run_alone(strategy, net):
    """They do not depend on the stack, and nothing else depends on them."""
    seeds = [tiny(strategy, net, "evaluation.samples=4", f"seed={seed}") for seed in (3, 0, 7)]
    alone, stack = run(seeds[1]), run(*seeds)
    result, stacked_result = alone.results[0], stack.results[1]
    assert result is not None
    assert stacked_result is not None
    for split in ("validation_mc", "test_mc"):
        assert result[split].keys() == {"loss", "nll", "error", "ece", "brier", "entropy"}
        assert 0 < result[split]["entropy"] < math.log(10)
        assert stacked_result[split] == pytest.approx(result[split], rel=1e-4, abs=1e-6)
        assert result[split]["nll"] != pytest.approx(result[split.removesuffix("_mc")]["nll"], rel=1e-5)
    without = run(tiny(strategy, net, "seed=0"))
    assert without.records == alone.records
    assert same(saved(without), saved(alone))
    assert without.results[0] == {key: value for key, value in result.items() if not key.endswith("_mc")}


def test_monte_carlo_without_noise_is_the_plain_evaluation():
    result = result_of(tiny("none", "mlp", "evaluation.samples=3"))
    for split in ("validation", "test"):
        figures = dict(result[f"{split}_mc"])
        assert 0 < figures.pop("entropy") < math.log(10)
        assert figures == pytest.approx(result[split], rel=1e-5)


def test_monte_carlo_of_a_regression():
    result = result_of(config("strategy=standard", *ADDING, "evaluation.samples=5"))
    assert result["test_mc"].keys() == {"loss", "rmse", "nll"}
    assert result["test_mc"]["rmse"] == pytest.approx(math.sqrt(result["test_mc"]["loss"]))
    assert result["test_mc"]["rmse"] != pytest.approx(result["test"]["rmse"], rel=1e-5)


# ---- pruning


def scene_of(params: dict[str, Tensor], declared: Any) -> Scene:
    return Scene(Clock(0, 1, 0, 1), params, declared, 1, "classification", Streams((0,)))


def trainer_of(each: Config) -> Trainer:
    return Trainer([each], data_of(each.dataset), CPU, MemorySink(1))


def test_the_units_with_the_smallest_incoming_norms_are_cut():
    trainer = trainer_of(config("strategy=none", "model.widths=[4,3]", *TINY))
    params = {name: torch.ones_like(tensor) for name, tensor in trainer.state.params.items()}
    params["hidden1.weight"] = params["hidden1.weight"] * torch.tensor([3.0, -1.0, 4.0, 2.0])
    params["hidden2.weight"] = params["hidden2.weight"] * torch.tensor([2.0, 1.0, 3.0])
    quiet = trainer.nets.expected(Present(params, {}, Clock(0, 1, 0, 1)), {})
    cut = without_units(quiet, trainer.nets.sites, scene_of(params, trainer.nets.declared), 0.5)
    assert cut("hidden1", torch.ones(1, 2, 4)).tolist() == [[[1, 0, 1, 0]] * 2]
    assert cut("hidden2", torch.ones(1, 1, 3)).tolist() == [[[0, 0, 1]]]  # round(1.5) of 3
    assert cut("input", torch.ones(1, 1, 64)).tolist() == [[[1] * 64]]


def test_the_smallest_weights_into_each_unit_are_cut():
    trainer = trainer_of(tiny("none", "lstm"))
    params = {name: tensor.detach() for name, tensor in trainer.state.params.items()}
    pruned = without_weights(params, trainer.nets.declared, 0.4)
    for name in ("layer1.weight_ih", "layer1.weight_hh"):
        weight, rest = params[name][0], pruned[name][0]  # [sources, gates * units]
        assert ((rest == 0).sum(0) == round(0.4 * len(weight))).all()
        assert ((rest == weight) | (rest == 0)).all()
        kept = weight.abs().where(rest != 0, math.inf).amin(0)
        assert (kept >= weight.abs().where(rest == 0, 0).amax(0)).all()
    for name in ("output.weight", "output.bias", "layer1.bias_ih"):
        assert torch.equal(pruned[name], params[name])


@pytest.mark.parametrize("what", ["units", "weights"])
@pytest.mark.parametrize("net", ["mlp", "cnn", "lstm"])
def test_nothing_cut_is_the_net_and_everything_cut_is_chance(net, what):
    ends = {
        share: result_of(tiny("standard", net, f"evaluation.prune={share}", f"evaluation.prune_by={what}"))
        for share in ("0", "1")
    }
    data = data_of(tiny("standard", net).dataset)
    for name, split in (("validation", data.validation), ("test", data.test)):
        assert ends["0"][f"{name}_pruned"] == ends["0"][name] == ends["1"][name]
        one_answer = [100 * (1 - count / len(split)) for count in split.targets.bincount().tolist()]
        assert any(ends["1"][f"{name}_pruned"]["error"] == pytest.approx(error) for error in one_answer)
        assert ends["1"][f"{name}_pruned"]["nll"] != pytest.approx(ends["1"][name]["nll"])
    assert "test_pruned" not in result_of(tiny("standard", net))


def test_of_a_net_that_walks_both_ways_both_are_cut():
    """What is read of it is two states side by side."""
    result = result_of(tiny("none", "lstm", "model.bidirectional=true", "evaluation.prune=1"))
    test = data_of(tiny("none").dataset).test
    one_answer = [100 * (1 - count / len(test)) for count in test.targets.bincount().tolist()]
    assert any(result["test_pruned"]["error"] == pytest.approx(error) for error in one_answer)


# ---- scaling

#: What stands at a site of each kind, [R, ...].
SITES = {
    ("mlp", "hidden1", "hidden"): (1, 16, 7),
    ("mlp", "hidden2.weight", "weight"): (1, 1, 7, 6),
    ("lstm", "layer1.state", "state"): (1, 8, 4, 1, 5),
    ("lstm", "layer1.candidate", "candidate"): (1, 8, 4, 5),
    ("lstm", "layer1.cell", "cell"): (1, 8, 4, 5),
    ("lstm", "layer1.recurrent_weight", "recurrent_weight"): (1, 1, 5, 20),
}


@pytest.mark.parametrize(("net", "site", "kind"), list(SITES))
def test_both_scalings_agree_in_expectation(net, site, kind):
    """Mean over masks of `value * scale * readout` = what stands there in evaluation; the ratio is the keep rate."""
    shape, means, expected, draws = SITES[net, site, kind], {}, {}, 600
    for scaling in ("inverted", "test"):
        each = tiny("standard", net, f"strategy.where={kind}", "strategy.rate=0.3", f"scaling={scaling}")
        trainer = trainer_of(each)
        clock, params = trainer._clock(0), trainer.state.params
        total = torch.zeros(())
        for step in range(draws):
            found = trainer.nets.drawn(Present(params, {}, replace(clock, step=step)), {}).perturbation(site, shape)
            assert found is not None
            total = total + found.scale.expand(shape) * (1 if found.readout is None else found.readout)
        means[scaling] = total / draws
        quiet = trainer.nets.expected(Present(params, {}, clock), {})
        found = quiet.perturbation(site, shape)
        ones = torch.ones(shape)
        expected[scaling] = ones if found is None else found(ones) * (1 if found.readout is None else found.readout)
        assert means[scaling].mean().item() == pytest.approx(expected[scaling].mean().item(), abs=0.03)
    torch.testing.assert_close(means["test"], 0.7 * means["inverted"])
    torch.testing.assert_close(expected["test"], 0.7 * expected["inverted"])


def test_the_scalings_are_two_trainings_that_are_one_at_rate_0():
    runs = {
        (scaling, rate): run(tiny("standard", "mlp", f"scaling={scaling}", f"strategy.rate={rate}"))
        for scaling in ("inverted", "test")
        for rate in (0, 0.5)
    }
    assert runs["test", 0].records == runs["inverted", 0].records
    assert runs["test", 0.5].records != runs["inverted", 0.5].records
    with pytest.raises(UserError) as error:
        tiny("transition/zoneout", "lstm", "scaling=test")
    assert "zoneout" in message(error)


# ---- controls


def test_the_constant_twin_of_a_schedule_has_its_mean_rate_at_every_site():
    """Of 6 steps, `min(1, 2 step / 6)` is 0, 1/3, 2/3, 1, 1, 1 high: 2/3 in the mean."""
    original = tiny("gradual", "mlp", "control=mean")
    assert not original.needs_record
    constant = twin(original, data_of(original.dataset))
    assert dict(constant.strategy.rates) == pytest.approx(
        {"input": 0.2 * 2 / 3, "hidden1": 1 / 3, "hidden2": 1 / 3, "*": 0}  # and nowhere else
    )
    schedule, flat = run(tiny("gradual", "mlp")), run(constant)
    for site in ("input", "hidden1", "hidden2"):
        moving = [record["sites"][site]["rate"] for record in schedule.records[0]]
        still = [record["sites"][site]["rate"] for record in flat.records[0]]
        assert moving[0] < still[0] < moving[1]
        assert still[0] == still[1] == pytest.approx(mean(moving))


def test_the_twin_of_a_schedule_over_depth_tells_layers_apart():
    original = tiny("layerwise", "mlp", "+strategy.policies.gradual={until:1.0}", "control=mean")
    rates = twin(original, data_of(original.dataset)).strategy.rates
    recorded = result_of(replace(original, control="none"))["rates"]
    assert rates == pytest.approx({**{site: figures["asked"] for site, figures in recorded.items()}, "*": 0})
    assert rates["input"] < rates["hidden1"] < rates["hidden2"]


@pytest.mark.parametrize(("strategy", "net"), [("targeted", "mlp"), ("combined/gradual_targeted", "cnn")])
def test_a_twin_acts_at_no_site_that_the_original_leaves_alone(strategy, net):
    """Inputs are not targeted; without its policies the strategy would drop them at their own rate."""
    recorded = {site: figures["asked"] for site, figures in result_of(tiny(strategy, net))["rates"].items()}
    original = tiny(strategy, net, "control=mean")
    rates = result_of(twin(original, data_of(original.dataset), recorded))["rates"]
    acting = {site: figures["asked"] for site, figures in rates.items() if figures["asked"] > 0}
    assert acting == pytest.approx(recorded)
    assert "input" not in recorded


def test_the_recorded_mean_weighs_every_step_alike():
    """Of 9 steps, the evaluations cover 6 and 3: `0.5 min(1, 2 step / 9)` is 28 / 81 in the mean."""
    original = tiny("gradual", "mlp", "epochs=3", "evaluation.every=2")
    assert result_of(original)["rates"]["hidden1"]["asked"] == pytest.approx(28 / 81)
    assert twin(replace(original, control="mean"), data_of(original.dataset)).strategy.rates["hidden1"] == (
        pytest.approx(28 / 81)
    )


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "outputs"


SMALL = ("strategy=adaptive", "model.widths=[8]", "dataset.train_size=60", "batch_size=16", "epochs=4", "-q")


def test_the_twin_of_an_adaptive_run_is_made_from_its_record(outputs, capsys):
    assert main(["train", "-m", "control=mean,none", "strategy.policies.gap.target=0", *SMALL]) == 0
    results = {}
    for path in outputs.glob("*/*/result.json"):
        found = json.loads(path.read_text())
        rows = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
        results[found["settings"]["control"]] = found, rows
    original, rows = results["none"]
    constant, flat = results["mean"]
    for site, figures in original["rates"].items():
        moving = [row["sites"][site]["rate"] for row in rows]
        assert len(set(moving)) > 1
        assert figures["asked"] == pytest.approx(mean(moving))
        assert [row["sites"][site]["rate"] for row in flat] == pytest.approx([figures["asked"]] * 4)
    assert constant["test"] != original["test"]


def test_a_twin_that_is_asked_for_alone_says_what_to_train_first(outputs, capsys):
    assert main(["train", "control=mean", *SMALL]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert "control=mean" in lines[-1]
    assert "train that first" in lines[-1]
    assert main(["train", *SMALL]) == 0
    assert main(["train", "control=mean", *SMALL]) == 0


@pytest.mark.parametrize(("strategy", "site"), [("targeted", "hidden1"), ("targeted/weights", "hidden1.weight")])
def test_the_shuffled_twin_targets_as_many_at_random(strategy, site):
    """In the mean over seeds, each unit is as likely; the share is that of the original."""
    chosen = {}
    for control in ("none", "shuffled"):
        original = tiny(strategy, "mlp", "strategy.rate=0.5", f"control={control}")
        configs = [replace(twin(original, data_of(original.dataset)), seed=seed, control="none") for seed in range(40)]
        trainer = Trainer(configs, data_of(original.dataset), CPU, MemorySink(40))
        scene = trainer.nets.drawn(trainer._present(), {}).scene
        rates = trainer.nets.strategy.rate_at(trainer.nets.placements[site].site, trainer.state.policies, scene)
        chosen[control] = (rates > 0).float().flatten(1)
    assert torch.equal(chosen["shuffled"].sum(1), chosen["none"].sum(1))
    assert 0 < chosen["none"][0].mean() < 1
    agreement = (chosen["shuffled"] == chosen["none"]).float().mean()
    assert agreement == pytest.approx(0.5, abs=0.12)
    assert chosen["shuffled"].mean(0).min() > 0.2
    assert chosen["shuffled"].mean(0).max() < 0.8


def test_controls_that_mean_nothing_are_refused():
    with pytest.raises(UserError) as error:
        twin(tiny("standard", "mlp", "control=mean"), data_of(tiny("none").dataset))
    assert "control=mean" in message(error)
    with pytest.raises(UserError) as error:
        twin(tiny("gradual", "mlp", "control=shuffled"), data_of(tiny("none").dataset))
    assert "strategy=targeted" in message(error)


# ---- diagnostics


@pytest.mark.parametrize(("strategy", "net"), [("standard", "mlp"), ("gradual", "cnn"), ("adaptive", "lstm")])
def test_diagnostics_move_nothing(strategy, net):
    watched, plain = (run(tiny(strategy, net, f"diagnostics={flag}", "seed=2")) for flag in ("true", "false"))
    found = [record.pop("diagnostics") for record in watched.records[0]]
    assert watched.records == plain.records
    assert watched.results == plain.results
    assert same(saved(watched), saved(plain))
    for each in found:
        assert each.keys() == {"inactive", "weight_norms", "gradient_by_step", "gradient"}
        assert all(0 <= share <= 1 for share in each["inactive"].values())
        assert all(norm > 0 for norm in each["weight_norms"].values())
        assert 0 < each["gradient"]["spread"] < 1
        assert each["gradient"]["norm"] > 0
    assert found[0] != found[1]


def test_inactive_shares_and_weight_norms_by_hand():
    sink = run(tiny("standard", "mlp", "diagnostics=true"))
    found, params = sink.records[0][-1]["diagnostics"], saved(sink)
    value = data_of(tiny("standard").dataset).train.inputs.flatten(1)
    for layer in ("hidden1", "hidden2"):
        value = (value @ params[f"params/{layer}.weight"] + params[f"params/{layer}.bias"]).relu()
        share = (value == 0).float().mean().item()
        assert 0 < share < 1
        assert found["inactive"][layer] == pytest.approx(share, abs=0.01)
    assert found["inactive"].keys() == {"hidden1", "hidden2"}
    assert found["gradient_by_step"] == {}
    for layer in ("hidden1", "hidden2", "output"):
        norm = params[f"params/{layer}.weight"].norm().item()
        assert found["weight_norms"][f"{layer}.weight"] == pytest.approx(norm, rel=1e-5)


def test_gradient_by_step_by_hand():
    """The gradient of an example's loss at the h that enters each of 8 steps, in a plain RNN written out."""
    each = tiny("standard", "lstm", "model.cell=rnn", "diagnostics=true")
    sink = run(each)
    params = {name.removeprefix("params/"): value for name, value in saved(sink).items()}
    split = data_of(each.dataset).train
    rows = split.inputs.squeeze(1).unbind(1)
    h = torch.zeros(len(split), 5)
    entering = []
    for row in rows:
        gate = torch.zeros_like(h).requires_grad_()
        entering.append(gate)
        bias = params["layer1.bias_ih"] + params["layer1.bias_hh"]
        h = (row @ params["layer1.weight_ih"] + (h + gate) @ params["layer1.weight_hh"] + bias).tanh()
    outputs = h @ params["output.weight"] + params["output.bias"]
    loss = torch.nn.functional.cross_entropy(outputs, split.targets, reduction="sum")
    wanted = [grad.norm(dim=1).mean().item() for grad in torch.autograd.grad(loss, entering)]
    found = sink.records[0][-1]["diagnostics"]["gradient_by_step"]
    assert found.keys() == {"layer1.state"}
    assert found["layer1.state"] == pytest.approx(wanted, rel=1e-4)


def test_gradient_spread_by_hand():
    """Run 0: (3, 0), (0, 4), (-5, 0); the halves of 1 - cos are 1/2, 1 and 1/2. Run 1: all in one direction."""
    first = [[3.0, 0.0], [0.0, 4.0], [-5.0, 0.0]]
    second = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    batches = [
        [torch.tensor([[one[0]], [other[0]]]), torch.tensor([[[one[1]]], [[other[1]]]])]
        for one, other in zip(first, second, strict=True)
    ]
    found = gradient_spread(batches)
    assert found["spread"].tolist() == pytest.approx([2 / 3, 0], abs=1e-6)
    assert found["norm"].tolist() == pytest.approx([4, 2 * math.sqrt(2)])


# ---- records


def test_rdrop_records_its_terms_apart():
    """All 3 steps of an epoch are watched, so the recorded terms make up the training loss."""
    for alpha in (0.5, 2):
        for record in run(tiny("rdrop", "mlp", f"strategy.objective.alpha={alpha}")).records[0]:
            terms = record["terms"]
            assert terms.keys() == {"cross_entropy", "kl"}
            assert terms["kl"] > 0
            assert record["training_loss"] == pytest.approx(terms["cross_entropy"] + alpha * terms["kl"], rel=1e-5)
    for record in run(tiny("rdrop", "mlp", "strategy.rate=0")).records[0]:
        assert record["terms"]["kl"] == 0
    plain = run(tiny("none")).records[0][0]
    assert plain["terms"] == {"cross_entropy": pytest.approx(plain["training_loss"])}


def test_the_penalty_of_a_learned_rate_is_recorded_apart():
    record = run(tiny("concrete")).records[0][-1]
    assert record["terms"].keys() == {"cross_entropy", "penalty"}
    assert sum(record["terms"].values()) == pytest.approx(record["training_loss"], rel=1e-5)
    assert record["sites"]["input"]["rate"] != record["sites"]["hidden1"]["rate"]


def test_a_controller_can_be_plotted_from_the_record():
    """The state after a tick is what the formula makes of the state before it and of the signals."""
    records = run(tiny("adaptive", "mlp", "epochs=4", "strategy.policies.gap.start=0.5")).records[0]
    factors = [record["policies"]["gap"]["factor"] for record in records]
    for record, before, after in zip(records[1:], factors, factors[1:], strict=False):
        signals = record["signals"]
        assert signals.keys() == {"clean_loss", "held_out_loss"}
        moved = before + 0.5 * (signals["held_out_loss"] - signals["clean_loss"] - 0.05)
        assert after == pytest.approx(min(max(moved, 0), 1), abs=1e-6)
        assert record["sites"]["hidden1"]["rate"] == pytest.approx(0.5 * before, abs=1e-6)
        assert record["sites"]["input"]["rate"] == pytest.approx(0.2 * before, abs=1e-6)
    assert len(set(factors)) == 4


def test_asked_and_realised_rates_of_units_that_are_told_apart():
    for record in run(tiny("targeted/saliency", "mlp", "strategy.rate=0.8", "model.widths=[40]")).records[0]:
        assert record["sites"].keys() == {"hidden1"}
        assert record["sites"]["hidden1"]["rate"] == pytest.approx(0.4)
        assert record["sites"]["hidden1"]["dropped"] == pytest.approx(0.4, abs=0.05)
        for kind, figures in (("signals", record["signals"]["saliency"]), ("policies", record["policies"]["targeted"])):
            assert figures["hidden1"].keys() == {"mean", "min", "max"}, kind
            assert 0 <= figures["hidden1"]["min"] < figures["hidden1"]["mean"] < figures["hidden1"]["max"]


# ---- resume


@pytest.mark.parametrize(
    ("strategy", "net", "overrides"),
    [
        ("adaptive", "mlp", ("evaluation.every=2",)),
        ("adaptive/difficulty", "lstm", ("evaluation.every=2",)),
        ("targeted/saliency", "cnn", ()),
        ("targeted/gradient_conflict", "lstm", ()),
        ("concrete", "mlp", ("optimizer=adam",)),
        ("rdrop", "mlp", ("diagnostics=true", "evaluation.samples=2")),
    ],
)
def test_what_a_strategy_remembers_outlives_an_interruption(strategy, net, overrides):
    """Bit for bit, for a stack of two, at every step of the first two epochs."""
    configs = [
        tiny(strategy, net, "dataset.train_size=40", "epochs=3", *overrides, f"seed={seed}", f"strategy.rate={rate}")
        for seed, rate in ((1, 0.3), (2, 0.6))
    ]
    whole = run(*configs)
    assert all(result is not None for result in whole.results)
    for stop in range(1, whole.steps, 2):
        before = run(*configs, stop_after=stop)
        assert before.results == [None, None]
        after = run(*configs, checkpoints=before.checkpoints)
        for slot in range(2):
            assert before.records[slot] + after.records[slot] == whole.records[slot], stop
            assert same(saved(after, slot), saved(whole, slot)), stop
        assert after.results == whole.results, stop


def test_a_run_with_memory_resumes_from_what_it_remembers():
    """Otherwise the test above would hold for policies that remember nothing."""
    for strategy, name in (
        ("adaptive", "policies/gap/factor"),
        ("targeted/saliency", "policies/targeted/hidden1"),
        ("concrete", "params/noise.hidden1.logit"),
    ):
        each = tiny(strategy, "mlp")
        before = run(each, stop_after=4)
        fresh, kept = saved(run(each, stop_after=1))[name], saved(before)[name]
        assert not torch.equal(fresh, kept), strategy
        checkpoint = before.checkpoints[0]
        assert checkpoint is not None
        forged = type(checkpoint)({**checkpoint.tensors, name: kept + 0.25}, checkpoint.facts)
        assert run(each, checkpoints=[forged]).records != run(each, checkpoints=[checkpoint]).records, strategy


def test_the_twin_of_an_adaptive_run_trains_on_no_more_than_the_run_itself(tmp_path, monkeypatch):
    """48 examples, of which the run holds 12 out: 3 steps of 12 an epoch, and not 4."""
    monkeypatch.chdir(tmp_path)
    words = ["strategy=adaptive", "model.widths=[5]", *TINY, "batch_size=12", "workers=1"]
    assert main(["train", "-q", "-m", "control=none,mean", *words]) == 0
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert sorted(result["settings"]["control"] for result in found) == ["mean", "none"]
    assert [result["steps"] for result in found] == [6, 6]
