"""`dropbench status`: how far sweeps are, from any machine that sees their folder."""

from __future__ import annotations

import json
import shlex
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropbench.cli.parser import Parser
from dropbench.compare.groups import default_metric, figure
from dropbench.errors import UserError
from dropbench.runs.find import folders
from dropbench.runs.records import RunRecord, read_run
from dropbench.sweep.manifest import manifests
from dropbench.sweep.slurm import FOLDER, Queue, look
from dropbench.terminal import clean, tell

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dropbench.sweep.manifest import Entry, Manifest
    from dropbench.sweep.slurm import Job

#: What a run of a sweep may be, in the order in which they are counted.
STATES = ("done", "failed", "pruned", "unreadable", "running", "queued", "interrupted", "not started")
#: What does not come to its end by itself.
LEFT = frozenset({"interrupted", "not started"})


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(
        prog="dropbench status",
        description="For each sweep under the paths: how many runs are done, failed, running, queued on the cluster, "
        "interrupted or not started; the failed ones and why; the best so far; how to go on.",
    )
    parser.add_argument("paths", nargs="*", default=["outputs"], metavar="PATH", help="studies or folders of studies")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how it is printed (default: text)")
    options = parser.parse_args(argv)
    groups, notes = gather([Path(path) for path in options.paths])
    if options.format == "json":
        print(json.dumps({"sweeps": [group.data() for group in groups], "notes": notes}, indent=2))
        return 0
    for group in groups:
        print("\n".join(map(clean, group.lines())), end="\n\n")
    for command in dict.fromkeys(group.resume for group in groups if group.resume):
        print(f"to go on: {clean(command)}")
    for note in notes:
        tell(f"note: {note}")
    return 0


