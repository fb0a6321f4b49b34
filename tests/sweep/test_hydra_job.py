"""Sweeps by Hydra's own launchers: the runs are those of dropbench, a failure costs no other, all lies in outputs."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dropbench.compose import Composed, Composer, of_job
from dropbench.config import Run, check
from dropbench.errors import UserError
from dropbench.runs.records import read_run
from dropbench.sweep.grid import expand, flat
from dropbench.sweep.hydra_job import job, launch
from dropbench.sweep.local import Local
from dropbench.sweep.report import Report

TINY = ("dataset.train_size=48", "dataset.validation_size=20", "batch_size=16", "epochs=2", "model.widths=[8]")
#: So that the logging of the tests stays as it is.
QUIET = ("hydra/hydra_logging=none", "hydra/job_logging=none")
BASIC = ("hydra/launcher=basic", *QUIET)
#: In it a run with a high learning rate diverges.
DEEP = ("model.widths=[16,16,16,16,16,16]", "optimizer.clip_norm=null", "optimizer.max_norm=null", "epochs=3")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


def trained(folder: Path) -> dict[str, list[dict[str, object]]]:
    """What every run below a folder measured."""
    kept = {}
    for path in sorted(folder.rglob("metrics.jsonl")):
        lines = (json.loads(line) for line in path.read_text().splitlines())
        kept[path.parent.name] = [{k: v for k, v in line.items() if k not in ("seconds", "crc")} for line in lines]
    return kept


def refused(composer: Composer, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        launch(composer, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- what Hydra is told


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["hydra/launcher=joblib", "seed=0,1"], True),
        (["seed=0,1", "+hydra/launcher=basic"], True),
        (["hydra/sweeper=optuna"], True),
        (["seed=0,1", "hydra.verbose=true"], False),
        (["launcher=slurm"], False),
        ([], False),
    ],
)
def test_whether_hydra_is_asked(composer, overrides, asked):
    assert composer.asks_hydra(overrides) is asked


def test_a_sweep_in_hydras_words(composer):
    typed = [
        "+strategy=none,gradual/late",
        "strategy.rate=range(0.1,0.4,0.1)",
        "early_stop=null,3",
        "epochs=5",
        "seeds=2",
    ]
    assert flat(composer, typed) == [
        "+strategy=none,gradual/late", "strategy.rate=0.1,0.2,0.3", "early_stop=null,3", "epochs=5", "seed=0,1",
    ]  # fmt: skip
    assert flat(composer, ["experiment=rates", "strategy=standard", "seed=3"]) == [
        "strategy.rate=0.1,0.2,0.3,0.4,0.5", "experiment=rates", "strategy=standard", "seed=3",
    ]  # fmt: skip
    assert flat(composer, ["output_root='a,b',c", "model=glob(m*)"]) == ["output_root='a,b',c", "model=mlp"]


def test_a_sweep_in_hydras_words_is_the_same_sweep(composer):
    for typed in (["experiment=rates", "seeds=[4]"], ["experiment=transitions", "strategy=none", "strategy.rate=0"]):
        words = flat(composer, typed)
        assert {run.id for run in expand(composer, words).runs} == {run.id for run in expand(composer, typed).runs}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["experiment=transitions"], "experiment=transitions: sweep.zip"),
        (["experiment=transitions", "strategy.rate=0.1"], "experiment=transitions: sweep.exclude"),
        (["experiment=rates,adding"], "several experiments, one with a sweep"),
        (["seeds=auto"], "seeds=auto"),
        (["model=mlp,lstm", "model.hidden=3"], "model.hidden means nothing for model=mlp: left out there"),
    ],
)
def test_what_hydra_does_not_know_is_refused(composer, folder, overrides, reason):
    line = f"{reason}: Hydra's own launchers take all combinations; allowed without hydra/launcher"
    assert refused(composer, *BASIC, *overrides) == line
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["epochs=1,0"], "epochs=0: out of range"),
        (["hydra.sweep.dir=x"], "hydra.sweep.dir=x: a run lies in <output_root>/<study>/<run id>; "),
        (["hydra/sweeper=basic", "experiment=rates"], "hydra/sweeper: takes the axes that are typed; "),
        (["hydra/sweeper=basic", "seeds=3"], "hydra/sweeper: takes the axes that are typed; "),
        (["hydra/sweeper=basic", "study=../x", "seed=0,1"], "study='../x': allowed: up to 80 letters"),
        (["study=../x", "seed=0,1"], "study='../x': allowed: up to 80 letters"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(composer, folder, overrides, start):
    assert refused(composer, *BASIC, *overrides).startswith(start)
    assert not list(folder.iterdir())


def test_a_launcher_that_is_not_installed_is_told_in_a_line(composer, folder):
    line = refused(composer, "hydra/launcher=surely_not", "seed=0,1")
    assert "Could not find 'hydra/launcher/surely_not'" in line
    assert not list(folder.iterdir())


# ---- jobs


def seen_by_jobs(composer: Composer, *overrides: str) -> list[Composed]:
    found = []

    def look(config: object) -> None:
        found.append(of_job(config))

    assert composer.multirun([*BASIC, *overrides], Path("there"), look) == 0
    return found


def test_a_job_sees_what_dropbench_composes(composer, folder):
    overrides = [
        "strategy=none,gradual/late",
        "model=lstm",
        "+strategy.rate=0.25",
        "seed=3,4",
        "experiment=transitions",
    ]
    jobs = seen_by_jobs(composer, *overrides)
    assert [found.overrides for found in jobs] == [
        (f"strategy={name}", "model=lstm", "strategy.rate=0.25", f"seed={seed}", "experiment=transitions")
        for name in ("none", "gradual/late")
        for seed in (3, 4)
    ]
    for found in jobs:
        alone = Composer().compose(found.overrides)
        assert (found.data, found.choices) == (alone.data, alone.choices)
        assert "task" in found.files["hydra.yaml"]
        assert found.files["config.yaml"] == alone.files["config.yaml"]


def test_what_hydra_writes_lies_beside_the_runs(composer, folder):
    place = ("study=mine", r"output_root='it\'s here'")
    launched = launch(composer, [*BASIC, *TINY, *place, "seed=0,1"])
    assert [path.parent for path in launched.paths] == [folder / "it's here" / "mine"] * 2
    (jobs,) = (folder / "it's here" / "mine" / ".hydra_multirun").iterdir()
    assert {path.name for path in jobs.iterdir()} == {"0", "1", "multirun.yaml"}
    assert [path.name for path in folder.iterdir()] == ["it's here"]
    assert Path.cwd() == folder


def test_a_job_returns_the_validation_figure_for_sweepers_that_search(composer, folder):
    returned = []

    def keep(config: object) -> None:
        returned.append(job(config))

    lines = [*TINY, "strategy=standard,transition/cell", "dataset.train_size=48"]
    assert composer.multirun([*BASIC, *lines], Path("there"), keep) == 0
    (path,) = (path.parent for path in folder.rglob("result.json"))
    assert returned == [read_run(path).figures["validation"]["error"], math.inf]


def test_the_runs_are_those_that_dropbench_trains(composer, folder):
    overrides = [*TINY, "strategy=none,standard", "strategy.rate=range(0.1,0.3,0.1)", "seed=0,1"]
    launched = launch(composer, [*BASIC, *overrides])
    expansion = expand(composer, [*overrides, "output_root=alone"])
    wanted = list({run.id: run for run in expansion.runs}.values())
    assert (launched.code, launched.failures, launched.refusals) == (0, {}, [])
    assert sorted(path.name for path in launched.paths) == sorted(run.id for run in wanted)
    assert len(wanted) == 6
    local = Local(["x"], expansion.hydra, lambda: False, Report())
    for run in wanted:
        local.train([run])
    assert trained(folder / "outputs") == trained(folder / "alone")
    for path in launched.paths:
        record = json.loads((path / "record.json").read_text())
        run = Run(check(composer.compose(record["command"][2:]).data), composer.compose(record["command"][2:]).choices)
        assert run.id == path.name

    before = {path: path.stat().st_mtime_ns for path in folder.glob("outputs/main/*/result.json")}
    again = launch(composer, [*BASIC, *overrides])
    assert again.paths == launched.paths
    assert {path: path.stat().st_mtime_ns for path in folder.glob("outputs/main/*/result.json")} == before


def test_a_run_that_fails_costs_no_other_its_result(composer, folder, capsys):
    lines = [*TINY, *DEEP, "optimizer.learning_rate=1e9,0.05", "strategy=transition/cell,standard"]
    launched = launch(composer, [*BASIC, *lines])
    assert launched.code == 0
    states = {path.name: read_run(path).state for path in launched.paths}
    assert sorted(states.values()) == ["done", "failed"]
    ((failed, reason),) = launched.failures.items()
    assert states[failed] == "failed"
    assert "not finite at step" in reason
    assert len(launched.refusals) == 2
    assert all("strategy=transition/cell" in line and "no such site" in line for line in launched.refusals)
    said = capsys.readouterr().err
    assert "not finite at step" in said
    assert "no such site" in said


def test_an_error_of_dropbench_costs_no_other_its_result(composer, folder, capsys, monkeypatch):
    train = Local.train

    def broken(self: Local, stack: list[Run]) -> None:
        if stack[0].config.seed == 0:
            raise RuntimeError("surely a bug")
        train(self, stack)

    monkeypatch.setattr(Local, "train", broken)
    launched = launch(composer, [*BASIC, *TINY, "seed=0,1"])
    assert list(launched.failures.values()) == ["RuntimeError: surely a bug"]
    assert [read_run(path).state for path in launched.paths][1] == "done"
    assert "Traceback" in capsys.readouterr().err


def test_a_sweeper_that_is_asked_for_reads_the_overrides_itself(composer, folder):
    launched = launch(composer, ["hydra/sweeper=basic", *QUIET, *TINY, "seed=1,2", "epochs=0,1"])
    assert [read_run(path).seed for path in launched.paths] == [1, 2]
    assert len(launched.refusals) == 2
    assert all(line.endswith("epochs=0: out of range; allowed: 1 <= value <= 1000000") for line in launched.refusals)


# ---- in processes of its own

SCRIPT = """
import sys
from dropbench.compose import Composer
if __name__ == "__main__":
    from dropbench.sweep.hydra_job import launch
    launched = launch(Composer(), sys.argv[1:])
    print(launched.code, *(path.name for path in launched.paths))
