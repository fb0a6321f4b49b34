"""Stacked layers: pure functions of parameters with a leading run axis R. R = 1 is the same code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from dropbench.models import Parameter
from dropbench.spec import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.models import Moments

Activation = Literal["relu", "tanh", "sigmoid", "gelu", "selu"]


def activation(name: Activation) -> Callable[[Tensor], Tensor]:
    """The element-wise function of that name."""
    import torch

    function: Callable[[Tensor], Tensor] = getattr(torch.nn.functional if name == "gelu" else torch, name)
    return function


def linear_parameters(
    name: str, inputs: int, outputs: int, *, hidden: bool = True, function: Activation = "relu"
) -> tuple[Parameter, ...]:
    """Weight [inputs, outputs] and bias of `linear`, uniform as in `torch.nn.Linear` (see `_bounds`)."""
    bound, bias = _bounds(inputs, function)
    return (
        Parameter(f"{name}.weight", (inputs, outputs), bound=bound, unit_axis=1 if hidden else None, decays=True),
        Parameter(f"{name}.bias", (outputs,), bound=bias),
    )


def linear(params: Mapping[str, Tensor], name: str, value: Tensor, noise: NoiseFn | None = None) -> Tensor:
    """`y = x W + b` for R runs: [R, ..., inputs] -> [R, ..., outputs]; `noise` may act on W."""
    import torch

    bias = params[f"{name}.bias"].unsqueeze(1)
    weight = noisy_weight(params, f"{name}.weight", noise, value.shape[1])
    if weight.dim() == 4:  # one weight an example
        return torch.matmul(value.unsqueeze(2), weight).squeeze(2) + bias
    if value.dim() == 3:
        return torch.baddbmm(bias, value, weight)
    flat = value.reshape(value.shape[0], -1, value.shape[-1])
    return torch.baddbmm(bias, flat, weight).view(*value.shape[:-1], -1)


def noisy_weight(
    params: Mapping[str, Tensor], name: str, noise: NoiseFn | None, batch: int, site: str | None = None
) -> Tensor:
    """A weight after the noise at the site of its name (or `site`): [R, ...], or [R, batch, ...], one an example."""
    weight = params[name]
    if noise is None:
        return weight
    perturbation = noise.perturbation(site or name, (weight.shape[0], batch, *weight.shape[1:]))
    if perturbation is None:
        return weight
    acted = perturbation(weight.unsqueeze(1))
    return acted.squeeze(1) if acted.shape[1] == 1 else acted


def weight_site(parameters: Sequence[Parameter], name: str, depth: float) -> Site:
    """The site at the weight of that name among `parameters`; a convolution has its units first."""
    shape = next(item.shape for item in parameters if item.name == name)
    axes = ("batch", "source", "unit") if len(shape) == 2 else ("batch", "unit", "source", "row", "column")
    return Site(name, "weight", depth, axes, shape[1 if len(shape) == 2 else 0], weight=name, shape=shape)


def _bounds(inputs: int, function: Activation) -> tuple[float, float]:
    """Bounds of initial weights and biases: `1 / sqrt(inputs)` both; for SELU variance `1 / inputs`, and biases 0."""
    if function == "selu":
        return math.sqrt(3 / inputs), 0.0
    return 1 / math.sqrt(inputs), 1 / math.sqrt(inputs)


def conv_parameters(
    name: str, inputs: int, outputs: int, kernel: int, function: Activation = "relu"
) -> tuple[Parameter, ...]:
    """Weight [outputs, inputs, kernel, kernel] and bias of `conv`, initialised as in `torch.nn.Conv2d`."""
    bound, bias = _bounds(inputs * kernel * kernel, function)
    return (
        Parameter(f"{name}.weight", (outputs, inputs, kernel, kernel), bound=bound, unit_axis=0, decays=True),
        Parameter(f"{name}.bias", (outputs,), bound=bias),
    )


def conv(
    params: Mapping[str, Tensor],
    name: str,
    value: Tensor,
    noise: NoiseFn | None = None,
    pooling: tuple[int, int] | None = None,
) -> Tensor:
    """Convolution with `same` padding for R runs: [R, batch, inputs, rows, columns] -> [R, batch, outputs, ...].

    `noise` may act on the weight; `pooling`: size and stride of a `max_pool` after it.

    On a GPU runs are the groups of one convolution. On a CPU each run has its own, which takes 0.5 to 1.25 times as
    long (measured, first and second layer at 8x8 and 28x28) and rounds as it does when the run trains alone.
    """
    from torch.nn.functional import conv2d

    from dropbench.kernels.conv import convolve

    runs, batch, _, rows, columns = value.shape
    bias = params[f"{name}.bias"]
    weight = noisy_weight(params, f"{name}.weight", noise, batch)
    padding = weight.shape[-1] // 2
    if weight.dim() == 6:  # one weight an example: every example is a group
        groups = runs * batch
        result = conv2d(value.reshape(1, -1, rows, columns), weight.flatten(0, 2), padding=padding, groups=groups)
        result = result.view(runs, batch, -1, rows, columns) + bias.view(runs, 1, -1, 1, 1)
    elif value.device.type == "cpu":
        return convolve(value, weight, bias, padding, pooling)
    else:
        result = grouped_conv(value, weight, bias, padding)
    return result if pooling is None else max_pool(result, *pooling)


def grouped_conv(value: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """The convolutions of R runs as the groups of one; shapes as in `conv`."""
    from torch.nn.functional import conv2d

    runs, batch, channels, rows, columns = value.shape
    grouped = value.transpose(0, 1).reshape(batch, runs * channels, rows, columns)
    result = conv2d(grouped, weight.flatten(0, 1), bias.flatten(), padding=padding, groups=runs)
    return result.view(batch, runs, -1, rows, columns).transpose(0, 1)


def max_pool(value: Tensor, size: int, stride: int) -> Tensor:
    """Largest value of every window, for R runs; windows wider than their stride overlap and are padded."""
    from torch.nn.functional import max_pool2d

    from dropbench.kernels.conv import channels_last

    maps = value.flatten(0, 1)
    if value.device.type == "cpu":
        maps = channels_last(maps)
    pooled = max_pool2d(maps, size, stride, padding=(size - 1) // 2).contiguous()
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
