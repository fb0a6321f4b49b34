"""`dropbench status`: what it says of sweeps, on a machine with a queue and without one."""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, write

from dropbench.cli import main

NONE, STANDARD = [
    [f"digits-mlp-{name}-s{seed}-0000000{seed}" for seed in range(4)] for name in ("none-r0", "standard-r0.5")
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and no program of Slurm on the path."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep(name: str, ids: list[str], study: str = "main", **changes: Any) -> None:
    path = Path("outputs", study, f"sweep-{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "command": ["dropbench", "train", "-m", "strategy=none,standard", "seed=range(4)"], "config_dir": None,
        "extensions": [], "folder": "/somewhere", "study": study, "block": None, "race": False,
        "runs": [{"id": name, "overrides": []} for name in ids],
    }  # fmt: skip
    path.write_text(json.dumps(content | changes))


def job(number: str, tasks: list[list[str]], manifest: str, study: str = "main", day: int = 1) -> None:
    path = Path("outputs", study, ".slurm", f"{number}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"manifest": manifest, "tasks": tasks, "submitted": f"2026-01-0{day}T10:00:00+00:00"}))


def squeue(*lines: str) -> None:
    path = Path("bin", "squeue")
    path.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    path.chmod(0o755)


def run_folder(name: str, content: dict[str, Any] | None = None, study: str = "main", group: str = "") -> Path:
    path = write(Path("outputs", study, name), content)
    if group:
        (path / "record.json").write_text(json.dumps({"group": group}))
    return path


def failed(name: str) -> None:
    path = run_folder(name, {"status": "failed", "error": "loss is not finite"})
    (path / "error.txt").write_text("Traceback\nValueError: nan\n\n")


def a_bit_of_everything() -> None:
    """Of eight runs two strategies have two results each, one failed, one was interrupted, two were not begun."""
    sweep("3f9a1c2b", NONE + STANDARD)
    for seed, (one, two) in enumerate([(4.0, 2.0), (5.0, 2.5)]):
        run_folder(NONE[seed], result(seed, one, strategy="none", rate=0))
        run_folder(STANDARD[seed], result(seed, two))
    failed(NONE[2])
    run_folder(STANDARD[2])


LOCAL = f"""\
sweep-3f9a1c2b: dropbench train -m strategy=none,standard 'seed=range(4)'
  8 runs: 4 done, 1 failed, 1 interrupted, 2 not started
  failed: {NONE[2]}: ValueError: nan
  best so far: standard 0.5 (digits, mlp): validation error 2.75 %, mean of 2 seeds

to go on: dropbench resume outputs/main
"""


def test_a_sweep_of_this_machine(capsys):
    a_bit_of_everything()
    for arguments in ([], ["outputs"], ["outputs/main"], ["outputs/main/sweep-3f9a1c2b.json"]):
        assert main(["status", *arguments]) == 0
        seen = capsys.readouterr()
        assert seen.out == LOCAL
        assert seen.err == ""


def test_a_sweep_that_a_process_is_at_needs_nobody(capsys):
    a_bit_of_everything()
    with Path("outputs/main", STANDARD[2], "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "8 runs: 4 done, 1 failed, 1 running, 2 not started\n" in out
    assert "to go on" not in out


def test_a_sweep_on_a_cluster(capsys):
    a_bit_of_everything()
    manifest = "sweep-3f9a1c2b.json"
    job("40", [NONE, STANDARD], manifest)
    job("41", [[NONE[2]], [STANDARD[2]], [NONE[3]]], manifest, day=2)
    squeue("41_0|PENDING|dropbench-main", "41_1|RUNNING|dropbench-main")
    assert main(["status"]) == 0
    # The failed run waits to be tried again. That another runs, only the queue knows: no lock is seen here.
    assert (
        capsys.readouterr().out
        == """\
sweep-3f9a1c2b: dropbench train -m strategy=none,standard 'seed=range(4)'
  8 runs: 4 done, 1 running, 1 queued, 2 not started
  Slurm job 40 of 2 tasks: ended; logs: outputs/main/.slurm/40_*
  Slurm job 41 of 3 tasks: 1 pending, 1 running; logs: outputs/main/.slurm/41_*
  best so far: standard 0.5 (digits, mlp): validation error 2.75 %, mean of 2 seeds

to go on: dropbench resume outputs/main
"""
    )


def test_a_job_is_shown_with_its_sweep_alone(capsys):
    sweep("00000001", NONE)
    sweep("00000002", STANDARD)
    job("40", [STANDARD], "sweep-00000002.json")
    squeue("40_0|PENDING|dropbench-main")
    assert main(["status"]) == 0
    first, second = capsys.readouterr().out.split("sweep-00000002")
    assert "Slurm job" not in first
    assert "Slurm job 40 of 1 task: 1 pending" in second


def test_nothing_is_to_be_gone_on_with_while_all_that_is_left_is_queued(capsys):
    sweep("3f9a1c2b", NONE)
    job("40", [NONE], "sweep-3f9a1c2b.json")
    squeue("40_0|PENDING|dropbench-main")
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "4 runs: 4 queued\n" in out
    assert "to go on" not in out


def test_without_a_queue_the_folders_speak_alone(capsys):
    sweep("3f9a1c2b", NONE)
    run_folder(NONE[0])
    job("40", [NONE], "sweep-3f9a1c2b.json")
    assert main(["status"]) == 0
    seen = capsys.readouterr()
    assert "4 runs: 1 interrupted, 3 not started\n  Slurm job 40 of 1 task: not known; logs:" in seen.out
    assert seen.err == (
        "dropbench: note: there is no squeue here: what waits or runs on the cluster is not known; "
        "a run that another machine trains may be taken for interrupted, unless its locks are seen here\n"
    )


def test_json(capsys):
    a_bit_of_everything()
    job("40", [NONE, STANDARD], "sweep-3f9a1c2b.json")
    squeue("40_0|PENDING|dropbench-main")
    assert main(["status", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    (found,) = data["sweeps"]
    assert data["notes"] == []
    assert found["sweep"] == "sweep-3f9a1c2b"
    assert found["counts"] == {"done": 4, "queued": 2, "interrupted": 1, "not started": 1}
    assert {run["id"]: run["state"] for run in found["runs"]}[NONE[3]] == "queued"
    assert found["runs"][0]["path"] == f"outputs/main/{NONE[0]}"
    assert found["failed"] == []
    assert found["best"] == [
        {
            "dataset": "digits", "model": "mlp", "strategy": "standard", "optimizer": "sgd_dropout", "rate": 0.5,
            "metric": "validation.error", "mean": 2.75, "n": 2,
        }
    ]  # fmt: skip
    assert found["jobs"] == [
        {"id": "40", "submitted": "2026-01-01T10:00:00+00:00", "tasks": 2, "states": {"PENDING": 1}}
    ]
    assert found["resume"] == "dropbench resume outputs/main"


def test_runs_of_no_sweep_are_listed_after_the_sweeps(capsys):
    sweep("3f9a1c2b", NONE[:1])
    run_folder(NONE[0], result(0, strategy="none", rate=0))
    run_folder(NONE[1])
    run_folder(STANDARD[0], result(), study="other")
    assert main(["status"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("  best")]
    assert lines == [
        "sweep-3f9a1c2b: dropbench train -m strategy=none,standard 'seed=range(4)'",
        "  1 run: 1 done",
        "",
        "outputs/main: runs of no sweep",
        "  1 run: 1 interrupted",
        "",
        "outputs/other: runs of no sweep",
        "  1 run: 1 done",
        "",
        "to go on: dropbench resume outputs/main",
    ]


def test_a_sweep_over_studies_finds_its_runs(capsys):
    runs = [{"id": NONE[0], "overrides": [f"study={study}", "seed=0"]} for study in ("main", "other")]
    sweep("3f9a1c2b", [], runs=runs)
    run_folder(NONE[0], result(0, strategy="none", rate=0))
    run_folder(NONE[0], study="other")
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "2 runs: 1 done, 1 interrupted\n" in out
    assert "runs of no sweep" not in out


def test_a_study_that_was_renamed_still_finds_its_runs(capsys):
    a_bit_of_everything()
    Path("outputs/main").rename("outputs/moved")
    assert main(["status"]) == 0
    assert capsys.readouterr().out == LOCAL.replace("outputs/main", "outputs/moved")


def test_the_seeds_that_a_race_added_belong_to_it(capsys):
    sweep("3f9a1c2b", [NONE[0]], race=True)
    for seed in range(3):
        run_folder(NONE[seed], result(seed, strategy="none", rate=0), group="aa")
    run_folder(STANDARD[0], result(0), group="bb")
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "  3 runs: 3 done\n" in out
    assert "outputs/main: runs of no sweep\n  1 run: 1 done\n" in out


def test_the_best_is_told_for_each_data_set_and_figure(capsys):
    sweep("3f9a1c2b", ["a", "b", "c"])
    run_folder("a", result(0, 2.0))
    run_folder("b", result(0, 1.0, strategy="none", rate=0))
    regression = result(0, dataset="adding", model="lstm", task="regression")
    run_folder("c", regression | {"test": {"rmse": 0.5}, "validation": {"rmse": 0.25}})
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "best so far: none 0 (digits, mlp): validation error 1.50 %, mean of 1 seed\n" in out
    assert "best so far: standard 0.5 (adding, lstm): validation rmse 0.2500, mean of 1 seed\n" in out


def test_what_the_sweep_needs_is_said(capsys):
    sweep("3f9a1c2b", NONE[:1], extensions=["mine", "yours"])
    assert main(["status"]) == 0
    assert "to go on: dropbench resume outputs/main --extensions mine,yours\n" in capsys.readouterr().out


def test_strange_names_are_shown_not_obeyed(capsys):
    sweep("3f9a1c2b", ["a"], command=["x\x1b[31m\n"])
    path = run_folder("a", {"status": "failed"})
    (path / "error.txt").write_text("\x1b[31mred\n")
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[31m" in out


@pytest.mark.parametrize("words", [["nowhere"], ["bin"]])
def test_where_there_is_nothing_it_says_so(words, capsys):
    assert main(["status", *words]) == 2
    assert capsys.readouterr().err.startswith(f"dropbench: {words[0]}: there is no")
