"""What is measured of R runs on a split, without noise: each figure one number a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dropbench.data import Split
    from dropbench.spec import Facts

#: Examples in memory at once, over all runs of a stack.
EXAMPLES = 2048
BINS = 15

Figures = dict[str, list[float]]


@torch.inference_mode()
def evaluate(forward: Callable[[Tensor], Tensor], split: Split, facts: Facts, runs: int) -> Figures:
    """Measures R runs on `split`.

    Args:
        forward: inputs [R, batch, *shape] -> outputs, without noise.
        split: shared by the runs.
        facts: of the data.
        runs: R.

    Returns:
        For classification `loss` = `nll` (mean negative log-likelihood in nats), `error` in percent, `ece` (expected
        calibration error over 15 equal bins of the confidence, in [0, 1]; Guo et al., 2017) and `brier` (sum over
        classes of the squared error of the probabilities; Brier, 1950); for regression `loss` (mean squared error) and
        `rmse`.
    """
    chunk = max(32, EXAMPLES // runs)
    measure = _classify if facts.task == "classification" else _regress
    parts = []
    for at in range(0, len(split), chunk):
        inputs = split.inputs[at : at + chunk]
        outputs = forward(inputs.expand(runs, *inputs.shape)).float()
        parts.append(measure(outputs, split.targets[at : at + chunk]))
    total = torch.stack(parts).double().sum(0)  # [columns, R]
    return _classification(total) if facts.task == "classification" else _regression(total)


def gaussian_nll(mean_squared_error: float, variance: float) -> float:
    """Mean negative log-likelihood under N(y; z, variance): `log(2 pi v) / 2 + mse / (2 v)`."""
    variance = max(variance, 1e-12)
    return 0.5 * (torch.tensor(2 * torch.pi * variance).log().item() + mean_squared_error / variance)


def _classify(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sums over the asked answers, rows of [R]: count, nll, wrong, brier, then by bin: count, confidence, right."""
    runs = outputs.shape[0]
    targets = targets.flatten()
    asked = targets >= 0
    logs = outputs.reshape(runs, len(targets), -1)[:, asked].log_softmax(-1)
    targets = targets[asked].expand(runs, -1)
    picked = logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    probabilities = logs.exp()
    confidence, answer = probabilities.max(-1)
    right = (answer == targets).float()
    brier = probabilities.square().sum(-1) - 2 * picked.exp() + 1
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    per_bin = [
        torch.zeros(runs, BINS, device=outputs.device).scatter_add_(1, bins, value)
        for value in (torch.ones_like(right), confidence, right)
    ]
    count = torch.full((runs,), float(targets.shape[1]), device=outputs.device)
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
