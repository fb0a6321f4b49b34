"""What the tests of the policies share: sites and scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropbench.spec import Clock, Scene, Site
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from dropbench.models import Parameter

HIDDEN = Site("hidden1", "hidden", 1.0, ("batch", "unit"), 4, weight="w")
STATE = Site("layer1.state", "state", 1.0, ("step", "batch", "gate", "unit"), 2, weight="u")
CARRY = Site("layer1.carry_h", "carry", 1.0, ("step", "batch", "unit"), 2, weight="u")
MAP = Site("conv1", "hidden", 0.5, ("batch", "unit", "row", "column"), 2, weight="k")
WEIGHT = Site("w", "weight", 1.0, ("batch", "source", "unit"), 4, weight="w", shape=(3, 4))


def scene(
    *,
    progress: float = 0.0,
    steps: int = 1000,
    params: Mapping[str, torch.Tensor] | None = None,
    declared: Mapping[str, Parameter] | None = None,
    facts: Mapping[str, torch.Tensor] | None = None,
    seeds: tuple[int, ...] = (0,),
) -> Scene:
    clock = Clock(round(progress * steps), steps, 0, 1)
    return Scene(clock, params or {}, declared or {}, 100, "classification", Streams(seeds), facts or {})
