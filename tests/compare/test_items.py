"""Per-item statistics and ensembles, by hand on ten items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from recorded import result, write
from scipy import stats

from dropbench.compare.baseline import conditions
from dropbench.compare.items import items, items_sheet
from dropbench.compare.rows import Comparison, Options, compare
from dropbench.runs.find import read as records
from dropbench.runs.predictions import Part, Predictions, read, save
from dropbench.runs.records import PREDICTIONS

TARGETS = np.array([0, 1] * 5)


def probabilities(wrong: list[int], sure: float = 0.9) -> np.ndarray:
    """Of ten items in two classes: wrong on those listed."""
    right = np.full(10, sure)
    right[wrong] = 1 - sure
    both = np.stack([np.where(TARGETS == 0, right, 1 - right), np.where(TARGETS == 1, right, 1 - right)], 1)
    return both.astype(np.float32)


def kept(folder: Path, outputs: np.ndarray, targets: np.ndarray = TARGETS) -> None:
    save(folder, Predictions({"test": Part(outputs, targets)}))


def comparison(place: Path, wrong: dict[str, list[list[int]]]) -> Comparison:
    for strategy, seeds in wrong.items():
        for seed, each in enumerate(seeds):
            content = result(seed, 10.0 * len(each), strategy=strategy, rate=0.0 if strategy == "none" else 0.5)
            kept(write(place / "main" / f"{strategy}{seed}", content), probabilities(each))
    return compare(records([place]), Options(baselines=(conditions("strategy=none"),)))[0]


WRONG = {"none": [[0, 1, 2], [0, 1, 3], [0, 1, 4]], "gradual": [[0], [0, 5], [0, 6, 7]]}


def test_standard_errors_and_the_ensemble_by_hand(tmp_path: Path) -> None:
    found = comparison(tmp_path, WRONG)
    of = items(next(row for row in found.rows if row.names[2] == "gradual").group)
    assert of is not None
    # errors of the seeds: 10, 20, 30 %; their deviation is 10
    assert of.seed_error == pytest.approx(10 / math.sqrt(3))
    # share of seeds that are wrong, by item: 1 on item 0, 1/3 on items 5, 6, 7
    shares = [1, 0, 0, 0, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0]
    assert of.item_error == pytest.approx(100 * stats.sem(shares))
    assert of.ensemble_figure == 10  # two of three are right everywhere but on item 0
    nll = -(math.log(0.1) + 3 * math.log((0.9 + 0.9 + 0.1) / 3) + 6 * math.log(0.9)) / 10
    assert of.ensemble_nll == pytest.approx(nll, rel=1e-6)


def test_mcnemar_against_the_baseline(tmp_path: Path) -> None:
    sheet = items_sheet(comparison(tmp_path, WRONG))
    assert sheet is not None
    cells = {row[2]: row for row in sheet.rows}
    assert cells["none"][-3:] == ("-", "-", "-")
    # ensembles: none is wrong on 0 and 1, gradual on 0: it is never wrong alone, the baseline once
    assert cells["gradual"][-3:] == ("0/1", "1.000", "0/3")
    assert cells["gradual"][6:10] == ("20.00", "5.77", f"{100 * stats.sem([1, 0, 0, 0, 0] + [1 / 3] * 3 + [0, 0]):.2f}",
                                      "10.00")  # fmt: skip


def test_without_predictions_there_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "main" / "run", result(0, 2.0))
    [found] = compare(records([tmp_path]), Options())
    assert items_sheet(found) is None


def test_other_items_are_left_out_and_said(tmp_path: Path) -> None:
    found = comparison(tmp_path, WRONG)
    kept(tmp_path / "main" / "gradual2", probabilities([0]), 1 - TARGETS)
    sheet = items_sheet(found)
    assert sheet is not None
    assert {row[2]: row[5] for row in sheet.rows} == {"gradual": "2", "none": "3"}
    assert "1 run with predictions of other items left out" in sheet.captions


def test_regression_has_an_ensemble_and_no_mcnemar(tmp_path: Path) -> None:
    targets = np.linspace(0, 1, 10, dtype=np.float32)[:, None]
    for seed, shift in enumerate((0.1, -0.1)):
        content = result(seed, task="regression") | {"test": {"loss": 0.01, "rmse": 0.1}, "validation": {"rmse": 0.1}}
        folder = write(tmp_path / "main" / f"run{seed}", content)
        save(folder, Predictions({"test": Part(targets + np.float32(shift), targets)}))
    [found] = compare(records([tmp_path]), Options())
    sheet = items_sheet(found)
    assert sheet is not None
    assert [column.name for column in sheet.columns][-1] == "ensemble rmse"
    assert float(sheet.rows[0][-1]) == pytest.approx(0, abs=1e-6)  # the shifts cancel
    assert sheet.rows[0][6] == "0.1000"


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"\x10\x00\x00\x00\x00\x00\x00\x00{}", b"{" * 900])
def test_damaged_predictions_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PREDICTIONS).write_bytes(content)
    assert read(tmp_path) is None


def test_predictions_that_make_no_sense_are_left_out(tmp_path: Path) -> None:
    for outputs, targets in (
        (np.full((10, 2), np.nan, np.float32), TARGETS),
        (probabilities([]), TARGETS + 1),
        (probabilities([]), TARGETS[:5]),
        (probabilities([])[:, 0], TARGETS),
    ):
        kept(tmp_path, outputs, targets)
        found = read(tmp_path)
        assert found is not None
        assert not found.parts
    kept(tmp_path, probabilities([]))
    again = read(tmp_path)
    assert again is not None
    np.testing.assert_array_equal(again.parts["test"].outputs, probabilities([]))
    assert again.parts["test"].classes


def test_what_is_not_paired_is_not_tested_by_items_either(tmp_path: Path) -> None:
    comparison(tmp_path, WRONG)
    for folder in (tmp_path / "main").iterdir():
        data = "a" if folder.name.startswith("none") else "b"
        (folder / "record.json").write_text(f'{{"data": {{"sha256": "{data}"}}}}')
    [found] = compare(records([tmp_path]), Options(baselines=(conditions("strategy=none"),)))
    sheet = items_sheet(found)
    assert sheet is not None
    assert {row[-3:] for row in sheet.rows} == {("-", "-", "-")}


def test_ensembles_of_other_seeds_are_not_tested(tmp_path: Path) -> None:
    sheet = items_sheet(comparison(tmp_path, {"none": WRONG["none"], "gradual": WRONG["gradual"][:2]}))
    assert sheet is not None
    assert {row[2]: row[-3:] for row in sheet.rows}["gradual"] == ("-", "-", "0/2")
