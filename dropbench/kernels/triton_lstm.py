# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
"""The steps of an LSTM layer with their noise on a GPU: two launches a step, forward and backward.

The one is the product with U, the other does all that is done element by element. The formula, the arguments and what
is differentiated by hand are those of `lstm.py`, whose way is the fallback; here the sums of a step are float32
whatever the precision of the values. Which noises act is known when a kernel is compiled: what is absent costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

#: Elements of a program.
BLOCK = 256


class FusedSteps(torch.autograd.Function):
    """As `lstm._Steps`, with the same arguments."""

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight: Tensor, reverse: bool, valid: Tensor | None, *parts: Tensor | None
    ) -> Tensor:
        """The states h of all steps, [R, steps, batch, hidden]."""
        runs, steps, batch, wide = projected.shape
        gates = torch.empty_like(projected, memory_format=torch.contiguous_format)
        # What enters U, the memory before and the squashed one after each step, and the states.
        entered, before, squashed, states = (projected.new_empty(runs, steps, batch, wide // 4) for _ in range(4))
        noise, forms = _laid_out((*parts, valid))
        walk = list(reversed(range(steps)) if reverse else range(steps))
        if walk:
            entered[:, walk[0]].zero_()
            before[:, walk[0]].zero_()
        for last, step, after in zip((-1, *walk), walk, (*walk[1:], -1), strict=False):
            torch.baddbmm(projected[:, step], entered[:, step], weight, out=gates[:, step])
            _forward[_programs(states)](
                gates, entered, before, squashed, states, *noise,
                last, step, after, *states.shape, FORMS=forms, BLOCK=BLOCK, enable_fp_fusion=True,
            )  # fmt: skip
        ctx.walk, ctx.forms = walk, forms
        ctx.save_for_backward(weight, gates, entered, before, squashed, *noise)
        return states

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of `projected` and `weight`."""
        weight, gates, entered, before, squashed, *noise = ctx.saved_tensors
        dstates, dgates = above[0].contiguous(), torch.empty_like(gates)
        back, product = weight.transpose(1, 2), torch.zeros_like(entered[:, 0])
        # What passes U by: the gradient of the carried memory, and that of the carried state.
        dmemory, dcarried = torch.zeros(2, *product.shape, dtype=torch.float32, device=weight.device).unbind()
        for later, step in zip((-1, *reversed(ctx.walk)), reversed(ctx.walk), strict=False):
            _backward[_programs(dstates)](
                dstates, dgates, product, dmemory, dcarried, gates, before, squashed, *noise,
                later, step, *dstates.shape, FORMS=ctx.forms, BLOCK=BLOCK, enable_fp_fusion=True,
            )  # fmt: skip
            torch.bmm(dgates[:, step], back, out=product)
        dweight = torch.bmm(entered.flatten(1, 2).transpose(1, 2), dgates.flatten(1, 2))
        return dgates, dweight, None, *(None for _ in noise)


def _laid_out(parts: tuple[Tensor | None, ...]) -> tuple[list[Tensor | None], tuple[int, ...]]:
    """Dense parts, and of each its form: which of run, step, batch and unit it has, as bits; -1 where it is absent."""
    dense = [None if part is None else part.contiguous() for part in parts]
    return dense, tuple(
        -1 if part is None else sum((length > 1) << axis for axis, length in enumerate(part.shape)) for part in dense
    )


def _programs(states: Tensor) -> tuple[int]:
    return (triton.cdiv(states.numel() // max(states.shape[1], 1), BLOCK),)


@triton.jit
def _part(pointer, FORM: tl.constexpr, default, step, where, live):
    """The elements of a part of the noise at one step; `default` where it is absent."""
    if FORM < 0:
        value = default
    else:
        run, row, unit, steps, batch, hidden = where
        # Axes of length 1 are passed over; the others are dense.
        place = tl.zeros_like(unit)
        if FORM & 1:
            place += run
        if FORM & 2:
            place = place * steps + step
        if FORM & 4:
            place = place * batch + row
        if FORM & 8:
            place = place * hidden + unit
        value = tl.load(pointer + place, mask=live, other=0).to(tl.float32)
    return value


@triton.jit
def _tanh(x):
    """To float32 precision also near 0, where the sigmoid cancels."""
    square = x * x
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 - square * 17 / 315)))
    return tl.where(square < 0.01, near, 2 * tl.sigmoid(2 * x) - 1)


