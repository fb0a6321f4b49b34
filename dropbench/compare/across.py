"""The table of `compare --by`, for the terminal and as JSON, CSV, Markdown and LaTeX; what is in it: `scores`."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from typing import TYPE_CHECKING, Any

from dropbench.compare.formats import as_latex, as_markdown, unarmed
from dropbench.compare.groups import figure, selector, tally
from dropbench.compare.scores import RESAMPLES, across, draws, spread
from dropbench.compare.table import Sheet, print_sheet
from dropbench.compare.tasks import words
from dropbench.errors import UserError
from dropbench.runs.files import finite
from dropbench.terminal import Column, clean, console, say, setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dropbench.compare.rows import Options
    from dropbench.compare.scores import Across, ScoreRow
    from dropbench.compare.table import Format
    from dropbench.runs.records import RunRecord

#: Scores at which the table and the CSV say how many runs are above.
LEVELS = (0.0, 0.5, 0.9)
#: Those of a performance profile.
PROFILE = tuple(place / 100 for place in range(101))


def show_across(records: Sequence[RunRecord], by: str, options: Options, form: Format) -> None:
    """Prints the table over tasks, in the form that is asked for.

    Args:
        records: of any state.
        by: see `across`.
        options: how to compare.
        form: a table for the terminal, or the form of a file.

    Raises:
        UserError: see `across`; or an option that means nothing here.
    """
    if options.delta is not None:
        raise UserError(f"--delta: not with --by={by}")
    result = across(records, by, options)
    sheets = [sheet(result), chosen_sheet(result)] if result.rows else []
    if form == "json":
        print(as_json(result, records))
    elif form == "csv":
        print(as_csv(result))
    elif form == "table":
        out = console()
        for each in sheets:
            print_sheet(each, out)
            say("", out)
        for note in () if sheets else result.notes:
            say(note, out)
        say(tally(records), out)
    else:
        print((as_markdown if form == "md" else as_latex)(sheets, records))


def sheet(of: Across) -> Sheet:
    """The table: a row a value."""
    columns = [
        Column(of.by),
        Column("tasks", number=True, drop=3),
        Column("runs", number=True),
        Column("settings\ntried", number=True, drop=5),
        Column("IQM", number=True),
        Column("95 % CI\n(bootstrap)", number=True),
        Column("mean", number=True, drop=6),
        Column("gap\nto 1", number=True, drop=2),
        Column("rank", number=True),
        Column("P\n(better)", number=True, drop=8),
        *(Column(f"share\n> {level:g}", number=True, drop=7 if level == 0 else 4) for level in LEVELS),
    ]
    cells = []
    for row in of.rows:
        bounds = row.iqm_ci95
        cells.append(
            (
                f"{row.value} (baseline)" if row.baseline else row.value,
                str(len(row.choices)),
                str(len(row.scores)),
                spread(choice.among for choice in row.choices.values()),
                _rounded(row.iqm),
                "-" if bounds is None else f"[{_rounded(bounds[0])}, {_rounded(bounds[1])}]",
                _rounded(row.mean),
                _rounded(row.shortfall),
                f"{row.rank:.2f}",
                "-" if row.improvement is None else f"{row.improvement:.2f}",
                *(f"{row.above(level):.0%}".replace("%", " %") for level in LEVELS),
            )
        )
    return Sheet(tuple(columns), tuple(cells), frozenset(), tuple(_captions(of)))  # no row was tested


def chosen_sheet(of: Across) -> Sheet:
    """The second table: in each task what was chosen for each value, and what came of it."""
    columns = (
        Column("task"),
        Column(of.by),
        Column("chosen"),
        Column("of", number=True),
        Column("n", number=True),
        Column("validation", number=True),
        Column("figure", number=True),
        Column("score", number=True, drop=1),
        Column("rank", number=True, drop=2),
    )
    cells = []
    for scale in of.scales:
        name = scale.task.metric.partition(".")[2]
        here = sorted(((row.choices[scale.task.name], row.value) for row in of.rows), key=lambda each: each[0].mean)
        for choice, value in here:
            cells.append(
                (
                    scale.task.name,
                    value,
                    words(choice.told) or "-",
                    str(choice.among),
                    str(len(choice.figures)),
                    figure(choice.selecting if math.isfinite(choice.selecting) else None, name),
                    figure(choice.mean, name),
                    _rounded(statistics.fmean(choice.scores)),
                    f"{choice.rank:g}",
                )
            )
    captions = [f"chosen: the setting of the lowest mean of {_selectors(of)}; figure: mean of {', '.join(of.metrics)}"]
    return Sheet(columns, tuple(cells), frozenset(), tuple(captions))


def as_json(of: Across, records: Sequence[RunRecord]) -> str:
    """One object: what was compared and how, the tasks with their scales, and a row a value."""
    states = Counter(record.state for record in records)
    data = {
        "by": of.by,
        "baseline": ",".join(map(str, of.baseline)) or None,
        "metric": ", ".join(of.metrics) or None,
        "selection": ", ".join(map(setting, of.rules)) or None,
        "resamples": _draws(of),
        "tasks": [
            {
                "task": scale.task.name,
                "dataset": scale.task.dataset,
                "model": scale.task.model or None,
                "metric": scale.task.metric,
                "baseline": None if scale.baseline is None else scale.baseline.label,
                "zero": scale.zero,
                "minus_one" if scale.lost else "one": scale.one,
                "best": scale.best,
            }
            for scale in of.scales
        ],
        "rows": [row_data(row) for row in of.rows],
        "runs": len(records),
        **{state: states[state] for state in ("done", "failed", "pruned", "running", "interrupted", "unreadable")},
        "notes": list(of.notes),
    }
    return json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def row_data(row: ScoreRow) -> dict[str, Any]:
    """A row as plain data; what there is no value for is None."""
    bounds = row.iqm_ci95
    return {
        "value": row.value,
        "is_baseline": row.baseline,
        "tasks": len(row.choices),
        "runs": len(row.scores),
        "iqm": row.iqm,
        "iqm_ci95": None if bounds is None else [float(bound) for bound in bounds],
        "mean": row.mean,
        "optimality_gap": row.shortfall,
        "rank": row.rank,
        "improvement": row.improvement,
        "profile": {"tau": list(PROFILE), "share": [row.above(level) for level in PROFILE]},
        "chosen": {
            name: {
                "setting": dict(choice.told),
                "rate": choice.group.rate,
                "among": choice.among,
                "n": len(choice.group.runs),
                "failed": len(choice.group.failed),
                "validation": choice.selecting,
                "mean": choice.mean,
                "score": statistics.fmean(choice.scores),
                "rank": choice.rank,
                "improvement": choice.improvement,
                "seeds": [run.seed for run in (*choice.group.runs, *choice.group.failed)],
                "values": list(choice.figures),
                "scores": list(choice.scores),
            }
            for name, choice in row.choices.items()
        },
    }


def as_csv(of: Across) -> str:
    """One line a value, with the keys of the JSON; the interval in two columns, the profile at a few levels."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = ["tasks", "runs", "iqm", "mean", "optimality_gap", "rank", "improvement"]
    levels = [f"above_{level:g}" for level in LEVELS]
    writer.writerow([of.by, "is_baseline", *keys, "iqm_ci95_low", "iqm_ci95_high", *levels, "chosen"])
    for row in of.rows:
        data = finite(row_data(row))
        picked = "; ".join(f"{name}: {words(choice.told) or '-'}" for name, choice in row.choices.items())
        low, high = data["iqm_ci95"] or (None, None)
        shares = [row.above(level) for level in LEVELS]
        cells = [row.value, row.baseline, *(data[key] for key in keys), low, high, *shares, picked]
        writer.writerow([unarmed(clean(cell)) if isinstance(cell, str) else cell for cell in cells])
    return file.getvalue().rstrip("\n")


