"""Checkpoints: named tensors of one run and a few facts, as safetensors; no pickle, so reading one runs no code.

The newest and the one before it are kept. Each carries a SHA-256 over facts and tensors, so damage is noticed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from dropbench.runs.files import write

if TYPE_CHECKING:
    from torch import Tensor

NAME = "checkpoint.safetensors"
PREVIOUS = "checkpoint.previous.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """The state of one run after `facts["step"]` updates.

    Args:
        tensors: by name, without a run axis.
        facts: plain data.
        copied: happens when the tensors have come from the device; None: they are here.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    copied: torch.cuda.Event | None = None

    def wait(self) -> None:
        """Waits until the tensors may be read."""
        if self.copied is not None:
            self.copied.synchronize()


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the checkpoint; the one before it stays until this one is in place, and after."""
    checkpoint.wait()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    facts = json.dumps(checkpoint.facts, sort_keys=True)
    content = safetensors.torch.save(tensors, {"facts": facts, "sha256": _digest(tensors, facts)})
    write(folder / NAME, content, folder / PREVIOUS)


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints that are kept, the newest first, as far as their headers tell."""
    found = []
    for name in (NAME, PREVIOUS):
        try:
            with safetensors.safe_open(folder / name, framework="pt") as file:
                step = json.loads((file.metadata() or {})["facts"])["step"]
                found += [step] if isinstance(step, int) else []
        except (ValueError, TypeError, KeyError, RecursionError, OSError, safetensors.SafetensorError):
            continue
    return found


def load(folder: Path, step: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest sound checkpoint, or None; and a line for each file that was passed over.

    Args:
        folder: of the run.
        step: a newer one than that of this step is passed over without a word; None: the newest.
    """
    complaints: list[str] = []
    for name in (NAME, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            found = _read(path)
            if step is None or found.facts["step"] <= step:
                return found, complaints
        except (ValueError, RecursionError, OSError, safetensors.SafetensorError) as error:
            complaints.append(f"{path} is damaged ({error}) and is passed over")
    return None, complaints


def _read(path: Path) -> Checkpoint:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    facts = metadata.get("facts", "")
    if metadata.get("sha256") != _digest(tensors, facts):
        raise ValueError("its checksum is wrong")
    plain = json.loads(facts)
    if not isinstance(plain, dict) or not isinstance(plain.get("step"), int):
        raise ValueError("it is not the state of a run")
    return Checkpoint(tensors, plain)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
