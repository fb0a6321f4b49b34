"""Whatever figures lie on disk, `compare --by` and `recommend` answer, or refuse in one line."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from dropbench.compare.across import show_across
from dropbench.compare.baseline import conditions
from dropbench.compare.recommend import recommend, show_recommend
from dropbench.compare.rows import Options
from dropbench.errors import UserError
from dropbench.runs.records import RunRecord

FIGURES = st.sampled_from([None, 0.0, 1.0, 1.0 + 1e-15, 2.0, -3.0, 1e-300, -1e-300, 5e-324, 1e99, -1e99])
NAMES = st.sampled_from(["none", "standard", "[b]x\x1b[0m"])


@st.composite
def records(draw: st.DrawFn) -> list[RunRecord]:
    made = []
    for number in range(draw(st.integers(0, 14))):
        names = {"dataset": draw(st.sampled_from(["a", "b\n"])), "model": draw(st.sampled_from(["m", "n"]))}
        names |= {"strategy": draw(NAMES), "optimizer": "o"}
        rate = draw(st.sampled_from([0.0, 0.5, 0.94, 1e-9]))
        size = draw(st.sampled_from([None, 5, 10**80, -1, "x", [1, {"a": None}]]))
        figures = {
            split: {} if (value := draw(FIGURES)) is None else {"error": value} for split in ("validation", "test")
        }
        if draw(st.booleans()):
            names.pop(draw(st.sampled_from(sorted(names))))
        state: Any = draw(st.sampled_from(["done", "done", "done", "failed", "unreadable"]))
        if state == "done" and len(names) < 4:
            state = "failed"
        made.append(
            RunRecord(
                Path(f"run{number}"),
                state,
                seed=draw(st.integers(0, 3)),
                group=f"{names}{rate}{size}",
                task="classification",
                choices=names,
                rate=rate,
                figures=figures,
                settings={"strategy.rate": rate, "model.size": size, "dataset.size": draw(st.sampled_from([1, 2]))},
            )
        )
    return made


@settings(max_examples=150, deadline=None)
@given(records(), st.sampled_from(["strategy", "model", "rate", "model.size", "dataset.size", "x"]))
def test_across_answers(found: list[RunRecord], by: str) -> None:
    options = Options(baselines=(conditions("strategy=none"), conditions("strategy=standard")))
    for form in ("json", "table"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.suppress(UserError):
            show_across(found, by, options, form)  # type: ignore[arg-type]
        assert "\x1b" not in out.getvalue()
        assert form != "json" or not out.getvalue() or json.loads(out.getvalue())["by"] == by


@settings(max_examples=150, deadline=None)
@given(records())
def test_recommend_answers(found: list[RunRecord]) -> None:
    advice = recommend(found)
    for form in ("json", "table", "md"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            show_recommend(advice, found, form)
        assert "\x1b" not in out.getvalue()
        assert form != "json" or len(json.loads(out.getvalue())["tasks"]) == len(advice)
