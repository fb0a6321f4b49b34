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

_LARGEST = 2 << 30
_PARTS = ("validation", "test", "validation_mc", "test_mc")


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
    """The predictions of a run; None where there are none that can be read."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(plain(folder / PREDICTIONS, _LARGEST))
    except (SafetensorError, ValueError, KeyError, OverflowError, MemoryError, AttributeError):
        return None
    parts = {}
    for split in _PARTS:
        outputs, targets = tensors.get(f"{split}.outputs"), tensors.get(f"{split}.targets")
        if outputs is not None and targets is not None and _sound(outputs, targets):
            parts[split] = Part(outputs, targets)
    return Predictions(parts)


def _sound(outputs: NDArray[Any], targets: NDArray[Any]) -> bool:
    """Whether these can be what they are said to be."""
    if outputs.dtype != np.float32 or not len(outputs) or len(outputs) != len(targets):
        return False
    if not np.isfinite(outputs).all():
        return False
    if targets.dtype == np.int64:
        return outputs.ndim == 2 and targets.ndim == 1 and 0 <= targets.min() <= targets.max() < outputs.shape[1]
    return targets.dtype == np.float32 and outputs.size == targets.size and bool(np.isfinite(targets).all())
