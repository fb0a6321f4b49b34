"""What a sweep stands for: axes that are typed or stand in a block, what is left out, seeds, errors in a line."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from dropbench.compose import Composer
from dropbench.config import Config, Run, check
from dropbench.errors import UserError
from dropbench.spec import Facts
from dropbench.sweep.grid import Expansion, expand, has_block

STUDIES = ("mnist_1000", "rates", "transitions")
MNIST = Facts("image", (1, 28, 28), "classification", 10)


def config(*overrides: str) -> Config:
    return check(Composer().compose(overrides).data)


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def with_block(folder: Path, block: str, name: str = "mine") -> Composer:
    """A composer that knows an experiment with this block."""
    (folder / "experiment").mkdir(exist_ok=True)
    text = f"# @package _global_\nepochs: 3\n{dedent(block)}"
    (folder / "experiment" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return Composer(str(folder))


def table(expansion: Expansion, *keys: str) -> list[tuple[object, ...]]:
    """What the runs have at these keys; at a group its choice."""

    def value(run: Run, key: str) -> object:
        if key in run.choices:
            return run.choices[key]
        node: object = run.config
        for name in key.split("."):
            node = getattr(node, name)
        return node

    rows = [tuple(value(run, key) for key in keys) for run in expansion.runs]
    return [row[0] for row in rows] if len(keys) == 1 else rows


def refused(composer: Composer, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        expand(composer, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what is typed


def test_a_sweep_is_all_combinations_the_last_fastest(composer):
    found = expand(composer, ["seed=0,1", "epochs=3", "strategy=rdrop,standard"])
    assert table(found, "seed", "epochs", "strategy") == [
        (0, 3, "rdrop"), (0, 3, "standard"), (1, 3, "rdrop"), (1, 3, "standard"),
    ]  # fmt: skip
    assert (found.notes, found.block, found.seeds_auto) == ([], None, False)


def test_the_runs_are_what_each_would_be_alone(composer):
    lines = ["strategy=gradual,none", "+model=mlp,lstm", "strategy.rate=0.1,0.3", "dataset.train_size=64"]
    for run in expand(composer, lines).runs:
        alone = Composer().compose(run.overrides)
        assert run == Run(check(alone.data), alone.choices, run.overrides)


def test_what_hydra_composed_is_kept_by_id(composer):
    found = expand(composer, ["strategy=gradual,standard", "seed=0,1"])
    assert list(found.hydra) == [run.id for run in found.runs]
    for run in found.runs:
        kept = found.hydra[run.id]
        assert kept.overrides == run.overrides
        assert check(kept.data) == run.config
        assert kept.files == Composer().compose(run.overrides).files


def test_duplicates_are_kept(composer):
    found = expand(composer, ["strategy=none", "strategy.rate=0.1,0.2,0.3", "seed=0,1"])
    assert Counter(run.id for run in found.runs) == {run.id: 3 for run in found.runs}
    assert len(found.hydra) == 2


def test_one_run_is_a_sweep_of_one(composer):
    found = expand(composer, ["seed=3"])
    assert [run.config for run in found.runs] == [config("seed=3")]
    assert [run.config for run in expand(composer, []).runs] == [config()]


def test_what_runs_share_is_one_object_and_travels_once(composer):
    """Runs are sent to workers."""
    runs = expand(composer, ["strategy=none,standard", "strategy.rate=0.1,0.2", "seed=range(20)"]).runs
    assert len({id(run.config.strategy) for run in runs}) == 4  # one a rate, also of none
    assert {id(run.config.strategy) for run in runs if run.choices["strategy"] == "none"}
    assert len({id(run.config.optimizer) for run in runs}) == 1
    assert len(pickle.dumps(runs)) < 500 * len(runs)
    again = pickle.loads(pickle.dumps(runs))
    assert again == runs
    assert [run.id for run in again] == [run.id for run in runs]


# ---- keys that mean nothing for a choice


@pytest.mark.parametrize("values", ["64,128", "64"])
def test_a_key_is_left_out_where_it_means_nothing(composer, values):
    found = expand(composer, ["model=mlp,lstm", f"model.hidden={values}"])
    assert found.notes == ["model.hidden means nothing for model=mlp: left out there"]
    plain, *others = [run for run in found.runs if run.choices["model"] == "mlp"]
    assert plain.config == config("model=mlp")
    assert all(run.id == plain.id for run in others)
    assert len(others) == values.count(",")
    assert all("model.hidden" not in " ".join(run.overrides) for run in (plain, *others))
    lstms = [run.config.model.hidden for run in found.runs if run.choices["model"] == "lstm"]
    assert lstms == [int(value) for value in values.split(",")]


def test_several_keys_are_left_out_where_each_means_nothing(composer):
    found = expand(composer, ["model=mlp,cnn,lstm", "model.widths=[8]", "model.hidden=9", "model.maps=[7]"])
    assert found.notes == [
        "model.hidden means nothing for model=mlp, model=cnn: left out there",
        "model.maps means nothing for model=mlp, model=lstm: left out there",
        "model.widths means nothing for model=cnn, model=lstm: left out there",
    ]
    mlp, cnn, lstm = (run.config.model for run in found.runs)
    assert (mlp.widths, cnn.maps, lstm.hidden) == ((8,), (7,), 9)


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        (
            ("strategy=concrete,standard", "strategy.noise.temperature=0.2,0.3"),
            "strategy.noise.temperature means nothing for strategy=standard: left out there",
        ),
        (
            ("strategy=rdrop,standard", "strategy.objective.alpha=0.5"),
            "strategy.objective.alpha means nothing for strategy=standard: left out there",
        ),
        (
            ("optimizer=adam,sgd", "optimizer.momentum=0.5,0.6", "seed=0,1"),
            "optimizer.momentum means nothing for optimizer=adam: left out there",
        ),
    ],
)
def test_a_key_of_a_part_is_left_out_where_the_part_has_none(composer, lines, note):
    assert expand(composer, lines).notes == [note]


def test_a_key_that_is_unknown_for_every_choice_is_refused(composer):
    assert refused(composer, "model=mlp,cnn", "model.hiden=64,128").startswith("unknown key model.hiden=64; ")
    assert refused(composer, "model=mlp,lstm", "epoch=3") == "unknown key epoch=3; nearest: epochs"
    assert refused(composer, "model=mlp,lstm", "seed=0,1", "slurm.gpu=1").startswith("unknown key slurm.gpu=1; nearest")


def test_a_bad_key_is_refused_where_there_is_one_choice(composer):
    line = "unknown key model.hidden=64; nearest: model.widen"
    assert refused(composer, "model=mlp", "model.hidden=64,128") == line
    assert refused(composer, "model.hidden=64", "seed=0,1") == line
    lines = ("strategy=standard", "strategy.objective.kind=rdrop,cross_entropy", "strategy.objective.alpha=1,2")
    assert refused(composer, *lines).startswith("unknown key strategy.objective.alpha=1")


def test_a_key_is_left_out_by_what_it_means_for_the_run_and_not_for_the_choice_alone(composer):
    lines = ["strategy=standard,layerwise", "strategy.objective.kind=rdrop,cross_entropy", "strategy.objective.alpha=2"]
    alphas = [getattr(run.config.strategy.objective, "alpha", None) for run in expand(composer, lines).runs]
    assert alphas == [2.0, None, 2.0, None]


def test_a_value_that_is_not_allowed_is_refused_whatever_else_is_left_out(composer):
    line = refused(composer, "model=mlp,lstm", "model.hidden=64,0")
    assert line.startswith("model.hidden=0: out of range")
    assert refused(composer, "strategy=none,standard", "seed=0,-1").startswith("seed=-1: out of range")
    assert refused(composer, "seed=0,1", "strategy.rate=0.1,2").startswith("strategy.rate=2: out of range")


def test_what_was_checked_before_is_refused_again_in_the_same_words(composer):
    seen = {}
    base = composer.compose([]).data
    for data in (
        {**base, "epoch": 3},
        {**base, "epochs": 0},
        {**base, "epochs": True},
        {**base, "model": {**base["model"], "hidden": 3}},
        {**base, "strategy": {**base["strategy"], "rate": 1}},
        {**base, "strategy": {**base["strategy"], "objective": "mean_squared_error"}},
        {**base, "study": "../x"},
    ):
        with pytest.raises(UserError) as plainly:
            check(data)
        for _ in range(2):
            with pytest.raises(UserError) as error:
                check(data, seen)
            assert str(error.value) == str(plainly.value)
        assert check(base, seen) == check(base)
    assert check({**base, "epochs": 1}, seen).epochs == 1
    for value in ("1", [1]):
        with pytest.raises(UserError, match=r"^epochs="):
            check({**base, "epochs": value}, seen)
    assert check({**base, "diagnostics": True}, seen).diagnostics is True


# ---- the block of an experiment


def test_a_block_is_expanded(tmp_path):
    composer = with_block(
        tmp_path,
        """
        sweep:
          grid:
            strategy: [rdrop, gradual/late]
            strategy.rate: range(0.1,0.4,0.2)
          zip:
            model: [mlp, lstm]
            batch_size: [16, 32]
          seeds: 2
        """,
    )
    found = expand(composer, ["experiment=mine"])
    assert table(found, "strategy", "strategy.rate", "model", "batch_size", "seed") == [
        (strategy, rate, model, size, seed)
        for strategy in ("rdrop", "gradual/late")
        for rate in (0.1, 0.3)
        for model, size in (("mlp", 16), ("lstm", 32))
        for seed in (0, 1)
    ]
    assert set(table(found, "epochs")) == {3}
    assert found.block == {
        "grid": {"strategy": ["rdrop", "gradual/late"], "strategy.rate": "range(0.1,0.4,0.2)"},
        "zip": {"model": ["mlp", "lstm"], "batch_size": [16, 32]},
        "seeds": 2,
    }
    assert found.runs[0].overrides == (
        "experiment=mine", "strategy=rdrop", "strategy.rate=0.1", "model=mlp", "batch_size=16", "seed=0",
    )  # fmt: skip
    assert expand(composer, ["+experiment=mine"]).runs[3].id == found.runs[3].id


def test_the_runs_of_a_block_are_what_each_would_be_alone(tmp_path):
    block = "sweep: {grid: {strategy: [none, gradual], model.widths: [[8], [8, 9]], early_stop: [null, 3]}, seeds: [7]}"
    for run in expand(with_block(tmp_path, block), ["experiment=mine"]).runs:
        alone = Composer(str(tmp_path)).compose(run.overrides)
        assert run == Run(check(alone.data), alone.choices, run.overrides)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ("[standard]", ["standard"]),
        ("standard,rdrop", ["standard", "rdrop"]),
        ("glob(gradual/annealed*)", ["gradual/annealed", "gradual/annealed_cosine", "gradual/annealed_exponential"]),
        ("choice(rdrop)", ["rdrop"]),
    ],
)
def test_values_of_an_axis(tmp_path, values, found):
    for way in ("grid", "zip"):
        composer = with_block(
            tmp_path, f"sweep: {{{way}: {{strategy: '{values}'}}}}".replace("'[", "[").replace("]'", "]")
        )
        assert table(expand(composer, ["experiment=mine"]), "strategy") == found


def test_what_is_excluded_matches_an_entry_wholly(tmp_path):
    composer = with_block(
        tmp_path,
        """
        sweep:
          grid: {strategy: [rdrop, standard], strategy.rate: "range(0.1,0.35,0.1)"}
          zip: {model.widths: [[8], [9, 9]], early_stop: [null, 1]}
          exclude:
            - {strategy: rdrop, strategy.rate: 0.3}
            - {model.widths: [8], strategy: standard}
            - {early_stop: null, strategy.rate: 0.2}
          seeds: [5]
        """,
    )
    found = expand(composer, ["experiment=mine"])
    assert table(found, "strategy", "strategy.rate", "model.widths") == [
        ("rdrop", 0.1, (8,)), ("rdrop", 0.1, (9, 9)), ("rdrop", 0.2, (9, 9)),
        ("standard", 0.1, (9, 9)), ("standard", 0.2, (9, 9)), ("standard", 0.3, (9, 9)),
    ]  # fmt: skip
    typed = expand(composer, ["experiment=mine", "strategy=rdrop", "strategy.rate=0.3,0.4"])
    assert set(table(typed, "strategy", "strategy.rate")) == {("rdrop", 0.4)}
    assert refused(composer, "experiment=mine", "strategy=rdrop", "strategy.rate=0.3") == (
        "experiment=mine: sweep.exclude leaves no run"
    )


def test_an_exclusion_tells_true_from_one(tmp_path):
    block = "sweep: {grid: {evaluation.samples: [0, 1], diagnostics: [false, true]}, exclude: [{diagnostics: 1}]}"
    assert len(expand(with_block(tmp_path, block), ["experiment=mine"]).runs) == 4


@pytest.mark.parametrize(("said", "seeds"), [("3", [0, 1, 2]), ("[4, 2]", [4, 2]), ("auto", [0]), ("null", [0])])
def test_seeds(tmp_path, said, seeds):
    composer = with_block(tmp_path, f"sweep: {{seeds: {said}}}")
    found = expand(composer, ["experiment=mine"])
    assert table(found, "seed") == seeds
    assert found.seeds_auto == (said == "auto")
    typed = expand(composer, [f"seeds={said}".replace(" ", ""), "strategy=rdrop,standard"])
    assert table(typed, "strategy", "seed") == [(name, seed) for name in ("rdrop", "standard") for seed in seeds]
    assert typed.seeds_auto == (said == "auto")
    assert {run.config.seeds for run in (*found.runs, *typed.runs)} == {None}
    assert not any("seeds" in line for run in typed.runs for line in run.overrides)


def test_an_experiment_may_say_seeds_as_a_key(tmp_path):
    composer = with_block(tmp_path, "seeds: 2")
    assert table(expand(composer, ["experiment=mine"]), "seed") == [0, 1]
    assert table(expand(composer, ["experiment=mine", "seed=5"]), "seed") == [5]
    assert has_block(composer, ["experiment=mine"])


BLOCK = """
    sweep:
      grid: {strategy: [rdrop, standard]}
      zip: {strategy.rate: [0.1, 0.2], batch_size: [16, 32]}
      exclude: {strategy: rdrop, strategy.rate: 0.2}
      seeds: 2
    """


@pytest.mark.parametrize(
    ("typed", "rows"),
    [
        (("strategy=standard",), [("standard", r, b, s) for r, b in ((0.1, 16), (0.2, 32)) for s in (0, 1)]),
        (("+strategy=none", "seed=4"), [("none", 0.0, 16, 4), ("none", 0.0, 32, 4)]),
        (
            ("seed=7,8", "strategy=gradual,layerwise", "batch_size=8"),
            [(n, r, 8, s) for r in (0.1, 0.2) for s in (7, 8) for n in ("gradual", "layerwise")],
        ),
        (("strategy.rate=0.5", "strategy=standard", "seeds=1"), [("standard", 0.5, 16, 0), ("standard", 0.5, 32, 0)]),
        (
            ("strategy.rate=0.4,0.5", "batch_size=8", "seeds=[3]"),
            [(n, r, 8, 3) for n in ("rdrop", "standard") for r in (0.4, 0.5)],
        ),
        (("seeds=null", "strategy=standard"), [("standard", 0.1, 16, 0), ("standard", 0.2, 32, 0)]),
        (("seed=0", "~strategy.rate", "batch_size=8"), [("rdrop", 0.5, 8, 0), ("standard", 0.5, 8, 0)]),
    ],
)  # fmt: skip
def test_the_command_line_has_the_last_word(tmp_path, typed, rows):
    found = expand(with_block(tmp_path, BLOCK), ["experiment=mine", *typed])
    assert table(found, "strategy", "strategy.rate", "batch_size", "seed") == rows


def test_seeds_that_are_typed_replace_an_axis_of_seeds(tmp_path):
    composer = with_block(tmp_path, "sweep: {grid: {seed: [1, 2]}, zip: {batch_size: [8, 9]}}")
    assert table(expand(composer, ["experiment=mine"]), "seed", "batch_size") == [(1, 8), (1, 9), (2, 8), (2, 9)]
    assert table(expand(composer, ["experiment=mine", "seeds=[7]"]), "seed", "batch_size") == [(7, 8), (7, 9)]


def test_what_is_typed_beats_an_axis_below_it(tmp_path):
    block = "sweep: {grid: {strategy.policies.gradual.until: [0.25, 0.75]}}"
    lines = ["experiment=mine", "strategy=gradual", "strategy.policies={gradual:{until:0.5}}"]
    for typed in (lines, lines[::-1]):
        runs = expand(with_block(tmp_path, block), typed).runs
        assert [run.config.strategy.policies["gradual"].until for run in runs] == [0.5, 0.5]


def test_an_axis_of_a_block_is_left_out_where_it_means_nothing(tmp_path):
    composer = with_block(tmp_path, "sweep: {grid: {model: [mlp, lstm], model.hidden: [8, 9]}}")
    found = expand(composer, ["experiment=mine"])
    assert found.notes == ["model.hidden means nothing for model=mlp: left out there"]
    assert len(found.runs) == 4
    assert len(found.hydra) == 3


def test_each_of_several_experiments_brings_its_block(tmp_path):
    with_block(tmp_path, "sweep: {grid: {strategy: [rdrop, standard]}, seeds: 2}", "first")
    composer = with_block(tmp_path, "sweep: {grid: {batch_size: [8, 9]}, seeds: [5]}", "second")
    found = expand(composer, ["experiment=first,second,fashion_cnn", "dataset=digits"])
    assert table(found, "experiment", "strategy", "batch_size", "seed") == [
        ("first", "rdrop", 64, 0), ("first", "rdrop", 64, 1),
        ("first", "standard", 64, 0), ("first", "standard", 64, 1),
        ("second", "standard", 8, 5), ("second", "standard", 9, 5),
        ("fashion_cnn", "standard", 64, 0),
    ]  # fmt: skip
    assert found.block == {
        "experiment=first": {"grid": {"strategy": ["rdrop", "standard"]}, "seeds": 2},
        "experiment=second": {"grid": {"batch_size": [8, 9]}, "seeds": [5]},
    }
    with_block(tmp_path, "sweep: {seeds: auto}", "third")
    assert refused(Composer(str(tmp_path)), "experiment=first,third") == (
        "experiment=third: sweep.seeds=auto: allowed where all experiments say so, or seeds= is typed"
    )
    assert expand(Composer(str(tmp_path)), ["experiment=first,third", "seeds=auto"]).seeds_auto


def test_interpolations_in_a_block_are_those_of_the_experiment(tmp_path):
    composer = with_block(tmp_path, 'base: 5\nsweep: {grid: {batch_size: ["${base}", 2]}, seeds: "${base}"}')
    with pytest.raises(UserError, match="unknown key base=5"):
        expand(composer, ["experiment=mine"])
    composer = with_block(tmp_path, 'sweep: {grid: {batch_size: ["${epochs}", 2]}}')
    assert table(expand(composer, ["experiment=mine"]), "batch_size") == [3, 2]
    assert table(expand(composer, ["experiment=mine", "epochs=4"]), "batch_size") == [4, 2]


# ---- whether a plain `train` is a sweep


@pytest.mark.parametrize(
    ("overrides", "sweep"),
    [
        ([], False),
        (["seed=3"], False),
        (["experiment=fashion_cnn"], False),
        (["experiment=rates"], True),
        (["+experiment=rates", "seed=3", "strategy=none"], True),
        (["experiment=fashion_cnn,rates"], True),
        (["seeds=3"], True),
        (["seeds=auto"], True),
        (["experiment=fashion_cnn", "seeds=[1]"], True),
        (["seeds=null"], False),
    ],
)
def test_whether_a_plain_train_is_a_sweep(composer, overrides, sweep):
    assert has_block(composer, overrides) is sweep


# ---- errors


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("sweep: 3", "sweep=3: allowed is a mapping of the keys grid, zip, exclude, seeds"),
        ("sweep: {gird: {seed: [1]}}", "unknown key sweep.gird={'seed': [1]}; nearest: sweep.grid"),
        ("sweep: {grid: [1]}", "sweep.grid=[1]: allowed: a mapping of names"),
        (
            "sweep: {grid: {seed: 3}}",
            "sweep.grid.seed=3: allowed: a list of values, or a text such as a,b or range(0.1,0.6,0.1)",
        ),
        ("sweep: {grid: {strategy: none}}", "sweep.grid.strategy=none: allowed: a list of values, or a text such as"),
        ("sweep: {grid: {seed: []}}", "sweep.grid.seed=[]: allowed: a list of values, or a text"),
        ("sweep: {grid: {seed: null}}", "sweep.grid.seed=None: allowed: a list of values, or a text"),
        ("sweep: {grid: {strategy: {rate: [1]}}}", "sweep.grid.strategy={'rate': [1]}: allowed: a list of values"),
        ("sweep: {grid: {seed: 'range(1,'}}", "sweep.grid.seed: seed=range(1,: "),
        ("sweep: {grid: {seed: 'interval(1,2)'}}", "sweep.grid.seed: seed=interval(1,2): an interval has no values"),
        ("sweep: {grid: {strategy: [none, gradul]}}", "sweep.grid.strategy: strategy=gradul: there is no such"),
        ("sweep: {zip: {strategy: 'glob(zz*)'}}", "sweep.zip.strategy: strategy=glob(zz*): this sweeps over nothing"),
        ("sweep: {grid: {seed: [{a b: 1}]}}", "sweep.grid.seed: seed={'a b': 1}: allowed: numbers, texts, "),
        ("sweep: {grid: {experiment: [a]}}", "sweep.grid.experiment: allowed: a group, or a key of a run such as"),
        ("sweep: {zip: {seeds: [1]}}", "sweep.zip.seeds: allowed: a group, or a key of a run such as"),
        ("sweep: {grid: {hydra.verbose: [true]}}", "sweep.grid.hydra.verbose: allowed: a group, or a key"),
        ("sweep: {grid: {+seed: [1]}}", "sweep.grid.+seed: allowed: a group, or a key"),
        ("sweep: {grid: {'seed=1,x': [1]}}", "sweep.grid.seed=1,x: allowed: a group, or a key"),
        (
            "sweep: {zip: {seed: [1, 2], batch_size: [1, 2, 3]}}",
            "sweep.zip: seed has 2 values, batch_size has 3 values; allowed: one length",
        ),
        ("sweep: {grid: {seed: [1]}, zip: {seed: [1]}}", "sweep.zip.seed: sweep.grid has this axis too"),
        ("sweep: {grid: {seed: [1]}, seeds: 2}", "sweep.seeds: there is an axis seed too"),
        ("sweep: {seeds: 0}", "sweep.seeds=0: out of range; allowed: 1 <= value <= 100000"),
        ("sweep: {seeds: many}", "sweep.seeds=many: allowed: a whole number or auto or null"),
        ("sweep: {seeds: []}", "sweep: seeds=[]: allowed: a number, a list of at least one, or auto"),
        (
            "sweep: {grid: {strategy.rate: [0.1]}, exclude: [{strategy.rat: 0.1}]}",
            "sweep.exclude[0].strategy.rat=0.1: there is no such axis; known: strategy.rate; nearest: strategy.rate",
        ),
        ("sweep: {grid: {seed: [1]}, exclude: [{seed: 1}, 3]}", "sweep.exclude[1]=3: allowed: a mapping of names"),
        ("sweep: {grid: {seed: [1]}, exclude: [{}]}", "sweep.exclude[0]={}: allowed: some of the axes with a value"),
        ("sweep: {exclude: [{seed: 1}]}", "sweep.exclude[0].seed=1: there is no such axis; known: "),
        ("sweep: {grid: {seed: [1]}, exclude: [{seed: 1}]}", "sweep.exclude leaves no run"),
    ],
)  # fmt: skip
def test_a_broken_block_is_told_in_a_line(tmp_path, block, line):
    composer = with_block(tmp_path, block)
    assert refused(composer, "experiment=mine").startswith(f"experiment=mine: {line}")


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("seeds=3", "seed=1"), "seeds=3: says which seeds there are; type this or seed, not both"),
        (("seed=1,2", "seeds=auto"), "seeds=auto: says which seeds there are; type this or seed, not both"),
        (("seeds=3,4",), "seeds=3,...: allowed: a number, a list such as [3,4], or auto"),
        (("seeds=0",), "seeds=0: out of range; allowed: 1 <= value <= 100000"),
        (("seeds=atuo",), "seeds=atuo: allowed: a whole number or auto or null"),
        (("seeds=[]",), "seeds=[]: allowed: a number, a list of at least one, or auto"),
        (("seeds=[-1]",), "seed=-1: out of range"),
        (("seeds=true",), "seeds=True: allowed: a whole number or auto or null"),
    ],
)
def test_bad_seeds_are_told_in_a_line(composer, typed, line):
    assert refused(composer, *typed).startswith(line)


# ---- the studies that come with the bench


def test_the_studies_are_those_with_a_block(composer):
    assert {name for name in composer.groups()["experiment"] if has_block(composer, [f"experiment={name}"])} == {
        *STUDIES
    }


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_can_be_trained(composer, tmp_path, name):
    found = expand(composer, [f"experiment={name}"])
    assert not found.notes
    for run in {run.group: run for run in found.runs}.values():
        downloaded = run.config.dataset.kind() == "vision"
        facts = MNIST if downloaded else run.config.dataset.load(tmp_path).facts
        assert run.config.strategy.place(run.config.model.sites(facts), facts) or run.choices["strategy"] == "none"


def test_the_study_of_rates(composer):
    found = expand(composer, ["experiment=rates"])
    names, rates = ("none", "standard", "gradual", "layerwise", "rdrop"), (0.1, 0.2, 0.3, 0.4, 0.5)
    wanted = [(name, rate if name != "none" else 0.0, seed) for name in names for rate in rates for seed in range(6)]
    assert table(found, "strategy", "strategy.rate", "seed") == wanted
    assert len(found.hydra) == 4 * 5 * 6 + 6


def test_the_study_of_transitions(composer):
    found = expand(composer, ["experiment=transitions"])
    pairs = dict.fromkeys(table(found, "model.cell", "strategy"))
    assert ("gru", "transition/cell") not in pairs
    assert ("lstm", "transition/cell") in pairs
    assert len(found.runs) == len(found.hydra) == 5 * len(pairs) == 5 * 11
