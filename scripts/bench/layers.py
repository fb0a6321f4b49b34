"""One LSTM layer with noise on its transitions, and PyTorch's own without: forward and backward, same weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from cases import Drawn, config
from common import broken

from dropbench.models.recurrent import recurrent_layer
from dropbench.nets import Nets, Present
from dropbench.spec import Clock
from dropbench.state import initial

if TYPE_CHECKING:
    from torch import Tensor

#: Steps T, batch B, inputs I, hidden units H: rows of MNIST, two of Penn Treebank's usual sizes, a long sequence.
SHAPES = ((28, 128, 28, 128), (35, 20, 200, 200), (35, 20, 650, 650), (100, 64, 64, 256))
#: Largest difference of two gradients, relative to the largest entry, that float32 explains.
ROUNDING = 1e-3
NAME = "layer1"


def words(shape: tuple[int, int, int, int]) -> str:
    """`28,128,28,128`."""
    return ",".join(map(str, shape))


class Layer:
    """`recurrent_layer` of R runs with the noise of a strategy, as a training step draws it: a call draws anew.

    Args:
        shape: T, B, I, H.
        strategy: words of a command line.
        device: where.
        runs: R.
    """

    def __init__(
        self, shape: tuple[int, int, int, int], strategy: tuple[str, ...], device: torch.device, runs: int = 1
    ) -> None:
        steps, batch, inputs, hidden = shape
        data = Drawn((steps, inputs))
        net = ("model=lstm", f"model.hidden={hidden}", f"batch_size={batch}")
        configs = [config(*net, *strategy, f"seed={seed}", data=data) for seed in range(runs)]
        self._nets = Nets(configs, data.facts, data.train_size, device)
        declared = [item for name, item in self._nets.declared.items() if name.startswith(f"{NAME}.")]
        self.params = {name: value.requires_grad_() for name, value in initial(declared, self._nets.streams).items()}
        streams = self._nets.streams
        self.inputs = streams.normal("data", 0, "inputs", (steps, batch, inputs)).requires_grad_()
        self.above = streams.normal("data", 0, "above", (steps, batch, hidden))
        self._step = 0

    def __call__(self) -> tuple[Tensor, ...]:
        """The gradients of inputs and weights."""
        clock = Clock(self._step, 2**31, 0, 1)
        noise = self._nets.drawn(Present(self.params, {}, clock), {})
        self._step += 1
        states, _ = recurrent_layer(self.params, NAME, "lstm", self.inputs, noise)
        return torch.autograd.grad(states, [self.inputs, *self.params.values()], self.above)


class Plain:
    """`torch.nn.LSTM` without dropout: weights, inputs and gradients from above are those of a layer's first run."""

    def __init__(self, layer: Layer) -> None:
        weight, other = layer.params[f"{NAME}.weight_ih"], layer.params[f"{NAME}.weight_hh"]
        self._lstm = torch.nn.LSTM(weight.shape[1], other.shape[1], device=weight.device)
        with torch.no_grad():
            for name, own in (("weight_ih", weight), ("weight_hh", other)):
                getattr(self._lstm, f"{name}_l0").copy_(own[0].T)
            for name in ("bias_ih", "bias_hh"):
                getattr(self._lstm, f"{name}_l0").copy_(layer.params[f"{NAME}.{name}"][0])
        self._inputs, self._above = layer.inputs[0].detach().requires_grad_(), layer.above[0]

    def __call__(self) -> tuple[Tensor, ...]:
        """The gradients of inputs and weights."""
        states, _ = self._lstm(self._inputs)
        return torch.autograd.grad(states, [self._inputs, *self._lstm.parameters()], self._above)


def same_work(shape: tuple[int, int, int, int], device: torch.device) -> None:
    """Ends the bench unless both layers, without noise, give the same gradients."""
    layer = Layer(shape, ("strategy=none",), device)
    names = [name.removeprefix(f"{NAME}.") for name in layer.params]
    theirs = dict(zip(("inputs", "weight_ih", "weight_hh", "bias_ih", "bias_hh"), Plain(layer)(), strict=True))
    for name, ours in zip(["inputs", *names], layer(), strict=True):
        other = theirs[name].T if name.startswith("weight") else theirs[name]
        error = ((ours[0] - other).abs().max() / other.abs().max()).item()
        if not error <= ROUNDING:
            broken(f"{words(shape)}: the gradients of {name} differ by {error:.1e} of the largest")
