"""Small value types that every room of the house shares. Nothing here computes, and nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

if TYPE_CHECKING:
    from torch import Tensor

    #: A real hyper-parameter: a float in the config, a tensor [R] once R runs are stacked.
    #: Runs that differ in `PerRun` fields alone share a stack; every other field decides the shape of the graph.
    PerRun = float | Tensor
else:
    PerRun = float


def vector(value: PerRun) -> Tensor:
    """A real hyper-parameter where runs are stacked: [R]."""
    assert not isinstance(value, float), "a part computes with stacked numbers: see stack.stacked"
    return value


@dataclass(frozen=True)
class Range:
    """The values a number in the config may take, both ends included unless `open_high` or `open_low`."""

    low: float
    high: float
    open_high: bool = False
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low, high = (f"{end:g}" if isinstance(end, float) else str(end) for end in (self.low, self.high))
        return f"{low} {'<' if self.open_low else '<='} value {'<' if self.open_high else '<='} {high}"


Rate = Annotated[PerRun, Range(0, 1, open_high=True)]
#: Below 1 by more than a 16-bit mask or a float32 could miss.
Cap = Annotated[PerRun, Range(0, 0.9999)]
Factor = Annotated[PerRun, Range(0, 1)]
Share = Annotated[PerRun, Range(0, 1)]
NonNegative = Annotated[PerRun, Range(0, 1e9)]
Positive = Annotated[PerRun, Range(0, 1e9, open_low=True)]

SiteKind = Literal["input", "embedding", "hidden", "state", "candidate", "cell", "carry", "recurrent_weight"]
SITE_KINDS: tuple[SiteKind, ...] = (
    "input",
    "embedding",
    "hidden",
    "state",
    "candidate",
    "cell",
    "carry",
    "recurrent_weight",
)
TRANSITION_KINDS: tuple[SiteKind, ...] = ("state", "candidate", "cell", "carry", "recurrent_weight")


@dataclass(frozen=True)
class Site:
    """A place in a model where noise may act.

    Args:
        name: unique in the model, `hidden1`.
        kind: what stands there; a strategy chooses sites by kind.
        depth: 0 at the input, 1 at the last hidden layer.
        axes: names of the axes after the run axis, in the order of the value: of `batch`, `step`, `unit`, `row`,
            `column`, `source`. `unit` is the axis whose elements are units (features, maps, state units).
        units: length of the `unit` axis.
    """

    name: str
    kind: SiteKind
    depth: float
    axes: tuple[str, ...]
    units: int


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data, without the data.

    Args:
        form: `vector` (shape [features]), `image` ([channels, rows, columns]) or `sequence` ([steps, features]).
        shape: of one example.
        task: `classification` (targets are class numbers) or `regression` (targets are real).
        outputs: number of classes, or of real targets.
        per_step: whether there is a target at every step of a sequence rather than one an example.
    """

    form: Literal["vector", "image", "sequence"]
    shape: tuple[int, ...]
    task: Literal["classification", "regression"]
    outputs: int
    per_step: bool = False

    @property
    def size(self) -> int:
        """Number of values in one example."""
        product = 1
        for length in self.shape:
            product *= length
        return product


@dataclass(frozen=True)
class Clock:
    """Where training stands: `step` updates done of `steps`, in epoch `epoch` (from 0) of `epochs`."""

    step: int
    steps: int
    epoch: int
    epochs: int

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1)."""
        return self.step / self.steps


@dataclass(frozen=True)
class Signals:
    """What a policy may see of the training, each figure a tensor [R], present only if some policy needs it.

    There is no test field, so no policy can see the test set.

    Args:
        train_loss: mean training loss, with noise, since the last control tick.
        held_out_loss: mean loss, without noise, on a piece of the training set that neither trains nor selects.
    """

    train_loss: Tensor | None = None
    held_out_loss: Tensor | None = None