@dataclass(frozen=True)
class Group:
    """The runs of a sweep, or those of a study that belong to none.

    Args:
        name: of the sweep; None for runs that belong to none.
        study: the folder.
        command: what the user typed.
        extensions: packages that the sweep needs.
        records: of the runs, those that have no folder yet among them.
        queue: what waits or runs on the cluster.
        jobs: those of this sweep.
    """

    name: str | None
    study: Path
    command: tuple[str, ...]
    extensions: tuple[str, ...]
    records: Sequence[RunRecord]
    queue: Queue
    jobs: tuple[Job, ...]

    @cached_property
    def states(self) -> Sequence[str]:
        """One of `STATES` for each of the records."""
        tasks = self.queue.runs
        return [_state(record, tasks.get(record.id)) for record in self.records]

    @property
    def counts(self) -> dict[str, int]:
        """How many runs there are in each of `STATES`."""
        counter = Counter(self.states)
        return {state: counter[state] for state in STATES if counter[state]}

    @property
    def resume(self) -> str | None:
        """The command that goes on with what is left; None where nothing is, or a process here is at it."""
        if LEFT.isdisjoint(self.states) or ("running" in self.states and not self.jobs):
            return None
        trusted = ["--extensions", ",".join(self.extensions)] if self.extensions else []
        return shlex.join(["dropbench", "resume", str(self.study), *trusted])

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Each run that failed, and why."""
        pairs = zip(self.records, self.states, strict=True)
        return [(record.id, _reason(record)) for record, state in pairs if state == "failed"]

    def best(self) -> list[dict[str, Any]]:
        """The setting with the lowest mean over seeds of the validation figure, for each data set."""
        found: dict[tuple[str, str], dict[str, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
        for record in self.records:
            if record.state == "done":
                name = f"validation.{default_metric(record).partition('.')[2]}"
                if record.figure(name) is not None:
                    found[record.choices["dataset"], name][record.group].append(record)
        best = []
        for (dataset, name), groups in found.items():
            means = {
                group: statistics.fmean(value for each in records if (value := each.figure(name)) is not None)
                for group, records in groups.items()
            }
            lowest = min(means, key=lambda group: means[group])
            first = groups[lowest][0]
            best.append(
                {
                    "dataset": dataset,
                    "model": first.choices["model"],
                    "strategy": first.choices["strategy"],
                    "optimizer": first.choices["optimizer"],
                    "rate": first.rate,
                    "metric": name,
                    "mean": means[lowest],
                    "n": len(groups[lowest]),
                }
            )
        return best

    def data(self) -> dict[str, Any]:
        """Everything, for a machine."""
        return {
            "sweep": self.name,
            "study": str(self.study),
            "command": list(self.command),
            "counts": self.counts,
            "runs": [
                {"id": record.id, "path": str(record.path), "state": state}
                for record, state in zip(self.records, self.states, strict=True)
            ],
            "failed": [{"id": name, "reason": reason} for name, reason in self.failed],
            "best": self.best(),
            "jobs": [
                {
                    "id": job.id,
                    "submitted": job.submitted,
                    "tasks": len(job.tasks),
                    "states": Counter(job.states.values()),
                }
                for job in self.jobs
            ],
            "resume": self.resume,
        }

    def lines(self) -> list[str]:
        """Everything, for a person."""
        many = len(self.records)
        title = f"{self.name}: {shlex.join(self.command)}" if self.name else f"{self.study}: runs of no sweep"
        counts = _listed(self.counts)
        lines = [title, f"  {many} run{'s' if many != 1 else ''}: {counts}"]
        for job in self.jobs:
            waiting = Counter(state.lower() for state in sorted(job.states.values()))
            told = _listed(waiting) or ("not known" if self.queue.note else "ended")
            plural = "s" if len(job.tasks) != 1 else ""
            logs = self.study / FOLDER / f"{job.id}_*"
            lines.append(f"  Slurm job {job.id} of {len(job.tasks)} task{plural}: {told}; logs: {logs}")
        for name, reason in self.failed:
            lines.append(f"  failed: {name}: {reason}")
        for best in self.best():
            name = best["metric"].partition(".")[2]
            unit = " %" if name == "error" else ""
            seeds = f"{best['n']} seed{'s' if best['n'] != 1 else ''}"
            lines.append(
                f"  best so far: {best['strategy']} {best['rate']:g} ({best['dataset']}, {best['model']}): "
                f"validation {name} {figure(best['mean'], name)}{unit}, mean of {seeds}"
            )
        return lines


def gather(paths: Sequence[Path]) -> tuple[list[Group], list[str]]:
    """The sweeps under the paths, then the runs that belong to none; and what could not be seen.

    Raises:
        UserError: there is neither a sweep nor a run under one of the paths.
    """
    sweeps: dict[Path, Manifest] = {}
    loose: dict[Path, Path] = {}
    for path in paths:
        found = manifests(path)
        sweeps |= {sweep.path.resolve(): sweep for sweep in found}
        try:
            loose |= {folder.resolve(): folder for folder in folders([path])} if not path.is_file() else {}
        except UserError:
            if not found:
                raise
    queues: dict[Path, Queue] = {}
    groups = []
    for sweep in sweeps.values():
        study = sweep.path.parent
        if study not in queues:
            queues[study] = look(study)
        queue = queues[study]
        places = [_folder(sweep, entry) for entry in sweep.runs]
        if sweep.race:
            places += _later_seeds(places, loose.values())
        for place in places:
            loose.pop(place.resolve(), None)
        jobs = tuple(job for job in queue.jobs if job.manifest == sweep.path.name)
        records = [read_run(place) for place in places]
        groups.append(Group(sweep.id, study, sweep.command, sweep.extensions, records, queue, jobs))
    studies: dict[Path, list[RunRecord]] = defaultdict(list)
    for folder in loose.values():
        studies[folder.parent].append(read_run(folder))
    groups += [Group(None, study, (), (), records, Queue(), ()) for study, records in studies.items()]
    notes = dict.fromkeys(queue.note for queue in queues.values() if queue.note)
    told = "; a run that another machine trains may be taken for interrupted, unless its locks are seen here"
    return groups, [note + told for note in notes]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _folder(sweep: Manifest, entry: Entry) -> Path:
    """Where a run of a sweep lies: in the study of the manifest, unless the sweep goes over studies."""
    study = sweep.study
    for key, _, value in (line.partition("=") for line in entry.overrides):
        if key.lstrip("+") == "study":
            study = value
    return (sweep.path.parent if study == sweep.study else sweep.path.parent.parent / study) / entry.id


def _later_seeds(first: Sequence[Path], others: Iterable[Path]) -> list[Path]:
    """Runs that a race added: those of the settings of its first ones."""
    settings = {(place.parent, _setting(place)) for place in first}
    found = set(first)
    return [place for place in others if place not in found and (place.parent, _setting(place)) in settings]


def _setting(folder: Path) -> str:
    """What a run shares with those that differ from it by seed alone; its own name where that is not known."""
    try:
        return str(json.loads((folder / "record.json").read_bytes())["group"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return folder.name


def _state(record: RunRecord, task: str | None) -> str:
    """The state of a run, by its folder and by that of its task on the cluster, if it has one there.

    On a file system that does not share locks only the queue knows that a run is running.
    """
    begun = record.path.is_dir()
    if record.state in ("done", "pruned", "running") or (task is None and begun):
        return record.state
    if task == "RUNNING" and begun:
        return "failed" if record.state == "failed" else "running"
    return "queued" if task is not None else "not started"


def _reason(record: RunRecord) -> str:
    """What the traceback of a failed run ends with."""
    try:
        lines = (record.path / "error.txt").read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    return next((line.strip() for line in reversed(lines) if line.strip()), "not recorded")
