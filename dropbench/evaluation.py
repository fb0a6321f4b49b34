"""What is measured of R runs on a split: each figure one number a run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from dropbench.data import Split
    from dropbench.spec import Facts

#: Examples of one pass: a constant, so that neither the draws of Monte Carlo passes, which are keyed by the pass, nor
#: the rounding of any figure depend on the stack.
PASS = 256
BINS = 15

Figures = dict[str, list[float]]


class Examples(NamedTuple):
    """Some examples of a split, the same for R runs: what a forward pass gets.

    Args:
        inputs: [R, batch, *shape].
        facts: of the examples, each [R, batch].
    """

    inputs: Tensor
    facts: dict[str, Tensor]


class Seen(Protocol):
    """Is told what is predicted in every pass of an evaluation."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> None:
        """The outputs [R, batch, ...], logits or real numbers, and the targets [batch, ...] of one pass."""


@torch.inference_mode()
def evaluate(
    forward: Callable[[Examples], Tensor], split: Split, facts: Facts, runs: int, seen: Sequence[Seen] = ()
) -> Figures:
    """Measures R runs on `split`.

    Args:
        forward: examples -> outputs, without noise.
        split: shared by the runs.
        facts: of the data.
        runs: R.
        seen: are told the outputs and the targets of every pass.

    Returns:
        For classification `loss` = `nll` (mean negative log-likelihood in nats), `error` in percent, `ece` (expected
        calibration error over 15 equal bins of the confidence, in [0, 1]; Guo et al., 2017) and `brier` (sum over
        classes of the squared error of the probabilities; Brier, 1950); for regression `loss` (mean squared error) and
        `rmse`.
    """
    measure = _classify if facts.task == "classification" else _regress
    parts = []
    for at in range(0, len(split), PASS):
        part = split.part(at, at + PASS)
        outputs = forward(examples(part, runs)).float()
        parts.append(measure(outputs, part.targets))
        for each in seen:
            each(outputs, part.targets)
    total = torch.stack(parts).double().sum(0)  # [columns, R]
    return _classification(total) if facts.task == "classification" else _regression(total)


@torch.inference_mode()
def monte_carlo(
    forward: Callable[[Examples, int], Tensor],
    split: Split,
    facts: Facts,
    runs: int,
    samples: int,
    variance: list[float] | None = None,
    seen: Sequence[Seen] = (),
) -> Figures:
    """Measures the mean prediction of `samples` passes with noise.

    Formula: `P = 1/k sum_s softmax(z_s)`; entropy `-sum_c P_c log P_c`, its mean over examples, in nats. For regression
    the mean of the predictions, and `nll = -log 1/k sum_s N(y; z_s, v)`.

    Args:
        forward: (examples, key of the draws) -> outputs with noise.
        split: shared by the runs.
        facts: of the data.
        runs: R.
        samples: k.
        variance: v of each run; regression alone.
        seen: are told the mean prediction, the logarithm of the probabilities for classification, and the targets.

    Returns:
        The figures of `evaluate`, with `entropy` (classification) or `nll` (regression).

    Source: Gal and Ghahramani, "Dropout as a Bayesian approximation", ICML 2016.
    """
    parts, extra = [], []
    for number, at in enumerate(range(0, len(split), PASS)):
        part = split.part(at, at + PASS)
        batch = examples(part, runs)
        keys = range(number * samples, (number + 1) * samples)
        if facts.task == "classification":
            mean = torch.stack([forward(batch, key).double().softmax(-1) for key in keys]).mean(0)
            predicted = mean.clamp(min=1e-300).log()
            parts.append(_classify(predicted, part.targets))
            entropy = -(mean * predicted).sum(-1)
            extra.append((entropy * (part.targets != -100)).flatten(1).sum(1))
        else:
            outputs = torch.stack([forward(batch, key).double() for key in keys])
            predicted = outputs.mean(0)
            parts.append(_regress(predicted, part.targets))
            v = torch.tensor(variance, dtype=torch.float64, device=outputs.device).clamp(min=1e-12).view(-1, 1, 1)
            logs = -0.5 * ((2 * math.pi * v).log() + (outputs - part.targets).square() / v)
            extra.append(-(logs.logsumexp(0) - math.log(samples)).flatten(1).sum(1))
        for each in seen:
            each(predicted, part.targets)
    total = torch.stack(parts).double().sum(0)
    name = "entropy" if facts.task == "classification" else "nll"
    figures = _classification(total) if facts.task == "classification" else _regression(total)
    return {**figures, name: (torch.stack(extra).sum(0) / total[0]).tolist()}


