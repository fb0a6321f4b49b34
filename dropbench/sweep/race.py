"""Which settings cannot win any more: a race on paired scores that may be looked at often.

All settings train with the same seeds. At planned numbers of seeds one looks: every setting still in the race is
compared with the leader, the one with the lowest mean, by a paired t test, and is dropped where the two-sided p is at
most one critical level, the same at all looks.

Looking often and comparing many would raise the error, so the level c is the alpha-quantile of the smallest p of a
whole race,

    P(min over looks and settings of p <= c) = alpha,

by Monte Carlo for independent normal settings that are all equal. A boundary that is constant over the looks is
Pocock's (1977), here for p and not for z, since a t of 6 pairs and a t of 30 differ; that of O'Brien and Fleming (1979)
would drop next to nothing early, which is when a drop saves most. The level is a function of the number of settings and
the looks planned at the start. It is never updated, so a race that was stopped and goes on decides the same; looks left
out only make errors rarer. Looks at other numbers of seeds would take alpha spending (Lan and DeMets, 1983).

What holds for normal scores of one variance:

1. If all settings are equal, the probability that any is dropped in the whole race is alpha: that is the calibration.
   What a seed does to all settings alike cancels in the pairs.
2. A setting b that is the best is dropped with probability at most alpha, whichever leader the data choose and whatever
   the others' means are. Shift them all to the mean of b: no difference b - j gets smaller, and no paired deviation
   changes. So b is dropped only if, with all equal, some setting at some look beats it at level c. That has probability
   alpha / 2 for two settings and less for more (5 %: 2.5, 1.2, 0.5 % for 2, 5, 15), as c pays for all settings.

Each pair has its own variance. One for all would take about a fifth fewer runs, but drop in vain up to a third of the
time where deviations differ threefold, as those of high and low rates may.

Such races are those of Maron and Moore (1994) and, with tests in place of bounds, of Birattari et al. (2002); neither
holds the error of a whole race at alpha by its joint distribution.

By simulation (`scripts/simulate_race.py`, 2 to 15 settings) the first error is at most 5 % also for heavy tails, skewed
scores, unequal variances, scores on a grid and diverging runs. What breaks it is settings skewed differently: 5 to 6 %
where every second is exponential and the others normal, 10 to 20 % where they are exponential to opposite sides.

Sources: Pocock, "Group sequential methods in the design and analysis of clinical trials", Biometrika 1977; O'Brien and
Fleming, "A multiple testing procedure for clinical trials", Biometrics 1979; Lan and DeMets, "Discrete sequential
boundaries for clinical trials", Biometrika 1983; Maron and Moore, "Hoeffding races", NIPS 1993 (1994); Birattari et
al., "A racing algorithm for configuring metaheuristics", GECCO 2002.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

#: Paired seeds at the first look, seeds more a round, and the most seeds of a setting.
FIRST, STEP, MOST = 6, 2, 30

#: Simulated races for a level: as many as these numbers allow, between these bounds (half a second up to 50 settings).
_NUMBERS, _FEWEST, _RACES = 4_000_000, 4_000, 30_000
_CHUNK = 1_000_000
_KEY = 1977
#: Differences and deviations below this share of the scores are rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Drop:
    """A setting that cannot win any more.

    Args:
        setting: its name.
        leader: that it was compared with.
        difference: its mean minus the leader's over the pairs, in units of the score; positive.
        p: two-sided, of the paired t test.
        pairs: seeds of both.
    """

    setting: str
    leader: str
    difference: float
    p: float
    pairs: int


@dataclass(frozen=True)
class Verdict:
    """One look.

    Args:
        leader: the contestant with the lowest mean.
        survivors: the leader first, then by their means.
        drops: by their means, the better first.
        level: the critical p.
        pairs: seeds of which every contestant has a score.
    """

    leader: str
    survivors: tuple[str, ...]
    drops: tuple[Drop, ...]
    level: float
    pairs: int


def look_points(first: int = FIRST, step: int = STEP, most: int = MOST) -> tuple[int, ...]:
    """The numbers of seeds at which one looks: first, first + step, ..., and most.

    Raises:
        ValueError: without two pairs there is no deviation.
    """
    if not (2 <= first <= most and step >= 1):
        raise ValueError(f"first={first}, step={step}, most={most}: 2 <= first <= most and step >= 1")
    return (*range(first, most, step), most)


@cache
def level(settings: int, points: tuple[int, ...], error: float = 0.05) -> float:
    """The critical p: the quantile of the smallest p of a race of equal settings (see the top of this file).

    It lies two of its standard errors below the estimate: for an error of 5 % that of 30,000 races of 2 settings aims
    at 4.75 %, that of 4,000 races of 34 settings and more at 4.3 %. It is the same number each time, as long as NumPy
    keeps its normal variates (NEP 19). Memory is bounded; 300 settings take seconds.

    Args:
        settings: m at the start of the race. Less than two: nothing is compared, and it is the error.
        points: numbers of seeds at the looks, increasing, from 2.
        error: alpha, the probability that any setting is dropped when all are equal.

    Raises:
        ValueError: points are not as they should be.
    """
    if not points or points[0] < 2 or list(points) != sorted(set(points)):
        raise ValueError(f"points={points}: increasing numbers of seeds from 2")
    if settings < 2:
        return error
    size = settings * points[-1]
    races = min(_RACES, max(_FEWEST, _NUMBERS // size))
    chunk = max(1, _CHUNK // size)
    generator = np.random.Generator(np.random.Philox(_KEY))
    smallest = np.empty(races)
    for start in range(0, races, chunk):
        count = min(chunk, races - start)
        scores = generator.standard_normal((count, settings, points[-1]))
        smallest[start : start + count] = np.min([_smallest_p(scores[..., :seeds]) for seeds in points], axis=0)
    rank = math.floor(error * races - 2 * math.sqrt(error * (1 - error) * races))
    return float(np.sort(smallest)[max(rank, 1) - 1])


def judge(
    scores: Mapping[str, Mapping[int, float]], contestants: Collection[str], settings: int, points: tuple[int, ...]
) -> Verdict:
    """One look: who leads, and who cannot win any more.

    - **Missing scores.** Two settings are compared by the seeds that both have, and not at all below `points[0]` pairs;
      the leader needs as many scores. Means are taken after each seed's median is subtracted, so that no setting leads
      for having missed a hard seed. Scores are taken to be missing whatever they would have been: a run that failed for
      what its setting is should be given as diverged.
    - **Diverged runs**, of a score that is not finite, count as the worst finite score of any contestant at any seed.
      Many make a setting lose. A few make the t test cautious: one large difference among small ones has a t near 1.
    - **Constant differences** have no t. Zero: p = 1, identical scores are never dropped. Otherwise p = 2^(1 - pairs),
      that of the exact sign test: without a spread, sizes say nothing.

    Args:
        scores: setting -> seed -> score, of the seeds up to this look alone; lower is better.
        contestants: settings not dropped at earlier looks; their order does not matter.
        settings: m, how many there were at the start of the race.
        points: the planned looks; this is one of them.

    Raises:
        ValueError: no contestants, or more than settings.
    """
    names = sorted(set(contestants))
    if not 1 <= len(names) <= settings:
        raise ValueError(f"{len(names)} contestants: from 1 to settings={settings}")
    table = _table([scores.get(name, {}) for name in names])
    there = np.isfinite(table)
    means = _means(table, there)
    order = sorted(range(len(names)), key=lambda i: (there[i].sum() < points[0], means[i], i))
    leader, *others = order
    critical = level(settings, points)
    drops = []
    for i in others:
        both = there[i] & there[leader]
        if (pairs := int(both.sum())) < points[0]:
            continue
        difference, p = paired_t(table[i, both], table[leader, both])
        if difference > 0 and p <= critical:
            drops.append(Drop(names[i], names[leader], difference, p, pairs))
    dropped = {drop.setting for drop in drops}
    return Verdict(
        leader=names[leader],
        survivors=tuple(names[i] for i in order if names[i] not in dropped),
        drops=tuple(drops),
        level=critical,
        pairs=int(there.all(0).sum()),
    )


def paired_t(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of a - b and its two-sided p by the paired t test (Student, 1908); for constant differences see `judge`.

    Args:
        a: scores [n], two or more.
        b: scores of the same seeds [n].
    """
    from scipy.special import stdtr

    n = len(a)
    difference, deviation = float(np.mean(a - b)), float(np.std(a - b, ddof=1))
    rounding = _ROUNDING * max(np.abs(a).max(), np.abs(b).max())
    if deviation > rounding:
        return difference, float(2 * stdtr(n - 1, -abs(difference) * math.sqrt(n) / deviation))
    return difference, 1.0 if abs(difference) <= rounding else 2.0 ** (1 - n)


