"""`dropbench report`: one HTML page of it all, which needs nothing but itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.cli.comparing import add_options, add_runs, options_of, records_of
from dropbench.cli.parser import Parser
from dropbench.terminal import clean

if TYPE_CHECKING:
    import argparse

_DEFAULT = Path("outputs", "report.html")


def run(argv: list[str]) -> int:
    """See the module."""
    options = _parser().parse_args(argv)
    how = options_of(options)
    path = Path(options.out)

    from dropbench.compare.report import SUFFIXES, report, save
    from dropbench.runs.files import check_suffix

    check_suffix(path, SUFFIXES)
    records, notes = records_of(options)
    save(report(records, replace(how, notes=notes), options.title), path)
    print(clean(path))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dropbench report",
        description="One HTML page that needs nothing but itself: question and answer, protocol, tables that sort, "
        "pictures, every run with its settings, how to reproduce it. Pictures need matplotlib: "
        "pip install 'dropbench[plot]'.",
    )
    add_runs(parser)
    add_options(parser)
    parser.add_argument(
        "--out", metavar="FILE", default=str(_DEFAULT), help=f"where it is written (default: {_DEFAULT})"
    )
    parser.add_argument("--title", metavar="TEXT", default="", help="what stands above it (default: the studies)")
    return parser
