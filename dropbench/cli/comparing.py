"""What the verbs that compare have in common: which runs, and how they are compared."""

from __future__ import annotations

import gc
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.compare.baseline import conditions
from dropbench.compare.groups import count
from dropbench.compare.rows import ASPECTS, Options
from dropbench.errors import UserError
from dropbench.runs.find import read

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from dropbench.runs.records import RunRecord

#: What runs are compared with unless the user says otherwise: no dropout, else the plain one.
DEFAULT = Options(baselines=(conditions("strategy=none"), conditions("strategy=standard")))
_MOST = 1 << 20  # bytes of a manifest that are looked at
_TEST_FIGURE = re.compile(r"\btest(_\w+)?\.\w")


def add_runs(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say which runs."""
    parser.add_argument(
        "paths", nargs="*", default=["outputs"], metavar="PATH", help="run folders, studies or folders of studies"
    )
    parser.add_argument(
        "--where", metavar="EXPR", help="""only runs for which this holds: 'strategy=="gradual" and rate<0.4'"""
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say how to compare."""
    parser.add_argument(
        "--metric",
        metavar="SPLIT.FIGURE",
        help="what is compared: test.nll, test_mc.error, test_pruned.error, ... (default: test.error, or test.rmse)",
    )
    parser.add_argument(
        "--baseline",
        metavar="KEY=VALUE",
        help="what the others are compared with: strategy=standard, or strategy=standard,rate=0.5 "
        "(default: strategy=none, else strategy=standard)",
    )
    parser.add_argument(
        "--delta",
        metavar="D",
        help="a difference that would not matter, in the unit of the figure (points of error): rows that are shown to "
        "be closer are `equal`",
    )
    parser.add_argument(
        "--allow",
        metavar="ASPECT",
        default="",
        help=f"pair runs although they differ in this: {', '.join(ASPECTS)}, or several with commas",
    )


def records_of(options: argparse.Namespace) -> tuple[list[RunRecord], tuple[str, ...]]:
    """The runs that the command line names, and what must be said of how they were picked.

    Raises:
        UserError: there are none.
    """
    records = everything = read(options.paths)
    if options.where is not None:
        from dropbench.runs.where import select

        records = select(everything, options.where)
    gc.freeze()  # they stay until the end: to look through 10,000 for garbage takes as long as the table
    if not records:
        raise UserError(f"--where={options.where}: no run is so")
    notes = list(_races(records, getattr(options, "metric", None)))
    if options.where is not None:
        lost = sum(run.state == "failed" for run in everything) - sum(run.state == "failed" for run in records)
        if lost:
            notes.append(f"--where leaves out {count(lost, 'failed run')}")
        if _TEST_FIGURE.search(options.where):
            notes.append("--where picks runs by test figures: no p value and no interval holds")
    return records, tuple(notes)


def options_of(options: argparse.Namespace) -> Options:
    """How the command line wants them compared.

    Raises:
        UserError: a word is not allowed.
    """
    allowed = frozenset(word.strip() for word in options.allow.split(",") if word.strip())
    if strange := sorted(allowed - set(ASPECTS)):
        raise UserError(f"--allow={strange[0]}: allowed: {', '.join(ASPECTS)}")
    asked = options.baseline is not None
    return Options(
        metric=options.metric,
        baselines=(conditions(options.baseline),) if asked else DEFAULT.baselines,
        asked=asked,
        delta=positive("--delta", options.delta),
        allow=allowed,
    )


def positive(option: str, text: str | None) -> float | None:
    """The number that an option gives.

    Raises:
        UserError: it is none, or not above zero.
    """
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e100:
        raise UserError(f"{option}={text}: allowed: a number above 0")
    return value


def noted(options: Options, records: Iterable[RunRecord]) -> Options:
    """The options with what must be said of runs that no command line picked."""
    return replace(options, notes=(*options.notes, *_races(records, options.metric)))


def _races(records: Iterable[RunRecord], metric: str | None) -> Iterator[str]:
    """What must be said where the number of seeds was chosen by looking at them (`seeds=auto`)."""
    records = list(records)
    ends = [{record.study: record for record in each} for each in (records, reversed(records))]
    studies = {str(record.path.parent) for some in ends for record in some.values()}  # 10,000 paths would take time
    raced = sorted(study for study in studies if any(map(_is_race, _manifests(study))))
    if not raced:
        return
    line = f"seeds=auto chose the number of seeds in {', '.join(raced[:3])}{', ...' if len(raced) > 3 else ''}"
    if metric is not None and metric.startswith("validation"):
        yield f"{line}: p values and intervals do not know that it looked several times; its own verdicts do"
    else:
        yield f"{line}, by validation figures"


def _manifests(study: str) -> list[Path]:
    try:
        names = os.listdir(study)  # noqa: PTH208 - of ten thousand names few become paths
    except OSError:
        return []
    return [Path(study, name) for name in names if name.startswith("sweep-") and name.endswith(".json")]


def _is_race(manifest: Path) -> bool:
    try:
        if not manifest.is_file():
            return False
        with manifest.open("rb") as file:
            return b'"race": true' in file.read(_MOST)
    except OSError:
        return False