def _table(scores: list[Mapping[int, float]]) -> NDArray[np.float64]:
    """Scores [setting, seed], NaN where there is none, diverged runs as the worst of all."""
    seeds = sorted(set().union(*scores))
    finite = [score for row in scores for score in row.values() if math.isfinite(score)]
    best, worst = (min(finite), max(finite)) if finite else (0.0, 0.0)
    # Where all finite scores are one, the size of what is added says nothing: all other differences are zero.
    diverged = worst if worst > best else worst + (abs(worst) or 1.0)

    def value(score: float | None) -> float:
        return math.nan if score is None else score if math.isfinite(score) else diverged

    return np.array([[value(row.get(seed)) for seed in seeds] for row in scores], dtype=np.float64)


def _means(table: NDArray[np.float64], there: NDArray[np.bool_]) -> list[float]:
    """Mean of each setting [m] after each seed's median is subtracted; infinite for a setting without scores.

    A median, as one exploded score in a mean would swamp the digits of all others.
    """
    if not there.any():
        return [math.inf] * len(table)
    centred = np.where(there, table - np.nanmedian(table, axis=0), 0.0)
    counts = there.sum(1)
    return [float(total / count) if count else math.inf for total, count in zip(centred.sum(1), counts, strict=True)]


def _smallest_p(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest two-sided p of any setting against the leader [races], of scores [races, settings, seeds]."""
    from scipy.special import stdtr

    seeds = scores.shape[2]
    races = np.arange(len(scores))
    leader = scores.sum(2).argmin(1)
    differences = scores - scores[races, leader][:, None]
    means = differences.mean(2)
    differences -= means[..., None]
    variances = np.einsum("rmn,rmn->rm", differences, differences) / (seeds - 1)
    variances[races, leader] = 1.0  # the leader's differences from itself are zero
    return np.asarray(2 * stdtr(seeds - 1, -(means / np.sqrt(variances / seeds)).max(1)))
