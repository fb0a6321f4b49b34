"""The compare table: exact text, hand-computed figures, nothing dropped in silence."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from recorded import result, study, write
from rich.console import Console

from dropbench.compare.table import compare, figure, print_table
from dropbench.errors import UserError
from dropbench.runs.records import RunRecord, read

WIDE = """\
                                                           test        validation
dataset  model  strategy          optimizer    rate  n  error %    sd     error %  seconds
digits   mlp    gradual/annealed  sgd_dropout  0.25  2     1.60  0.14        2.10      4.5
digits   mlp    standard          sgd_dropout   0.5  3     2.50  0.50        3.00      5.0
digits   mlp    none              sgd_dropout     0  1     4.00     -        4.50      4.0

sd: sample deviation over seeds; selection: validation_best
9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable
"""

NARROW = """\
                                              test        validation
dataset  model  strategy          rate  n  error %    sd     error %  seconds
digits   mlp    gradual/annealed  0.25  2     1.60  0.14        2.10      4.5
digits   mlp    standard           0.5  3     2.50  0.50        3.00      5.0
digits   mlp    none                 0  1     4.00     -        4.50      4.0

sd: sample deviation over seeds; selection: validation_best
9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable
not shown at this width: optimizer (sgd_dropout in every row)
"""

TERMINAL = """\
                                                           test        validation
dataset  model  strategy          optimizer    rate  n  error %    sd     error %  seconds
──────────────────────────────────────────────────────────────────────────────────────────
digits   mlp    gradual/annealed  sgd_dropout  0.25  2     1.60  0.14        2.10      4.5
digits   mlp    standard          sgd_dropout   0.5  3     2.50  0.50        3.00      5.0
digits   mlp    none              sgd_dropout     0  1     4.00     -        4.50      4.0

