"""Which of two ways a GPU takes: that of torch, or a kernel of ours; tried on the GPU itself, once a process.

A kernel is used where it can be had, gives the same numbers, and is faster on the first work it is asked to do. None of
this was measured on a GPU when it was written: what a GPU makes of it stands in `choices`, and so in the record.
`DROPBENCH_KERNELS=torch` asks for the way of torch.
"""

from __future__ import annotations

import os
import statistics
import time
from typing import TYPE_CHECKING

import torch

from dropbench.kernels import said
from dropbench.kernels.native import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    Steps = torch.autograd.Function

#: Times that each side of a contest is timed, in turns; the proof that they are alike has warmed both up.
ROUNDS = 7
#: Pieces of work between two looks at the clock.
WORK = 3
#: How far the steps of an LSTM may be from those of torch, as a share of their size, by what they are computed in.
PRECISION = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}

_choices: dict[str, dict[str, object]] = {}


def chosen(
    name: str, way: str, alike: Callable[[], bool], plain: Callable[[], object], fast: Callable[[], object]
) -> bool:
    """Whether `fast` is to do the work of that name: decided by a `contest` at the first call that may hold one."""
    if name not in _choices:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return False
        contest(name, way, alike, plain, fast)
    return _choices[name]["chosen"] == way


def contest(
    name: str, way: str, alike: Callable[[], bool], plain: Callable[[], object], fast: Callable[[], object]
) -> bool:
    """Whether `fast` does what `plain` does, and no slower; it is remembered.

    Args:
        name: of the work.
        way: what `fast` is called in `choices`.
        alike: whether both give the same; whatever it raises speaks against `fast`.
        plain: does the work by torch alone.
        fast: does it otherwise.
    """
    _choices[name] = choice = _contest(way, alike, plain, fast)
    return choice["chosen"] == way


def choices() -> dict[str, dict[str, object]]:
    """What was chosen so far in this process, by name: `chosen`, and the seconds of both ways or else `why`."""
    return {name: dict(choice) for name, choice in sorted(_choices.items())}


def in_use() -> dict[str, str]:
    """What was chosen so far in this process, in words: `triton`, `graph`, `torch`, or `torch (why)`."""
    return {name: said(choice) for name, choice in choices().items()}


def refuse(name: str, why: str) -> None:
    """Notes that the work of that name is done by torch, without a contest."""
    _choices[name] = {"chosen": "torch", "why": why}


def _contest(
    way: str, alike: Callable[[], bool], plain: Callable[[], object], fast: Callable[[], object]
) -> dict[str, object]:
    if os.environ.get(VARIABLE) == "torch":
        return {"chosen": "torch", "why": f"{VARIABLE}=torch"}
    taken: dict[str, list[float]] = {way: [], "torch": []}
    try:
        if not alike():
            return {"chosen": "torch", "why": f"the {way} gives other numbers"}
        for _ in range(ROUNDS):
            taken[way].append(_seconds(fast))
            taken["torch"].append(_seconds(plain))
    except Exception as error:  # no Triton, no compiler, a GPU it does not know: torch can do without
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return {"chosen": "torch", "why": f"the {way} fails: {said}"}
    ours, torchs = (statistics.median(seconds) / WORK for seconds in taken.values())
    return {"chosen": way if ours <= torchs else "torch", f"{way}_seconds": ours, "torch_seconds": torchs}


def _seconds(work: Callable[[], object]) -> float:
    _settle()
    started = time.perf_counter()
    for _ in range(WORK):
        work()
    _settle()
    return time.perf_counter() - started


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def lstm_steps(
    plain: type[Steps], projected: Tensor, weight: Tensor, reverse: bool, valid: Tensor | None, *parts: Tensor | None
) -> type[Steps]:
    """What is to walk the steps of an LSTM: `plain`, or on a GPU the fused kernels of `triton_lstm.py`.

    Args:
        plain: `lstm._Steps`; the others are its arguments.
        projected: see there.
        weight: see there.
        reverse: see there.
        valid: see there.
        parts: see there.
    """
    if projected.device.type != "cuda" or projected.dtype not in PRECISION or not projected.numel():
        return plain

    def fused() -> type[Steps]:
        from dropbench.kernels.triton_lstm import FusedSteps

        return FusedSteps

    def passes(steps: type[Steps]) -> tuple[Tensor, ...]:
        """The states, and the gradients of what they come from."""
        with torch.enable_grad():
            leaves = [leaf.detach().requires_grad_() for leaf in (projected, weight)]
            states: Tensor = steps.apply(*leaves, reverse, valid, *parts)  # type: ignore[no-untyped-call]
            return states, *torch.autograd.grad(states, leaves, states.detach())

    def alike() -> bool:
        return near(passes(plain), passes(fused()), PRECISION[projected.dtype])

    won = chosen("lstm_steps", "triton", alike, lambda: passes(plain), lambda: passes(fused()))
    return fused() if won else plain


def near(ones: Iterable[Tensor], others: Iterable[Tensor], far: float) -> bool:
    """Whether tensors differ by no more than a share `far` of their size, each as a whole."""
    return all(bool((one - other).norm() <= far * one.norm() + 1e-6) for one, other in zip(ones, others, strict=True))
