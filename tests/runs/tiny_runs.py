"""Runs of a blink in real run folders, and what of a folder must be the same however it came about."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dropbench.compose import Composed, Composer
from dropbench.config import Run, check
from dropbench.runs.checkpoint import NAME, PREVIOUS, load
from dropbench.runs.folder import METRICS, RESULT
from dropbench.sweep.local import Local
from dropbench.sweep.report import Report

TINY = (
    "dataset.train_size=40", "dataset.validation_size=20", "batch_size=16", "epochs=2",
    "strategy=gradual", "device=cpu",
)  # fmt: skip
NETS = {
    "mlp": ("model=mlp", "model.widths=[5]", "model.batch_norm=true"),
    "cnn": ("model=cnn", "model.maps=[3]", "model.dense=[]"),
    "lstm": ("model=lstm", "model.hidden=4"),
}


#: What is kept of Hydra's own record; the real one takes longer to write than the run.
SAID = Composed({}, {}, (), (), None, {"overrides": {}, "job": {}})


@cache
def _run(*overrides: str) -> Run:
    composed = Composer().compose(overrides)
    return Run(check(composed.data), composed.choices)


def run_of(root: Path, net: str = "mlp", *overrides: str) -> Run:
    """A run of 3 steps an epoch whose folder lies under `root`."""
    run = _run(*TINY, *NETS[net], *overrides)
    return replace(run, config=replace(run.config, output_root=str(root)))


def never() -> bool:
    return False


def after(questions: int) -> Callable[[], bool]:
    """Says no so many times, once a step, and then yes."""
    left = iter(range(questions))
    return lambda: next(left, None) is None


def train(runs: Sequence[Run], interrupted: Callable[[], bool] = never) -> Local:
    """Trains one stack into its folders, as `dropbench train` does."""
    local = Local(["dropbench", "train"], dict.fromkeys([run.id for run in runs], SAID), interrupted, Report())
    local.train(runs)
    return local


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, whole file, apart from time and what time seals."""
    found = [json.loads(text) for text in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "crc")} for row in found]


def outcome(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[Any]]]:
    """Result, metrics and weights of a finished run, apart from times and memory."""
    result = json.loads((folder / RESULT).read_text())
    kept = {key: value for key, value in result.items() if key not in ("seconds", "peak_memory_bytes")}
    saved, complaints = load(folder)
    assert saved is not None
    assert complaints == []
    return kept, rows(folder), {name: tensor.tolist() for name, tensor in saved.tensors.items()}


KNOWN = {
    "config.yaml", "record.json", METRICS, NAME, PREVIOUS, RESULT, "lock",
    ".hydra", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml",
}  # fmt: skip


def strays(folder: Path) -> list[str]:
    """Files that no run folder has when it is left in peace."""
    return sorted({str(path.relative_to(folder)) for path in folder.rglob("*")} - KNOWN)
