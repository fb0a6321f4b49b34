"""Data sets as tensors in memory: one file is one family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from dropbench.spec import Facts
    from dropbench.streams import Streams


@dataclass(frozen=True)
class Split:
    """Some examples.

    Args:
        inputs: float32 [N, *shape].
        targets: int64 [N] or [N, steps] (classes, -100 where nothing is asked), or float32 [N, outputs].
        facts: figures of each example, each [N]: `steps` where sequences differ in length, and what policies ask for.
    """

    inputs: Tensor
    targets: Tensor
    facts: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Split:
        """The same examples on a device."""
        facts = {name: figure.to(device) for name, figure in self.facts.items()}
        return Split(self.inputs.to(device), self.targets.to(device), facts)

    def part(self, first: int, end: int) -> Split:
        """Examples `first` to before `end`, or to the last."""
        facts = {name: figure[first:end] for name, figure in self.facts.items()}
        return Split(self.inputs[first:end], self.targets[first:end], facts)

    def pick(self, index: Tensor) -> Split:
        """The examples `index` [n]."""
        facts = {name: figure[index] for name, figure in self.facts.items()}
        return Split(self.inputs[index], self.targets[index], facts)

    def gather(self, index: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Inputs, targets and facts of the examples `index` [R, batch], each [R, batch, ...]."""

        def rows(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, index.flatten()).view(*index.shape, *tensor.shape[1:])

        return rows(self.inputs), rows(self.targets), {name: rows(figure) for name, figure in self.facts.items()}


#: (batch inputs [R, batch, *shape], streams, step) -> augmented inputs.
Augment = Callable[["Tensor", "Streams", int], "Tensor"]


@dataclass(frozen=True)
class Data:
    """A data set, ready to train on. The validation part is cut from the training set, never from the test set.

    Args:
        facts: what a model must know.
        train: what is trained on.
        validation: what selects.
        test: read once a finished run.
        augment: acts on training batches, or None.
    """

    facts: Facts
    train: Split
    validation: Split
    test: Split
    augment: Augment | None = None

    def to(self, device: torch.device) -> Data:
        """The same data on a device."""
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return Data(self.facts, train, validation, test, self.augment)


class Dataset(Part):
    """Abstract: a source of data.

    Class attributes:
        objective: name of the plain objective of its task.
    """

    folder = "data"
    objective: ClassVar[str] = "cross_entropy"

    def check(self, data_root: Path) -> None:
        """Looks, without torch, whether the data can be had at all, so that nobody waits for a late "no".

        Raises:
            UserError: files are missing and there is no network; the line names the path and what to put there.
        """
        del data_root  # most data sets need nothing

    @abstractmethod
    def load(self, data_root: Path) -> Data:
        """Reads or makes the data; the same bytes every time.

        Raises:
            UserError: missing data without network, a corrupt file; the line names the path.
        """
