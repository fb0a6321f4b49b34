"""Hydra's grammar at the border: groups, prefixes, sweeps, folders of one's own, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from support import choices, composed, config, message

from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.errors import UserError


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of the user's with an experiment and a strategy."""
    files = {
        "experiment/mine.yaml": """
            # @package _global_
            defaults:
              - override /model: lstm
              - override /strategy: gentle
            epochs: 3
            strategy:
              rate: 0.125
            """,
        "strategy/gentle.yaml": """
            # Hardly anything
            rate: 0.0625
            input_rate: 0.0
            where: hidden
            share: auto
            noise: bernoulli
            policies: {}
            objective: auto
            cap: 0.95
            """,
        "strategy/deep/down.yaml": "rate: 0.25\nnoise: bernoulli\nobjective: auto\n",
        "strategy/broken.yaml": "rate: [1,\n",
        "strategy/holed.yaml": "rate: ${nothing.there}\nnoise: bernoulli\nobjective: auto\n",
        "strategy/odd.yaml": "rat: 0.5\nnoise: bernoulli\nobjective: auto\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(dedent(text).lstrip(), encoding="utf-8")
    return tmp_path


def refused(composer: Composer, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        composer.compose(overrides)
    return message(error)


def test_groups_are_the_folders_found_recursively(composer):
    groups = composer.groups()
    assert set(groups) == {"dataset", "model", "strategy", "optimizer", "experiment"}
    for group in groups:
        assert groups[group] == choices(group)
    assert "gradual/late" in groups["strategy"]


def test_what_was_chosen_and_typed_is_kept(composer):
    overrides = ["strategy=gradual/late", "model=lstm", "seed=3", "+strategy.rate=0.25"]
    result = composer.compose(overrides)
    assert result.overrides == tuple(overrides)
    chosen = {"dataset": "digits", "model": "lstm", "strategy": "gradual/late", "optimizer": "sgd_dropout"}
    assert {group: result.choices[group] for group in chosen} == chosen
    assert (result.data["seed"], result.data["strategy"]["rate"]) == (3, 0.25)
    assert set(result.files) == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert yaml.safe_load(result.files["config.yaml"]) == result.data
    assert yaml.safe_load(result.files["overrides.yaml"]) == overrides
    assert "hydra" in yaml.safe_load(result.files["hydra.yaml"])
    assert "hydra" not in result.data


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("strategy=gradul", "strategy=gradul: there is no such strategy; known: "),
        ("strategy=gradual/lat", "strategy=gradual/lat: there is no such strategy; known: "),
        ("model=mpl", "model=mpl: there is no such model; known: "),
        ("dataset=digit", "dataset=digit: there is no such dataset; known: "),
        ("optimizer=sgdd", "optimizer=sgdd: there is no such optimizer; known: "),
        ("+model=mpl", "model=mpl: there is no such model; known: "),
        ("experiment=surely_not", "experiment=surely_not: there is no such experiment; known: "),
    ],
)
def test_an_unknown_choice_is_told_with_the_nearest(composer, override, text):
    line = refused(composer, override)
    assert line.startswith(text)
    nearest = {"gradul": "gradual", "gradual/lat": "gradual/late", "mpl": "mlp", "digit": "digits", "sgdd": "sgd"}
    asked = override.partition("=")[2]
    if asked in nearest:
        assert line.endswith(f"; nearest: {nearest[asked]}")


@pytest.mark.parametrize(
    "override", ["strategy.rate", "=3", "a b=3", "model.widths=[1,2", "x={a:", "strategy.rate==", "seed='1"]
)
def test_bad_grammar_is_one_line_that_shows_what_was_typed(composer, override):
    assert refused(composer, override).startswith(f"{override}: ")
    if override != "=3":  # which Hydra refuses when it composes
        with pytest.raises(UserError) as error:
            composer.expand([override])
        assert message(error).startswith(f"{override}: ")


