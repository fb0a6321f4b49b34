"""`dropbench recommend`: which strategy and rate to use, how sure that is, and what to try next."""

from __future__ import annotations

from dropbench.cli.comparing import add_runs, options_of, records_of
from dropbench.cli.parser import Parser
from dropbench.compare.recommend import FORMATS, recommend, show_recommend
from dropbench.compare.rows import ASPECTS
from dropbench.errors import UserError


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(
        prog="dropbench recommend",
        description="For each data set and model: the best setting on the validation part with its uncertainty, what "
        "is within noise of it, and what to try next.",
    )
    add_runs(parser)
    parser.add_argument(
        "--metric",
        metavar="SPLIT.FIGURE",
        help="what chooses: validation.nll, ... (default: validation.error, or validation.rmse)",
    )
    parser.add_argument(
        "--allow",
        metavar="ASPECT",
        default="",
        help=f"pair runs although they differ in this: {', '.join(ASPECTS)}, or several with commas",
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="table (default), md or json")
    parser.set_defaults(baseline=None, delta=None)
    options = parser.parse_args(argv)
    how = options_of(options)
    records, notes = records_of(options)
    advice = recommend(records, how.metric, how.allow, notes)
    if not advice:
        raise UserError("no run is done that has a figure of the validation part, so there is nothing to choose by")
    show_recommend(advice, records, options.format)
    return 0
