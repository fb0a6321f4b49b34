"""The statistics of comparisons: numbers in, numbers out.

The unit is a training run; differences are paired by seed. What every table needs loads no scipy, which would take as
long as the table of 10,000 runs; that it equals `scipy.stats` is tested.
`docs/statistics.md` says how they decide, and what they hold in simulations.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]

#: Up to so many pairs all sign vectors are looked at.
EXACT = 20
#: Subsets that are drawn beyond: with the observed one 20,000, so that 5 % and 2.5 % are whole numbers of them.
DRAWN = 19_999
#: Rows of a table for which those are fine enough; for more rows more are drawn, else none could reach Holm's level.
_ROWS = 100
#: So many times more at most: enough for 5,000 rows.
_TIMES = 10
#: With fewer pairs the sign-flip test cannot reach 5 %, and the interval that it gives is the whole line.
FEWEST = 6
#: Resamples of a bootstrap over seeds.
RESAMPLES = 2_000
#: Most seeds that are asked for.
MOST_MORE = 1_000

_LISTED = 14  # pairs up to which the means of all subsets are listed for many rows at once
_BLOCK = 1 << 20  # numbers that are drawn at once
_HELD = 1 << 21  # means of subsets that are held at once
_MANY = 1 << 12  # means of a row beyond which it is faster to look at its tails alone
_TIE = 1e-11  # means that differ by less, relative to the largest difference, are equal: 0.1 + 0.2 is 0.3
_MOST = 1e300  # a larger difference counts as this one
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
    """Student's t interval for a mean.

    mean +- t((1 + level) / 2, n - 1) s / sqrt(n), s the sample deviation.

    Args:
        values: finite [n].
        level: of confidence.

    Returns:
        Its ends, or None for fewer than two values.

    Source:
        Student, "The probable error of a mean", Biometrika 1908.
    """
    n = len(values)
    if n < 2:
        return None
    scale = 2.0 ** (math.frexp(max(map(abs, values)))[1] - 1)  # so that no square overflows; exact
    scaled = [value / scale for value in values]
    mean = math.fsum(scaled) / n
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in scaled) / (n - 1))
    half = t_quantile(n - 1, (1 + level) / 2) * deviation / math.sqrt(n)
    return (mean - half) * scale, (mean + half) * scale


def differences(pairs: Sequence[Sequence[float]], delta: float | None = None) -> list[Difference]:
    """Tests and intervals for the mean of paired differences, one for each row.

    The sign-flip test: if nothing differs, each difference is as probable with the other sign. p is the share of the
    2^n sign vectors whose sum is at least as far from 0 as the observed one. Flipping the signs of a set I of the
    values d - theta gives a sum at least as great as the observed one just where the mean of d over I is <= theta. So
    the values theta that the test does not reject at 5 % lie between order statistics of the means of all non-empty
    subsets, and 0 lies outside of them just where p <= 0.05. Beyond 20 pairs random subsets stand for all, with which
    the level is still exact; p is then (1 + count) / (1 + drawn), twice the smaller of the two sides.

    With fewer than six pairs the interval is Student's t. Equivalence: the larger p of the one-sided sign-flip tests
    that the mean is above -delta and below delta.

    Args:
        pairs: differences of each row, at least one.
        delta: a size that would not matter, in the same unit; None for no test of equivalence.

    Returns:
        One for each row, in their order; mean, deviation and interval to twelve digits, as sums differ from machine to
        machine in the last.

    Source:
        Fisher, "The design of experiments", 1935; Hartigan, "Using subsample values as typical values", JASA 1969;
        Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability", J. Pharmacokinetics and Biopharmaceutics 1987.
    """
    found: dict[int, Difference] = {}
    by_count: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(pairs):
        by_count[len(row)].append(place)
    for n, places in by_count.items():
        drawn = _drawn(len(pairs))
        held = drawn if n > EXACT else 1 << min(n, _LISTED)
        together = max(1, _HELD // max(held, n))
        for start in range(0, len(places), together):
            part = places[start : start + together]
            values = np.array([pairs[place] for place in part], dtype=np.float64)
            found.update(zip(part, _differences(values, delta, drawn), strict=True))
    return [found[place] for place in range(len(pairs))]


def _differences(values: Array, delta: float | None, drawn: int) -> list[Difference]:
    """As `differences`, for rows of one length [rows, n]."""
    n = values.shape[1]
    values = np.clip(values, -_MOST, _MOST)
    exponents = np.frexp(np.abs(values).max(1))[1]
    values = np.ldexp(values, -exponents[:, None])  # exact; the largest is 0.5 to 1, and a tie is a tie at any size
    bounds = [np.full(len(values), _TIE)]
    if delta is not None:
        with np.errstate(over="ignore"):
            reach = np.minimum(np.ldexp(float(delta), -exponents), 2.0)  # more than 1 is beyond all
        bounds.append(_TIE * (1 + reach) - reach)
    total = drawn + 1 if n > EXACT else 1 << n
    rank = total // 40 - 1 if n >= FEWEST else None  # so many means lie beyond each end: 2.5 % of all
    halved = _LISTED < n <= EXACT
    counts, ends = _halved(values, bounds, rank) if halved else _listed(values, bounds, rank, drawn)
    p = np.minimum(1.0, 2 * counts[0].min(0) / total)
    equal = None if delta is None else counts[1].max(0) / total
    if rank is None:
        ends = np.array([mean_interval(row) or (math.nan, math.nan) for row in values.tolist()])
    deviations = values.std(1, ddof=1) if n > 1 else np.full(len(values), math.nan)
    figures = np.column_stack([values.mean(1), deviations, ends])
    figures[np.abs(figures) <= _TIE] = 0.0
    rounded = [[float(f"{x:.12g}") for x in row] for row in np.ldexp(figures, exponents[:, None]).tolist()]
    return [
        Difference(
            n=n,
            mean=mean,
            sd=None if n < 2 else deviation,
            interval=None if n < 2 else (low, high),
            method="t" if rank is None else "sign-flip",
            p=float(p[row]),
            exact=n <= EXACT,
            p_equal=None if equal is None else float(equal[row]),
        )
        for row, (mean, deviation, low, high) in enumerate(rounded)
    ]


def _listed(values: Array, bounds: Sequence[Array], rank: int | None, drawn: int) -> tuple[Array, Array]:
    """Counts and order statistics of the means of subsets, from a list of them.

    Args:
        values: [rows, n].
        bounds: each [rows].
        rank: of the order statistics, from 0; None for none.
        drawn: how many subsets are drawn where there are too many.

    Returns:
        How many subsets, with the empty one, have a mean <= bound and >= -bound [bounds, 2, rows], and the means of the
        rank from below and from above [rows, 2].
    """
    means = _subset_means(values, drawn)
    counts = [
        [np.count_nonzero(means <= bound[:, None], axis=1), np.count_nonzero(means >= -bound[:, None], axis=1)]
        for bound in bounds
    ]
    ends = np.full((len(values), 2), math.nan)
    if rank is not None and means.shape[1] > _MANY:
        ends = np.array([[_lowest(row, rank), -_lowest(-row, rank)] for row in means])
    elif rank is not None:
        ends = np.partition(means, (rank, means.shape[1] - 1 - rank), axis=1)[:, [rank, -1 - rank]]
    return 1 + np.array(counts, dtype=np.float64), ends


def _lowest(means: Array, rank: int) -> float:
    """The number of that rank, from 0, of means of subsets; it is among the lowest."""
    low = means[means <= means.mean() - 1.75 * means.std()]  # 4 % of them, if they are normal
    return float(np.partition(low if len(low) > rank else means, rank)[rank])


def _subset_means(values: Array, drawn: int) -> Array:
    """The mean of each non-empty subset of each row [rows, subsets]; of random subsets where they are too many."""
    n = values.shape[1]
    if n <= EXACT:
        subsets = _members(n)[1:]
        listed: Array = values @ (subsets / subsets.sum(1, keepdims=True)).T
        return listed
    means = np.empty((len(values), drawn))
    at = 0
    for subsets in _random_subsets(n, drawn):
        means[:, at : at + len(subsets)] = values @ subsets.T
        means[:, at : at + len(subsets)] /= subsets.sum(1)
        at += len(subsets)
    return means


def _halved(values: Array, bounds: Sequence[Array], rank: int | None) -> tuple[Array, Array]:
    """As `_listed`, for more subsets than one would list: a row is cut into halves, and one half's subsets are sorted.

    A subset has a mean <= bound where its parts' sums of d - bound add up to at most 0, so that what each subset of one
    half can be joined with is the start of the sorted other one (Horowitz and Sahni, 1974).
    """
    counts = np.empty((len(bounds), 2, len(values)))
    ends = np.full((len(values), 2), math.nan)
    for row, each in enumerate(values):
        for side, sign in enumerate((1, -1)):
            halves = _Halves(sign * each)
            for place, bound in enumerate(bounds):
                counts[place, side, row] = halves.joined(bound[row])[1].sum()
            if rank is not None:
                ends[row, side] = sign * halves.lowest(rank)
    return counts, ends


class _Halves:
    """The sums over all subsets of each half of a row."""

    def __init__(self, row: Array) -> None:
        self.row = row
        half = len(row) // 2
        left, right = _members(half), _members(len(row) - half)
        self.sums = left @ row[:half], right @ row[half:]
        self.sizes = left.sum(1), right.sum(1)

    def joined(self, bound: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """An order of the right subsets, and with how many of them, in it, each left one has a mean <= bound."""
        left, right = (sums - bound * sizes for sums, sizes in zip(self.sums, self.sizes, strict=True))
        order = np.argsort(right)
        return order, np.searchsorted(right[order], -left, side="right")

    def lowest(self, rank: int) -> float:
        """The mean of that rank, from 0, of the non-empty subsets; it is below the mean of all."""
        n, mean = len(self.row), self.row.mean()
        squares = float(np.square(self.row - mean).sum())
        for normal in (1.75, 1.0, 0.0):  # 4, 16 and 50 % of the subsets, if their sums were normal; at least 50 % for 0
            bound = mean - normal * math.sqrt(squares / (n * (n - normal**2))) + _TIE
            order, reach = self.joined(bound)
            if reach.sum() > rank + 1:  # one of them is the empty subset
                break
        left = np.repeat(np.arange(len(reach)), reach)
        right = order[np.arange(len(left)) - np.repeat(np.cumsum(reach) - reach, reach)]
        sums, sizes = (each[0][left] + each[1][right] for each in (self.sums, self.sizes))
        means = np.divide(sums, sizes, out=np.full(len(sums), math.inf), where=sizes > 0)
        return float(np.partition(means, rank)[rank])


@lru_cache(maxsize=16)
def _members(n: int) -> Array:
    """The subsets of n elements as rows of 0 and 1; the empty one first."""
    return ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1).astype(np.float64)


def _random_subsets(n: int, drawn: int) -> Iterator[Array]:
    """Non-empty subsets of n pairs as rows of 0 and 1, in blocks; the same each time."""
    generator = np.random.Generator(np.random.Philox(key=_KEY + n))
    width = -(-n // 8)
    for rows in _blocks(drawn, n):
        bits = np.frombuffer(generator.bytes(rows * width), dtype=np.uint8).reshape(rows, width)
        subsets = np.unpackbits(bits, axis=1, count=n).astype(np.float64)
        subsets[~subsets.any(1), 0] = 1
        yield subsets


def _drawn(rows: int) -> int:
    """How many subsets are drawn for a table of so many rows: the smallest p, times 1,000 rows, is 1 %."""
    return (DRAWN + 1) * min(max(1, -(-rows // _ROWS)), _TIMES) - 1


def smallest_p(n: int, rows: int = 1) -> float:
    """The smallest two-sided p that n pairs can give in a table of so many rows."""
    return min(1.0, 2.0 ** (1 - n)) if n <= EXACT else 2 / (_drawn(rows) + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p values: that any is wrongly <= a level has no more than that probability.

    In rising order p(i) becomes the largest of (m - j + 1) p(j), j <= i, at most 1.

    Args:
        p: of the m tests of a family, in any order and however dependent.

    Returns:
        In the same order.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian J. Statistics 1979.
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda place: p[place])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted


def improvement(values: Sequence[float], baseline: Sequence[float]) -> float:
    """Probability that a run of the one has a lower figure than a run of the other; ties count half.

    U / (n m), U of Mann and Whitney.

    Args:
        values: [n]; infinity for a run that lost.
        baseline: [m].

    Source:
        Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice", NeurIPS 2021.
    """
    other = np.sort(np.asarray(baseline, dtype=np.float64))
    at_most = int(np.searchsorted(other, values, side="right").sum())
    less = int(np.searchsorted(other, values, side="left").sum())
    pairs = len(values) * len(baseline)
    return (pairs - (at_most + less) / 2) / pairs


def improvement_interval(
    values: Sequence[float], baseline: Sequence[float], paired: bool = False
) -> tuple[float, float] | None:
    """95 % interval of that probability: percentile bootstrap over the runs of each side, or over the pairs.

    Args:
        values: [n]; infinity for a run that lost.
        baseline: [m].
        paired: whether the runs are pairs, in the same order (n = m): what a seed does to both sides is then kept.

    Returns:
        Its ends, or None where a side is a single run.

    Source:
        As of `improvement`, with 2,000 resamples.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (values, baseline)]
    if min(map(len, sides)) < 2:
        return None
    pooled = np.concatenate(sides)
    order = np.argsort(pooled)
    starts = np.unique(pooled[order], return_index=True)[1]  # of runs of equal figures

    def placed(weights: NDArray[np.int64], at: int) -> Array:
        """Shares of a side's resampled runs at each figure, in rising order."""
        there = np.zeros((len(weights), len(pooled)))
        there[:, at : at + weights.shape[1]] = weights / weights.shape[1]
        return np.add.reduceat(there[:, order], starts, axis=1)

    generator = np.random.Generator(np.random.Philox(key=_KEY))
    found = []
    for rows in _blocks(RESAMPLES, len(pooled)):
        drawn = [generator.multinomial(len(side), np.full(len(side), 1 / len(side)), rows) for side in sides]
        left, right = placed(drawn[0], 0), placed(drawn[0 if paired else 1], len(sides[0]))
        found.append((left * (1 - np.cumsum(right, axis=1) + right / 2)).sum(1))
    return _middle(np.concatenate(found))


