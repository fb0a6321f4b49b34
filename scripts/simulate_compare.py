#!/usr/bin/env python3
"""What `dropbench compare` holds on drawn results: wrong verdicts, coverage, power. Prints Markdown tables in minutes.

A sweep is a baseline and four strategies over the same seeds; what a seed does to all of them alike is as large as what
it does to each. The verdicts and intervals are those of the product (dropbench/compare/rows.py).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from dropbench.compare.baseline import conditions
from dropbench.compare.rows import Options, compare
from dropbench.compare.statistics import EXACT, Difference, differences, holm, mean_interval
from dropbench.runs.records import RunRecord
from dropbench.sweep.race import judge, look_points

Scores = NDArray[np.float64]
Generator = np.random.Generator
Shape = tuple[int, int, int]

BASELINE = 0  # among the strategies of a sweep
STRATEGIES = 5
SEEDS = (5, 6, 8, 10, 15, 20, 40)
LEVEL = 0.05
TRUE = 2.5  # mean error of every strategy, in percent


def _with_seeds(draw: Callable[[Generator, Shape], Scores]) -> Callable[[Generator, Shape], Scores]:
    """Errors of which half of the variance is due to the seed, whatever the strategy."""

    def both(rng: Generator, shape: Shape) -> Scores:
        return TRUE + 0.3 * (draw(rng, (shape[0], 1, shape[2])) + draw(rng, shape))

    return both


def power(d: float, n: int, level: float) -> float:
    """Probability that the two-sided paired t test finds an effect: by noncentral F, of which scipy fails less."""
    bound = stats.t.ppf(1 - level / 2, n - 1)
    return float(stats.ncf.sf(bound**2, 1, n - 1, n * d**2)) if d else level


normal = _with_seeds(lambda rng, shape: rng.standard_normal(shape))
steps: Callable[[Generator, Shape], Scores] = lambda rng, shape: np.round(3.6 * normal(rng, shape)) / 3.6  # noqa: E731


def _unequal(rng: Generator, shape: Shape) -> Scores:
    return TRUE + 0.3 * np.where(np.arange(shape[1]) == BASELINE, 1, 3)[:, None] * rng.standard_normal(shape)


def _mixed(rng: Generator, shape: Shape) -> Scores:
    skewed = rng.exponential(size=shape) - 1
    return TRUE + 0.3 * np.where((np.arange(shape[1]) == BASELINE)[:, None], rng.standard_normal(shape), skewed)


#: Equal strategies, by the law of their errors: all have one mean.
LAWS: dict[str, Callable[[Generator, Shape], Scores]] = {
    "normal": normal,
    "steps of 1/360 (digits)": steps,
    "heavy tails (Student, 3 df)": _with_seeds(lambda rng, shape: rng.standard_t(3, shape)),
    "skewed (exponential)": _with_seeds(lambda rng, shape: rng.exponential(size=shape) - 1),
    "strategies 3 times as spread as the baseline": _unequal,
    "baseline normal, strategies skewed": _mixed,
}

#: Single differences of mean 0, for the intervals alone.
DIFFERENCES: dict[str, Callable[[Generator, tuple[int, int]], Scores]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "steps of 1/2 deviation": lambda rng, shape: np.round(2 * rng.standard_normal(shape)) / 2,
    "Student, 3 df": lambda rng, shape: rng.standard_t(3, shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
}


class Held(NamedTuple):
    """What held in sweeps without a true difference, each as a share.

    Args:
        wrong: of the sweeps, with a verdict better or worse.
        differences: of their 95 % intervals, that cover 0.
        means: of their 95 % intervals, that cover the true mean.
    """

    wrong: float
    differences: float
    means: float


def decide(scores: Scores) -> Iterator[tuple[bool, tuple[float, float] | None, tuple[float, float] | None]]:
    """Of each strategy what the product says: a verdict or none, the intervals of the difference and of the mean.

    Args:
        scores: errors [strategies, seeds].
    """
    records = [
        RunRecord(
            Path(f"{strategy}-{seed}"), "done", seed=seed, group=str(strategy), task="classification", rate=0.5,
            choices={"dataset": "d", "model": "m", "strategy": f"s{strategy}", "optimizer": "o"},
            figures={"test": {"error": float(error)}},
        )
        for strategy, row in enumerate(scores) for seed, error in enumerate(row)
    ]  # fmt: skip
    [table] = compare(records, Options(baselines=(conditions(f"strategy=s{BASELINE}"),), asked=True))
    for row in table.rows:
        yield row.verdict in ("better", "worse"), row.delta_ci95, row.ci95


def equal(draw: Callable[[Generator, Shape], Scores], seeds: int, sweeps: int, rng: Generator) -> Held:
    """Sweeps in which all strategies are equal."""
    wrong, zero, true = 0, [], []
    for scores in draw(rng, (sweeps, STRATEGIES, seeds)):
        rows = list(decide(scores))
        wrong += any(verdict for verdict, _, _ in rows)
        zero += [_covers(bounds, 0) for _, bounds, _ in rows if bounds is not None]
        true += [_covers(bounds, TRUE) for _, _, bounds in rows if bounds is not None]
    return Held(wrong / sweeps, float(np.mean(zero)), float(np.mean(true)))


def judged(pairs: Scores) -> list[Difference]:
    """Differences [rows, n], as in tables of 100 rows."""
    return [each for start in range(0, len(pairs), 100) for each in differences(pairs[start : start + 100].tolist())]


def found(d: float, seeds: int, rows: int, rng: Generator) -> float:
    """The share of effects of d deviations that the sign-flip test finds at 5 %."""
    return float(np.mean([each.p <= LEVEL for each in judged(rng.standard_normal((rows, seeds)) + d)]))


def coverages(pairs: Scores, resamples: int = 2_000) -> tuple[float, float, float]:
    """Of the product's interval, Student's t and the BCa bootstrap of scipy, of differences [rows, n] of mean 0."""
    ours = [_covers(each.interval, 0) for each in judged(pairs)]
    student = [_covers(mean_interval(row), 0) for row in pairs.tolist()]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # BCa has no interval where all differences are equal; that does not cover
        block = stats.bootstrap(
            (pairs,), np.mean, axis=1, n_resamples=resamples, batch=50, rng=np.random.Generator(np.random.Philox(1))
        ).confidence_interval
    bca = (block.low <= 0) & (block.high >= 0)
    return float(np.mean(ours)), float(np.mean(student)), float(np.mean(bca))


def looking(sweeps: int, rng: Generator) -> float:
    """The share of sweeps of equal strategies with a verdict at any look, if one compares at every look of a race."""
    scores = normal(rng, (sweeps, STRATEGIES, look_points()[-1]))
    pairs = np.delete(scores, BASELINE, axis=1) - scores[:, [BASELINE]]
    ever = np.zeros(sweeps, bool)
    for n in look_points():
        left = np.flatnonzero(~ever)
        p = np.array([each.p for each in judged(pairs[left, :, :n].reshape(-1, n))]).reshape(len(left), -1)
        ever[left] = [min(holm(row)) <= LEVEL for row in p.tolist()]
    return float(ever.mean())


def raced(shared: float, sweeps: int, rng: Generator) -> float:
    """The share of sweeps of equal strategies with a verdict on test figures after a race by validation figures.

    Args:
        shared: correlation of the two figures of a run, apart from what its seed does to all.
        sweeps: how many.
        rng: draws.
    """
    points = look_points()
    shape = (sweeps, STRATEGIES, points[-1])
    test = rng.standard_normal(shape)
    validation = shared * test + np.sqrt(1 - shared**2) * rng.standard_normal(shape)
    wrong = 0
    for race, figures in zip(validation, test, strict=True):
        seeds = dict.fromkeys(range(STRATEGIES), points[0])
        left = [str(strategy) for strategy in seeds]
        for n, then in pairwise((*points, 0)):
            scores = {name: dict(enumerate(race[int(name), :n].tolist())) for name in left}
            left = list(judge(scores, left, STRATEGIES, points).survivors)
            if len(left) == 1 or not then:
                break
            seeds.update(dict.fromkeys(map(int, left), then))
        pairs = [
            (figures[strategy, :n] - figures[BASELINE, :n]).tolist()
            for strategy in seeds if strategy != BASELINE for n in [min(seeds[strategy], seeds[BASELINE])]
        ]  # fmt: skip
        wrong += min(holm([each.p for each in differences(pairs)])) <= LEVEL
    return wrong / sweeps


def _covers(bounds: tuple[float, float] | None, true: float) -> bool:
    return bounds is not None and bounds[0] <= true + 1e-9 and bounds[1] >= true - 1e-9


def _table(*rows: tuple[object, ...]) -> None:
    head, *body = ("| " + " | ".join(map(str, row)) + " |" for row in rows)
    print("\n".join([head, "|---" + "|---:" * (len(rows[0]) - 1) + "|", *body]), end="\n\n", flush=True)


def _percent(*shares: float) -> tuple[str, ...]:
    return tuple(f"{100 * share:.1f}" for share in shares)


def main(words: list[str]) -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="What dropbench compare holds on drawn results.")
    parser.add_argument("--sweeps", type=int, default=2_000, help="sweeps of each kind (default 2000)")
    sweeps = parser.parse_args(words).sweeps
    rng = np.random.Generator(np.random.Philox(5))
    head = ("sweeps with a verdict", "differences covered", "means covered")
    print(f"{sweeps:,} sweeps of {STRATEGIES} equal strategies, 10 seeds, %\n")
    rows = [(name, *_percent(*equal(draw, 10, sweeps, rng))) for name, draw in LAWS.items()]
    _table(("errors", *head), *rows)
    print("The same by seeds, normal errors, %\n")
    _table(("seeds", *head), *((n, *_percent(*equal(normal, n, sweeps, rng))) for n in SEEDS))
    print(f"An effect of d deviations, found by the sign-flip test; by the t test in theory; {4 * sweeps:,} draws, %\n")
    sizes = (0.5, 1.0, 1.5)
    tests = [n for n in SEEDS if 6 <= n <= EXACT]
    cells = [[(found(d, n, 4 * sweeps, rng), power(d, n, LEVEL)) for d in sizes] for n in tests]
    _table(
        ("seeds", *(f"d = {d:g}" for d in sizes)),
        *((n, *("{}; {}".format(*_percent(*cell)) for cell in row)) for n, row in zip(tests, cells, strict=True)),
    )
    print(f"95 % intervals of the difference: dropbench; Student's t; BCa bootstrap; {sweeps:,} draws, % covered\n")
    names = list(DIFFERENCES)
    covered = [[coverages(DIFFERENCES[name](rng, (sweeps, n))) for name in names] for n in SEEDS]
    _table(
        ("seeds", *names),
        *((n, *("; ".join(_percent(*cell)) for cell in row)) for n, row in zip(SEEDS, covered, strict=True)),
    )
    print("Equal strategies, normal errors: sweeps with a verdict, %\n")
    _table(
        ("when one compares", "%"),
        (f"at {look_points()[0]}, {look_points()[1]}, ..., {look_points()[-1]} seeds, until there is one",
         *_percent(looking(sweeps, rng))),
        *((f"after seeds=auto; test and validation figures correlate by {shared:g}",
           *_percent(raced(shared, sweeps, rng))) for shared in (0.0, 0.5, 1.0)),
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
