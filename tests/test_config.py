"""The border: what the command line says becomes a checked config, whose meaning names the run."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from support import CONF, choices, composed, config, message, run_of, set_at

import dropbench
from dropbench import config as border
from dropbench.compose import Composer
from dropbench.config import CIRCUMSTANCES, Config, Run, check, digest, meaning
from dropbench.errors import UserError
from dropbench.schema import plain


def refused(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        check(composed(*overrides).data)
    return message(error)


# ---- what a key may hold


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("strategy.rate=1", "strategy.rate=1: out of range; allowed: 0 <= value < 1"),
        ("strategy.rate=-0.1", "strategy.rate=-0.1: out of range; allowed: 0 <= value < 1"),
        ("strategy.rate=high", "strategy.rate=high: allowed: a finite number"),
        ("strategy.rate=nan", "strategy.rate=nan: allowed: a finite number"),
        ("strategy.rate=null", "strategy.rate=null: allowed: a finite number"),
        ("strategy.input_rate=1.5", "strategy.input_rate=1.5: out of range"),
        ("strategy.cap=1", "strategy.cap=1: out of range"),
        ("strategy.cap=0.99999999", "strategy.cap=0.99999999: out of range"),  # 1 as a float32
        ("strategy.where=hiden", "strategy.where=hiden: allowed: auto, nowhere, transition, map, input, "),
        ("strategy.share=[step,bach]", "strategy.share[1]=bach: allowed: auto, batch, step, "),
        ("strategy.noise=bernouli", "strategy.noise.kind=bernouli: there is no such noise"),
        ("strategy.policies.gradul={}", "strategy.policies.gradul=gradul: there is no such policy"),
        ("strategy.objective=rdrp", "strategy.objective.kind=rdrp: there is no such objective"),
        ("epochs=0", "epochs=0: out of range; allowed: 1 <= value <= 1000000"),
        ("epochs=-1", "epochs=-1: out of range"),
        ("epochs=2.5", "epochs=2.5: allowed: a whole number"),
        ("batch_size=0", "batch_size=0: out of range"),
        ("seed=-1", "seed=-1: out of range; allowed: 0 <= value <= 18446744073709551615"),
        ("seed=18446744073709551616", "seed=18446744073709551616: out of range"),
        ("precision=float16", "precision=float16: allowed: float32, bfloat16"),
        ("selection=best", "selection=best: allowed: validation_best, last; nearest: "),
        ("early_stop=0", "early_stop=0: out of range"),
        ("evaluation.every=0", "evaluation.every=0: out of range"),
        ("stack=many", "stack=many: allowed: a whole number or auto"),
        ("workers=0", "workers=0: out of range"),
        ("workers=many", "workers=many: allowed: a whole number or auto"),
        ("scaling=inverse", "scaling=inverse: allowed: inverted, test"),
        ("control=mena", "control=mena: allowed: none, mean, shuffled; nearest: mean"),
        ("diagnostics=yess", "diagnostics=yess: allowed: true or false"),
        ("evaluation.samples=-1", "evaluation.samples=-1: out of range"),
        ("evaluation.prune=1.5", "evaluation.prune=1.5: out of range; allowed: 0 <= value <= 1"),
        ("evaluation.prune_by=unit", "evaluation.prune_by=unit: allowed: units, weights; nearest: units"),
        ("strategy.rates.hidden1=1", "strategy.rates.hidden1=1: out of range; allowed: 0 <= value < 1"),
        ("strategy.map_rate=1", "strategy.map_rate=1: out of range"),
        ("model.widen=2", "model.widen=2: allowed: true or false"),
        ("rerun=1", "rerun=1: allowed: true or false"),
        ("model.widths=[0]", "model.widths=[0]: out of range"),
        ("model.kind=mpl", "model.kind=mpl: there is no such model"),
        ("dataset.kind=digit", "dataset.kind=digit: there is no such dataset"),
        ("dataset.train_size=many", "dataset.train_size=many: allowed: a whole number or null"),
        ("optimizer.decay.shape=linea", "optimizer.decay.shape=linea: allowed: "),
        ("device=gpu", "device=gpu: allowed: auto, cpu, cuda, cuda:N"),
        ("device=cuda:x", "device=cuda:x: allowed: auto, cpu"),
        ("study=../x", "study='../x': allowed: up to 80 letters"),
        ("study=''", "study='': allowed: up to 80 letters"),
        ("study=.hidden", "study='.hidden': allowed: up to 80 letters"),
        ("study='a b'", "study='a b': allowed: up to 80 letters"),
        (f"study={'a' * 81}", f"study='{'a' * 81}': allowed: up to 80 letters"),
    ],
)
def test_bad_values_are_told_in_a_line(override, text):
    assert refused(override).startswith(text)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("{}epoch=3", "unknown key epoch=3; nearest: epochs"),
        ("{}strategy.rat=0.3", "unknown key strategy.rat=0.3; nearest: strategy.rate"),
        ("{}strategy.dropout=0.3", "unknown key strategy.dropout=0.3; known: strategy.noise, strategy.objective, "),
        ("{}model.cell=gru", "unknown key model.cell=gru; known: model.widths, "),
        ("{}model.hiden=64", "unknown key model.hiden=64; nearest: model.widen"),
        ("{}optimizer.decay.gama=0.3", "unknown key optimizer.decay.gama=0.3; nearest: optimizer.decay.gamma"),
        ("{}evaluation.ever=3", "unknown key evaluation.ever=3; nearest: evaluation.every"),
        ("{}strategy.noise={{kind:gaussian,sigma:1}}", "unknown key strategy.noise.sigma=1"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_unknown_keys_are_refused_also_behind_a_plus(prefix, override, text):
    assert refused(override.format(prefix)).startswith(text)


def test_edges_are_allowed():
    checked = config("seed=18446744073709551615", "strategy.rate=0", "strategy.cap=0.9999", "early_stop=1")
    assert (checked.seed, checked.strategy.rate, checked.strategy.cap) == (2**64 - 1, 0.0, 0.9999)
    for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:12"):
        assert config(f"device={device}").device == device


def test_a_mapping_is_needed_where_a_group_stands():
    data = composed().data
    for group in ("dataset", "model", "strategy", "optimizer"):
        for value in (None, 3, ["x"]):
            with pytest.raises(UserError, match=rf"^{group}="):
                check({**data, group: value})
        missing = {key: item for key, item in data.items() if key != group}
        with pytest.raises(UserError, match=group):
            check(missing)


def test_the_data_folder(monkeypatch):
    monkeypatch.delenv("DROPBENCH_DATA", raising=False)
    assert config().data_folder == Path("data")
    monkeypatch.setenv("DROPBENCH_DATA", "/somewhere")
    assert config().data_folder == Path("/somewhere")
    assert config("data_root=/else").data_folder == Path("/else")
    assert config("data_root='~/x'").data_folder == Path.home() / "x"


# ---- the objective


@pytest.mark.parametrize("dataset", choices("dataset"))
def test_the_objective_auto_is_the_plain_one_of_the_task(dataset):
    kind = config(f"dataset={dataset}").strategy.objective.kind()
    assert kind == ("mean_squared_error" if dataset == "adding" else "cross_entropy")


def test_auto_is_the_same_run_as_the_objective_by_name():
    assert run_of("strategy.objective=cross_entropy").id == run_of().id
    adding = run_of("dataset=adding", "model=lstm", "strategy.objective=mean_squared_error")
    assert adding.id == run_of("dataset=adding", "model=lstm").id


def test_an_objective_of_another_task_is_refused():
    assert refused("strategy.objective=mean_squared_error") == (
        "strategy.objective=mean_squared_error: the data set is a classification task; allowed: auto, cross_entropy"
    )
    assert "allowed: auto, mean_squared_error" in refused(
        "dataset=adding", "model=lstm", "strategy.objective=cross_entropy"
    )


# ---- what does not go together


def test_only_a_noise_that_is_divided_by_the_keep_probability_is_scaled_in_evaluation():
    assert refused("strategy=gaussian", "scaling=test") == (
        "scaling=test: gaussian noise is not divided by a keep probability; allowed: inverted"
    )
    assert config("strategy=standard", "scaling=test").scaling == config("strategy=none", "scaling=test").scaling


# ---- presets


def test_how_long_a_model_trains_is_said_by_its_preset_unless_the_user_says_it():
    epochs = {"mlp": 220, "cnn": 25, "lstm": 45, "cnn_residual": 220, "cnn_2014": 220}
    assert {model: config(f"model={model}").epochs for model in choices("model")} == epochs
    assert config("model=lstm", "epochs=7").epochs == config("epochs=7", "model=lstm").epochs == 7
    assert config("experiment=fashion_cnn").epochs == 5
    assert (config("model=cnn").model.kernel, config("model=cnn").model.dense) == (5, (256,))


def test_a_net_that_is_widened_is_the_run_of_the_wider_net():
    wide = run_of("model.widths=[30,7]", "model.widen=true", "strategy.rate=0.75")
    assert wide.config.model.widths == (120, 28)
    assert wide.id == run_of("model.widths=[120,28]", "strategy.rate=0.75").id
    none = run_of("strategy=none", "model.widths=[30,7]", "model.widen=true")
    assert none.id == run_of("strategy=none", "model.widths=[30,7]").id


# ---- the name of a run


def test_an_id_is_readable():
    run = run_of("strategy=gradual/late", "model=lstm", "seed=7", "strategy.rate=0.25")
    assert re.fullmatch(r"digits-lstm-gradual\.late-r0\.25-s7-[0-9a-f]{8}", run.id)
    assert re.fullmatch(r"[0-9a-f]{8}", run.group)


def test_a_hash_is_that_of_canonical_json():
    text = '{"a":[1,2.5,null],"b":"\\u00e9"}'
    assert digest({"b": "é", "a": [1, 2.5, None]}) == hashlib.sha256(text.encode()).hexdigest()[:8]
    data = meaning(config())
    assert json.loads(json.dumps(data)) == data
    assert data["version"] == ".".join(dropbench.__version__.split(".")[:2])
    assert set(data) == {item.name for item in fields(Config)} - CIRCUMSTANCES | {"version"}


#: Ids and groups, under version 7.1, that must never change unless the meaning of a run does.
GOLDEN = {
    ("epochs=200",): ("digits-mlp-standard-r0.5-s0-5ac50f83", "08f56082"),
    ("strategy=none", "strategy.rate=0.3", "seed=18446744073709551615", "epochs=200"): (
        "digits-mlp-none-r0-s18446744073709551615-076cab51",
        "c06c97e4",
    ),
    ("strategy=gradual/late", "model=lstm", "strategy.rate=0.25", "seed=7"): (
        "digits-lstm-gradual.late-r0.25-s7-09c036c0",
        "f032165b",
    ),
    ("strategy=rdrop", "optimizer=adamw", "optimizer.learning_rate=1e-5", "seed=1", "epochs=200"): (
        "digits-mlp-rdrop-r0.3-s1-3120f110",
        "73188700",
    ),
    ("strategy=combined", "model=cnn", "evaluation.prune=0.5"): ("digits-cnn-combined-r0.5-s0-0321a143", "53279d16"),
    ("dataset=adding", "model=lstm", "strategy=transition/zoneout"): (
        "adding-lstm-transition.zoneout-r0.15-s0-3a245de6",
        "6ab52785",
    ),
    ("dataset=temporal_order", "model=lstm", "strategy=embedding", "strategy.cap=0.9"): (
        "temporal_order-lstm-embedding-r0.1-s0-2585cfec",
        "0644eb8f",
    ),
    ("strategy=concrete", "strategy.noise.temperature=0.2", "early_stop=3", "epochs=200"): (
        "digits-mlp-concrete-r0.1-s0-f1205fa9",
        "dea5b49e",
    ),
    ("strategy=layerwise/rates", "model.widths=[64,32]", "epochs=200"): (
        "digits-mlp-layerwise.rates-r0.5-s0-a341b4e4",
        "d2404c03",
    ),
    ("model.widths=[30,7]", "model.widen=true", "strategy.rate=0.75", "epochs=200"): (
        "digits-mlp-standard-r0.75-s0-358000e5",
        "d964d69c",
    ),
    ("strategy=variational/sparse", "precision=bfloat16", "selection=last", "epochs=200"): (
        "digits-mlp-variational.sparse-r0.02-s0-caef08ae",
        "932200c8",
    ),
    ("strategy=targeted/adversarial", "control=shuffled", "diagnostics=true", "epochs=200"): (
        "digits-mlp-targeted.adversarial-r0.5-s0-95ee3262",
        "e23f6d8d",
    ),
    ("strategy=adaptive/difficulty", "dataset=mnist", "batch_size=128", "epochs=200"): (
        "mnist-mlp-adaptive.difficulty-r0.5-s0-6923eedf",
        "9bcb2c26",
    ),
    ("strategy=standard", "scaling=test", "strategy.rates={hidden1:0.1}", "study=other", "stack=3", "epochs=200"): (
        "digits-mlp-standard-r0.5-s0-2777ac7e",
        "16b2a819",
    ),
}


@pytest.mark.parametrize("overrides", GOLDEN, ids=" ".join)
def test_ids_are_what_they_were(monkeypatch, overrides):
    monkeypatch.setattr(border, "__version__", "7.1.0")
    run = Run(config(*overrides), composed(*overrides).choices)
    assert (run.id, run.group) == GOLDEN[overrides]


@pytest.mark.parametrize("strategy", choices("strategy"))
def test_an_id_is_put_together_from_its_parts_and_is_the_hash_of_the_whole(strategy):
    run = run_of(f"strategy={strategy}", "model=lstm", "evaluation.prune=0.5", "early_stop=3")
    whole = meaning(run.config)
    assert run.id.endswith(f"-{digest(whole)}")
    assert run.group == digest({**whole, "seed": None, "choices": dict(run.choices)})


def test_the_files_that_a_policy_names_are_part_of_the_id(tmp_path):
    file = tmp_path / "scores.json"
    ids = set()
    for text in ("{}", "[]", None):
        file.write_text(text) if text else file.unlink()
        policy = f"strategy.policies={{targeted:{{score:given,file:'{file}'}}}}"
        run = Run(check(Composer().compose([policy]).data), composed().choices)
        assert run.id.endswith(f"-{digest(meaning(run.config))}")
        ids.add(run.id)
    assert len(ids) == 3


#: What the cases below say again in other ways.
SAID = (
    "strategy=standard",
    "model=mlp",
    "strategy.rate=0.5",
    "seed=0",
    "model.widths=[32,16]",
    "optimizer.max_norm=null",
)


@pytest.mark.parametrize(
    "overrides",
    [
        ("strategy.rate=0.50", "seed=0"),
        ("seed=0", "strategy.rate=5e-1"),
        ("+seed=0",),
        ("++strategy.rate=0.5",),
        ("strategy=standard", "model=mlp"),
        ("model.widths=[32,16]",),
        ("strategy.noise={kind:bernoulli}",),
        ("strategy.policies={}",),
        ("strategy.where=[auto]",),
        ("+optimizer.max_norm=null",),
    ],
    ids=" ".join,
)
def test_the_same_meaning_is_the_same_run(overrides):
    again = run_of(*SAID, *overrides)
    assert again.id == run_of(*SAID).id
    assert again.group == run_of(*SAID).group


def test_an_entry_that_was_taken_out_was_never_there():
    run = run_of("strategy=gradual", "strategy.policies.gradual=null")
    assert run.config == config("strategy=standard")
    assert run_of("strategy=gradual", "~strategy.policies.gradual").id == run.id


CHANGED = {
    "study": "other",
    "device": "cpu",
    "data_root": "/elsewhere",
    "output_root": "/out",
    "rerun": True,
    "save_predictions": True,
    "logger": {"kind": "wandb"},
    "stack": 3,
    "workers": 1,
    "launcher": "slurm",
    "slurm": {"gpus": 1},
    "on_failure": "stop",
    "prune": 0.5,
    "seeds": [3, 4],
    "budget": "10m",
    "extensions": ["dropbench"],
}


def test_circumstances_do_not_change_the_name():
    assert set(CHANGED) == CIRCUMSTANCES
    data, choice = composed().data, composed().choices
    plainly = Run(check(data), choice)
    for key, value in CHANGED.items():
        changed = Run(check({**data, key: value}), choice)
        assert changed.id == plainly.id, key
        assert changed.group == plainly.group, key


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("dataset.train_size", 123),
        ("dataset.validation_size", 123),
        ("model.widths", [11]),
        ("model.activation", "tanh"),
        ("strategy.rate", 0.1234),
        ("strategy.input_rate", 0.1234),
        ("strategy.where", "hidden"),
        ("strategy.share", "batch"),
        ("strategy.noise", "gaussian"),
        ("strategy.image_rate", 0.1234),
        ("strategy.map_rate", 0.1234),
        ("strategy.rates", {"hidden1": 0.1234}),
        ("strategy.policies", {"gradual": {"until": 0.1234}}),
        ("strategy.objective", "rdrop"),
        ("strategy.cap", 0.1234),
        ("optimizer.learning_rate", 0.1234),
        ("optimizer.decay", {"shape": "constant", "gamma": 0.1234}),
        ("optimizer.max_norm", 1.234),
        ("epochs", 1234),
        ("batch_size", 1234),
        ("precision", "bfloat16"),
        ("selection", "last"),
        ("early_stop", 1234),
        ("scaling", "test"),
        ("control", "mean"),
        ("diagnostics", True),
        ("evaluation.every", 1234),
        ("evaluation.samples", 1234),
        ("evaluation.prune", 0.1234),
        ("evaluation.prune_by", "weights"),
    ],
)
def test_everything_else_does(path, value):
    base = composed("strategy=gradual")
    data, choice = base.data, base.choices
    before, after = Run(check(data), choice), Run(check(set_at(data, path.split("."), value)), choice)
    assert digest(meaning(after.config)) != digest(meaning(before.config))
    assert after.group != before.group


def test_no_field_is_forgotten_in_the_meaning():
    """Every field of a config is either a circumstance or changed by a case of the test above."""
    (mark,) = test_everything_else_does.pytestmark
    covered = {path.split(".")[0] for path, _ in mark.args[1]}
    assert covered | CIRCUMSTANCES | {"seed"} == {item.name for item in fields(Config)}


def test_the_seed_names_a_run_but_not_its_group():
    first, second = run_of("seed=0"), run_of("seed=1")
    assert first.id != second.id
    assert first.group == second.group


def test_the_choice_is_part_of_the_group():
    """Two names for one content are two rows of a table."""
    same = ("strategy.policies={gradual:{shape:step,until:0.2}}",)
    named, spelt = run_of("strategy=gradual/late"), run_of("strategy=standard", *same)
    assert named.config == spelt.config
    assert digest(meaning(named.config)) == digest(meaning(spelt.config))
    assert named.group != spelt.group


def test_no_dropout_at_any_rate_is_one_run():
    run = run_of("strategy=none")
    for overrides in (
        ("strategy.rate=0.3",),
        ("strategy.input_rate=0.1", "strategy.rate=0.9"),
        ("strategy.share=batch",),
        ("strategy.policies={gradual:{}}",),
    ):
        other = run_of("strategy=none", *overrides)
        assert (other.id, other.group) == (run.id, run.group)
    assert run.config.strategy.rate == run.config.strategy.input_rate == 0
    assert run_of("strategy=standard", "strategy.rate=0").group != run.group


def test_a_minor_version_makes_other_runs_and_a_patch_does_not(monkeypatch):
    names = {}
    for version in ("7.1.0", "7.1.5", "7.2.0", "8.1.0"):
        monkeypatch.setattr(border, "__version__", version)
        names[version] = run_of().id
    assert names["7.1.0"] == names["7.1.5"]
    assert len(set(names.values())) == 3


def test_the_order_of_policies_is_nothing():
    one = {"a": {"kind": "gradual", "until": 0.3}, "b": {"kind": "gradual", "until": 0.4}}
    two = dict(reversed(one.items()))
    data, choice = composed().data, composed().choices
    runs = [Run(check(set_at(data, ("strategy", "policies"), policies)), choice) for policies in (one, two)]
    assert runs[0].id == runs[1].id


def test_a_config_is_a_value():
    checked = config()
    assert replace(checked) == checked
    with pytest.raises(AttributeError):
        checked.seed = 3
    assert check(plain(checked)) == checked


def test_a_config_is_composed_checked_and_named_without_torch():
    program = (
        "import sys\n"
        "from dropbench.compose import Composer\n"
        "from dropbench.config import Run, check\n"
        "for model in ('mlp', 'cnn', 'lstm'):\n"
        "    composed = Composer().compose([f'model={model}', 'strategy=gradual'])\n"
        "    print(Run(check(composed.data), composed.choices).id)\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=CONF.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [run_of(f"model={model}", "strategy=gradual").id for model in ("mlp", "cnn", "lstm")]


def test_what_a_file_of_scores_holds_belongs_to_the_meaning_of_a_run(tmp_path):
    scores = tmp_path / "scores.json"
    words = ("strategy=targeted", "strategy.policies.targeted.score=given")

    def id_with(text: str) -> str:
        scores.write_text(text)
        data = composed(*words, f"strategy.policies.targeted.file={scores}").data
        return Run(check(data), {"dataset": "digits", "model": "mlp", "strategy": "targeted"}).id

    first = id_with('{"hidden1": [1, 2]}')
    assert id_with('{"hidden1": [2, 1]}') != first
    assert id_with('{"hidden1": [1, 2]}') == first
