"""Bernoulli dropout against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from places import DELICATE, place, rates, same_bits, words

from dropbench.noise.bernoulli import Bernoulli
from dropbench.streams import Streams

NOISE = Bernoulli()


def test_a_value_below_the_rate_is_dropped_and_the_others_are_divided_by_the_keep_probability():
    perturbation = NOISE.perturb(words(0.0, 0.19, 0.2, 0.5, 0.99), rates(0.2), place())
    value = torch.tensor([[1.0, 2.0, 4.0, -8.0, 0.0]])
    # 0.2 * 2**16 = 13107.2 rounds to 13107, and so does the word of 0.2: it is not below
    assert perturbation(value).tolist() == [[0.0, 0.0, 5.0, -10.0, 0.0]]
    assert NOISE.realised(perturbation).tolist() == pytest.approx([2 / 5])


def test_every_run_has_its_own_rate():
    perturbation = NOISE.perturb(words(0.0, 0.3, 0.6, 0.9).expand(3, 4), rates(0.0, 0.5, 0.75), place())
    assert perturbation.scale.tolist() == [[1, 1, 1, 1], [0, 0, 2, 2], [0, 0, 0, 4]]
    assert NOISE.realised(perturbation).tolist() == [0, 0.5, 0.75]


@pytest.mark.parametrize(
    ("rate", "dropped"),
    [(0.0, 0), (2**-18, 0), (2**-16, 1), (0.3, 19661), (0.5, 32768), (0.95, 62259), (0.999, 65470), (0.9999, 65529)],
)
def test_of_all_words_just_the_asked_share_is_dropped(rate, dropped):
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(1, -1)
    perturbation = NOISE.perturb(every, rates(rate), place())
    assert int((perturbation.scale == 0).sum()) == dropped
    assert dropped == round(rate * 2**16)
    assert perturbation.scale.max().item() == pytest.approx(1 / (1 - rate), rel=1e-3)
    assert perturbation.scale.isfinite().all()


def test_rate_0_gives_exactly_the_value_back():
    assert same_bits(NOISE.perturb(words(0.0, 0.1, 0.2, 0.5, 0.7, 0.99), rates(0.0), place())(DELICATE), DELICATE)


def test_the_mean_is_the_value():
    for rate in (0.1, 0.5, 0.9):
        draw = Streams((0,)).bits("noise", 0, "x", (400_000,))
        mean = NOISE.perturb(draw, rates(rate), place())(torch.tensor([[3.0]])).mean().item()
        assert abs(mean - 3) < 4.5 * 3 * (rate / (1 - rate) / 400_000) ** 0.5
    assert NOISE.expect(rates(0.5), place()) is None  # evaluation: the value itself


def test_it_works_in_bfloat16_and_keeps_the_dtype():
    result = NOISE.perturb(words(0.1, 0.9), rates(0.5), place())(torch.ones(1, 2, dtype=torch.bfloat16))
    assert result.dtype == torch.bfloat16
    assert result.tolist() == [[0, 2]]
