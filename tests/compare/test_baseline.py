"""Which group is the baseline of which."""

from __future__ import annotations

from typing import Any

import pytest
from recorded import result, write

from dropbench.compare.baseline import Baseline, baselines, check, conditions
from dropbench.compare.groups import Group, gather
from dropbench.errors import UserError
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord

NONE, STANDARD = conditions("strategy=none"), conditions("strategy=standard")


@pytest.fixture
def groups(tmp_path: Any) -> Any:
    def make(*results: dict[str, Any]) -> list[Group]:
        for i, content in enumerate(results):
            write(tmp_path / "main" / f"run{i:02}", content)
        return gather(read([tmp_path]), "test.error")

    return make


def of(groups: list[Group], *choices: Any) -> dict[str, tuple[str | None, bool, tuple[str, ...]]]:
    found, _ = baselines(groups, choices or (NONE, STANDARD))
    return {
        group.label: (each.group.label if each.group else None, each.own, each.differs)
        for group, each in zip(groups, found, strict=True)
    }


def test_none_is_the_baseline_of_its_data_and_model(groups: Any) -> None:
    found = groups(
        result(strategy="none", rate=0.0),
        result(strategy="gradual", rate=0.5),
        result(strategy="none", rate=0.0, model="cnn"),
        result(strategy="gradual", rate=0.5, model="cnn"),
    )
    each, used = baselines(found, (NONE, STANDARD))
    assert used == [NONE]
    for group, baseline in zip(found, each, strict=True):
        if group.names[2] == "none":
            assert baseline == Baseline(None, own=True)
        else:
            assert baseline.group is not None
            assert baseline.group.names[2] == "none"
            assert baseline.group.task == group.task
            assert baseline.differs == ()


def test_where_none_is_missing_the_plain_one_is_taken_task_by_task(groups: Any) -> None:
    found = groups(
        result(strategy="standard"),
        result(strategy="gradual"),
        result(strategy="none", rate=0.0, model="cnn"),
        result(strategy="standard", model="cnn"),
        result(strategy="gradual", dataset="mnist"),
    )
    each, used = baselines(found, (NONE, STANDARD))
    assert set(used) == {NONE, STANDARD}
    told = {
        (*group.task, group.names[2]): (b.group.names[2] if b.group else None, b.own)
        for group, b in zip(found, each, strict=True)
    }
    assert told == {
        ("digits", "mlp", "standard"): (None, True),
        ("digits", "mlp", "gradual"): ("standard", False),
        ("digits", "cnn", "none"): (None, True),
        ("digits", "cnn", "standard"): ("none", False),
        ("mnist", "mlp", "gradual"): (None, False),
    }


def test_each_learning_rate_has_its_own(groups: Any) -> None:
    rows = [
        result(strategy=strategy, rate=rate, settings={"optimizer.learning_rate": lr}, group=f"{strategy[0]}{lr}")
        for strategy, rate in (("none", 0.0), ("gradual", 0.5))
        for lr in (0.1, 0.01)
    ]
    found = groups(*rows)
    each, _ = baselines(found, (NONE,))
    for group, baseline in zip(found, each, strict=True):
        if group.names[2] == "gradual":
            assert baseline.group is not None
            assert baseline.group.settings["optimizer.learning_rate"] == group.settings["optimizer.learning_rate"]
            assert baseline.differs == ()


def test_the_nearest_where_none_is_exactly_so(groups: Any) -> None:
    found = of(
        groups(
            result(strategy="none", rate=0.0, settings={"epochs": 40, "batch_size": 64}, group="n1"),
            result(strategy="none", rate=0.0, settings={"epochs": 10, "batch_size": 32}, group="n2"),
            result(strategy="gradual", settings={"epochs": 20, "batch_size": 64}),
        )
    )
    assert found["gradual 0.5"] == ("none epochs=40 batch_size=64", False, ("epochs",))


def test_of_several_rates_the_same_one_else_the_best_on_validation(groups: Any) -> None:
    found = of(
        groups(
            result(strategy="standard", rate=0.2, error=3.0),
            result(strategy="standard", rate=0.5, error=4.0),
            result(strategy="gradual", rate=0.5),
            result(strategy="gradual", rate=0.3),
        ),
        STANDARD,
    )
    assert found["gradual 0.5"][0] == "standard 0.5"
    assert found["gradual 0.3"][0] == "standard 0.2"


