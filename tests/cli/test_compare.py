"""`dropbench compare` from end to end; the table itself is tested in tests/compare."""

from __future__ import annotations

import contextlib
import json
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
    assert "not shown at this width: dataset (digits in every row)" in text
    assert max(len(line) for line in text.splitlines()) <= 60


def test_a_figure_and_several_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study(tmp_path)
    runs = [str(tmp_path / "main" / f"digits-mlp-standard-r0.5-s{seed}-aaaaaaaa") for seed in (0, 1)]
    assert main(["compare", *runs, "--metric", "test.nll"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("digits")]
    assert [row[4:8] + row[-2:] for row in rows] == [["0.5", "2", "0.1025", "0.0035", "0.0900", "4.5"]]
    assert main(["compare", runs[0], "--metric=test.nil"]) == 2
    assert capsys.readouterr().err.endswith("; nearest: test.nll\n")


def sweep(place: Path) -> Path:
    for seed in range(7):
        write(place / "main" / f"n{seed}", result(seed, 4 + seed / 10, strategy="none", rate=0.0))
        write(place / "main" / f"s{seed}", result(seed, 3 + seed / 8))
        write(place / "main" / f"g{seed}", result(seed, 3.1 + seed / 8, strategy="gradual"))
    return place


def rows_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    assert main(["compare", *words, "--format=json"]) == 0
    return {row["strategy"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


def test_baseline_delta_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(sweep(tmp_path))
    verdicts = {name: row["verdict"] for name, row in rows_of(capsys, place).items()}
    assert verdicts == {"none": "baseline", "standard": "better", "gradual": "better"}
    found = rows_of(capsys, place, "--baseline=strategy=standard", "--delta", "0.5")
    assert {name: row["verdict"] for name, row in found.items()} == {
        "none": "worse",
        "standard": "baseline",
        "gradual": "equal",
    }
    assert set(rows_of(capsys, place, "--where", "rate>0 and seed<3")) == {"standard", "gradual"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--baseline=strategy=nune"], "--baseline=strategy=nune: no such runs; strategy is one of: gradual, none, "),
        (["--baseline", "none"], "--baseline=none: allowed: key=value"),
        (["--delta", "-1"], "--delta=-1: allowed: a number above 0"),
        (["--target", "x"], "--target=x: allowed: a number above 0"),
        (["--allow", "dat"], "--allow=dat: allowed: data, code, compute"),
        (["--where", "rate>2"], "--where=rate>2: no run is so"),
        (["--where", "rat>2"], "--where"),
        (["--format", "xml"], "compare --format=xml: known: table, md, csv, latex, json"),
        (["--equal", "time"], "compare --equal=time: known: compute"),
        (["--by", "strategy", "--equal", "compute"], "--equal: not with --by=strategy"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(sweep(tmp_path)), *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"dropbench: {line}")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_optional_stopping_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = sweep(tmp_path)
    assert main(["compare", str(place)]) == 0
    assert "seeds=auto" not in capsys.readouterr().out
    (place / "main" / "sweep-0123abcd.json").write_text('{"command": [], "race": true}')
    assert main(["compare", str(place)]) == 0
    assert "seeds=auto chose the number of seeds in" in capsys.readouterr().out


def test_what_where_left_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = sweep(tmp_path)
    write(place / "main" / "f", result(9, strategy="gradual", test={}) | {"status": "failed"})
    assert main(["compare", str(place), "--where", "test.error<9"]) == 0
    text = capsys.readouterr().out
    assert "--where leaves out 1 failed run\n" in text
    assert "--where picks runs by test figures: no p value and no interval holds\n" in text
    assert main(["compare", str(place), "--where", 'strategy in ["none", "gradual"]']) == 0
    assert "--where" not in capsys.readouterr().out


def test_a_path_may_stand_after_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(sweep(tmp_path))
    assert main(["compare", "--metric", "test.nll", "--cost", place]) == 0
    assert "nll" in capsys.readouterr().out


def test_a_table_of_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(sweep(tmp_path)), "--cost"]) == 0
    text = capsys.readouterr().out
    assert "forward" in text
    assert "123 MB" in text


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