@pytest.mark.parametrize("override", ["~surely_not_there", "~strategy.surely_not", "~strategy.rate=0.75"])
def test_to_delete_what_is_not_there_is_refused(composer, override):
    assert refused(composer, override).startswith(f"{override}: ")


def test_to_delete_a_key_leaves_the_default(composer):
    data = composer.compose(["seed=3", "~batch_size", "~evaluation.every"]).data
    assert "batch_size" not in data
    assert data["evaluation"] == {"samples": 0, "prune": None, "prune_by": "units"}
    assert check(data).evaluation.every == 1
    gone = composer.compose(["strategy=gradual", "~strategy.policies.gradual"]).data
    assert gone["strategy"]["policies"] == {}
    with pytest.raises(UserError, match="strategy"):
        check(composer.compose(["~strategy"]).data)


def test_where_a_run_lies_is_not_hydras_to_say(composer):
    for key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir"):
        assert "allowed: output_root, study" in refused(composer, f"{key}=/tmp/x")


def test_a_plus_before_a_group_or_a_key_changes_nothing():
    for overrides in (("+strategy=gradual", "+model=lstm"), ("++model=lstm", "++strategy=gradual")):
        assert composed(*overrides).data == composed("strategy=gradual", "model=lstm").data
    assert composed("+seed=4").data == composed("++seed=4").data == composed("seed=4").data


def test_the_later_override_wins(composer):
    assert composer.compose(["seed=1", "seed=2"]).data["seed"] == 2


def test_values_of_every_kind(composer):
    data = composer.compose(
        [
            "study='a,b'",
            'output_root="x y"',
            "model.widths=[8,9]",
            "early_stop=null",
            "rerun=true",
            "strategy.rate=1e-2",
        ]
    ).data
    assert (data["study"], data["output_root"], data["model"]["widths"]) == ("a,b", "x y", [8, 9])
    assert (data["early_stop"], data["rerun"], data["strategy"]["rate"]) == (None, True, 0.01)


# ---- a folder of the user's


@pytest.mark.parametrize("prefix", ["", "+"])
def test_an_experiment_of_ones_own(own, prefix):
    composer = Composer(str(own))
    result = composer.compose([f"{prefix}experiment=mine"])
    assert result.choices["experiment"] == "mine"
    assert (result.choices["strategy"], result.choices["model"]) == ("gentle", "lstm")
    assert result.data["epochs"] == 3
    assert result.data["strategy"]["rate"] == 0.125
    assert Run(check(result.data), result.choices).id.startswith("digits-lstm-gentle-r0.125-s0-")
    # what is typed beats the experiment
    again = composer.compose([f"{prefix}experiment=mine", "epochs=4", "strategy=standard"])
    assert again.data["epochs"] == 4
    assert again.choices["strategy"] == "standard"


def test_choices_of_ones_own_stand_beside_those_of_the_bench(own):
    composer = Composer(str(own))
    assert {"gentle", "deep/down", "standard", "gradual/late"} <= set(composer.groups()["strategy"])
    assert composer.compose(["strategy=deep/down"]).data["strategy"]["rate"] == 0.25
    assert composer.compose(["strategy=gradual/late"]).data == composed("strategy=gradual/late").data
    assert refused(composer, "strategy=gentel").endswith("nearest: gentle")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError) as error:
        Composer(str(tmp_path / "nowhere"))
    assert message(error) == f"--config-dir {tmp_path / 'nowhere'}: no such folder"


@pytest.mark.parametrize("name", ["broken", "holed"])
def test_a_broken_yaml_is_one_line(own, name):
    assert refused(Composer(str(own)), f"strategy={name}").startswith(f"strategy={name}: ")


def test_an_unknown_key_in_a_yaml_is_told(own):
    with pytest.raises(UserError, match=r"unknown key strategy\.rat=0\.5; nearest: strategy\.rate"):
        check(Composer(str(own)).compose(["strategy=odd"]).data)


# ---- sweeps


