"""A captured training step against the same step taken as ever.

There need be no GPU: a `Tape` is a graph in the one respect that matters here. It notes the operations on tensors and
repeats them on the same memory, with every number of Python as it was when they were noted.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dropbench.kernels import cuda, graph, loss, lstm, native, update
from dropbench.kernels.graph import Captured, cuda_graph
from dropbench.runner import Trainer
from dropbench.spec import Clock

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import MemorySink, data_of, tiny

STEPS = 20
AHEAD = 40


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host asks for a number")
        result = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, result))
        return result

    def play(self) -> None:
        with torch.no_grad():
            for function, args, kwargs, result in self.calls:
                if "empty" in function.__name__:  # memory, not work
                    continue
                again = function(*args, **kwargs)
                if all(each.alias_info is None for each in function._schema.returns):  # no view, nothing in place
                    for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                        if old is not None:
                            old.copy_(new)


def taped(work):
    for _ in range(graph.WARM_UP):
        work()
    with Tape() as tape:
        work()
    return tape.play


@dataclass
class Stack:
    """R runs, their next examples, and a step of them as the runner takes it."""

    trainer: Trainer

    def index(self, step: int) -> torch.Tensor:
        order = self.trainer.nets.streams.permutation("order", step, "train", len(self.trainer.data.train))
        return order[:, : self.trainer.batch_size]

    def clock(self, step: int) -> Clock:
        return Clock(step, AHEAD, step // 10, AHEAD // 10)

    def learn(self, nets, index, clock, policies):
        return self.trainer._learn(nets, index, clock, policies)[0]

    def plain(self, step: int) -> torch.Tensor:
        state = self.trainer.state
        return self.learn(self.trainer.nets, self.index(step), self.clock(step), state.policies).detach()

    @property
    def moved(self) -> list[torch.Tensor]:
        return [*self.trainer.state.params.values(), *self.trainer.state.optimizer.values()]

    def captured(self, capture=taped, learn=None) -> Captured:
        return Captured(learn or self.learn, self.trainer.nets, self.moved, self.trainer.state.policies, capture)


def stack(strategy: str, model: str, changes: dict[str, Any], device: str = "cpu", runs: int = 3) -> Stack:
    # On a CPU, and there alone, max-norm looks at the norms first.
    config = tiny(strategy, model, changes | ({"optimizer.max_norm": None} if device == "cpu" else {}))
    configs = [replace(config, seed=seed) for seed in range(runs)]
    trainer = Trainer(configs, data_of(config.dataset), torch.device(device), MemorySink(runs))
    return Stack(trainer)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Kernels in C are for the CPU alone, and what they do no tape can see."""
    for kernel in (loss, lstm, update):
        monkeypatch.setattr(kernel, "is_native", lambda: False)


@pytest.fixture(autouse=True)
def a_graph_wins(monkeypatch):
    """A contest without a clock; and no kernels of the CPU, which a tape does not hear."""
    monkeypatch.setattr(cuda, "_choices", {})
    monkeypatch.setattr(cuda, "_seconds", lambda work: 1.0)
    monkeypatch.setattr(native, "library", lambda name: None)
    monkeypatch.setattr(graph, "LEAST_STEPS", 1)


