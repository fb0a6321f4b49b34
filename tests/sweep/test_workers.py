"""Sweeps in several processes: the same results as in one, whatever happens to a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.sweep import engine
from dropbench.sweep.live import View
from dropbench.sweep.plan import Look
from dropbench.sweep.workers import Crew, SweepReport

TINY = ("dataset.train_size=48", "dataset.validation_size=20", "batch_size=16", "epochs=2")
#: Three stacks of two runs.
SWEEP = ("-m", "model.widths=[8],[9],[10]", "seed=0,1", *TINY)

LETHAL = '''
"""A policy that kills the process of a poisonous run, or raises, at the first control tick, as often as told to."""

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
        poison = torch.as_tensor(self.poison)
        if (poison > 1.5).any():
            raise RuntimeError("poisoned")
        if (poison > 0.5).any() and len(dead) < self.times:
            open(os.path.join(self.folder_of_the_dead, str(os.getpid())), "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return dict(state)
'''


def run_of(*words: str) -> Run:
    composed = Composer().compose(words)
    return Run(check(composed.data), composed.choices)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dropbench", *words],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "COLUMNS": "200"},
    )  # fmt: skip


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    process = start(folder, *words)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def train(folder: Path, *words: str) -> tuple[int, str, str]:
    return run(folder, "train", *words)


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
    assert "a worker died (SIGKILL)" in err
    assert "6 runs: 6 done" in out
    assert len(results(tmp_path)) == 6


def test_a_run_that_kills_and_one_that_raises_are_named_and_the_others_finish(tmp_path, lethal):
    poison = "strategy.policies.lethal"
    # Two stacks of two harmless runs, one that kills, and one that raises. Each stack dies, then the lethal one, alone.
    words = (
        "-m", "model.widths=[8],[9]", f"{poison}.poison=0.0,0.1,1.0,2.0", f"{poison}.times=4", *TINY, *lethal,
        "workers=2", "stack=4",
    )  # fmt: skip
    code, out, err = train(tmp_path, *words)
    assert code == 3
    found = results(tmp_path)
    by_poison: dict[float, list[dict[str, object]]] = {}
    for result in found.values():
        by_poison.setdefault(result["settings"][f"{poison}.poison"], []).append(result)
    assert {value: {each["status"] for each in some} for value, some in by_poison.items()} == {
        0.0: {"done"}, 0.1: {"done"}, 1.0: {"failed"}, 2.0: {"failed"}
    }  # fmt: skip
    assert "8 runs: 4 done, 4 failed" in out
    for value, reason in ((1.0, "its process died (SIGKILL)"), (2.0, "RuntimeError: poisoned")):
        for result in by_poison[value]:
            assert err.count(f"{result['id']}: {reason}") == 2  # at once, and below the table
            (folder,) = tmp_path.rglob(result["id"])
            assert reason in (folder / "error.txt").read_text()
    assert "Traceback" in (next(tmp_path.rglob(by_poison[2.0][0]["id"])) / "error.txt").read_text()
    code, out, err = train(tmp_path, *words)  # the lethal ones have had enough; the same command goes on
    assert code == 3
    assert "8 runs: 6 done, 2 failed" in out


def test_the_first_failure_stops_a_sweep_that_is_told_so(tmp_path, lethal):
    poison = "strategy.policies.lethal.poison"
    words = ("-m", f"{poison}=2.0,0.0", "model.widths=[8],[9],[10],[11]", *TINY, *lethal, "workers=1", "stack=1")
    code, out, err = train(tmp_path, *words, "on_failure=stop")
    assert code == 3
    assert "stopped: on_failure=stop; the same command goes on" in err
    assert len(results(tmp_path)) < 8
    code, out, err = train(tmp_path, *words)
    assert code == 3
    assert "8 runs: 4 done, 4 failed" in out


def test_a_sweep_whose_first_runs_all_fail_alike_stops(tmp_path, lethal):
    poison = "strategy.policies.lethal.poison"
    words = ("-m", f"{poison}=2.0,0.0", "model.widths=[8],[9],[10],[11],[12],[13]", *TINY, *lethal, "workers=1")
    code, out, err = train(tmp_path, *words[:1], f"{poison}=2.0", *words[2:], "stack=1")
    assert code == 3
    assert "stopped: the first 3 runs all failed with one same error" in err
    assert len(results(tmp_path)) < 6
    code, out, err = train(tmp_path, *words, "stack=2")  # one success, and failures are no reason any more
    assert "12 runs: 6 done, 6 failed" in out
    assert "stopped" not in err


def children(process: subprocess.Popen[str]) -> list[int]:
    """The workers of a sweep."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def until(said: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Waits for something to be so, while the process lives."""
    deadline = time.monotonic() + 120
    while not said() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def figures(folder: Path) -> dict[str, dict[str, object]]:
    """The results, without what time and place make of them."""
    return {
        name: {key: value for key, value in result.items() if key not in ("seconds", "peak_memory_bytes")}
        for name, result in results(folder).items()
    }


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to find the workers")
def test_a_sweep_that_is_killed_again_and_again_ends_as_one_left_alone(tmp_path):
    words = (
        "-m", "strategy=none,standard,gradual", "strategy.rate=0.2,0.4", "seed=0,1", "model.widths=[12]",
        "dataset.train_size=200", "batch_size=16", "epochs=30", "workers=2",
    )  # fmt: skip
    code, out, _ = train(tmp_path, *words, "output_root=calm")
    assert code == 0
    assert "12 runs" not in out  # of which rates mean nothing without dropout
    assert "10 runs: 10 done" in out

    def written() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "stormy").rglob("metrics.jsonl"))

    for victim in ("worker", "worker", "parent", "parent"):
        process, before = start(tmp_path, "train", *words, "output_root=stormy"), written()
        until(lambda before=before: written() > before, process)
        pids = children(process)
        if victim == "worker" and pids:
            os.kill(pids[0], signal.SIGKILL)
            more = written()
            until(lambda more=more: written() > more, process)
        process.kill()
        process.communicate()
    code, out, err = train(tmp_path, *words, "output_root=stormy")
    assert code == 0, err
    assert "10 runs: 10 done" in out
    calm, stormy = figures(tmp_path / "calm"), figures(tmp_path / "stormy")
    assert calm.keys() == stormy.keys()
    for name, result in calm.items():
        for split in ("train", "validation", "test"):
            assert stormy[name][split] == pytest.approx(result[split], rel=1e-3, abs=1e-4)
        assert {**stormy[name], "train": 0, "validation": 0, "test": 0, "rates": 0}.keys() == result.keys()


