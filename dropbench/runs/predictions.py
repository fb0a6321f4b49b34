"""What the selected weights of a run predict, example by example: `predictions.safetensors` in its folder.

Kept where `save_predictions=true`. Reading needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dropbench.runs.files import plain, write
from dropbench.runs.records import PREDICTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_LARGEST = 1 << 30
_SPLITS = ("validation", "test", "validation_mc", "test_mc")


@dataclass(frozen=True)
class Part:
    """What is predicted for the items of a split.

    Args:
        outputs: probabilities [items, classes] of a classification, or the outputs [items, ...]; float32.
        targets: class numbers, int64 [items], or what the outputs should be, float32 [items, ...].
    """

    outputs: NDArray[np.float32]
    targets: NDArray[np.generic]

    @property
    def classes(self) -> bool:
        """Whether it is a classification."""
        return self.targets.dtype.kind == "i"


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run, by split: `validation`, `test`; `validation_mc`, `test_mc` for the mean of passes."""

    parts: Mapping[str, Part] = field(default_factory=dict)


def save(folder: Path, predictions: Predictions) -> None:
    """Writes the file, in one piece."""
    from safetensors.numpy import save as packed

    tensors = {}
    for split, part in predictions.parts.items():
        tensors[f"{split}.outputs"] = np.ascontiguousarray(part.outputs, dtype=np.float32)
        tensors[f"{split}.targets"] = np.ascontiguousarray(part.targets)
    write(folder / PREDICTIONS, packed(tensors))


def read(folder: Path) -> Predictions | None:
    """The predictions of a run, without splits that are not sound; None where there are none that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(plain(folder / PREDICTIONS, _LARGEST))
    except (SafetensorError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError):
        return None
    parts = {}
    for split in _SPLITS:
        outputs, targets = tensors.get(f"{split}.outputs"), tensors.get(f"{split}.targets")
        if outputs is not None and targets is not None and _sound(outputs, targets):
            parts[split] = Part(outputs, targets)
    return Predictions(parts)


def _sound(outputs: NDArray[Any], targets: NDArray[Any]) -> bool:
    """Whether these can be what they are said to be."""
    if outputs.dtype != np.float32 or not (outputs.size and targets.size) or not np.isfinite(outputs).all():
        return False
    if targets.dtype == np.int64:
        if (outputs.ndim, targets.ndim) != (2, 1) or len(outputs) != len(targets):
            return False
        return bool((abs(outputs - 0.5) <= 0.5).all() and ((targets >= 0) & (targets < outputs.shape[1])).all())
    same = targets.dtype == np.float32 and outputs.ndim > 0 and outputs.shape == targets.shape
    return same and bool(np.isfinite(targets).all())
