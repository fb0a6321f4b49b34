"""`dropbench compare`: the table of recorded runs."""

from __future__ import annotations

from dropbench.cli.parser import Parser
from dropbench.compare.table import print_table
from dropbench.runs.records import read
from dropbench.terminal import console


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(
        prog="dropbench compare",
        description="A row for each group of runs that differ by seed alone: n, mean and sample deviation (sd) of the "
        "test error. Within a dataset and model the lowest mean stands first.",
    )
    parser.add_argument(
        "paths", nargs="*", default=["outputs"], metavar="PATH", help="run folders, studies or folders of studies"
    )
    parser.add_argument(
        "--metric",
        metavar="SPLIT.FIGURE",
        help="what is compared: test.nll, test_mc.error, test_pruned.error, ... (default: test.error, or test.rmse)",
    )
    options = parser.parse_args(argv)
    print_table(read(options.paths), console(), options.metric)
    return 0
