"""`dropbench train` and `dropbench sweep`: from the command line to trained runs and a table."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dropbench.cli.parser import Parser
from dropbench.cli.stop import Stop
from dropbench.errors import UserError
from dropbench.terminal import console, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from dropbench.compose import Composed, Composer
    from dropbench.config import Run

EPILOG = """\
overrides are Hydra's: key=value sets a key, group=name chooses a file of the group (`dropbench list`):
  dropbench train strategy=gradual model=lstm
  dropbench train dataset=mnist strategy.rate=0.3 optimizer.learning_rate=0.05 epochs=20
  dropbench train -m seed=0,1,2,3 strategy=none,standard,gradual 'strategy.rate=range(0.1,0.6,0.1)'
  dropbench sweep experiment=rates --plan
"""


def run(argv: list[str], multirun: bool = False) -> int:
    """Trains what `argv` asks for and returns the exit code."""
    options = _parser(multirun).parse_intermixed_args(argv)
    multirun = multirun or options.multirun
    overrides: list[str] = options.overrides
    command = ["dropbench", "train", *(["-m"] if multirun and "-m" not in argv and "--multirun" not in argv else [])]
    command += argv
    with Stop() as stop:
        shown = _views(options)
        with _uncollected():
            from dropbench.compose import Composer
            from dropbench.sweep.grid import has_block

            composer = Composer(options.config_dir, _extensions(overrides))
            swept = multirun or (not shown and has_block(composer, overrides))
        if shown:
            composer.compose([]) if multirun else composer.compose(overrides)
            return composer.show(shown, overrides)
        if swept:
            from dropbench.cli.sweep import hydra_sweep, sweep

            if composer.asks_hydra(overrides):
                if options.plan:
                    raise UserError("--plan: a launcher or sweeper of Hydra's own plans for itself; leave it out")
                return hydra_sweep(composer, overrides)
            return sweep(composer, overrides, options, command, stop)
        if options.plan:
            raise UserError("--plan: this is one run and no sweep; add -m")
        return _single(composer, overrides, options.quiet, command, stop)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Looks for no garbage: to import Hydra and to compose a config leaves none, and would take a tenth longer."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _single(composer: Composer, overrides: list[str], quiet: bool, command: list[str], stop: Stop) -> int:
    with _uncollected():
        from dropbench.config import Run, check

        composed = composer.compose(overrides)
        run = Run(check(composed.data), composed.choices, tuple(overrides))
    if run.config.launcher != "local":
        raise UserError(f"launcher={run.config.launcher}: launches sweeps; add -m, or dropbench sweep")
    run.config.dataset.check(run.config.data_folder)  # before torch is waited for
    run.config.logger.check()
    return train_one(run, {run.id: composed}, quiet, command, stop)


def train_one(run: Run, hydra: dict[str, Composed], quiet: bool, command: list[str], stop: Stop) -> int:
    """Trains one run in this process, shows its result and returns the exit code."""
    from dropbench.cli.result import show
    from dropbench.runs.records import is_done

    if is_done(run):
        show(run.path, console(), "recorded before; rerun=true trains it again")
        return 0
    from dropbench.cli.progress import Bar
    from dropbench.kernels import COMMON, native

    native.ahead((*COMMON, *run.config.model.kernels))  # while torch is loaded
    from dropbench.runner import Interrupted
    from dropbench.sweep.local import Local

    report = Bar(run.id, not quiet)
    stop.training = True
    try:
        Local(command, hydra, stop.asked, report).train([run])
    except Interrupted:
        pass
    finally:
        stop.training = False
        report.close()
    if stop.asked():
        stop.leave("the same command goes on from here")
    for line in report.refusals.values():
        raise UserError(line)
    for warning in report.warnings:
        tell(f"warning: {warning}")
    for reason in report.failures.values():
        tell(f"{run.path} failed: {reason}")
        return 1 if report.crashed else 3
    show(run.path, console())
    return 0


def _parser(multirun: bool) -> Parser:
    import argparse

    name = "sweep" if multirun else "train"
    parser = Parser(
        prog=f"dropbench {name}",
        usage=f"dropbench {name} [options] [key=value ...]",
        description="Train and evaluate all combinations of values, and record them under outputs/."
        if multirun
        else "Train and evaluate one run, or with -m all runs of a sweep, and record them under outputs/.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what differs from conf/config.yaml")
    parser.add_argument("-m", "--multirun", action="store_true", help="train all combinations of values")
    parser.add_argument("--plan", action="store_true", help="say what a sweep would do, and stop")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument("-cd", "--config-dir", metavar="DIR", help="a folder with configs of your own")
    views = parser.add_argument_group("views of the config, by Hydra")
    views.add_argument("-c", "--cfg", choices=("job", "hydra", "all"), help="print the composed config and stop")
    views.add_argument("-p", "--package", metavar="NODE", help="with --cfg: only this node")
    views.add_argument("--resolve", action="store_true", help="with --cfg: resolve interpolations")
    views.add_argument(
        "-i", "--info", nargs="?", const="all",
        choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
        help="print where the config comes from and stop",
    )  # fmt: skip
    views.add_argument("--hydra-help", action="store_true", help="print Hydra's own help and stop")
    return parser


def _views(options: argparse.Namespace) -> list[str]:
    """The options of Hydra's own views, as Hydra wants them."""
    words = []
    if options.cfg:
        words += ["--cfg", options.cfg, *(["--package", options.package] if options.package else [])]
        words += ["--resolve"] if options.resolve else []
    if options.info:
        words += ["--info", options.info]
    if options.hydra_help:
        words += ["--hydra-help"]
    return words


def _extensions(overrides: list[str]) -> tuple[str, ...]:
    """The packages of `extensions=[...]`: they must be known before the configs are found."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+") == "extensions":
            return tuple(name.strip().strip("'\"") for name in value.strip("[]").split(",") if name.strip())
    return ()
