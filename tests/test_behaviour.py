"""Behaviour that only a right implementation shows: small trainings on generated tasks and digits, fixed seeds.

The margins are at least twice what lies between seeds.
"""

from __future__ import annotations

from statistics import mean

import pytest
import torch
from support import MemorySink, config, data_of

from dropbench import runner
from dropbench.acting import StepNoise
from dropbench.config import Config

#: A plain, quick recipe.
ADAM = ("optimizer=adam", "selection=last")


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors: threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    device = runner.device_of("cpu")
    yield device
    torch.set_num_threads(before)


def trained(*configs: Config) -> MemorySink:
    """A stack of runs, trained to its end."""
    sink = MemorySink(len(configs))
    runner.train(configs, data_of(configs[0].dataset), torch.device("cpu"), sink)
    return sink


def seeds(count: int, *overrides: str) -> list[Config]:
    return [config(*overrides, f"seed={seed}") for seed in range(count)]


def errors(sink: MemorySink, split: str) -> list[float]:
    """Errors of all runs of a stack, in percent."""
    return [result[split]["error"] for result in sink.results if result is not None]


def last_rates(sink: MemorySink, site: str) -> list[float]:
    return [records[-1]["sites"][site]["rate"] for records in sink.records]


# ---- learned and controlled rates


def test_the_rates_that_concrete_dropout_learns_fall_as_data_grows():
    """The prior weighs 1/N, so what keeps the rate up fades (Gal, Hron, Kendall, 2017, figure 2)."""
    learned: dict[str, list[list[float]]] = {"input": [], "hidden1": []}
    for size in (60, 250, 1000):
        epochs = 400 * 50 // size
        sink = trained(
            *seeds(
                2, "strategy=concrete", "model.widths=[32]", *ADAM, "optimizer.learning_rate=0.02",
                "dataset.validation_size=50", f"dataset.train_size={size}", "batch_size=50",
                f"epochs={epochs}", f"evaluation.every={epochs}",
            )
        )  # fmt: skip
        for site, rates in learned.items():
            rates.append(last_rates(sink, site))
    for site, (few, some, many) in learned.items():
        assert min(few) > 1.5 * max(some), site
        assert min(some) > 1.3 * max(many), site
        assert min(few) > 0.1 > max(many), site  # where all began: it rises and falls


def test_the_gap_controller_ends_at_a_higher_rate_on_few_images_than_on_all():
    """Of a hundred images ten are held out, which may by chance be easy ones: several splits are looked at."""
    ends: dict[str, list[float]] = {}
    for size, epochs, batch in (("100", 40, 10), ("null", 20, 50)):
        runs = [
            config(
                "strategy=adaptive", "model.widths=[64]", *ADAM, "optimizer.learning_rate=0.003",
                f"dataset.validation_size={held}", f"dataset.train_size={size}",
                f"batch_size={batch}", f"epochs={epochs}", "evaluation.every=10",
            )
            for held in (150, 180, 216, 300)
        ]  # fmt: skip
        ends[size] = [last_rates(trained(each), "hidden1")[0] for each in runs]
    assert sorted(ends["100"])[1] > 0.45  # three of four have come to the highest rate there is
    assert max(ends["null"]) < 0.1


# ---- targeted


@pytest.mark.parametrize(
    ("what", "share", "targeted", "rate"),
    [("units", 0.75, "targeted", 0.75), ("weights", 0.8, "targeted/weights", 0.9)],
)
def test_targeted_dropout_keeps_its_accuracy_where_standard_loses_it_to_pruning(what, share, targeted, rate):
    """Gomez et al., 2019: what is dropped in training is not missed once it is cut."""
    recipe = (
        "model.widths=[32]", *ADAM, "optimizer.learning_rate=0.01", "batch_size=100", "epochs=30",
        "evaluation.every=30", f"evaluation.prune={share}", f"evaluation.prune_by={what}",
    )  # fmt: skip
    aimed = trained(
        *seeds(3, f"strategy={targeted}", f"strategy.rate={rate}", f"strategy.policies.targeted.gamma={share}", *recipe)
    )
    standard = trained(*seeds(3, "strategy=standard", *recipe))
    for sink in (aimed, standard):
        assert max(errors(sink, "test")) < 12
    lost = {
        name: [pruned - whole for pruned, whole in zip(errors(sink, "test_pruned"), errors(sink, "test"), strict=True)]
        for name, sink in (("targeted", aimed), ("standard", standard))
    }
    assert max(lost["targeted"]) < 5
    assert min(lost["standard"]) > 10


