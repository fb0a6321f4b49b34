"""What the loggers kept, read back with their own libraries."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Kept:
    """Of one run: the history of every figure, step by step, what is known of it, and how it ended."""

    history: dict[str, list[tuple[int, float]]]
    last: dict[str, float]
    settings: dict[str, str]
    tags: dict[str, str]
    study: str
    end: str


def of_tensorboard(study: Path, run: str) -> Kept:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(study / ".tensorboard" / run), size_guidance={"scalars": 0})
    events.Reload()
    scalars = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    last = {tag: values[0][1] for tag, values in scalars.items() if tag.startswith(("test", "selected"))}
    history = {tag: values for tag, values in scalars.items() if tag not in last}
    return Kept(history, last, _hyperparameters(events), _hyperparameters(events), study.name, "done" if last else "")


def _hyperparameters(events: Any) -> dict[str, str]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.summary_metadata.get("_hparams_/session_start_info")
    if content is None:
        return {}
    data = HParamsPluginData.FromString(content.plugin_data.content)
    return {key: str(_plain(value)) for key, value in data.session_start_info.hparams.items()}


def _plain(value: Any) -> object:
    return getattr(value, value.WhichOneof("kind"))


def of_wandb(study: Path, run: str) -> Kept:
    """The one file that is of this run, when it is closed: the library closes it from another process."""
    for _ in range(600):
        found = [kept for path in study.glob(".wandb/*run-*/*.wandb") if (kept := _wandb(path))[0] == run]
        if found and all(kept.end for _, kept in found):
            break
        time.sleep(0.05)
    ((_, kept),) = found
    return kept


def _wandb(path: Path) -> tuple[str, Kept]:
    history: dict[str, list[tuple[int, float]]] = {}
    summary: dict[str, Any] = {}
    name, end, settings, tags, study = "", "", {}, {}, ""
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            name, study = record.run.display_name, record.run.run_group
            tags = dict(tag.split("=") for tag in record.run.tags)
            items = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            settings = {key: str(value) for key, value in items.items() if not key.startswith("_")}
        elif kind == "history":
            for item in record.history.item:
                (key,) = item.nested_key
                if not key.startswith("_"):
                    history.setdefault(key, []).append((record.history.step.num, json.loads(item.value_json)))
        elif kind == "summary":
            summary |= {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.summary.update}
        elif kind == "exit":
            end = "failed" if record.exit.exit_code else "done"
    last = {key: value for key, value in summary.items() if key.startswith(("test", "selected"))}
    return name, Kept(history, last, settings, tags, study, end)


def _records(data: bytes) -> Iterator[Any]:
    """The records of a file in the format of the logs of LevelDB: blocks of 32 KiB, pieces with a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


def of_mlflow(study: Path, run: str) -> Kept:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{study.absolute()}/.mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(study.name)
    (found,) = [each for each in client.search_runs([experiment.experiment_id]) if each.info.run_name == run]
    figures = {
        key: sorted((m.step, m.value) for m in client.get_metric_history(found.info.run_id, key))
        for key in found.data.metrics
    }
    last = {key: values[0][1] for key, values in figures.items() if key.startswith(("test", "selected"))}
    history = {key: values for key, values in figures.items() if key not in last}
    end = {"FINISHED": "done", "FAILED": "failed", "KILLED": "interrupted", "RUNNING": ""}[found.info.status]
    return Kept(history, last, found.data.params, found.data.tags, experiment.name, end)


READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "mlflow": of_mlflow}
