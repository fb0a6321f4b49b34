"""Cross-entropy and its gradient in one pass, in C (`loss.c`), where a dozen operations of torch would cost more."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import nll_loss

from dropbench.kernels import native

if TYPE_CHECKING:
    from torch import Tensor

NAME = "loss"
#: More of them are faster in torch, which computes exponentials of whole vectors.
MOST_CLASSES = 64


def is_native() -> bool:
    """Whether a loss on the CPU is computed in C: measured once a machine."""
    return native.chosen(NAME, _trial)


def cross_entropy(outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
    """The mean over what is asked, for each copy.

    Formula: `L = -mean sum_k t_k log softmax(z)_k`, `t_k = (1 - e) [k = y] + e / classes`.

    Args:
        outputs: logits z, [R, copies, ..., classes].
        targets: class numbers y, int64 [R, ...], -100 where nothing is asked.
        smoothing: e, [R]; None for 0.

    Returns:
        [R, copies].
    """
    plain = outputs.device.type == "cpu" and outputs.dtype == torch.float32
    inner = _native if plain and outputs.shape[-1] <= MOST_CLASSES and is_native() else _torch
    return inner(outputs, targets, smoothing)


def _torch(outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
    logs = outputs.float().log_softmax(-1)
    answers = targets.unsqueeze(1).expand(outputs.shape[:-1])
    losses = nll_loss(logs.flatten(0, -2), answers.flatten(), reduction="none").view(*outputs.shape[:2], -1)
    asked = (targets != -100).flatten(1).unsqueeze(1)
    if smoothing is not None:
        spread = -logs.mean(-1).flatten(2) - losses
        losses = (losses + smoothing.view(-1, 1, 1) * spread) * asked
    return losses.sum(2) / asked.sum(2)


def _native(outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
    return _CrossEntropy.apply(outputs, targets, smoothing)  # type: ignore[no-any-return, no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, outputs: Tensor, targets: Tensor, smoothing: Tensor | None) -> Tensor:
        outputs, targets = outputs.contiguous(), targets.contiguous()
        runs, copies, classes = outputs.shape[0], outputs.shape[1], outputs.shape[-1]
        loss, slope = outputs.new_empty(runs, copies), torch.empty_like(outputs)
        spread = None if smoothing is None else smoothing.float().contiguous()
        known = _library().cross_entropy(
            runs, copies, targets[0].numel(), classes, outputs.data_ptr(), targets.data_ptr(),
            None if spread is None else spread.data_ptr(), loss.data_ptr(), slope.data_ptr(),
        )  # fmt: skip
        if not known:
            raise IndexError(f"a target is no class: {targets.min().item()} to {targets.max().item()} of {classes}")
        ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * above.view(*above.shape, *(1,) * (slope.dim() - 2)), None, None


def _trial(compiled: bool) -> None:
    outputs = torch.zeros(1, 1, 128, 10, requires_grad=True)
    targets = torch.zeros(1, 128, dtype=torch.int64)
    torch.autograd.grad((_native if compiled else _torch)(outputs, targets, None).sum(), outputs)


@cache
def _library() -> Any:
    library: Any = native.library(NAME)
    library.cross_entropy.argtypes = (*(ctypes.c_int64,) * 4, *(ctypes.c_void_p,) * 5)
    library.cross_entropy.restype = ctypes.c_int
    return library
