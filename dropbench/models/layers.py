"""Stacked layers: pure functions of parameters with a leading run axis R. R = 1 is the same code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dropbench.models import Parameter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from dropbench.models import Moments

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "selu"]


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The element-wise function of that name."""
    import torch

    function: Callable[[Tensor], Tensor] = getattr(torch.nn.functional if name == "gelu" else torch, name)
    return function


def linear_parameters(name: str, inputs: int, outputs: int, *, hidden: bool = True) -> tuple[Parameter, ...]:
    """Weight [inputs, outputs] and bias of `linear`, uniform within `1 / sqrt(inputs)` as in `torch.nn.Linear`."""
    bound = 1 / math.sqrt(inputs)
    return (
        Parameter(f"{name}.weight", (inputs, outputs), bound=bound, unit_axis=1 if hidden else None, decays=True),
        Parameter(f"{name}.bias", (outputs,), bound=bound),
    )


def linear(params: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    """`y = x W + b` for R runs: [R, ..., inputs] -> [R, ..., outputs]."""
    import torch

    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    flat = value.reshape(value.shape[0], -1, value.shape[-1])
    return torch.baddbmm(bias.unsqueeze(1), flat, weight).view(*value.shape[:-1], -1)


def conv_parameters(name: str, inputs: int, outputs: int, kernel: int) -> tuple[Parameter, ...]:
    """Weight [outputs, inputs, kernel, kernel] and bias of `conv`, initialised as in `torch.nn.Conv2d`."""
    bound = 1 / math.sqrt(inputs * kernel * kernel)
    return (
        Parameter(f"{name}.weight", (outputs, inputs, kernel, kernel), bound=bound, unit_axis=0, decays=True),
        Parameter(f"{name}.bias", (outputs,), bound=bound),
    )


def conv(params: Mapping[str, Tensor], name: str, value: Tensor) -> Tensor:
    """Convolution with `same` padding for R runs: [R, batch, inputs, rows, columns] -> [R, batch, outputs, ...].

    Runs are groups of one convolution where maps are small; on large maps one convolution a run is faster on a CPU
    (measured: grouped 2.1x at 8x8, 0.56x at 28x28).
    """
    import torch
    from torch.nn.functional import conv2d

    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    runs, batch, channels, rows, columns = value.shape
    padding = weight.shape[-1] // 2
    if runs > 1 and rows * columns > 256 and value.device.type == "cpu":
        return torch.stack([conv2d(value[run], weight[run], bias[run], padding=padding) for run in range(runs)])
    grouped = value.transpose(0, 1).reshape(batch, runs * channels, rows, columns)
    result = conv2d(grouped, weight.flatten(0, 1), bias.flatten(), padding=padding, groups=runs)
    return result.view(batch, runs, -1, rows, columns).transpose(0, 1)


def max_pool(value: Tensor, size: int, stride: int) -> Tensor:
    """Largest value of every window, for R runs; windows wider than their stride overlap and are padded."""
    from torch.nn.functional import max_pool2d

    pooled = max_pool2d(value.flatten(0, 1), size, stride, padding=(size - 1) // 2)
    return pooled.view(*value.shape[:2], *pooled.shape[1:])


def norm_parameters(name: str, units: int) -> tuple[Parameter, ...]:
    """Gain, offset and running moments of `batch_norm`."""
    return (
        Parameter(f"{name}.gain", (units,), "ones"),
        Parameter(f"{name}.offset", (units,), "zeros"),
        Parameter(f"{name}.mean", (units,), "zeros", trained=False),
        Parameter(f"{name}.variance", (units,), "ones", trained=False),
    )


def batch_norm(params: Mapping[str, Tensor], name: str, value: Tensor, moments: Moments) -> Tensor:
    """Batch normalisation over the batch and the positions of [R, batch, units, ...].

    Formula: `y = gain (x - mean) / sqrt(variance + 1e-5) + offset`. Source: Ioffe and Szegedy, ICML 2015.
    """
    over = (1, *range(3, value.dim()))
    shape = (value.shape[0], 1, value.shape[2], *(1 for _ in over[1:]))
    mean, variance = moments(name, value, over)
    gain = params[f"{name}.gain"].view(shape) * (variance + 1e-5).rsqrt()
    return (value - mean) * gain + params[f"{name}.offset"].view(shape)
