"""The compare table: exact text, hand-computed figures, nothing dropped in silence."""

from __future__ import annotations

import io
import math
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import result, study, write
from rich.console import Console

from dropbench.cli.comparing import DEFAULT
from dropbench.compare.groups import figure, gather, sample_deviation
from dropbench.compare.rows import Options
from dropbench.compare.table import interval, print_table, probability, signed
from dropbench.errors import UserError
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord


def printed(
    records: list[RunRecord], width: int = 200, options: Options = DEFAULT, terminal: bool = False, metric: str = ""
) -> str:
    if metric:
        options = Options(metric, DEFAULT.baselines)
    file = io.StringIO()
    out = Console(file=file, width=width, highlight=False, markup=False, color_system=None, force_terminal=terminal)
    print_table(records, out, options)
    return file.getvalue()


def records(place: Path, *results: dict[str, object]) -> list[RunRecord]:
    for i, content in enumerate(results):
        write(place / "main" / f"run{i:02}", content)
    return read([place])


def test_one_line_a_group(tmp_path: Path) -> None:
    text = printed(read([study(tmp_path)]))
    rows = [line.split() for line in text.splitlines() if line.startswith("digits")]
    assert [row[2:7] for row in rows] == [
        ["gradual/annealed", "sgd_dropout", "0.25", "2", "1.60"],
        ["standard", "sgd_dropout", "0.5", "3", "2.50"],
        ["none", "sgd_dropout", "0", "1", "4.00"],
    ]
    assert "9 runs: 6 done, 1 failed, 1 interrupted, 1 unreadable" in text


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_wider_than_the_console(tmp_path: Path, width: int, terminal: bool) -> None:
    text = printed(read([study(tmp_path)]), width, terminal=terminal)
    assert max(len(line) for line in text.splitlines()) <= width
    assert ("not shown at this width" in text) == (width < 200)
    for word in ("1.60", "2.50", "4.00", "baseline", "cannot"):
        assert word in text


def test_mean_and_sample_deviation_by_hand(tmp_path: Path) -> None:
    # 1, 2, 4, 5: mean 3; squares 4, 1, 1, 4 add up to 10; 10 / 3 has the root 1.8257
    groups = gather(
        records(tmp_path, *(result(seed, error) for seed, error in enumerate((1.0, 2.0, 4.0, 5.0)))), "test.error"
    )
    assert len(groups) == 1
    assert groups[0].mean == 3
    assert groups[0].deviation == pytest.approx(math.sqrt(10 / 3), rel=1e-15)
    assert groups[0].partner == 3.5


@given(st.lists(st.floats(-1e100, 1e100, allow_subnormal=False) | st.integers(-9, 9) | st.floats(0, 5), min_size=2))
def test_the_sample_deviation_is_that_of_the_standard_library(values: list[float]) -> None:
    assert sample_deviation(values) == statistics.stdev(values)


def test_rows_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    text = printed(
        records(
            tmp_path,
            result(0, 2.0, group="a" * 8, settings={"optimizer.learning_rate": 0.1, "model.widths": [64, 64]}),
            result(1, 2.0, group="a" * 8, settings={"optimizer.learning_rate": 0.1, "model.widths": [64, 64]}),
            result(0, 3.0, group="b" * 8, settings={"optimizer.learning_rate": 0.01, "model.widths": [64, 64]}),
            result(0, 4.0, group="c" * 8, settings={"optimizer.learning_rate": 0.1, "selection.patience": None}),
            result(0, 5.0, strategy="none", rate=0.0),
        ),
        width=400,
    )
    rows = [line.split() for line in text.splitlines() if line.startswith("digits")]
    also = [" ".join(word for word in row if "=" in word) for row in rows]
    assert rows[0][5] == "2"
    assert also[:1] == ["model.widths=[64,64] optimizer.learning_rate=0.1 selection.patience=absent"]
    assert also[1:2] == ["model.widths=[64,64] optimizer.learning_rate=0.01 selection.patience=absent"]
    assert also[2:3] == ["model.widths=[256,256] optimizer.learning_rate=0.1 selection.patience=null"]
    assert also[3:4] == [""]