#: Shares are powers of 2: where a tensor divides a number of the host, torch multiplies by its reciprocal instead.
RAMPS = {
    "optimizer.momentum_ramp": 0.25, "optimizer.momentum_start": 0.3, "optimizer.warmup": 0.125,
    "optimizer.decay.shape": "linear", "optimizer.decay.final": 0.01,
}  # fmt: skip
CASES = {
    "constant": ("standard", "mlp", {}),
    "moving": ("gradual", "mlp", RAMPS),
    "uniform words and the drive": ("standout", "mlp", RAMPS),
    "normal words": ("gaussian", "cnn", {"optimizer.decay.shape": "inverse_time"}),
    "copies": ("rdrop", "mlp", {"optimizer.decay.shape": "inverse_time"}),
    "transitions": ("gradual", "lstm", {"optimizer.decay.shape": "step"}),
    "a penalty that moves": ("variational/sparse", "mlp", {}),
    "a cosine": ("standard", "mlp", {"optimizer.decay.shape": "cosine"}),
    "states of policies": ("adaptive", "mlp", {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_replay_takes_the_very_same_steps(case):
    mine, theirs = stack(*case), stack(*case)
    captured = mine.captured()
    for step in range(STEPS):
        if step % 10 == 5:  # what a control tick may do to the policies
            for each in (mine, theirs):
                state = each.trainer.state
                state.policies = {
                    name: {key: value * 0.9 for key, value in tensors.items()}
                    for name, tensors in state.policies.items()
                }
        losses = captured(mine.index(step), mine.clock(step), mine.trainer.state.policies)
        assert losses is not None, cuda.choices()
        assert torch.equal(losses, theirs.plain(step))
    for one, other in zip(mine.moved, theirs.moved, strict=True):
        assert torch.equal(one, other)


def refused(captured: Captured, mine: Stack) -> str:
    before = [tensor.detach().clone() for tensor in mine.moved]
    assert captured(mine.index(3), mine.clock(3), mine.trainer.state.policies) is None
    assert all(torch.equal(one, other) for one, other in zip(mine.moved, before, strict=True)), "the state is put back"
    choice = cuda.choices()["step"]
    assert choice["chosen"] == "torch"
    return str(choice["why"])


def test_a_clock_that_is_read_on_the_host_is_no_graph():
    mine = stack("standard", "mlp", {})

    def learn(nets, index, clock, policies):
        return mine.learn(nets, index, clock, policies) * (2 if clock.step > 3 else 1)

    assert refused(mine.captured(learn=learn), mine) == "the graph fails: the host asks for a number"


def test_masks_of_one_step_are_no_graph():
    mine = stack("standard", "mlp", {})

    def learn(nets, index, clock, policies):
        return mine.learn(mine.trainer.nets, index, replace(clock, step=7), policies)

    def late(nets, index, clock, policies):
        if isinstance(clock.step, torch.Tensor):
            return learn(nets, index, clock, policies)
        return mine.learn(nets, index, clock, policies)

    assert refused(mine.captured(learn=late), mine) == "the graph gives other numbers"


def test_a_learning_rate_of_one_step_is_no_graph():
    mine = stack("none", "mlp", {"optimizer.decay.shape": "linear"})

    def learn(nets, index, clock, policies):
        if isinstance(clock.step, torch.Tensor):
            clock = replace(clock, step=3)  # right at the present, wrong at the end
        return mine.learn(nets, index, clock, policies)

    assert refused(mine.captured(learn=learn), mine) == "the graph gives other numbers"


def test_what_cannot_be_captured_is_taken_as_ever():
    mine = stack("standard", "mlp", {})

    def none(work):
        raise RuntimeError("no graphs here\nat all")

    assert refused(mine.captured(capture=none), mine) == "the graph fails: no graphs here"


def test_a_short_training_is_not_captured(monkeypatch):
    monkeypatch.setattr(graph, "LEAST_STEPS", 500)
    mine = stack("standard", "mlp", {})
    assert refused(mine.captured(capture=None), mine) == "fewer than 500 steps are left"


def test_a_graph_is_asked_for_by_none_who_wants_torch(monkeypatch):
    monkeypatch.setenv("DROPBENCH_KERNELS", "torch")
    mine = stack("standard", "mlp", {})
    assert refused(mine.captured(capture=None), mine) == "DROPBENCH_KERNELS=torch"


def test_a_batch_of_another_size_is_taken_as_ever():
    mine, theirs = stack("standard", "mlp", {}), stack("standard", "mlp", {})
    captured = mine.captured()
    captured(mine.index(0), mine.clock(0), {})
    theirs.plain(0)
    assert captured(mine.index(1)[:, :5], mine.clock(1), {}) is None
    assert all(torch.equal(one, other) for one, other in zip(mine.moved, theirs.moved, strict=True))


TRAININGS = [("gradual", "mlp"), ("transition/zoneout", "lstm"), ("rdrop", "cnn"), ("adaptive/difficulty", "mlp")]


@pytest.mark.parametrize(("strategy", "model"), TRAININGS)
def test_a_training_by_replays_has_the_same_figures(strategy, model):
    """Watched steps, and the last batch of an epoch, which is smaller, are taken as ever between replays."""
    size = {"epochs": 3, "batch_size": 5, "dataset.train_size": 47}
    plain, replayed = (stack(strategy, model, size).trainer for _ in range(2))
    of_replayed = Stack(replayed)
    replayed.captured = of_replayed.captured()
    for trainer in (plain, replayed):
        trainer.run()
    assert cuda.choices()["step"]["chosen"] == "graph"
    assert replayed.sink.records == plain.sink.records
    assert replayed.sink.results == plain.sink.results


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_graph_takes_the_same_steps_to_rounding(case):
    mine, theirs = stack(*case, device="cuda"), stack(*case, device="cuda")
    captured = mine.captured(cuda_graph)
    for step in range(STEPS):
        losses = captured(mine.index(step), mine.clock(step), mine.trainer.state.policies)
        assert losses is not None, cuda.choices()
        torch.testing.assert_close(losses, theirs.plain(step), rtol=1e-4, atol=1e-5)
