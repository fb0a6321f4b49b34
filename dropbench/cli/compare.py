"""`dropbench compare`: who wins, by how much, and is the difference real."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dropbench.cli.comparing import add_options, add_runs, options_of, positive, records_of
from dropbench.cli.parser import Parser
from dropbench.compare.groups import tally
from dropbench.compare.rows import compare
from dropbench.compare.table import FORMATS, print_sheet, sheet
from dropbench.errors import UserError
from dropbench.terminal import console, say

if TYPE_CHECKING:
    import argparse

    from dropbench.compare.rows import Comparison
    from dropbench.compare.table import Sheet


def run(argv: list[str]) -> int:
    """See the module."""
    options = _parser().parse_args(argv)
    target = positive("--target", options.target)
    how = options_of(options)
    if options.by is not None:
        refused = [f"--{name}" for name in ("equal", "target", "cost") if getattr(options, name)]
        if refused:
            raise UserError(f"{refused[0]}: not with --by={options.by}")
    records, notes = records_of(options)
    how = replace(how, notes=notes)
    if options.by is not None:
        from dropbench.compare.across import show_across

        show_across(records, options.by, how, options.format)
        return 0
    if options.equal is not None:
        from dropbench.compare.cost import equal_compute

        equal = equal_compute(records, how.metric)
        how = replace(how, metric=equal.metric, value=equal, notes=(*how.notes, *equal.notes))
    comparisons = compare(records, how)

    def more(comparison: Comparison) -> list[Sheet]:
        from dropbench.compare.cost import cost_sheet
        from dropbench.compare.items import items_sheet

        sheets = [items_sheet(comparison)]
        if options.cost or target is not None:
            sheets.append(cost_sheet(comparison, target))
        return [each for each in sheets if each is not None]

    if options.format != "table":
        from dropbench.compare.formats import render

        print(render(options.format, comparisons, records, more, target))
        return 0
    out = console()
    for comparison in comparisons:
        for each in (sheet(comparison), *more(comparison)):
            print_sheet(each, out)
            say("", out)
    say(tally(records), out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dropbench compare",
        description="A row for each group of runs that differ by seed alone, compared with a baseline, paired by seed: "
        "difference with an interval that covers, p value corrected for the number of rows, and a verdict.",
    )
    add_runs(parser)
    add_options(parser)
    parser.add_argument(
        "--by",
        metavar="KEY",
        help="one row for each value of this (strategy, optimizer, model, rate, or a setting), over all data sets and "
        "models",
    )
    parser.add_argument("--cost", action="store_true", help="a second table: samples, forward passes, memory")
    parser.add_argument(
        "--target", metavar="X", help="with it the epochs and seconds until the validation figure came down to X"
    )
    parser.add_argument(
        "--equal",
        choices=["compute"],
        help="compare validation figures after equally many forward-backward passes: R-Drop pays for its second",
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="table (default), md, csv, latex or json")
    return parser