def test_a_sweep_is_all_combinations_the_last_fastest(composer):
    assert composer.expand(["seed=0,1", "epochs=3", "strategy=none,standard"]) == [
        ["seed=0", "epochs=3", "strategy=none"],
        ["seed=0", "epochs=3", "strategy=standard"],
        ["seed=1", "epochs=3", "strategy=none"],
        ["seed=1", "epochs=3", "strategy=standard"],
    ]
    assert composer.expand([]) == [[]]
    assert composer.expand(["seed=3"]) == [["seed=3"]]


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("seed=0,1,2", "seed", [0, 1, 2]),
        ("seed=range(3)", "seed", [0, 1, 2]),
        ("seed=range(4,10,3)", "seed", [4, 7]),
        ("strategy.rate=range(0.1,0.35,0.1)", "strategy.rate", [0.1, 0.2, 0.3]),
        ("seed=choice(5,7)", "seed", [5, 7]),
        ("+seed=1,2", "seed", [1, 2]),
        ("++strategy.rate=0.25,0.5", "strategy.rate", [0.25, 0.5]),
        ("model.widths=[8],[8,9]", "model.widths", [[8], [8, 9]]),
        ("early_stop=null,3", "early_stop", [None, 3]),
        ("study='a,b',c", "study", ["a,b", "c"]),
        ("output_root='x y',\"it's\"", "output_root", ["x y", "it's"]),
        ("strategy.policies={gradual:{until:0.25}},{}", "strategy.policies", [{"gradual": {"until": 0.25}}, {}]),
    ],
)
def test_every_way_to_sweep_a_key(composer, override, key, values):
    lines = composer.expand([override])
    found = []
    for (line,) in lines:
        node = composer.compose([line]).data
        for name in key.split("."):
            node = node[name]
        found.append(node)
    assert found == (pytest.approx(values) if key == "strategy.rate" else values)


@pytest.mark.parametrize(
    ("override", "chosen"),
    [
        ("strategy=none,gradual/late", ["none", "gradual/late"]),
        ("strategy=choice(gradual,none)", ["gradual", "none"]),
        (
            "strategy=glob(gradual/annealed*)",
            ["gradual/annealed", "gradual/annealed_cosine", "gradual/annealed_exponential"],
        ),
        ("+model=mlp,lstm", ["mlp", "lstm"]),
        ("model=glob(*,exclude=cnn*)", ["lstm", "mlp"]),
        ("strategy=glob(*)", choices("strategy")),
    ],
)
def test_every_way_to_sweep_a_group(composer, override, chosen):
    lines = composer.expand([override])
    group = override.lstrip("+").partition("=")[0]
    assert [composer.compose(line).choices[group] for line in lines] == chosen


@pytest.mark.parametrize(
    "override",
    ["strategy=glob(surely*)", "strategy=glob(*,exclude=*)", "seed=range(3,3)", "epochs=glob(*)", "seed=choice()"],
)
def test_a_sweep_over_nothing_is_refused(composer, override):
    with pytest.raises(UserError) as error:
        composer.expand([override])
    assert message(error).startswith(f"{override}: ")


def test_a_sweep_over_an_unknown_choice_is_refused_when_it_is_composed(composer):
    lines = composer.expand(["strategy=none,gradul"])
    composer.compose(lines[0])
    assert refused(composer, *lines[1]).endswith("nearest: gradual")


def test_a_range_of_seeds_makes_integers(composer):
    seeds = [check(composer.compose(line).data).seed for line in composer.expand(["seed=range(2)"])]
    assert seeds == [0, 1]


def test_nothing_is_left_behind(composer):
    """A config does not depend on those composed before."""
    before = composer.compose([]).data
    composer.compose(["strategy=gradual", "seed=9", "model=lstm"])
    with pytest.raises(UserError):
        composer.compose(["strategy=gradul"])
    assert composer.compose([]).data == before == composed().data
    assert check(before) == config()
