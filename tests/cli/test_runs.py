"""`dropbench runs ls`, `show` and `rm`."""

from __future__ import annotations

import fcntl
import io
import json
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, study, write

from dropbench.cli import main
from dropbench.runs import remove
from dropbench.runs.find import read
from dropbench.runs.records import read_run

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


# ---- ls --where


def test_ls_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "ls", "--where", "rate<0.4 and seed==0"]) == 0
    assert capsys.readouterr().out == (
        "run                                   state    test  rate  seconds\n"
        "digits-mlp-gradual-r0.25-s0-bbbbbbbb  done   1.50 %  0.25      4.0\n"
        "digits-mlp-none-r0-s0-cccccccc        done   4.00 %     0      4.0\n"
        "\n"
        "2 runs: 2 done; --where leaves out 7\n"
    )
    assert main(["runs", "ls", "--where", "state==pruned"]) == 0
    assert capsys.readouterr().out == "no run is so; --where leaves out 9\n"
    assert main(["runs", "ls", "--where", "strategi==none"]) == 2
    assert capsys.readouterr().err.endswith("; nearest: strategy\n")


def test_ls_as_json(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(outputs / "main" / "zz", result(0, 2.0, settings={"\x1b": float("inf"), "deep": {"a": 1}}))
    assert main(["runs", "ls", "--format", "json", "--where", "seed==0 and rate==0.5 or state==unreadable"]) == 0
    torn, first, odd = json.loads(capsys.readouterr().out)["runs"]
    assert torn == {
        "id": "digits-mlp-none-r0-s2-eeeeeeee",
        "state": "unreadable",
        "study": "main",
        "path": "outputs/main/digits-mlp-none-r0-s2-eeeeeeee",
        "reason": "result.json: torn or not JSON",
    }
    assert (first["strategy"], first["strategy.rate"], first["test.error"], first["reason"]) == ("standard", 0.5, 2, "")
    assert "\x1b" not in odd


# ---- rm


NONE = "digits-mlp-none-r0-s0-cccccccc"
LOST = "digits-mlp-none-r0-s1-dddddddd"
FIRST = "digits-mlp-gradual-r0.25-s0-bbbbbbbb"


def left(outputs: Path) -> set[str]:
    return {path.name for path in (outputs / "main").iterdir()}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", [NONE, f"main/{NONE}", f"outputs/main/{NONE}", f"./outputs/main/{NONE}/"])
def test_rm_removes_the_run_that_is_named(name: str, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(outputs)
    (outputs / "main" / NONE / ".hydra" / "deep").mkdir(parents=True)
    (outputs / "main" / NONE / ".hydra" / "deep" / "x").write_text("x")
    size = sum(path.stat().st_size for path in (outputs / "main" / NONE).rglob("*") if path.is_file())
    assert main(["runs", "rm", name, "--yes"]) == 0
    assert left(outputs) == before - {NONE}
    assert capsys.readouterr().out.endswith(f"\nremoved 1 run; {size / 1000:.1f} kB\n")


def test_rm_by_a_filter(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(outputs)
    assert main(["runs", "rm", "--where", "state in [failed, interrupted]", "--yes"]) == 0
    assert before - left(outputs) == {LOST, "digits-mlp-none-r0-s3-ffffffff"}
    assert "removed 2 runs; " in capsys.readouterr().out
    assert main(["runs", "rm", "outputs/main", "--where", "state==failed", "--yes"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert main(["runs", "rm", FIRST, NONE, "--where", "rate<0.1", "--yes"]) == 0  # of those named
    assert {FIRST, NONE} & left(outputs) == {FIRST}
    assert main(["runs", "rm", "main", "--all", "--yes"]) == 0
    assert left(outputs) == set()
    assert outputs.is_dir()


def test_rm_says_what_would_go_and_removes_nothing(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(outputs)
    assert main(["runs", "rm", "--where", "state==failed or rate==0", "--dry-run", "--yes"]) == 0
    sizes = [
        sum(file.stat().st_size for file in (outputs / "main" / name).iterdir()) for name in (NONE, LOST)
    ]  # fmt: skip
    assert capsys.readouterr().out == (
        "run                                          state     size\n"
        f"outputs/main/{NONE}  done    {sizes[0] / 1000:.1f} kB\n"
        f"outputs/main/{LOST}  failed   {sizes[1]} B\n"
        "\n"
        f"would go: 2 runs: 1 done, 1 failed; {sum(sizes) / 1000:.1f} kB\n"
    )
    assert left(outputs) == before


@pytest.mark.parametrize(
    ("answer", "gone"),
    [("y\n", {NONE}), ("YES\n", {NONE}), ("n\n", set()), ("\n", set()), ("", set()), ("yo\n", set())],
)
def test_rm_asks(
    answer: str,
    gone: set[str],
    outputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = left(outputs)
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert main(["runs", "rm", NONE]) == 0
    assert before - left(outputs) == gone
    told = capsys.readouterr()
    assert told.err.startswith("Remove 1 run: 1 done; 1.")
    assert told.err.endswith("? [y/N] ")
    assert ("removed 1 run; " in told.out) == bool(gone)
    assert ("nothing removed" in told.out) == (not gone)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([NONE], "runs rm: nothing removed, this is not a terminal to ask at; --yes removes 1 run: 1 done; 1."),
        (
            ["--yes"],
            "runs rm: nothing is named; allowed: RUN ..., [PATH ...] --where EXPR, or PATH ... --all",
        ),
        (
            ["--all", "--yes"],
            "runs rm: nothing is named; allowed: RUN ..., [PATH ...] --where EXPR, or PATH ... --all",
        ),
        (["outputs", "--yes"], "outputs: this is no run but a folder of 9 runs; add --where EXPR, or --all"),
        ([NONE, "main", "--yes"], "main: this is no run but a folder of 9 runs; add --where EXPR, or --all"),
        (
            [NONE[:-1], "--yes"],  # the beginning of an id is enough to look, not to remove
            f"{NONE[:-1]}: there is no such run folder, and no run in outputs whose id is this; nearest: {NONE}",
        ),
        (["", "--yes"], ": there is no such run folder, and no run in outputs whose id is this"),
        (["x" * 5000, "--yes"], "x"),
        (["\0", "--yes"], "\\x00: there is no such run folder"),
        (["--where", "rate=0", "--yes"], "--where: rate=0: a single = compares nothing; write =="),
        ([NONE, "--where", "strategi==x", "--yes"], "--where: strategi: no run has this"),
    ],
)
def test_rm_refuses(arguments: list[str], line: str, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(outputs)
    assert main(["runs", "rm", *arguments]) == 2
    assert capsys.readouterr().err.startswith(f"dropbench: {line}")
    assert left(outputs) == before


def test_rm_leaves_what_is_running(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = left(outputs)
    folder = write(outputs / "main" / "busy")
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["runs", "rm", "main", "--all", "--yes"]) == 2
        told = capsys.readouterr()
        assert left(outputs) == {"busy"}
        assert told.err == "dropbench: outputs/main/busy: it is running\n"
        assert f"removed {len(before)} runs" in told.out
        assert (folder / "metrics.jsonl").exists()
        assert main(["runs", "rm", "busy", "--yes"]) == 2
    assert main(["runs", "rm", "busy", "--yes"]) == 0


def test_rm_leaves_what_began_to_run_or_was_done_meanwhile(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between the look and the removal another process takes the folder: the lock and the state are asked again."""
    busy, done = write(outputs / "main" / "busy"), write(outputs / "main" / "was-open")
    records = {record.id: record for record in read([outputs])}
    (done / "result.json").write_text(json.dumps(result()))
    with (busy / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(remove.UserError, match=r"busy: it is running; it stays"):
            remove.remove(records["busy"])
    with pytest.raises(remove.UserError, match=r"was-open: it is done by now; it stays"):
        remove.remove(records["was-open"])
    assert read_run(done).state == "done"
    assert (busy / "metrics.jsonl").exists()


def test_rm_follows_no_link(outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither to a run elsewhere, nor to a study elsewhere, nor out of a run."""
    away = tmp_path / "away"
    write(away / "run", result(7))
    (away / "notes.txt").write_text("mine")
    (outputs / "main" / "linked").symlink_to(away / "run")
    (outputs / "also").symlink_to(away)
    (outputs / "main" / NONE / "out").symlink_to(away)
    (outputs / "main" / NONE / "lost").symlink_to(away / "nowhere")
    assert main(["runs", "rm", "outputs", "--where", "seed==7", "--yes"]) == 2
    assert "a link leads there; remove it by its own path" in capsys.readouterr().err
    assert main(["runs", "rm", "outputs/main/linked", "--yes"]) == 2
    assert main(["runs", "rm", NONE, "--yes"]) == 0
    assert NONE not in left(outputs)
    assert (away / "notes.txt").read_text() == "mine"
    assert read_run(away / "run").state == "done"
    (tmp_path / "link").symlink_to(outputs)
    assert main(["runs", "rm", "link", "--where", f"id=='{LOST}'", "--yes"]) == 0  # the user's own link to outputs
    assert LOST not in left(outputs)


def test_rm_leaves_folders_that_are_no_runs(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What lies beside runs is counted by `ls`; it is somebody's, unless it is empty or looks like a run."""
    main_folder = outputs / "main"
    (main_folder / "plots").mkdir()
    (main_folder / "plots" / "a.png").write_text("x")
    (main_folder / "configs" / "model").mkdir(parents=True)
    (main_folder / "configs" / "config.yaml").write_text("a: 1")
    (main_folder / "other").mkdir()
    (main_folder / "other" / "result.json").write_text('{"of": "another program"}')
    (main_folder / "other" / "data.csv").write_text("1")
    (main_folder / "empty").mkdir()
    (main_folder / "begun").mkdir()
    (main_folder / "begun" / "lock").touch()
    (main_folder / "sweep-1.json").write_text("{}")
    assert main(["runs", "rm", "main", "--all", "--yes"]) == 2
    assert left(outputs) == {"plots", "configs", "other", "sweep-1.json"}
    assert capsys.readouterr().err.count("it does not look like a run of dropbench; remove it by hand\n") == 3


def test_rm_that_is_cut_off_leaves_no_run_that_reads_as_done(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each of its steps the folder is gone, or no longer done, and the command again removes the rest."""
    steps = 0
    unlink, rmdir = os.unlink, os.rmdir

    class Cut(BaseException):
        pass

    def cut(real: object) -> object:
        def step(*arguments: object, **named: object) -> None:
            nonlocal steps
            if steps == 0:
                raise Cut
            steps -= 1
            real(*arguments, **named)  # type: ignore[operator]

        return step

    seen = set()
    for n in range(6):
        folder = write(outputs / "main" / f"cut{n}", result())
        (folder / "error.txt").touch()
        record = read_run(folder)
        steps = n
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", cut(unlink))
            patched.setattr(os, "rmdir", cut(rmdir))
            with pytest.raises(Cut):
                remove.remove(record)
        assert (folder / "lock").exists() or not any(folder.iterdir())  # nobody can train in what is half gone
        seen.add(read_run(folder).state)
        assert (read_run(folder).state == "done") == (n == 0)  # nothing was removed yet
        assert main(["runs", "rm", folder.name, "--yes"]) == 0
        assert not folder.exists()
    assert seen == {"done", "interrupted", "unreadable"}


def test_rm_says_what_the_disk_refuses(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = left(outputs)
    unlink = os.unlink

    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path == "config.yaml":
            raise PermissionError(13, "Permission denied", path)
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", refuse)
    assert main(["runs", "rm", NONE, FIRST, "--yes"]) == 2
    told = capsys.readouterr()
    assert f"dropbench: outputs/main/{NONE}: permission denied: config.yaml\n" in told.err
    assert "removed 0 runs of 2; 0 B\n" in told.out
    assert left(outputs) == before


def test_rm_of_many_names_some(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(30):
        write(outputs / "many" / f"r{i:02}", result(i))
        (outputs / "many" / f"p{i}").mkdir()
        (outputs / "many" / f"p{i}" / "mine").touch()
    assert main(["runs", "rm", "many", "--all", "--yes"]) == 2
    told = capsys.readouterr()
    assert told.out.count("outputs/many/r") == 20
    assert "and 10 more\n\nremoved 30 runs; " in told.out
    assert len(told.err.splitlines()) == 6
    assert told.err.endswith("\n25 more runs not removed\n")


def test_rm_of_strange_names(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold red]z[-]\x1b[31m\n\u202e:smile:"
    folder = write(outputs / "main" / name, result())
    assert main(["runs", "rm", name, "--dry-run"]) == 0
    assert "outputs/main/[bold red]z[-]\\x1b[31m\\n\\u202e:smile:" in capsys.readouterr().out
    assert main(["runs", "rm", name, "--yes"]) == 0
    assert not folder.exists()
