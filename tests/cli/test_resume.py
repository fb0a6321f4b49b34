"""`dropbench resume`: what was interrupted, failed or never begun goes on, from anywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dropbench.cli import main
from dropbench.runs import records

TINY = ["epochs=3", "model.widths=[16]", "dataset.train_size=100", "optimizer.learning_rate=0.05"]
SWEEP = ["train", "-m", *TINY, "seed=0,1", "strategy.rate=0.2,0.4", "stack=2", "workers=1"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DROPBENCH_DATA", raising=False)
    monkeypatch.delenv("DROPBENCH_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def figures(study: Path) -> dict[str, dict]:
    found = (json.loads(path.read_text()) for path in study.glob("*/result.json"))
    return {
        result["id"]: {key: value for key, value in result.items() if key not in ("seconds", "peak_memory_bytes")}
        for result in found
    }


def test_a_run_goes_on_from_another_place(folder, monkeypatch, capsys):
    assert main(["train", *TINY]) == 0
    (run,) = (folder / "outputs" / "main").iterdir()
    expected = figures(run.parent)
    (run / "result.json").unlink()  # as if it had been killed before the end
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    shutil.move(folder / "outputs" / "main", elsewhere / "moved")
    (folder / "outputs").rmdir()
    monkeypatch.chdir(elsewhere)
    run = elsewhere / "moved" / run.name
    record = (run / "record.json").read_text()
    assert main(["resume", "moved"]) == 0
    assert "moved" in capsys.readouterr().out
    assert {name: {**each, "study": "main"} for name, each in figures(run.parent).items()} == expected
    assert (run / "record.json").read_text() == record  # it went on, and was not begun anew
    assert [path.name for path in elsewhere.iterdir()] == ["moved"]
    assert main(["resume", str(run)]) == 0
    assert "nothing to go on with: every run is done" in capsys.readouterr().err


def test_a_sweep_goes_on_with_what_is_not_done_from_another_place(folder, monkeypatch, capsys):
    assert main(SWEEP) == 0
    study = folder / "outputs" / "main"
    expected = figures(study)
    names = sorted(expected)
    shutil.rmtree(study / names[0])  # never begun
    (study / names[1] / "result.json").unlink()  # interrupted
    result = json.loads((study / names[2] / "result.json").read_text())
    (study / names[2] / "result.json").write_text(json.dumps({**result, "status": "failed"}))
    untouched = (study / names[3] / "result.json").stat().st_mtime_ns
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["resume", "--plan", str(study)]) == 0
    assert "4 runs: 1 done, 0 duplicates, 3 to do" in capsys.readouterr().err
    assert len(figures(study)) == 2  # a plan trains nothing
    assert main(["resume", str(folder / "outputs")]) == 0
    shown = capsys.readouterr()
    assert "4 runs: 4 done" in shown.out
    assert "dropbench: sweep-" in shown.err
    assert figures(study) == expected
    assert (study / names[3] / "result.json").stat().st_mtime_ns == untouched
    assert main(["resume", str(next(study.glob("sweep-*.json")))]) == 0
    assert "nothing to go on with" in capsys.readouterr().err


def test_a_race_goes_on(folder, capsys):
    race = ["train", "-m", *TINY, "strategy.rate=0.0,0.95", "seeds=auto", "workers=1", "epochs=20"]
    assert main(race) == 0
    shown = capsys.readouterr()
    study = folder / "outputs" / "main"
    expected = figures(study)
    assert len(expected) >= 12
    assert {name.rpartition("-s")[0] for name in expected} == {"digits-mlp-standard-r0", "digits-mlp-standard-r0.95"}
    for name in list(expected)[::3]:
        shutil.rmtree(study / name)
    assert main(["resume", str(study)]) == 0
    assert figures(study) == expected
    said = [line for line in shown.err.splitlines() if "is out after" in line]
    assert [line for line in capsys.readouterr().err.splitlines() if "is out after" in line] == said
    assert len(said) == 1
    assert said[0].startswith("dropbench: race: digits-mlp-standard-r0.95 (")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nowhere"], "nowhere: there is no such file or folder"),
        ([], "the following arguments are required: PATH"),
        (["file.json"], "file.json: this is not the record of a sweep"),
        (["empty"], "empty: there is no run folder in it"),
    ],
)
def test_what_cannot_be_gone_on_with_is_one_line(folder, capsys, words, line):
    (folder / "file.json").write_text("[]")
    (folder / "empty").mkdir()
    assert main(["resume", *words]) == 2
    shown = capsys.readouterr()
    assert line in shown.err
    assert shown.err.count("\n") == 1


def test_a_damaged_run_is_named_and_the_others_go_on(folder, capsys):
    for seed in (0, 1, 2):
        assert main(["train", *TINY, f"seed={seed}"]) == 0
    runs = sorted((folder / "outputs" / "main").iterdir())
    for run in runs:
        (run / "result.json").unlink()
    (runs[0] / "config.yaml").write_text("seed: [")
    capsys.readouterr()
    assert main(["resume", "outputs"]) == 2
    assert f"{Path('outputs', 'main', runs[0].name)}: it cannot be gone on with" in capsys.readouterr().err
    assert [records.read_run(run).state for run in runs] == ["interrupted", "done", "done"]