def more_seeds(difference: Difference, comparisons: int, chance: float = 0.8, level: float = 0.05) -> int | None:
    """About how many more pairs would probably show a difference, if the true one is as observed.

    As many pairs in all as a t test needs for the power `chance` at the strictest level a of Holm's procedure:
    ((z(1 - a / 2) + z(chance)) / d)^2 + z(1 - a / 2)^2 / 2, d the mean over the deviation of the differences, within
    one of the number by the noncentral t distribution; and enough for the sign-flip test to reach that level at all.

    Args:
        difference: as observed.
        comparisons: rows of the table.
        chance: the power asked for.
        level: of the table.

    Returns:
        At least 1; None where it is more than `MOST_MORE`.

    Source:
        Guenther, "Sample size formulas for normal theory T tests", The American Statistician 1981.
    """
    strictest = level / max(comparisons, 1)
    low = max(difference.n + 1, next((n for n in range(2, EXACT) if smallest_p(n) <= strictest), EXACT))
    if difference.mean == 0 and difference.sd is not None:
        return None
    if difference.sd is None or difference.sd <= _TIE * abs(difference.mean):
        return low - difference.n
    normal = NormalDist()
    outer = normal.inv_cdf(1 - strictest / 2)
    ratio = (outer + normal.inv_cdf(chance)) * difference.sd / abs(difference.mean)
    if ratio > MOST_MORE:
        return None
    more = max(low, math.ceil(ratio**2 + outer**2 / 2)) - difference.n
    return more if more <= MOST_MORE else None


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
    for rows in _blocks(resamples, size):
        drawn = [stratum[generator.integers(0, len(stratum), (rows, len(stratum)))] for stratum in strata]
        found.append(statistic(np.concatenate(drawn, axis=1)))
    return _middle(np.concatenate(found))


