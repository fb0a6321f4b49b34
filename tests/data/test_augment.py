"""Crops and mirror images: exact, keyed by run and step, and the same alone and in a stack."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dropbench.data.vision import Jitter, Vision
from dropbench.streams import Streams


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_a_crop_of_the_padded_image_or_of_its_mirror(flips: bool, shape: tuple[int, int, int]) -> None:
    """Every result is found among the 81 crops (and their mirror images), each channel at the same place."""
    _, height, width = shape
    images = torch.rand(1, 40, *shape, generator=torch.Generator().manual_seed(1)) + 0.5
    results = Jitter(flips)(images, Streams((3,)), 5)
    padded = torch.zeros(*images.shape[:3], height + 8, width + 8)
    padded[..., 4:-4, 4:-4] = images
    seen = set()
    for image, result in zip(padded[0], results[0], strict=True):
        crops = {
            (top, left, mirrored): image[:, top : top + height, left : left + width].flip(-1)
            if mirrored
            else image[:, top : top + height, left : left + width]
            for top in range(9)
            for left in range(9)
            for mirrored in (False, True)
        }
        (place,) = [place for place, crop in crops.items() if torch.equal(crop, result)]
        seen.add(place)
    assert {mirrored for *_, mirrored in seen} == ({False, True} if flips else {False})
    assert len(seen) > 25


def test_places_are_uniform() -> None:
    """A single bright pixel shows where the crop was taken."""
    images = torch.zeros(2, 4050, 1, 9, 9)
    images[..., 4, 4] = 1
    results = Jitter(True)(images, Streams((0, 1)), 0).flatten(2)
    assert results.sum(2).eq(1).all()
    for counts in (results[0].sum(0), results[1].sum(0)):  # 81 cells, 50 expected in each
        assert float(((counts - 50) ** 2 / 50).sum()) < 146.0  # chi-square, 80 degrees of freedom: p = 1e-5
    pairs = torch.zeros(1, 4000, 1, 16, 16)
    pairs[..., 7, 7], pairs[..., 7, 8] = 1, 2  # in the middle, so that every crop has both
    columns = Jitter(True)(pairs, Streams((7,)), 0).sum(3)[0, :, 0]
    mirrored = (columns == 2).int().argmax(1) < (columns == 1).int().argmax(1)
    assert abs(float(mirrored.float().mean()) - 0.5) < 0.04  # 5 deviations


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4, unique=True), st.integers(0, 10**9), st.booleans())
def test_alone_as_in_a_stack(seeds: list[int], step: int, flips: bool) -> None:
    images = torch.rand(len(seeds), 6, 3, 8, 8)
    stacked = Jitter(flips)(images, Streams(tuple(seeds)), step)
    for run, seed in enumerate(seeds):
        alone = Jitter(flips)(images[run : run + 1], Streams((seed,)), step)
        assert torch.equal(alone[0], stacked[run])


def test_another_step_another_crop() -> None:
    images = torch.rand(1, 16, 1, 8, 8)
    first, again, other = (Jitter(True)(images, Streams((0,)), step) for step in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_same_on_cuda() -> None:
    images = torch.rand(2, 16, 3, 32, 32)
    here = Jitter(True)(images, Streams((0, 1)), 3)
    there = Jitter(True)(images.cuda(), Streams((0, 1), "cuda"), 3)
    assert torch.equal(here, there.cpu())


@pytest.mark.parametrize(
    ("source", "flips"),
    [("mnist", False), ("svhn", False), ("fashion_mnist", True), ("cifar10", True), ("cifar100", True)],
)
def test_who_is_mirrored(tiny: object, source: str, flips: bool) -> None:
    tiny.write(source)  # type: ignore[attr-defined]
    size = 100 if source == "cifar100" else 20
    assert Vision(source, validation_size=size, augment=True).load(tiny.root).augment == Jitter(flips)  # type: ignore
    assert Vision(source, validation_size=size).load(tiny.root).augment is None  # type: ignore
