"""`recommend`: what is best on validation, what is within noise of it, what to try next."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from recorded import result, write
from scipy import stats

from dropbench.compare.recommend import Advice, recommend, sheet, show_recommend
from dropbench.errors import UserError
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord

Content = dict[str, Any]
NOISE = (0.3, -0.2, 0.1, -0.1, 0.2, -0.3, 0.15, -0.15, 0.05, -0.05)


def runs(validation: float, n: int = 10, test: float = 2.0, spread: float = 1.0, **changes: Any) -> list[Content]:
    """Runs of one setting whose mean figure on the validation part is this (ten of them: exactly)."""
    rate = changes.get("rate", 0.5)
    settings = {"strategy.rate": rate} | changes.pop("settings", {})
    made = [result(seed, test, **changes, settings=settings) for seed in range(n)]
    for each, noise in zip(made, NOISE, strict=False):
        each["validation"] = {"error": validation + spread * noise}
        each["group"] = f"{crc32(repr((each['choices'], settings)).encode()):08x}"
    return made


def records(place: Path, *groups: list[Content]) -> list[RunRecord]:
    numbers = count()
    for group in groups:
        for content in group:
            write(place / "main" / f"run{next(numbers):03}", content)
    return read([place])


def advised(place: Path, *groups: list[Content]) -> Advice:
    (advice,) = recommend(records(place, *groups))
    return advice


def curves(place: Path) -> Advice:
    """gradual at 0.3 is best, standard at 0.3 and 0.5 are near, standard at 0.7 and none are far."""
    return advised(
        place,
        runs(3.0, strategy="gradual", rate=0.1),
        runs(2.0, test=2.5, strategy="gradual", rate=0.3),
        runs(3.0, strategy="gradual", rate=0.5),
        runs(2.01, spread=-1.0, rate=0.3),
        runs(2.02, spread=-1.0, rate=0.5),
        runs(4.0, spread=0.5, rate=0.7),
        runs(5.0, strategy="none", rate=0.0),
    )


def warned(advice: Advice) -> str:
    return "\n".join(each.text for each in advice.warnings)


def test_two_sentences(tmp_path: Path) -> None:
    advice = curves(tmp_path)
    mean = stats.t.interval(0.95, 9, loc=2.0, scale=stats.sem(NOISE))
    assert advice.sentences[0] == (
        "On digits with mlp use strategy=gradual at rate 0.3: validation error 2.00 % "
        f"(95 % CI [{mean[0]:.2f}, {mean[1]:.2f}], 10 seeds), test error 2.50 %."
    )
    # Ten pairs of one sign have p = 2 / 1024; six settings are tested, of which four are so far off.
    near = [2 * value for value in NOISE]
    p = [stats.permutation_test(([shift - value for value in near],), sum, permutation_type="samples").pvalue
         for shift in (0.01, 0.02)]  # fmt: skip
    assert min(p) > 0.5
    assert advice.sentences[1] == (
        "Within noise of it: standard at 0.3 and 0.5 (p at least 1.000); worse: 4 settings (p at most 0.012)."
    )
    assert warned(advice) == ""


def test_p_values_are_those_of_scipy_corrected_by_hand(tmp_path: Path) -> None:
    best, other = runs(2.0, strategy="gradual"), runs(2.1, spread=-0.3)
    advice = advised(tmp_path, best, other)
    pairs = [b["validation"]["error"] - a["validation"]["error"] for a, b in zip(best, other, strict=True)]
    p = stats.permutation_test((pairs,), lambda x: sum(x), permutation_type="samples", n_resamples=10_000).pvalue
    assert advice.tried[1].p_holm == pytest.approx(p, rel=1e-12)
    assert advice.tried[1].standing == "within noise"


def test_the_table_has_a_row_for_each_strategy_and_rate(tmp_path: Path) -> None:
    found = sheet(curves(tmp_path))
    assert [row[:4] for row in found.rows] == [
        ("gradual", "0.1", "10", "3.00"),
        ("gradual", "0.3", "10", "2.00"),
        ("gradual", "0.5", "10", "3.00"),
        ("standard", "0.3", "10", "2.01"),
        ("standard", "0.5", "10", "2.02"),
        ("standard", "0.7", "10", "4.00"),
        ("none", "0", "10", "5.00"),
    ]
    assert [row[-1] for row in found.rows] == [
        "worse", "best", "worse", "within noise", "within noise", "worse", "worse",
    ]  # fmt: skip
    assert found.bold == {1}


def test_of_several_settings_at_a_rate_the_best_is_shown(tmp_path: Path) -> None:
    advice = advised(
        tmp_path,
        *(runs(error, settings={"optimizer.learning_rate": rate})
          for error, rate in ((3.0, 0.1), (2.0, 0.03), (4.0, 0.01))),
    )  # fmt: skip
    found = sheet(advice)
    assert [(row[3], row[-2], row[-1]) for row in found.rows] == [("2.00", "3", "optimizer.learning_rate=0.03")]
    assert "use strategy=standard at rate 0.5, optimizer.learning_rate=0.03: " in advice.sentences[0]


def test_test_figures_choose_nothing(tmp_path: Path) -> None:
    advice = advised(tmp_path, runs(2.0, test=9.0, rate=0.3), runs(3.0, test=1.0, rate=0.5))
    assert advice.best.group.rate == 0.3
    with pytest.raises(UserError, match=r"^--metric=test\.error: .*such as validation\.error$"):
        recommend(read([tmp_path]), "test.error")
    with pytest.raises(UserError, match=r"^--metric=validation\.eror: .*nearest: validation\.error$"):
        recommend(read([tmp_path]), "validation.eror")


@pytest.mark.parametrize(
    ("others", "best", "text"),
    [
        ((0.3,), 0.5, "0.5 is the highest rate that was tried of standard; try 0.7, 0.9"),
        ((0.4,), 0.5, "0.5 is the highest rate that was tried of standard; try 0.6, 0.7"),
        ((0.5,), 0.9, "0.9 is the highest rate that was tried of standard; try 0.93"),
        ((0.3, 0.5), 0.2, "0.2 is the lowest rate that was tried of standard; try 0.05, 0.1"),
        ((), 0.5, "0.5 is the only rate that was tried of standard; try 0.3, 0.7"),
        ((0.3, 0.7), 0.5, ""),
    ],
)
def test_the_edge_of_what_was_searched(tmp_path: Path, others: tuple[float, ...], best: float, text: str) -> None:
    groups = [runs(9.0, strategy="none", rate=0.0), *(runs(5.0, rate=rate) for rate in others), runs(2.0, rate=best)]
    assert warned(advised(tmp_path, *groups)) == text


def test_the_edge_of_another_setting(tmp_path: Path) -> None:
    groups = [runs(error, rate=rate, settings={"optimizer.learning_rate": step}) for error, rate, step in
              ((2.0, 0.5, 0.1), (3.0, 0.5, 0.01), (3.0, 0.3, 0.1), (3.0, 0.7, 0.1))]  # fmt: skip
    assert warned(advised(tmp_path, *groups)) == "0.1 is the highest optimizer.learning_rate that was tried; try 1"


def test_a_command_that_goes_on(tmp_path: Path) -> None:
    groups = [runs(2.0, n=4, rate=0.5), runs(4.0, n=4, rate=0.4)]
    found = records(tmp_path, *groups)
    typed = ["dataset=digits", "strategy=standard", "strategy.rate=0.5", "+seed=3", "output_root=my runs", "workers=2"]
    typed += ["extensions=[x]", "hydra.verbose=true", "model.widths=[64,64]"]
    for record in found:
        (record.path / ".hydra").mkdir()
        (record.path / ".hydra" / "overrides.yaml").write_text(json.dumps(typed))
    (advice,) = recommend(found)
    rate, seeds = (shlex.split(each.command) for each in advice.warnings)
    here = f"output_root={found[0].path.parent.parent}"  # where the runs lie now, not where they were trained
    kept = ["dropbench", "sweep", here, "dataset=digits", "strategy=standard", "model.widths=[64,64]"]
    assert rate == [*kept, "strategy.rate=0.6,0.7", "seed=range(0,4)"]
    kept.remove("strategy=standard")
    assert seeds == [*kept, "strategy=standard", "strategy.rate=0.5", "seed=range(0,10)"]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1, 2]", b"{a: b}", b"[" * 5000, b"- *x", b"x" * 100_000, b""])
def test_torn_overrides_cost_the_command_alone(tmp_path: Path, content: bytes) -> None:
    found = records(tmp_path, runs(2.0, rate=0.5))
    for record in found:
        (record.path / ".hydra").mkdir()
        (record.path / ".hydra" / "overrides.yaml").write_bytes(content)
    (advice,) = recommend(found)
    assert [each.command for each in advice.warnings] == [""]


def test_too_few_pairs_for_a_test(tmp_path: Path) -> None:
    advice = advised(
        tmp_path,
        runs(2.0, n=3, rate=0.3, spread=0.0),
        runs(2.1, n=3, rate=0.2),
        runs(2.9, n=3, rate=0.5, spread=0.1),
    )
    by = {each.group.rate: each for each in advice.tried}
    assert (by[0.2].standing, by[0.5].standing) == ("within noise", "likely worse")
    assert by[0.2].noise == pytest.approx(2 * stats.sem(NOISE[:3]))
    assert advice.sentences[1] == (
        "Within noise of it: standard at 0.2 (by two standard errors); likely worse: 1 setting (by two standard "
        "errors)."
    )
    assert warned(advice) == "3 seeds: a test of 2 other settings takes 7, a claim 10"


def test_what_a_correction_makes_unreachable_is_no_test(tmp_path: Path) -> None:
    # With 6 pairs p is at least 1/32, so of two settings none could be told from the best, however far it is.
    groups = [runs(error, n=6, rate=rate) for error, rate in ((2.0, 0.5), (9.0, 0.3), (8.0, 0.7))]
    advice = advised(tmp_path, *groups)
    assert [each.standing for each in advice.tried] == ["best", "likely worse", "likely worse"]
    assert [each.p_holm for each in advice.tried] == [None, None, None]
    assert "6 seeds: a test of 2 other settings takes 7, a claim 10" in warned(advice)


def test_one_seed_says_nothing_of_noise(tmp_path: Path) -> None:
    advice = advised(tmp_path, runs(2.0, n=1, rate=0.4), runs(3.0, n=1, rate=0.3), runs(3.0, n=1, rate=0.5))
    assert [each.standing for each in advice.tried] == ["best", "cannot tell", "cannot tell"]
    assert "validation error 2.30 % (1 seed), test error 2.00 %." in advice.sentences[0]
    assert advice.sentences[1] == "Not known: 2 settings."
    assert warned(advice).startswith("1 seed: a test of 2 other settings takes 7")


def test_a_single_setting(tmp_path: Path) -> None:
    advice = advised(tmp_path, runs(2.0, strategy="none", rate=0.0))
    assert advice.sentences[0].startswith("On digits with mlp use strategy=none: validation error 2.00 %")
    assert advice.sentences[1] == "Nothing else was tried."
    assert warned(advice) == ""


def test_many_settings_make_the_best_look_too_good(tmp_path: Path) -> None:
    groups = [runs(2.0 + abs(rate - 0.3), rate=rate) for rate in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9)]
    assert warned(advised(tmp_path / "a", *groups)).startswith("it is the best of 10 settings by one validation part")
    assert warned(advised(tmp_path / "b", *groups[:9])) == ""


def test_failed_runs_are_counted(tmp_path: Path) -> None:
    failed = [each | {"status": "failed"} for each in runs(2.0, rate=0.5)]
    lost = [each | {"status": "failed"} for each in runs(2.0, rate=0.8)]
    advice = advised(tmp_path, [*runs(2.0, rate=0.5)[2:], *failed[:2]], runs(9.0, rate=0.3), runs(9.0, rate=0.7), lost)
    assert "2 of 10 runs of the best setting failed" in warned(advice)
    assert "settings have different numbers of seeds" in warned(advice)
    assert {each.group.rate: each.told for each in advice.tried} == {
        0.5: "best, 2 of 10 failed", 0.3: "worse", 0.7: "worse", 0.8: "failed",
    }  # fmt: skip
    assert advice.sentences[1] == "Worse: 2 settings (p at most 0.016); not known: 1 setting."  # 2 x 2 / 256


def test_a_setting_that_fails_does_not_win(tmp_path: Path) -> None:
    failed = [each | {"status": "failed"} for each in runs(1.0, rate=0.5)]
    advice = advised(tmp_path, [*runs(1.0, n=1, rate=0.5), *failed[1:]], runs(2.0, rate=0.3), runs(5.0, rate=0.1))
    assert advice.best.group.rate == 0.3


def test_runs_of_another_version_are_not_paired(tmp_path: Path) -> None:
    found = [
        replace(record, stamp={"code": "0.2.0" if record.rate == 0.7 else "0.3.0"})
        for record in records(tmp_path, runs(2.0, rate=0.5), runs(9.0, rate=0.3), runs(9.0, rate=0.7))
    ]
    (advice,) = recommend(found)
    assert {each.group.rate: each.standing for each in advice.tried} == {0.5: "best", 0.3: "worse", 0.7: "not paired"}
    assert advice.notes == (
        "standard 0.7: 10 pairs refused, different in code (0.2.0 against 0.3.0) from standard 0.5; "
        "--allow=ASPECT takes them",
    )
    (advice,) = recommend(found, allow={"code"})
    assert advice.tried[2].standing == "worse"


def test_regression_is_judged_by_rmse(tmp_path: Path) -> None:
    made = [
        each | {"task": "regression", "validation": {"rmse": each["validation"]["error"] / 100}, "test": {"rmse": 0.02}}
        for error, rate in ((2.0, 0.3), (4.0, 0.1), (4.0, 0.5))
        for each in runs(error, rate=rate, dataset="adding", model="lstm")
    ]  # the deviation is 0.1944, so 2.262 * 0.1944 / sqrt(10) = 0.139
    advice = advised(tmp_path, made)
    assert advice.sentences[0] == (
        "On adding with lstm use strategy=standard at rate 0.3: validation rmse 0.0200 (95 % CI [0.0186, 0.0214], "
        "10 seeds), test rmse 0.0200."
    )


def test_tasks_are_advised_each_by_itself(tmp_path: Path) -> None:
    groups = [runs(2.0), runs(3.0, dataset="mnist"), runs(3.0, dataset="mnist", settings={"dataset.train_size": 100})]
    found = recommend(records(tmp_path, *groups))
    assert [each.sentences[0].partition(" use ")[0] for each in found] == [
        "On digits with mlp",
        "On mnist (dataset.train_size=100) with mlp",
        "On mnist (dataset.train_size=absent) with mlp",
    ]


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    advice = curves(tmp_path)
    show_recommend([advice], read([tmp_path]), "json")
    data = json.loads(capsys.readouterr().out)
    (task,) = data["tasks"]
    assert (data["metric"], data["done"], task["task"], task["advice"]) == (
        "validation.error", 70, "digits/mlp", list(advice.sentences),
    )  # fmt: skip
    assert (task["best"]["strategy"], task["best"]["rate"], task["best"]["test"]) == ("gradual", 0.3, 2.5)
    assert [row["standing"] for row in task["rows"]].count("worse") == 4
    assert task["rows"][1]["delta"] == pytest.approx(0.01)


@pytest.mark.parametrize("form", ["table", "md"])
def test_text_cannot_do_harm(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    advice = advised(tmp_path, runs(2.0, n=2, strategy="[red]x\x1b[31m\n|"), runs(3.0, n=2))
    show_recommend([advice], read([tmp_path]), form)
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "[red]x" in text
    assert "4 runs: 4 done" in text


def test_no_run_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "main" / "run", None)
    found = read([tmp_path])
    assert recommend(found) == []
    for form in ("table", "md", "json"):
        show_recommend([], found, form)
    assert capsys.readouterr().out.startswith("1 run: 0 done, 1 interrupted\n")
