"""Small value types that every room of the house shares. Nothing here computes, and nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.streams import Streams

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

SiteKind = Literal[
    "input", "embedding", "hidden", "branch", "weight", "state", "candidate", "cell", "carry", "recurrent_weight"
]
SITE_KINDS: tuple[SiteKind, ...] = get_args(SiteKind)
TRANSITION_KINDS: tuple[SiteKind, ...] = ("state", "candidate", "cell", "carry", "recurrent_weight")


@dataclass(frozen=True)
class Site:
    """A place in a model where noise may act.

    Args:
        name: unique in the model, `hidden1`.
        kind: what stands there; a strategy chooses sites by kind.
        depth: 0 at the input, 1 at the last hidden layer.
        axes: names of the axes after the run axis, in the order of the value: of `batch`, `step`, `gate`, `unit`,
            `row`, `column`, `source`. `unit` is the axis whose elements are units (features, maps, state units).
        units: length of the `unit` axis.
        weight: name of the matrix whose columns make the units, or, of a site at a weight, the weight itself.
        second: name of the matrix that makes the second half of the units, where a layer walks both ways.
        feeds: names of the weights that the value is multiplied by.
        activation: what made the value, where that is one function of a pre-activation that the model hands over.
        shape: of the weight, at a weight.
    """

    name: str
    kind: SiteKind
    depth: float
    axes: tuple[str, ...]
    units: int
    weight: str | None = None
    second: str | None = None
    feeds: tuple[str, ...] = ()
    activation: str | None = None
    shape: tuple[int, ...] = ()

    @property
    def maps(self) -> bool:
        """Whether the units are maps, with rows and columns."""
        return "row" in self.axes and self.kind in ("hidden", "branch")


@dataclass(frozen=True)
class Facts:
    """What a model must know of the data, without the data.

    Args:
        form: `vector` (shape [features]), `image` ([channels, rows, columns]) or `sequence` ([steps, features]).
        shape: of one example.
        task: `classification` (targets are class numbers) or `regression` (targets are real).
        outputs: number of classes, or of real targets.
        per_step: whether there is a target at every step of a sequence rather than one an example.
        symbols: whether the features of a sequence are one-hot symbols (word types).
        shortest: steps of the shortest sequence, where their lengths differ.
    """

    form: Literal["vector", "image", "sequence"]
    shape: tuple[int, ...]
    task: Literal["classification", "regression"]
    outputs: int
    per_step: bool = False
    symbols: bool = False
    shortest: int | None = None

    @property
    def size(self) -> int:
        """Number of values in one example."""
        product = 1
        for length in self.shape:
            product *= length
        return product


@dataclass(frozen=True)
class Clock:
    """Where training stands: `step` updates done of `steps`, in epoch `epoch` (from 0) of `epochs`.

    `selected`: in a final evaluation, the updates that each run had done when it was selected, [R].
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    selected: Tensor | None = None

    @property
    def progress(self) -> PerRun:
        """Share of the training that is done, in [0, 1)."""
        return (self.step if self.selected is None else self.selected) / self.steps


@dataclass(frozen=True)
class Scene:
    """What policies and noises may look at in one step.

    Args:
        clock: when.
        params: of the R nets, each [R, *shape], without gradient.
        declared: what each of them is.
        examples: that train.
        task: see `Facts`.
        streams: for draws that do not change from step to step.
        facts: figures of the examples of this batch, each [R, batch].
    """

    clock: Clock
    params: Mapping[str, Tensor]
    declared: Mapping[str, Parameter]
    examples: int
    task: Literal["classification", "regression"]
    streams: Streams
    facts: Mapping[str, Tensor] = field(default_factory=dict)

    def norms(self, site: Site) -> Tensor | None:
        """The norm of the weights into each unit of a site, over all gates, [R, units]; None where none lead there."""
        if site.weight is None:
            return None
        names = [name for name in (site.weight, site.second) if name is not None]
        found = []
        for name in names:
            axis = self.declared[name].unit_axis
            assert axis is not None
            weight = self.params[name].detach().movedim(axis + 1, -1)
            columns = weight.reshape(len(weight), -1, weight.shape[-1]).square().sum(1)
            found.append(columns.view(len(weight), -1, site.units // len(names)).sum(1).sqrt())
        import torch

        return torch.cat(found, 1)


@dataclass(frozen=True)
class Signals:
    """What a policy may see of the training, present only if some policy needs it.

    There is no test field, so no policy can see the test set.

    Args:
        train_loss: [R], mean training loss, with noise, since the last control tick.
        clean_loss: [R], mean loss, without noise, on a piece of what trains.
        held_out_loss: [R], the same on a piece of the training set that neither trains nor selects.
        saliency: by site, [R, units]: the mean of |value x gradient of the loss| over examples (and steps, places).
        conflict: by site, [R, units]: how often the mean gradients of two halves of the training piece disagree in
            sign, in [0, 1].
    """

    train_loss: Tensor | None = None
    clean_loss: Tensor | None = None
    held_out_loss: Tensor | None = None
    saliency: Mapping[str, Tensor] = field(default_factory=dict)
    conflict: Mapping[str, Tensor] = field(default_factory=dict)
