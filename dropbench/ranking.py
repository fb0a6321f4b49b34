"""Which elements are among the least of their row: the rule of targeted dropout and of pruning after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


#: Elements of a row from which on they are not sorted.
SMALL = 32


def ranks(scores: Tensor) -> Tensor:
    """The rank of each score along the last axis, from 0 for the smallest; of equal ones the first comes first."""
    order = scores.argsort(dim=-1, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def least(scores: Tensor, counts: Tensor) -> Tensor:
    """1 for the smallest scores along the last axis, 0 for the rest; of equal ones the first come first.

    Args:
        scores: [R, rows, n].
        counts: how many in each row, whole numbers [R].
    """
    if scores.device.type != "cpu" or scores.shape[-1] < SMALL:
        return (ranks(scores) < counts.view(-1, 1, 1)).to(scores.dtype)
    # On a CPU, to find the largest of the smallest in each row takes a tenth of the time of sorting them all.
    chosen = torch.zeros_like(scores)
    for run, count in enumerate(int(count) for count in counts.tolist()):
        if count == 0:
            continue
        bound = scores[run].kthvalue(count, dim=-1, keepdim=True).values
        within = scores[run] <= bound
        if int(within.sum()) > count * len(within):  # equal scores at the bound
            below, equal = scores[run] < bound, scores[run] == bound
            within = below | (equal & (equal.cumsum(-1) <= count - below.sum(-1, keepdim=True)))
        chosen[run] = within
    return chosen


def by_unit(weight: Tensor, unit_axis: int) -> Tensor:
    """Views weights [R, *shape] as [R, units, weights into one unit]."""
    return weight.movedim(unit_axis + 1, 1).flatten(2)


def from_unit(rows: Tensor, weight: Tensor, unit_axis: int) -> Tensor:
    """The inverse of `by_unit`, in the shape of `weight`."""
    return rows.view_as(weight.movedim(unit_axis + 1, 1)).movedim(1, unit_axis + 1)
