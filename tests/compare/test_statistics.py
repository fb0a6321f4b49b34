"""Statistics: by hand on few pairs, by scipy.stats called plainly, by listing all sign vectors, by simulation."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dropbench.compare.statistics import (
    _MANY,
    Difference,
    _listed,
    _subset_means,
    differences,
    holm,
    improvement,
    improvement_interval,
    iqm,
    mcnemar,
    mean_interval,
    more_seeds,
    smallest_p,
    stratified_interval,
    t_quantile,
)

RNG = np.random.default_rng(11)
START = RNG.bit_generator.state


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    RNG.bit_generator.state = START


#: Differences of n pairs: of all sizes, with ties, with zeros, on a grid, with one that is large.
KINDS = {
    "normal": lambda n: RNG.normal(size=n),
    "far from 0": lambda n: RNG.normal(size=n) + 0.7,
    "steps of 1/360": lambda n: RNG.integers(-5, 9, n) / 3.6,
    "few values": lambda n: RNG.integers(-1, 3, n) * 0.1,
    "heavy tails": lambda n: RNG.standard_cauchy(n),
    "one is large": lambda n: np.append(RNG.normal(size=n - 1), 1e3),
    "one is not 0": lambda n: np.append(np.zeros(n - 1), -0.3),
    "zeros": lambda n: np.zeros(n),
    "all alike": lambda n: np.full(n, 0.1),
}


def one(pairs: Sequence[float], delta: float | None = None) -> Difference:
    [found] = differences([list(pairs)], delta)
    return found


def flipped(pairs: Sequence[float], alternative: str = "two-sided") -> float:
    """The sign-flip p of scipy, over all sign vectors."""
    return float(
        stats.permutation_test(
            (np.asarray(pairs),), np.sum, permutation_type="samples", n_resamples=np.inf, alternative=alternative,
            vectorized=True, batch=1 << 14,
        ).pvalue
    )  # fmt: skip


def every_mean(pairs: Sequence[float]) -> np.ndarray:
    """The means of all non-empty subsets, one subset after the other, sorted."""
    values = np.asarray(pairs)
    subsets = np.array(list(itertools.product((0, 1), repeat=len(values)))[1:], dtype=np.float64)
    return np.sort(subsets @ values / subsets.sum(1))


# ---- the interval of a mean


def test_the_interval_of_a_mean_is_students():
    for n in (2, 3, 6, 10, 50):
        values = RNG.normal(3, 2, n)
        expected = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
        assert mean_interval(values.tolist()) == pytest.approx(expected, rel=1e-12)
    expected = stats.t.interval(0.8, 49, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values.tolist(), level=0.8) == pytest.approx(expected, rel=1e-12)


def test_the_interval_of_a_mean_by_hand():
    # 1, 2, 3: mean 2, deviation 1; t(0.975) with 2 degrees of freedom is 4.302653
    half = 4.302652729911275 / math.sqrt(3)
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - half, 2 + half))
    assert mean_interval([2.5, 2.5]) == (2.5, 2.5)
    assert mean_interval([0.0, 0.0, 0.0]) == (0.0, 0.0)
    assert mean_interval([2.5]) is None
    assert mean_interval([]) is None


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_interval_of_a_mean_of_any_size(size):
    small = mean_interval([1.0, 2.0, 4.0])
    assert mean_interval([1 * size, 2 * size, 4 * size]) == pytest.approx((small[0] * size, small[1] * size), rel=1e-12)


# ---- the sign-flip test


def test_six_pairs_by_hand():
    found = one([1.0, 2.0, 3.0, 4.0, 5.0, -1.0])
    # The sum is 14. Sets whose flip leaves it or raises it: none, {-1}, {-1, 1}; so 3 of 64 on each side.
    assert found.p == 6 / 64
    # floor(0.025 * 64) = 1: the least and the greatest mean of a subset.
    assert found.interval == (-1.0, 5.0)
    assert (found.n, found.method, found.exact, found.p_equal) == (6, "sign-flip", True, None)
    assert found.mean == pytest.approx(14 / 6)
    assert found.sd == pytest.approx(stats.tstd([1, 2, 3, 4, 5, -1]))


def test_eight_pairs_by_hand():
    # floor(0.025 * 256) = 6: the sixth mean from below and from above of 1, 3/2, three times 2, 7/3 = (1 + 2 + 4) / 3.
    found = one([1, 2, 3, 4, 5, 6, 7, 8])
    assert found.interval == pytest.approx((7 / 3, 9 - 7 / 3))
    assert found.p == 2 / 256


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 10, 14, 15])
def test_p_is_that_of_scipy(kind, n):
    pairs = KINDS[kind](n)
    expected = flipped(pairs) if n > 1 else 1.0  # scipy takes no single pair
    assert one(pairs).p == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [6, 9, 14, 15, 16, 17])
def test_the_interval_is_of_order_statistics_of_subset_means(kind, n):
    pairs = KINDS[kind](n)
    rank = math.floor(0.025 * 2**n)
    means = every_mean(pairs)
    found = one(pairs)
    assert found.interval == pytest.approx((means[rank - 1], means[-rank]), rel=1e-9, abs=1e-9 * abs(pairs).max())
    assert found.p == min(1, 2 * min(1 + np.sum(means <= 1e-9), 1 + np.sum(means >= -1e-9)) / 2**n)


@pytest.mark.parametrize("n", [6, 8, 11])
def test_the_interval_inverts_the_test_of_scipy(n):
    pairs = RNG.normal(size=n) + 0.4
    low, high = one(pairs).interval
    step = 1e-6 * (high - low)
    for bound, outwards in ((low, -step), (high, step)):
        assert flipped(pairs - bound - outwards) <= 0.05 < flipped(pairs - bound + outwards)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-9, 9).map(lambda whole: whole / 3.6) | st.floats(-3, 3), min_size=6, max_size=17))
def test_zero_is_outside_just_where_p_is_small(pairs):
    found = one(pairs)
    assert (found.p <= 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
    assert found.interval[0] - 1e-9 <= found.mean <= found.interval[1] + 1e-9


@pytest.mark.parametrize("n", [6, 14, 16, 20, 30])
def test_ties_are_ties_at_any_size(n):
    whole = RNG.integers(-3, 7, n)
    expected = one(whole, delta=0.5)
    for size in (0.1, 1 / 360, 1e-200, 1e200, -1.0):
        found = one(whole * size, delta=0.5 * abs(size))
        assert (found.p, found.p_equal) == (expected.p, expected.p_equal)
        assert sorted(found.interval) == pytest.approx(sorted(bound * size for bound in expected.interval), rel=1e-9)


def test_twenty_pairs_of_integers_are_counted_exactly():
    """By dynamic programming over sums, which lists no subset."""
    pairs = [3, -1, 4, 1, -5, 9, 2, -6, 5, 3, 5, -8, 9, 7, 9, -3, 2, 3, 8, -4]
    ways = {0: 1}
    for value in pairs:
        more = {total + value: count for total, count in ways.items()}
        ways = {total: ways.get(total, 0) + more.get(total, 0) for total in ways.keys() | more.keys()}
    not_above = sum(count for total, count in ways.items() if total <= 0)
    assert one(pairs).p == 2 * not_above / 2**20
    assert one(pairs).exact


def test_more_than_twenty_pairs_are_drawn():
    pairs = [*RNG.integers(-9, 14, 30).tolist(), 2]
    ways = {0: 1}
    for value in pairs:
        more = {total + value: count for total, count in ways.items()}
        ways = {total: ways.get(total, 0) + more.get(total, 0) for total in ways.keys() | more.keys()}
    exact = 2 * min(
        sum(count for total, count in ways.items() if total <= 0),
        sum(count for total, count in ways.items() if total >= 0),
    ) / 2 ** len(pairs)  # fmt: skip
    found = one(pairs)
    assert not found.exact
    assert found.method == "sign-flip"
    assert 0.001 < exact < 0.9
    assert abs(found.p - exact) < 4 * math.sqrt(2 * exact / 20_000)
    assert round(found.p * 10_000) == pytest.approx(found.p * 10_000, abs=1e-9)  # twice a count of 20,000
    assert one(pairs) == found
    low, high = found.interval
    student = stats.t.interval(0.95, 30, loc=np.mean(pairs), scale=stats.sem(pairs))
    assert (low, high) == pytest.approx(student, abs=0.2 * (high - low))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 20, 21, 300])
def test_the_smallest_p(n):
    assert smallest_p(n) == one([1.0] * n).p == (2.0 ** (1 - n) if n <= 20 else 1e-4)


def test_in_a_large_table_holm_can_still_reach_its_level():
    found = differences([[1.0] * 21] * 250)
    assert {each.p for each in found} == {smallest_p(21, rows=250)} == {2 / 60_000}
    assert smallest_p(20, rows=250) == 2.0**-19
    assert smallest_p(21, rows=1000) * 1000 == pytest.approx(0.01)
    assert smallest_p(21, rows=10**6) * 5000 == pytest.approx(0.05)
    assert max(holm([each.p for each in found])) <= 0.01


def test_rows_keep_their_order_and_do_not_touch_each_other():
    rows = [RNG.normal(size=n).tolist() for n in (10, 3, 25, 10, 16, 1, 25, 6)]
    assert differences(rows, delta=0.3) == [one(row, delta=0.3) for row in rows]
    assert [found.n for found in differences(rows)] == [10, 3, 25, 10, 16, 1, 25, 6]
    assert differences([]) == []


def test_rows_are_taken_in_blocks(monkeypatch):
    rows = RNG.normal(size=(7, 12)).tolist() + RNG.normal(size=(3, 23)).tolist()
    expected = differences(rows)
    monkeypatch.setattr("dropbench.compare.statistics._BLOCK", 1 << 13)
    monkeypatch.setattr("dropbench.compare.statistics._HELD", 1 << 13)
    assert [(each.p, each.exact) for each in differences(rows[:7])] == [(each.p, True) for each in expected[:7]]
    assert differences(rows)[:7] == expected[:7]


@pytest.mark.parametrize(
    "row",
    [
        RNG.normal(size=40),
        RNG.exponential(size=40),
        np.array([1.0, *[0.0] * 39]),  # half of the means are tied at 0: no tail below
        np.array([-1.0, *[0.0] * 39]),
        np.full(40, 0.3),
        RNG.integers(-1, 2, 40).astype(float),
        RNG.normal(size=13),
    ],
    ids=["normal", "skewed", "one above", "one below", "constant", "tied", "thirteen"],
)
def test_the_ends_that_the_tails_give_are_those_of_all_means(row):
    means = _subset_means(row[None], 19_999)
    assert means.shape[1] > _MANY
    ordered = np.sort(means[0])
    for rank in (0, 30, 499):
        _, ends = _listed(row[None], [], rank, 19_999)
        assert ends.tolist() == [[ordered[rank], ordered[-1 - rank]]]


def test_fewer_than_six_pairs_have_students_interval():
    pairs = [0.5, 0.7, 0.2, 0.9, 0.6]
    found = one(pairs)
    assert (found.method, found.p) == ("t", 2 / 32)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 4, loc=np.mean(pairs), scale=stats.sem(pairs)))


def test_a_single_pair_says_nothing():
    assert one([0.4], delta=1.0) == Difference(1, 0.4, None, None, "t", 1.0, True, 0.5)


@pytest.mark.parametrize("n", [2, 6, 15, 20, 25])
def test_no_difference_at_all(n):
    found = one([0.0] * n)
    assert (found.mean, found.sd, found.interval, found.p) == (0.0, 0.0, (0.0, 0.0), 1.0)


@pytest.mark.parametrize(
    "pairs",
    [[1.7e308] * 8, [1.7e308, -1.7e308] * 9, [5e-324, -5e-324] * 5, [math.inf] * 7, [1e-308] * 17, [1.7e308, 1.0]],
    ids=repr,
)
def test_numbers_at_the_end_of_their_range(pairs):
    found = one(pairs, delta=0.3)
    assert all(map(math.isfinite, (found.mean, found.sd, *found.interval, found.p, found.p_equal)))
    assert found.interval[0] <= found.mean <= found.interval[1]
    assert found.p == one([math.copysign(1.0, value) for value in pairs]).p or len(set(map(abs, pairs))) > 1


# ---- equivalence


def test_equivalence_by_hand():
    pairs = [0.1, -0.1, 0.2, -0.2, 0.1, 0.0]
    # d + 0.3 and 0.3 - d are all above 0: the observed signs alone give so large a sum
    assert one(pairs, delta=0.3).p_equal == 1 / 64
    # d - 0.2 = -0.1, -0.3, 0, -0.4, -0.1, -0.2: 0 may be flipped, so 2; d + 0.2 = 0.3, 0.1, 0.4, 0, 0.3, 0.2 likewise
    assert one(pairs, delta=0.2).p_equal == 2 / 64
    assert one(pairs).p_equal is None


@pytest.mark.parametrize("n", [3, 6, 10, 15])
@pytest.mark.parametrize("delta", [0.0, 0.3, 0.8, 5.0])
def test_equivalence_is_the_larger_of_two_tests_of_scipy(n, delta):
    pairs = RNG.normal(0.1, 0.5, n)
    expected = max(flipped(pairs + delta, "greater"), flipped(pairs - delta, "less"))
    assert one(pairs, delta).p_equal == pytest.approx(expected, rel=1e-12)


def test_equivalence_beyond_twenty_pairs():
    pairs = RNG.normal(0, 0.5, 40)
    assert one(pairs, delta=0.5).p_equal == 1 / 20_000
    assert one(pairs, delta=0.01).p_equal > 0.3


# ---- many tests


def test_holm_by_hand():
    # In rising order 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1, which may not be below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=12), st.floats(0.001, 0.999))
def test_holm_rejects_what_his_procedure_rejects(p, level):
    """Step down: reject the smallest while p(i) <= level / (m - i + 1)."""
    order = sorted(range(len(p)), key=lambda place: p[place])
    expected = set()
    for rank, place in enumerate(order):
        if (len(p) - rank) * p[place] > level:
            break
        expected.add(place)
    assert {place for place, adjusted in enumerate(holm(p)) if adjusted <= level} == expected


# ---- probability of improvement


def test_improvement_by_hand():
    # 1 beats 2 and 3, ties with 1; 2 beats 3, ties with 2, loses to 1: (2.5 + 1.5) / 6
    assert improvement([1.0, 2.0], [1.0, 2.0, 3.0]) == 4 / 6
    assert improvement([1.0, math.inf], [2.0, math.inf]) == (2 + 0.5) / 4  # a failed run loses, or ties with another


def test_improvement_is_u_of_mann_and_whitney():
    for n, m in ((1, 1), (3, 7), (10, 10), (40, 5)):
        ours, base = RNG.integers(0, 9, n) / 3.6, RNG.integers(2, 11, m) / 3.6
        expected = stats.mannwhitneyu(base, ours).statistic / (n * m)
        assert improvement(ours.tolist(), base.tolist()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("paired", [False, True])
def test_the_interval_of_improvement_is_that_of_a_bootstrap(paired):
    base = RNG.integers(3, 12, 12) / 3.6
    ours = base + RNG.integers(-4, 3, 12) / 3.6

    def statistic(one: np.ndarray, other: np.ndarray, axis: int = -1) -> np.ndarray:
        one, other = one[..., :, None], other[..., None, :]
        return ((one < other) + 0.5 * (one == other)).mean((-2, -1))

    expected = stats.bootstrap(
        (ours, base), statistic, paired=paired, vectorized=True, method="percentile", n_resamples=20_000, batch=1000,
        rng=np.random.default_rng(3),
    ).confidence_interval  # fmt: skip
    found = improvement_interval(ours.tolist(), base.tolist(), paired=paired)
    assert found == pytest.approx(tuple(expected), abs=0.02)
    assert found[0] < improvement(ours.tolist(), base.tolist()) < found[1]


def test_pairs_are_kept_together_in_the_bootstrap():
    base = RNG.normal(0, 1, 15)
    ours = base - 0.3  # the seed explains all the rest
    apart, together = (improvement_interval(ours.tolist(), base.tolist(), paired=paired) for paired in (False, True))
    assert together[1] - together[0] < 0.6 * (apart[1] - apart[0])


def test_the_interval_of_improvement_at_the_ends():
    assert improvement_interval([1.0, 2.0], [3.0, 4.0, 5.0]) == (1.0, 1.0)
    assert improvement_interval([math.inf, math.inf], [3.0, 4.0]) == (0.0, 0.0)
    assert improvement_interval([2.0, 2.0], [2.0, 2.0]) == (0.5, 0.5)
    assert improvement_interval([1.0], [3.0, 4.0]) is None


# ---- how many more seeds


@pytest.mark.parametrize(("d", "n"), [(1.68, 5), (0.996, 10), (0.89, 12), (0.66, 20)])
def test_power_of_the_sizes_in_text_books(d, n):
    assert simulate.power(d, n, 0.05) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("comparisons", [1, 4, 40])
@pytest.mark.parametrize("effect", [0.1, 0.2, 0.5, 1.0, 2.0])
def test_more_seeds_are_within_one_of_the_fewest_with_the_power(effect, comparisons):
    level = 0.05 / comparisons
    more = more_seeds(Difference(10, effect, 1.0, None, "sign-flip", 0.2, True), comparisons)
    least = max(11, next(n for n in range(2, 20) if smallest_p(n) <= level))
    exact = next((n for n in range(least, 1011) if simulate.power(effect, n, level) >= 0.8), None)
    if exact is None:
        assert more is None
    else:
        assert more is not None
        assert abs(10 + more - exact) <= 1


@pytest.mark.parametrize("share", [0.6, 0.95, 0.975, 0.9999])
def test_the_quantiles_of_student_are_those_of_scipy(share):
    for freedom in (*range(1, 60), 99, 100, 999, 1000, 9999):
        assert t_quantile(freedom, share) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-11), freedom


def test_more_seeds_are_enough_for_the_test_to_speak():
    huge = Difference(3, -50.0, 1.0, None, "t", 0.25, True)
    assert more_seeds(huge, 1) == 3  # 2^(1 - 6) = 0.031
    assert more_seeds(huge, 4) == 5  # 2^(1 - 8) = 0.0078 <= 0.0125
    assert more_seeds(huge, 1000) == 13  # 2^(1 - 16) = 3.1e-5 <= 5e-5
    assert more_seeds(huge, 10**7) == 17  # no test reaches that; 20 pairs come nearest


def test_more_seeds_that_nobody_can_tell():
    assert more_seeds(Difference(10, 0.0, 1.0, None, "sign-flip", 1.0, True), 1) is None
    assert more_seeds(Difference(10, 0.0, 0.0, None, "sign-flip", 1.0, True), 1) is None
    assert more_seeds(Difference(10, 0.08, 1.0, None, "sign-flip", 0.9, True), 1) is None
    assert more_seeds(Difference(10, 0.09, 1.0, None, "sign-flip", 0.9, True), 1) == 961
    assert more_seeds(Difference(1, 0.4, None, None, "t", 1.0, True), 1) == 5
    assert more_seeds(Difference(3, 0.4, 0.0, None, "t", 0.25, True), 1) == 3


# ---- items


def test_mcnemar_is_the_binomial_test():
    for b, c in ((1, 0), (5, 5), (3, 9), (40, 17), (600, 700), (0, 12)):
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 5) == mcnemar(5, 1) == pytest.approx(2 * (1 + 6) / 64)


# ---- aggregates


@pytest.mark.parametrize("n", [*range(1, 13), 50])
def test_the_interquartile_mean_is_the_trimmed_mean_of_scipy(n):
    values = RNG.normal(size=(3, n))
    assert iqm(values) == pytest.approx(stats.trim_mean(values, 0.25, axis=1), rel=1e-12)
    assert iqm(values.T, axis=0) == pytest.approx(stats.trim_mean(values, 0.25, axis=1), rel=1e-12)


def test_the_interquartile_mean_by_hand():
    assert iqm(np.array([9.0, 1.0, 3.0, 2.0, 4.0, 100.0, -50.0, 5.0])) == (2 + 3 + 4 + 5) / 4


def mean(values: np.ndarray) -> np.ndarray:
    return values.mean(-1)


def test_runs_are_resampled_within_their_stratum():
    assert stratified_interval([[0.0, 0.0, 0.0], [1.0]], mean) == (0.25, 0.25)
    # Of four draws from 0 and 1, none is 1 with probability 1 / 16 and one with 4 / 16: the mean starts at 0.
    assert stratified_interval([[0.0, 1.0, 0.0, 1.0], [3.0], []], mean) == (0.6, 1.4)


def test_the_stratified_interval_of_one_stratum_is_that_of_scipy():
    values = RNG.normal(size=20)
    expected = stats.bootstrap(
        (values,), lambda values, axis: iqm(values, axis), method="percentile", n_resamples=50_000, vectorized=True,
        rng=np.random.default_rng(4), batch=5000,
    ).confidence_interval  # fmt: skip
    found = stratified_interval([values.tolist()])
    assert found == pytest.approx(tuple(expected), abs=0.02)
    assert found == stratified_interval([values.tolist()])


def test_a_bootstrap_is_made_in_blocks():
    shapes = []

    def noting(values: np.ndarray) -> np.ndarray:
        shapes.append(values.shape)
        return mean(values)

    stratified_interval([[0.0] * 300, [1.0] * 300], noting, resamples=5000)
    assert sum(rows for rows, _ in shapes) == 5000
    assert len(shapes) > 1
    assert max(rows * width for rows, width in shapes) <= 1 << 20


# ---- what holds on drawn results (scripts/simulate_compare.py, with fewer draws)


def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "scripts" / "simulate_compare.py"
    spec = importlib.util.spec_from_file_location("simulate_compare", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


simulate = simulation()


def draws(key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key))


@pytest.mark.parametrize("law", ["normal", "skewed (exponential)"])
def test_equal_strategies_are_seldom_told_apart(law):
    held = simulate.equal(simulate.LAWS[law], 10, 300, draws(1))
    assert 0 < held.wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    assert 0.93 < held.differences < 0.97
    assert law != "normal" or 0.93 < held.means < 0.97


def test_effects_are_found_as_often_as_theory_says():
    assert simulate.found(1.0, 10, 4000, draws(2)) == pytest.approx(simulate.power(1.0, 10, 0.05), abs=0.03)
    assert simulate.found(0.0, 10, 4000, draws(3)) == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


def test_at_ten_pairs_the_interval_covers_and_the_bootstrap_does_not():
    ours, student, bootstrap = simulate.coverages(draws(4).standard_normal((1000, 10)), resamples=1000)
    assert 0.93 < ours < 0.97
    assert 0.93 < student < 0.97
    assert bootstrap < 0.93


def test_a_real_difference_is_a_verdict():
    scores = simulate.normal(draws(5), (1, 5, 10))[0]
    scores[2] -= 2
    assert [verdict for verdict, _, _ in simulate.decide(scores)].count(True) == 1


def test_the_script_prints_its_tables(capsys):
    simulate.main(["--sweeps", "2"])
    out = capsys.readouterr().out
    assert out.count("|---|") == 5
    assert "nan" not in out
