"""A comparison as a table of text: which columns, what stands in their cells, and what is said below."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from dropbench.compare.groups import CHOICES, columns_that_differ, figure, mean, partner, tally, title
from dropbench.compare.rows import LEVEL, Comparison, Options, Row, compare
from dropbench.terminal import Column, prose, say, setting, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from dropbench.runs.records import RunRecord

#: How a comparison is written: as a table for the terminal, or in the ways of `formats`.
Format = Literal["table", "md", "csv", "latex", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)


@dataclass(frozen=True)
class Sheet:
    """A table in words.

    Args:
        columns: what stands above; see `terminal.Column`.
        rows: cells.
        bold: places of rows that stand out.
        captions: what is said below it, a line each.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    bold: frozenset[int]
    captions: tuple[str, ...]


def print_table(records: Sequence[RunRecord], out: Console, options: Options) -> None:
    """Prints one table for each figure that is compared, then how many runs there were and what became of them.

    Args:
        records: of any state; those not done are counted.
        out: see `terminal.console`.
        options: how to compare.

    Raises:
        UserError: no run has the figure, or none is such a baseline.
    """
    for comparison in compare(records, options):
        print_sheet(sheet(comparison), out)
        say("", out)
    say(tally(records), out)


def print_sheet(of: Sheet, out: Console) -> None:
    """Prints a table and what is said below it, with what does not fit the width."""
    dropped = show_table(of.columns, of.rows, out, of.bold)
    say("", out)
    for line in of.captions:
        prose(line, out)
    names = []
    for column in dropped:
        values = {row[of.columns.index(column)] for row in of.rows}
        names.append(column.name + (f" ({values.pop()} in every row)" if len(values) == 1 else ""))
    if names:
        prose(f"not shown at this width: {', '.join(names)}", out)


def sheet(comparison: Comparison) -> Sheet:
    """The table of a comparison."""
    rows = comparison.rows
    split, _, name = comparison.metric.partition(".")
    beside = partner(comparison.metric).partition(".")[0].replace("_", " ")
    tested = any(row.difference for row in rows)
    methods = dict.fromkeys(row.difference.method for row in rows if row.difference and row.difference.interval)
    columns = [
        *name_columns(rows),
        Column(f"{split.replace('_', ' ')}\n{title(name)}", number=True),
        Column("sd", number=True, drop=7 if tested else 0),
        Column("95 % CI\n(t)", number=True, drop=6),
    ]
    if tested:
        columns += [
            Column("differ-\nence", number=True),
            Column(f"95 % CI\n({', '.join(methods) or 't'})", number=True, drop=11),
            Column("p", number=True, drop=5),
            Column("p\n(Holm)", number=True),
            Column("P\n(better)", number=True, drop=4),
        ]
    judged = tested or any(row.group.failed or row.refused or row.verdict == "not paired" for row in rows)
    if judged:
        columns.append(Column("verdict", fold=14))
    columns += [
        Column(f"{beside}\n{title(name)}", number=True, drop=3),
        Column("seconds", number=True, drop=2),
    ]
    also = any(row.group.also for row in rows)
    if also:
        columns.append(Column("also", fold=30))
    cells = tuple(
        (*_cells(row, name, tested, judged, comparison.delta), *([row.group.also] if also else [])) for row in rows
    )
    return Sheet(tuple(columns), cells, frozenset(comparison.best()), tuple(_captions(comparison, tested)))


def name_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that say which group a row is; of them those go first that say the same in every row."""
    telling = columns_that_differ([row.group for row in rows])
    names = [Column(key, drop=0 if key in telling or key == "strategy" else 1) for key in CHOICES]
    return [*names, Column("rate", number=True), Column("n", number=True)]


def _cells(row: Row, name: str, tested: bool, judged: bool, delta: float | None) -> list[str]:
    group = row.group
    seconds = mean(run.duration for run in group.runs)
    cells = [
        *group.names,
        f"{group.rate:g}",
        str(len(group.runs)),
        figure(group.mean, name),
        figure(group.deviation, name),
        interval(row.ci95, name),
    ]
    if tested:
        difference = row.difference
        cells += [
            "-" if difference is None else signed(difference.mean, name),
            interval(row.delta_ci95, name, sign=True),
            probability(None if difference is None else difference.p),
            probability(row.p_holm),
            "-" if row.improvement is None else f"{row.improvement:.2f}",
        ]
    if judged:
        cells.append(row.told(delta))
    return [*cells, figure(group.partner, name), "-" if seconds is None else f"{seconds:.1f}"]


def _captions(comparison: Comparison, tested: bool) -> list[str]:
    rows = comparison.rows
    rules = ", ".join(map(setting, comparison.rules)) or "not recorded"
    lines = [f"n: seeds; sd: sample deviation over seeds; selection: {rules}"]
    if tested:
        exact = all(row.difference.exact for row in rows if row.difference)
        lines.append(
            f"difference: to the baseline ({comparison.baseline}) at the same seed, negative is better; p: "
            f"{'exact ' if exact else ''}sign-flip test{'' if exact else ' (Monte Carlo beyond 20 pairs)'}; "
            f"Holm's correction for {comparison.tests} row{'s' * (comparison.tests != 1)}, verdict at {LEVEL:g}"
        )
        if comparison.delta is not None:
            lines.append(
                f"equal within {comparison.delta:g}: two one-sided sign-flip tests, that the mean is above "
                f"-{comparison.delta:g} and below {comparison.delta:g}, at {LEVEL:g} after Holm's correction; it goes "
                "before better and worse"
            )
    return [*lines, *comparison.notes]


def signed(value: float, name: str) -> str:
    """A difference of a figure, with its sign."""
    text = figure(value, name)
    if not text.strip("-0."):
        return text.strip("-")
    return text if text.startswith("-") else f"+{text}"


def interval(bounds: tuple[float, float] | None, name: str, sign: bool = False) -> str:
    """The bounds of an interval: `[1.94, 2.50]`."""
    if bounds is None:
        return "-"
    low, high = (_end(bound, name, sign) for bound in bounds)
    return f"[{low}, {high}]"


def _end(bound: float, name: str, sign: bool) -> str:
    """The end of an interval; one that is not zero does not look like it, for that is what intervals are read for."""
    text = signed(bound, name) if sign else figure(bound, name)
    return text if text.strip("+-0.") or not bound else f"{bound:{'+' if sign else ''}.1g}"


def probability(value: float | None) -> str:
    """A p value: three decimals."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.0005 else "<0.001"
