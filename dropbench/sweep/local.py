"""Trains stacks of runs in this process, into their folders."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dropbench import runner, schema
from dropbench.config import meaning
from dropbench.control import data_of_twin, twin
from dropbench.errors import UserError
from dropbench.kernels import COMMON, in_use
from dropbench.runs import checkpoint
from dropbench.runs.behind import Behind
from dropbench.runs.environment import data_hash, describe
from dropbench.runs.folder import RunFolder
from dropbench.runs.predictions import Part, Predictions, save
from dropbench.runs.records import is_done, read_run
from dropbench.state import StaleCheckpointError
from dropbench.sweep.logs import RunLog

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.compose import Composed
    from dropbench.config import Config, Run
    from dropbench.data import Data
    from dropbench.runs.checkpoint import Checkpoint
    from dropbench.sweep.report import Report


@dataclass(frozen=True)
class _Member:
    """A run of a stack, its folder, and the config that is trained for it: its own, or that of its twin."""

    run: Run
    folder: RunFolder
    config: Config


class Local:
    """Trains runs, stack by stack.

    Args:
        command: what the user typed, for the record.
        hydra: what Hydra composed for each run, by id.
        interrupted: whether to save and stop.
        report: is told what becomes of the runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        hydra: Mapping[str, Composed | None],
        interrupted: Callable[[], bool],
        report: Report,
    ) -> None:
        self.command, self.hydra, self.interrupted, self.report = list(command), hydra, interrupted, report
        self._loaded: dict[str, tuple[Data, str]] = {}

    def trained_config(self, run: Run) -> Config:
        """The config that is trained for a run: its own, or that of its twin.

        Raises:
            UserError: its strategy or model cannot act on its data; the package that its logger needs is not there.
        """
        run.config.logger.check()
        data = self.data(run.config)[0]
        config = twin(run.config, data, self._controlled(run))
        config.strategy.place(config.model.sites(data.facts), data.facts)
        return config

    def train(self, stack: Sequence[Run], until: int | None = None) -> None:
        """Trains one stack: takes the folders, goes on from checkpoints, and hands failures to the report.

        When something raises, each half of the stack goes on by itself, so that in the end the run that raised, or
        the memory that was short, costs no other run its result.

        Args:
            stack: runs of one shape.
            until: epoch after which they are saved and left, without a result; None for the end.

        Raises:
            runner.Interrupted: after everything was saved.
            BusyError: another process holds one of the folders; none was touched.
            UserError: the disk refuses.
        """
        configs: dict[str, Config] = {}
        for run in stack:
            try:
                configs[run.id] = self.trained_config(run)
            except UserError as refusal:
                self.report.refused(run.id, str(refusal))
        folders: list[RunFolder] = []
        try:
            members = []
            for run in (run for run in stack if run.id in configs):
                folders.append(RunFolder.take(run.path))
                if not is_done(run):  # another process may have done it
                    members.append(_Member(run, folders[-1], configs[run.id]))
            self._go_on(members, until)
        finally:
            for folder in folders:
                folder.close()

    def data(self, config: Config) -> tuple[Data, str]:
        """The data of a run and their hash; runs with the same data set share them."""
        key = json.dumps(schema.plain(config.dataset), sort_keys=True)
        if key not in self._loaded:
            data = config.dataset.load(config.data_folder)
            self._loaded[key] = data, data_hash(data)
        return self._loaded[key]

    def _go_on(self, members: Sequence[_Member], until: int | None) -> None:
        """Trains the members from where they stand: together from the newest step that all of them have saved."""
        saved = [set(checkpoint.steps(member.folder.path)) for member in members if not member.run.config.rerun]
        common = set.intersection(*saved) if len(saved) == len(members) and members else set()
        standing: dict[int | None, list[tuple[_Member, Checkpoint | None]]] = {}
        for member in members:
            found = None if member.run.config.rerun else member.folder.resume(max(common) if common else None)
            for complaint in member.folder.complaints:
                self.report.warned(complaint)
            standing.setdefault(None if found is None else found.facts["step"], []).append((member, found))
        for pairs in standing.values():
            checkpoints = [found for _, found in pairs if found is not None]
            self._train([member for member, _ in pairs], checkpoints, until)

    def _train(self, members: Sequence[_Member], checkpoints: Sequence[Checkpoint], until: int | None) -> None:
        """Trains members that stand at one step; checkpoints: one of each, or none, to start afresh."""
        config = members[0].run.config
        device = runner.device_of(config.device)
        data, digest = self.data(config)
        record = None
        if not checkpoints:
            record = {**describe(device), "command": self.command, "data": {"sha256": digest}}
            if device.type == "cpu":  # on a GPU they are chosen while it trains: see `result.json`
                record["kernels"] = in_use((*COMMON, *config.model.kernels))
        sink = FolderSink(members, self.report, self.interrupted)
        left: list[_Member] = []
        try:
            with sink:
                if record is not None:
                    sink.start(record, self.hydra)
                configs = [member.config for member in members]
                runner.train(configs, data_of_twin(config, data), device, sink, checkpoints, until)
        except StaleCheckpointError as error:
            for member in members:
                self.report.warned(f"{member.folder.path}: {error}; it is trained anew")
            self._train(members, [], until)
        except (runner.Interrupted, UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            if len(members) > 1:
                left = [member for slot, member in enumerate(members) if slot not in sink.over]
            else:
                left = []
                sink.fail(0, f"{type(error).__name__}: {error}", traceback.format_exc(), crashed=True)
                if os.environ.get("DROPBENCH_DEBUG") == "1":
                    raise
        finally:
            sink.close()
        # Out here nothing holds the exception any more, nor the memory of the stack.
        half = -(-len(left) // 2)
        for part in filter(None, (left[:half], left[half:])):
            self._go_on(part, until)

    def _controlled(self, run: Run) -> dict[str, float] | None:
        """The mean rate at every site of the run that this one controls, where its twin is made of them.

        Raises:
            UserError: that run has no result yet.
        """
        if not run.config.needs_record:
            return None
        path = replace(run, config=replace(run.config, control="none")).path
        record = read_run(path)
        if record.state != "done":
            raise UserError(f"control=mean: needs the result of the run that it controls; train that first: {path}")
        return {site: figures["asked"] for site, figures in record.rates.items()}


class FolderSink:
    """The `Sink` that writes each run of a stack to its folder.

    What it writes while the stack trains is written behind its back (see `Behind`), and an evaluation is reported when
    it is on the disk. As a context manager it leaves when all is there. What the disk refuses is raised by the next
    call, or when it leaves.
    """

    def __init__(self, members: Sequence[_Member], report: Report, interrupted: Callable[[], bool]) -> None:
        self.members, self.report, self.interrupted = members, report, interrupted
        self.over: set[int] = set()
        self.logs = [RunLog(member.run, flat(meaning(member.run.config)), report.warned) for member in members]
        self._behind = Behind()
        self._begun = False
        self._saving: set[int] = set()

    def __enter__(self) -> FolderSink:
        self._behind.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._behind.__exit__(*error)

    def start(self, record: Mapping[str, Any], hydra: Mapping[str, Composed | None]) -> None:
        """Begins every run.

        Args:
            record: what is known of all of them.
            hydra: what Hydra composed for each, by id.
        """
        first = self.members[0].run.id
        for slot, member in enumerate(self.members):
            run = member.run
            stack = {"size": len(self.members), "slot": slot, "first": first}
            about = {**record, "choices": dict(run.choices), "group": run.group, "stack": stack}
            self._behind.do(partial(_start, member, about, hydra.get(run.id)))

    def progress(self, step: int, steps: int) -> None:
        """See `Sink`."""
        self._behind.settle()
        self.report.progress(step, steps)

    def metrics(self, run: int, record: dict[str, Any]) -> None:
        """See `Sink`."""
        if not self._begun:  # a log that is opened looks into the folder: nothing of an earlier attempt may be there
            self._behind.wait()
            self._begun = True
        self.logs[run].open()
        member = self.members[run]
        self._behind.do(partial(member.folder.metrics, record), partial(self.report.evaluated, member.run.id, record))
        self.logs[run].evaluated(record)

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """See `Sink`; one that is still to be written is waited for, so that no more than one a run waits."""
        if run in self._saving:
            self._behind.wait()
        self._saving.add(run)
        self._behind.do(partial(self.members[run].folder.checkpoint, checkpoint), partial(self._saving.discard, run))

    def predictions(self, run: int, parts: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """See `Sink`."""
        arrays = {name: Part(outputs.numpy(), targets.numpy()) for name, (outputs, targets) in parts.items()}
        save(self.members[run].folder.path, Predictions(arrays))

    def finish(self, run: int, result: dict[str, Any]) -> None:
        """See `Sink`: written last, when all else of its run is there."""
        if "error" in result:
            self.fail(run, result["error"], result["error"], crashed=False)
            return
        self._behind.wait()
        self.over.add(run)
        self.members[run].folder.finish({**identity(self.members[run].run), "status": "done", **result})
        self.logs[run].close("done", result)
        name = next(name for name in ("error", "rmse", "loss") if name in result["validation"])
        of = self.members[run].run
        self.report.finished(of.id, result["validation"][name], name, of.choices["dataset"])

    def fail(self, run: int, reason: str, details: str, crashed: bool) -> None:
        """Records a failed run, unless it has a result already."""
        if run not in self.over:
            self._behind.wait()
            self.over.add(run)
            write_failure(self.members[run].run, self.members[run].folder, reason, details)
            self.logs[run].close("failed")
            self.report.failed(self.members[run].run.id, reason, crashed)

    def close(self) -> None:
        """Ends the logs of the runs that are not over."""
        for log in self.logs:
            log.close("interrupted")


def _start(member: _Member, record: dict[str, Any], composed: Composed | None) -> None:
    member.folder.start(member.run, record, composed.files if composed else {})


def write_failure(run: Run, folder: RunFolder, reason: str, details: str) -> None:
    """Writes the result of a run that failed, and `error.txt` with the details."""
    folder.finish({**identity(run), "status": "failed", "error": reason}, details)


def identity(run: Run) -> dict[str, Any]:
    """What every `result.json` says of its run."""
    return {
        "id": run.id,
        "study": run.config.study,
        "seed": run.config.seed,
        "choices": dict(run.choices),
        "rate": run.config.strategy.rate,
        "group": run.group,
        "settings": flat(meaning(run.config)),
    }


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
