"""A sweep as the user meets it: the plan, the view while it trains, the table, the exit code."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from dropbench.errors import UserError
from dropbench.sweep.workers import Crew, SweepReport
from dropbench.terminal import console, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dropbench.cli.stop import Stop
    from dropbench.compose import Composed, Composer
    from dropbench.config import Run
    from dropbench.sweep.engine import Stacks

#: Writes down what was asked for, and returns the path of the manifest.
Keep: TypeAlias = "Callable[[Sequence[Run]], Path]"
#: Failures that are listed once more below the table.
MOST_FAILURES = 10


def sweep(composer: Composer, overrides: list[str], options: argparse.Namespace, command: list[str], stop: Stop) -> int:
    """Expands, plans and trains what the command line asks for, and returns the exit code."""
    from dropbench.sweep.grid import expand

    with Crew(command, stop.asked) as crew:  # its process loads torch meanwhile
        expansion = expand(composer, overrides)
        for note in expansion.notes:
            tell(note)
        job = Job(crew, composer, stop, options.quiet, options.plan, expansion.hydra)
        config_dir = options.config_dir

        def keep(runs: Sequence[Run]) -> Path:
            from dropbench.sweep.manifest import save

            return save(runs, command, config_dir, expansion.block, expansion.seeds_auto).path

        return (job.race if expansion.seeds_auto else job.train)(expansion.runs, keep)


def hydra_sweep(composer: Composer, overrides: list[str]) -> int:
    """Leaves a sweep to a launcher or sweeper of Hydra's own, shows the table and returns the exit code."""
    from dropbench.cli.comparing import DEFAULT
    from dropbench.compare.table import print_table
    from dropbench.runs.records import read_run
    from dropbench.sweep.hydra_job import launch

    launched = launch(composer, overrides)
    for line in launched.refusals:
        tell(f"refused: {line}")
    if launched.paths:
        print_table([read_run(path) for path in launched.paths], console(), DEFAULT)
    for name, reason in launched.failures.items():
        tell(f"failed: {name}: {reason}")
    if launched.code or not launched.paths:
        return launched.code or 2
    return 3 if launched.failures else 0


