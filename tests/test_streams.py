"""Random draws: the published generator, keys that are all that matters, and numbers that look random.

All seeds are fixed and so is every number here: a statistical test passes always or never. The thresholds are those of
a p-value of 1e-4 or of 4.5 standard deviations.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dropbench.noise import Place
from dropbench.noise.bernoulli import Bernoulli
from dropbench.spec import Clock, Scene, Site
from dropbench.streams import Streams

MASK = 2**64 - 1
LARGE = 2**64 - 1
SIGMAS = 4.5
P = 1e-4

#: Random123, kat_vectors: counter, key, result of philox4x64 with 10 rounds.
KNOWN = (
    ((0, 0, 0, 0), (0, 0), (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)),
    (
        (MASK, MASK, MASK, MASK),
        (MASK, MASK),
        (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0),
    ),
    (
        (0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89),
        (0x452821E638D01377, 0xBE5466CF34E90C6C),
        (0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6),
    ),
)


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x64-10, written from the paper: Salmon et al., SC 2011, section 3.3 and table of constants."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (second >> 64) ^ c1 ^ k0, second & MASK, (first >> 64) ^ c3 ^ k1, first & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c0, c1, c2, c3


def hashed(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def expected_words(seed: int, purpose: str, step: int, site: str, count: int) -> list[int]:
    """The layout that `streams.py` documents: key = (seed, purpose), counter = (block + 1, 0, step, site)."""
    words: list[int] = []
    for block in range(-(-count // 4)):
        words += philox((block + 1, 0, step, hashed(site)), (seed, hashed(purpose)))
    return words[:count]


def words_of(bits: torch.Tensor) -> np.ndarray:
    """The 64-bit words [R, n] of which 16-bit words were cut."""
    return bits.numpy().view(np.uint64)


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers_hold_for_the_reference(counter, key, result):
    assert philox(counter, key) == result


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers_hold_for_the_generator_that_streams_moves(counter, key, result):
    before = (sum(word << (64 * place) for place, word in enumerate(counter)) - 1) % 2**256
    generator = np.random.Philox(key=key[0] + (key[1] << 64), counter=before)
    assert tuple(map(int, generator.random_raw(4))) == result


@pytest.mark.parametrize("seed", [0, 1, 2**63, LARGE])
@pytest.mark.parametrize("step", [0, 1, 12345, 2**40])
def test_the_layout_is_the_documented_one(seed, step):
    words = words_of(Streams((7, seed)).bits("noise", step, "layer1.state", (40,)))
    assert words[1].tolist() == expected_words(seed, "noise", step, "layer1.state", 10)


def test_words_become_numbers_as_documented():
    streams = Streams((3,))
    words = expected_words(3, "init", 5, "w", 4)
    halves = [half for word in words for half in (word & 0xFFFFFFFF, word >> 32)]
    cells = [((half >> 9) + 0.5) / 2**23 for half in halves]
    assert streams.uniform("init", 5, "w", (8,))[0].tolist() == cells
    quarters = [(word >> shift) & 0xFFFF for word in words for shift in (0, 16, 32, 48)]
    assert streams.bits("init", 5, "w", (16,))[0].tolist() == [q - 2**16 if q >= 2**15 else q for q in quarters]
    assert streams.integers("init", 5, "w", 10, (4,))[0].tolist() == [(word >> 32) * 10 >> 32 for word in words]
    order = sorted(range(4), key=words.__getitem__)
    assert streams.permutation("init", 5, "w", 4)[0].tolist() == order
    normal = [
        math.sqrt(-2 * math.log(u)) * turn(2 * math.pi * v)
        for u, v in zip(cells[::2], cells[1::2], strict=True)
        for turn in (math.cos, math.sin)
    ]
    np.testing.assert_allclose(streams.normal("init", 5, "w", (8,))[0], normal, atol=2e-5)


# ---- a draw is a function of its key, and of nothing else

SEEDS = st.one_of(st.integers(0, 4), st.sampled_from([2**32, 2**63 - 1, 2**63, LARGE - 1, LARGE]))
PURPOSES = st.sampled_from(["init", "order", "noise", "augment", "eval", "split", "data"])
CALLS = st.tuples(
    st.sampled_from(["bits", "uniform", "normal", "permutation", "integers"]),
    PURPOSES,
    st.one_of(st.integers(0, 5), st.integers(0, 2**48)),
    st.sampled_from(["input", "hidden1", "hidden2", "layer1.state"]),
    st.integers(0, 21),
)


def make(streams: Streams, call) -> torch.Tensor:
    method, purpose, step, site, count = call
    if method == "permutation":
        return streams.permutation(purpose, step, site, count)
    if method == "integers":
        return streams.integers(purpose, step, site, 1000, (count,))
    return getattr(streams, method)(purpose, step, site, (count,))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(seeds=st.lists(SEEDS, min_size=1, max_size=4), calls=st.lists(CALLS, min_size=1, max_size=6))
def test_neither_the_stack_nor_the_slot_nor_what_came_before_matters(seeds, calls):
    stack = Streams(tuple(seeds))
    for call in calls:
        drawn = make(stack, call)
        for slot, seed in enumerate(seeds):
            alone = make(Streams((seed,)), call)
            assert alone.shape == (1, call[-1])
            assert torch.equal(drawn[slot], alone[0])


@pytest.mark.parametrize("method", ["bits", "uniform", "normal"])
def test_a_longer_draw_begins_as_a_shorter_one_and_the_shape_only_folds_it(method):
    draw = getattr(Streams((1, LARGE)), method)
    whole = draw("noise", 3, "hidden1", (60,))
    for count in (1, 2, 3, 5, 8, 59):
        assert torch.equal(draw("noise", 3, "hidden1", (count,)), whole[:, :count])
    assert torch.equal(draw("noise", 3, "hidden1", (3, 4, 5)), whole.view(2, 3, 4, 5))


def test_integers_of_a_longer_draw_begin_as_those_of_a_shorter_one():
    streams = Streams((5,))
    whole = streams.integers("augment", 9, "shift", 7, (50,))
    assert torch.equal(streams.integers("augment", 9, "shift", 7, (3, 7)), whole[:, :21].view(1, 3, 7))


def test_no_two_keys_share_a_word():
    seeds = (0, 1, 2, 3, 2**32, 2**63, LARGE - 1, LARGE)
    drawn = [
        words_of(Streams(seeds).bits(purpose, step, site, (400,))).ravel()
        for purpose in ("init", "noise", "eval")
        for step in (0, 1, 2, 255, 256, 2**32)
        for site in ("hidden1", "hidden2", "layer1.state")
    ]
    words = np.concatenate(drawn)  # 43,200 words of 64 bits: a chance collision has probability 5e-11
    assert len(np.unique(words)) == len(words) == 3 * 6 * 3 * len(seeds) * 100


def test_the_dtypes_and_shapes():
    streams = Streams((0, 1, 2))
    assert streams.runs == 3
    for tensor, dtype in (
        (streams.bits("noise", 0, "a", (2, 5)), torch.int16),
        (streams.uniform("noise", 0, "a", (2, 5)), torch.float32),
        (streams.normal("noise", 0, "a", (2, 5)), torch.float32),
        (streams.integers("noise", 0, "a", 3, (2, 5)), torch.int64),
    ):
        assert tensor.shape == (3, 2, 5)
        assert tensor.dtype == dtype
    assert streams.permutation("order", 0, "a", 5).dtype == torch.int64


# ---- the numbers are uniform, normal, independent


def keyed(seeds: int = 8, steps: int = 8, count: int = 4096) -> np.ndarray:
    """Uniforms of many keys in a row, as training draws them: [seeds, steps, count]."""
    streams = Streams(tuple(range(seeds)))
    return np.stack([streams.uniform("noise", step, "hidden1", (count,)).numpy() for step in range(steps)], 1)


def test_the_16_bit_words_are_uniform():
    streams = Streams(tuple(range(8)))
    words = np.concatenate([streams.bits("noise", step, "hidden1", (2**16,)).numpy().ravel() for step in range(8)])
    counts = np.bincount(words.astype(np.int64) + 2**15, minlength=2**16)
    assert len(counts) == 2**16
    assert P < stats.chisquare(counts).pvalue < 1 - P
    for byte in (words & 0xFF, (words >> 8) & 0xFF):
        assert P < stats.chisquare(np.bincount(byte, minlength=256)).pvalue < 1 - P


def test_uniforms_are_uniform_inside_the_unit_interval():
    values = keyed().ravel()
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > P
    per_key = [stats.kstest(row, "uniform").pvalue for row in keyed().reshape(64, -1)]
    assert stats.kstest(per_key, "uniform").pvalue > P


def test_the_ends_of_the_uniform_are_finite_as_normals():
    lowest, highest = 2.0**-24, 1 - 2.0**-24
    assert np.float32(lowest) > 0
    assert np.float32(highest) < 1
    assert math.sqrt(-2 * math.log(lowest)) < 6


def test_normals_are_normal():
    streams = Streams(tuple(range(8)))
    values = streams.normal("noise", 2, "hidden1", (2**15,)).double().numpy()
    flat = values.ravel()
    assert stats.kstest(flat, "norm").pvalue > P
    n = len(flat)
    assert abs(flat.mean()) < SIGMAS / math.sqrt(n)
    assert abs(flat.var() - 1) < SIGMAS * math.sqrt(2 / n)
    assert abs(stats.skew(flat)) < SIGMAS * math.sqrt(6 / n)
    assert abs(stats.kurtosis(flat)) < SIGMAS * math.sqrt(24 / n)
    cosine, sine = flat[::2], flat[1::2]
    for f, g in ((cosine, sine), (cosine**2, sine**2)):  # the two halves of a pair share their radius
        assert abs(np.corrcoef(f, g)[0, 1]) < SIGMAS / math.sqrt(n / 2)


N = 2**16


def one(seed: int = 0, purpose: str = "noise", step: int = 0, site: str = "hidden1", count: int = N) -> np.ndarray:
    return Streams((seed,)).uniform(purpose, step, site, (count,))[0].double().numpy()


NEIGHBOURS = {
    "seed": [({"seed": seed}, {"seed": seed + 1}) for seed in (0, 1, 2, 3, 41, LARGE - 1)],
    "far seed": [({"seed": 0}, {"seed": 2**k}) for k in (8, 16, 32, 48, 63)],
    "step": [({"step": step}, {"step": step + 1}) for step in (0, 1, 2, 3, 255, 65535)],
    "site": [({"site": a}, {"site": b}) for a, b in (("hidden1", "hidden2"), ("input", "hidden1"), ("a", "b"))],
    "purpose": [({"purpose": a}, {"purpose": b}) for a, b in (("noise", "eval"), ("init", "noise"), ("init", "order"))],
    "seed for step": [({"seed": 1, "step": 2}, {"seed": 2, "step": 1}), ({"seed": 1}, {"step": 1})],
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_neighbours_are_independent(kind):
    for here, there in NEIGHBOURS[kind]:
        a, b = one(**here), one(**there)
        independent(a, b, f"{here} {there}")
        independent(a, np.roll(b, 4), f"{here} {there} a block apart")


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5, 8, 64, 256, 1024])
def test_elements_are_independent(lag):
    values = one(count=N + lag)
    independent(values[:-lag], values[lag:], f"lag {lag}")


def independent(a: np.ndarray, b: np.ndarray, what: str) -> None:
    """No correlation of the values, and a 16 x 16 table of them (their highest bits) as full as it should be."""
    assert abs(np.corrcoef(a, b)[0, 1]) < SIGMAS / math.sqrt(len(a)), what
    table = np.histogram2d(a, b, bins=16, range=((0, 1), (0, 1)))[0]
    assert P < stats.chisquare(table.ravel()).pvalue < 1 - P, what


def test_no_bit_of_a_word_leans():
    words = words_of(Streams(tuple(range(16))).bits("noise", 0, "hidden1", (2**14,))).ravel()
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), 64).astype(np.float64)
    limit = SIGMAS / math.sqrt(len(words))
    assert np.abs(2 * bits.mean(0) - 1).max() < limit
    correlations = np.corrcoef(bits.T)
    np.fill_diagonal(correlations, 0)
    assert np.abs(correlations).max() < 5.2 / math.sqrt(len(words))  # the largest of 2,016


@pytest.mark.parametrize("length", [1, 2, 7, 100, 1221])
def test_a_permutation_is_a_permutation(length):
    orders = Streams((0, 1, LARGE)).permutation("order", 4, "train", length)
    assert torch.equal(orders.sort(1).values, torch.arange(length).expand(3, length))


def test_permutations_are_uniform():
    orders = torch.cat([Streams(tuple(range(400))).permutation("order", step, "train", 4) for step in range(30)])
    codes = (orders * torch.tensor([64, 16, 4, 1])).sum(1).numpy()
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert P < stats.chisquare(counts).pvalue < 1 - P


def test_a_permutation_leaves_as_many_in_place_as_chance():
    orders = torch.cat([Streams(tuple(range(50))).permutation("order", step, "train", 1000) for step in range(20)])
    fixed = (orders == torch.arange(1000)).sum().item()
    assert abs(fixed - 1000) < SIGMAS * math.sqrt(1000)  # one in each of 1,000 orders, Poisson


@pytest.mark.parametrize("high", [1, 2, 5, 9, 10, 1000])
def test_integers_are_in_range_and_uniform(high):
    values = Streams((0, 1)).integers("data", 0, "x", high, (200 * high,)).numpy().ravel()
    counts = np.bincount(values, minlength=high)
    assert values.min() >= 0
    assert len(counts) == high
    if high > 1:
        assert P < stats.chisquare(counts).pvalue < 1 - P


@pytest.mark.parametrize("rate", [0.0, 2**-16, 0.3, 0.5, 0.999])
def test_the_realised_rate_of_a_mask_is_the_asked_one(rate):
    runs, count = 4, 2**20
    noise, asked = Bernoulli(), torch.full((runs, 1), rate)
    streams = Streams(tuple(range(runs)))
    scene = Scene(Clock(1, 2, 0, 1), {}, {}, 1, "classification", streams)
    place = Place(Site("x", "hidden", 1.0, ("unit",), count), scene)
    realised = noise.realised(noise.perturb(streams.bits("noise", 1, "x", (count,)), asked, place))
    assert realised.shape == (runs,)
    spread = math.sqrt(rate * (1 - rate) / count)
    for share in realised.tolist():
        assert abs(share - rate) <= 2**-17 + SIGMAS * spread, f"{share} for {rate}"
    if rate:
        assert realised.unique().numel() == runs  # every run has its own


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_sees_the_same_numbers():
    here, there = Streams((0, LARGE)), Streams((0, LARGE), "cuda")
    for call in [("bits", 7), ("uniform", 7), ("normal", 7), ("permutation", 100), ("integers", 9)]:
        method, count = call
        arguments = (method, "noise", 3, "hidden1", count)
        drawn = make(there, arguments)
        assert drawn.is_cuda
        assert torch.equal(drawn.cpu(), make(here, arguments))
