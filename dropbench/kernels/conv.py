"""Convolutions of R runs on a CPU, each with its own call, differentiated by hand.

A run rounds as it does alone, whatever the stack. Autograd would fill one gradient of the whole stack for every run and
add them up; here each run reads and writes its own part. Where pooling follows, it is done before the next run begins,
while the maps are in the cache, and they are forgotten: backward needs the places of the largest values alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor

_ONE, _NONE = [1, 1], [0, 0]


def convolve(
    value: Tensor, weight: Tensor, bias: Tensor, padding: int, pooling: tuple[int, int] | None = None
) -> Tensor:
    """Convolution of R runs, and max-pooling after it.

    Args:
        value: [R, batch, inputs, rows, columns].
        weight: [R, outputs, inputs, kernel, kernel].
        bias: [R, outputs].
        padding: rows and columns of zeros on each side.
        pooling: side and stride of its windows, padded by `(side - 1) // 2`; None for none.

    Returns:
        [R, batch, outputs, ...].
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        value, weight, bias = value.to(dtype), weight.to(dtype), bias.to(dtype)
    result: Tensor = _Convolution.apply(value, weight, bias, padding, pooling)  # type: ignore[no-untyped-call]
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, weight: Tensor, bias: Tensor, padding: int, pooling: tuple[int, int] | None
    ) -> Tensor:
        ctx.padding, ctx.pooling, ctx.places = padding, pooling, []
        result = value.new_empty(0)
        for run in range(len(value)):
            maps = torch.conv2d(value[run], weight[run], bias[run], padding=padding)
            if pooling is not None:
                ctx.sides = maps.shape[2:]
                maps, places = torch.ops.aten.max_pool2d_with_indices(channels_last(maps), *_windows(pooling))
                ctx.places.append(places)
            if run == 0:
                result = maps.new_empty((len(value), *maps.shape))
            result[run] = maps
        ctx.save_for_backward(value, weight)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, weight = ctx.saved_tensors
        (gradient,) = gradients
        wanted = list(ctx.needs_input_grad[:3])
        shapes = value.shape, weight.shape, weight.shape[:2]
        found = [value.new_empty(shape) if want else None for shape, want in zip(shapes, wanted, strict=True)]
        for run in range(len(value)):
            maps = gradient[run]
            if ctx.pooling is not None:
                shaped = maps.new_empty((*maps.shape[:2], *ctx.sides))  # its values are not read
                maps = torch.ops.aten.max_pool2d_with_indices_backward(
                    maps, shaped, *_windows(ctx.pooling), False, ctx.places[run]
                )
            parts = torch.ops.aten.convolution_backward(
                maps, value[run], weight[run], [weight.shape[1]], _ONE, [ctx.padding] * 2, _ONE, False, _NONE, 1, wanted
            )
            for whole, part in zip(found, parts, strict=True):
                if whole is not None:
                    whole[run] = part
        return *found, None, None


def channels_last(tensor: Tensor) -> Tensor:
    """The same maps with another layout, in which PyTorch pools ten times as fast on a CPU."""
    return tensor.contiguous(memory_format=torch.channels_last)


def _windows(pooling: tuple[int, int]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Side, stride, padding and dilation, as PyTorch's pooling wants them."""
    side, stride = pooling
    return [side] * 2, [stride] * 2, [(side - 1) // 2] * 2, _ONE
