"""Hydra's grammar at the border: groups, prefixes, sweeps, folders of one's own, and one line for what is wrong."""

from __future__ import annotations

import itertools
from pathlib import Path
from textwrap import dedent

import pytest
import yaml
from support import choices, composed, config, message

from dropbench.compose import Composed, Composer
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
        "experiment/said.yaml": """
            # @package _global_
            study: ${model.kind}-${strategy.rate}
            epochs: ${batch_size}
            """,
        "experiment/swept.yaml": """
            # @package _global_
            epochs: 3
            sweep:
              grid: {strategy: [none, standard]}
              seeds: 2
            """,
        "model/greedy.yaml": """
            # @package _global_
            model: {kind: mlp, widths: [4]}
            strategy: {rate: 0.25}
            """,
        "optimizer/late.yaml": """
            # @package _global_
            epochs: 11
            optimizer: {kind: sgd}
            """,
        "optimizer/intruder.yaml": """
            # @package strategy
            cap: 0.5
            """,
        "strategy/with_defaults.yaml": """
            defaults: [standard]
            rate: 0.375
            """,
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


def swept(composer: Composer, *overrides: str) -> list[list[str]]:
    """All combinations of a sweep."""
    axes = composer.axes(overrides)
    return [[line.text for line in lines] for lines in itertools.product(*(axis.lines for axis in axes))]


def test_groups_are_the_folders_found_recursively(composer):
    groups = composer.groups()
    assert set(groups) == {"dataset", "model", "strategy", "optimizer", "logger", "experiment"}
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
            composer.axes([override])
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
    assert swept(composer, "seed=0,1", "epochs=3", "strategy=none,standard") == [
        ["seed=0", "epochs=3", "strategy=none"],
        ["seed=0", "epochs=3", "strategy=standard"],
        ["seed=1", "epochs=3", "strategy=none"],
        ["seed=1", "epochs=3", "strategy=standard"],
    ]
    assert swept(composer) == [[]]
    assert swept(composer, "seed=3") == [["seed=3"]]


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("seed=0,1,2", "seed", [0, 1, 2]),
        ("seed=range(3)", "seed", [0, 1, 2]),
        ("seed=range(4,10,3)", "seed", [4, 7]),
        ("strategy.rate=range(0.1,0.35,0.1)", "strategy.rate", [0.1, 0.2, 0.3]),
        ("strategy.rate=range(0.05,0.3,0.05)", "strategy.rate", [0.05, 0.1, 0.15, 0.2, 0.25]),
        ("strategy.rate=range(0.9,0.6,-0.1)", "strategy.rate", [0.9, 0.8, 0.7]),
        ("strategy.rate=sort(range(0.1,0.4,0.1),reverse=true)", "strategy.rate", [0.3, 0.2, 0.1]),
        ("strategy.rate=tag(mine,choice(0.1,0.2))", "strategy.rate", [0.1, 0.2]),
        ("strategy.cap=float(range(0,1))", "strategy.cap", [0.0]),
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
    lines = swept(composer, override)
    found = []
    for (line,) in lines:
        node = composer.compose([line]).data
        for name in key.split("."):
            node = node[name]
        found.append(node)
    assert found == values
    assert [line.value for line in composer.axes([override])[0].lines] == values
    fresh = Composer()  # a line that was made is a line that can be typed
    assert [fresh.compose(line).data for line in lines] == [composer.compose(line).data for line in lines]


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
    lines = swept(composer, override)
    group = override.lstrip("+").partition("=")[0]
    assert [composer.compose(line).choices[group] for line in lines] == chosen


@pytest.mark.parametrize(
    "override",
    [
        "strategy=glob(surely*)",
        "strategy=glob(*,exclude=*)",
        "seed=range(3,3)",
        "epochs=glob(*)",
        "seed=choice()",
        "strategy.rate=range(0.3,0.1,0.1)",
        "strategy.rate=range(0.1,0.3,0.0)",
        "seed=range(0,inf)",
    ],
)
def test_a_sweep_over_nothing_is_refused(composer, override):
    with pytest.raises(UserError) as error:
        composer.axes([override])
    assert message(error).startswith(f"{override}: ")


def test_an_interval_has_no_values(composer):
    with pytest.raises(UserError) as error:
        composer.axes(["strategy.rate=interval(0,1)"])
    assert message(error) == (
        "strategy.rate=interval(0,1): an interval has no values to go through; allowed: a,b or range(start,stop,step)"
    )


def test_a_sweep_over_an_unknown_choice_is_refused(composer):
    with pytest.raises(UserError, match=r"^strategy=gradul: there is no such strategy; known: .* nearest: gradual$"):
        composer.axes(["strategy=none,gradul"])


def test_a_shuffled_sweep_has_every_value_once(composer):
    for override in ("strategy.rate=shuffle(0.1,0.2,0.3)", "strategy.rate=shuffle(range(0.1,0.4,0.1))"):
        assert sorted(line.value for line in composer.axes([override])[0].lines) == [0.1, 0.2, 0.3]