sd: sample deviation over seeds; selection: validation_best
9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable
"""


def printed(records: list[RunRecord], width: int = 200, metric: str | None = None, terminal: bool = False) -> str:
    file = io.StringIO()
    out = Console(file=file, width=width, highlight=False, markup=False, color_system=None, force_terminal=terminal)
    print_table(records, out, metric)
    return file.getvalue()


def records(place: Path, *results: dict[str, object]) -> list[RunRecord]:
    for i, content in enumerate(results):
        write(place / "main" / f"run{i:02}", content)
    return read([place])


@pytest.mark.parametrize(("width", "expected"), [(200, WIDE), (80, NARROW)])
def test_exact_text(tmp_path: Path, width: int, expected: str) -> None:
    assert printed(read([study(tmp_path)]), width) == expected


def test_exact_text_on_a_terminal(tmp_path: Path) -> None:
    text = printed(read([study(tmp_path)]), terminal=True)
    assert "\n".join(line.rstrip() for line in text.split("\n")) == TERMINAL


def test_mean_and_sample_deviation_by_hand(tmp_path: Path) -> None:
    # 1, 2, 4, 5: mean 3; squares 4, 1, 1, 4 add up to 10; 10 / 3 has the root 1.8257
    rows = compare(
        records(tmp_path, *(result(seed, error) for seed, error in enumerate((1.0, 2.0, 4.0, 5.0)))), "test.error"
    )
    assert len(rows) == 1
    assert rows[0].mean == 3
    assert rows[0].deviation == pytest.approx(math.sqrt(10 / 3), rel=1e-15)
    assert rows[0].partner == 3.5
    assert rows[0].seconds == 5.5  # 4, 5, 6, 7


def test_rows_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    text = printed(
        records(
            tmp_path,
            result(0, 2.0, group="a" * 8, settings={"optimizer.learning_rate": 0.1, "model.widths": [64, 64]}),
            result(1, 2.0, group="a" * 8, settings={"optimizer.learning_rate": 0.1, "model.widths": [64, 64]}),
            result(0, 3.0, group="b" * 8, settings={"optimizer.learning_rate": 0.01, "model.widths": [64, 64]}),
            result(0, 4.0, group="c" * 8, settings={"optimizer.learning_rate": 0.1, "selection.patience": None}),
            result(0, 5.0, strategy="none", rate=0.0),
        )
    )
    rows = [line.split(maxsplit=10) for line in text.splitlines() if line.startswith("digits")]
    assert rows[0][5] == "2"
    assert rows[0][10:] == ["model.widths=[64,64] optimizer.learning_rate=0.1 selection.patience=absent"]
    assert rows[1][10:] == ["model.widths=[64,64] optimizer.learning_rate=0.01 selection.patience=absent"]
    assert rows[2][10:] == ["model.widths=[256,256] optimizer.learning_rate=0.1 selection.patience=null"]
    assert rows[3][10:] == []


def test_alike_without_a_known_difference_shows_the_group(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0, group="a" * 8), result(0, 3.0, group="b" * 8)))
    assert "group=aaaaaaaa" in text
    assert "group=bbbbbbbb" in text


def test_sorted_by_dataset_and_model_then_mean(tmp_path: Path) -> None:
    rows = compare(
        records(
            tmp_path,
            result(0, 1.0, dataset="mnist"),
            result(0, 9.0, dataset="digits", model="lstm", strategy="none"),
            result(0, 8.0, dataset="digits", model="lstm", strategy="standard"),
            result(0, 9.5, dataset="digits", model="cnn"),
        ),
        "test.error",
    )
    assert [(row.names[0], row.names[1], row.mean) for row in rows] == [
        ("digits", "cnn", 9.5),
        ("digits", "lstm", 8.0),
        ("digits", "lstm", 9.0),
        ("mnist", "mlp", 1.0),
    ]


def test_regression_has_a_table_of_its_own(tmp_path: Path) -> None:
    adding = result(0, dataset="adding", model="lstm", task="regression") | {
        "test": {"loss": 0.04, "rmse": 0.2},
        "validation": {"loss": 0.04, "rmse": 0.21},
    }
    text = printed(records(tmp_path, result(0, 2.0), adding))
    lines = text.splitlines()
    assert [line.split() for line in lines if line.startswith(("adding", "digits"))] == [
        ["digits", "mlp", "standard", "sgd_dropout", "0.5", "1", "2.00", "-", "2.50", "4.0"],
        ["adding", "lstm", "standard", "sgd_dropout", "0.5", "1", "0.2000", "-", "0.2100", "4.0"],
    ]
    assert text.count("rmse") == 2


def test_another_figure(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0)), metric="validation.nll")
    assert text.splitlines()[0].split() == ["validation", "test"]
    assert text.splitlines()[2].split()[6:9] == ["0.0900", "-", "0.1000"]


@pytest.mark.parametrize(
    ("metric", "head", "figures"),
    [
        ("test_mc.error", ["test", "mc", "validation", "mc"], ["1.50", "-", "1.75"]),
        ("validation_mc.error", ["validation", "mc", "test", "mc"], ["1.75", "-", "1.50"]),
        ("test_mc.entropy", ["test", "mc", "validation", "mc"], ["0.2500", "-", "-"]),
        ("test_pruned.error", ["test", "pruned", "validation", "pruned"], ["8.00", "-", "-"]),
    ],
)
def test_figures_measured_again(tmp_path: Path, metric: str, head: list[str], figures: list[str]) -> None:
    more = {
        "test_mc": {"error": 1.5, "entropy": 0.25},
        "validation_mc": {"error": 1.75},
        "test_pruned": {"error": 8.0},
    }
    text = printed(records(tmp_path, result(0, 2.0) | more, result(1, 3.0)), metric=metric)
    lines = text.splitlines()
    assert lines[0].split() == head
    assert lines[2].split()[5:9] == ["1", *figures]
    assert f"1 run done without a finite {metric}, left out of the table" in text


def test_an_unknown_figure_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--metric=test\.eror: .*; nearest: test\.error$"):
        printed(records(tmp_path, result(0, 2.0)), metric="test.eror")


def test_a_run_recorded_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "first" / "run", result(0, 2.0))
    write(tmp_path / "second" / "run", result(0, 2.0))
    write(tmp_path / "second" / "other", result(1, 3.0))
    found = read([tmp_path])
    assert [len(row.runs) for row in compare(found, "test.error")] == [3]  # as given
    text = printed(found)
    assert text.splitlines()[2].split()[5:8] == ["2", "2.50", "0.71"]
    assert "1 run with the settings and the seed of another, counted once" in text


def test_a_run_without_the_figure_is_said(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0), result(1, test={"error": math.nan, "loss": 1.0})))
    assert text.splitlines()[2].split()[5] == "1"
    assert "1 run done without a finite test.error, left out of the table" in text


def test_no_finished_run_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "main" / "run", None)
    assert printed(read([tmp_path])) == "1 run: 0 done, 1 interrupted\n"


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 120])
def test_no_name_and_no_number_is_cut_at_any_width(tmp_path: Path, width: int) -> None:
    name = "gradual/a_very_long_name_of_a_strategy_that_folds"
    text = printed(records(tmp_path, result(0, 12.25, strategy=name, rate=0.123456)), width)
    assert "12.25" in text
    assert "0.123456" in text
    assert "…" not in text
    start = text.splitlines()[1].index("strategy")
    lines = text.splitlines()[2:]
    cell = "".join(line[start:].split("  ")[0] for line in lines[: lines.index("")])
    assert cell.startswith(name)


def test_markup_and_control_characters_are_shown_not_obeyed(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0, strategy="[red]x[/red]\x1b[31m\n:smile:")))
    assert "[red]x[/red]\\x1b[31m\\n:smile:" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (None, "nll", "-"),
        (1.005, "error", "1.00"),
        (0.0, "nll", "0.0000"),
        (0.00012, "nll", "1.200e-04"),
        (123456.0, "rmse", "1.235e+05"),
        (12.34567, "rmse", "12.3457"),
    ],
)
def test_figures(value: float | None, name: str, expected: str) -> None:
    assert figure(value, name) == expected
