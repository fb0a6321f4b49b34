"""Pictures: what is in them by hand, names that would break them, and the same bytes for the same records."""

from __future__ import annotations

import builtins
import io
import json
import math
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from recorded import result, write
from scipy import stats

from dropbench.compare import panels
from dropbench.compare.groups import Group, gather
from dropbench.compare.panels import Line, Panel, profile, window
from dropbench.errors import UserError
from dropbench.runs.files import check_suffix, line
from dropbench.runs.find import read

plots = pytest.importorskip("dropbench.compare.plots")
pytest.importorskip("matplotlib", reason="pictures need matplotlib")

EVIL = "$x^2_1$ </text><script>alert(1)</script> & _a_ \x1b[31m ]]> \U0001f600 \"q\" 'p'"


def log(folder: Path, rates: dict[str, float], shift: float = 0.0, epochs: int = 6) -> None:
    rows = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train": {"loss": 1 / epoch, "error": 10 / epoch},
            "validation": {"loss": 1 / epoch + 0.1 * epoch + shift, "error": 12 / epoch + shift},
            "sites": {
                site: {"rate": rate * epoch / epochs, "dropped": rate * epoch / epochs + 0.01}
                for site, rate in rates.items()
            },
        }
        for epoch in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_bytes(b"".join(map(line, rows)))


def make(root: Path, settings: list[tuple[str, float]], seeds: int = 3, **changes: Any) -> list[Group]:
    for place, (strategy, rate) in enumerate(settings):
        for seed in range(seeds):
            error = 2.0 + place + 0.5 * seed
            name = f"run{len(list((root / 'main').glob('*'))) if (root / 'main').exists() else 0:04}"
            folder = write(root / "main" / name, result(seed, error, strategy=strategy, rate=rate, **changes))
            log(folder, {"input": rate / 2, "hidden1": rate} if rate else {}, shift=seed / 10)
    return gather(read([root]), "test.error")


SETTINGS = [("standard", 0.5), ("standard", 0.2), ("gradual", 0.5), ("none", 0.0)]


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    return make(tmp_path, SETTINGS)


def interval(values: list[float]) -> tuple[float, float]:
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return float(low), float(high)


# ---- what is in them


def test_learning_curves_by_hand(groups: list[Group]) -> None:
    picture = panels.learning(groups)
    assert [(panel.title, panel.y) for panel in picture.panels] == [
        ("digits, mlp", "train error (%)"),
        ("digits, mlp", "validation error (%)"),
    ]
    validation = picture.panels[1].lines[0]
    assert validation.label == "standard 0.5"
    assert validation.x.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(validation.y, [12 / epoch + 0.1 for epoch in range(1, 7)])
    low, high = interval([6.0, 6.1, 6.2])
    assert validation.low[1] == pytest.approx(low)
    assert validation.high[1] == pytest.approx(high)
    assert picture.notes[0].startswith("line: mean over 3 seeds; band: 95 % interval")


def test_learning_curves_of_one_figure(groups: list[Group]) -> None:
    (panel,) = panels.learning(groups, "validation.loss").panels
    assert panel.y == "validation loss"
    with pytest.raises(UserError, match=r"--metric=test\.error: .*known: train\.error.*; nearest: train\.error$"):
        panels.learning(groups, "test.error")


def test_generalisation_is_validation_less_train(groups: list[Group]) -> None:
    picture = panels.generalisation(groups)
    np.testing.assert_allclose(picture.panels[0].lines[0].y, [0.1 * epoch + 0.1 for epoch in range(1, 7)])
    assert picture.zero


def test_error_over_rates_by_hand(groups: list[Group]) -> None:
    validation, test = panels.over_rates(groups).panels
    assert (validation.y, test.y) == ("validation error (%)", "test error (%)")
    lines = {each.label: each for each in test.lines}
    assert set(lines) == {"standard", "gradual", "none"}
    assert lines["standard"].x.tolist() == [0.2, 0.5]
    assert lines["standard"].y.tolist() == [3.5, 2.5]
    assert (lines["standard"].low[1], lines["standard"].high[1]) == pytest.approx(interval([2.0, 2.5, 3.0]))
    assert [each.label for each in test.lines if each.level] == ["none"]
    assert {each.label: each.y.tolist() for each in validation.lines}["none"] == [6.0]  # test error and a half


