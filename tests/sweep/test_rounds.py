"""Races over seeds: which settings race with one another, and who is out, by results written by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result

from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.runs.files import line
from dropbench.runs.records import read_run
from dropbench.sweep.race import level, look_points
from dropbench.sweep.rounds import Race, label, look, races, seeded

#: A race of two that is decided: the one is 1 % of error worse, give or take, at each of six seeds.
BETTER = (2.0, 2.5, 1.5, 3.0, 2.2, 1.8)
WORSE = (3.1, 3.4, 2.6, 4.1, 3.1, 2.9)


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer()


@pytest.fixture
def made(composer: Composer, tmp_path: Path) -> Callable[..., Run]:
    def run_of(*words: str) -> Run:
        composed = composer.compose(words)
        run = Run(check(composed.data), composed.choices, words)
        return replace(run, config=replace(run.config, output_root=str(tmp_path)))

    return run_of


def at(run: Run, seed: int) -> Run:
    return replace(run, config=replace(run.config, seed=seed))


def put(run: Run, error: float | None, **changes: Any) -> Run:
    """Writes the result of a run, or None for one that failed."""
    run.path.mkdir(parents=True)
    content = result(run.config.seed, 50.0, validation={"error": error, "loss": 1.0}, **changes)
    if error is None:
        content = {"status": "failed", "error": "the loss is not finite"}
    (run.path / "result.json").write_text(json.dumps(content))
    return run


def recorded(setting: Run, errors: Sequence[float | None]) -> list[Run]:
    """The runs of a setting with seeds 0, 1, ..."""
    return [put(at(setting, seed), error) for seed, error in enumerate(errors)]


# ---- who races with whom


def test_a_race_is_that_of_one_data_set_and_model(made):
    digits = [made(f"strategy.rate={rate}") for rate in (0.1, 0.2, 0.3)]
    lstm = [made("model=lstm", f"strategy={name}") for name in ("none", "standard")]
    adding = made("dataset=adding", "model=lstm")
    found = races([digits[0], lstm[0], digits[1], adding, lstm[1], digits[2]])
    assert [(race.name, race.settings, race.contestants) for race in found] == [
        ("digits mlp", 3, tuple(digits)),
        ("digits lstm", 2, tuple(lstm)),
        ("adding lstm", 1, (adding,)),
    ]
    assert [race.open for race in found] == [True, True, False]
    assert [race.drops for race in found] == [()] * 3


def test_a_setting_that_is_given_twice_or_with_several_seeds_is_one(made):
    one, other = made(), made("strategy.rate=0.3")
    (race,) = races([one, at(one, 1), other, one, at(other, 7)])
    assert (race.contestants, race.settings) == ((one, other), 2)


# ---- its runs


@pytest.mark.parametrize(
    "words",
    [(), ("strategy=gradual", "strategy.rate=0.3"), ("seed=5", "model=lstm"), ("seed=1", "study=race", "epochs=3")],
)
def test_a_seed_of_a_setting_is_the_run_that_one_would_type(composer, made, words):
    setting = made(*words)
    for seed in (0, 1, 23):
        run, composed = seeded(composer, setting, seed)
        typed = made(*(word for word in words if not word.startswith("seed=")), f"seed={seed}")
        assert (run.id, run.group, run.path) == (typed.id, setting.group, typed.path)
        assert (run.config, run.choices) == (typed.config, typed.choices)
        assert run.overrides == (*words, f"seed={seed}")
        assert check(composed.data).seed == seed


def test_a_seed_of_a_setting_has_its_place(composer, made):
    """That of a manifest is not in its overrides."""
    setting = made("output_root=elsewhere")
    setting = replace(setting, config=replace(setting.config, data_root="/data", study="renamed"))
    run, _ = seeded(composer, setting, 3)
    assert run.path.parent == setting.path.parent
    assert run.config.data_root == "/data"


def test_a_setting_goes_by_the_id_of_its_runs_without_the_seed(composer, made):
    setting = made("strategy=gradual/late", "strategy.rate=0.3", "seed=4")
    assert label(setting) == f"digits-mlp-gradual.late-r0.3 ({setting.group})"
    assert label(seeded(composer, setting, 17)[0]) == label(setting)


# ---- who is out


@pytest.fixture
def two(made) -> tuple[Race, Run, Run]:
    better, worse = made("strategy.rate=0.1"), made("strategy.rate=0.2")
    (race,) = races([better, worse])
    return race, better, worse


def test_what_is_clearly_worse_is_out(two):
    race, better, worse = two
    after, verdict = look(race, [*recorded(better, BETTER), *recorded(worse, WORSE)])
    assert after.contestants == (better,)
    assert not after.open
    assert after.settings == 2  # the correction is for as many as there were
    (said,) = after.drops
    assert said.startswith(
        f"{label(worse)} is out after 6 seeds: its validation figure is 1.03 worse than that of {label(better)}, p = "
    )
    assert verdict.leader == better.group
    assert verdict.drops[0].difference == pytest.approx(sum(WORSE) / 6 - sum(BETTER) / 6)


def test_it_takes_the_more_the_more_settings_there_were_at_the_start(two):
    """However few are left."""
    race, better, worse = two
    runs = [*recorded(better, BETTER), *recorded(worse, WORSE)]
    levels = [look(replace(race, settings=settings), runs)[1].level for settings in (2, 12)]
    assert levels == [level(settings, look_points()) for settings in (2, 12)]
    assert levels[1] < levels[0] / 2


def test_the_order_of_settings_and_runs_does_not_matter(two):
    race, better, worse = two
    runs = [*recorded(better, BETTER), *recorded(worse, WORSE)]
    turned = replace(race, contestants=race.contestants[::-1])
    first, second = look(race, runs)[0], look(turned, runs[::-1])[0]
    assert (first.contestants, first.drops) == (second.contestants, second.drops)


def test_what_is_not_clearly_worse_stays(two):
    race, better, worse = two
    runs = [*recorded(better, BETTER), *recorded(worse, [error + 0.5 * (-1) ** n for n, error in enumerate(BETTER)])]
    after, _ = look(race, runs)
    assert (after.contestants, after.drops) == ((better, worse), ())


def test_before_six_pairs_nobody_is_out(two):
    race, better, worse = two
    after, _ = look(race, [*recorded(better, BETTER), *recorded(worse, WORSE[:5])])
    assert after == race


def test_what_was_said_before_is_kept(two):
    race, better, worse = two
    runs = [*recorded(better, BETTER), *recorded(worse, WORSE)]
    after, _ = look(replace(race, drops=("another is out",)), runs)
    assert after.drops[0] == "another is out"
    assert len(after.drops) == 2
    again, _ = look(after, runs)
    assert again == after


def test_runs_of_settings_that_are_out_do_not_count(two, made):
    race, better, worse = two
    best = made("strategy.rate=0.3")  # dropped at an earlier look, or of another race
    runs = [*recorded(better, BETTER), *recorded(worse, BETTER), *recorded(best, [0.0] * 6)]
    assert look(race, runs)[0] == race


def test_failed_runs_count_as_the_worst(two):
    """Five of six failed: each counts as the worst figure of any run, 8."""
    race, better, worse = two
    after, verdict = look(race, [*recorded(better, BETTER), *recorded(worse, [8.0, None, None, None, None, None])])
    assert after.contestants == (better,)
    assert verdict.drops[0].difference == pytest.approx(8.0 - sum(BETTER) / 6)


def test_a_failed_run_is_not_the_same_as_one_that_is_missing(two):
    race, better, worse = two
    good = recorded(better, BETTER)
    slightly_better = [error - 0.01 for error in BETTER]
    begun = at(worse, 5)
    begun.path.mkdir(parents=True)
    (begun.path / "config.yaml").write_text("seed: 5\n")
    (begun.path / "metrics.jsonl").write_bytes(line({"seq": 0, "epoch": 1, "validation": {"error": 0.0}}))
    runs = [*good, *recorded(worse, slightly_better[:5]), begun]
    assert read_run(begun.path).state == "interrupted"
    assert look(race, runs)[1].pairs == 5
    put_failed = begun.path / "result.json"
    put_failed.write_text('{"status": "failed", "error": "the loss is not finite"}')
    verdict = look(race, runs)[1]
    assert (verdict.pairs, verdict.leader) == (6, better.group)


def test_the_test_set_decides_nothing(two):
    """The figures of the test set say the opposite, then nothing."""
    race, better, worse = two
    good, bad = recorded(better, BETTER), recorded(worse, WORSE)
    expected = look(race, [*good, *bad])
    for tests in (({"error": 90.0, "loss": 9.0}, {"error": 0.0, "loss": 0.0}), ({}, {})):
        for runs, test in zip((good, bad), tests, strict=True):
            for run in runs:
                path = run.path / "result.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "test": test}))
                assert read_run(run.path).state == "done"
        assert look(race, [*good, *bad]) == expected


def test_regression_is_judged_by_rmse(made):
    better, worse = (made("dataset=adding", "model=lstm", f"strategy.rate={rate}") for rate in (0.1, 0.2))
    (race,) = races([better, worse])
    runs = []
    for setting, figures in ((better, BETTER), (worse, WORSE)):
        for seed, rmse in enumerate(figures):
            run = at(setting, seed)
            run.path.mkdir(parents=True)
            validation = {"loss": 10 - rmse, "rmse": rmse}
            content = result(seed, 0.0, task="regression", validation=validation, test={"rmse": 0.0})
            (run.path / "result.json").write_text(json.dumps(content))
            runs.append(run)
    assert look(race, runs)[0].contestants == (better,)
