"""Comparisons for other programs: the promised JSON, and text that no name can break."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
from recorded import result, write

from dropbench.cli.comparing import DEFAULT
from dropbench.compare.formats import as_csv, as_json, as_latex, as_markdown
from dropbench.compare.rows import Comparison, compare
from dropbench.compare.table import FORMATS, Sheet, sheet
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord
from dropbench.terminal import Column

PROMISED = {
    "dataset", "model", "strategy", "optimizer", "rate", "n", "mean", "sd", "ci95", "delta", "delta_ci95", "p",
    "p_holm", "verdict", "seconds",
}  # fmt: skip
HOSTILE = 'a|b*c_d\\e{f}$g%h&i#j~k^l<m>[n](o)`p"q\x1br\ns=cmd'


def made(place: Path, name: str = "gradual") -> tuple[list[Comparison], list[RunRecord]]:
    for seed in range(7):
        write(place / "main" / f"n{seed}", result(seed, 4 + seed / 10, strategy="none", rate=0.0))
        write(place / "main" / f"g{seed}", result(seed, 3 + seed / 8, strategy=name))
    write(place / "main" / "failed", result(7, strategy=name) | {"status": "failed"})
    write(place / "main" / "torn", "{")
    records = read([place])
    return compare(records, DEFAULT), records


def test_the_promised_json(tmp_path: Path) -> None:
    data = json.loads(as_json(*made(tmp_path)))
    assert {"baseline", "metric", "selection", "rows", "failed", "unreadable"} <= set(data)
    assert (data["baseline"], data["metric"], data["selection"]) == ("strategy=none", "test.error", "validation_best")
    assert (data["failed"], data["unreadable"], data["done"], data["runs"]) == (1, 1, 14, 16)
    assert all(set(row) >= PROMISED for row in data["rows"])
    best, base = data["rows"]
    assert (best["strategy"], best["n"], best["failed"], best["pairs"]) == ("gradual", 7, 1, 7)
    assert (best["verdict"], base["verdict"]) == ("better", "baseline")
    assert best["p"] == best["p_holm"] == 2 / 128
    assert best["delta"] == pytest.approx(-1 + 0.025 * 3)
    assert len(best["ci95"]) == len(best["delta_ci95"]) == 2
    assert best["delta_ci95_method"] == "sign-flip"
    assert best["values"] == [3 + seed / 8 for seed in range(7)]
    assert base["p"] is base["delta"] is base["delta_ci95"] is base["improvement"] is None
    assert best["improvement_ci95"][0] <= best["improvement"] <= best["improvement_ci95"][1]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    write(tmp_path / "main" / "one", result(0, 2.0))
    records = read([tmp_path])
    text = as_json(compare(records, DEFAULT), records)
    assert not any(word in text for word in ("NaN", "Infinity"))
    [row] = json.loads(text)["rows"]
    assert row["sd"] is row["ci95"] is None


def test_csv_has_the_keys_of_the_json_and_intervals_in_two_columns(tmp_path: Path) -> None:
    comparisons, records = made(tmp_path)
    rows = list(csv.DictReader(io.StringIO(as_csv(comparisons))))
    data = json.loads(as_json(comparisons, records))["rows"]
    assert len(rows) == len(data) == 2
    for row, each in zip(rows, data, strict=True):
        assert float(row["mean"]) == each["mean"]
        assert float(row["ci95_low"]) == each["ci95"][0]
        assert row["p_holm"] == ("" if each["p_holm"] is None else str(each["p_holm"]))
        assert row["verdict"] == each["verdict"]
        assert "values" not in row


@pytest.mark.parametrize("name", [HOSTILE, "=cmd|' /C calc'!A0", "-1+1", "@x", "+1"])
def test_no_name_is_a_formula_of_a_spreadsheet(tmp_path: Path, name: str) -> None:
    comparisons, _ = made(tmp_path, name)
    rows = list(csv.reader(io.StringIO(as_csv(comparisons))))
    assert len({len(row) for row in rows}) == 1
    assert not any(cell[:1] in ("=", "@") for row in rows for cell in row)
    strategy = rows[0].index("strategy")
    assert not any(row[strategy][:1] in "=+-@" for row in rows[1:])


def test_markdown_is_one_table_whatever_the_name(tmp_path: Path) -> None:
    comparisons, records = made(tmp_path, HOSTILE)
    lines = as_markdown([sheet(each) for each in comparisons], records).splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4

    def bars(line: str) -> int:
        return line.replace("\\|", "").count("|")

    assert len({bars(row) for row in rows}) == 1
    assert rows[1].replace("|", "").replace("-", "").replace(":", "").strip() == ""
    assert r"a\|b\*c_d\\e{f}$g%h&i\#j\~k^l\<m\>[n]\(o)\`p" in rows[2]
    assert rows[2].count("**") == 2 * (len(rows[0].split("|")) - 2)  # the winner is bold


def test_latex_escapes_everything(tmp_path: Path) -> None:
    comparisons, records = made(tmp_path, HOSTILE)
    text = as_latex([sheet(each) for each in comparisons], records)
    assert r"a\textbar{}b*c\_d\textbackslash{}e\{f\}\$g\%h\&i\#j\textasciitilde{}k\textasciicircum{}l" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
    for line in filter(None, body.strip().splitlines()):
        assert line.endswith(r" \\")
        assert line.replace(r"\&", "").count("&") == len(columns) - 1


def test_several_figures_in_one_object(tmp_path: Path) -> None:
    adding = result(0, dataset="adding", task="regression") | {"test": {"rmse": 0.2}, "validation": {"rmse": 0.21}}
    write(tmp_path / "main" / "a", adding)
    write(tmp_path / "main" / "b", result(0, 2.0))
    records = read([tmp_path])
    data: dict[str, Any] = json.loads(as_json(compare(records, DEFAULT), records))
    assert data["metric"] == "test.error, test.rmse"
    assert [row["metric"] for row in data["rows"]] == ["test.error", "test.rmse"]
    assert math.isclose(data["rows"][1]["validation"], 0.21)


def test_an_empty_table_has_every_format(tmp_path: Path) -> None:
    write(tmp_path / "main" / "run", None)
    records = read([tmp_path])
    assert json.loads(as_json(compare(records, DEFAULT), records))["rows"] == []
    assert as_csv(compare(records, DEFAULT)) == ""
    assert as_markdown([], records) == "- 1 run: 0 done, 1 interrupted"
    assert as_latex([], records) == "1 run: 0 done, 1 interrupted."
    assert FORMATS == ("table", "md", "csv", "latex", "json")


def test_a_cell_that_latex_would_take_for_an_option(tmp_path: Path) -> None:
    one = Sheet((Column("x"), Column("y")), (("[256,256]", "*"), ("--", '"')), frozenset(), ())
    lines = as_latex([one], []).splitlines()
    assert "{}[256,256] & * \\\\" in lines
    assert "-{}- & '' \\\\" in lines