@pytest.mark.parametrize(
    "values",
    [
        [0, -3, 2**64 - 1, 0.1, 1e-9, 1e22, True, False, None],
        ["gradual/late", "a b", "a,b", "it's", '"', "\\", "a\\'b", "", "~/x", "é", "[1]", "a=b"],
        ["null", "TRUE", "1", "1e3", "nan"],
        [[1, "x y"], [], [["a"], None]],
        [{"a": 1, "b": {"c.d": "x,y"}}, {}, {"*.carry_h": 0.5}],
    ],
)  # fmt: skip
def test_plain_values_are_said_in_hydras_grammar(composer, values):
    found = [line.value for line in composer.axis("x", values).lines]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


@pytest.mark.parametrize("value", [{"a b": 1}, {1: 2}, {2, 3}])
def test_what_the_grammar_cannot_say_is_refused(composer, value):
    with pytest.raises(UserError, match=r"^x\.y="):
        composer.axis("x.y", [value])


def test_a_range_of_seeds_makes_integers(composer):
    seeds = [check(composer.compose(line).data).seed for line in swept(composer, "seed=range(2)")]
    assert seeds == [0, 1]


def test_nothing_is_left_behind(composer):
    """A config does not depend on those composed before."""
    before = composer.compose([]).data
    composer.compose(["strategy=gradual", "seed=9", "model=lstm"])
    with pytest.raises(UserError):
        composer.compose(["strategy=gradul"])
    assert composer.compose([]).data == before == composed().data
    assert check(before) == config()


# ---- what Hydra need not do twice


def by_hydra(composer: Composer, *overrides: str) -> Composed:
    """What Hydra alone makes of overrides."""
    tasks = tuple(axis.lines[0].task for axis in composer.axes(overrides))
    return composer._composed(tasks, overrides)


def same(found: Composed, wanted: Composed) -> None:
    assert found.data == wanted.data
    assert yaml.safe_dump(found.data, sort_keys=False) == yaml.safe_dump(wanted.data, sort_keys=False)
    assert found.choices == wanted.choices
    assert found.files["hydra.yaml"] == wanted.files["hydra.yaml"]
    assert found.files["config.yaml"] == wanted.files["config.yaml"]


def test_configs_that_differ_in_whole_groups_are_what_hydra_makes_of_them(composer):
    for index, strategy in enumerate(choices("strategy")):
        lines = [
            f"strategy={strategy}",
            *(f"{group}={choices(group)[index % len(choices(group))]}" for group in ("model", "dataset", "optimizer")),
        ]
        found = composer.compose(lines)
        if index % 7 == 0:
            same(found, by_hydra(composer, *lines))


def test_hydra_composes_no_more_than_it_must():
    composer = Composer()
    for strategy, model, optimizer in itertools.product(choices("strategy"), ("mlp", "lstm"), ("sgd", "adam")):
        composer.compose([f"strategy={strategy}", f"model={model}", f"optimizer={optimizer}"])
    assert len(composer._frames) == 2  # a model that says how long it trains is more than its group


@pytest.mark.parametrize(
    "lines",
    [
        ("strategy={}", "model=greedy"),  # writes into the strategy
        ("strategy={}", "optimizer=intruder"),
        ("strategy={}", "experiment=mine"),
        ("strategy={}", "optimizer=late", "model=lstm"),  # both say how long
        ("optimizer=late", "model=greedy", "strategy={}"),
        ("strategy={}", "~strategy.rate"),
        ("strategy={}", "experiment=said"),
        ("strategy={}", "experiment=swept"),
    ],
)
def test_files_that_write_elsewhere_are_left_to_hydra(own, lines):
    composer = Composer(str(own))
    for strategy in ("standard", "gentle", "with_defaults", "deep/down", "gradual"):
        overrides = [line.format(strategy) for line in lines]
        same(composer.compose(overrides), by_hydra(composer, *overrides))


def test_interpolations_are_resolved_with_the_values_of_each_run(own):
    composer = Composer(str(own))
    for rate, batch in ((0.25, 8), (0.5, 9)):
        lines = ["experiment=said", f"strategy.rate={rate}", "model=lstm", f"batch_size={batch}"]
        found = composer.compose(lines)
        assert (found.data["study"], found.data["epochs"]) == (f"lstm-{rate}", batch)
        assert "study: ${model.kind}-${strategy.rate}" in found.files["config.yaml"]
        same(found, by_hydra(composer, *lines))
    typed = composer.compose(["study=${model.kind}x"])
    assert typed.data["study"] == "mlpx"
    assert "study: ${model.kind}x" in typed.files["config.yaml"]
    assert refused(composer, "study=${surely.not}").startswith("study=${surely.not}: ")


# ---- the sweep block of an experiment


def test_a_sweep_block_is_no_part_of_the_config(own):
    composer = Composer(str(own))
    found = composer.compose(["experiment=swept", "seed=3"])
    assert found.sweep == {"grid": {"strategy": ["none", "standard"]}, "seeds": 2}
    assert "sweep" not in found.data
    assert "grid" not in found.files["config.yaml"]
    assert check(found.data).epochs == 3
    assert composer.compose(["seed=3"]).sweep is None


@pytest.mark.parametrize("override", ["sweep.seeds=3", "+sweep={seeds:3}", "~sweep", "sweep.grid.seed=1,2"])
def test_a_sweep_block_is_not_typed(own, override):
    line = f"{override}: this stands in an experiment; here type the axes, key=a,b, and seeds="
    assert refused(Composer(str(own)), "experiment=swept", override) == line
