"""The statistics of comparisons: numbers in, numbers out.

The unit is a training run; differences are paired by seed. Only what is needed for every table is imported at once: the
distributions come from `scipy.special`, on which those of `scipy.stats` rest and which loads four times as fast.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

#: Up to so many pairs all sign vectors are looked at.
EXACT = 20
#: Subsets that are drawn beyond: with the observed one 20,000, so that 5 % and 2.5 % are whole numbers of them.
DRAWN = 19_999
#: With fewer pairs the sign-flip test cannot reach 5 %, and the interval that it gives is the whole line.
FEWEST = 6
#: Resamples of a bootstrap over seeds.
RESAMPLES = 2_000
#: Most seeds that are asked for.
MOST_MORE = 1_000
_BLOCK = 1 << 20  # numbers that are held at once
_TIE = 1e-9  # sums that differ by less, relative to what is added up, are equal: 0.1 + 0.2 is 0.3
_KEY = 20_261_121


@dataclass(frozen=True)
class Difference:
    """What paired differences say.

    Args:
        n: pairs.
        mean: of the differences.
        sd: their sample deviation; None for a single pair.
        interval: 95 % for the mean difference; None for a single pair.
        method: how the interval was made.
        p: of the two-sided sign-flip test.
        exact: whether all sign vectors were looked at.
        p_equal: of the test of equivalence; None without a delta.
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None
    method: Literal["sign-flip", "t"]
    p: float
    exact: bool
    p_equal: float | None = None


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Student's t interval for a mean; None for fewer than two values.

    mean +- t((1 + level) / 2, n - 1) s / sqrt(n), s the sample deviation.

    Source:
        Student, The probable error of a mean, Biometrika 1908.
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = _t_quantile(n - 1, (1 + level) / 2) * deviation / math.sqrt(n)
    return mean - half, mean + half


