"""What an update does besides following the gradient: clipping, weight decay, max-norm. No run sees another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropbench.spec import PerRun, vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from dropbench.models import Parameter


def along(coefficient: Tensor, value: Tensor) -> Tensor:
    """The numbers of the runs, [R], as [R, 1, ...], so that they multiply `value` [R, ...]."""
    return coefficient.to(value.dtype).view(-1, *(1,) * (value.dim() - 1))


def clipping(gradients: Iterable[Tensor], clip_norm: PerRun) -> Tensor:
    """The factor that bounds the norm of a run's whole gradient, [R].

    Formula: `min(1, clip_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_` has it.

    Args:
        gradients: of all parameters, each [R, ...].
        clip_norm: the bound.

    Source: Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    import torch

    # Squares and sums, not linalg.vector_norm: faster on a CPU, and closer to the true norm (torch 2.13).
    squares = [each.square().reshape(len(each), -1).sum(1) for each in gradients]
    norm = torch.stack(squares).sum(0).sqrt()
    return (vector(clip_norm) / (norm + 1e-6)).clamp(max=1)


def direction(gradient: Tensor, value: Tensor, clip: Tensor | None, decay: Tensor | None) -> Tensor:
    """The gradient as the update uses it: `clip gradient + decay value`.

    Gradients of two parameters may share their memory, so they are read and never written.

    Args:
        gradient: [R, ...].
        value: of the parameter, [R, ...].
        clip: from `clipping`, [R]; None for no clipping.
        decay: factor of the coupled weight decay, [R]; None for none.

    Returns:
        The gradient itself, or a new tensor.
    """
    import torch

    if clip is None:
        return gradient if decay is None else torch.addcmul(gradient, value, along(decay, value))
    clipped = gradient * along(clip, gradient)
    return clipped if decay is None else clipped.addcmul_(value, along(decay, value))


def bound_units(params: Mapping[str, Tensor], declared: Mapping[str, Parameter], max_norm: PerRun) -> None:
    """Max-norm, in place: no unit of a hidden layer has incoming weights of a norm above `max_norm`.

    Formula: `w *= min(1, max_norm / (|w| + 1e-7))` for the weights `w` into one unit, as `torch.renorm` has it.

    Args:
        params: by name, each [R, *shape].
        declared: says of each which axis is that of the units, if any.
        max_norm: the bound.

    Source: Srebro and Shraibman, 2005; with dropout: Srivastava et al., "Dropout", JMLR 2014, section 5.1.
    """
    limit = vector(max_norm)
    for name, weight in params.items():
        axis = declared[name].unit_axis
        if axis is None:
            continue
        incoming = [other for other in range(1, weight.dim()) if other != axis + 1]
        # As above; over an axis other than the last, linalg.vector_norm takes seven times as long.
        squares = weight.square()
        norm = squares.sum(incoming, keepdim=True) if incoming else squares
        bound = along(limit, norm)
        # On a CPU it costs next to nothing to look, and most updates leave every unit within its bound.
        if weight.device.type == "cpu" and not (norm > bound * bound).any():
            continue
        weight.mul_((bound / norm.sqrt_().add_(1e-7)).clamp_(max=1))