def test_lines_over_rates_keep_other_settings_apart(tmp_path: Path) -> None:
    for number, momentum in enumerate((0.5, 0.9)):
        for rate in (0.2, 0.5):
            settings = {"optimizer.momentum": momentum}
            content = result(0, rate + number, rate=rate, settings=settings, group=f"{number}{rate}")
            write(tmp_path / "main" / f"r{number}{rate}", content)
    lines = panels.over_rates(gather(read([tmp_path]), "test.error")).panels[1].lines
    assert {each.label: each.y.tolist() for each in lines} == {
        "standard optimizer.momentum=0.5": [0.2, 0.5],
        "standard optimizer.momentum=0.9": [1.2, 1.5],
    }


def test_schedules_are_asked_and_realised(groups: list[Group]) -> None:
    picture = panels.schedules(groups)
    assert [panel.title for panel in picture.panels] == ["standard 0.5", "standard 0.2", "gradual 0.5"]
    entry, hidden = picture.panels[0].lines
    assert (entry.label, hidden.label) == ("input", "hidden1")
    np.testing.assert_allclose(hidden.y, [0.5 * epoch / 6 for epoch in range(1, 7)])
    assert hidden.marks is not None
    np.testing.assert_allclose(hidden.marks - hidden.y, 0.01)
    assert "1 setting without dropout or without a record of it, not shown" in picture.notes


def calibrate(root: Path, number: int, count: list[int], confidence: list[Any], accuracy: list[Any]) -> None:
    path = sorted(root.glob("main/*/result.json"))[number]
    content = json.loads(path.read_text())
    content["calibration"] = {"count": count, "confidence": confidence, "accuracy": accuracy}
    path.write_text(json.dumps(content))


def test_calibration_is_pooled_over_seeds(tmp_path: Path) -> None:
    make(tmp_path, [("standard", 0.5)])
    calibrate(tmp_path, 0, [30, 5, 0], [0.2, 0.5, None], [0.1, 0.4, None])
    calibrate(tmp_path, 1, [10, 4, 100], [0.4, 0.5, 0.9], [0.5, 0.4, 0.8])
    picture = panels.calibrations(gather(read([tmp_path]), "test.error"))
    (found,) = picture.panels[0].lines
    # (30 * 0.2 + 10 * 0.4) / 40, and the bin with 9 predictions is left out
    np.testing.assert_allclose(found.x, [0.25, 0.9])
    np.testing.assert_allclose(found.y, [0.2, 0.8])
    assert found.weights is not None
    np.testing.assert_allclose(found.weights, [40 / 149, 100 / 149])
    assert "1 run recorded no calibration, such as run0002" in picture.notes
    assert picture.notes[0].startswith("pooled over 2 seeds")


@pytest.mark.parametrize(
    "found",
    [
        1,
        [],
        {},
        {"count": [1], "confidence": [2.0], "accuracy": [0.5]},
        {"count": [1], "confidence": [math.nan], "accuracy": [0.5]},
        {"count": [-1], "confidence": [0.5], "accuracy": [0.5]},
        {"count": [1, 2], "confidence": [0.5], "accuracy": [0.5]},
        {"count": [], "confidence": [], "accuracy": []},
        {"count": ["x"], "confidence": [0.5], "accuracy": [0.5]},
        {"count": [10**400], "confidence": [0.5], "accuracy": [0.5]},
        {"count": [[1]], "confidence": [[0.5]], "accuracy": [[0.5]]},
    ],
)
def test_a_calibration_that_is_none_is_passed_over(tmp_path: Path, found: object) -> None:
    write(tmp_path / "main" / "run", result(0, 2.0) | {"calibration": found})
    assert panels.read_calibration(tmp_path / "main" / "run") is None
    with pytest.raises(UserError, match=r"nothing to show: 1 run recorded no calibration, such as run$"):
        plots.calibration(gather(read([tmp_path]), "test.error"))


def test_a_confidence_that_was_rounded_up_is_one(tmp_path: Path) -> None:
    calibration = {"count": [3, 0], "confidence": [1.0000001, None], "accuracy": [1, None]}
    write(tmp_path / "run", result(0, 2.0) | {"calibration": calibration})
    found = panels.read_calibration(tmp_path / "run")
    assert found is not None
    assert found.tolist() == [[3, 0], [1, 0], [1, 0]]


def test_runs_without_a_record_are_counted(groups: list[Group]) -> None:
    (groups[0].runs[0].path / "metrics.jsonl").unlink()
    log(groups[0].runs[1].path, {}, epochs=4)
    picture = panels.learning(groups)
    assert picture.panels[0].lines[0].x.tolist() == [1, 2, 3, 4]
    assert "1 run without such a record, left out" in picture.notes
    assert "some runs ended early: drawn as far as all runs of a setting go" in picture.notes
    assert picture.notes[0].startswith("line: mean over 2 to 3 seeds")


