"""`dropbench train` and `dropbench sweep`: from the command line to trained runs and a table."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from dropbench.cli.parser import Parser
from dropbench.errors import UserError
from dropbench.terminal import clean, console

if TYPE_CHECKING:
    import argparse

    from dropbench.compose import Composer
    from dropbench.config import Run
    from dropbench.sweep.local import Local

EPILOG = """\
overrides are Hydra's: key=value sets a key, group=name chooses a file of the group (`dropbench list`):
  dropbench train strategy=gradual model=lstm
  dropbench train dataset=mnist strategy.rate=0.3 optimizer.learning_rate=0.05 epochs=20
  dropbench train -m seed=0,1,2,3 strategy=none,standard,gradual 'strategy.rate=range(0.1,0.6,0.1)'
"""


def run(argv: list[str], multirun: bool = False) -> int:
    """Trains what `argv` asks for and returns the exit code."""
    options = _parser(multirun).parse_intermixed_args(argv)
    multirun = multirun or options.multirun
    overrides: list[str] = options.overrides
    with Stop() as stop:
        from dropbench.compose import Composer

        composer = Composer(options.config_dir, _extensions(overrides))
        shown = _views(options)
        if shown:
            composer.compose([]) if multirun else composer.compose(overrides)
            return composer.show(shown, overrides)
        if multirun:
            return _sweep(composer, overrides, options, argv, stop)
        return _single(composer, overrides, options, argv, stop)


class Stop:
    """Ctrl-C and SIGTERM: while runs train, the first asks to save and stop; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.training = False

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to save and stop."""
        return self.signal != 0

    @property
    def code(self) -> int:
        """The exit code after a signal."""
        return 128 + self.signal

    def _caught(self, number: int, _: FrameType | None) -> None:
        again = self.signal != 0
        self.signal = number
        if again or not self.training:
            _tell("interrupted")
            sys.exit(self.code)


def _single(composer: Composer, overrides: list[str], options: argparse.Namespace, argv: list[str], stop: Stop) -> int:
    runs, local = _prepared(composer, [overrides], options, argv, stop)
    from dropbench.cli.result import show
    from dropbench.sweep.plan import plan

    planned = plan(runs)
    if planned.done:
        show(planned.paths[0], console(), "recorded before; rerun=true trains it again")
        return 0
    for stack in local.stacks(planned.todo):
        _train(local, stack, "", stop)
    for line in local.report.refused.values():
        raise UserError(line)
    for warning in local.report.warnings:
        _tell(f"warning: {warning}")
    for reason in local.report.failed.values():
        _tell(f"{planned.paths[0]} failed: {reason}")
        return 1 if local.report.crashed else 3
    show(planned.paths[0], console())
    return 0


def _sweep(composer: Composer, overrides: list[str], options: argparse.Namespace, argv: list[str], stop: Stop) -> int:
    runs, local = _prepared(composer, composer.expand(overrides), options, argv, stop)
    from dropbench.compare.table import print_table
    from dropbench.runs.records import read_run
    from dropbench.sweep.plan import plan

    planned = plan(runs)
    stacks = local.stacks(planned.todo)
    many = f" in {len(stacks)} stack{'s' if len(stacks) != 1 else ''}" if stacks else ""
    _tell(f"{planned}{many}")
    told = _refusals(runs, local.report.refused)
    for line in told:
        _tell(line)
    if planned.todo and not stacks and not planned.done:
        raise UserError("every run of the sweep was refused, for the reasons above")
    _train_all(local, stacks, stop)
    report = local.report
    for line in _refusals(runs, report.refused):
        if line not in told:
            _tell(line)
    for warning in report.warnings:
        _tell(f"warning: {warning}")
    print_table([read_run(path) for path in planned.paths if path.name not in report.refused], console())
    for name, reason in report.failed.items():
        _tell(f"failed: {name}: {reason}")
    return 3 if report.failed else 0


def _refusals(runs: list[Run], refused: dict[str, str]) -> list[str]:
    """A line for every combination of choices that was refused, and why; seeds and rates are not told apart."""
    pairs: dict[tuple[str, str, str, str], int] = {}
    for run in runs:
        if run.id in refused:
            key = (run.choices["dataset"], run.choices["model"], run.choices["strategy"], refused[run.id])
            pairs[key] = pairs.get(key, 0) + 1
    return [
        f"refused: {strategy} on {model}, {dataset} ({count} run{'s' if count > 1 else ''}): {reason}"
        for (dataset, model, strategy, reason), count in pairs.items()
    ]


def _prepared(
    composer: Composer, sweep: list[list[str]], options: argparse.Namespace, argv: list[str], stop: Stop
) -> tuple[list[Run], Local]:
    """Composes and checks every run before anything heavy is loaded."""
    from dropbench.config import Run, check

    runs, hydra = [], {}
    for overrides in sweep:
        composed = composer.compose(overrides)
        each = Run(check(composed.data), composed.choices)
        runs.append(each)
        hydra[each.id] = composed
    for config in {run.config.dataset: run.config for run in runs}.values():
        config.dataset.check(config.data_folder)  # before torch is waited for
    from dropbench.sweep.local import Local

    return runs, Local(["dropbench", "train", *argv], hydra, stop.asked, progress=not options.quiet)


def _train_all(local: Local, stacks: list[list[Run]], stop: Stop) -> None:
    """Trains the stacks of a sweep; those that need the records of others come after them."""
    from dropbench.control import needs_record
    from dropbench.sweep.workers import train_all, workers_for

    workers = workers_for(stacks)
    if workers == 1:
        for number, stack in enumerate(stacks, start=1):
            _train(local, stack, f"stack {number}/{len(stacks)}, {len(stack)} runs", stop)
        return
    stop.training = True
    later = [needs_record(stack[0].config) for stack in stacks]
    for phase in (False, True):
        chosen = [stack for stack, last in zip(stacks, later, strict=True) if last is phase]
        if chosen and not train_all(local, chosen, min(workers, len(chosen)), stop.asked):
            _stopped(stop)
    stop.training = False


def _stopped(stop: Stop) -> NoReturn:
    _tell("interrupted: saved; the same command goes on from here")
    sys.exit(stop.code)


def _train(local: Local, stack: list[Run], label: str, stop: Stop) -> None:
    from dropbench.runner import Interrupted

    stop.training = True
    try:
        local.train(stack, label)
    except Interrupted:
        pass
    finally:
        stop.training = False
    if stop.asked():
        _stopped(stop)


def _parser(multirun: bool) -> Parser:
    import argparse

    name = "sweep" if multirun else "train"
    parser = Parser(
        prog=f"dropbench {name}",
        usage=f"dropbench {name} [options] [key=value ...]",
        description="Train and evaluate one run, or with -m all runs of a sweep, and record them under outputs/.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="what differs from conf/config.yaml")
    parser.add_argument("-m", "--multirun", action="store_true", help="train all combinations of values")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
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


def _tell(line: str) -> None:
    print(f"dropbench: {clean(line)}" if not line[:1].isdigit() else clean(line), file=sys.stderr, flush=True)
