#!/usr/bin/env python3
"""Error rates and costs of races (dropbench/sweep/race.py) by simulation, as Markdown tables. Takes a few minutes.

Races are vectorised and written apart from the product's; a test holds the two together.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from dropbench.sweep.race import level, look_points

Scores = NDArray[np.float64]
Generator = np.random.Generator


def run(scores: Scores, points: tuple[int, ...], critical: float) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Races to their end: who is left [races, settings], and trainings spent [races]; NaN scores are diverged runs."""
    races, settings, _ = scores.shape
    every = np.arange(races)
    left = np.ones((races, settings), bool)
    spent = np.zeros(races, np.int64)
    before = 0
    for n in points:
        running = left.sum(1) > 1
        spent += np.where(running, left.sum(1) * (n - before), 0)
        before = n
        seen = np.where(left[..., None], scores[..., :n], np.nan)
        worst = np.nanmax(seen, axis=(1, 2), keepdims=True)
        seen = np.where(left[..., None] & np.isnan(seen), worst, seen)
        means = np.where(left, seen.mean(2), np.inf)
        leader = means.argmin(1)
        differences = seen - seen[every, leader][:, None]
        mean, deviation = differences.mean(2), differences.std(2, ddof=1)
        constant = deviation < 1e-9 * np.abs(seen).max(2)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = 2 * student.sf(mean * np.sqrt(n) / deviation, n - 1)
        p = np.where(constant, np.where(mean > 1e-9, 2.0 ** (1 - n), 1.0), p)
        left &= ~((p <= critical) & (mean > 0))
    return left, spent


def normal(rng: Generator, shape: tuple[int, int, int]) -> Scores:
    """Scores of which a difference has deviation 1."""
    return rng.standard_normal(shape) / np.sqrt(2)


def _half(shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    return (np.arange(shape[1]) % 2 == 1)[:, None]


def _diverging(rng: Generator, shape: tuple[int, int, int]) -> Scores:
    return np.where(rng.random(shape) < 0.1, np.nan, normal(rng, shape))


#: Equal settings, by the law of their scores: all have one mean.
EQUAL: dict[str, Callable[[Generator, tuple[int, int, int]], Scores]] = {
    "normal": normal,
    "heavy tails (Student, 3 df)": lambda rng, shape: rng.standard_t(3, shape),
    "skewed (exponential)": lambda rng, shape: rng.exponential(size=shape),
    "very skewed (log-normal, sigma 1)": lambda rng, shape: rng.lognormal(size=shape),
    "normal, every second skewed (exponential)": lambda rng, shape: np.where(
        _half(shape), rng.exponential(size=shape) - 1, rng.standard_normal(shape)
    ),
    "skewed up, every second down": lambda rng, shape: (
        np.where(_half(shape), -1, 1) * (rng.exponential(size=shape) - 1)
    ),
    "every second 3 times as spread": lambda rng, shape: np.where(_half(shape), 3, 1) * normal(rng, shape),
    "every second 10 times as spread": lambda rng, shape: np.where(_half(shape), 10, 1) * normal(rng, shape),
    "one 3 times as spread": lambda rng, shape: np.where(np.arange(shape[1]) == 0, 3, 1)[:, None] * normal(rng, shape),
    "grid of 1 deviation": lambda rng, shape: np.round(rng.standard_normal(shape)),
    "grid of 2 deviations": lambda rng, shape: np.round(rng.standard_normal(shape) / 2),
    "a tenth of the runs diverges": _diverging,
}

#: Means of the settings, in deviations of a paired difference; those that have mean 0 are the best.
MEANS: dict[str, Callable[[int], Scores]] = {
    "one 2 worse": lambda m: np.array([0.0] * (m - 1) + [2.0]),
    "one best, the others 0.1 worse": lambda m: np.array([0.0] + [0.1] * (m - 1)),
    "one best, the others 1 worse": lambda m: np.array([0.0] + [1.0] * (m - 1)),
    "two best, the others 2 worse": lambda m: np.array([0.0] * 2 + [2.0] * (m - 2)),
    "evenly from 0 to 3": lambda m: np.linspace(0, 3, m),
}


def main(races: int) -> None:
    """Prints the tables."""
    points = look_points()
    rng = np.random.Generator(np.random.Philox(4))
    sizes = (2, 5, 15)
    print(f"Looks at {', '.join(map(str, points))} seeds; {races:,} races each.\n")
    print("Equal settings: races in which any is dropped, %\n")
    print("| scores | " + " | ".join(f"m = {m}" for m in sizes) + " |\n|---|" + "---:|" * len(sizes))
    laws = [(name, draw, None) for name, draw in EQUAL.items()]
    for name, draw, alpha in [*laws, ("normal, p <= 0.05 at each look, uncorrected", normal, 0.05)]:
        rates = [100 * np.mean(_wrong(draw(rng, (races, m, points[-1])), m, points, alpha)) for m in sizes]
        print(f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")
    print("\nNormal scores: races in which a best one is dropped, %; of the worse, dropped, %; trainings, % of all\n")
    print("| means | " + " | ".join(f"m = {m}" for m in sizes) + " |\n|---|" + "---:|" * len(sizes))
    for name, means in MEANS.items():
        cells = []
        for m in sizes:
            best = means(m) == 0
            left, spent = run(normal(rng, (races, m, points[-1])) + means(m)[:, None], points, level(m, points))
            worse = f"{100 * np.mean(~left[:, ~best]):.0f}" if not best.all() else "-"
            cells.append(
                f"{100 * np.mean((~left[:, best]).any(1)):.2f}; {worse}; {100 * spent.mean() / m / points[-1]:.0f}"
            )
        print(f"| {name} | " + " | ".join(cells) + " |")


def _wrong(scores: Scores, settings: int, points: tuple[int, ...], critical: float | None) -> NDArray[np.bool_]:
    left, _ = run(scores, points, level(settings, points) if critical is None else critical)
    return ~left.all(1)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