def test_of_several_that_are_as_good_the_first_by_its_hash(groups: Any) -> None:
    """Those of the same rate come first however good they are; then the figure; then the hash of the group."""
    found = groups(
        result(strategy="standard", rate=0.5, error=4.0, settings={"strategy.cap": 0.9}, group="b"),
        result(strategy="standard", rate=0.5, error=4.0, settings={"strategy.cap": 0.8}, group="a"),
        result(strategy="standard", rate=0.2, error=3.0, settings={"strategy.cap": 0.8}, group="d"),
        result(strategy="standard", rate=0.1, error=3.0, settings={"strategy.cap": 0.8}, group="c"),
        result(strategy="gradual", rate=0.5),
        result(strategy="gradual", rate=0.3),
    )
    each, _ = baselines(found, (STANDARD,))
    told = {group.rate: (b.group.first.group, b.several) for group, b in zip(found, each, strict=True) if b.group}
    assert told == {0.5: ("a", True), 0.3: ("c", True)}


def test_another_key_than_the_strategy(groups: Any) -> None:
    found = groups(
        result(optimizer="adam", strategy="none", rate=0.0),
        result(optimizer="sgd_dropout", strategy="none", rate=0.0),
        result(optimizer="adam"),
        result(optimizer="sgd_dropout"),
    )
    each, _ = baselines(found, (conditions("optimizer=adam"),))
    for group, baseline in zip(found, each, strict=True):
        if group.names[3] == "adam":
            assert baseline.own
        else:
            assert baseline.group is not None
            assert baseline.group.names == (*group.names[:3], "adam")


def test_another_model_as_baseline(groups: Any) -> None:
    found = groups(result(model="mlp"), result(model="cnn"), result(model="cnn", dataset="mnist"))
    each, _ = baselines(found, (conditions("model=mlp"),))
    told = {
        group.task: baseline.group.task if baseline.group else None for group, baseline in zip(found, each, strict=True)
    }
    assert told == {("digits", "mlp"): None, ("digits", "cnn"): ("digits", "mlp"), ("mnist", "cnn"): None}


def test_several_conditions_and_lists(groups: Any) -> None:
    assert [str(each) for each in conditions("strategy=standard,rate=0.5")] == ["strategy=standard", "rate=0.5"]
    assert [str(each) for each in conditions("model.widths=[64,64],rate=.5")] == ["model.widths=[64,64]", "rate=.5"]
    found = groups(result(rate=0.5), result(rate=0.2), result(strategy="gradual"))
    each, _ = baselines(found, (conditions("strategy=standard,rate=.50"),))
    assert [group.label for group, b in zip(found, each, strict=True) if b.own] == ["standard 0.5"]


@pytest.mark.parametrize("text", ["", "standard", "strategy=", "=none", "strategy=none,"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--baseline=.*: allowed: key=value"):
        conditions(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("strategy=standrad", r"=standrad: no such runs; strategy is one of: gradual, standard; nearest: standard"),
        ("stratgy=none", r"--baseline=stratgy=none: no run has this setting; nearest: strategy"),
        ("strategy=standard,rate=0.2", r"--baseline=strategy=standard,rate=0.2: no runs meet all of these"),
    ],
)  # fmt: skip
def test_a_baseline_that_is_not_there_is_refused(groups: Any, text: str, told: str) -> None:
    found = groups(result(rate=0.5), result(strategy="gradual", rate=0.2))
    with pytest.raises(UserError, match=told):
        check(found, conditions(text))


def test_records_without_settings_are_told_by_their_names(groups: Any) -> None:
    found = groups(
        *(
            result(strategy=strategy, rate=rate) | {"settings": {}, "group": "same"}
            for strategy, rate in (("none", 0.0), ("standard", 0.5), ("gradual", 0.5))
        )
    )
    assert of(found)["gradual 0.5"][0] == "none"
    assert of(found, conditions("strategy=standard"))["gradual 0.5"][0] == "standard 0.5"
    assert isinstance(found[0].first, RunRecord)
