"""`dropbench train`, through the front door: real runs, small ones."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import yaml

from dropbench.cli import main

TINY = ["epochs=3", "model.widths=[16]", "dataset.train_size=100", "optimizer.learning_rate=0.05"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPBENCH_DATA", raising=False)
    monkeypatch.delenv("DROPBENCH_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("outputs/*/*/result.json"))


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_golden_losses(folder):
    """Four losses of a tiny run. They change only with the meaning of a run, which is a new minor version."""
    assert main(["train", *TINY]) == 0
    (run,) = runs(folder)
    losses = [row["training_loss"] for row in rows(run)]
    losses.append(json.loads((run / "result.json").read_text())["test"]["loss"])
    assert losses == pytest.approx([2.325807, 2.302129, 2.295995, 2.284680], abs=1e-4)


def test_a_run_folder_holds_what_the_interface_promises(folder, capsys):
    assert main(["train", *TINY, "seed=3", "study=first"]) == 0
    (run,) = runs(folder)
    assert run.parent == folder / "outputs" / "first"
    assert str(run.relative_to(folder)) in capsys.readouterr().out
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", ".hydra", "record.json", "metrics.jsonl", "checkpoint.safetensors", "result.json"}
    assert {path.name for path in (run / ".hydra").iterdir()} == {"config.yaml", "hydra.yaml", "overrides.yaml"}
    assert yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text()) == [*TINY, "seed=3", "study=first"]
    result = json.loads((run / "result.json").read_text())
    assert result["id"] == run.name
    assert run.name.startswith("digits-mlp-standard-r0.5-s3-")
    assert (result["status"], result["study"], result["seed"], result["rate"]) == ("done", "first", 3, 0.5)
    assert result["choices"].items() >= {
        "dataset": "digits", "model": "mlp", "strategy": "standard", "optimizer": "sgd_dropout"
    }.items()  # fmt: skip
    assert (result["epochs"], result["steps"]) == (3, 6)
    assert result["parameters"] == 64 * 16 + 16 + 16 * 10 + 10
    assert result["selection"]["rule"] == "validation_best"
    for split in ("train", "validation", "test"):
        assert result[split].keys() >= {"loss", "error", "nll", "ece", "brier"}
    assert result["rates"]["hidden1"]["asked"] == pytest.approx(0.5)
    assert result["rates"]["hidden1"]["realised"] == pytest.approx(0.5, abs=0.1)
    assert result["rates"]["input"]["asked"] == pytest.approx(0.2)
    assert result["seconds"].keys() == {"total", "train"}
    assert result["peak_memory_bytes"] > 0
    first, *_ = rows(run)
    assert first.keys() >= {"seq", "epoch", "step", "train", "validation", "learning_rate", "sites", "seconds"}
    record = json.loads((run / "record.json").read_text())
    assert record.keys() >= {"versions", "hardware", "git", "command", "data", "determinism", "started"}
    assert record["command"][:2] == ["dropbench", "train"]


def test_the_same_command_shows_the_recorded_result_and_says_how_to_train_anew(folder, capsys):
    assert main(["train", *TINY]) == 0
    (run,) = runs(folder)
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    capsys.readouterr()
    assert main(["train", *TINY]) == 0
    assert "rerun=true" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    metrics = rows(run)
    assert main(["train", *TINY, "rerun=true"]) == 0
    again = rows(run)
    assert runs(folder) == [run]
    assert (run / "result.json").stat().st_mtime_ns > before[run / "result.json"]
    for row in (*metrics, *again):
        for key in ("seconds", "crc"):
            row.pop(key)
    assert again == metrics  # bit for bit


@pytest.mark.parametrize("model", ["cnn", "lstm"])
def test_the_other_models_work_the_same_way(folder, model):
    size = ["model.maps=[4]", "model.dense=[8]"] if model == "cnn" else ["model.hidden=8"]
    assert main(["train", f"model={model}", "strategy=gradual", "epochs=2", "dataset.train_size=100", *size]) == 0
    (run,) = runs(folder)
    assert run.name.startswith(f"digits-{model}-gradual-")


def test_a_sweep_trains_every_combination_once_and_ends_with_the_table(folder, capsys):
    sweep = ["train", "-m", *TINY, "strategy=none,standard,gradual", "strategy.rate=0.2,0.4", "seed=0,1", "stack=8"]
    assert main(sweep) == 0
    shown = capsys.readouterr()
    assert "12 runs: 0 done, 2 duplicates, 10 to do in 3 stacks" in shown.err
    assert len(runs(folder)) == 10  # a rate means nothing to `none`
    table = [line.split() for line in shown.out.splitlines() if line.startswith("digits")]
    assert sorted((row[2], row[4], row[5]) for row in table) == [
        *((strategy, rate, "2") for strategy, rate in (("gradual", "0.2"), ("gradual", "0.4"), ("none", "0"))),
        *(("standard", rate, "2") for rate in ("0.2", "0.4")),
    ]
    assert main(["sweep", *sweep[2:]]) == 0
    assert "12 runs: 10 done, 2 duplicates, 0 to do" in capsys.readouterr().err


def test_a_run_of_a_sweep_equals_the_run_alone(folder):
    assert main(["train", "-m", *TINY, "strategy.rate=0.2,0.4", "seed=0,1", "study=together"]) == 0
    for run in runs(folder):
        rate, seed = run.name.split("-")[3:5]
        assert main(["train", *TINY, f"strategy.rate={rate[1:]}", f"seed={seed[1:]}", "study=alone"]) == 0
        alone = folder / "outputs" / "alone" / run.name
        for together, single in zip(rows(run), rows(alone), strict=True):
            assert together["training_loss"] == pytest.approx(single["training_loss"], rel=1e-4)
            assert together["sites"] == single["sites"]  # the masks are the same, bit for bit


def test_a_refused_pair_is_named_and_the_others_are_trained(folder, capsys):
    sweep = ["dataset=temporal_order", "dataset.length=10", "dataset.train_size=64", "dataset.validation_size=32"]
    size = ["dataset.test_size=32", "epochs=1"]
    assert main(["train", "-m", *sweep, *size, "model=mlp,cnn", "model.activation=tanh", "seed=0,1"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "refused" in line]
    (line,) = lines  # for both seeds
    assert line.startswith("dropbench: refused: standard on cnn, temporal_order (2 runs): model.kind=cnn: it needs im")
    assert len(runs(folder)) == 2


def test_a_sweep_in_which_every_pair_is_refused_is_bad_input(folder, capsys):
    assert main(["train", "-m", *TINY, "strategy=transition/state,spatial", "strategy.rate=0.1,0.2"]) == 2
    plan, *refused, last = capsys.readouterr().err.splitlines()
    assert plan == "4 runs: 0 done, 0 duplicates, 4 to do"
    assert [line.partition(": strategy.")[0] for line in refused] == [
        "dropbench: refused: transition/state on mlp, digits (2 runs)",
        "dropbench: refused: spatial on mlp, digits (2 runs)",
    ]
    assert [line.rpartition("nearest: ")[2] for line in refused] == ["model=lstm", "model=cnn"]
    assert last == "dropbench: every run of the sweep was refused, for the reasons above"
    assert not runs(folder)


def test_monte_carlo_and_pruning_are_recorded_shown_and_compared(folder, capsys):
    more = ["evaluation.samples=4", "evaluation.prune=0.5"]
    assert main(["train", *TINY, *more]) == 0
    shown = capsys.readouterr().out
    (run,) = runs(folder)
    result = json.loads((run / "result.json").read_text())
    for split in ("validation", "test"):
        assert result[f"{split}_mc"].keys() == {*result[split], "entropy"}
        assert result[f"{split}_pruned"].keys() == result[split].keys()
    for way in ("mc", "pruned"):
        error = result[f"test_{way}"]["error"]
        (line,) = (line for line in shown.splitlines() if f"test {way} " in line)
        assert f" error {f'{error:.2f} %':>8} " in line
        assert main(["compare", f"--metric=test_{way}.error"]) == 0
        (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("digits"))
        assert row[6] == f"{error:.2f}"
    assert main(["train", *TINY]) == 0
    assert "test mc" not in capsys.readouterr().out
    assert len(runs(folder)) == 2


EPOCHS = {
    ("model=mlp",): 220,
    ("model=cnn",): 25,
    ("model=lstm",): 45,
    ("model=lstm", "epochs=7"): 7,
    ("experiment=digits_lstm",): 45,
    ("experiment=mnist_lstm",): 5,
    ("experiment=mnist_lstm", "epochs=7"): 7,
}


@pytest.mark.parametrize("overrides", EPOCHS)
def test_epochs_are_the_models_unless_an_experiment_or_the_user_says_otherwise(capsys, overrides):
    assert main(["train", "--cfg", "job", *overrides]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["epochs"] == EPOCHS[overrides]
    assert "kind" in shown["model"]


BEYOND = {
    ("control=mean",): "control=mean: the rates of this strategy do not move",
    ("control=shuffled", "strategy=gradual"): "control=shuffled: no policy of this strategy chooses elements",
    ("strategy=alpha", "scaling=test"): "scaling=test: alpha noise is not divided by a keep probability",
    ("evaluation.prune=1.5",): "evaluation.prune=1.5",
    ("strategy=gradual", "strategy.policies.gradual.end=0"): "strategy.policies.gradual",
    ("strategy=layerwise/rates", "+strategy.rates.hiden1=0.1"): "strategy.rates.hiden1: no such site is chosen",
}


@pytest.mark.parametrize("overrides", BEYOND)
def test_what_has_no_meaning_is_refused_in_one_line(folder, capsys, overrides):
    assert main(["train", *overrides]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dropbench: {BEYOND[overrides]}")
    assert not runs(folder)


def test_a_diverged_run_fails_with_its_step_and_the_others_finish(folder, capsys):
    learning_rates = "optimizer.learning_rate=0.05,1e9"
    clip = ["optimizer.clip_norm=null", "optimizer.max_norm=null"]
    deep = ["epochs=3", "model.widths=[16,16,16,16,16,16]", *clip]
    assert main(["train", "-m", *deep, learning_rates]) == 3
    assert "not finite at step" in capsys.readouterr().err
    results = [json.loads((run / "result.json").read_text()) for run in runs(folder)]
    assert sorted(result["status"] for result in results) == ["done", "failed"]
    (failed,) = (run for run in runs(folder) if (run / "error.txt").exists())
    assert "not finite at step" in (failed / "error.txt").read_text()
    assert main(["train", *deep, "optimizer.learning_rate=1e9"]) == 3


BAD = {
    "modle=lstm": ["modle=lstm", "nearest: model"],
    "+modle=lstm": ["modle=lstm", "nearest: model"],
    "++strategy.rte=0.3": ["strategy.rte=0.3", "nearest: strategy.rate"],
    "strategy.policies.gradal.until=1": ["gradal", "nearest: gradual"],
    "model=lsmt": ["model=lsmt", "nearest: lstm"],
    "strategy=gradul": ["strategy=gradul", "nearest: gradual"],
    "strategy.rate=1.0": ["strategy.rate=1.0", "0 <= value < 1"],
    "strategy.rate=-0.1": ["strategy.rate=-0.1", "0 <= value < 1"],
    "strategy.rate=abc": ["strategy.rate=abc", "number"],
    "strategy.rate=null": ["strategy.rate=null", "number"],
    "strategy.rate=nan": ["strategy.rate=nan", "finite"],
    "epochs=-1": ["epochs=-1", "1 <= value"],
    "epochs=1.5": ["epochs=1.5", "whole number"],
    "batch_size=0": ["batch_size=0", "1 <= value"],
    "seed=-1": ["seed=-1", "0 <= value"],
    "seed=18446744073709551616": ["seed=18446744073709551616", "18446744073709551615"],
    "model.widths=[1000000000000]": ["model.widths", "65536"],
    "device=cuda:77": ["cuda:77", "allowed: auto, cpu"],
    "device=gpu": ["device=gpu", "cuda"],
    "study=../x": ["study", "../x"],
    "precision=float16": ["precision=float16", "nearest: bfloat16"],
    "strategy.where=hiden": ["strategy.where=hiden", "nearest: hidden"],
    "strategy.share=step": ["strategy.share=step", "batch, unit"],
    "strategy.where=state": ["strategy.where=state", "input, weight, hidden", "nearest: model=lstm"],
    "strategy.noise=gausian": ["gausian", "nearest: gaussian"],
    "strategy.objective=mean_squared_error": ["mean_squared_error", "cross_entropy"],
    "extensions=[nosuchpackage]": ["nosuchpackage"],
    "dataset.train_size=100000": ["dataset.train_size=100000"],
    "hydra.run.dir=/tmp/x": ["hydra.run.dir", "output_root"],
    "a b": ["a b"],
    "model._target_=os.system": ["_target_"],
    "~strategy.rat": ["strategy.rat"],
}


@pytest.mark.parametrize("override", BAD)
def test_bad_input_ends_in_one_line_and_exit_code_2(folder, capsys, override):
    assert main(["train", override]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith("dropbench: ")
    for word in BAD[override]:
        assert word in line
    assert not runs(folder)


def test_debug_shows_the_traceback(folder, capsys, monkeypatch):
    monkeypatch.setenv("DROPBENCH_DEBUG", "1")
    assert main(["train", "epochs=0"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_missing_data_names_the_path(folder, capsys, monkeypatch):
    import socket

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    assert main(["train", "dataset=mnist", "data_root=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "nowhere" in line


def test_the_views_of_hydra(folder, capsys):
    assert main(["train", "--cfg", "job", "strategy=gradual", "strategy.rate=0.3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["strategy"]["rate"] == 0.3
    assert shown["strategy"]["policies"]["gradual"]["shape"] == "linear"
    assert main(["train", "--cfg", "job", "-p", "optimizer"]) == 0
    assert "learning_rate" in capsys.readouterr().out
    assert main(["train", "--info", "searchpath"]) == 0
    assert "conf" in capsys.readouterr().out
    assert main(["train", "--cfg", "job", "strategy=gradul"]) == 2
    assert not (folder / "outputs").exists()


@pytest.mark.parametrize("word", ["experiment=adding", "+experiment=adding"])
def test_experiments_with_and_without_plus(capsys, word):
    assert main(["train", "--cfg", "job", word, "epochs=2"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["dataset"]["kind"], shown["model"]["kind"], shown["epochs"]) == ("adding", "lstm", 2)


def test_a_config_folder_of_ones_own(folder):
    (folder / "mine" / "strategy").mkdir(parents=True)
    (folder / "mine" / "strategy" / "soft.yaml").write_text("# Mine\nrate: 0.1\nnoise: gaussian\nobjective: auto\n")
    assert main(["train", *TINY, "--config-dir", "mine", "strategy=soft"]) == 0
    (run,) = runs(folder)
    assert run.name.startswith("digits-mlp-soft-r0.1-")
    assert main(["train", "--config-dir", "nosuch", "strategy=soft"]) == 2


def test_help_says_how(capsys):
    assert main(["train", "--help"]) == 0
    assert "strategy=gradual model=lstm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("seeds=auto", "launcher=slurm"), "launcher=slurm: seeds=auto decides while it trains; allowed: local"),
        (("seeds=auto", "prune=0.5"), "prune=0.5: seeds=auto drops settings by itself; allowed: null"),
        (("seed=0,1", "launcher=slurm", "prune=0.5"), "prune: decides while it trains; allowed with: launcher=local"),
        (("strategy=[none,standard]",), "strategy=[none,standard]: one strategy is chosen; allowed in a sweep"),
        (("seed=0,1", "hydra/launcher=basic", "--plan"), "--plan: a launcher or sweeper of Hydra's own plans"),
    ],
)
def test_what_does_not_go_together_in_a_sweep_is_refused_in_one_line(folder, capsys, words, line):
    assert main(["train", "-m", *TINY, *words]) == 2
    assert line in capsys.readouterr().err
    assert runs(folder) == []


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_looked_for_as_before(capsys, monkeypatch, collecting):
    """Also after a config that is refused; while one is composed, it is not."""
    from dropbench import config

    seen = []
    check = config.check
    monkeypatch.setattr(config, "check", lambda data: seen.append(gc.isenabled()) or check(data))
    (gc.enable if collecting else gc.disable)()
    try:
        assert main(["train", "strategy.rat=0.3"]) == 2
        assert gc.isenabled() == collecting
    finally:
        gc.enable()
    assert seen == [False]
    assert "nearest: strategy.rate" in capsys.readouterr().err