@dataclass
class Job:
    """Trains sweeps of one command.

    Args:
        crew: trains the runs.
        composer: composes those that a race adds; None where there is none.
        stop: what the user wants.
        quiet: whether to show no progress.
        plan_only: whether to stop after the plan.
        hydra: what Hydra composed for each run, by id.
    """

    crew: Crew
    composer: Composer | None
    stop: Stop
    quiet: bool
    plan_only: bool = False
    hydra: Mapping[str, Composed] = field(default_factory=dict)

    def train(self, runs: Sequence[Run], keep: Keep) -> int:
        """Trains runs, shows the table and returns the exit code.

        Args:
            runs: with duplicates.
            keep: writes down what was asked for.
        """
        self._check(runs)
        prepared = self._prepare(runs)
        if self.plan_only:
            return 0
        if runs[0].config.launcher == "slurm":
            return self._submit(prepared, keep)
        keep(prepared.plan.runs)
        report, complete = self._round(prepared)
        self._table(prepared.plan.runs, {**prepared.refused, **report.refusals})
        return self._end(report, complete, runs)

    def race(self, settings: Sequence[Run], keep: Keep) -> int:
        """Trains settings with as many seeds as the question needs; see `rounds`."""
        from dropbench.sweep.live import span
        from dropbench.sweep.race import FIRST, look_points
        from dropbench.sweep.rounds import look, races, seeded

        config = settings[0].config
        if config.launcher != "local":
            raise UserError(f"launcher={config.launcher}: seeds=auto decides while it trains; allowed: local")
        if config.prune is not None:
            raise UserError(f"prune={config.prune:g}: seeds=auto drops settings by itself; allowed: null")
        self._check(settings)
        assert self.composer is not None
        budget, began = config.budget_seconds, time.monotonic()
        contests = races(settings)
        hydra = dict(self.hydra)
        self.hydra = hydra
        everything: dict[str, Run] = {}
        refused: dict[str, str] = {}
        failures: dict[str, str] = {}
        report, complete = None, True
        if not self.plan_only:
            keep([run for contest in contests for run in contest.contestants])
        for seeds in look_points():
            runs = []
            for contest in contests:
                for setting in contest.contestants if contest.open or seeds == FIRST else ():
                    for seed in range(seeds):
                        run, composed = seeded(self.composer, setting, seed)
                        runs.append(run)
                        hydra[run.id] = composed
            prepared = self._prepare(runs, f"race, {seeds} seeds: ")
            if self.plan_only:
                return 0
            spent = time.monotonic() - began
            if budget is not None and seeds > FIRST and spent + prepared.seconds > budget:
                tell(
                    f"race: {span(spent)} of {settings[0].config.budget} are spent, and the next seeds would take more"
                )
                break
            report, complete = self._round(prepared)
            everything.update({run.id: run for run in runs})
            failures.update(report.failures)
            refused.update({**prepared.refused, **report.refusals})
            if not complete:
                break
            for number, contest in enumerate(contests):
                if contest.open:
                    contests[number], _ = look(contest, runs)
                    for line in contests[number].drops[len(contest.drops) :]:
                        tell(f"race: {line}")
            if not any(contest.open for contest in contests):
                break
        for contest in contests:
            if contest.open:
                tell(f"race: {contest.name}: no telling yet which of {len(contest.contestants)} settings is best")
        assert report is not None
        report.failures = failures
        self._table(list(everything.values()), refused)
        return self._end(report, complete, settings)

    def _submit(self, prepared: Stacks, keep: Keep) -> int:
        """Hands the stacks to the cluster, but for what waits or runs there already."""
        from dropbench.sweep import slurm

        runs = prepared.plan.runs
        study = runs[0].path.parent
        if runs[0].config.prune is not None:
            raise UserError("prune: decides while it trains; allowed with: launcher=local")
        there = slurm.queued(study)
        stacks = [[run for run in stack if run.id not in there] for stack in prepared.stacks]
        stacks = [stack for stack in stacks if stack]
        if there:
            tell(f"{len(there)} runs wait or run on the cluster")
        if stacks:
            jobs = slurm.submit(keep(runs), stacks, runs[0].config.slurm)
            tasks = f"{len(stacks)} task{'s' if len(stacks) > 1 else ''}"
            tell(f"submitted {tasks} as job {', '.join(jobs)}; dropbench status {study} shows how far it is")
        if not prepared.plan.todo:
            self._table(runs, prepared.refused)
        return 0

    def _check(self, runs: Sequence[Run]) -> None:
        """Refuses data that are not there, before anything is waited for."""
        for config in {run.config.dataset: run.config for run in runs}.values():
            config.dataset.check(config.data_folder)

    def _prepare(self, runs: Sequence[Run], title: str = "") -> Stacks:
        from dropbench.sweep.engine import prepare

        prepared = prepare(runs, self.crew)
        if self.stop.asked():
            self.stop.leave("nothing was begun")
        tell(f"{title}{prepared}")
        for line in _refusals(runs, prepared.refused):
            tell(line)
        if prepared.plan.todo and not prepared.stacks and not prepared.plan.done:
            raise UserError("every run of the sweep was refused, for the reasons above")
        return prepared

    def _round(self, prepared: Stacks) -> tuple[SweepReport, bool]:
        """Trains what was prepared; says what became of it, and whether all was trained."""
        from dropbench.sweep.engine import train, train_halving
        from dropbench.sweep.live import View

        planned, config = prepared.plan, prepared.plan.runs[0].config
        todo = sum(len(stack) for stack in prepared.stacks)
        with View(todo, len(planned.done), prepared.workers, not self.quiet) as view:
            report = SweepReport(view, config.on_failure == "stop")
            self.stop.training = True
            complete = (train if config.prune is None else train_halving)(prepared, self.crew, report, self.hydra)
            self.stop.training = False
        if self.stop.asked():
            study = planned.runs[0].path.parent
            self.stop.leave(f"the same command goes on from here, or: dropbench resume {study}")
        for line in _refusals(planned.runs, report.refusals):
            tell(line)
        return report, complete

    def _table(self, runs: Sequence[Run], refused: Mapping[str, str]) -> None:
        from dropbench.cli.comparing import DEFAULT, noted
        from dropbench.compare.table import print_table
        from dropbench.runs.records import read_run

        records = [read_run(run.path) for run in runs if run.id not in refused]
        records = [record for record in records if record.path.exists()]  # but those never begun
        print_table(records, console(), noted(DEFAULT, records))

    def _end(self, report: SweepReport, complete: bool, runs: Sequence[Run]) -> int:
        """The exit code, and what failed once more, below the table."""
        shown = list(report.failures.items())[:MOST_FAILURES]
        for name, reason in shown:
            tell(f"failed: {name}: {reason}")
        if len(report.failures) > len(shown):
            tell(f"failed: {len(report.failures) - len(shown)} more; dropbench runs ls shows them")
        if not complete:
            study = runs[0].path.parent
            tell(f"stopped: {report.reason}; the same command goes on, or: dropbench resume {study}")
        return 3 if report.failures or not complete else 0


def _refusals(runs: Sequence[Run], refused: Mapping[str, str]) -> list[str]:
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
