"""Stacks: runs whose graphs have one shape train as one batch.

Runs may share a stack when their configs agree in everything but the seed and the real numbers of strategy and
optimizer (`PerRun` fields); those become tensors [R]. This is decided by type: there is no list of fields to keep.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from dropbench import schema
from dropbench.optim import Optimizer
from dropbench.schema import Same
from dropbench.strategy import Strategy

if TYPE_CHECKING:
    import torch

    from dropbench.config import Config
    from dropbench.models import Parameter

T = TypeVar("T")
MOST_RUNS = 32
MEMORY = 2**30


def stacked(parts: Sequence[T], device: torch.device | str = "cpu") -> T:
    """One part that stands for R of the same shape: every float becomes a float32 tensor [R].

    Raises:
        ValueError: the parts differ in something other than floats.
    """
    import torch  # here, since a sweep is planned without it

    first: Any = parts[0]
    if any(type(part) is not type(first) for part in parts):
        raise ValueError("the runs of a stack have different parts")
    if isinstance(first, float):
        return torch.tensor(parts, dtype=torch.float32, device=device)  # type: ignore[return-value]
    if is_dataclass(first) and not isinstance(first, type):
        columns = {f.name: [getattr(part, f.name) for part in parts] for f in fields(first)}
        return replace(first, **{name: stacked(column, device) for name, column in columns.items()})  # type: ignore[return-value]
    if isinstance(first, Mapping):
        if any(part.keys() != first.keys() for part in parts):  # type: ignore[attr-defined]
            raise ValueError("the runs of a stack have different parts")
        return {key: stacked([part[key] for part in parts], device) for key in first}  # type: ignore[index,return-value]
    if any(part != first for part in parts):
        raise ValueError(f"the runs of a stack differ in {sorted(map(str, set(parts)))}")
    return first  # type: ignore[no-any-return]


def signature(config: Config) -> str:
    """Runs with equal signatures may share a stack."""
    values = {name: getattr(config, name) for name in config.__dataclass_fields__ if name != "seed"}
    return "\n".join(_text(Same(value)) if is_dataclass(value) else f"{value!r}" for value in values.values())


@lru_cache(maxsize=4096)
def _text(part: Same) -> str:
    """What a part has besides the real numbers of a strategy or an optimizer."""
    data = schema.plain(part.it)
    return json.dumps(_without_floats(data) if isinstance(part.it, Strategy | Optimizer) else data, sort_keys=True)


def capacity(parameters: Sequence[Parameter]) -> int:
    """How many runs of such a model a stack takes: bounded by the memory of parameters, gradients and their state."""
    size = sum(math.prod(parameter.shape) for parameter in parameters)
    return max(1, min(MOST_RUNS, MEMORY // (6 * 4 * size)))


def _without_floats(value: Any) -> Any:
    if isinstance(value, float):
        return "a number"
    if isinstance(value, dict):
        return {key: _without_floats(item) for key, item in value.items()}
    return value
