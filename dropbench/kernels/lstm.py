"""An LSTM layer with its noise, differentiated by hand.

Autograd would record some thirty small operations a step, and add up the gradient of the weights step by step. Here the
gradient of the weights is one product after the loop, and the steps are

    - on a CPU in float32, one call of `lstm.c`, where that is faster on this machine (`native.chosen`);
    - on a GPU, a product and a kernel each, where that is faster (`cuda.lstm_steps`);
    - otherwise, some nine operations of torch each.

All compute the same formula, each sum in its own order. `lstm.c` also does the products with the inputs, forward and
backward: its sums have one order whatever the number of runs and threads.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from dropbench.kernels import cuda, native

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.noise import Perturbation

NAME = "lstm"
#: The tensors of the noise, in the order in which the ways below take them.
_PARTS = (
    ("state", "scale"), ("candidate", "scale"), ("cell", "scale"), ("cell", "readout"),
    ("carry_c", "scale"), ("carry_c", "mix"), ("carry_h", "scale"), ("carry_h", "mix"),
)  # fmt: skip
#: The tensors that `lstm.c` takes, in its order.
_TENSORS = (
    "lengths", "x", "weight_ih", "bias", "weight_hh", "gates", "before", "squashed", "states", "above", "to_x",
    "to_weight_ih", "to_bias", "to_weight_hh",
)  # fmt: skip


def can_do(weight: Tensor, actions: Mapping[str, Perturbation | None]) -> bool:
    """Whether `lstm_layer` can: one weight and one mask for all gates, and no gradient that the noise itself needs."""
    if weight.dim() != 3:
        return False
    for site, action in actions.items():
        if action is None:
            continue
        if action.shift is not None or any(
            part is not None and part.requires_grad for part in (action.scale, action.mix, action.readout)
        ):
            return False
        if site == "state" and action.scale.dim() != 4:
            return False
    return True


def lstm_layer(
    inputs: Tensor,
    weight_ih: Tensor | None,
    bias: Tensor | None,
    weight: Tensor,
    actions: Mapping[str, Perturbation | None],
    *,
    reverse: bool = False,
    lengths: Tensor | None = None,
) -> Tensor:
    """The states h of all steps.

    Formula: `p = x W + b`, `i, f, o = s(p + (a_h h) U)`, `g = tanh(..)`, `m = a_c (f c + i a_g g)`,
    `r = a_r o tanh(m)`, then `c' = k_c m + (mix_c) c` and `h' = k_h r + (mix_h) h`; the a, k and mix are those of the
    noise.

    Args:
        inputs: x, [R, steps, batch, inputs]; or p, [R, steps, batch, 4 hidden], where `weight_ih` is None.
        weight_ih: W, [R, inputs, 4 hidden], gates i, f, g, o; None where `inputs` is p.
        bias: b, [R, 1, 4 hidden]; None where `inputs` is p.
        weight: U, [R, hidden, 4 hidden].
        actions: the noise at the sites state, candidate, cell, carry_c, carry_h, each broadcastable to
            [R, steps, batch, hidden].
        reverse: whether to walk from the last step of each sequence to the first.
        lengths: steps of each sequence, int64 [R, batch]; None where all have `steps`.

    Returns:
        [R, steps, batch, hidden], 0 behind the end of a sequence.
    """
    parts = [getattr(actions.get(site), part, None) for site, part in _PARTS]
    if _can_c(inputs):
        kept = torch.is_grad_enabled()
        return _Native.apply(inputs, weight_ih, bias, weight, reverse, lengths, kept, *parts)  # type: ignore[no-any-return, no-untyped-call]
    projected = inputs
    if weight_ih is not None:
        assert bias is not None
        projected = torch.baddbmm(bias, inputs.flatten(1, 2), weight_ih).view(*inputs.shape[:3], -1)
    parts = [None if part is None else part.to(projected.dtype) for part in parts]
    valid = None
    if lengths is not None:
        walk = torch.arange(inputs.shape[1], device=inputs.device).view(-1, 1)
        valid = (walk < lengths.unsqueeze(1)).unsqueeze(-1).to(projected.dtype)
    weight = weight.to(projected.dtype)
    steps = cuda.lstm_steps(_Steps, projected, weight, reverse, valid, *parts)
    return steps.apply(projected, weight, reverse, valid, *parts)  # type: ignore[no-any-return, no-untyped-call]


def _at(part: Tensor | None, step: int) -> Tensor | None:
    return None if part is None else part.select(1, step if part.shape[1] > 1 else 0)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight: Tensor, reverse: bool, valid: Tensor | None, *parts: Tensor | None
    ) -> Tensor:
        state, candidate, cell, readout, keep_c, mix_c, keep_h, mix_h = parts
        runs, steps, batch, wide = projected.shape
        hidden = wide // 4
        gates = torch.empty_like(projected)
        # Beside the states, what the steps start from: copies of h that enter U, and memories.
        entered = projected.new_empty(runs, steps, batch, hidden)
        before, squashed, states = (torch.empty_like(entered) for _ in range(3))
        h = projected.new_zeros(runs, batch, hidden)
        c = h
        for step in reversed(range(steps)) if reverse else range(steps):
            z, enters = gates[:, step], entered[:, step]
            mask = _at(state, step)
            enters.copy_(h) if mask is None else torch.mul(h, mask, out=enters)
            torch.baddbmm(projected[:, step], enters, weight, out=z)
            z[..., : 2 * hidden].sigmoid_()
            z[..., 2 * hidden : 3 * hidden].tanh_()
            z[..., 3 * hidden :].sigmoid_()
            i, f, g, o = z.chunk(4, -1)
            before[:, step] = c
            mask = _at(candidate, step)
            memory = torch.addcmul(f * c, i, g if mask is None else g * mask)
            mask = _at(cell, step)
            if mask is not None:
                memory.mul_(mask)
            read = o * torch.tanh(memory, out=squashed[:, step])
            mask = _at(readout, step)
            if mask is not None:
                read.mul_(mask)
            h, c = (
                _carried(read, h, _at(keep_h, step), _at(mix_h, step)),
                _carried(memory, c, _at(keep_c, step), _at(mix_c, step)),
            )
            ends = _at(valid, step)
            if ends is not None:
                h, c = h * ends, c * ends
            states[:, step] = h
        ctx.reverse = reverse
        ctx.save_for_backward(weight, gates, entered, before, squashed, valid, *parts)
        return states

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, entered, before, squashed, valid, *parts = ctx.saved_tensors
        state, candidate, cell, readout, keep_c, mix_c, keep_h, mix_h = parts
        runs, steps, batch, hidden = entered.shape
        i, f, g, o = gates.chunk(4, -1)
        # What a step multiplies the gradients of memory and read-out by, for all steps at once.
        slopes = torch.empty_like(gates)
        added = g if candidate is None else g * candidate
        of_i, of_f, of_g, of_o = slopes.chunk(4, -1)
        torch.mul(added, i * (1 - i), out=of_i)
        torch.mul(before, f * (1 - f), out=of_f)
        torch.mul(i if candidate is None else i * candidate, 1 - g * g, out=of_g)
        torch.mul(squashed, o * (1 - o), out=of_o)
        through = o * (1 - squashed * squashed)
        if readout is not None:
            of_o.mul_(readout)
            through = through * readout
        inner = slopes[..., : 3 * hidden].view(runs, steps, batch, 3, hidden)

        found = torch.empty_like(gates)
        three, last = found[..., : 3 * hidden].view(runs, steps, batch, 3, hidden), found[..., 3 * hidden :]
        back = weight.transpose(1, 2)
        dh = torch.zeros_like(entered[:, 0])
        dc = dh
        for step in range(steps) if ctx.reverse else reversed(range(steps)):
            dh = dh + above[0][:, step]
            ends = _at(valid, step)
            if ends is not None:
                dh, dc = dh * ends, dc * ends
            keep, mix = _at(keep_h, step), _at(mix_h, step)
            dread, dh_old = (dh if keep is None else dh * keep), (None if mix is None else dh * mix)
            keep, mix = _at(keep_c, step), _at(mix_c, step)
            dmemory, dc_old = (dc if keep is None else dc * keep), (None if mix is None else dc * mix)
            dmemory = torch.addcmul(dmemory, dread, through[:, step])
            mask = _at(cell, step)
            if mask is not None:
                dmemory.mul_(mask)
            torch.mul(dmemory.unsqueeze(2), inner[:, step], out=three[:, step])
            torch.mul(dread, slopes[:, step, :, 3 * hidden :], out=last[:, step])
            dc = dmemory * f[:, step] if dc_old is None else dc_old.addcmul_(dmemory, f[:, step])
            dh = torch.bmm(found[:, step], back)
            mask = _at(state, step)
            if mask is not None:
                dh.mul_(mask)
            if dh_old is not None:
                dh.add_(dh_old)
        dweight = torch.bmm(entered.flatten(1, 2).transpose(1, 2), found.flatten(1, 2))
        return found, dweight, None, None, *(None for _ in parts)


def _carried(new: Tensor, old: Tensor, keep: Tensor | None, mix: Tensor | None) -> Tensor:
    """`keep new + mix old`; None stands for 1 and 0."""
    result = new if keep is None else new * keep
    return result if mix is None else torch.addcmul(result, old, mix)


class _Part(ctypes.Structure):
    """`part` of lstm.c."""

    _fields_ = (("data", ctypes.c_void_p), *((axis, ctypes.c_int64) for axis in ("run", "step", "row", "unit")))


class _Layer(ctypes.Structure):
    """`layer` of lstm.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("runs", "steps", "batch", "inputs", "hidden", "reverse")),
        *((name, ctypes.c_void_p) for name in _TENSORS),
        ("parts", _Part * len(_PARTS)),
    )