def test_alike_without_a_known_difference_shows_the_group(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0, group="a" * 8), result(0, 3.0, group="b" * 8)))
    assert "group=aaaaaaaa" in text
    assert "group=bbbbbbbb" in text


def test_sorted_by_dataset_and_model_then_mean(tmp_path: Path) -> None:
    rows = gather(
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
        ["digits", "mlp", "standard", "sgd_dropout", "0.5", "1", "2.00", "-", "-", "2.50", "4.0"],
        ["adding", "lstm", "standard", "sgd_dropout", "0.5", "1", "0.2000", "-", "-", "0.2100", "4.0"],
    ]
    assert text.count("rmse") == 2


def test_another_figure(tmp_path: Path) -> None:
    text = printed(records(tmp_path, result(0, 2.0)), metric="validation.nll")
    assert text.splitlines()[0].split() == ["validation", "95", "%", "CI", "test"]
    assert text.splitlines()[2].split()[6:10] == ["0.0900", "-", "-", "0.1000"]


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
    assert [word for word in lines[0].split() if word not in ("95", "%", "CI")] == head
    assert lines[2].split()[5:10] == ["1", *figures[:2], "-", figures[2]]
    assert f"1 run done without a finite {metric}, left out of the table" in text


def test_an_unknown_figure_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--metric=test\.eror: .*; nearest: test\.error$"):
        printed(records(tmp_path, result(0, 2.0)), metric="test.eror")


def test_a_run_recorded_twice_counts_once(tmp_path: Path) -> None:
    write(tmp_path / "first" / "run", result(0, 2.0))
    write(tmp_path / "second" / "run", result(0, 2.0))
    write(tmp_path / "second" / "other", result(1, 3.0))
    text = printed(read([tmp_path]))
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
    table = text.split("\n\n")[0].splitlines()
    start = table[1].index("strategy")
    cell = "".join(line[start:].split("  ")[0] for line in table[2:])
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


@pytest.mark.parametrize(
    ("value", "expected"), [(0.001, "0.00"), (-0.001, "0.00"), (0.0, "0.00"), (-1.5, "-1.50"), (1.5, "+1.50")]
)
def test_a_difference_has_a_sign_unless_it_is_nothing(value: float, expected: str) -> None:
    assert signed(value, "error") == expected


def test_intervals_and_probabilities() -> None:
    assert interval((1.0, 2.5), "error") == "[1.00, 2.50]"
    assert interval((-1.0, 2.5), "error", sign=True) == "[-1.00, +2.50]"
    assert interval(None, "error") == "-"
    assert interval((-0.02, -0.0013), "error", sign=True) == "[-0.02, -0.001]"  # 0 is outside, and it looks so
    assert interval((-0.02, 0.0), "error", sign=True) == "[-0.02, 0.00]"
    assert [probability(p) for p in (None, 1.0, 0.0625, 0.0005, 0.0004)] == ["-", "1.000", "0.062", "0.001", "<0.001"]


def test_the_winner_is_bold_on_a_terminal_and_only_where_it_is_significant(tmp_path: Path) -> None:
    def bold(errors: list[float], name: str) -> list[str]:
        runs = [result(seed, 4 + seed / 10, strategy="none", rate=0.0) for seed in range(6)]
        runs += [result(seed, error, strategy="gradual") for seed, error in enumerate(errors)]
        file = io.StringIO()
        out = Console(file=file, width=200, highlight=False, markup=False, force_terminal=True, color_system="standard")
        print_table(records(tmp_path / name, *runs), out, DEFAULT)
        lines = [line for line in file.getvalue().splitlines() if "digits" in line]
        return [line.split("mlp")[0] for line in lines if "\x1b[1m" in line]

    assert len(bold([3.0, 3.1, 3.3, 3.2, 3.4, 3.1], "better")) == 1
    assert bold([3.0, 5.1, 3.3, 5.2, 3.4, 5.1], "unclear") == []
