"""What is minimised: one file is one objective."""

from __future__ import annotations

from abc import abstractmethod
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, ClassVar

from dropbench.parts import Part
from dropbench.spec import PerRun, vector

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Part):
    """Abstract: the loss of every run of a stack.

    Class attributes:
        tasks: the tasks it can train.
        clean: whether a last copy of the batch passes without noise.
    """

    folder = "objectives"
    tasks: ClassVar[frozenset[str]]
    clean: ClassVar[bool] = False

    @property
    def copies(self) -> int:
        """How often the batch is repeated in one forward pass, each copy with noise of its own."""
        return 1

    @abstractmethod
    def terms(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What the loss is made of, each [R], by the names under which it is recorded.

        Args:
            outputs: of the model, [R, copies, batch, classes] or [R, copies, batch, steps, classes] (classification),
                [R, copies, batch, outputs] (regression); with `clean`, one copy more.
            targets: class numbers [R, batch] or [R, batch, steps], -100 where nothing is asked;
                or reals [R, batch, outputs].
        """

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The loss of each run, [R]: by default the sum of the terms."""
        return reduce(add, terms.values())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each run, [R]; see `terms`."""
        return self.total(self.terms(outputs, targets))


def is_classes(targets: Tensor) -> bool:
    """Whether targets are class numbers rather than reals."""
    return not targets.is_floating_point()


def plain(outputs: Tensor, targets: Tensor, smoothing: PerRun | None = None) -> Tensor:
    """The plain loss of each copy, [R, copies]: cross-entropy of class numbers, mean squared error of reals.

    Args:
        outputs: [R, copies, batch, ...], as for `Objective.terms`.
        targets: likewise.
        smoothing: [R], the share of the target that is spread over all classes (Szegedy et al., 2016); None for 0.
    """
    if not is_classes(targets):
        return (outputs.float() - targets.unsqueeze(1)).square().flatten(2).mean(2)
    from dropbench.kernels.loss import cross_entropy

    return cross_entropy(outputs, targets, None if smoothing is None else vector(smoothing))


def asked_mean(values: Tensor, targets: Tensor) -> Tensor:
    """The mean of `values` [R, copies, batch, ...] over what is asked, [R, copies]; -100 stands where nothing is."""
    asked = (targets != -100).unsqueeze(1)  # one copy axis, broadcast over the copies
    return (values * asked).flatten(2).sum(2) / asked.flatten(2).sum(2)


def distance(one: Tensor, other: Tensor, targets: Tensor) -> Tensor:
    """The mean square of the difference of two outputs [R, batch, ..., classes] over what is asked, [R]."""
    squares = (one - other).square()
    if not is_classes(targets):
        return squares.flatten(1).mean(1)
    return asked_mean(squares.mean(-1).unsqueeze(1), targets).squeeze(1)
