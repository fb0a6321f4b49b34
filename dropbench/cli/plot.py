"""`dropbench plot`: pictures of recorded runs, as PNG, as SVG or in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.cli.comparing import add_options, add_runs, options_of, records_of
from dropbench.cli.parser import Parser
from dropbench.compare.rows import compare
from dropbench.errors import UserError
from dropbench.runs.files import check_suffix
from dropbench.terminal import console, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from dropbench.compare.groups import Group
    from dropbench.compare.panels import Picture
    from dropbench.compare.rows import Comparison

KINDS = {
    "curves": "learning curves of train and validation, with intervals",
    "rates": "error against rate, a line a strategy",
    "schedule": "the rate of every site over the training, asked and realised",
    "gap": "validation loss less train loss over the training",
    "differences": "paired differences to the baseline, with interval and verdict",
    "calibration": "how often predictions of some confidence are right",
    "profile": "over all data sets and models: the share of runs above each normalised score, a line a strategy (--by)",
}
_OF_METRIC = ("curves", "rates", "differences", "profile")
_FOLDER = Path("outputs", "plots")


def run(argv: list[str]) -> int:
    """See the module."""
    options = _parser().parse_args(argv)
    kind = options.kind
    if options.metric is not None and kind not in _OF_METRIC:
        raise UserError(f"plot {kind}: --metric={options.metric}: it is for {', '.join(_OF_METRIC)}")
    if options.terminal and kind == "differences":
        raise UserError("plot differences: not with --terminal; dropbench compare shows them as a table")
    if options.terminal and options.out is not None:
        raise UserError(f"plot {kind}: --out={options.out}: not with --terminal")
    path = _FOLDER / f"{kind}.png" if options.out is None else Path(options.out)
    if not options.terminal:
        from dropbench.compare import plots

        check_suffix(path, plots.SUFFIXES)
        plots.require()
    if options.by is not None and kind != "profile":
        raise UserError(f"plot {kind}: --by={options.by}: it is for profile")
    tables = [] if kind == "profile" else _tables(options)
    if options.terminal:
        from dropbench.compare.sketch import show

        show(_profile(options) if kind == "profile" else _picture(kind, options.metric, _groups(tables)), console())
        return 0
    if kind == "profile":
        figure = plots.draw(_profile(options))
    elif kind == "differences":
        figure = plots.differences(_only(tables))
    elif kind == "calibration":
        figure = plots.calibration(_groups(tables))
    else:
        figure = plots.draw(_picture(kind, options.metric, _groups(tables)))
    plots.save(figure, path)
    say(str(path), console())
    return 0


def _tables(options: argparse.Namespace) -> list[Comparison]:
    """What is compared; curves have figures that no result has, so these are looked for later."""
    how = options_of(options)
    if options.kind == "curves":
        from dataclasses import replace

        how = replace(how, metric=None)
    return compare(records_of(options)[0], how)


def _profile(options: argparse.Namespace) -> Picture:
    from dropbench.compare.across import PROFILE
    from dropbench.compare.panels import profile
    from dropbench.compare.scores import across

    found = across(records_of(options)[0], options.by or "strategy", options_of(options))
    return profile(PROFILE, {row.value: [row.above(level) for level in PROFILE] for row in found.rows})


def _groups(tables: Sequence[Comparison]) -> list[Group]:
    return [row.group for table in tables for row in table.rows]


def _only(tables: Sequence[Comparison]) -> Comparison:
    if len(tables) != 1:
        names = " and ".join(table.metric for table in tables) or "nothing"
        raise UserError(f"plot differences: runs are judged by {names}; name one by --metric or pick runs by --where")
    return tables[0]


def _picture(kind: str, metric: str | None, groups: Sequence[Group]) -> Picture:
    from dropbench.compare import panels

    if kind == "curves":
        return panels.learning(groups, metric)
    if kind == "rates":
        return panels.over_rates(groups, metric)
    return {"schedule": panels.schedules, "gap": panels.generalisation, "calibration": panels.calibrations}[kind](
        groups
    )


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="dropbench plot",
        description="Pictures of recorded runs: "
        + "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
        + ". --metric of curves is train.* or validation.*; both parts are drawn unless it is given.",
    )
    parser.add_argument("kind", choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    add_runs(parser)
    add_options(parser)
    parser.add_argument(
        "--out", metavar="FILE", help=f"a .png or .svg (default: {_FOLDER}/KIND.png, which is written over)"
    )
    parser.add_argument("--by", metavar="KEY", help="of profile: what is compared (default: strategy)")
    parser.add_argument("--terminal", action="store_true", help="show it in the terminal instead; needs no matplotlib")
    return parser
