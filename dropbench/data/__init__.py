"""Data sets as tensors in memory: one file is one family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dropbench.spec import Facts
    from dropbench.streams import Streams


@dataclass(frozen=True)
class Split:
    """Some examples.

    Args:
        inputs: float32 [N, *shape].
        targets: int64 [N] or [N, steps] (classes, -100 where nothing is asked), or float32 [N, outputs].
        facts: figures of each example that policies may use, each [N].
    """

    inputs: Tensor
    targets: Tensor
    facts: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.inputs)


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


class Dataset(Part):
    """Abstract: a source of data.

    Class attributes:
        objective: name of the plain objective of its task.
    """

    folder = "data"
    objective: ClassVar[str] = "cross_entropy"

    @abstractmethod
    def load(self, data_root: Path) -> Data:
        """Reads or makes the data; the same bytes every time.

        Raises:
            UserError: missing data without network, a corrupt file; the line names the path.
        """