"""


def launched_by(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", SCRIPT, *TINY, *overrides]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, env=environment, check=False)


def test_standard_output_is_left_to_the_table(composer, tmp_path):
    done = launched_by(tmp_path, "hydra/launcher=basic", "seed=0,1")
    ids = [run.id for run in expand(composer, [*TINY, "seed=0,1"]).runs]
    assert (done.returncode, done.stdout) == (0, f"0 {' '.join(ids)}\n")
    assert "Launching 2 jobs" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize(
    ("plugin", "launcher"), [("hydra_joblib_launcher", "joblib"), ("hydra_submitit_launcher", "submitit_local")]
)
def test_a_launcher_of_several_processes(composer, tmp_path, plugin, launcher):
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed: pip install {plugin.replace('_', '-')}")
    overrides = ["strategy=none,standard", "seed=0,1"]
    done = launched_by(tmp_path, f"hydra/launcher={launcher}", *overrides)
    runs = expand(composer, [*TINY, *overrides]).runs
    assert (done.returncode, done.stdout) == (0, f"0 {' '.join(run.id for run in runs)}\n"), done.stderr
    alone = launched_by(tmp_path, "hydra/launcher=basic", "output_root=alone", *overrides)
    assert alone.returncode == 0
    assert trained(tmp_path / "outputs") == trained(tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "alone"}
