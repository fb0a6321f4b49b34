"""Rows of a comparison: pairs, refusals, verdicts; figures worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from recorded import result, write
from scipy import stats

from dropbench.compare.baseline import conditions
from dropbench.compare.rows import Comparison, Options, Row, compare
from dropbench.errors import UserError
from dropbench.runs.find import read

NONE = Options(baselines=(conditions("strategy=none"), conditions("strategy=standard")))
STAMP = {"versions": {"dropbench": "0.9.0", "torch": "2.13.0+cpu"}, "hardware": {"device": "cpu"},
         "git": {"commit": "a" * 40, "dirty": False}, "data": {"sha256": "d" * 64}}  # fmt: skip


def table(place: Path, *results: dict[str, Any], options: Options = NONE) -> Comparison:
    for i, content in enumerate(results):
        write(place / "main" / f"run{i:03}", content)
    found = compare(read([place]), options)
    assert len(found) == 1
    return found[0]


def sweep(errors: dict[str, list[float]], **more: Any) -> list[dict[str, Any]]:
    """Runs of strategies, seeds 0, 1, ...; NaN stands for a run that failed."""
    found = []
    for strategy, values in errors.items():
        rate = 0.0 if strategy == "none" else 0.5
        for seed, error in enumerate(values):
            content = result(seed, error, strategy=strategy, rate=rate, **more)
            found.append(content | ({"status": "failed"} if math.isnan(error) else {}))
    return found


def row(of: Comparison, strategy: str) -> Row:
    return next(each for each in of.rows if each.names[2] == strategy)


BASE = [4.0, 4.5, 5.0, 4.2, 4.8, 4.4]
SIX = [3.0, 3.6, 4.1, 3.1, 3.9, 3.7]  # less by 1.0, 0.9, 0.9, 1.1, 0.9, 0.7


def test_six_pairs_by_hand(tmp_path: Path) -> None:
    found = row(table(tmp_path, *sweep({"none": BASE, "gradual": SIX})), "gradual")
    assert found.seeds == (0, 1, 2, 3, 4, 5)
    assert found.delta == pytest.approx(-5.5 / 6)
    assert found.difference is not None
    assert found.difference.p == 2 / 64  # all six differences have one sign: two of 64 sign vectors are as extreme
    assert found.p_holm == 2 / 64
    # 63 non-empty subsets; floor(0.025 * 64) = 1, so the ends are the least and the greatest mean of a subset
    assert found.delta_ci95 == pytest.approx((-1.1, -0.7))
    assert found.verdict == "better"
    assert found.improvement == 35 / 36  # 36 comparisons of a run with one of the baseline; 4.1 > 4.0 alone is lost


def test_the_mean_has_a_t_interval(tmp_path: Path) -> None:
    found = row(table(tmp_path, *sweep({"none": BASE, "gradual": SIX})), "none")
    half = stats.t.ppf(0.975, 5) * stats.tstd(BASE) / math.sqrt(6)
    mean = sum(BASE) / 6
    assert found.ci95 == pytest.approx((mean - half, mean + half))
    assert (found.verdict, found.delta, found.p_holm, found.improvement) == ("baseline", None, None, None)


def test_pairs_are_by_seed_and_not_by_place(tmp_path: Path) -> None:
    runs = sweep({"none": BASE}) + [result(seed, SIX[seed], strategy="gradual") for seed in (5, 3, 1, 0, 4, 2)]
    assert row(table(tmp_path, *runs), "gradual").delta_ci95 == pytest.approx((-1.1, -0.7))


def test_holm_over_the_table(tmp_path: Path) -> None:
    found = table(
        tmp_path, *sweep({"none": BASE, "gradual": SIX, "rdrop": [x + 0.5 for x in SIX], "layer": BASE[::-1]})
    )
    ps = {name: row(found, name).difference.p for name in ("gradual", "rdrop", "layer")}  # type: ignore[union-attr]
    assert found.tests == 3
    assert row(found, "gradual").p_holm == 3 * ps["gradual"]  # 0.094
    assert row(found, "gradual").verdict == "cannot tell"  # six pairs cannot reach 5 % in three rows
    assert row(found, "gradual").more is not None


def test_fewer_than_six_pairs_have_no_verdict_and_it_is_said(tmp_path: Path) -> None:
    found = table(tmp_path, *sweep({"none": BASE[:5], "gradual": SIX[:5]}))
    assert row(found, "gradual").difference.p == 2 / 32  # type: ignore[union-attr]
    assert row(found, "gradual").verdict == "cannot tell"
    assert row(found, "gradual").difference.method == "t"  # type: ignore[union-attr]
    assert any("fewer than 6 pairs: no two-sided test can reach 5 %" in note for note in found.notes)


def test_worse_and_equal(tmp_path: Path) -> None:
    base = [2.0 + 0.1 * seed for seed in range(10)]
    near = [value + (0.01 if seed % 2 else -0.01) for seed, value in enumerate(base)]
    options = Options(baselines=NONE.baselines, delta=0.2)
    found = table(tmp_path, *sweep({"none": base, "bad": [x + 1 + x / 9 for x in base], "near": near}), options=options)
    assert row(found, "bad").verdict == "worse"
    assert row(found, "near").verdict == "equal"
    assert row(found, "near").told(0.2) == "equal within 0.2"


def test_a_real_difference_within_delta_is_equal(tmp_path: Path) -> None:
    base = [2.0 + 0.1 * seed for seed in range(10)]
    runs = sweep({"none": base, "near": [x - 0.05 - x / 100 for x in base]})
    assert row(table(tmp_path / "a", *runs), "near").verdict == "better"
    options = Options(baselines=NONE.baselines, delta=0.2)
    assert row(table(tmp_path / "b", *runs, options=options), "near").verdict == "equal"


def test_failed_runs_are_counted_and_lose_every_comparison(tmp_path: Path) -> None:
    found = row(table(tmp_path, *sweep({"none": BASE, "gradual": [*SIX[:5], math.nan]})), "gradual")
    assert (len(found.runs), len(found.group.failed), len(found.seeds)) == (5, 1, 5)
    assert found.improvement == pytest.approx(
        29 / 36
    )  # 5 x 6 comparisons of which 4.1 > 4.0 is lost, and the 6 of the failed run
    assert found.told(None).endswith(", 1 of 6 failed")


def test_a_group_of_failed_runs_has_a_row(tmp_path: Path) -> None:
    found = table(tmp_path, *sweep({"none": BASE, "gradual": [math.nan] * 3}))
    last = found.rows[-1]
    assert (last.names[2], last.verdict, last.told(None)) == ("gradual", "failed", "all 3 failed")
    assert last.group.mean is None


@pytest.mark.parametrize(
    ("aspect", "change"),
    [
        ("data", {"data": {"sha256": "e" * 64}}),
        ("code", {"git": {"commit": "b" * 40, "dirty": False}}),
        ("code", {"git": {"commit": "a" * 40, "dirty": True}}),
        ("code", {"versions": {"dropbench": "0.9.1", "torch": "2.13.0+cpu"}}),
        ("compute", {"hardware": {"device": "cuda:1"}}),
        ("compute", {"versions": {"dropbench": "0.9.0", "torch": "2.14.0"}}),
    ],
)
def test_what_differs_is_not_paired(tmp_path: Path, aspect: str, change: dict[str, Any]) -> None:
    runs = sweep({"none": BASE, "gradual": SIX})
    for i, content in enumerate(runs):
        folder = write(tmp_path / "main" / f"run{i:02}", content)
        stamp = STAMP | (change if content["choices"]["strategy"] == "gradual" else {})
        (folder / "record.json").write_text(json.dumps(stamp))
    [found] = compare(read([tmp_path]), NONE)
    bad = row(found, "gradual")
    assert (bad.verdict, bad.difference, bad.seeds) == ("not paired", None, ())
    assert bad.told(None) == f"not paired: {aspect} differ"
    assert any(f"gradual 0.5: 6 pairs refused, they differ in {aspect} (" in note for note in found.notes)
    [found] = compare(read([tmp_path]), Options(baselines=NONE.baselines, allow=frozenset({aspect})))
    assert row(found, "gradual").verdict == "better"
    assert f"paired although they may differ in {aspect}, as asked for" in found.notes


def test_some_pairs_refused_the_others_compared(tmp_path: Path) -> None:
    for i, content in enumerate(sweep({"none": [*BASE, 4.1], "gradual": [*SIX, 3.0]})):
        folder = write(tmp_path / "main" / f"run{i:02}", content)
        odd = content["seed"] == 6 and content["choices"]["strategy"] == "none"
        (folder / "record.json").write_text(json.dumps(STAMP | ({"data": {"sha256": "f"}} if odd else {})))
    [found] = compare(read([tmp_path]), NONE)
    assert row(found, "gradual").seeds == (0, 1, 2, 3, 4, 5)
    assert any(note.startswith("gradual 0.5: 1 pair refused, they differ in data (") for note in found.notes)


def test_seeds_without_a_partner_are_said(tmp_path: Path) -> None:
    found = table(tmp_path, *sweep({"none": BASE, "gradual": [*SIX, 3.3, 3.2]}))
    assert len(row(found, "gradual").seeds) == 6
    assert "gradual 0.5: 2 runs without a partner of the same seed; the difference is over 6 pairs" in found.notes


def test_no_seed_in_common(tmp_path: Path) -> None:
    runs = [result(seed, 3.0, strategy="none", rate=0.0) for seed in (0, 1)] + [result(2, 2.0)]
    found = table(tmp_path, *runs)
    assert row(found, "standard").verdict == "not paired"
    assert "standard 0.5: no seed in common with its baseline" in found.notes


def test_no_baseline_is_said(tmp_path: Path) -> None:
    found = table(tmp_path, *sweep({"gradual": SIX}))
    assert row(found, "gradual").verdict == "no baseline"
    assert "no baseline for digits/mlp among these runs; --baseline KEY=VALUE names one" in found.notes


def test_identical_figures(tmp_path: Path) -> None:
    found = row(table(tmp_path, *sweep({"none": BASE, "gradual": BASE})), "gradual")
    assert (found.delta, found.delta_ci95, found.p_holm, found.improvement) == (0, (0, 0), 1, 0.5)
    assert found.verdict == "cannot tell"


def test_an_unknown_metric_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--metric=test\.eror: .*; nearest: test\.error$"):
        table(tmp_path, result(0, 2.0), options=Options(metric="test.eror"))


def test_the_best_is_marked_only_where_it_is_significant(tmp_path: Path) -> None:
    found = table(tmp_path / "a", *sweep({"none": BASE, "gradual": SIX}))
    assert found.best() == {0}
    found = table(tmp_path / "b", *sweep({"none": BASE, "gradual": [x + (-1) ** i for i, x in enumerate(BASE)]}))
    assert found.best() == set()


def test_more_seeds_are_for_the_observed_effect(tmp_path: Path) -> None:
    base = [2.0 + 0.1 * seed for seed in range(10)]
    noise = [0.5, -0.3, 0.4, -0.2, 0.6, -0.5, 0.1, -0.1, 0.3, -0.4]
    shifted = [x + e - 0.15 for x, e in zip(base, noise, strict=True)]
    found = row(table(tmp_path, *sweep({"none": base, "gradual": shifted})), "gradual")
    assert found.verdict == "cannot tell"
    assert found.more is not None
    d = abs(found.delta or 0) / stats.tstd([e - 0.15 for e in noise])

    def power(n: int) -> float:
        t, shift = stats.t.ppf(0.975, n - 1), d * math.sqrt(n)
        return float(stats.nct.sf(t, n - 1, shift) + stats.nct.cdf(-t, n - 1, shift))

    n = 10 + found.more
    assert power(n) >= 0.8 > power(n - 1)


def test_refused_runs_are_in_no_probability(tmp_path: Path) -> None:
    for i, content in enumerate(sweep({"none": [*BASE, 4.1], "gradual": [*SIX, 99.0]})):
        folder = write(tmp_path / "main" / f"run{i:02}", content)
        odd = content["seed"] == 6 and content["choices"]["strategy"] == "gradual"
        (folder / "record.json").write_text(json.dumps(STAMP | ({"data": {"sha256": "f"}} if odd else {})))
    [found] = compare(read([tmp_path]), NONE)
    assert row(found, "gradual").improvement == 35 / 36
    assert any("its mean is over all 7 runs" in note for note in found.notes)


def test_a_delta_is_of_one_unit(tmp_path: Path) -> None:
    adding = result(0, dataset="adding", task="regression") | {"test": {"rmse": 0.2}, "validation": {"rmse": 0.2}}
    options = Options(baselines=NONE.baselines, delta=1.0)
    with pytest.raises(UserError, match=r"--delta: runs are judged by test\.error, test\.rmse, in other units"):
        table(tmp_path, result(0, 2.0), adding, options=options)


def test_one_run_typed_in_two_ways_is_one(tmp_path: Path) -> None:
    other = result(0, 2.0)
    other["choices"] = other["choices"] | {"experiment": "mine"}
    found = table(tmp_path, result(0, 2.0), other)
    assert len(found.rows[0].runs) == 1
    assert found.notes[0] == "1 run with the settings and the seed of another, counted once"


def test_what_is_not_known_to_be_the_same_is_said(tmp_path: Path) -> None:
    found = table(tmp_path / "a", *sweep({"none": BASE, "gradual": SIX}))
    assert "not recorded of every run, so not known to be the same: data, code, compute" in found.notes
    for i, content in enumerate(sweep({"none": BASE, "gradual": SIX})):
        folder = write(tmp_path / "b" / "main" / f"run{i:02}", content)
        (folder / "record.json").write_text(json.dumps(STAMP | {"git": {"commit": "a" * 40, "dirty": True}}))
    [found] = compare(read([tmp_path / "b"]), NONE)
    assert row(found, "gradual").verdict == "better"
    assert found.notes == (
        "some runs were trained by code that was changed since its commit: not known to be the same",
    )


def test_holm_out_of_reach_is_said(tmp_path: Path) -> None:
    found = table(tmp_path, *sweep({"none": BASE, "gradual": SIX, "rdrop": [x + 0.1 for x in SIX]}))
    told = "2 rows with so few pairs: after Holm's correction none can reach 5 %, so none is called better or worse"
    assert any(note == f"{told}; it takes 7 pairs" for note in found.notes)


def test_no_difference_at_all_needs_no_more_seeds(tmp_path: Path) -> None:
    found = row(table(tmp_path, *sweep({"none": BASE, "gradual": BASE})), "gradual")
    assert found.told(None) == "cannot tell (no difference at any seed)"


def test_the_baseline_among_several_is_named(tmp_path: Path) -> None:
    runs = [result(seed, 3.0 + rate + seed / 10, rate=rate) for rate in (0.2, 0.4) for seed in range(6)]
    runs += [result(seed, 5.0 + seed / 10, strategy="none", rate=0.0) for seed in range(6)]
    options = Options(baselines=(conditions("strategy=standard"),))
    found = table(tmp_path, *runs, options=options)
    assert "none: its baseline is standard 0.2, the best of several on the validation part" in found.notes


def test_five_pairs_are_not_called_equal_either(tmp_path: Path) -> None:
    options = Options(baselines=NONE.baselines, delta=1.0)
    near = [value + 0.01 for value in BASE[:5]]
    found = row(table(tmp_path, *sweep({"none": BASE[:5], "gradual": near}), options=options), "gradual")
    assert found.p_equal == 1 / 32  # one-sided tests could, but nothing is said of so few
    assert found.verdict == "cannot tell"
