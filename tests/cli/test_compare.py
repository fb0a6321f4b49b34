"""`dropbench compare` from end to end; the table itself is tested in tests/compare."""

from __future__ import annotations

import contextlib
import os
import pty
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
    assert main(["compare"]) == 2
    assert capsys.readouterr().err == "dropbench: outputs: there is no such folder\n"
    study(tmp_path / "outputs")
    assert main(["compare"]) == 0
    assert "9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable\n" in capsys.readouterr().out


def test_piped_it_is_plain_and_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 300
    write(tmp_path / "main" / "run", result(0, 2.0, strategy=name))
    assert main(["compare", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"digits   mlp    {name}  sgd_dropout" in text
    assert text.isascii()
    assert "\x1b" not in text


def test_columns_is_honoured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert main(["compare", str(study(tmp_path))]) == 0
    text = capsys.readouterr().out
    note = "not shown at this width: optimizer (sgd_dropout in every row), seconds, validation error %\n"
    assert text.endswith(note)
    assert max(len(line) for line in text.removesuffix(note).splitlines()) <= 60


def test_a_figure_and_several_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    runs = [str(tmp_path / "main" / f"digits-mlp-standard-r0.5-s{seed}-aaaaaaaa") for seed in (0, 1)]
    assert main(["compare", *runs, "--metric", "test.nll"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("digits")]
    assert rows == [["digits", "mlp", "standard", "sgd_dropout", "0.5", "2", "0.1025", "0.0035", "0.0900", "4.5"]]
    assert main(["compare", runs[0], "--metric=test.nil"]) == 2
    assert capsys.readouterr().err.endswith("; nearest: test.nll\n")


def test_colour_is_off_with_no_color(tmp_path: Path) -> None:
    study(tmp_path)
    ours, theirs = pty.openpty()
    environment = os.environ | {"NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "dropbench", "compare", str(tmp_path)]
    with subprocess.Popen(command, stdout=theirs, env=environment) as process:
        os.close(theirs)
        text = b""
        with contextlib.suppress(OSError):  # which says that the other side is closed
            while data := os.read(ours, 4096):
                text += data
    os.close(ours)
    assert process.returncode == 0
    assert b"gradual/annealed" in text
    assert not any(b"\x1b[3%d" % digit in text for digit in range(10))
