"""Every YAML under conf/dataset/ builds, shows every key with its default, and says what it is."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from dropbench.data import Dataset
from dropbench.errors import UserError
from dropbench.parts import find, names
from dropbench.schema import build, plain

CONF = Path(__file__).parents[2] / "conf" / "dataset"
PRESETS = sorted(path.stem for path in CONF.glob("*.yaml"))


def read(name: str) -> dict[str, object]:
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))  # type: ignore[return-value]


def test_all_are_there() -> None:
    assert {"digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"} <= set(PRESETS)
    assert {"temporal_order", "adding", "copy_memory"} <= set(PRESETS)
    assert {read(name)["kind"] for name in PRESETS} == set(names(Dataset))


@pytest.mark.parametrize("name", PRESETS)
def test_preset(name: str) -> None:
    first = (CONF / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert any(year in first for year in ("19", "20"))
    values = read(name)
    kind = str(values.pop("kind"))
    part = find(Dataset, kind, "dataset.kind")
    assert list(values) == [item.name for item in fields(part)]
    built = build(part, values, "dataset")
    assert plain(built) == {"kind": kind, **values}
    defaults = {item.name: item.default for item in fields(part)}
    chosen = {key for key, value in values.items() if value != defaults[key]}
    assert chosen <= {"source", "augment"}
    with pytest.raises(
        UserError, match=r"dataset\.train_size=1000000000000: out of range; allowed: 1 <= value <= 1000000"
    ):
        build(part, {**values, "train_size": 10**12}, "dataset")
    with pytest.raises(UserError, match=r"unknown key dataset\.trainsize=3; nearest: dataset\.train_size"):
        build(part, {**values, "trainsize": 3}, "dataset")
