"""What is minimised: one file is one objective."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Part):
    """Abstract: the loss of every run of a stack.

    Class attributes:
        copies: how often the batch is repeated in one forward pass, each copy with noise of its own.
        tasks: the tasks it can train.
    """

    folder = "objectives"
    copies: ClassVar[int] = 1
    tasks: ClassVar[frozenset[str]]

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of each run, [R].

        Args:
            outputs: of the model, [R, copies, batch, classes] or [R, copies, batch, steps, classes] (classification),
                [R, copies, batch, outputs] (regression).
            targets: class numbers [R, batch] or [R, batch, steps], -100 where nothing is asked;
                or reals [R, batch, outputs].
        """
