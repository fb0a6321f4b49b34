"""`dropbench resume`: goes on with interrupted runs and sweeps, from anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.cli.parser import Parser
from dropbench.cli.stop import Stop
from dropbench.errors import UserError
from dropbench.terminal import tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from dropbench.compose import Composed, Composer
    from dropbench.config import Run
    from dropbench.runs.records import RunRecord
    from dropbench.sweep.manifest import Manifest

#: States of runs that are gone on with; a failed run is tried again.
_OPEN = ("interrupted", "failed")


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(
        prog="dropbench resume",
        description="Goes on with the runs and sweeps under the paths: those that were interrupted, failed, or never "
        "begun. What is done stays as it is.",
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="run folders, studies, folders of studies, or sweep-*.json"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and stop")
    parser.add_argument(
        "--extensions", default="", metavar="A,B", help="packages that the runs need and that you trust"
    )
    options = parser.parse_args(argv)
    options.extensions = tuple(filter(None, options.extensions.split(",")))
    with Stop() as stop:
        return _resume([Path(path) for path in options.paths], options, ["dropbench", "resume", *argv], stop)


def _resume(paths: list[Path], options: argparse.Namespace, command: list[str], stop: Stop) -> int:
    from dropbench.sweep.manifest import manifests

    codes: list[int] = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: there is no such file or folder")
        sweeps = manifests(path)
        for sweep in sweeps:
            try:
                code = _sweep(sweep, options, command, stop)
            except UserError as error:
                if len(sweeps) == 1:
                    raise
                tell(str(error))
                code = 2
            if code is not None:
                codes.append(code)
        if path.is_dir():
            # What no sweep takes up, nor has just tried, is gone on with by itself.
            tried = {entry.id for sweep in sweeps for entry in sweep.runs}
            records = [record for record in _read(path, bool(sweeps)) if record.state in _OPEN]
            alone = [record.path for record in records if record.id not in tried]
            if alone:
                codes.append(_alone(alone, options, command, stop))
    if not codes:
        tell("nothing to go on with: every run is done")
    return max(codes, default=0)


def _read(path: Path, found: bool) -> list[RunRecord]:
    from dropbench.runs.find import read

    try:
        return read([path])
    except UserError:
        if found:  # a sweep of which no run was begun
            return []
        raise


def _alone(folders: list[Path], options: argparse.Namespace, command: list[str], stop: Stop) -> int:
    """Goes on with runs that belong to no sweep."""
    from dropbench.runs.reopen import reopen

    runs: list[Run] = []
    for folder in folders:
        try:
            runs.append(reopen(folder, options.extensions))
        except UserError as error:
            if len(folders) == 1:
                raise
            tell(str(error))
    refused = 2 if len(runs) < len(folders) else 0
    if len(runs) == 1 and not options.plan:
        from dropbench.cli.train import train_one

        return max(refused, train_one(runs[0], {}, options.quiet, command, stop))
    if not runs:
        return refused
    local = [replace(run, config=replace(run.config, launcher="local")) for run in runs]
    return max(refused, _job(local, False, folders[0], options, command, stop))


def _sweep(sweep: Manifest, options: argparse.Namespace, command: list[str], stop: Stop) -> int | None:
    """Goes on with a sweep; None if nothing of it is left to do."""
    from dropbench.sweep.plan import plan

    composer = sweep.composer(options.extensions)
    runs, hydra = sweep.compose(composer)
    if not sweep.race and not plan(runs).todo:
        return None
    tell(f"{sweep.id}: {' '.join(sweep.command)}")
    return _job(runs, sweep.race, sweep.path, options, command, stop, composer, hydra)


def _job(
    runs: Sequence[Run],
    race: bool,
    manifest: Path,
    options: argparse.Namespace,
    command: list[str],
    stop: Stop,
    composer: Composer | None = None,
    hydra: Mapping[str, Composed] | None = None,
) -> int:
    from dropbench.cli.sweep import Job
    from dropbench.sweep.workers import Crew

    with Crew(command, stop.asked) as crew:
        job = Job(crew, composer, stop, options.quiet, options.plan, hydra or {})
        return (job.race if race else job.train)(runs, lambda _: manifest)
