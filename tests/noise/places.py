"""What the tests of the noises share: rates, draws and places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dropbench.noise import Place
from dropbench.spec import Clock, Scene, Site
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dropbench.models import Parameter

HIDDEN = Site("hidden1", "hidden", 1.0, ("batch", "unit"), 3, feeds=("output.weight",), activation="selu")


def rates(*values: float, dims: int = 2) -> torch.Tensor:
    """[R, 1, ...], `dims` axes."""
    return torch.tensor(values).view(-1, *(1,) * (dims - 1))


def words(*shares: float) -> torch.Tensor:
    """16-bit words that stand for shares of 2**16, one run: [1, n]."""
    return torch.tensor([[round(share * 2**16) - 2**15 for share in shares]], dtype=torch.int16)


def place(
    site: Site = HIDDEN,
    *,
    learned: Mapping[str, torch.Tensor] | None = None,
    drive: torch.Tensor | None = None,
    params: Mapping[str, torch.Tensor] | None = None,
    declared: Mapping[str, Parameter] | None = None,
    examples: int = 10,
    task: str = "classification",
    step: int = 0,
) -> Place:
    """A place in a training of 100 steps."""
    clock = Clock(step, 100, 0, 1)
    scene = Scene(clock, params or {}, declared or {}, examples, task, Streams((0,)))
    return Place(site, scene, learned or {}, drive)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two float32 tensors agree in every bit, the sign of 0 included."""
    return torch.equal(one.view(torch.int32), other.view(torch.int32))


#: Values that arithmetic likes to change: a denormal, both zeros, one near the greatest, one that binary lacks.
DELICATE = torch.tensor([[1e-42, -0.0, 0.0, 3.3e38, 0.1, -7.0]])
