"""The update of an optimizer in C (`update.c`): one pass over the memory in place of six."""

from __future__ import annotations

import ctypes
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dropbench.kernels import native
from dropbench.models import Parameter
from dropbench.optim.constraints import along, bound_units, direction
from dropbench.spec import vector

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.spec import PerRun

NAME = "update"


def is_native() -> bool:
    """Whether an update on the CPU is done in C: measured once a machine."""
    return native.chosen(NAME, _trial)


def sgd(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    rate: Tensor,
    momentum: Tensor,
    *,
    clip: Tensor | None,
    decay: PerRun | None,
    bound: PerRun | None,
    nesterov: bool,
) -> None:
    """Gradient descent with momentum, then max-norm, in place.

    Formula: `g = clip g + decay w`, `v = m v + g`, then `w -= a v`, or `w -= a (g + m v)` by Nesterov; see also
    `bound_units`.

    Args:
        params: by name, each [R, *shape].
        gradients: likewise; only read.
        state: the velocities, `velocity.<name>`.
        declared: says of each which axis is that of the units, and whether it decays.
        rate: learning rate a, [R].
        momentum: m, [R].
        clip: factor on the gradient, [R]; None for none.
        decay: factor of the weight decay; None for none.
        bound: greatest norm of the weights into one unit; None for none.
        nesterov: look ahead.
    """
    plain = all(value.device.type == "cpu" and value.dtype == torch.float32 for value in params.values())
    inner = _native_sgd if plain and is_native() else _torch_sgd
    numbers = (rate, momentum, clip, None if decay is None else vector(decay), None if bound is None else vector(bound))
    inner(params, gradients, state, declared, *numbers, nesterov)


def _torch_sgd(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    rate: Tensor,
    momentum: Tensor,
    clip: Tensor | None,
    decay: Tensor | None,
    bound: Tensor | None,
    nesterov: bool,
) -> None:
    for name, value in params.items():
        velocity = state[f"velocity.{name}"]
        gradient = direction(gradients[name], value, clip, decay if declared[name].decays else None)
        torch.addcmul(gradient, velocity, along(momentum, value), out=velocity)
        if nesterov:
            value.addcmul_(gradient, along(-rate, value)).addcmul_(velocity, along(-rate * momentum, value))
        else:
            value.addcmul_(velocity, along(-rate, value))
    if bound is not None:
        bound_units(params, declared, bound)


def _native_sgd(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    rate: Tensor,
    momentum: Tensor,
    clip: Tensor | None,
    decay: Tensor | None,
    bound: Tensor | None,
    nesterov: bool,
) -> None:
    by_gradient, by_first = (-rate, -rate * momentum) if nesterov else (None, -rate)
    columns = (clip, decay, momentum, None, by_gradient, by_first, None, None)
    _update(params, gradients, state, ("velocity",), declared, columns, bound)


def adam(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    size: Tensor,
    eps: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    *,
    clip: Tensor | None,
    decay: Tensor | None,
    shrink: Tensor | None,
    bound: PerRun | None,
) -> None:
    """Adam, then max-norm, in place.

    Formula: `g = clip g + decay w`, `m = beta1 m + g`, `v = beta2 v + g^2`, `w = shrink w + size m / (sqrt(v) + eps)`;
    see also `bound_units`.

    Args:
        params: by name, each [R, *shape].
        gradients: likewise; only read.
        state: m and v, `sum.<name>` and `squares.<name>`.
        declared: says of each which axis is that of the units, and whether it decays.
        size: of the step, negative, [R].
        eps: [R].
        beta1: [R].
        beta2: [R].
        clip: factor on the gradient, [R]; None for none.
        decay: factor of the coupled weight decay, [R]; None for none.
        shrink: factor of the decoupled weight decay, [R]; None for none.
        bound: greatest norm of the weights into one unit; None for none.
    """
    plain = all(value.device.type == "cpu" and value.dtype == torch.float32 for value in params.values())
    inner = _native_adam if plain and is_native() else _torch_adam
    limit = None if bound is None else vector(bound)
    inner(params, gradients, state, declared, size, eps, beta1, beta2, clip, decay, shrink, limit)


def _torch_adam(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    size: Tensor,
    eps: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    clip: Tensor | None,
    decay: Tensor | None,
    shrink: Tensor | None,
    bound: Tensor | None,
) -> None:
    for name, value in params.items():
        total, squares, decays = state[f"sum.{name}"], state[f"squares.{name}"], declared[name].decays
        gradient = direction(gradients[name], value, clip, decay if decays else None)
        torch.addcmul(gradient, total, along(beta1, value), out=total)
        squares.mul_(along(beta2, value)).addcmul_(gradient, gradient)
        if shrink is not None and decays:
            value.mul_(along(shrink, value))
        change = squares.sqrt().add_(along(eps, value))
        torch.div(total, change, out=change)
        value.addcmul_(change, along(size, value))
    if bound is not None:
        bound_units(params, declared, bound)


def _native_adam(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    declared: Mapping[str, Parameter],
    size: Tensor,
    eps: Tensor,
    beta1: Tensor,
    beta2: Tensor,
    clip: Tensor | None,
    decay: Tensor | None,
    shrink: Tensor | None,
    bound: Tensor | None,
) -> None:
    columns = (clip, decay, beta1, beta2, None, size, eps, shrink)
    _update(params, gradients, state, ("sum", "squares"), declared, columns, bound)


#: What a coefficient is that is not given, in the order of `numbers` of update.c.
_MISSING = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def _update(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    kinds: tuple[str, ...],
    declared: Mapping[str, Parameter],
    columns: Sequence[Tensor | None],
    bound: Tensor | None,
) -> None:
    """Calls update.c; `kinds`: of state that it keeps, one for momentum and two for Adam."""
    table, alive = [], []
    for name, value in params.items():
        gradient = gradients[name].contiguous()
        alive.append(gradient)
        shape, axis = value.shape[1:], None if bound is None else declared[name].unit_axis
        layout = (1, prod(shape), 1) if axis is None else (prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
        kept = (*(state[f"{kind}.{name}"].data_ptr() for kind in kinds), 0)[:2]
        where = (value.data_ptr(), *kept, gradient.data_ptr())
        table.append((*where, *layout, declared[name].decays, axis is not None))
    runs = len(next(iter(params.values())))
    coefficients = np.empty((runs, len(columns)), dtype=np.float32)
    for column, (numbers, missing) in enumerate(zip(columns, _MISSING, strict=True)):
        coefficients[:, column] = missing if numbers is None else numbers.numpy()
    tensors = np.array(table, dtype=np.int64)
    limit = None if bound is None else bound.float().contiguous()
    _library().update(
        runs, len(table), tensors.ctypes.data, coefficients.ctypes.data, None if limit is None else limit.data_ptr(),
        len(kinds) == 2,
    )  # fmt: skip


def _trial(compiled: bool) -> None:
    weight, numbers = Parameter("w", (512, 512), unit_axis=1), torch.full((1,), 0.5)
    w, g, v = (torch.full((1, 512, 512), value) for value in (0.01, 0.001, 0.0))
    inner = _native_sgd if compiled else _torch_sgd
    inner({"w": w}, {"w": g}, {"velocity.w": v}, {"w": weight}, numbers, numbers, None, None, numbers, True)


@cache
def _library() -> Any:
    library: Any = native.library(NAME)
    library.update.argtypes = (ctypes.c_int64, ctypes.c_int64, *(ctypes.c_void_p,) * 3, ctypes.c_int64)
    library.update.restype = None
    return library
