"""`dropbench recommend` from end to end; the advice itself is tested in tests/compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, study, write

from dropbench.cli import main


@pytest.fixture(autouse=True)
def unlimited_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist sets it


def test_the_default_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recommend"]) == 2
    assert capsys.readouterr().err == "dropbench: outputs: there is no such folder\n"
    study(tmp_path / "outputs")
    assert main(["recommend"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "On digits with mlp use strategy=gradual/annealed at rate 0.25: validation error 2.10 % "
        "(95 % CI [0.83, 3.37], 2 seeds), test error 1.60 %."
    )
    # 2.0 and 2.5 against 1.5 and 1.7: 0.65, two standard errors 0.3; of none there is a single pair
    assert lines[1] == "Likely worse: 1 setting (by two standard errors); not known: 1 setting."
    assert lines[-1] == "9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable"


def test_only_some_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    assert main(["recommend", str(tmp_path), "--where", 'strategy=="standard"', "--format=json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["strategy"] for row in data["tasks"][0]["rows"]] == ["standard"]
    assert main(["recommend", str(tmp_path), "--where", "seed>7"]) == 2
    assert capsys.readouterr().err.startswith("dropbench: --where=seed>7: ")


def test_a_figure_of_the_test_set_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "main" / "run", result(0, 2.0))
    assert main(["recommend", str(tmp_path), "--metric=validation.nll"]) == 0
    assert "validation nll 0.0900 (1 seed)" in capsys.readouterr().out
    assert main(["recommend", str(tmp_path), "--metric=test.nll"]) == 2
    assert capsys.readouterr().err.endswith("allowed: validation.*, such as validation.nll\n")
    assert main(["recommend", str(tmp_path), "--allow=colour"]) == 2
    assert "--allow=colour: allowed: data, code, compute" in capsys.readouterr().err


def test_it_loads_neither_torch_nor_hydra(tmp_path: Path) -> None:
    study(tmp_path)
    program = (
        "import sys\n"
        "from dropbench.cli import main\n"
        "assert main(['recommend', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'hydra', 'scipy.stats'} & set(sys.modules)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
