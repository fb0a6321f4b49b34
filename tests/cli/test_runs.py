"""`dropbench runs ls` and `show`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, study, write

from dropbench.cli import main

LS = """\
run                                   state          test  rate  seconds  note
digits-mlp-gradual-r0.25-s0-bbbbbbbb  done         1.50 %  0.25      4.0
digits-mlp-gradual-r0.25-s1-bbbbbbbb  done         1.70 %  0.25      5.0
digits-mlp-none-r0-s0-cccccccc        done         4.00 %     0      4.0
digits-mlp-none-r0-s1-dddddddd        failed            -     -        -  ValueError: nan
digits-mlp-none-r0-s2-eeeeeeee        unreadable        -     -        -  result.json: torn or not JSON
digits-mlp-none-r0-s3-ffffffff        interrupted       -     -        -
digits-mlp-standard-r0.5-s0-aaaaaaaa  done         2.00 %   0.5      4.0
digits-mlp-standard-r0.5-s1-aaaaaaaa  done         2.50 %   0.5      5.0
digits-mlp-standard-r0.5-s2-aaaaaaaa  done         3.00 %   0.5      6.0

9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable
"""

SHOW = """\
run                outputs/main/digits-mlp-gradual-r0.25-s1-bbbbbbbb
state              done
what               digits, mlp, gradual/annealed, sgd_dropout
rate               0.25
seed               1
selection          validation_best, epoch 17
epochs             30
steps              900
parameters         85,002
peak memory bytes  123,456,789
seconds (total)    5.0
seconds (train)    3.5

figures
split         loss  error %     nll
train       0.0100     0.00  0.0100
validation  0.0900     2.20  0.0900
test        0.0800     1.70  0.0970

rates
site      asked  realised
input    0.2000    0.2003
hidden1  0.5000    0.4998

settings
dataset.kind=digits
model.widths=[256,256]
strategy.rate=0.25
seed=1

last metrics
seq  epoch  step  train.loss
  3      3    90        0.25
  4      4   120         0.2
  5      5   150      0.1667
  6      6   180      0.1429
  7      7   210       0.125
1 line could not be read
"""


@pytest.fixture(autouse=True)
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    return study(tmp_path / "outputs")


def test_ls(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["outputs"], ["outputs/main"]):
        assert main(["runs", "ls", *arguments]) == 0
        assert capsys.readouterr().out == LS


def test_ls_names_the_studies_where_there_are_several(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    regression = result(task="regression") | {"test": {"rmse": 0.25}}
    write(outputs / "other" / "run", regression)
    assert main(["runs", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["study", "run"]
    assert lines[10].split() == ["other", "run", "done", "0.2500", "rmse", "0.5", "4.0"]


@pytest.mark.parametrize(
    "name",
    [
        "digits-mlp-gradual-r0.25-s1-bbbbbbbb",
        "digits-mlp-gradual-r0.25-s1",
        "main/digits-mlp-gradual-r0.25-s1-bbbbbbbb",
        "outputs/main/digits-mlp-gradual-r0.25-s1-bbbbbbbb/",
    ],
)
def test_show(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", name]) == 0
    assert capsys.readouterr().out == SHOW


def test_show_what_was_measured_again(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"test_mc": {"error": 1.5, "entropy": 0.25}, "test_pruned": {"error": 8.0}}
    write(outputs / "main" / "zz", result(0, 2.0) | more)
    assert main(["runs", "show", "zz"]) == 0
    assert (
        "split          loss  error %     nll  entropy\n"
        "train        0.0100     0.00  0.0100        -\n"
        "validation   0.0900     2.50  0.0900        -\n"
        "test         0.0800     2.00  0.1000        -\n"
        "test mc           -     1.50       -   0.2500\n"
        "test pruned       -     8.00       -        -\n"
    ) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (
            "digits-mlp-nnoe-r0-s0-cccccccc",
            "digits-mlp-nnoe-r0-s0-cccccccc: there is no such run folder, and no run in outputs whose id begins so; "
            "nearest: digits-mlp-none-r0-s0-cccccccc",
        ),
        (
            "digits-mlp-gradual",
            "digits-mlp-gradual: 2 runs are meant: outputs/main/digits-mlp-gradual-r0.25-s0-bbbbbbbb, "
            "outputs/main/digits-mlp-gradual-r0.25-s1-bbbbbbbb",
        ),
        ("", ": there is no such run folder, and no run in outputs whose id begins so"),
        ("\0", "\\x00: there is no such run folder, and no run in outputs whose id begins so"),
    ],
)
def test_show_not_found(name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", name]) == 2
    assert capsys.readouterr().err == f"dropbench: {line}\n"


def test_show_without_any_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", "x", "--outputs", str(tmp_path / "nowhere")]) == 2
    assert "there is no such run folder" in capsys.readouterr().err


def test_show_what_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "show", "digits-mlp-none-r0-s1"]) == 0
    assert "error  ValueError: nan\n" in capsys.readouterr().out
    assert main(["runs", "show", "digits-mlp-none-r0-s2"]) == 0
    assert "reason  result.json: torn or not JSON\n" in capsys.readouterr().out
    assert main(["runs", "show", "digits-mlp-none-r0-s3"]) == 0
    assert "state  interrupted\n\nsettings\nseed: 0\nstrategy:\n  rate: 0.5\n" in capsys.readouterr().out


def test_a_damaged_metrics_line_is_left_out(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(outputs / "main" / "zz", result())
    log = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(log.replace(b'"step": 180', b'"step": 190'))
    assert main(["runs", "show", "zz"]) == 0
    text = capsys.readouterr().out
    assert "190" not in text.partition("last metrics")[2]
    assert text.endswith("2 lines could not be read\n")


@pytest.mark.parametrize(
    "content", [b"", b"\xff\n\x00\n", b"[1]\nnull\n", b'{"a":' * 5000, b'{"loss": NaN, "x": {"y": "z"}}\n']
)
def test_show_survives_any_metrics(outputs: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(outputs / "main" / "zz", result())
    (folder / "metrics.jsonl").write_bytes(content)
    assert main(["runs", "show", "zz"]) == 0
    assert "last metrics\n" in capsys.readouterr().out


def test_strange_names_are_shown_not_obeyed(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold red]z[-]\x1b[31m\n\u202e:smile:"
    evil = result(settings={name: name}, rates={name: {name: 1}}, study=name)
    evil |= {"choices": dict.fromkeys(evil["choices"], name), "selection": {"rule": name}, "test": {name: 1.0}}
    folder = write(outputs / "main" / name, evil)
    (folder / "metrics.jsonl").write_text('{"\\u001b[31m[red]": 1}\n')
    shown = "[bold red]z[-]\\x1b[31m\\n\\u202e:smile:"
    for arguments in (["ls"], ["show", "[bold"]):
        assert main(["runs", *arguments]) == 0
        text = capsys.readouterr().out
        assert shown in text
        assert "\x1b" not in text
        assert "\u202e" not in text
