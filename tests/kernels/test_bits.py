"""Words and masks in C against those of NumPy and torch: bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropbench.kernels import bits, native
from dropbench.streams import Streams, _hash

NUMBERS = st.integers(0, 2**64 - 1)


@pytest.fixture(autouse=True)
def compiled():
    if native.library(bits.NAME) is None:
        pytest.skip(native.reason(bits.NAME))


@settings(max_examples=50, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=5), st.integers(0, 2**64 - 1), st.text(max_size=9), st.integers(0, 70))
def test_words_are_those_of_numpy(seeds, step, site, count):
    streams = Streams(tuple(seeds))
    expected = streams.numpy_words("noise", step, site, count)
    found = bits.words(np.array(seeds, dtype=np.uint64), _hash("noise"), step, _hash(site), count)
    assert found.shape == (len(seeds), count)
    assert (found == expected).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_words_are_those_of_numpy_where_threads_share_them(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        seeds = np.array([3, 2**63 + 1, 5], dtype=np.uint64)
        found = bits.words(seeds, _hash("noise"), 11, _hash("hidden1"), 40_001)
        expected = Streams((3, 2**63 + 1, 5)).numpy_words("noise", 11, "hidden1", 40_001)
        assert (found == expected).all()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(1, 7), (3, 5, 2), (2, 70_001), (4, 0)])
def test_masks_are_those_of_torch(shape):
    words = Streams(tuple(range(shape[0]))).bits("noise", 0, "x", shape[1:])
    threshold = torch.tensor([-(2**15), -1, 0, 2**15 - 1], dtype=torch.int16)[: shape[0]]
    scale = torch.tensor([1.0, 2.0, 1.25, 20.0])[: shape[0]]
    one_a_run = (shape[0], *(1,) * (len(shape) - 1))
    expected = torch.where(words >= threshold.view(one_a_run), scale.view(one_a_run), 0)
    assert torch.equal(bits.kept(words, threshold.view(one_a_run), scale.view(one_a_run)), expected)
    # A threshold for each element goes by torch.
    each = bits.kept(words, threshold.view(one_a_run).expand(shape), scale.view(one_a_run).expand(shape))
    assert torch.equal(each, expected)