def test_of_many_settings_the_best_of_each_strategy_go_first(tmp_path: Path) -> None:
    rates = [round(0.1 * number, 1) for number in range(1, 10)]
    settings = [("standard", rate) for rate in rates] + [("gradual", rate) for rate in rates] + [("none", 0.0)]
    picture = panels.learning(make(tmp_path, settings, seeds=1))
    labels = [each.label for each in picture.panels[0].lines]
    assert labels == [
        "standard 0.1",
        "standard 0.2",
        "standard 0.3",
        "standard 0.4",
        "standard 0.5",
        "gradual 0.1",
        "none",
    ]
    assert "7 of 19 settings are shown: the best of each strategy, then the best of the rest" in picture.notes


def test_optimizers_are_in_the_labels_where_there_are_several(tmp_path: Path) -> None:
    make(tmp_path, [("standard", 0.5)], seeds=1)
    found = make(tmp_path, [("standard", 0.5)], seeds=1, optimizer="adam")
    labels = [each.label for each in panels.learning(found).panels[0].lines]
    assert sorted(labels) == ["standard 0.5, adam", "standard 0.5, sgd_dropout"]


# ---- the range of y


def panel(*ys: list[float], x: str = "epoch", half: float = math.nan) -> Panel:
    lines = []
    for number, y in enumerate(ys):
        values = np.array(y)
        lines.append(Line(str(number), np.arange(1.0, len(y) + 1), values, values - half, values + half))
    return Panel("t", x, "y", tuple(lines))


def test_a_steep_beginning_lies_outside() -> None:
    low, high, cut = window([panel([90.0, 50.0, 4.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0])])
    assert low == 0
    assert 4 <= high < 6
    assert cut
    assert not window([panel([90.0, 50.0, 4.0], x="rate")])[2]


def test_a_very_wide_interval_does_not_squeeze_the_lines() -> None:
    low, high, cut = window([panel([4.0, 5.0, 6.0], half=50.0)])
    assert high - low < 10
    assert not cut
    assert window([panel([4.0, 5.0, 6.0], x="rate", half=1.0)])[1] > 7


@pytest.mark.parametrize("ys", [[[3.0]], [[0.0, 0.0]], [[-1.0, -1.0]], [[math.nan, 2.0]], [[math.nan]], []])
def test_every_range_has_a_height(ys: list[list[float]]) -> None:
    low, high, _ = window([panel(*ys)])
    assert low < high


# ---- drawn


def drawn(groups: list[Group]) -> dict[str, Any]:
    return {
        "curves": plots.curves(groups),
        "generalisation": plots.generalisation(groups),
        "over_rates": plots.over_rates(groups),
        "schedules": plots.schedules(groups),
    }


def test_the_same_records_are_the_same_bytes(groups: list[Group], tmp_path: Path) -> None:
    for name in drawn(groups):
        contents = []
        for attempt in ("a", "b"):
            figure = drawn(groups)[name]
            for suffix in (".svg", ".png"):
                plots.save(figure, tmp_path / attempt / f"{name}{suffix}")
            contents.append([(tmp_path / attempt / f"{name}{suffix}").read_bytes() for suffix in (".svg", ".png")])
        assert contents[0] == contents[1]
        assert contents[0][1].startswith(b"\x89PNG")
        assert not re.search(rb"20\d\d-\d\d-\d\dT", contents[0][0])


def test_strange_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    found = make(
        tmp_path, [(EVIL, 0.5), ("_hidden_", 0.2), ("$", 0.1), ("x" * 5000, 0.3)], dataset=EVIL, model="$a$ $b$"
    )
    for name, figure in drawn(found).items():
        plots.save(figure, tmp_path / f"{name}.svg")
        plots.save(figure, tmp_path / f"{name}.png")
        ElementTree.parse(tmp_path / f"{name}.svg")
        text = plots.svg(figure, name, EVIL)
        root = ElementTree.fromstring(text)
        assert not [item for item in root.iter() if item.tag.endswith("script")]
        assert len(text) < 400_000
    text = plots.svg(plots.curves(found), "p")
    assert "$x^2_1$ &lt;/text&gt;" in text
    assert "_hidden_ 0.2" in text
    assert "\x1b" not in text


