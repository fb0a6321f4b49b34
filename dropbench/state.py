"""Everything that changes while R runs train. A checkpoint is a slice of it along the run axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch

from dropbench.runs.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.models import Parameter
    from dropbench.streams import Streams


class StaleCheckpointError(ValueError):
    """A sound checkpoint, but of another code: its tensors are not those of the run."""


@dataclass
class History:
    """What the host remembers of one run.

    Args:
        score: of the selected evaluation, the lower the better; infinite before the first.
        epoch: of the selected evaluation, from 1; 0 before the first.
        waited: evaluations since then.
        stopped: epoch after which the run stopped early, or None.
        failed: step at which its loss was not finite, or None.
        rates: a site's asked and realised rate, summed over the watched steps.
        watched: their number.
        train_seconds: spent in updates.
        seconds: spent in all.
    """

    score: list[float] = field(default_factory=lambda: [math.inf])
    epoch: int = 0
    waited: int = 0
    stopped: int | None = None
    failed: int | None = None
    rates: dict[str, list[float]] = field(default_factory=dict)
    watched: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def active(self) -> bool:
        """Whether the run still learns."""
        return self.stopped is None and self.failed is None


@dataclass
class State:
    """The state of a stack. Every tensor has a leading run axis.

    Args:
        params: by name.
        optimizer: state of the optimizer.
        policies: state of the policies.
        selected: the parameters at the selected evaluation.
        selected_policies: the state of the policies then.
        losses: of the steps since the last evaluation tick, [R, steps].
        terms: what the losses are made of, by name, each [R], summed over the watched steps since then.
        rates: by site, [R, 2]: the asked and the realised rate, summed over the watched steps since then.
        step: updates done.
        watched: watched steps since the last evaluation tick.
        histories: one a run.
    """

    params: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    policies: dict[str, dict[str, Tensor]]
    selected: dict[str, Tensor]
    selected_policies: dict[str, dict[str, Tensor]]
    losses: list[Tensor]
    terms: dict[str, Tensor]
    rates: dict[str, Tensor]
    step: int
    watched: int
    histories: list[History]

    def checkpoints(self) -> list[Checkpoint]:
        """The states of all runs as they are now, each tensor copied once for the whole stack.

        What becomes of the state later does not show in them, so they may be written while the training goes on. From
        a CUDA device the copies come by themselves, into pinned memory: see `Checkpoint.wait`.
        """
        losses = torch.stack(self.losses, 1) if self.losses else torch.empty(len(self.histories), 0)
        terms = {f"terms/{name}": tensor for name, tensor in self.terms.items()}
        named = {**_flat(self), **terms, "losses": losses}
        host = {name: tensor.detach().to("cpu", non_blocking=True, copy=True) for name, tensor in named.items()}
        copied = None
        if next(iter(self.params.values())).device.type == "cuda":
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
        return [
            Checkpoint(
                {name: tensor[run] for name, tensor in host.items()},
                {"step": self.step, "watched": self.watched, "history": asdict(history)},
                copied,
            )
            for run, history in enumerate(self.histories)
        ]

    def restore(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Takes over the states of all runs of the stack, which stand at one step.

        Raises:
            StaleCheckpointError: they are not states of such runs.
        """
        expected = {name: tuple(tensor.shape[1:]) for name, tensor in _flat(self).items()}
        for checkpoint in checkpoints:
            shapes = {
                name: tuple(tensor.shape)
                for name, tensor in checkpoint.tensors.items()
                if name != "losses" and not name.startswith("terms/")
            }
            if shapes != expected:
                raise StaleCheckpointError("the checkpoint does not hold the state of this run")
        first = checkpoints[0]
        for name, tensor in _flat(self).items():
            tensor.detach().copy_(torch.stack([checkpoint.tensors[name] for checkpoint in checkpoints]))
        device = next(iter(self.params.values())).device
        self.terms = {
            name.removeprefix("terms/"): torch.stack([each.tensors[name] for each in checkpoints]).to(device)
            for name in first.tensors
            if name.startswith("terms/")
        }
        losses = torch.stack([checkpoint.tensors["losses"] for checkpoint in checkpoints])
        self.losses = list(losses.to(device).unbind(1))
        self.step, self.watched = first.facts["step"], first.facts["watched"]
        self.histories = [History(**checkpoint.facts["history"]) for checkpoint in checkpoints]


def initial(parameters: Sequence[Parameter], streams: Streams) -> dict[str, Tensor]:
    """The parameters before training, each [R, *shape]: a function of the seed and the name alone."""
    values = {}
    for parameter in parameters:
        if parameter.init == "uniform":
            draw = streams.uniform("init", 0, parameter.name, parameter.shape)
            values[parameter.name] = (2 * draw - 1) * parameter.bound
            if parameter.raised is not None:
                values[parameter.name][..., slice(*parameter.raised)] += 1
        else:
            constant = float(parameter.init == "ones")
            values[parameter.name] = torch.full((streams.runs, *parameter.shape), constant, device=streams.device)
    return values


def summary(value: Tensor) -> float | dict[str, float]:
    """A number as it is, several (one a unit) as their mean and their ends, for a record."""
    if value.dim() == 0:
        return value.item()
    return {"mean": value.mean().item(), "min": value.min().item(), "max": value.max().item()}


def _flat(state: State) -> dict[str, Tensor]:
    parts: dict[str, Mapping[str, Tensor]] = {
        "params": state.params,
        "optimizer": state.optimizer,
        "selected": state.selected,
        "rates": state.rates,
        **{f"policies/{name}": tensors for name, tensors in state.policies.items()},
        **{f"selected_policies/{name}": tensors for name, tensors in state.selected_policies.items()},
    }
    return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}