class Predicted:
    """Keeps, pass by pass and on the host, what is predicted for the items of a split.

    An item is an example; where answers are asked at several of its steps, each of them.

    Args:
        facts: of the data.
    """

    def __init__(self, facts: Facts) -> None:
        self._classes = facts.task == "classification"
        self._passes: list[tuple[Tensor, Tensor]] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> None:
        """See `Seen`."""
        if self._classes:
            logs, targets = _answers(outputs, targets)
            outputs = logs.exp()
        self._passes.append((outputs.float().cpu(), targets.cpu()))

    def all(self) -> tuple[Tensor, Tensor]:
        """The probabilities [R, items, classes] and class numbers [items], or the outputs and targets, float32."""
        outputs, targets = zip(*self._passes, strict=True)
        return torch.cat(outputs, 1), torch.cat(targets)


class Reliability:
    """Sums up, pass by pass, how often each run is right where it is so and so sure: what `ece` is computed from.

    Source:
        Guo et al., "On calibration of modern neural networks", ICML 2017.
    """

    def __init__(self) -> None:
        self._passes: list[Tensor] = []

    def __call__(self, outputs: Tensor, targets: Tensor) -> None:
        """See `Seen`."""
        self._passes.append(_classify(outputs, targets))

    def of_run(self, run: int) -> dict[str, list[Any]]:
        """For each of `BINS` equal bins of the confidence: `count`, and the means `confidence`, `accuracy`, or None."""
        sums = torch.stack(self._passes).double().sum(0)[4:, run].view(3, BINS).tolist()
        count, confidence, right = sums
        return {
            "count": [int(size) for size in count],
            "confidence": [total / size if size else None for total, size in zip(confidence, count, strict=True)],
            "accuracy": [total / size if size else None for total, size in zip(right, count, strict=True)],
        }


def gaussian_nll(mean_squared_error: float, variance: float) -> float:
    """Mean negative log-likelihood under N(y; z, variance): `log(2 pi v) / 2 + mse / (2 v)`."""
    variance = max(variance, 1e-12)
    return 0.5 * (math.log(2 * math.pi * variance) + mean_squared_error / variance)


def examples(split: Split, runs: int) -> Examples:
    """The examples of a split, seen by R runs."""
    facts = {name: figure.expand(runs, -1) for name, figure in split.facts.items()}
    return Examples(split.inputs.expand(runs, *split.inputs.shape), facts)


def _answers(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of the answers that are asked: logarithms of the probabilities [R, items, classes], and the classes [items]."""
    targets = targets.flatten()
    asked = targets >= 0
    return outputs.reshape(len(outputs), len(targets), -1)[:, asked].log_softmax(-1), targets[asked]


def _classify(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sums over the asked answers, rows of [R]: count, nll, wrong, brier, then by bin: count, confidence, right."""
    runs = outputs.shape[0]
    logs, targets = _answers(outputs, targets)
    targets = targets.expand(runs, -1)
    picked = logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    probabilities = logs.exp()
    confidence, answer = probabilities.max(-1)
    right = (answer == targets).to(logs.dtype)
    brier = probabilities.square().sum(-1) - 2 * picked.exp() + 1
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    per_bin = [
        torch.zeros(runs, BINS, device=outputs.device, dtype=logs.dtype).scatter_add_(1, bins, value)
        for value in (torch.ones_like(right), confidence, right)
    ]
    count = torch.full((runs,), float(targets.shape[1]), device=outputs.device, dtype=logs.dtype)
    rows = [count, -picked.sum(1), (1 - right).sum(1), brier.sum(1)]
    return torch.cat([torch.stack(rows), *(column.T for column in per_bin)])


def _classification(total: Tensor) -> Figures:
    count, nll, wrong, brier = total[:4]
    _, confidence, right = total[4:].view(3, BINS, -1)
    loss = (nll / count).tolist()
    return {
        "loss": loss,
        "error": (100 * wrong / count).tolist(),
        "nll": loss,
        "ece": ((confidence - right).abs().sum(0) / count).tolist(),
        "brier": (brier / count).tolist(),
    }


def _regress(outputs: Tensor, targets: Tensor) -> Tensor:
    squares = (outputs - targets).square().flatten(1)
    return torch.stack([torch.full_like(squares[:, 0], squares.shape[1]), squares.sum(1)])


def _regression(total: Tensor) -> Figures:
    loss = total[1] / total[0]
    return {"loss": loss.tolist(), "rmse": loss.sqrt().tolist()}
