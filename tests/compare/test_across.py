"""`compare --by`: scores worked out by hand, settings chosen on validation, nothing left out in silence."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from recorded import result, write
from scipy import stats

from dropbench.compare.across import as_csv, as_json, chosen_sheet, sheet, show_across
from dropbench.compare.baseline import conditions
from dropbench.compare.rows import Options
from dropbench.compare.scores import Across, across
from dropbench.errors import UserError
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord

DEFAULT = Options(baselines=(conditions("strategy=none"), conditions("strategy=standard")))
Content = dict[str, Any]


def runs(test: tuple[float, ...], validation: float | None = None, **changes: Any) -> list[Content]:
    """Runs of one setting with these test errors; the validation error is the same for all, else half a point more."""
    rate = changes.get("rate", 0.5)
    settings = {"strategy.rate": rate} | changes.pop("settings", {})
    made = [result(seed, error, **changes, settings=settings) for seed, error in enumerate(test)]
    for each in made:
        if validation is not None:
            each["validation"] = {"error": validation}
        each["group"] = f"{crc32(repr((each['choices'], settings)).encode()):08x}"
    return made


def records(place: Path, *groups: list[Content]) -> list[RunRecord]:
    numbers = count()
    for group in groups:
        for content in group:
            write(place / "main" / f"run{next(numbers):03}", content)
    return read([place])


def plain(test: tuple[float, ...], **changes: Any) -> list[Content]:
    return runs(test, strategy="none", rate=0.0, **changes)


def two_tasks(place: Path) -> list[RunRecord]:
    return records(
        place,
        plain((4.0, 4.0)),
        runs((2.0, 2.0)),
        runs((3.0, 3.0), strategy="gradual"),
        plain((10.0, 12.0), dataset="mnist"),
        runs((9.0, 9.0), dataset="mnist"),
        runs((1.0, 1.0), dataset="mnist", strategy="gradual"),
    )


def rows(of: Across) -> dict[str, Any]:
    return {row.value: row for row in of.rows}


def said(of: Across) -> str:
    return "\n".join(of.notes)


def test_scores_by_hand(tmp_path: Path) -> None:
    # digits: 0 is 4, 1 is 2; mnist: 0 is 11, 1 is 1
    found = across(two_tasks(tmp_path), "strategy", DEFAULT)
    by = rows(found)
    assert by["standard"].scores == (1, 1, 0.2, 0.2)
    assert by["gradual"].scores == (0.5, 0.5, 1, 1)
    assert by["none"].scores == (0, 0, 0.1, -0.1)
    assert [(row.value, row.iqm, row.mean, row.rank) for row in found.rows] == [
        ("gradual", 0.75, 0.75, 1.5),  # the middle two of four
        ("standard", 0.6, 0.6, 1.5),
        ("none", 0, 0, 3),
    ]
    assert by["gradual"].shortfall == 0.25
    assert (by["gradual"].above(0), by["gradual"].above(0.5), by["gradual"].above(1)) == (1, 0.5, 0)
    assert [(row.improvement, row.baseline) for row in found.rows] == [(1, False), (1, False), (None, True)]
    assert [(scale.task.name, scale.zero, scale.one, scale.best) for scale in found.scales] == [
        ("digits/mlp", 4, 2, "standard"),
        ("mnist/mlp", 11, 1, "gradual"),
    ]


def test_the_interquartile_mean_and_its_interval_are_those_of_scipy(tmp_path: Path) -> None:
    figures = {("digits", "none"): (4.1, 3.7, 4.4, 5.0, 3.9), ("mnist", "none"): (9.0, 9.9, 9.3, 9.1, 9.4)}
    figures |= {("digits", "gradual"): (2.1, 3.2, 2.4, 3.9, 2.2), ("mnist", "gradual"): (8.7, 8.1, 9.2, 8.8, 7.0)}
    groups = [runs(test, strategy=name, dataset=dataset) for (dataset, name), test in figures.items()]
    row = rows(across(records(tmp_path, *groups), "strategy", DEFAULT))["gradual"]
    assert row.iqm == pytest.approx(stats.trim_mean(row.scores, 0.25), rel=1e-12)
    strata = [np.array(choice.scores) for choice in row.choices.values()]
    draws = np.random.default_rng(3)
    resampled = stats.trim_mean(np.hstack([draws.choice(stratum, (50_000, 5)) for stratum in strata]), 0.25, axis=1)
    assert row.iqm_ci95 == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.02)


def test_settings_are_chosen_on_the_validation_part(tmp_path: Path) -> None:
    found = across(
        records(
            tmp_path,
            plain((4.0, 4.0)),
            runs((1.0, 1.0), validation=5.0, rate=0.3),
            runs((2.0, 2.0), validation=3.0, rate=0.5),
            runs((3.0, 3.0), validation=4.0, rate=0.7),
        ),
        "strategy",
        DEFAULT,
    )
    choice = rows(found)["standard"].choices["digits/mlp"]
    assert (choice.group.rate, choice.mean, choice.selecting, choice.among) == (0.5, 2, 3, 3)
    assert choice.told == {"strategy.rate": 0.5}
    assert "not tuned equally: settings to choose from in a task (none: 1, standard: 3)" in said(found)


def test_what_is_chosen_may_differ_between_tasks_and_is_shown(tmp_path: Path) -> None:
    groups = []
    for dataset, best in (("digits", 0.1), ("mnist", 0.01)):
        groups.append(plain((4.0,), dataset=dataset))
        for rate in (0.1, 0.01):
            value = 1.0 if rate == best else 2.0
            settings = {"optimizer.learning_rate": rate}
            groups.append(runs((value,), value, dataset=dataset, settings=settings))
    found = across(records(tmp_path, *groups), "strategy", DEFAULT)
    cells = [row[:4] for row in chosen_sheet(found).rows if row[1] == "standard"]
    assert cells == [
        ("digits/mlp", "standard", "optimizer.learning_rate=0.1", "2"),
        ("mnist/mlp", "standard", "optimizer.learning_rate=0.01", "2"),
    ]
    assert rows(found)["standard"].iqm_ci95 is None
    assert "a single seed in some task" in said(found)


def test_ties_share_their_rank(tmp_path: Path) -> None:
    groups = [plain((4.0,)), runs((2.0,)), runs((2.0,), strategy="gradual"), runs((1.0,), strategy="layerwise")]
    by = rows(across(records(tmp_path, *groups), "strategy", DEFAULT))
    assert [by[name].rank for name in ("layerwise", "gradual", "standard", "none")] == [1, 2.5, 2.5, 4]


def test_a_task_where_nothing_beats_the_baseline_stays_in(tmp_path: Path) -> None:
    groups = [plain((2.0, 2.0)), runs((4.0, 4.0)), runs((3.0, 3.0), strategy="gradual")]
    found = across(records(tmp_path, *groups), "strategy", DEFAULT)
    assert [(row.value, row.mean) for row in found.rows] == [("none", 0), ("gradual", -0.5), ("standard", -1)]
    assert "digits/mlp: no value is better than the baseline: there -1 is the worst mean" in said(found)
    assert sheet(found).bold == frozenset()


def test_a_best_mean_within_noise_is_said(tmp_path: Path) -> None:
    found = across(records(tmp_path, plain((2.0, 4.0)), runs((2.2, 3.6))), "strategy", DEFAULT)
    # sd 1.4142 and 0.9899, so two standard errors of the difference are 2 sqrt(1 + 0.49) = 2.4413
    assert "below the baseline, less than two standard errors (2.44): its scores are mostly noise" in said(found)


def test_without_a_baseline_the_worst_is_0(tmp_path: Path) -> None:
    groups = [runs((4.0, 5.0), strategy="gradual"), runs((3.0, 3.0), strategy="layerwise")]
    found = across(records(tmp_path, *groups), "strategy", DEFAULT)
    assert [(row.value, row.scores, row.improvement) for row in found.rows] == [
        ("layerwise", (1, 1), None),
        ("gradual", (pytest.approx(1 / 3), pytest.approx(-1 / 3)), None),
    ]
    assert "no baseline: the worst mean of a value is 0 in each task" in said(found)


def test_a_task_without_the_baseline_of_the_others_is_left_out(tmp_path: Path) -> None:
    groups = [runs((4.0,), dataset="mnist"), runs((3.0,), dataset="mnist", strategy="gradual")]
    found = across([*two_tasks(tmp_path / "a"), *records(tmp_path / "b", *groups)], "strategy", DEFAULT)
    assert len(found.scales) == 2  # the runs are of tasks that have one
    groups = [runs((4.0,), dataset="svhn"), runs((3.0,), dataset="svhn", strategy="gradual")]
    found = across([*two_tasks(tmp_path / "c"), *records(tmp_path / "d", *groups)], "strategy", DEFAULT)
    assert [scale.task.name for scale in found.scales] == ["digits/mlp", "mnist/mlp"]
    assert "no baseline (strategy=none) in svhn/mlp, left out" in said(found)


def test_only_common_tasks_count(tmp_path: Path) -> None:
    more = records(tmp_path / "b", runs((1.0,), strategy="layerwise"))
    found = across([*two_tasks(tmp_path / "a"), *more], "strategy", DEFAULT)
    assert [scale.task.name for scale in found.scales] == ["digits/mlp"]
    assert len(found.rows) == 4
    assert (
        "only tasks that all values have are used, left out: mnist/mlp (no layerwise); to leave out a value instead: "
        "--where 'strategy!=\"layerwise\"'"
    ) in said(found)


def test_where_no_task_has_all_values_the_rarest_go(tmp_path: Path) -> None:
    groups = [
        *(plain((4.0,), dataset=name) for name in ("digits", "mnist", "svhn")),
        *(runs((3.0,), dataset=name) for name in ("digits", "mnist")),
        runs((2.0,), dataset="svhn", strategy="gradual"),
    ]
    found = across(records(tmp_path, *groups), "strategy", DEFAULT)
    assert {row.value for row in found.rows} == {"none", "standard"}
    assert [scale.task.name for scale in found.scales] == ["digits/mlp", "mnist/mlp"]
    assert "no task has every value: gradual left out" in said(found)


def test_a_failed_run_is_the_worst_of_its_task(tmp_path: Path) -> None:
    failed = runs((0.0,))[0] | {"seed": 7, "status": "failed"}
    content = [plain((4.0, 6.0)), [*runs((2.0, 3.0)), failed], runs((1.0, 1.0), strategy="gradual")]
    found = across(records(tmp_path, *content), "strategy", DEFAULT)
    choice = rows(found)["standard"].choices["digits/mlp"]
    assert choice.figures == (2, 3, 6)
    assert choice.improvement == pytest.approx((4 + 0) / 6)  # the failed run loses to both
    assert "1 run of the chosen settings failed, counted as the worst run of the task" in said(found)


def test_a_setting_that_fails_is_chosen_later(tmp_path: Path) -> None:
    failed = [runs((0.0,), rate=0.3)[0] | {"seed": seed, "status": "failed"} for seed in (7, 8)]
    content = [
        plain((4.0,), validation=8.0),
        [*runs((2.0,), 1.0, rate=0.3), *failed],  # (1 + 8 + 8) / 3
        runs((3.0,), 5.0, rate=0.5),
    ]
    found = across(records(tmp_path, *content), "strategy", DEFAULT)
    assert rows(found)["standard"].choices["digits/mlp"].group.rate == 0.5


def test_a_value_that_always_failed_is_last(tmp_path: Path) -> None:
    failed = [each | {"status": "failed"} for each in runs((0.0, 0.0), strategy="gradual")]
    found = across(records(tmp_path, plain((4.0, 6.0)), runs((2.0, 3.0)), failed), "strategy", DEFAULT)
    assert found.rows[-1].value == "gradual"
    assert found.rows[-1].choices["digits/mlp"].figures == (6, 6)
    assert "digits/mlp: gradual: every run failed" in said(found)


def test_data_in_another_form_are_another_task(tmp_path: Path) -> None:
    groups = []
    for size, plain_error in ((100, 20.0), (1000, 4.0)):
        settings = {"dataset.train_size": size}
        groups += [plain((plain_error,), settings=settings), runs((plain_error / 2,), settings=settings)]
    found = across(records(tmp_path, *groups), "strategy", DEFAULT)
    assert [scale.task.name for scale in found.scales] == [
        "digits/mlp dataset.train_size=100",
        "digits/mlp dataset.train_size=1000",
    ]
    assert rows(found)["standard"].scores == (1, 1)


def test_models_over_data_sets(tmp_path: Path) -> None:
    groups = [
        plain((4.0,), validation=9.0),
        plain((3.0,), validation=2.0, model="cnn"),
        runs((2.0,), model="cnn", validation=1.0),
        runs((3.5,), validation=1.0),
    ]
    found = across(records(tmp_path, *groups), "model", DEFAULT)
    assert [(scale.task.name, scale.zero, scale.one) for scale in found.scales] == [("digits", 3, 2)]
    assert [(row.value, row.mean) for row in found.rows] == [("cnn", 1), ("mlp", -0.5)]


def test_a_setting_by_its_dotted_key(tmp_path: Path) -> None:
    def sized(widths: list[int], error: float) -> list[Content]:
        return runs((error,), settings={"model.widths": widths})

    found = across(records(tmp_path, plain((4.0,)), sized([64, 64], 3.0), sized([512], 2.0)), "model.widths", DEFAULT)
    assert [(row.value, row.mean) for row in found.rows] == [("[512]", 1), ("[64,64]", 0.5), ("[256,256]", 0)]
    found = across(read([tmp_path]), "rate", DEFAULT)
    assert [row.value for row in found.rows] == ["0.5", "0"]


def test_a_setting_that_some_lack(tmp_path: Path) -> None:
    def until(share: float, error: float) -> list[Content]:
        return runs((error,), strategy="gradual", settings={"strategy.policies.gradual.until": share})

    found = across(records(tmp_path, plain((4.0,)), until(0.5, 3.0), until(0.3, 2.0)),
                   "strategy.policies.gradual.until", DEFAULT)  # fmt: skip
    assert [(row.value, row.mean) for row in found.rows] == [("0.3", 1), ("0.5", 0.5)]
    assert "1 setting without strategy.policies.gradual.until, left out" in said(found)


def test_errors_and_rmse_stand_in_one_table(tmp_path: Path) -> None:
    def adding(rmse: float, **changes: Any) -> list[Content]:
        figures = {"task": "regression", "test": {"rmse": rmse}, "validation": {"rmse": rmse}}
        return [each | figures for each in runs((0.0, 0.0), dataset="adding", model="lstm", **changes)]

    regression = records(tmp_path / "b", adding(0.4, strategy="none", rate=0.0), adding(0.2),
                         adding(0.3, strategy="gradual"))  # fmt: skip
    found = across([*two_tasks(tmp_path / "a"), *regression], "strategy", DEFAULT)
    assert found.metrics == ["test.rmse", "test.error"]
    assert rows(found)["gradual"].scores == (pytest.approx(0.5), pytest.approx(0.5), 0.5, 0.5, 1, 1)


def test_runs_of_another_version_are_refused_unless_allowed(tmp_path: Path) -> None:
    found = [
        replace(record, stamp={"data": "d", "code": "0.2.0" if record.choices["strategy"] == "gradual" else "0.3.0"})
        for record in two_tasks(tmp_path)
    ]
    refused = across(found, "strategy", DEFAULT)
    assert {row.value for row in refused.rows} == {"none", "standard"}
    assert ("mnist/mlp: gradual: 2 runs refused, different in code (0.2.0 against 0.3.0) from the baseline") in said(
        refused
    )
    allowed = across(found, "strategy", replace(DEFAULT, allow=frozenset({"code"})))
    assert len(allowed.rows) == 3
    assert "although they may differ in code" in said(allowed)


def test_another_baseline_and_figure(tmp_path: Path) -> None:
    found = across(
        two_tasks(tmp_path),
        "strategy",
        Options(metric="test.nll", baselines=(conditions("strategy=standard"),), asked=True),
    )
    assert found.metrics == ["test.nll"]
    assert rows(found)["standard"].baseline
    assert rows(found)["standard"].mean == pytest.approx(0)


@pytest.mark.parametrize(
    ("by", "options", "line"),
    [
        ("stratgey", DEFAULT, r"^--by=stratgey: no run has this setting; .*; nearest: strategy$"),
        ("model.width", DEFAULT, r"nearest: model\.widths$"),
        ("dataset", DEFAULT, r"^--by=dataset: figures on different data"),
        ("seed", DEFAULT, r"^--by=seed: "),
        ("optimizer", DEFAULT, r"^--by=optimizer: every run has sgd_dropout"),
        ("strategy", replace(DEFAULT, metric="test.eror"), r"^--metric=test\.eror: .*nearest: test\.error$"),
        ("strategy", Options(baselines=(conditions("strategy=non"),), asked=True), r"nearest: none$"),
        ("strategy", replace(DEFAULT, delta=0.1), r"^--delta: not with --by=strategy$"),
    ],
)
def test_what_is_refused(tmp_path: Path, by: str, options: Options, line: str) -> None:
    with pytest.raises(UserError, match=line):
        show_across(two_tasks(tmp_path), by, options, "table")


def test_settings_without_a_figure_to_choose_by(tmp_path: Path) -> None:
    blind = [each | {"validation": {}} for rate in (0.3, 0.5) for each in runs((2.0,), strategy="gradual", rate=rate)]
    found = across(records(tmp_path, plain((4.0,)), runs((3.0,)), blind), "strategy", DEFAULT)
    assert {row.value for row in found.rows} == {"none", "standard"}
    assert "digits/mlp: gradual: no validation.error to choose among 2 settings by, left out" in said(found)


def test_json(tmp_path: Path) -> None:
    found = two_tasks(tmp_path)
    data = json.loads(as_json(across(found, "strategy", DEFAULT), found))
    assert (data["by"], data["baseline"], data["metric"], data["selection"], data["done"]) == (
        "strategy", "strategy=none", "test.error", "validation_best", 12,
    )  # fmt: skip
    assert data["tasks"][0] == {
        "task": "digits/mlp", "dataset": "digits", "model": "mlp", "metric": "test.error", "baseline": "none",
        "zero": 4, "one": 2, "best": "standard",
    }  # fmt: skip
    row = data["rows"][0]
    assert (row["value"], row["tasks"], row["runs"], row["iqm"], row["rank"]) == ("gradual", 2, 4, 0.75, 1.5)
    assert row["profile"]["tau"][50] == 0.5
    assert (row["profile"]["share"][49], row["profile"]["share"][50], row["profile"]["share"][100]) == (1, 0.5, 0)
    chosen = row["chosen"]["mnist/mlp"]
    assert (chosen["mean"], chosen["score"], chosen["among"], chosen["scores"]) == (1, 1, 1, [1, 1])


def test_csv_and_names_that_would_do_harm(tmp_path: Path) -> None:
    groups = [plain((4.0, 5.0)), runs((2.0, 3.0), strategy="=1+1\x1b[31m")]
    text = as_csv(across(records(tmp_path, *groups), "strategy", DEFAULT))
    lines = list(csv.DictReader(text.splitlines()))
    assert [line["strategy"] for line in lines] == ["'=1+1\\x1b[31m", "none"]
    assert [float(line["iqm"]) for line in lines] == [1, 0]
    assert float(lines[0]["iqm_ci95_low"]) < 1 < float(lines[0]["iqm_ci95_high"])
    assert lines[0]["chosen"] == "digits/mlp: -"


@pytest.mark.parametrize("form", ["table", "md", "csv", "latex", "json"])
def test_every_form_is_printed(tmp_path: Path, form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    show_across(two_tasks(tmp_path), "strategy", DEFAULT, form)
    text = capsys.readouterr().out
    assert "gradual" in text
    assert "0.75" in text


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    show_across(two_tasks(tmp_path), "strategy", DEFAULT, "table")
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[2].split()) == "gradual 2 4 1 0.75 [0.75, 0.75] 0.75 0.25 1.50 1.00 100 % 50 % 50 %"
    assert " ".join(lines[3].split()) == "standard 2 4 1 0.60 [0.60, 0.60] 0.60 0.40 1.50 1.00 100 % 50 % 50 %"
    assert lines[4].split()[:6] == ["none", "(baseline)", "2", "4", "1", "0.00"]
    assert lines[4].split()[8:] == ["0.00", "1.00", "3.00", "-", "25", "%", "0", "%", "0", "%"]
    assert lines[-1] == "12 runs: 12 done"
    assert any("a mild selection" in line for line in lines)


def test_no_run_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "main" / "run", None)
    for form in ("table", "json", "csv", "md"):
        show_across(read([tmp_path]), "strategy", DEFAULT, form)
    assert "1 run: 0 done, 1 interrupted" in capsys.readouterr().out