# ---- complexity


def dropped_by_example(monkeypatch: pytest.MonkeyPatch, site: str, fact: str, each: Config) -> dict[str, list[float]]:
    """The shares that were dropped of long (or complex) and of short (or simple) examples in one training."""
    shares: dict[str, list[float]] = {"low": [], "high": []}
    perturbation = StepNoise.perturbation

    def watched(noise, name, shape, drive=None):
        found = perturbation(noise, name, shape, drive)
        if name == site:
            axis = noise.placements[name].site.axes.index("batch") + 1
            dropped = (found.scale == 0).float().movedim(axis, 1).flatten(2).mean(2)
            figure = noise.scene.facts[fact]
            shares["low"] += dropped[figure < 0.2].tolist()
            shares["high"] += dropped[figure > 0.8].tolist()
        return found

    monkeypatch.setattr(StepNoise, "perturbation", watched)
    trained(each)
    return shares


@pytest.mark.parametrize(
    ("fact", "site", "overrides"),
    [
        (
            "length",
            "layer1.state",
            (
                "dataset=temporal_order", "dataset.length=30", "dataset.shortest=10", "dataset.train_size=400",
                "dataset.validation_size=20", "dataset.test_size=20", "model=lstm", "model.hidden=32",
            ),
        ),
        ("compressed", "hidden1", ("dataset=digits", "model.widths=[32]")),
    ],
)  # fmt: skip
def test_long_and_complex_examples_get_higher_realised_rates(monkeypatch, fact, site, overrides):
    """Within batches: the rate is `0.5 (0.1 + 0.9 c)`, below 0.14 at c < 0.2 and above 0.41 at c > 0.8."""
    shares = dropped_by_example(
        monkeypatch, site, fact,
        config(*overrides, "strategy=adaptive/complexity", f"strategy.policies.complexity.measure={fact}", "epochs=3"),
    )  # fmt: skip
    assert min(len(shares["low"]), len(shares["high"])) > 20
    assert 0.05 < mean(shares["low"]) < 0.17
    assert 0.38 < mean(shares["high"]) < 0.5


# ---- memory


def test_a_cell_mask_anew_at_every_step_destroys_the_memory_that_other_forms_keep():
    """The first symbol must be held for 16 steps, of which a unit that is halved at every step survives 1 in 65,536.

    A mask for the whole sequence leaves half of the units whole (Gal and Ghahramani, 2016; Moon et al., 2015), and
    zoneout loses nothing (Krueger et al., 2017).
    """
    forms = {
        "plain": ("strategy=none",),
        "cell anew": ("strategy=transition/cell", "strategy.share=[]", "strategy.rate=0.5"),
        "cell": ("strategy=transition/cell", "strategy.rate=0.5"),
        "state": ("strategy=transition/state", "strategy.share=[step,gate]", "strategy.rate=0.5"),
        "zoneout": ("strategy=transition/zoneout",),
    }
    found = {}
    for name, form in forms.items():
        sink = trained(
            *seeds(
                2, *form, "dataset=temporal_order", "dataset.length=20", "dataset.train_size=1000",
                "dataset.validation_size=100", "dataset.test_size=400", "model=lstm", "model.hidden=16", *ADAM,
                "optimizer.learning_rate=0.02", "optimizer.clip_norm=1", "batch_size=50", "epochs=8",
                "evaluation.every=8", "evaluation.samples=10",
            )
        )  # fmt: skip
        found[name] = [*errors(sink, "test"), *errors(sink, "test_mc")]  # chance: 75 %
    assert min(found.pop("cell anew")) > 35
    for name, rest in found.items():
        assert max(rest) < 5, name
