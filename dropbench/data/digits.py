"""The handwritten digits that ship with the package (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.data import Data, Dataset, Split
from dropbench.spec import Facts, Range

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_TEST = 360


@dataclass(frozen=True)
class Digits(Dataset):
    """1,797 real digits, grey, 8x8, values in [0, 1]; no download.

    360 examples test, `validation_size` of the other 1,437 validate, the rest trains; all three stratified by class and
    the same for every run.

    Args:
        train_size: examples that train, a stratified part of what is left; null: all of it.
        validation_size: examples that select, cut from the training set.

    Source: "Optical Recognition of Handwritten Digits", UCI, DOI 10.24432/C50P49, CC BY 4.0 (see digits.md).
    """

    train_size: Annotated[int, Range(1, 10**6)] | None = None
    validation_size: Annotated[int, Range(1, 10**6)] = 216

    def load(self, data_root: Path) -> Data:
        """Reads the array inside the package; `data_root` is not used."""
        del data_root
        from importlib.resources import files

        import numpy as np
        import torch

        from dropbench.data.splits import divide, stratified

        with (files("dropbench.data") / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            inputs = torch.from_numpy(arrays["images"]).float().div(16).unsqueeze(1)
            labels = torch.from_numpy(arrays["labels"]).long()

        def part(index: Tensor) -> Split:
            return Split(inputs[index], labels[index])

        order = stratified(labels, "test")
        test, rest = order[:_TEST].sort().values, order[_TEST:].sort().values
        train, validation = divide(labels[rest], self.validation_size, self.train_size)
        facts = Facts("image", (1, 8, 8), "classification", 10)
        return Data(facts, part(rest[train]), part(rest[validation]), part(test))
