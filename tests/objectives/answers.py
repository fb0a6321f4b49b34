"""What the tests of the objectives share: random answers, and the plain losses written out with torch."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, mse_loss

RUNS, BATCH, STEPS, CLASSES = 3, 5, 4, 7


def classes(copies: int, *, per_step: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [R, copies, batch, (steps,) classes] and class numbers, of which some are not asked (-100)."""
    generator = torch.Generator().manual_seed(0)
    places = (BATCH, STEPS) if per_step else (BATCH,)
    outputs = 3 * torch.randn(RUNS, copies, *places, CLASSES, generator=generator)
    targets = torch.randint(0, CLASSES, (RUNS, *places), generator=generator)
    targets[:, 1] = -100
    if per_step:
        targets[0, 0, 2:] = -100  # runs differ in how much is asked
    return outputs, targets


def reals(copies: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [R, copies, batch, 2] and targets [R, batch, 2]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(RUNS, copies, BATCH, 2, generator=generator), torch.randn(RUNS, BATCH, 2, generator=generator)


def plain(outputs: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0) -> float:
    """The plain loss of one copy of one run, by torch, in float64."""
    if targets.is_floating_point():
        return mse_loss(outputs.double(), targets.double()).item()
    flat = outputs.double().flatten(0, -2)
    return cross_entropy(flat, targets.flatten(), label_smoothing=smoothing).item()


def mean_square(one: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> float:
    """The mean of (z1 - z2)^2 over outputs and over what is asked, of one run."""
    squares = (one.double() - other.double()) ** 2
    return (squares if targets.is_floating_point() else squares[targets != -100]).mean().item()
