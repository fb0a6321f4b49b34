"""What the benches of scripts/bench do with their seconds; nothing here is timed."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "bench"
MODULES = ("common", "cases", "layers", "bare")


@pytest.fixture
def bench(monkeypatch):
    """Loads a file of scripts/bench by its name; they find each other in their folder alone."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name):
        if name in MODULES:
            return importlib.import_module(name)
        loader = SourceFileLoader(f"bench_{name}", str(FOLDER / name))
        spec = spec_from_loader(loader.name, loader)
        module = module_from_spec(spec)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
        return module

    yield load
    for name in MODULES:
        sys.modules.pop(name, None)


def test_the_range_holds_ten_to_ninety_percent(bench):
    spread = bench("common").Spread.of([float(value) for value in (9, 1, 2, 3, 4, 100, 5, 6, 7, 8, 0)])
    assert (spread.median, spread.p10, spread.p90) == (5, 1, 9)


def test_the_mean_of_ratios_is_geometric(bench):
    assert bench("common").geometric([0.5, 2.0, 8.0]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("figure", "worst", "more", "status"),
    [
        (1.0, 1.1, False, "stretch"),
        (1.2, 1.79, False, "ok"),
        (1.21, None, False, "missed"),
        (1.1, 1.81, False, "missed"),  # a shape that is more than 1.5 times worse than the goal of 1.2
        (1.2, 0.81, True, "ok"),
        (1.19, None, True, "missed"),
        (1.5, 0.79, True, "missed"),
    ],
)
def test_a_goal_is_reached_by_the_mean_and_not_spoiled_by_the_worst(bench, figure, worst, more, status):
    stretch = 2.0 if more else 1.0
    assert bench("common").judge(figure, (1.2, stretch), more, worst).status == status


def test_the_line_of_a_goal(bench):
    common = bench("common")
    assert common.line("P1", common.judge(1.184, (1.3, 1.0), False)) == "P1 1.18 (goal 1.3) ok"
    assert common.line("P1", common.judge(0.97, (1.3, 1.0), False)) == "P1 0.97 (goal 1.3) ok, stretch 1 reached"
    assert common.line("P5", common.judge(1.5, (2.0, None), True, label="small MLP")) == (
        "P5 1.5 small MLP (goal 2) missed"
    )
    assert common.line("P4", common.judge(1.04, (1.05, 1.02), False), "cuda") == "P4 GPU 1.04 (goal 1.05) ok"


def test_sides_alternate_and_a_fast_one_is_called_several_times_a_sample(bench, monkeypatch):
    common, called, now = bench("common"), [], 0.0

    def side(name, seconds):
        def call():
            nonlocal now
            called.append(name)
            now += seconds

        return call

    monkeypatch.setattr(common.time, "perf_counter", lambda: now)
    measured, calls = common.rounds([side("A", 0.5), side("B", 0.25)], 2, warm_ups=1, least=0.5)
    assert "".join(called) == "AB" + "ABB" * 2
    assert calls == [1, 2]
    assert measured == [[0.5, 0.5], [0.25, 0.25]]


def test_sides_that_did_not_do_the_same_work_end_the_bench(bench):
    common = bench("common")
    common.agree("loss", 1.0, 1.009)
    for other in (1.02, float("nan")):
        with pytest.raises(SystemExit, match="do not do the same work"):
            common.agree("loss", 1.0, other)


def test_ratios_of_a_speed_up_are_those_of_b_to_a(bench, monkeypatch, capsys):
    common = bench("common")
    monkeypatch.setattr(sys, "argv", ["bench"])
    goal = common.Goal("P5", "what", cpu=(2, None), more=True)
    figure = common.Bench(goal, "doc").add("a shape", [1.0, 1.0, 2.0], [3.0, 2.0, 2.0])
    assert (figure.ratio.median, figure.ratio.p10, figure.ratio.p90) == (2, 1, 3)
    assert "a shape" in capsys.readouterr().out


def test_every_goal_has_a_script_that_can_be_run_and_names_it(bench):
    benches = bench("all").BENCHES
    assert list(benches) == [f"P{number}" for number in range(1, 12)]
    for goal, (name, _) in benches.items():
        script = FOLDER / name
        assert os.access(script, os.X_OK), name
        tree = ast.parse(script.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree).startswith(f"{goal}: "), name
        made = [
            node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Goal"
        ]
        assert [node.args[0].value for node in made] == [goal], name


def test_the_summary_has_the_lines_of_the_goal_alone(bench):
    lines = [
        "P1 28,128,28,128 1.2  (1.1 to 1.3)",
        "P1 1.2 (goal 1.3) ok",
        "P1 a busy machine: ...",
        "P11 0.9 (goal 1) ok",
    ]
    assert bench("all").said("P1", lines) == lines[1:3]


def test_what_grows_faster_than_its_work_is_told(bench):
    growth = bench("growth")
    values = growth.AXES["stack"].values
    linear, square = [float(v) for v in values], [float(v) ** 2 for v in values]
    rows, verdicts = growth.table("stack", square, linear)
    assert verdicts == {"time": "faster than its work (2.00 > 1.00)", "memory": "ok"}
    assert rows[1].split("|")[5:9] == [" 2.00 ", " 1.00 ", " 1.00 ", " 1.00 "]
