"""Writes small run folders, as `dropbench train` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

from dropbench.runs.files import line


def result(seed: int = 0, error: float = 2.0, **changes: Any) -> dict[str, Any]:
    """A result.json; `changes` replace top-level keys, those of `settings` are added to it."""
    strategy = changes.pop("strategy", "standard")
    rate = changes.pop("rate", 0.5)
    dataset = changes.pop("dataset", "digits")
    model = changes.pop("model", "mlp")
    optimizer = changes.pop("optimizer", "sgd_dropout")
    settings = {"dataset.kind": dataset, "model.widths": [256, 256], "strategy.rate": rate, "seed": seed}
    settings |= changes.pop("settings", {})
    record = {
        "id": "whatever",
        "study": "main",
        "status": "done",
        "seed": seed,
        "choices": {"dataset": dataset, "model": model, "strategy": strategy, "optimizer": optimizer},
        "rate": rate,
        "epochs": 30,
        "steps": 900,
        "parameters": 85002,
        "selection": {"rule": "validation_best", "epoch": 17},
        "train": {"loss": 0.01, "error": 0.0, "nll": 0.01},
        "validation": {"loss": 0.09, "error": error + 0.5, "nll": 0.09},
        "test": {"loss": 0.08, "error": error, "nll": 0.08 + error / 100},
        "rates": {"input": {"asked": 0.2, "realised": 0.2003}, "hidden1": {"asked": 0.5, "realised": 0.4998}},
        "seconds": {"total": 4.0 + seed, "train": 3.5},
        "peak_memory_bytes": 123456789,
        "group": f"{crc32(repr((dataset, model, strategy, optimizer, rate)).encode()):08x}",
        "settings": settings,
        "task": "classification",
    }
    return record | changes


def write(folder: Path, content: dict[str, Any] | str | bytes | None = None) -> Path:
    """Writes a run folder; `content` is its result.json, None leaves the run without one."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 0\nstrategy:\n  rate: 0.5\n")
    rows = [{"seq": i, "epoch": i, "step": 30 * i, "train": {"loss": 1 / (i + 1)}} for i in range(8)]
    (folder / "metrics.jsonl").write_bytes(b"".join(map(line, rows)) + b'{"seq": 8, "ep')
    if isinstance(content, dict):
        content = json.dumps(content)
    if isinstance(content, str):
        content = content.encode()
    if content is not None:
        (folder / "result.json").write_bytes(content)
    return folder


def study(root: Path) -> Path:
    """Two strategies with three and two seeds, one that ran once, and of each kind of trouble one."""
    place = root / "main"
    for seed, error in enumerate((2.0, 2.5, 3.0)):
        write(place / f"digits-mlp-standard-r0.5-s{seed}-aaaaaaaa", result(seed, error))
    for seed, error in enumerate((1.5, 1.7)):
        changes = {"strategy": "gradual/annealed", "rate": 0.25}
        write(place / f"digits-mlp-gradual-r0.25-s{seed}-bbbbbbbb", result(seed, error, **changes))
    write(place / "digits-mlp-none-r0-s0-cccccccc", result(0, 4.0, strategy="none", rate=0))
    failed = {"status": "failed", "seed": 1, "choices": {"dataset": "digits"}, "error": "loss is not finite"}
    (write(place / "digits-mlp-none-r0-s1-dddddddd", failed) / "error.txt").write_text("Traceback\nValueError: nan\n")
    write(place / "digits-mlp-none-r0-s2-eeeeeeee", '{"status": "do')
    write(place / "digits-mlp-none-r0-s3-ffffffff", None)
    return root
