"""What results cost: means, the way to a target, comparisons at equal compute; numbers by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from recorded import result, write

from dropbench.compare.baseline import conditions
from dropbench.compare.cost import cost, cost_sheet, equal_compute
from dropbench.compare.rows import Options, compare
from dropbench.errors import UserError
from dropbench.runs.files import line
from dropbench.runs.find import read

BASELINES = (conditions("strategy=none"),)


def run(place: Path, content: dict[str, Any], errors: list[float], passes: int) -> None:
    """A run that was evaluated after each epoch; `passes`: forward passes an epoch."""
    epochs = len(errors)
    content = content | {"epochs": epochs, "cost": {"samples": 100 * epochs, "forward_passes": passes * epochs}}
    folder = write(place / f"{content['choices']['strategy']}-{content['seed']}", content)
    rows = [
        {
            "seq": i,
            "epoch": i + 1,
            "step": 10 * (i + 1),
            "samples": 100 * (i + 1),
            "forward_passes": passes * (i + 1),
            "validation": {"error": error, "loss": error / 100},
            "seconds": 0.5 * (i + 1),
        }
        for i, error in enumerate(errors)
    ]
    (folder / "metrics.jsonl").write_bytes(b"".join(map(line, rows)))


def study(place: Path) -> Path:
    """Two seeds of a plain strategy, and of one that passes twice and has half the epochs' worth at equal compute."""
    base = place / "main"
    run(base, result(0, 5.0, strategy="none", rate=0.0), [9.0, 7.0, 6.0, 5.0], 100)
    run(base, result(1, 6.0, strategy="none", rate=0.0), [9.5, 8.0, 7.0, 8.0], 100)
    run(base, result(0, 3.0, strategy="rdrop"), [8.0, 6.0, 4.0, 3.0], 200)
    run(base, result(1, 3.5, strategy="rdrop"), [8.5, 6.5, 4.5, 3.5], 200)
    return place


def test_means_of_what_was_recorded(tmp_path: Path) -> None:
    [found] = compare(read([study(tmp_path)]), Options(baselines=BASELINES))
    spent = {row.names[2]: cost(row.group) for row in found.rows}
    assert spent["rdrop"].samples == 400
    assert spent["rdrop"].forward_passes == 800
    assert spent["none"].forward_passes == 400
    assert spent["none"].seconds == 4.5  # 4 and 5
    assert spent["none"].reached is None


def test_the_way_to_a_target(tmp_path: Path) -> None:
    [found] = compare(read([study(tmp_path)]), Options(baselines=BASELINES))
    spent = {row.names[2]: cost(row.group, 6.0) for row in found.rows}
    # none: seed 0 in epoch 3, seed 1 never: the median lies with the one that never came
    assert (spent["none"].reached, spent["none"].epochs_to_target, spent["none"].seconds_to_target) == (1, None, None)
    # rdrop: seed 0 in epoch 2 (1.0 s), seed 1 in epoch 3 (1.5 s)
    assert (spent["rdrop"].reached, spent["rdrop"].epochs_to_target) == (2, 2.5)
    assert spent["rdrop"].seconds_to_target == 1.25
    sheet = cost_sheet(found, 6.0)
    cells = {row[2]: row for row in sheet.rows}
    assert cells["none"][-3:] == ("1/2", "-", "-")
    assert cells["rdrop"][-3:] == ("2/2", "2.5", "1.2")
    assert cells["rdrop"][7:9] == ("400", "800")


def test_equal_compute_cuts_at_the_budget_of_the_cheapest(tmp_path: Path) -> None:
    records = read([study(tmp_path)])
    equal = equal_compute(records, None)
    assert equal.metric == "validation.error"
    [found] = compare(records, Options(metric=equal.metric, baselines=BASELINES, value=equal, notes=equal.notes))
    means = {row.names[2]: row.group.values for row in found.rows}
    assert means["none"] == (5.0, 7.0)  # the best of all four epochs
    assert means["rdrop"] == (6.0, 6.5)  # the best of two: 400 passes
    row = next(row for row in found.rows if row.names[2] == "rdrop")
    assert row.delta == pytest.approx(0.25)
    assert any("after 400 forward-backward passes; 2 runs cut there" in note for note in found.notes)


def test_equal_compute_needs_validation_figures_and_recorded_passes(tmp_path: Path) -> None:
    records = read([study(tmp_path)])
    with pytest.raises(UserError, match=r"--metric=test\.error: .*allowed: validation\.\*, such as validation\.error"):
        equal_compute(records, "test.error")
    write(tmp_path / "main" / "old", result(2, 3.0))
    with pytest.raises(UserError, match="1 run did not record forward passes"):
        equal_compute(read([tmp_path]), None)


def test_a_run_that_stopped_early_does_not_set_the_budget_of_the_others(tmp_path: Path) -> None:
    records = read([study(tmp_path)])
    run(tmp_path / "main", result(2, 8.0, strategy="none", rate=0.0), [8.0], 100)
    equal = equal_compute(read([tmp_path]), None)
    assert len(records) == 4
    assert equal.notes[0].startswith("equal compute: digits/mlp: every run as it stood after 400 forward-backward")


def test_each_form_of_the_data_has_its_own_budget(tmp_path: Path) -> None:
    study(tmp_path)
    for strategy, passes in (("none", 10), ("rdrop", 20)):
        few = result(0, 9.0, strategy=strategy, group=strategy, settings={"dataset.train_size": 100})
        run(tmp_path / "few", few, [9.5, 9.0], passes)
    equal = equal_compute(read([tmp_path]), None)
    assert [note.partition(" forward-backward")[0].rpartition(" ")[2] for note in equal.notes[:2]] == ["20", "400"]
    assert "those of the whole runs" in equal.notes[-1]


def test_a_target_that_was_never_measured_is_not_missed(tmp_path: Path) -> None:
    place = study(tmp_path)
    for path in place.glob("main/*/result.json"):
        path.write_text(path.read_text().replace('"test": {', '"test_mc": {"error": 5.0}, "test": {'))
    [found] = compare(read([place]), Options("test_mc.error", BASELINES))
    assert cost(found.rows[0].group, 6.0).reached is None
    assert cost_sheet(found, 6.0).rows[0][-3:] == ("-", "-", "-")
