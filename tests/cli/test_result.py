"""The panel at the end of a run."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, write

from dropbench.cli.result import show
from dropbench.errors import UserError

PANEL = """\
test       error   2.00 %   nll 0.1000
validation error   2.50 %   nll 0.0900
train      error   0.00 %   nll 0.0100
rates      input 0.200, hidden1 0.500
selected   epoch 17 of 30 (validation_best)
time       4.0 s, 85,002 parameters
folder     run
"""

WITH_MORE = """\
test        error   2.00 %   nll 0.1000
test mc     error   1.50 %   nll 0.0700, ece 0.0100, brier 0.0300, entropy 0.2500
test pruned error   8.00 %   nll 0.3000
validation  error   2.50 %   nll 0.0900
train       error   0.00 %   nll 0.0100
rates       none: nothing is dropped
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(note: str = "") -> str:
    """The text inside the panel; what stands in its frame is checked."""
    file = io.StringIO()
    show(Path("run"), Console(file=file, width=200, color_system=None), note)
    top, *lines, bottom = file.getvalue().splitlines()
    assert [edge.strip("╭╮╰╯─ ") for edge in (top, bottom)] == ["run", note]
    return "".join(f"{line.strip('│').strip()}\n" for line in lines)


def test_the_panel() -> None:
    write(Path("run"), result(0, 2.0))
    assert shown("recorded before") == PANEL


def test_what_was_measured_again_stands_below_the_test_figures() -> None:
    sampled = {"loss": 0.07, "error": 1.5, "nll": 0.07, "ece": 0.01, "brier": 0.03, "entropy": 0.25}
    more = {"validation_mc": {"error": 1.75}, "test_mc": sampled, "test_pruned": {"error": 8.0, "nll": 0.3}}
    write(Path("run"), result(0, 2.0, rates={}) | more)
    assert shown().startswith(WITH_MORE)


def test_regression_is_judged_by_its_rmse() -> None:
    write(Path("run"), result(task="regression", test={"loss": 0.04, "rmse": 0.2, "nll": -0.1}))
    assert shown().startswith("test       rmse   0.2000   nll -0.1000\n")


def test_without_a_result_there_is_no_panel() -> None:
    write(Path("run"), None)
    with pytest.raises(UserError, match=r"^run: no result \(interrupted\)$"):
        shown()
