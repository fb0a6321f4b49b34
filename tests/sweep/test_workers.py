"""Sweeps in several processes: the same results as in one, whatever happens to a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.sweep.workers import cores, workers_for

TINY = ("dataset.train_size=48", "dataset.validation_size=20", "batch_size=16", "epochs=2")
#: Three stacks of two runs.
SWEEP = ("-m", "model.widths=[8],[9],[10]", "seed=0,1", *TINY)

LETHAL = '''
"""A policy that kills the process of a poisonous run at the first control tick, as often as it is told to."""

import os
import signal
from dataclasses import dataclass

from dropbench.policies import Policy
from dropbench.spec import vector


@dataclass(frozen=True)
class Lethal(Policy):
    folder_of_the_dead: str = ""
    times: int = 1
    poison: float = 1.0

    @property
    def needs(self):
        return frozenset({"clean_loss"})

    def init(self, runs, sites):
        import torch

        return {"one": torch.ones(runs)}

    def factor(self, site, state, scene):
        return state["one"]

    def update(self, state, signals):
        import torch

        dead = os.listdir(self.folder_of_the_dead)
        if (torch.as_tensor(self.poison) > 0.5).any() and len(dead) < self.times:
            open(os.path.join(self.folder_of_the_dead, str(os.getpid())), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return dict(state)
'''


def run_of(*words: str) -> Run:
    composed = Composer().compose(words)
    return Run(check(composed.data), composed.choices)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dropbench", "train", *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "COLUMNS": "200"},
    )  # fmt: skip


def train(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def results(folder: Path) -> dict[str, dict[str, object]]:
    found = (json.loads(path.read_text()) for path in folder.rglob("result.json"))
    return {result["id"]: result for result in found}


@pytest.fixture
def lethal(tmp_path: Path) -> tuple[str, ...]:
    """What makes every run of a sweep lethal to its process, once in all."""
    package = tmp_path / "lethal_parts" / "policies"
    package.mkdir(parents=True)
    for place in (package.parent, package):
        (place / "__init__.py").write_text("")
    (package / "lethal.py").write_text(LETHAL)
    (tmp_path / "dead").mkdir()
    return ("extensions=[lethal_parts]", f"strategy.policies.lethal.folder_of_the_dead={tmp_path / 'dead'}")


def test_two_processes_give_the_results_of_one(tmp_path):
    for workers in (1, 2):
        code, out, err = train(tmp_path, *SWEEP, f"workers={workers}", f"output_root=by{workers}")
        assert code == 0, err
        assert "6 runs: 6 done" in out
    one, two = results(tmp_path / "by1"), results(tmp_path / "by2")
    assert one.keys() == two.keys()
    assert len(one) == 6
    for name, result in one.items():
        for split in ("train", "validation", "test"):
            assert two[name][split] == pytest.approx(result[split], rel=1e-3, abs=1e-4)


def test_a_process_that_dies_takes_no_run_with_it(tmp_path, lethal):
    code, out, err = train(tmp_path, *SWEEP, *lethal, "workers=2")
    assert code == 0, err
    assert len(list((tmp_path / "dead").iterdir())) == 1
    assert "a worker died (SIGKILL); its 2 unfinished runs were trained again, each alone" in err
    assert "6 runs: 6 done" in out
    assert len(results(tmp_path)) == 6


def test_a_run_that_always_kills_fails_and_its_neighbours_go_on(tmp_path, lethal):
    poison = "strategy.policies.lethal"
    # Two stacks of a harmless and a poisonous run: each stack dies, then each poisonous run, alone.
    words = ("-m", "model.widths=[8],[9]", f"{poison}.poison=0.0,1.0", f"{poison}.times=4", *TINY, *lethal, "workers=2")
    code, out, err = train(tmp_path, *words)
    assert code == 3
    assert err.count("its process died (SIGKILL)") == 2
    assert "4 runs: 2 done, 2 interrupted" in out
    assert len(results(tmp_path)) == 2
    code, out, err = train(tmp_path, *words)  # the dead have had enough; the same command goes on
    assert code == 0, err
    assert "4 runs: 4 done" in out


def test_an_interrupted_sweep_is_saved_and_goes_on(tmp_path):
    long = [word for word in SWEEP if not word.startswith("epochs")]
    process = start(tmp_path, *long, "epochs=400", "workers=2")
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "the same command goes on from here" in err
    code, out, err = train(tmp_path, *long, "epochs=400", "workers=2")
    assert code == 0, err
    assert "6 runs: 6 done" in out


def test_how_many_processes():
    one = [run_of("strategy=none", *TINY)]
    assert workers_for([]) == 1
    assert workers_for([one]) == 1
    assert workers_for([one] * 2) == 1
    assert workers_for([one] * 1000) == cores()
    three = [run_of("strategy=none", "workers=3", *TINY)]
    assert workers_for([three]) == 1  # never more than there are stacks
    assert workers_for([three] * 9) == 3
    assert workers_for([[run_of("strategy=none", "device=cuda", *TINY)]] * 9) == 1