def is_native() -> bool:
    """Whether the layer on the CPU is computed in C: measured once a machine."""
    return native.chosen(NAME, _trial)


def _can_c(inputs: Tensor) -> bool:
    """Whether `lstm.c` is to do it."""
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and inputs.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and is_native()
    )


def _trial(with_library: bool) -> None:
    """A forward and a backward pass of a layer of usual size, with a mask on the state."""
    steps, batch, hidden = 16, 64, 128
    projected = torch.full((1, steps, batch, 4 * hidden), 0.1, requires_grad=True)
    weight = torch.full((1, hidden, 4 * hidden), 0.1, requires_grad=True)
    parts = (torch.ones(1, steps, batch, hidden), *(None for _ in _PARTS[1:]))
    with torch.enable_grad():
        if with_library:
            states = _Native.apply(projected, None, None, weight, False, None, True, *parts)  # type: ignore[no-untyped-call]
        else:
            states = _Steps.apply(projected, weight, False, None, *parts)  # type: ignore[no-untyped-call]
        torch.autograd.grad(states, (projected, weight), torch.ones_like(states))


class _Native(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight_ih: Tensor | None,
        bias: Tensor | None,
        weight: Tensor,
        reverse: bool,
        lengths: Tensor | None,
        kept: bool,
        *parts: Tensor | None,
    ) -> Tensor:
        given = [
            None if tensor is None else tensor.contiguous() for tensor in (lengths, inputs, weight_ih, bias, weight)
        ]
        shape = (*inputs.shape[:3], weight.shape[1])
        noise = [None if part is None else _strided(part, shape) for part in parts]
        states = inputs.new_empty(shape)
        saved: tuple[Tensor | None, ...] = (None, None, None)
        if kept:  # the gates, the memories before each step, tanh of those after it
            saved = (inputs.new_empty(*shape[:3], 4 * shape[3]), torch.empty_like(states), torch.empty_like(states))
        _call(_library().lstm_forward, (*given, *saved, states), noise, reverse)
        ctx.reverse = reverse
        ctx.save_for_backward(*given, *saved, states, *noise)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, ...]:
        tensors, noise = ctx.saved_tensors[: -len(_PARTS)], ctx.saved_tensors[-len(_PARTS) :]
        _, inputs, weight_ih, bias, weight, *_ = tensors
        # Without W the gradient of the inputs is that of the gates, from which those of the weights are made.
        wanted = inputs if ctx.needs_input_grad[0] or weight_ih is None else None
        found = [None if tensor is None else torch.empty_like(tensor) for tensor in (wanted, weight_ih, bias, weight)]
        _call(_library().lstm_backward, (*tensors, above.contiguous(), *found), noise, ctx.reverse)
        return *found, None, None, None, *(None for _ in noise)


