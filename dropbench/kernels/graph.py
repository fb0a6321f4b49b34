"""A whole training step as one CUDA graph: some hundred launches become one.

A graph repeats the same kernels on the same memory, so nothing that moves from step to step may be a number of the
host. Here the moving things are tensors that keep their place: the examples (`index`); the step and epoch of the
`Clock`, so that rates, learning rates and momenta are computed on the device; the states of the policies; and the words
of the noise, which are made on the device where `Streams` can do that, else drawn by the host into buffers (`Held`).
What asks the clock for a number of the host cannot be captured, and such a step is taken as ever.

Nothing of this was measured on a GPU when it was written, so a graph proves itself before it is used: see `Captured`.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch

from dropbench.kernels import cuda
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from dropbench.nets import Nets
    from dropbench.policies import State
    from dropbench.spec import Clock
    from dropbench.streams import Purpose

    #: One update on the examples `index` [R, batch], at this time, in this state of the policies; the losses [R].
    Learn = Callable[[Nets, Tensor, Clock, Mapping[str, State]], Tensor]
    #: From work on tensors that keep their place to what repeats it.
    Capture = Callable[[Callable[[], None]], Callable[[], None]]

NAME = "step"
#: Passes before a capture: kernels are compiled and chosen, libraries take their memory.
WARM_UP = 3
#: A capture, its proof and the contest take some fifty steps.
LEAST_STEPS = 500
#: How far a repeated update may be from the same update taken as ever, as a share of its size: rounding adds up.
FAR = 1e-2


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Captures `work` and returns what replays it."""
    side, here = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
    side.wait_stream(here)
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            work()
    here.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # checkpoints are copied by another thread
        work()
    return graph.replay


class Captured:
    """The training step of a stack, repeated from a capture where that is the same and no slower.

    The capture is made of the first example alone, at step 0. It must then take the same updates as `learn` with the
    examples at hand, at the present step and at the last one, so that what was captured by mistake shows; and it must
    take no longer. The state is put back after all this. Whatever fails, `cuda.choices` says why, and the steps are
    taken as ever.

    Args:
        learn: takes one update, in place.
        nets: what it is given.
        moved: the tensors that an update changes.
        policies: their state; later ones differ in their values alone.
        capture: for tests, which have no GPU.
    """

    def __init__(
        self, learn: Learn, nets: Nets, moved: Sequence[Tensor], policies: Mapping[str, State],
        capture: Capture = cuda_graph,
    ) -> None:  # fmt: skip
        self.learn, self.nets, self.capture = learn, nets, capture
        self.moved = [tensor.detach() for tensor in moved]
        self.streams, self.still = Held(nets.streams), copy(nets)
        self.still.streams = self.streams
        self.policies = {name: {key: each.clone() for key, each in state.items()} for name, state in policies.items()}
        self.seen: Mapping[str, State] | None = None
        # 0-dimensional doubles: as exact as the numbers of the host, and like them they promote nothing.
        self.step, self.epoch = (torch.zeros((), dtype=torch.float64, device=nets.device) for _ in range(2))
        self.index, self.losses = torch.empty(0), torch.empty(0)
        self.replay: Callable[[], None] | None = None
        self.settled = False

    def __call__(self, index: Tensor, clock: Clock, policies: Mapping[str, State]) -> Tensor | None:
        """One update and its losses [R]; None where it is to be taken as ever, and nothing was done."""
        if not self.settled:
            self.settled = True
            self._settle(index, clock, policies)
        if self.replay is None or index.shape != self.index.shape:
            return None
        return self._repeated(index, clock, policies)

    def _settle(self, index: Tensor, clock: Clock, policies: Mapping[str, State]) -> None:
        """Captures the step, and keeps the capture if it is worth it."""
        if clock.steps - clock.step < LEAST_STEPS:
            cuda.refuse(NAME, f"fewer than {LEAST_STEPS} steps are left")
            return
        before = [tensor.clone() for tensor in self.moved]
        self.index, self.losses = torch.zeros_like(index), torch.zeros(len(index), device=index.device)
        moving = replace(clock, step=cast("int", self.step), epoch=cast("int", self.epoch))
        late = replace(clock, step=clock.steps - 1, epoch=clock.epochs - 1)

        def work() -> None:
            self.losses.copy_(self.learn(self.still, self.index, moving, self.policies).detach())

        def plain(time: Clock = clock) -> Tensor:
            return self.learn(self.nets, index, time, policies).detach()

        def repeated(time: Clock = clock) -> Tensor:
            return self._repeated(index, time, policies)

        def alike() -> bool:
            self.replay = self.capture(work)
            return all(
                cuda.near(
                    self._effect(partial(plain, time), before), self._effect(partial(repeated, time), before), FAR
                )
                for time in (clock, late)
            )

        if not cuda.contest(NAME, "graph", alike, plain, repeated):
            self.replay = None
        self._put(before)

    def _repeated(self, index: Tensor, clock: Clock, policies: Mapping[str, State]) -> Tensor:
        assert self.replay is not None
        self.index.copy_(index)
        self.step.fill_(clock.step)
        self.epoch.fill_(clock.epoch)
        self.streams.draw(clock.step)
        if policies is not self.seen:
            self.seen = policies
            for name, state in policies.items():
                for key, value in state.items():
                    self.policies[name][key].copy_(value)
        self.replay()
        return self.losses.clone()

    def _effect(self, update: Callable[[], Tensor], before: Sequence[Tensor]) -> list[Tensor]:
        """The losses of an update that starts from `before`, and what it changes."""
        self._put(before)
        losses = update()
        return [losses, *(now - then for now, then in zip(self.moved, before, strict=True))]

    def _put(self, values: Sequence[Tensor]) -> None:
        for tensor, value in zip(self.moved, values, strict=True):
            tensor.copy_(value)


class Held(Streams):
    """Streams whose draws at a step that is a tensor lie in buffers, to be filled anew for each step.

    Args:
        streams: what draws.
    """

    def __init__(self, streams: Streams) -> None:
        super().__init__(streams.seeds, streams.device)
        self.streams, self.there = streams, streams.made_there
        self.buffers: dict[tuple[str, Purpose, str, tuple[Any, ...]], Tensor] = {}

    def draw(self, step: int) -> None:
        """Fills the buffers with the draws of a step."""
        for (kind, purpose, site, rest), buffer in self.buffers.items():
            buffer.copy_(getattr(self.streams, kind)(purpose, step, site, *rest), non_blocking=True)

    def bits(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """See `Streams.bits`."""
        return self._held("bits", purpose, step, site, shape)

    def uniform(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """See `Streams.uniform`."""
        return self._held("uniform", purpose, step, site, shape)

    def normal(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """See `Streams.normal`."""
        return self._held("normal", purpose, step, site, shape)

    def integers(self, purpose: Purpose, step: int, site: str, high: int, shape: tuple[int, ...]) -> Tensor:
        """See `Streams.integers`."""
        return self._held("integers", purpose, step, site, high, shape)

    def _held(self, kind: str, purpose: Purpose, step: Any, site: str, *rest: Any) -> Tensor:
        if not isinstance(step, torch.Tensor) or (self.there and kind in ("bits", "uniform")):
            return cast("Tensor", getattr(self.streams, kind)(purpose, step, site, *rest))
        key = (kind, purpose, site, rest)
        if key not in self.buffers:
            self.buffers[key] = getattr(self.streams, kind)(purpose, 0, site, *rest).clone()
        return self.buffers[key]
