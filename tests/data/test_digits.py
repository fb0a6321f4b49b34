"""The shipped digits: the real ones, split once and for all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from dropbench.data import Data
from dropbench.data.digits import Digits
from dropbench.errors import UserError
from dropbench.spec import Facts

NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def data() -> Data:
    return Digits().load(NOWHERE)


def test_what_a_model_must_know(data: Data) -> None:
    assert data.facts == Facts("image", (1, 8, 8), "classification", 10)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1221, 216, 360]
    assert data.augment is None
    for part in (data.train, data.validation, data.test):
        assert part.inputs.dtype == torch.float32
        assert part.targets.dtype == torch.int64
        assert part.inputs.shape == (len(part), 1, 8, 8)
        assert (part.inputs.min(), part.inputs.max()) == (0, 1)
        assert (part.inputs * 16).frac().abs().max() == 0
        share = part.targets.bincount() / len(part)
        assert (share - 0.1).abs().max() < 0.01


def test_every_image_is_somewhere_once(data: Data) -> None:
    """The images are those of UCI: 1,797 of them, the known sum of pixels and number of each digit."""
    images = torch.cat([part.inputs for part in (data.train, data.validation, data.test)])
    labels = torch.cat([part.targets for part in (data.train, data.validation, data.test)])
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len(images.unique(dim=0)) == len(images) == 1797
    assert int((images * 16).sum()) == SUM


def test_golden(data: Data) -> None:
    pixels = torch.cat([part.inputs.flatten() for part in (data.train, data.validation, data.test)])
    assert hashlib.sha256((pixels * 16).byte().numpy().tobytes()).hexdigest()[:16] == GOLDEN


def test_fewer_may_train(data: Data) -> None:
    few, more = (Digits(train_size=size).load(NOWHERE) for size in (100, 200))
    assert few.train.targets.bincount().tolist() == [10] * 10
    assert torch.equal(few.test.inputs, data.test.inputs)
    assert torch.equal(few.validation.inputs, data.validation.inputs)
    rows = [set(map(tuple, part.train.inputs.flatten(1).tolist())) for part in (few, more, data)]
    assert rows[0] < rows[1] < rows[2]
    with pytest.raises(UserError, match=r"dataset\.train_size=1222: out of range; allowed: 10 <= value <= 1221"):
        Digits(train_size=1222).load(NOWHERE)


SUM = 561_718  # of sklearn.datasets.load_digits().images
GOLDEN = "ddc13a0256a8859c"
