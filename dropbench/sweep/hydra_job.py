"""Sweeps by Hydra's own sweepers and launchers (`hydra/launcher=joblib`), for those who ask for them.

Hydra starts a job for every combination of values, in whatever process it likes; each trains its run, alone, into the
run's own folder. What Hydra writes itself lies in `<output_root>/<study>/.hydra_multirun/`.
"""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropbench.compose import key_of, of_job
from dropbench.config import Run, check
from dropbench.errors import UserError
from dropbench.runs.records import read_run
from dropbench.sweep.grid import flat, has_block
from dropbench.terminal import tell

if TYPE_CHECKING:
    from dropbench.compose import Composed, Composer

_OUTCOME = "outcome.json"


@dataclass
class Launched:
    """What became of the jobs.

    Args:
        code: with which Hydra ended; not 0: it gave up, and has said why.
        paths: the folders of the runs, each once.
        failures: a line about each run that failed, by its id.
        refusals: why a job did not train, a line each.
    """

    code: int
    paths: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)


def launch(composer: Composer, overrides: Sequence[str]) -> Launched:
    """Has Hydra sweep; runs that are done are not trained again, and one that fails costs no other its result.

    Raises:
        UserError: before anything is trained: bad overrides, or what Hydra's own launchers cannot do.
    """
    if not composer.asks_sweeper(overrides):
        overrides = flat(composer, overrides)
    elif has_block(composer, [line for line in overrides if key_of(line) in ("experiment", "seeds")]):
        raise UserError(
            "hydra/sweeper: takes the axes that are typed; allowed without: experiments with a sweep, seeds"
        )
    folder = _folder(composer, overrides)
    launched = Launched(composer.multirun(overrides, folder, job))
    for file in sorted(folder.glob(f"*/{_OUTCOME}"), key=lambda file: (len(file.parent.name), file.parent.name)):
        outcome = json.loads(file.read_bytes())
        path = Path(outcome["path"]) if outcome["path"] else None
        done = path is not None and read_run(path).state == "done"  # perhaps by another job, of the same run
        if path is None or not (done or outcome["failed"]):
            launched.refusals.append(f"{' '.join(outcome['overrides'])}: {outcome['line']}")
            continue
        if path not in launched.paths:
            launched.paths.append(path)
        if not done:
            launched.failures[path.name] = outcome["line"]
    return launched


def _folder(composer: Composer, overrides: Sequence[str]) -> Path:
    """Where Hydra writes, beside the runs."""
    places = {key: composer.settled(overrides).data[key] for key in ("output_root", "study")}
    config = check({**composer.compose([]).data, **places})
    name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{os.getpid()}"
    return Path(config.output_root, config.study, ".hydra_multirun", name)


def job(config: Any) -> float:
    """Trains the run of the job that Hydra runs now; returns its validation figure, infinite where there is none."""
    composed = of_job(config)
    run, failed, line = _trained(composed)
    if line:
        tell(f"{' '.join(composed.overrides)}: {line}")
    path = None if run is None else str(run.path.absolute())
    outcome = {"overrides": composed.overrides, "path": path, "failed": failed, "line": line}
    Path(composed.hydra["runtime"]["output_dir"], _OUTCOME).write_text(json.dumps(outcome), encoding="utf-8")
    record = None if run is None else read_run(run.path)
    if record is None or record.state != "done":
        return math.inf
    validation = record.figures["validation"]
    return next(validation[name] for name in ("error", "rmse", "loss") if name in validation)


def _trained(composed: Composed) -> tuple[Run | None, bool, str]:
    """The run, whether it failed, and why it has no result; nothing that happens may cost Hydra its other jobs."""
    run = None
    try:
        run = Run(check(composed.data), composed.choices, composed.overrides)
        run.config.dataset.check(run.config.data_folder)
        from dropbench.sweep.local import Local
        from dropbench.sweep.report import Report

        report = Report()
        command = ["dropbench", "train", *composed.overrides]
        Local(command, {run.id: composed}, lambda: False, report).train([run])
    except UserError as error:
        return run, False, str(error)
    except Exception as error:
        traceback.print_exc()
        return run, True, f"{type(error).__name__}: {error}"
    for line in report.warnings:
        tell(f"warning: {line}")
    return run, bool(report.failures), next(iter((report.failures | report.refusals).values()), "")