def _middle(resampled: Array) -> tuple[float, float]:
    """The percentile interval: the middle 95 %."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def _blocks(rows: int, width: int) -> Iterator[int]:
    """How many rows of numbers are made at once, until all are."""
    step = max(1, _BLOCK // width)
    for start in range(0, rows, step):
        yield min(step, rows - start)


@lru_cache(maxsize=4096)
def t_quantile(freedom: int, share: float) -> float:
    """The quantile of Student's t for a share above 1/2, by Newton's method.

    scipy has it, and takes longer to load than all the rest of a table. For whole degrees of freedom the distribution
    is a finite sum (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    within = 2 * share - 1
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    low, high = 0.0, 1.0
    while _t_within(high, freedom) < within:
        low, high = high, 2 * high
    quantile = (low + high) / 2
    for _ in range(100):
        excess = _t_within(quantile, freedom) - within
        low, high = (low, quantile) if excess > 0 else (quantile, high)
        density = 2 * scale * (1 + quantile**2 / freedom) ** (-(freedom + 1) / 2)
        following = quantile - excess / density
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - quantile) <= 1e-15 * quantile:
            break
        quantile = following
    return quantile


def _t_within(bound: float, freedom: int) -> float:
    """Probability that |T| <= bound."""
    angle = math.atan2(bound, math.sqrt(freedom))
    shrink, odd = math.cos(angle), freedom % 2
    total = term = 1.0 if freedom > 1 else 0.0
    for place in range(3 if odd else 2, freedom - 1, 2):
        term *= (place - 1) / place * shrink**2
        total += term
    if odd:
        return 2 / math.pi * (angle + math.sin(angle) * shrink * total)
    return math.sin(angle) * total
