"""DropBlock against the published formula and against blocks drawn by plain loops."""

from __future__ import annotations

import pytest
import torch
from places import DELICATE, place, rates, same_bits

from dropbench.noise.dropblock import Dropblock
from dropbench.spec import Site
from dropbench.streams import Streams

AXES = ("batch", "unit", "row", "column")
MAPS = place(Site("conv1", "hidden", 0.5, AXES, 2))


def mask(draw: torch.Tensor, gamma: float, size: int) -> torch.Tensor:
    """What is kept of one map [rows, columns], place by place: a seed drops the square to its right and below."""
    kept = torch.ones_like(draw)
    for row in range(draw.shape[0] - size + 1):
        for column in range(draw.shape[1] - size + 1):
            if draw[row, column] < gamma:
                kept[row : row + size, column : column + size] = 0
    return kept


def drawn(*shape: int, runs: int = 1) -> torch.Tensor:
    return Streams(tuple(range(runs))).uniform("noise", 0, "conv1", shape)


def test_one_seed_drops_one_square():
    draw = torch.ones(1, 1, 1, 5, 5)
    draw[0, 0, 0, 1, 2] = 0.0
    perturbation = Dropblock(size=3).perturb(draw, rates(0.1, dims=5), MAPS)
    kept = 25 / 16  # 25 values, 9 are dropped
    assert perturbation.scale[0, 0, 0].tolist() == [
        [kept, kept, kept, kept, kept],
        [kept, kept, 0, 0, 0],
        [kept, kept, 0, 0, 0],
        [kept, kept, 0, 0, 0],
        [kept, kept, kept, kept, kept],
    ]
    assert Dropblock(size=3).realised(perturbation).tolist() == pytest.approx([9 / 25])


def test_no_seed_stands_where_its_square_would_not_fit():
    draw = torch.zeros(1, 1, 1, 5, 5)
    draw[..., :3, :3] = 1.0  # a 3 x 3 square fits at these 9 places alone
    assert Dropblock(size=3).perturb(draw, rates(0.9, dims=5), MAPS).scale.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("side", "size", "rate", "gamma"),
    [  # rate F^2 / (b^2 (F - b + 1)^2)
        (8, 3, 0.1, 0.1 * 64 / (9 * 36)),  # 0.0197531
        (8, 1, 0.3, 0.3),  # plain dropout
        (14, 7, 0.2, 0.2 * 196 / (49 * 64)),  # 0.0125
        (3, 3, 0.25, 0.25),  # the whole map
    ],
)
def test_the_chance_of_a_seed_has_the_border_factor(side, size, rate, gamma):
    noise, at = Dropblock(size=size), rates(rate, dims=5)
    for share, dropped in ((0.999, size * size), (1.001, 0)):
        draw = torch.ones(1, 1, 1, side, side)
        draw[..., 0, 0] = share * gamma
        assert int((noise.perturb(draw, at, MAPS).scale == 0).sum()) == dropped


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_as_plain_loops_over_maps_of_unequal_sides(size):
    draw, rows, columns = drawn(4, 2, 6, 9, runs=2), 6, 9
    perturbation = Dropblock(size=size).perturb(draw, rates(0.2, 0.6, dims=5), MAPS)
    for run, rate in enumerate((0.2, 0.6)):
        gamma = rate * rows * columns / (size**2 * (rows - size + 1) * (columns - size + 1))
        kept = torch.stack([mask(each, gamma, size) for each in draw[run].flatten(0, 1)]).view(4, 2, rows, columns)
        assert 0 < kept.mean() < 1
        torch.testing.assert_close(perturbation.scale[run], kept * (kept.numel() / kept.sum()))


def test_what_is_kept_makes_up_for_what_is_dropped_in_each_run():
    for rate in (0.1, 0.5, 0.9):
        scale = Dropblock(size=3).perturb(drawn(16, 4, 8, 8, runs=3), rates(rate, rate, rate, dims=5), MAPS).scale
        assert scale.flatten(1).mean(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
        assert all(len(run.unique()) == 2 for run in scale)


def test_a_little_less_than_the_rate_is_dropped():
    noise = Dropblock(size=3)
    for rate in (0.05, 0.1, 0.3):
        realised = noise.realised(noise.perturb(drawn(256, 8, 8, 8), rates(rate, dims=5), MAPS)).item()
        # squares overlap: at most rate, at least what independent squares would leave, 1 - exp(-rate)
        assert 0.9 * (1 - torch.tensor(-rate).exp().item()) < realised < 1.03 * rate


def test_a_map_smaller_than_the_square_is_dropped_as_a_whole():
    draw = torch.ones(1, 3, 1, 2, 2)
    draw[0, 0, 0, 0, 0], draw[0, 1, 0, 0, 0], draw[0, 2, 0, 1, 1] = 0.24, 0.26, 0.0
    scale = Dropblock(size=7).perturb(draw, rates(0.25, dims=5), MAPS).scale
    assert scale[0, :, 0].tolist() == [[[0, 0], [0, 0]], [[1.5, 1.5], [1.5, 1.5]], [[1.5, 1.5], [1.5, 1.5]]]


def test_where_all_is_dropped_all_is_0():
    scale = Dropblock(size=2).perturb(torch.zeros(1, 1, 1, 2, 2), rates(0.5, dims=5), MAPS).scale
    assert scale.unique().tolist() == [0]


def test_rate_0_gives_exactly_the_value_back():
    value = DELICATE.view(1, 1, 1, 2, 3)
    assert same_bits(Dropblock(size=2).perturb(drawn(1, 1, 2, 3), rates(0.0, dims=5), MAPS)(value), value)
    assert Dropblock().expect(rates(0.5, dims=5), MAPS) is None


def test_every_example_may_have_its_own_rate():
    rate = torch.tensor([0.0, 0.9]).view(1, 2, 1, 1, 1)
    scale = Dropblock(size=2).perturb(drawn(2, 3, 6, 6), rate, MAPS).scale
    assert (scale[0, 0] > 0).all()
    assert (scale[0, 1] == 0).any()


def test_it_needs_maps():
    assert Dropblock().misfit(Site("conv1", "hidden", 0.5, AXES, 2)) is None
    assert "model=cnn" in Dropblock().misfit(Site("hidden1", "hidden", 0.5, ("batch", "unit"), 2))
