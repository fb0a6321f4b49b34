"""What a result depends on besides its config: versions, hardware, code, data."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import dropbench

if TYPE_CHECKING:
    from dropbench.data import Data

PACKAGES = ("torch", "torchvision", "hydra-core", "omegaconf", "numpy", "safetensors")


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, hardware, git and determinism, for `record.json`."""
    return {
        "folder": str(Path.cwd()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "dropbench": dropbench.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "cuda": torch.version.cuda,
        },
        "hardware": {
            "device": str(device),
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "system": platform.platform(),
        },
        "git": _git(),
        "determinism": {
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "mkl_cbwr": os.environ.get("MKL_CBWR"),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
    }


def data_hash(data: Data) -> str:
    """SHA-256 over the tensors that train, validate and test."""
    digest = hashlib.sha256()
    for split in (data.train, data.validation, data.test):
        for tensor in (split.inputs, split.targets):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@cache
def _git() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it was changed since; None outside a checkout."""
    folder = Path(dropbench.__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603 - fixed words
                ["git", "-C", str(folder), *arguments],  # noqa: S607
                capture_output=True, text=True, timeout=10, check=True,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
