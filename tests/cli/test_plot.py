"""`dropbench plot` from end to end; the pictures themselves are tested in tests/compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, write

from dropbench.cli import main
from dropbench.cli.plot import KINDS
from dropbench.runs.files import line

pytest.importorskip("matplotlib", reason="pictures need matplotlib")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `outputs/main`: two strategies, three seeds."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)
    calibration = {"count": [20, 30], "confidence": [0.4, 0.9], "accuracy": [0.5, 0.8]}
    for strategy, rate, better in (("standard", 0.5, 1.0), ("none", 0.0, 0.0)):
        for seed in range(3):
            content = result(seed, 4.0 + seed / 2 - better, strategy=strategy, rate=rate, calibration=calibration)
            folder = write(tmp_path / "outputs" / "main" / f"{strategy}{seed}", content)
            rows = [
                {
                    "epoch": epoch,
                    "train": {"loss": 1 / epoch, "error": 9 / epoch},
                    "validation": {"loss": 1.2 / epoch, "error": 10 / epoch - better},
                    "sites": {"hidden1": {"rate": rate, "dropped": rate}},
                }
                for epoch in range(1, 9)
            ]
            (folder / "metrics.jsonl").write_bytes(b"".join(map(line, rows)))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["plot", *words]) == 2
    text = capsys.readouterr()
    assert text.err.count("\n") == 1
    assert not text.out
    return text.err


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_and_its_path_said(place: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    assert main(["plot", kind]) == 0
    assert capsys.readouterr().out == f"outputs/plots/{kind}.png\n"
    assert (place / "outputs" / "plots" / f"{kind}.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", kind, "outputs/main", "--out", "there/x.SVG"]) == 0
    assert "<svg" in (place / "there" / "x.SVG").read_text()
    assert sorted(path.name for path in place.iterdir()) == ["outputs", "there"]


def test_pictures_are_no_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "rates"]) == 0
    capsys.readouterr()
    assert main(["runs", "ls"]) == 0
    assert "6 runs: 6 done\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "differences"])
def test_in_the_terminal_it_needs_no_matplotlib(place: Path, kind: str) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from dropbench.cli import main\n"
        f"code = main(['plot', {kind!r}, '--terminal'])\n"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "digits, mlp" in done.stdout.decode() or kind in ("schedule", "profile")
    assert not (place / "outputs" / "plots").exists()


def test_without_matplotlib_it_says_what_to_install(place: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\nfrom dropbench.cli import main\nsys.exit(main(['plot', 'gap']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=place)
    assert done.returncode == 2
    assert done.stderr == "dropbench: dropbench plot needs matplotlib: pip install 'dropbench[plot]'\n"


def test_drawing_loads_no_torch(place: Path) -> None:
    program = (
        "import sys\nfrom dropbench.cli import main\n"
        "code = main(['plot', 'differences'])\n"
        "assert not {'torch', 'hydra', 'omegaconf'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=place)
    assert done.returncode == 0, done.stderr


def test_where_picks_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "curves", "--terminal", "--where", 'strategy=="none"']) == 0
    text = capsys.readouterr().out
    assert "none" in text
    assert "standard" not in text


def test_a_metric_of_curves_is_one_of_the_evaluations(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "curves", "--terminal", "--metric", "train.loss"]) == 0
    assert "digits, mlp: train loss" in capsys.readouterr().out
    assert "known: train.error, train.loss, validation.error, validation.loss" in refused(
        capsys, "curves", "--metric=test.error"
    )


def test_a_metric_of_rates_is_one_of_the_results(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "rates", "--terminal", "--metric", "test.nll"]) == 0
    text = capsys.readouterr().out
    assert text.index("validation nll") < text.index("test nll")
    assert "--metric=test.nl: no run has this figure" in refused(capsys, "rates", "--metric=test.nl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["kurves"],
            "plot kurves: known: curves, rates, schedule, gap, differences, calibration, profile; nearest: curves",
        ),
        (["curves", "--out", "x.jpg"], "--out=x.jpg: .jpg; allowed: .png, .svg"),
        (["curves", "--out", "x"], "--out=x: no suffix; allowed: .png, .svg"),
        (["gap", "--metric", "test.nll"], "plot gap: --metric=test.nll: it is for curves, rates, differences"),
        (
            ["differences", "--terminal"],
            "plot differences: not with --terminal; dropbench compare shows them as a table",
        ),
        (["gap", "--terminal", "--out", "x.png"], "plot gap: --out=x.png: not with --terminal"),
        (["gap", "nowhere"], "nowhere: there is no such folder"),
        (["differences", "--baseline", "strategy=gradul"], "--baseline=strategy=gradul: no such runs"),
        (["curves", "--colour"], "plot: unknown argument --colour; known: "),
        ([], "plot: the following arguments are required: KIND"),
    ],
)
def test_bad_words_are_refused_in_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(capsys, *words)


def test_figures_of_two_kinds_do_not_fit_in_one_forest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"task": "regression", "test": {"rmse": 0.2}, "validation": {"rmse": 0.3}}
    write(place / "outputs" / "main" / "adding", result(0, dataset="adding", **figures))
    assert "judged by test.error and test.rmse; name one by --metric" in refused(capsys, "differences")
    assert main(["plot", "differences", "--metric", "test.error"]) == 0


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in KINDS)
