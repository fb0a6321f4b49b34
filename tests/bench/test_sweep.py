"""What the bench of a sweep makes of what both sides leave behind; nothing here is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "bench"


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("bench_sweep", str(FOLDER / "sweep"))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    monkeypatch.setitem(sys.modules, loader.name, module)
    loader.exec_module(module)
    yield module
    sys.modules.pop("common", None)


def test_the_pace_is_that_of_what_follows_the_first_round(sweep):
    assert sweep.pace([31.0, 10.0, 11.0, 32.0, 21.0, 20.0]) == pytest.approx((31.5 - 10.5) / 4)


def test_what_ours_left_is_read(sweep, tmp_path, monkeypatch):
    def run(command, folder, more):
        words = dict(word.split("=", 1) for word in command if "=" in word)
        for rate in words["strategy.rate"].split(","):
            for seed in range(2):
                result = Path(words["output_root"], "main", f"{rate}-{seed}", "result.json")
                result.parent.mkdir(parents=True)
                result.write_text(json.dumps({"rate": float(rate), "seed": seed, "test": {"error": 5.25}}))
        return 7.0

    monkeypatch.setattr(sweep, "timed", run)
    found = sweep.ours(tmp_path, "cpu", 8, tmp_path, tmp_path)
    assert found.seconds == 7.0
    assert found.errors == {(rate, seed): 5.25 for rate in sweep.RATES for seed in range(2)}
    with pytest.raises(SystemExit, match="8 of 12 runs have a result"):
        sweep.ours(tmp_path, "cpu", 12, tmp_path, tmp_path)


@pytest.mark.parametrize(("runs", "seconds"), [(4, 30.0), (32, 30.0 + 28 * 5.0)])
def test_what_the_peer_left_is_read_and_the_rest_reckoned(sweep, tmp_path, monkeypatch, runs, seconds):
    def run(command, folder):
        words = dict(word.split("=", 1) for word in command if "=" in word)
        assert words["seed"] == "range(1)"
        for number, rate in enumerate(words["model.net.dropout"].split(",")):
            folder = Path(words["hydra.sweep.dir"], str(number))
            (folder / "csv").mkdir(parents=True)
            (folder / ".hydra").mkdir()
            (folder / "csv" / "metrics.csv").write_text("epoch,test/acc,val/acc\n0,,0.9\n1,0.96,\n")
            (folder / ".hydra" / "overrides.yaml").write_text(f"- data_dir=x\n- model.net.dropout={rate}\n- seed=0\n")
        return 30.0

    monkeypatch.setattr(sweep, "timed", run)
    monkeypatch.setattr(sweep, "pace", lambda ends: 5.0 if len(ends) == 4 else None)
    found = sweep.theirs(Path("python"), tmp_path, "cpu", runs, 4, tmp_path)
    assert found.seconds == pytest.approx(seconds)
    assert found.errors == pytest.approx({(rate, 0): 4.0 for rate in sweep.RATES})


def test_why_a_command_failed_is_its_last_line(sweep, tmp_path):
    with pytest.raises(RuntimeError, match=r"\Aall is lost\Z"):
        sweep.timed([sys.executable, "-c", "print('first'); raise SystemExit('all is lost')"], tmp_path)


def test_an_environment_that_cannot_be_made_is_told(sweep, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match="file"):
        sweep.environment(tmp_path / "file" / "env")


def test_an_environment_is_made_once(sweep, tmp_path, monkeypatch):
    made = []

    def run(command, **_):
        made.append(command[1:3])
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / "python").write_text("")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert sweep.environment(tmp_path) == tmp_path / "bin" / "python"
    assert made == [["-m", "venv"], ["-m", "pip"]]
    (tmp_path / ".made").write_text("of another Python")
    sweep.environment(tmp_path)
    assert len(made) == 4


def test_without_data_it_is_skipped(tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / "sweep"), "--data", str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, f"P7 not run (no MNIST in {tmp_path}; --data names its folder)\n")


@pytest.mark.parametrize("option", ["--runs=6", "--peer-runs=0", "--runs=x"])
def test_runs_that_are_not_of_all_rates_are_refused(tmp_path, option):
    done = subprocess.run([sys.executable, str(FOLDER / "sweep"), option], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert option.split("=")[0] in done.stderr