def test_an_interrupted_sweep_is_saved_and_goes_on(tmp_path):
    long = [word for word in SWEEP if not word.startswith("epochs")]
    process = start(tmp_path, "train", *long, "epochs=400", "workers=2")
    until(lambda: bool(list(tmp_path.rglob("metrics.jsonl"))), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "the same command goes on from here, or: dropbench resume outputs/main" in err
    code, out, err = run(tmp_path, "resume", "outputs/main")
    assert code == 0, err
    assert "6 runs: 6 done" in out


class Looked(Crew):
    """A crew without processes, on a machine of so many cores and GPUs, that was told what a run takes."""

    def __init__(self, seconds: float, gpus: int = 0) -> None:
        self.seconds, self.gpus, self.workers, self.early = seconds, gpus, 1, 1

    def devices(self) -> int:
        return self.gpus

    def ahead(self, workers: int) -> None:
        self.early = workers

    def size(self, workers: int, gpus: int) -> None:
        self.workers = workers

    def look(self, groups, totals):
        return [Look(None, {1: self.seconds, 2: self.seconds, 4: self.seconds}) for _ in groups]


def test_how_many_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "cores", lambda: 4)

    def workers(runs: list[Run], seconds: float, gpus: int = 0) -> int:
        return engine.prepare(runs, Looked(seconds, gpus)).workers

    ten = [run_of("strategy=none", f"seed={seed}", *TINY) for seed in range(10)]
    assert workers(ten[:1], 100.0) == 1  # never more than there are runs
    assert workers(ten, 0.01) == 1  # over before another process would have started
    assert workers(ten, 100.0) == 4
    assert workers(ten, 100.0, gpus=2) == 2
    three = [run_of("strategy=none", f"seed={seed}", "workers=3", *TINY) for seed in range(10)]
    assert workers(three, 0.01) == 3
    assert workers(three[:2], 0.01) == 2
    on_cpu = [run_of("strategy=none", f"seed={seed}", "device=cpu", *TINY) for seed in range(10)]
    assert workers(on_cpu, 100.0, gpus=2) == 4


@pytest.mark.parametrize(
    ("words", "runs", "early"),
    [
        ((), 10, 2),  # whether there will be more is not known yet
        ((), 1, 1),
        (("workers=1",), 10, 1),
        (("workers=3",), 10, 3),
        (("workers=3",), 2, 2),
        (("device=cuda",), 10, 1),  # a second one there depends on a second GPU
    ],
)
def test_how_many_processes_start_before_that_is_known(tmp_path, monkeypatch, words, runs, early):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "cores", lambda: 4)
    crew = Looked(0.01, gpus=1)
    engine.prepare([run_of("strategy=none", f"seed={seed}", *words, *TINY) for seed in range(runs)], crew)
    assert crew.early == early


def test_processes_that_are_not_worth_it_end_and_get_no_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [run_of("strategy=none", f"seed={seed}", *TINY) for seed in range(3)]
    with Crew(["dropbench"], lambda: False) as crew:
        crew.ahead(2)
        first, spare = (worker.process for worker in crew._workers)
        (look,) = crew.look([runs], [len(runs)])
        assert look.refused is None
        assert set(look.seconds) == {1, 2, 3}
        crew.size(1, 0)
        assert not spare.is_alive()
        assert first.is_alive()
        with View(len(runs), 0, 1, shown=False) as view:
            report = SweepReport(view, first=False)
            assert crew.train([[run] for run in runs], report, {})
        assert report.over == {run.id for run in runs}
        assert [worker.process for worker in crew._workers] == [first]
