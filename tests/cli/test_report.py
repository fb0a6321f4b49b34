"""`dropbench report` from end to end; the page itself is tested in tests/compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, study, write

from dropbench.cli import main


def test_it_is_written_among_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "outputs")
    before = {path for path in tmp_path.rglob("*") if not path.name.startswith(".")}
    assert main(["report"]) == 0
    assert capsys.readouterr().out == "outputs/report.html\n"
    assert {path for path in tmp_path.rglob("*") if not path.name.startswith(".")} - before == {
        tmp_path / "outputs" / "report.html"
    }
    text = (tmp_path / "outputs" / "report.html").read_text()
    assert text.lstrip().startswith("<!DOCTYPE html>")
    assert "9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable" in text
    assert main(["report"]) == 0  # the page in the folder of studies is no run
    assert (tmp_path / "outputs" / "report.html").read_text() == text


def test_the_words_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = study(tmp_path / "outputs")
    page = tmp_path / "new" / "my.htm"
    chosen = ["--where", 'strategy!="none"', "--metric", "test.nll", "--baseline", "strategy=standard"]
    assert main(["report", str(root), "--out", str(page), "--title", "A <title>", *chosen]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert "<title>A &lt;title&gt;</title>" in text
    assert "<code>strategy=standard</code>" in text
    assert "lowest test nll" in text
    assert "digits-mlp-none" not in text


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "page.pdf"], "--out=page.pdf: .pdf; allowed: .html, .htm"),
        (["--out", "page"], "--out=page: no suffix; allowed: .html, .htm"),
        (["--metric", "test.eror"], "--metric=test.eror: no run has this figure"),
        (["--baseline", "strategy=non"], "--baseline=strategy=non: no such runs"),
        (["--where", "seed==99"], "--where=seed==99: no run is so"),
        (["--delta", "-1"], "--delta=-1: allowed: a number above 0"),
        (["--titel", "x"], "report: unknown argument --titel"),
        (["nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    study(tmp_path / "outputs")
    assert main(["report", *words]) == 2
    assert capsys.readouterr().err.startswith(f"dropbench: {told}")
    assert not list(tmp_path.glob("**/*.htm*"))


def test_a_name_that_no_encoding_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "main" / "run\udcff", result(0, 2.0, strategy="\ud800"))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 0
    assert "run\\udcff" in (tmp_path / "page.html").read_text()


def test_neither_torch_nor_hydra_is_loaded(tmp_path: Path) -> None:
    root = study(tmp_path / "outputs")
    program = (
        "import sys\n"
        "from dropbench.cli import main\n"
        "assert main(['report', sys.argv[1], '--out', sys.argv[2]]) == 0\n"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", program, str(root), str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
