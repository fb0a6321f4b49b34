"""Trains planned runs in this process, stack by stack, into their folders."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dropbench import runner, schema
from dropbench.config import meaning
from dropbench.control import data_of_twin, needs_record, twin
from dropbench.errors import UserError
from dropbench.runs.environment import data_hash, describe
from dropbench.runs.folder import RunFolder, path_of
from dropbench.runs.records import read_run
from dropbench.stack import capacity, partition
from dropbench.state import StaleCheckpointError

if TYPE_CHECKING:
    from dropbench.compose import Composed
    from dropbench.config import Config, Run
    from dropbench.data import Data
    from dropbench.runs.checkpoint import Checkpoint


@dataclass
class Report:
    """How it went.

    Args:
        failed: a line about each run that failed, by its id.
        refused: a line about each run whose strategy or model cannot act on its data, by its id.
        warnings: what was mended on the way.
        crashed: whether an error of dropbench itself, and not of the training, made a run fail.
    """

    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    crashed: bool = False


class Local:
    """Trains runs one stack after the other.

    Args:
        command: what the user typed, for the record.
        hydra: what Hydra composed for each run, by id.
        interrupted: whether to save and stop.
        progress: whether to show a bar.

    Attributes:
        report: how it went.
        watch: is told, now and then, which share of a stack is done; or None.
    """

    def __init__(
        self,
        command: Sequence[str],
        hydra: Mapping[str, Composed | None],
        interrupted: Callable[[], bool],
        progress: bool,
    ) -> None:
        self.command, self.hydra, self.interrupted, self.progress = list(command), hydra, interrupted, progress
        self.report = Report()
        self.watch: Callable[[float], None] | None = None
        self._loaded: dict[str, tuple[Data, str]] = {}

    def begin(self, hydra: Mapping[str, Composed | None]) -> None:
        """Starts a new report, for runs composed like this."""
        self.hydra, self.report = hydra, Report()

    def stacks(self, runs: Sequence[Run]) -> list[list[Run]]:
        """Sorts runs into stacks; those that cannot be trained go to `report.refused`."""
        able: list[Run] = []
        room: list[int] = []
        for run in runs:
            config = run.config
            runner.device_of(config.device)
            data, _ = self._data(config)
            try:
                parameters = config.model.parameters(data.facts)
                sites = config.model.sites(data.facts)
                config.strategy.place(sites, data.facts)
                if not needs_record(config):
                    twin(config, data).strategy.place(sites, data.facts)
            except UserError as refusal:
                self.report.refused[run.id] = str(refusal)
                continue
            able.append(run)
            room.append(capacity(parameters) if config.stack == "auto" else config.stack)
        most = dict(zip((run.id for run in able), room, strict=True))
        whole = partition([run.config for run in able], len(able) or 1)
        whole.sort(key=lambda group: needs_record(able[group[0]].config))  # after the runs that they control
        found = []
        for group in whole:
            size = min(most[able[index].id] for index in group)
            found += [[able[index] for index in group[at : at + size]] for at in range(0, len(group), size)]
        return found

    def train(self, stack: Sequence[Run], label: str = "") -> None:
        """Trains one stack: takes the folders, goes on from checkpoints, and hands failures to the report.

        Raises:
            runner.Interrupted: after everything was saved.
            UserError: a folder is busy, the disk refuses.
        """
        folders: list[RunFolder] = []
        twins: dict[str, Config] = {}
        for run in stack:
            try:
                twins[run.id] = twin(run.config, self._data(run.config)[0], self._controlled(run))
            except UserError as refusal:
                self.report.refused[run.id] = str(refusal)
        try:
            held = []
            for run in (run for run in stack if run.id in twins):
                folder = RunFolder.take(path_of(run))
                folders.append(folder)
                if run.config.rerun or read_run(folder.path).state != "done":  # another process may have done it
                    held.append((run, folder, None if run.config.rerun else folder.resume()))
                self.report.warnings += folder.complaints
            by_step: dict[int, list[tuple[Run, RunFolder, Checkpoint | None]]] = {}
            for item in held:
                by_step.setdefault(item[2].facts["step"] if item[2] else 0, []).append(item)
            for items in by_step.values():
                self._train(items, twins, label)
        finally:
            for folder in folders:
                folder.close()

    def _train(
        self, items: Sequence[tuple[Run, RunFolder, Checkpoint | None]], twins: Mapping[str, Config], label: str
    ) -> None:
        config = items[0][0].config
        device = runner.device_of(config.device)
        data, digest = self._data(config)
        checkpoints = [checkpoint for _, _, checkpoint in items if checkpoint is not None]
        if not checkpoints:
            record = {**describe(device), "command": self.command, "data": {"sha256": digest}}
            for slot, (run, folder, _) in enumerate(items):
                about = {"choices": dict(run.choices), "group": run.group, "stack": {"size": len(items), "slot": slot}}
                composed = self.hydra.get(run.id)
                folder.start(run, {**record, **about}, composed.files if composed else {})
        sink = FolderSink([run for run, _, _ in items], [folder for _, folder, _ in items], self, label)
        try:
            configs = [twins[run.id] for run, _, _ in items]
            runner.train(configs, data_of_twin(config, data), device, sink, checkpoints)
        except StaleCheckpointError as error:
            self.report.warnings += [f"{folder.path}: {error}; it is trained anew" for _, folder, _ in items]
            self._train([(run, folder, None) for run, folder, _ in items], twins, label)
        except (runner.Interrupted, UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            self.report.crashed = True
            for slot in range(len(items)):
                sink.fail(slot, f"{type(error).__name__}: {error}", traceback.format_exc())
            if os.environ.get("DROPBENCH_DEBUG") == "1":
                raise
        finally:
            sink.bar.close()

    def _controlled(self, run: Run) -> dict[str, float] | None:
        """The mean rate at every site of the run that this one controls, where its twin is made of them.

        Raises:
            UserError: that run has no result yet.
        """
        if not needs_record(run.config):
            return None
        path = path_of(replace(run, config=replace(run.config, control="none")))
        record = read_run(path)
        if record.state != "done":
            raise UserError(f"control=mean: needs the result of the run that it controls; train that first: {path}")
        return {site: figures["asked"] for site, figures in record.rates.items()}

    def _data(self, config: Config) -> tuple[Data, str]:
        """The data of a run and their hash; runs with the same data set share them."""
        key = json.dumps(schema.plain(config.dataset), sort_keys=True)
        if key not in self._loaded:
            data = config.dataset.load(config.data_folder)
            self._loaded[key] = data, data_hash(data)
        return self._loaded[key]


class FolderSink:
    """The `Sink` that writes each run of a stack to its folder, and shows how far it is."""

    def __init__(self, runs: Sequence[Run], folders: Sequence[RunFolder], local: Local, label: str) -> None:
        self.runs, self.folders, self.local = runs, folders, local
        self.bar = tqdm(
            desc=label or runs[0].id, unit="step", leave=False, dynamic_ncols=True,
            disable=None if local.progress else True,
        )  # fmt: skip
        self.finished: set[int] = set()
        self.told = 0.0

    def progress(self, step: int, steps: int) -> None:
        """See `Sink`."""
        if self.bar.total is None:
            self.bar.total, self.bar.initial = steps, step - 1
            self.bar.n = step - 1
        self.bar.update()
        if self.local.watch is not None and time.monotonic() - self.told > 1:
            self.told = time.monotonic()
            self.local.watch(step / steps)

    def metrics(self, run: int, record: dict[str, Any]) -> None:
        """See `Sink`."""
        self.folders[run].metrics(record)
        if run == 0 and not self.bar.disable:
            name = "error" if "error" in record["validation"] else "rmse"
            rates = [site["rate"] for site in record["sites"].values()]
            self.bar.set_postfix(
                {
                    "epoch": record["epoch"],
                    "loss": f"{record['training_loss']:.3f}",
                    f"validation {name}": f"{record['validation'][name]:.2f}",
                    "rate": f"{max(rates, default=0):.2f}",
                },
                refresh=False,
            )

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """See `Sink`."""
        self.folders[run].checkpoint(checkpoint)

    def finish(self, run: int, result: dict[str, Any]) -> None:
        """See `Sink`."""
        if "error" in result:
            self.fail(run, result["error"], result["error"])
        else:
            self._write(run, {"status": "done", **result})

    def fail(self, run: int, reason: str, details: str) -> None:
        """Records a failed run, unless it has a result already."""
        if run not in self.finished:
            self.local.report.failed[self.runs[run].id] = reason
            self._write(run, {"status": "failed", "error": reason}, details)

    def interrupted(self) -> bool:
        """See `Sink`."""
        return self.local.interrupted()

    def _write(self, slot: int, result: dict[str, Any], error: str | None = None) -> None:
        run = self.runs[slot]
        self.finished.add(slot)
        self.folders[slot].finish(
            {
                "id": run.id,
                "study": run.config.study,
                "seed": run.config.seed,
                "choices": dict(run.choices),
                "rate": run.config.strategy.rate,
                "group": run.group,
                "settings": flat(meaning(run.config)),
                **result,
            },
            error,
        )


def flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result