@triton.jit(do_not_specialize=["last", "step", "after"])
def _forward(
    gates, entered, before, squashed, states,
    state, candidate, cell, readout, keep_c, mix_c, keep_h, mix_h, valid,
    last, step, after, runs, steps, batch, hidden,
    FORMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step: `last`, `step` and `after` are its neighbours in the walk, -1 where there is none."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = runs * batch * hidden
    live = at < count
    run, row, unit = at // (batch * hidden), at // hidden % batch, at % hidden
    where = (run, row, unit, steps, batch, hidden)
    here = ((run * steps + step) * batch + row) * hidden + unit
    wide = ((run * steps + step) * batch + row) * 4 * hidden + unit
    i = tl.sigmoid(tl.load(gates + wide, mask=live, other=0).to(tl.float32))
    f = tl.sigmoid(tl.load(gates + wide + hidden, mask=live, other=0).to(tl.float32))
    g = _tanh(tl.load(gates + wide + 2 * hidden, mask=live, other=0).to(tl.float32))
    o = tl.sigmoid(tl.load(gates + wide + 3 * hidden, mask=live, other=0).to(tl.float32))
    tl.store(gates + wide, i, mask=live)
    tl.store(gates + wide + hidden, f, mask=live)
    tl.store(gates + wide + 2 * hidden, g, mask=live)
    tl.store(gates + wide + 3 * hidden, o, mask=live)

    c = tl.load(before + here, mask=live, other=0).to(tl.float32)
    scale = _part(candidate, FORMS[1], 1.0, step, where, live)
    memory = f * c + i * (g * scale)
    memory *= _part(cell, FORMS[2], 1.0, step, where, live)
    tanh = _tanh(memory)
    tl.store(squashed + here, tanh, mask=live)
    h = o * tanh * _part(readout, FORMS[3], 1.0, step, where, live)
    h *= _part(keep_h, FORMS[6], 1.0, step, where, live)
    if FORMS[7] >= 0:
        there = ((run * steps + last) * batch + row) * hidden + unit
        old = tl.load(states + there, mask=at < tl.where(last < 0, 0, count), other=0).to(tl.float32)
        h += old * _part(mix_h, FORMS[7], 0.0, step, where, live)
    ends = _part(valid, FORMS[8], 1.0, step, where, live)
    h *= ends
    tl.store(states + here, h, mask=live)
    memory *= _part(keep_c, FORMS[4], 1.0, step, where, live)
    memory += c * _part(mix_c, FORMS[5], 0.0, step, where, live)
    memory *= ends

    # What the next step starts from.
    live = at < tl.where(after < 0, 0, count)
    there = ((run * steps + after) * batch + row) * hidden + unit
    tl.store(before + there, memory, mask=live)
    scale = _part(state, FORMS[0], 1.0, after, where, live)
    tl.store(entered + there, h * scale, mask=live)


@triton.jit(do_not_specialize=["later", "step"])
def _backward(
    dstates, dgates, product, dmemory, dcarried, gates, before, squashed,
    state, candidate, cell, readout, keep_c, mix_c, keep_h, mix_h, valid,
    later, step, runs, steps, batch, hidden,
    FORMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step; `later` comes after it in the walk, -1 where none does."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = runs * batch * hidden
    live = at < count
    run, row, unit = at // (batch * hidden), at // hidden % batch, at % hidden
    where = (run, row, unit, steps, batch, hidden)
    here = ((run * steps + step) * batch + row) * hidden + unit
    wide = ((run * steps + step) * batch + row) * 4 * hidden + unit
    i = tl.load(gates + wide, mask=live, other=0).to(tl.float32)
    f = tl.load(gates + wide + hidden, mask=live, other=0).to(tl.float32)
    g = tl.load(gates + wide + 2 * hidden, mask=live, other=0).to(tl.float32)
    o = tl.load(gates + wide + 3 * hidden, mask=live, other=0).to(tl.float32)
    c = tl.load(before + here, mask=live, other=0).to(tl.float32)
    tanh = tl.load(squashed + here, mask=live, other=0).to(tl.float32)

    masked = at < tl.where(later < 0, 0, count)
    dh = tl.load(product + at, mask=live, other=0).to(tl.float32)
    dh *= _part(state, FORMS[0], 1.0, later, where, masked)
    dh += tl.load(dstates + here, mask=live, other=0).to(tl.float32)
    ends = _part(valid, FORMS[8], 1.0, step, where, live)
    if FORMS[7] >= 0:
        dh += tl.load(dcarried + at, mask=live, other=0)
    dh *= ends
    if FORMS[7] >= 0:
        mix = _part(mix_h, FORMS[7], 0.0, step, where, live)
        tl.store(dcarried + at, dh * mix, mask=live)
    dread = dh * _part(keep_h, FORMS[6], 1.0, step, where, live)
    dread *= _part(readout, FORMS[3], 1.0, step, where, live)
    dc = tl.load(dmemory + at, mask=live, other=0) * ends
    dm = dc * _part(keep_c, FORMS[4], 1.0, step, where, live)
    dm += dread * o * (1 - tanh * tanh)
    dm *= _part(cell, FORMS[2], 1.0, step, where, live)
    dc *= _part(mix_c, FORMS[5], 0.0, step, where, live)
    tl.store(dmemory + at, dm * f + dc, mask=live)

    scale = _part(candidate, FORMS[1], 1.0, step, where, live)
    tl.store(dgates + wide, dm * g * scale * i * (1 - i), mask=live)
    tl.store(dgates + wide + hidden, dm * c * f * (1 - f), mask=live)
    tl.store(dgates + wide + 2 * hidden, dm * i * scale * (1 - g * g), mask=live)
    tl.store(dgates + wide + 3 * hidden, dread * tanh * o * (1 - o), mask=live)
