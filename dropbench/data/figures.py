"""Figures of single examples that a policy may ask for, each between 0 and 1 over the training set."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from dropbench.data import Data, Split

#: The fact of a split that holds the steps of each sequence, where they differ.
STEPS = "steps"


def with_figures(data: Data, names: Iterable[str]) -> Data:
    """The same data with the figures `names` among the facts of every split.

    Formula: `clip((v - min) / (max - min), 0, 1)` over the training set; 1/2 where all are equal. `v` is for `length`
    the steps of the sequence; for `compressed` the bytes that zlib makes of it, at 8 bits a value.
    """
    low, high = data.train.inputs.min(), data.train.inputs.max()
    for name in sorted(names):
        splits = [_raw(name, split, low, high) for split in (data.train, data.validation, data.test)]
        least, most = splits[0].min(), splits[0].max()
        scaled = [
            ((raw - least) / (most - least)).clamp(0, 1) if most > least else raw.new_full(raw.shape, 0.5)
            for raw in splits
        ]
        parts = (data.train, data.validation, data.test)
        train, validation, test = (
            replace(part, facts={**part.facts, name: figure}) for part, figure in zip(parts, scaled, strict=True)
        )
        data = replace(data, train=train, validation=validation, test=test)
    return data


def _raw(name: str, split: Split, low: Tensor, high: Tensor) -> Tensor:
    steps = split.facts.get(STEPS)
    if name == "length":
        full = split.inputs.new_full((len(split),), float(split.inputs.shape[1]))
        return full if steps is None else steps.float()
    bytes_ = ((split.inputs - low) / (high - low).clamp(min=1e-12) * 255).round().clamp(0, 255).byte().cpu().numpy()
    ends = [bytes_.shape[1]] * len(split) if steps is None else steps.tolist()
    sizes = [len(zlib.compress(example[:end].tobytes(), 6)) for example, end in zip(bytes_, ends, strict=True)]
    return split.inputs.new_tensor(sizes)
