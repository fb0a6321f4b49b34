"""A bare PyTorch loop, as a competent user writes it for one net on data in memory: what the runner is held against.

It loads nothing of dropbench. As a script it is a process of its own, so that nothing that dropbench sets up (MKL's
mode, the allocator, deterministic kernels) is on its side: it reads a JSON file with a `Task`, then trains once for
every line on standard input and answers each with a line.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d, relu

#: Examples of a pass in evaluation.
PASS = 1000


@dataclass(frozen=True)
class Task:
    """What to train.

    Args:
        kind: of net: `mlp` (hidden layers of `widths`), `cnn` (maps of 5x5 filters, then one dense layer), `lstm` (one
            layer over the rows of an image).
        widths: of its layers.
        rates: of dropout, by the name of the place; none for no dropout.
        epochs: how many.
        batch_size: examples of a step.
        probe: training examples on which the loss is measured after each epoch.
        threads: of torch.
        device: where.
        data: file with the tensors `train`, `validation` and `test`, pairs of inputs and class numbers.
    """

    kind: Literal["mlp", "cnn", "lstm"]
    widths: tuple[int, ...]
    rates: dict[str, float]
    epochs: int
    batch_size: int
    probe: int
    threads: int
    device: str
    data: str


class MLP(nn.Module):
    """`drop(relu(Wx + b))`, twice or oftener, then linear."""

    def __init__(self, task: Task, inputs: tuple[int, ...], classes: int) -> None:
        super().__init__()
        sizes = (math.prod(inputs), *task.widths)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)
        places = ("input", *(f"hidden{layer}" for layer in range(1, len(sizes))))
        self.drop = nn.ModuleDict({place: nn.Dropout(task.rates[place]) for place in places if place in task.rates})

    def forward(self, x: Tensor) -> Tensor:
        x = _dropped(self.drop, "input", x.flatten(1))
        for layer, linear in enumerate(self.hidden, start=1):
            x = _dropped(self.drop, f"hidden{layer}", relu(linear(x)))
        return self.output(x)

    def weights(self) -> list[Tensor]:
        return [linear.weight for linear in self.hidden]


class CNN(nn.Module):
    """Blocks of convolution, pooling, ReLU and dropout, one dense layer, then linear."""

    def __init__(self, task: Task, inputs: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, rows, columns = inputs
        *maps, dense = task.widths
        sizes = (channels, *maps)
        self.conv = nn.ModuleList(nn.Conv2d(a, b, 5, padding=2) for a, b in pairwise(sizes))
        shrunk = 2 ** len(maps)
        self.dense = nn.Linear(maps[-1] * (rows // shrunk) * (columns // shrunk), dense)
        self.output = nn.Linear(dense, classes)
        places = ("input", *(f"conv{block}" for block in range(1, len(sizes))), "dense1")
        self.drop = nn.ModuleDict({place: nn.Dropout(task.rates[place]) for place in places if place in task.rates})

    def forward(self, x: Tensor) -> Tensor:
        x = _dropped(self.drop, "input", x)
        for block, conv in enumerate(self.conv, start=1):
            x = _dropped(self.drop, f"conv{block}", relu(max_pool2d(conv(x), 2)))
        return self.output(_dropped(self.drop, "dense1", relu(self.dense(x.flatten(1)))))

    def weights(self) -> list[Tensor]:
        return [*(conv.weight for conv in self.conv), self.dense.weight]


class LSTM(nn.Module):
    """One layer over the rows of an image, linear on the last state; dropout where values enter and leave."""

    def __init__(self, task: Task, inputs: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs[2], task.widths[0])
        self.output = nn.Linear(task.widths[0], classes)
        places = ("input", "hidden1")
        self.drop = nn.ModuleDict({place: nn.Dropout(task.rates[place]) for place in places if place in task.rates})

    def forward(self, x: Tensor) -> Tensor:
        rows = _dropped(self.drop, "input", x.squeeze(1).transpose(0, 1).contiguous())
        states, _ = self.lstm(rows)
        return self.output(_dropped(self.drop, "hidden1", states[-1]))

    def weights(self) -> list[Tensor]:
        return [self.lstm.weight_ih_l0, self.lstm.weight_hh_l0]


def _dropped(drop: nn.ModuleDict, place: str, x: Tensor) -> Tensor:
    return drop[place](x) if place in drop else x


Net = MLP | CNN | LSTM
Data = dict[str, tuple[Tensor, Tensor]]


def net_of(task: Task, data: Data) -> Net:
    """A fresh net for the data."""
    inputs, targets = data["train"]
    kind = {"mlp": MLP, "cnn": CNN, "lstm": LSTM}[task.kind]
    return kind(task, tuple(inputs.shape[1:]), int(targets.max()) + 1).to(task.device)


def train(net: Net, data: Data, task: Task, order: Callable[[int], Tensor] | None = None) -> dict[str, Any]:
    """Trains: SGD with Nesterov momentum that rises, a rate that falls, max-norm; keeps the best weights.

    Args:
        net: to train.
        data: as `Task.data` has them, on the device.
        task: the rest.
        order: of the examples of an epoch; None for a random one.

    Returns:
        The losses and errors of each epoch, and of the selected weights.
    """
    inputs, targets = data["train"]
    count = len(inputs)
    probe = inputs[: task.probe], targets[: task.probe]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5, nesterov=True)
    steps, step = task.epochs * -(-count // task.batch_size), 0
    history, best, kept = [], (math.inf, math.inf), copy.deepcopy(net.state_dict())
    for epoch in range(task.epochs):
        net.train()
        index = torch.randperm(count, device=inputs.device) if order is None else order(epoch)
        losses = []
        for rows in index.split(task.batch_size):
            progress = step / steps
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 - 0.99 * progress)
                group["momentum"] = 0.5 + 0.45 * min(1.0, progress / 0.5)
            optimizer.zero_grad()
            loss = cross_entropy(net(inputs[rows]), targets[rows])
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for weight in net.weights():
                    weight.renorm_(2, 0, 3.0)
            losses.append(loss.detach())
            step += 1
        record = {"loss": torch.stack(losses).mean().item()}
        record |= {"train": measure(net, *probe), "validation": measure(net, *data["validation"])}
        score = record["validation"]["error"], record["validation"]["loss"]
        if score < best:
            best, kept = score, copy.deepcopy(net.state_dict())
        history.append(record)
    net.load_state_dict(kept)
    return {"history": history, "selected": {name: measure(net, *data[name]) for name in data}}


@torch.inference_mode()
def measure(net: Net, inputs: Tensor, targets: Tensor) -> dict[str, float]:
    """The mean loss and the error in percent, without dropout."""
    net.eval()
    loss = wrong = torch.zeros((), device=inputs.device)
    for x, y in zip(inputs.split(PASS), targets.split(PASS), strict=True):
        logits = net(x)
        loss = loss + cross_entropy(logits, y, reduction="sum")
        wrong = wrong + (logits.argmax(1) != y).sum()
    return {"loss": loss.item() / len(inputs), "error": 100 * wrong.item() / len(inputs)}


def main() -> None:
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(task.threads)
    data: Data = {
        name: (inputs.to(task.device), targets.to(task.device))
        for name, (inputs, targets) in torch.load(task.data, weights_only=True).items()
    }
    for _ in sys.stdin:
        found = train(net_of(task, data), data, task)
        print(json.dumps(found["selected"]), flush=True)


if __name__ == "__main__":
    main()
