"""Sweeps on a Slurm cluster, without one: programs of the test stand for sbatch, squeue and scontrol."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dropbench import schema
from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.errors import UserError
from dropbench.runs.records import read_run
from dropbench.sweep import slurm
from dropbench.sweep.manifest import Manifest, save
from dropbench.sweep.slurm_settings import Slurm

TINY = ("dataset.train_size=48", "dataset.validation_size=20", "batch_size=16", "model.widths=[7]")


def runs_of(*words: str, seeds: int = 2) -> list[Run]:
    found = []
    for seed in range(seeds):
        overrides = (*TINY, "epochs=2", "strategy=none", *words, f"seed={seed}")
        composed = Composer().compose(overrides)
        found.append(Run(check(composed.data), composed.choices, overrides))
    return found


def manifest_of(runs: list[Run]) -> Manifest:
    return save(runs, ["dropbench", "train", "-m"], None)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, no program of Slurm on the path, and no sign of a job around."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def program(name: str, text: str) -> None:
    """Puts a program on the path; its words are `$@`."""
    path = Path("bin", name)
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    path.chmod(0o755)


def cluster(job: int = 41) -> None:
    """An sbatch that takes everything: `batch`, `batch.2`, ... are the scripts, `env` its environment."""
    program("srun", "exit 1")
    script = 'n=$(ls batch* 2>/dev/null | wc -l); cp "$1" batch$([ $n = 0 ] || echo .$((n + 1))); env >env'
    program("sbatch", f'cd "{Path.cwd()}"; {script}; echo Submitted batch job $(({job} + n))')


def flags(name: str = "batch") -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", Path(name).read_text(), re.MULTILINE)
    return dict(lines)


# ---- what is asked for


@pytest.mark.parametrize(
    ("time", "expected"),
    [(90, 90), ("90", 90), ("0:00:01", 1), ("1:00:00", 60), ("1:00:01", 61), ("30:00:00", 1800), ("2-01:30:00", 2970)],
)
def test_a_duration_is_rounded_up_to_minutes(time, expected):
    assert slurm.minutes(time) == expected


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("time", "4h", "allowed: minutes, H:MM:SS or D-HH:MM:SS"),
        ("memory", "8GB", "allowed: a size such as 800M or 8G"),
        ("cpus", 0, "allowed:"),
        ("parallel", 0, "allowed:"),
    ],
)
def test_what_slurm_would_refuse_later_is_refused_at_once(key, value, allowed):
    with pytest.raises(UserError, match=re.escape(allowed)) as error:
        schema.build(Slurm, {key: value}, "slurm")
    assert key in str(error.value)


# ---- submission

submitit = pytest.mark.skipif(
    not any((Path(entry) / "submitit").is_dir() for entry in sys.path), reason="submitit is not installed"
)


@submitit
def test_an_array_job_has_one_task_a_stack(place):
    cluster()
    stacks = [runs_of(), runs_of("strategy=standard"), runs_of("model.widths=[8]", seeds=1)]
    manifest = manifest_of([run for stack in stacks for run in stack])
    assert slurm.submit(manifest.path, stacks, Slurm()) == ["41"]
    asked = flags()
    logs = place / "outputs" / "main" / ".slurm"
    assert asked["array"] == "0-2%3"
    assert asked["job-name"] == "dropbench-main"
    assert asked["time"] == "240"
    assert asked["signal"] == "USR2@90"
    assert asked["cpus-per-task"] == "2"
    assert asked["requeue"] == ""
    assert asked["output"].startswith(str(logs))
    assert not asked.keys() & {"partition", "mem", "gpus-per-node", "account", "qos", "constraint", "dependency"}
    assert " --cpus-per-task=2 " in Path("batch").read_text()  # for srun
    record = json.loads((logs / "41.json").read_text())
    assert record["manifest"] == manifest.path.name
    assert record["tasks"] == [[run.id for run in stack] for stack in stacks]
    assert sorted(path.name for path in logs.glob("*.pkl")) == [f"41_{task}_submitted.pkl" for task in range(3)]


@submitit
def test_what_the_config_asks_for_reaches_slurm():
    cluster()
    settings = Slurm(
        partition="long", gpus=1, cpus=4, memory="8G", time="0:02:00", account="me", qos="high", constraint="a100",
        parallel=1, setup=("module load cuda", "export A=1"),
    )  # fmt: skip
    runs = runs_of("study=other")
    slurm.submit(manifest_of(runs).path, [[run] for run in runs], settings)
    expected = {
        "array": "0-1%1", "job-name": "dropbench-other", "partition": "long", "gpus-per-node": "1", "mem": "8G",
        "cpus-per-task": "4", "time": "2", "signal": "USR2@30", "account": "me", "qos": "high", "constraint": "a100",
    }  # fmt: skip
    asked = flags()
    assert {key: asked.get(key) for key in expected} == expected
    assert "\nmodule load cuda\nexport A=1\n" in Path("batch").read_text()


@submitit
def test_one_stack_is_a_job_without_an_array(place):
    cluster()
    runs = runs_of()
    assert slurm.submit(manifest_of(runs).path, [runs], Slurm()) == ["41"]
    assert "array" not in flags()
    program("squeue", "echo '41|PENDING|dropbench-main'")
    assert slurm.queued(place / "outputs" / "main") == {run.id for run in runs}


@submitit
def test_stacks_that_need_the_records_of_others_wait_for_them():
    cluster()
    plain = runs_of("strategy=adaptive/difficulty")
    twins = runs_of("strategy=adaptive/difficulty", "control=mean")
    assert twins[0].config.needs_record
    assert slurm.submit(manifest_of(plain + twins).path, [twins, plain], Slurm()) == ["41", "42"]
    assert "dependency" not in flags("batch")
    assert flags("batch.2")["dependency"] == "afterany:41"
    assert json.loads(Path("outputs/main/.slurm/42.json").read_text())["tasks"] == [[run.id for run in twins]]


@submitit
def test_more_stacks_than_an_array_may_have_share_tasks(monkeypatch):
    cluster()
    monkeypatch.setattr(slurm, "MOST_TASKS", 2)
    runs = runs_of(seeds=5)
    slurm.submit(manifest_of(runs).path, [[run] for run in runs], Slurm())
    assert flags()["array"] == "0-1%2"
    names = [run.id for run in runs]
    assert json.loads(Path("outputs/main/.slurm/41.json").read_text())["tasks"] == [names[0::2], names[1::2]]


@submitit
def test_a_job_that_is_submitted_from_within_a_job_inherits_nothing_of_it(monkeypatch):
    cluster()
    inside = {"SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_CONF": "/etc/c", "SBATCH_ACCOUNT": "me"}
    for key, value in inside.items():
        monkeypatch.setenv(key, value)
    runs = runs_of()
    slurm.submit(manifest_of(runs).path, [runs], Slurm())
    seen = Path("env").read_text()
    assert "SLURM_CONF=/etc/c\n" in seen
    assert "SBATCH_ACCOUNT=me\n" in seen
    assert "SLURM_MEM_PER_CPU" not in seen
    assert {key: os.environ[key] for key in inside} == inside


@submitit
def test_what_sbatch_refuses_is_one_line_and_leaves_nothing_behind(place):
    program("srun", "exit 1")
    program("sbatch", "echo 'sbatch: error: invalid partition specified: no' >&2; echo 'sbatch: more' >&2; exit 1")
    runs = runs_of()
    path = manifest_of(runs).path
    with pytest.raises(UserError) as error:
        slurm.submit(path, [[run] for run in runs], Slurm(partition="no"))
    assert str(error.value) == "launcher=slurm: sbatch: error: invalid partition specified: no sbatch: more"
    assert not list((place / "outputs" / "main" / ".slurm").iterdir())


@submitit
def test_without_slurm_it_says_where_there_is_one():
    runs = runs_of()
    path = manifest_of(runs).path
    with pytest.raises(UserError, match="launcher=slurm: there is no sbatch here"):
        slurm.submit(path, [runs], Slurm())


def test_without_submitit_it_says_how_to_install_it(monkeypatch):
    runs = runs_of()
    path = manifest_of(runs).path
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError) as error:
        slurm.submit(path, [runs], Slurm())
    assert str(error.value) == "launcher=slurm: submitit is not installed; pip install 'dropbench[slurm]'"


# ---- the queue


def record(job: str, tasks: list[list[str]], submitted: str = "2026-01-01T00:00:00+00:00", study: str = "main") -> None:
    folder = Path("outputs", study, ".slurm")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job}.json").write_text(
        json.dumps({"manifest": "sweep-0.json", "tasks": tasks, "submitted": submitted})
    )


def test_the_queue_is_asked_once_for_all_jobs_of_a_study():
    record("40", [["a", "b"], ["c"], ["d"]])
    record("41", [["c", "e"]], "2026-01-02T00:00:00+00:00")
    program("squeue", 'echo "$@" >>asked; printf "40_0|RUNNING|dropbench-main\\n40_1|PENDING|dropbench-main\\n"')
    queue = slurm.look(Path("outputs/main"))
    assert queue.runs == {"a": "RUNNING", "b": "RUNNING", "c": "PENDING"}
    assert [(job.id, dict(job.states)) for job in queue.jobs] == [("40", {0: "RUNNING", 1: "PENDING"}), ("41", {})]
    assert queue.note is None
    assert slurm.queued(Path("outputs/main")) == {"a", "b", "c"}
    assert Path("asked").read_text().splitlines() == ["--noheader --array --format=%i|%T|%j --jobs=40,41"] * 2


def test_a_run_in_two_jobs_runs_if_it_runs_in_one_of_them():
    record("40", [["a"]])
    record("41", [["a"]], "2026-01-02T00:00:00+00:00")
    program("squeue", 'printf "40_0|RUNNING|dropbench-main\\n41_0|PENDING|dropbench-main\\n"')
    assert slurm.look(Path("outputs/main")).runs == {"a": "RUNNING"}


def test_a_job_of_the_same_number_that_is_not_ours_does_not_count():
    record("40", [["a"], ["b"]])
    program("squeue", 'printf "40_0|RUNNING|other\\n40_1|RUNNING|dropbench-other\\n40_7|RUNNING|dropbench-main\\n"')
    assert slurm.queued(Path("outputs/main")) == set()


def test_nothing_submitted_asks_nobody():
    program("squeue", "touch asked")
    Path("outputs/main").mkdir(parents=True)
    assert slurm.look(Path("outputs/main")) == slurm.Queue()
    assert not Path("asked").exists()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (None, "there is no squeue here: what waits or runs on the cluster is not known"),
        ("exit 1", "squeue failed: what waits or runs on the cluster is not known"),
        (
            "echo first >&2; echo 'squeue: fatal: no controller' >&2; exit 1",
            "squeue: fatal: no controller: what waits or runs on the cluster is not known",
        ),
        ("echo slurm_load_jobs error: Invalid job id specified >&2; exit 1", None),
        ("echo '40_x|RUNNING|dropbench-main'; echo garbage; echo '|'", None),
    ],
)
def test_a_queue_that_cannot_be_seen_is_empty_and_says_why(text, note):
    record("40", [["a"]])
    if text is not None:
        program("squeue", text)
    queue = slurm.look(Path("outputs/main"))
    assert (queue.runs, queue.note) == ({}, note)


def test_a_queue_that_does_not_answer_is_given_up(monkeypatch):
    record("40", [["a"]])
    program("squeue", "exec sleep 60")
    monkeypatch.setattr(slurm, "PATIENCE", 0.05)
    assert slurm.look(Path("outputs/main")).note.startswith("squeue does not answer")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b"{}", b'{"tasks": 3}', b'{"tasks": [[1]]}', b"[" * 20000])
def test_what_is_no_record_of_a_job_is_passed_over(content):
    record("40", [["a"]])
    Path("outputs/main/.slurm/39.json").write_bytes(content)
    program("squeue", "echo '40_0|RUNNING|dropbench-main'")
    assert [job.id for job in slurm.look(Path("outputs/main")).jobs] == ["40"]


# ---- a task on its node


def node(task: int, state: str = "COMPLETING") -> subprocess.Popen[str]:
    """Starts a task as its batch script does; for Slurm its job has this state, and scontrol notes what it is told."""
    program("scontrol", f'echo "$@" >>"{Path.cwd()}/told"')
    program("squeue", f"echo '41_{task}|{state}|dropbench-main'")
    environment = {
        "SLURM_JOB_ID": str(50 + task), "SLURM_ARRAY_JOB_ID": "41", "SLURM_ARRAY_TASK_ID": str(task),
        "SUBMITIT_EXECUTOR": "slurm", "SLURM_CPUS_PER_TASK": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "submitit.core._submit", "outputs/main/.slurm"],
        env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, _ = process.communicate(timeout=120)
    return process.returncode, out


def submitted(stacks: list[list[Run]]) -> None:
    cluster()
    slurm.submit(manifest_of([run for stack in stacks for run in stack]).path, stacks, Slurm())


def states(runs: list[Run]) -> list[str]:
    return [read_run(run.path).state for run in runs]


def began(runs: list[Run]) -> list[int]:
    return [(run.path / "record.json").stat().st_mtime_ns for run in runs]


def amid(process: subprocess.Popen[str], runs: list[Run]) -> None:
    """Waits until runs are evaluated."""
    deadline = time.monotonic() + 120
    while not all((run.path / "metrics.jsonl").exists() for run in runs):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@submitit
def test_a_task_trains_its_stack_and_no_other_and_once():
    stacks = [runs_of(), runs_of("strategy=standard")]
    submitted(stacks)
    code, out = end(node(1))
    assert code == 0, out
    assert states(stacks[1]) == ["done"] * 2
    assert not stacks[0][0].path.exists()
    assert (stacks[1][0].path / ".hydra" / "overrides.yaml").exists()
    before = began(stacks[1])
    code, out = end(node(1))
    assert code == 0, out
    assert began(stacks[1]) == before


@submitit
@pytest.mark.parametrize(("number", "state"), [(signal.SIGUSR2, "COMPLETING"), (signal.SIGTERM, "RUNNING")])
def test_a_task_that_is_preempted_saves_is_queued_again_and_goes_on(number, state):
    """A preemption with a time of grace begins with TERM, and the state of the job stays RUNNING."""
    runs = runs_of("epochs=120")
    submitted([runs, runs_of()])
    process = node(0, state)
    amid(process, runs)
    os.killpg(process.pid, number)  # Slurm signals every process of a task
    code, out = end(process)
    assert code == 255, out
    assert Path("told").read_text() == "requeue 41_0\n"
    assert states(runs) == ["interrupted"] * 2
    assert all((run.path / "checkpoint.safetensors").exists() for run in runs)
    before = began(runs)
    code, out = end(node(0))
    assert code == 0, out
    assert states(runs) == ["done"] * 2
    assert began(runs) == before
    for run in runs:
        rows = [json.loads(line)["epoch"] for line in (run.path / "metrics.jsonl").read_text().splitlines()]
        assert rows == list(range(1, 121))


@submitit
def test_a_task_that_is_cancelled_saves_and_leaves():
    runs = runs_of("epochs=1000000")
    submitted([runs, runs_of()])
    process = node(0, "COMPLETING")
    amid(process, runs)
    os.killpg(process.pid, signal.SIGTERM)
    code, out = end(process)
    assert code == 143, out
    assert not Path("told").exists()
    assert states(runs) == ["interrupted"] * 2
    assert all((run.path / "checkpoint.safetensors").exists() for run in runs)


@submitit
def test_a_failed_run_fails_the_task_and_not_its_neighbours():
    deep = ("model.widths=[16,16,16,16,16,16]", "optimizer.clip_norm=null", "optimizer.max_norm=null", "epochs=3")
    (good,) = runs_of(*deep, seeds=1)
    (bad,) = runs_of(*deep, "optimizer.learning_rate=1e9", seeds=1)
    submitted([[good, bad], runs_of("strategy=standard")])
    code, out = end(node(0))
    assert code == 3, out
    assert states([good, bad]) == ["done", "failed"]
    assert f"failed: {bad.id}: the loss is not finite" in out


@submitit
def test_a_run_that_another_process_holds_is_left_to_it():
    held, free = runs_of()
    submitted([[held, free], runs_of("strategy=standard")])
    held.path.mkdir(parents=True)
    with (held.path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, out = end(node(0))
        assert code == 0, out
        assert states([held, free]) == ["running", "done"]


@submitit
def test_runs_to_be_trained_anew_are_trained_anew_once_by_a_task():
    plain = runs_of()
    submitted([plain, runs_of("strategy=standard")])
    assert end(node(0))[0] == 0
    first = began(plain)
    runs = runs_of("rerun=true")
    for path in Path().glob("batch*"):
        path.unlink()
    submitted([runs, runs_of("strategy=standard")])
    assert end(node(0))[0] == 0
    second = began(runs)
    assert all(a < b for a, b in zip(first, second, strict=True))
    assert end(node(0))[0] == 0  # as after a requeue
    assert began(runs) == second


@submitit
def test_a_task_whose_sweep_changed_says_so():
    runs = runs_of()
    submitted([runs, runs_of("strategy=standard")])
    for path in Path("outputs/main").glob("sweep-*.json"):
        data = json.loads(path.read_text())
        path.write_text(json.dumps(data | {"runs": data["runs"][1:]}))
    code, out = end(node(0))
    assert code == 2, out
    assert f"{runs[0].id} is not in it any more; submit the sweep again" in out