def _captions(of: Across) -> list[str]:
    base = f"the baseline ({','.join(map(str, of.baseline))})" if of.baseline else "the worst value"
    rules = ", ".join(map(setting, of.rules)) or "not recorded"
    return [
        f"score of a run: 0 is the mean of {base} in its task, 1 the best mean of a value there; figure: "
        f"{', '.join(of.metrics)}. That best mean is found by the figure itself, a mild selection",
        f"the setting of each value is chosen in each task by {_selectors(of)}; selection of epochs: {rules}",
        f"IQM: mean of the middle half of the scores of all runs; 95 % CI: stratified bootstrap, {_draws(of):,} draws "
        "of runs within tasks, the scale as it is (Agarwal et al. 2021)",
        "gap to 1: mean shortfall of scores below 1; rank: of the mean figure, mean over tasks, ties shared; "
        "P(better): that a run beats one of the baseline, mean over tasks; share: of runs with a score above",
        *of.notes,
    ]


def _selectors(of: Across) -> str:
    return ", ".join(dict.fromkeys(map(selector, of.metrics)))


def _draws(of: Across) -> int:
    """Resamples of the bootstrap, at least."""
    return min((draws(len(row.scores)) for row in of.rows), default=RESAMPLES)


def _rounded(score: float) -> str:
    text = f"{score:.2f}"
    return text if text.strip("-0.") else "0.00"
