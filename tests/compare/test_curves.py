"""Curves read back from metrics.jsonl: torn and hostile logs, intervals by scipy called plainly, selection by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from scipy import stats

from dropbench.compare.curves import Curve, band, interval, reached, read_curve, within
from dropbench.runs.files import line


def log(folder: Path, *records: dict[str, Any], tail: bytes = b"") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(map(line, records)) + tail)
    return folder


def record(epoch: int, error: float | None, **more: Any) -> dict[str, Any]:
    return {
        "seq": epoch - 1,
        "epoch": epoch,
        "step": 10 * epoch,
        "train": {"loss": 1 / epoch},
        "validation": {"error": error, "loss": 0.5},
        "sites": {"cell.0": {"rate": 0.1 * epoch, "dropped": 0.1, "other": 3}},
        "seconds": 2.0 * epoch,
        "selected": True,
    } | more


def curve(**columns: list[float]) -> Curve:
    size = len(next(iter(columns.values())))
    named = {name.replace("__", "."): np.array(values, dtype=float) for name, values in columns.items()}
    return Curve(Path("run"), {"epoch": np.arange(1.0, size + 1)} | named)


def test_columns_by_name(tmp_path: Path) -> None:
    found = read_curve(log(tmp_path, record(1, 5.0), record(2, None, samples=7)))
    assert len(found) == 2
    assert found.epoch.tolist() == [1, 2]
    assert found["step"].tolist() == [10, 20]
    assert found["train.loss"].tolist() == [1, 0.5]
    np.testing.assert_array_equal(found["validation.error"], [5, np.nan])
    np.testing.assert_array_equal(found["samples"], [np.nan, 7])  # an old record has none
    np.testing.assert_array_equal(found["forward_passes"], [np.nan, np.nan])
    assert found.sites == ("cell.0",)
    assert found["sites.cell.0.rate"].tolist() == [0.1, 0.2]
    assert "sites.cell.0.other" not in found.columns
    assert "selected" not in found.columns


def test_torn_and_damaged_lines_are_passed_over(tmp_path: Path) -> None:
    whole = line(record(3, 2.0))
    log(
        tmp_path,
        record(1, 5.0),
        tail=line(record(2, 4.0)).replace(b"4.0", b"3.0") + b"\xff\xfe\n\n" + whole + whole[:40],
    )
    assert read_curve(tmp_path)["validation.error"].tolist() == [5, 2]


def test_of_an_epoch_recorded_twice_the_later_record_holds(tmp_path: Path) -> None:
    found = read_curve(log(tmp_path, record(1, 5.0), record(2, 4.0), record(2, 3.0), record(1, 6.0)))
    assert found["validation.error"].tolist() == [6, 3]


def sealed(body: str) -> bytes:
    return f'{body}, "crc": "{crc32(body.encode()):08x}"}}\n'.encode()


@pytest.mark.parametrize(
    "body",
    [
        "[1",
        '{"epoch": ',
        '{"epoch": true',
        '{"epoch": -1',
        '{"epoch": "1"',
        '{"epoch": 1.5',
        '{"epoch": 100000000000000000000',
        '{"epoch": null',
        '{"a": ' + "[" * 100_000,
        '{"step": 1',
    ],
)
def test_a_sealed_line_that_is_no_evaluation_is_passed_over(tmp_path: Path, body: str) -> None:
    log(tmp_path, tail=sealed(body) + line(record(2, 4.0)))
    assert read_curve(tmp_path).epoch.tolist() == [2]


def test_strange_values_are_not_numbers(tmp_path: Path) -> None:
    strange = {"train": [1], "validation": {"error": "2", "loss": 10**400, "nll": True}, "sites": {"a": 1, "b": None}}
    found = read_curve(log(tmp_path, {"epoch": 1, **strange}))
    assert list(found.columns) == ["epoch"]


def test_a_log_with_endless_names_stays_small(tmp_path: Path) -> None:
    records = [{"epoch": i, "train": {f"{i}-{j}": 1.0 for j in range(300)}} for i in range(20)]
    found = read_curve(log(tmp_path, *records))
    assert len(found) == 20
    assert len(found.columns) == 512


def test_no_log_is_an_empty_curve(tmp_path: Path) -> None:
    (tmp_path / "a" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / "metrics.jsonl")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.jsonl").symlink_to("metrics.jsonl")
    for name in ("a", "b", "c", "absent", "nul\0"):
        found = read_curve(tmp_path / name)
        assert len(found) == 0
        assert found.sites == ()
        assert found["validation.error"].shape == (0,)
        assert reached(found, "validation.error", 1.0) is None
        assert within(found, math.inf) is None


def test_band_equals_scipy() -> None:
    values = np.array([[5.0, 4.0, 3.0], [6.0, 4.5, 2.0], [4.0, 4.25, 3.5], [5.5, 4.0, 1.0]])
    found = band([curve(validation__error=row) for row in values.tolist()], "validation.error")
    low, high = stats.t.interval(0.95, 3, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.low, low, rtol=1e-12)
    np.testing.assert_allclose(found.high, high, rtol=1e-12)
    assert (found.runs, found.longest) == (4, 3)


def test_a_single_run_has_no_interval() -> None:
    found = band([curve(x=[1.0, 2.0])], "x")
    assert found.mean.tolist() == [1, 2]
    assert np.isnan([found.low, found.high]).all()
    mean, half = interval(np.array([3.0]))
    assert float(mean) == 3
    assert np.isnan(half)


def test_band_is_over_the_epochs_that_all_runs_have() -> None:
    runs = [curve(x=[1.0, 2.0, 3.0, 4.0]), curve(x=[3.0, math.nan, 5.0]), curve(y=[1.0]), curve(x=[math.nan])]
    found = band(runs, "x")
    assert found.epoch.tolist() == [1, 3]
    assert found.mean.tolist() == [2, 4]
    assert (found.runs, found.longest) == (2, 4)


def test_band_of_nothing() -> None:
    found = band([curve(x=[1.0])], "y")
    assert (len(found.epoch), found.runs) == (0, 0)
    assert len(band([], "y").mean) == 0


def test_reached() -> None:
    run = curve(validation__error=[5.0, math.nan, 3.0, 4.0, 2.0], seconds=[1.0, 2.0, 3.5, 4.0, 5.0])
    assert reached(run, "validation.error", 3.0) == (3, 3.5)
    assert reached(run, "validation.error", 5.0) == (1, 1.0)
    assert reached(run, "validation.error", 1.9) is None
    assert reached(run, "validation.nll", 9.0) is None
    epoch, seconds = reached(curve(x=[1.0]), "x", 1.0) or (0, 0.0)
    assert epoch == 1
    assert math.isnan(seconds)


def test_within_a_budget_selects_as_the_runner_does() -> None:
    run = curve(
        validation__error=[5.0, 3.0, 3.0, 3.0, 1.0],
        validation__loss=[0.1, 0.4, 0.3, 0.3, 0.9],
        forward_passes=[10.0, 20.0, 30.0, 40.0, 50.0],
    )
    assert within(run, 9) is None
    assert within(run, 10) == 0
    assert within(run, 29.5) == 1
    assert within(run, 49) == 2  # the lower loss of those with the lowest error, and of these the first
    assert within(run, 50) == 4
    assert within(run, 49, "last") == 3
    assert within(curve(validation__error=[1.0]), 1e9) is None  # an old run did not count its passes
    assert within(curve(forward_passes=[1.0]), 1e9) is None


def test_within_passes_over_what_is_not_finite() -> None:
    run = curve(validation__rmse=[math.nan, 2.0, 1.0], validation__loss=[0.0, 1.0, math.nan], forward_passes=[1, 2, 3])
    assert within(run, 3) == 1
    assert within(run, 1) is None