def _strided(part: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A part with a stride for each axis: 0 along those that it is shared along."""
    part = part.float().expand(shape)
    return part if part.stride(-1) in (0, 1) else part.contiguous()


def _call(
    function: Callable[[Any], int], tensors: Sequence[Tensor | None], noise: Sequence[Tensor | None], reverse: bool
) -> None:
    """Calls a function of lstm.c with the tensors in the order of `_TENSORS`; the last ones may be left out.

    Raises:
        MemoryError: there is not enough.
    """
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    pointers += [None] * (len(_TENSORS) - len(pointers))
    parts = (_Part * len(_PARTS))(
        *(_Part() if part is None else _Part(part.data_ptr(), *part.stride()) for part in noise)
    )
    named = dict(zip(_TENSORS, tensors, strict=False))
    inputs, states = named["x"], named["states"]
    assert inputs is not None
    assert states is not None
    runs, steps, batch, hidden = states.shape
    layer = _Layer(runs, steps, batch, inputs.shape[3], hidden, reverse, *pointers, parts)
    if function(ctypes.byref(layer)):
        raise MemoryError(f"no memory for the steps of an LSTM: {runs} x {steps} x {batch} x {hidden}")


@cache
def _library() -> Any:
    library: Any = native.library(NAME)
    for function in (library.lstm_forward, library.lstm_backward):
        function.argtypes, function.restype = (ctypes.c_void_p,), ctypes.c_int
    return library