def test_in_a_page_the_text_has_the_colour_of_the_page(groups: list[Group]) -> None:
    figure = plots.over_rates(groups)
    one, other = plots.svg(figure, "one", "rates"), plots.svg(figure, "other")
    assert one.startswith("<svg")
    assert one.endswith("</svg>")
    assert "<title>rates</title>" in one
    assert "currentColor" in one
    for colour in ("#1f1f1f", "#666666", "#dedede", "#000000", "#ffffff"):
        assert colour not in one
    assert "#0072b2" in one  # a line keeps its own
    assert ">validation error (%)</text>" in one
    assert "<style" not in one
    assert "xml version" not in one
    ids = [set(re.findall(r'id="([^"]+)"', text)) for text in (one, other)]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', one))
    assert used
    assert used <= ids[0]
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]+"', "", one)


def test_a_thousand_runs_are_a_small_picture(tmp_path: Path) -> None:
    strategies = [(f"s{number:02}", round(0.05 * (number % 10) + 0.05, 2)) for number in range(100)]
    found = make(tmp_path, strategies, seeds=10)
    assert sum(len(group.runs) for group in found) == 1000
    for name, figure in drawn(found).items():
        plots.save(figure, tmp_path / f"{name}.svg")
        assert (tmp_path / f"{name}.svg").stat().st_size < 500_000


def test_nothing_to_show_says_why(tmp_path: Path) -> None:
    found = make(tmp_path, [("none", 0.0)])
    with pytest.raises(UserError, match="plot: there is nothing to show: 1 setting without dropout"):
        plots.schedules(found)
    for run in found[0].runs:
        (run.path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="nothing to show: 3 runs without such a record, left out"):
        plots.curves(found)


def test_profile(tmp_path: Path) -> None:
    levels = [place / 10 for place in range(11)]
    picture = profile(levels, {f"s{number}": [1 - level for level in levels] for number in range(9)})
    assert [line.label for line in picture.panels[0].lines] == [f"s{number}" for number in range(7)]
    assert picture.panels[0].lines[0].y[3] == 0.7
    plots.save(plots.draw(picture), tmp_path / "profile.svg")
    text = (tmp_path / "profile.svg").read_text()
    assert "share of the runs over all tasks" in text
    assert "7 of 9 are shown" in text


def test_another_suffix_is_refused(groups: list[Group], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.pgn: \.pgn; allowed: \.png, \.svg; nearest: \.png$"):
        plots.save(plots.curves(groups), tmp_path / "x.pgn")
    with pytest.raises(UserError, match="no suffix; allowed"):
        check_suffix(tmp_path / "x", plots.SUFFIXES)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out="):
        plots.save(plots.curves(groups), tmp_path / "file" / "x.png")


def test_without_matplotlib_it_says_what_to_install(groups: list[Group], monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **more)

    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"^dropbench plot needs matplotlib: pip install 'dropbench\[plot\]'$"):
        plots.curves(groups)


def test_the_style_of_the_user_stays_and_does_not_matter(groups: list[Group]) -> None:
    import matplotlib as mpl

    usual = plots.svg(plots.curves(groups), "p")
    with mpl.rc_context({"text.color": "red", "svg.hashsalt": "mine", "font.size": 30}):
        assert plots.svg(plots.curves(groups), "p") == usual
        assert mpl.rcParams["font.size"] == 30


# ---- the forest plot


def test_differences_to_the_baseline(tmp_path: Path) -> None:
    from dropbench.compare.baseline import conditions
    from dropbench.compare.rows import Options, compare

    make(tmp_path, SETTINGS, seeds=7)
    (table,) = compare(read([tmp_path]), Options(baselines=(conditions("strategy=none"),), delta=0.25))
    figure = plots.differences(table)
    text = plots.svg(figure, "p")
    assert ">standard 0.5</text>" in text
    assert ">none</text>" in text
    assert ">baseline</text>" in text
    assert ">better</text>" in text
    assert "shaded: equal within 0.25" in text
    content = io.BytesIO()
    figure.savefig(content, format="png")
    assert content.getvalue().startswith(b"\x89PNG")


def test_differences_without_a_baseline_are_refused(tmp_path: Path) -> None:
    from dropbench.compare.rows import Options, compare

    make(tmp_path, [("standard", 0.5)])
    (table,) = compare(read([tmp_path]), Options())
    with pytest.raises(UserError, match="no row has a difference to a baseline"):
        plots.differences(table)