def differences(pairs: Sequence[Sequence[float]], delta: float | None = None) -> list[Difference]:
    """Tests and intervals for the mean of paired differences, one for each row.

    The sign-flip test: under no effect each difference is as probable with the other sign. p is the share of the 2^n
    sign vectors whose sum is at least as far from 0 as the observed one. Flipping the signs of a set I of differences
    d - theta gives a sum at least as great as the observed one just where the mean of d over I is <= theta; so the
    values theta that the test does not reject at 5 % lie between order statistics of the means of all non-empty
    subsets, and 0 is outside of them where p <= 0.05. Beyond 20 pairs 19,999 random subsets stand for all, with which the
    level is still exact (Hartigan). With fewer than six pairs the interval is Student's t.

    Equivalence: the larger p of the one-sided tests that the mean is above -delta and below delta.

    Args:
        pairs: differences of each row, at least one.
        delta: a size that would not matter; None for no test of equivalence.

    Source:
        Fisher, The design of experiments, 1935; Hartigan, Using subsample values as typical values, JASA 1969;
        Schuirmann, two one-sided tests, 1987.
    """
    found: dict[int, Difference] = {}
    by_count: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(pairs):
        by_count[len(row)].append(place)
    for n, places in by_count.items():
        subsets = 1 << n if n <= EXACT else DRAWN
        together = max(1, _BLOCK // max(subsets, n))
        for start in range(0, len(places), together):
            part = places[start : start + together]
            values = np.array([pairs[place] for place in part], dtype=np.float64)
            for place, difference in zip(part, _differences(values, delta), strict=True):
                found[place] = difference
    return [found[place] for place in range(len(pairs))]


def _differences(values: Array, delta: float | None) -> list[Difference]:
    """As `differences`, for rows of one length: [rows, n]."""
    rows, n = values.shape
    exact = n <= EXACT
    means = _subset_means(values)
    total = means.shape[1] + 1  # with the empty subset, which stands for the observed signs
    slack = _TIE * np.maximum(np.abs(values).max(1), 1e-300)
    p = np.minimum(1.0, 2 * np.minimum(_share(means, slack, total), _share(means, slack, total, above=True)))
    equal = None
    if delta is not None:
        reach = slack + _TIE * delta
        equal = np.maximum(
            _share(means, reach - delta, total), _share(means, reach - delta, total, above=True)
        )  # the means lie not below -delta, and not above delta
    mean = values.mean(1)
    method: Literal["sign-flip", "t"] = "sign-flip" if n >= FEWEST else "t"
    if method == "sign-flip":
        rank = math.floor(0.025 * total + 1e-9) - 1  # from 0; so many means lie beyond each end
        intervals: list[tuple[float, float] | None] = [_ends(row, rank) for row in means]
    else:
        intervals = [mean_interval(row.tolist()) for row in values]
    deviations = values.std(1, ddof=1) if n > 1 else np.full(rows, np.nan)
    return [
        Difference(
            n=n,
            mean=float(mean[row]),
            sd=None if n < 2 else float(deviations[row]),
            interval=intervals[row],
            method=method,
            p=float(p[row]),
            exact=exact,
            p_equal=None if equal is None else float(equal[row]),
        )
        for row in range(rows)
    ]


def _share(means: Array, bound: Array, total: int, above: bool = False) -> Array:
    """The share of subsets, with the empty one, whose mean is <= bound, or >= -bound: a one-sided p."""
    bound = bound[:, None]
    count: Array = np.count_nonzero(means >= -bound if above else means <= bound, axis=1)
    return (1 + count) / total


def _ends(means: Array, rank: int) -> tuple[float, float]:
    """The means of rank `rank` from below and from above; only the tails are sorted."""
    ends = []
    for side in (means, -means):
        tail = side
        if len(side) > 1 << 12:
            centre, spread = side.mean(), side.std()
            tail = side[side < centre - 1.5 * spread]
            if len(tail) <= rank:
                tail = side
        ends.append(float(np.partition(tail, rank)[rank]))
    return ends[0], -ends[1]


def _subset_means(values: Array) -> Array:
    """The mean of each non-empty subset of each row, [rows, subsets]; of random subsets where they are too many."""
    n = values.shape[1]
    if n > EXACT:
        found = np.empty((len(values), DRAWN))
        at = 0
        for subsets in _random_subsets(n):
            found[:, at : at + len(subsets)] = values @ subsets.T / subsets.sum(1)
            at += len(subsets)
        return found
    half = n // 2
    left, right = _members(half), _members(n - half)
    sizes = left.sum(1)[:, None] + right.sum(1)[None]
    sizes[0, 0] = 1  # the empty one, which is cut off
    sums = (values[:, :half] @ left.T)[:, :, None] + (values[:, half:] @ right.T)[:, None]
    sums /= sizes
    means: Array = sums.reshape(len(values), -1)[:, 1:]
    return means


@lru_cache(maxsize=16)
def _members(n: int) -> Array:
    """The subsets of n elements, as rows of 0 and 1; the empty one first."""
    return ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _random_subsets(n: int) -> Iterator[Array]:
    """`DRAWN` non-empty subsets of n pairs as rows of 0 and 1, in blocks; the same each time."""
    generator = np.random.Generator(np.random.Philox(key=_KEY + n))
    left, width = DRAWN, -(-n // 8)
    while left:
        rows = min(left, max(1, _BLOCK // n))
        bits = np.frombuffer(generator.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        subsets = np.unpackbits(bits, axis=1, count=n).astype(np.float64)
        subsets[subsets.sum(1) == 0, 0] = 1
        yield subsets
        left -= rows


def smallest_p(n: int) -> float:
    """The smallest p that n pairs can give."""
    return min(1.0, 2.0 ** (1 - n)) if n <= EXACT else 2 / (DRAWN + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p values such that the probability of any wrong rejection is that of a single test.

    In rising order p(i) becomes the largest of (m - j + 1) p(j), j <= i, at most 1.

    Source:
        Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 1979.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def improvement(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Probability that a run of the one has a lower figure than a run of the other; ties count half.

    U / (n m), U of Mann and Whitney.

    Source:
        Agarwal et al., Deep reinforcement learning at the edge of the statistical precipice, NeurIPS 2021.
    """
    other = np.sort(np.asarray(baseline, dtype=np.float64))
    above = len(other) - np.searchsorted(other, values, side="right")
    equal = np.searchsorted(other, values, side="right") - np.searchsorted(other, values, side="left")
    return float((above + 0.5 * equal).mean() / len(other))


def improvement_interval(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of that probability: percentile bootstrap over the runs of each side; None for a single run."""
    one, other = np.asarray(values, dtype=np.float64)[:, None], np.asarray(baseline, dtype=np.float64)[None]
    wins = (one < other) + 0.5 * (one == other)
    if min(wins.shape) < 2:
        return None
    generator = np.random.Generator(np.random.Philox(key=_KEY))
    left, right = (generator.multinomial(size, [1 / size] * size, RESAMPLES) / size for size in wins.shape)
    low, high = np.quantile(np.einsum("bi,bi->b", left @ wins, right), [0.025, 0.975])
    return float(low), float(high)


def power(d: float, n: int, alpha: float) -> float:
    """Probability that the two-sided paired t test at level alpha finds an effect.

    P(|T| > t(1 - alpha / 2, n - 1)), T noncentral t with n - 1 degrees of freedom and noncentrality d sqrt(n).

    Args:
        d: mean difference over the deviation of differences.
        n: pairs, at least 2.
        alpha: level.

    Source:
        Cohen, Statistical power analysis for the behavioral sciences, 1988.
    """
    from scipy.special import nctdtr

    bound, shift = _t_quantile(n - 1, 1 - alpha / 2), abs(d) * math.sqrt(n)
    if shift > 37:  # nctdtr loses its precision there, and the power is 1
        return 1.0
    return float(1 - nctdtr(n - 1, shift, bound) + nctdtr(n - 1, shift, -bound))


def more_seeds(difference: Difference, comparisons: int, chance: float = 0.8, alpha: float = 0.05) -> int | None:
    """How many more pairs would probably show a difference, if the true one is as observed.

    The fewest with power `chance` at the strictest level of Holm's procedure, alpha / comparisons, and enough for the
    sign-flip test to reach that level at all.

    Args:
        difference: as observed.
        comparisons: rows of the table.
        chance: the power asked for.
        alpha: level of the table.

    Returns:
        None where it is more than `MOST_MORE`.
    """
    level = alpha / max(comparisons, 1)
    fewest = next(n for n in range(2, EXACT + 2) if smallest_p(n) <= level or n > EXACT)
    low = max(difference.n + 1, fewest)
    if difference.sd is None:
        return low - difference.n
    if difference.mean == 0 or not math.isfinite(difference.mean):
        return None
    if difference.sd <= _TIE * abs(difference.mean):
        return low - difference.n
    d = abs(difference.mean) / difference.sd
    high = difference.n + MOST_MORE
    if power(d, high, level) < chance:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(d, middle, level) >= chance else (middle + 1, high)
    return low - difference.n


def mcnemar(one: int, other: int) -> float:
    """Exact two-sided p that two nets err on different items equally often.

    Under no difference `one` is binomial(one + other, 1/2).

    Args:
        one: items on which only the first is wrong.
        other: items on which only the second is wrong.

    Source:
        McNemar, Note on the sampling error of the difference between correlated proportions, Psychometrika 1947.
    """
    from scipy.special import bdtr

    total = one + other
    return min(1.0, 2 * float(bdtr(min(one, other), total, 0.5))) if total else 1.0


def iqm(values: Array, axis: int = -1) -> Array:
    """The interquartile mean: the mean of the middle half, a 25 % trimmed mean.

    Source:
        Agarwal et al., NeurIPS 2021.
    """
    cut = int(0.25 * values.shape[axis])
    ordered = np.moveaxis(np.sort(values, axis=axis), axis, -1)
    middle: Array = ordered[..., cut : ordered.shape[-1] - cut].mean(-1)
    return middle


def stratified_interval(
    groups: Sequence[Sequence[float]], statistic: Callable[[Array], Array] = iqm, resamples: int = 50_000
) -> tuple[float, float]:
    """Percentile bootstrap 95 % interval of a statistic of all values, resampled within each group.

    Args:
        groups: values of each stratum (task).
        statistic: values [resamples, values] -> [resamples].
        resamples: how many.

    Source:
        Agarwal et al., NeurIPS 2021.
    """
    generator = np.random.Generator(np.random.Philox(key=_KEY))
    strata = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    size = sum(map(len, strata))
    found = []
    left = resamples
    while left:
        rows = min(left, max(1, _BLOCK // size))
        drawn = [stratum[generator.integers(0, len(stratum), (rows, len(stratum)))] for stratum in strata]
        found.append(statistic(np.concatenate(drawn, axis=1)))
        left -= rows
    low, high = np.quantile(np.concatenate(found), [0.025, 0.975])
    return float(low), float(high)


@lru_cache(maxsize=4096)
def _t_quantile(freedom: int, share: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))
