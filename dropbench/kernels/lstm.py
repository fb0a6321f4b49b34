"""The steps of an LSTM layer with their noise, differentiated by hand.

Autograd would record some thirty small operations a step, and add up the gradient of the weights step by step. Here the
backward pass takes nine a step, and the gradient of the weights is one product after the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.noise import Perturbation

#: The tensors of the noise, in the order in which `_Steps` takes them.
_PARTS = (
    ("state", "scale"), ("candidate", "scale"), ("cell", "scale"), ("cell", "readout"),
    ("carry_c", "scale"), ("carry_c", "mix"), ("carry_h", "scale"), ("carry_h", "mix"),
)  # fmt: skip


def can_do(weight: Tensor, actions: Mapping[str, Perturbation | None]) -> bool:
    """Whether `lstm_steps` can: one weight and one mask for all gates, and no gradient that the noise itself needs."""
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


def lstm_steps(
    projected: Tensor, weight: Tensor, actions: Mapping[str, Perturbation | None], *, reverse: bool = False
) -> Tensor:
    """The states h of all steps.

    Formula: `i, f, o = s(p + (a_h h) U)`, `g = tanh(..)`, `m = a_c (f c + i a_g g)`, `r = a_r o tanh(m)`, then
    `c' = k_c m + (mix_c) c` and `h' = k_h r + (mix_h) h`; the a, k and mix are those of the noise.

    Args:
        projected: p, [R, steps, batch, 4 hidden], input and biases of the gates i, f, g, o.
        weight: U, [R, hidden, 4 hidden].
        actions: the noise at the sites state, candidate, cell, carry_c, carry_h, each broadcastable to
            [R, steps, batch, hidden].
        reverse: whether to walk from the last step to the first.

    Returns:
        [R, steps, batch, hidden].
    """
    parts = [getattr(actions.get(site), part, None) for site, part in _PARTS]
    parts = [None if part is None else part.to(projected.dtype) for part in parts]
    states: Tensor = _Steps.apply(projected, weight.to(projected.dtype), reverse, *parts)  # type: ignore[no-untyped-call]
    return states


def _at(part: Tensor | None, step: int) -> Tensor | None:
    return None if part is None else part.select(1, step if part.shape[1] > 1 else 0)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, projected: Tensor, weight: Tensor, reverse: bool, *parts: Tensor | None) -> Tensor:
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
            states[:, step] = h
        ctx.reverse = reverse
        ctx.save_for_backward(weight, gates, entered, before, squashed, *parts)
        return states

    @staticmethod
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        weight, gates, entered, before, squashed, *parts = ctx.saved_tensors
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
        return found, dweight, None, *(None for _ in parts)


def _carried(new: Tensor, old: Tensor, keep: Tensor | None, mix: Tensor | None) -> Tensor:
    """`keep new + mix old`; None stands for 1 and 0."""
    result = new if keep is None else new * keep
    return result if mix is None else torch.addcmul(result, old, mix)
