"""Every YAML of the config group `optimizer`: says what it is, names every key, builds, survives a round trip."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dropbench.errors import UserError
from dropbench.optim import Optimizer
from dropbench.optim.adam import Adam
from dropbench.optim.sgd import SGD
from dropbench.parts import find, names
from dropbench.schema import build, plain
from dropbench.spec import Clock
from dropbench.stack import stacked

FILES = sorted((Path(__file__).parents[2] / "conf" / "optimizer").glob("*.yaml"))


def load(name):
    return yaml.safe_load(next(path for path in FILES if path.stem == name).read_text(encoding="utf-8"))


def build_optimizer(data):
    cls = find(Optimizer, data["kind"], "optimizer.kind")
    return build(cls, {key: value for key, value in data.items() if key != "kind"}, "optimizer")


def test_the_four_presets_are_there():
    assert {path.stem for path in FILES} >= {"sgd", "sgd_dropout", "adam", "adamw"}
    assert names(Optimizer) == ("adam", "sgd")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_preset(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    data = yaml.safe_load(text)
    optimizer = build_optimizer(data)
    assert list(data) == ["kind", *(item.name for item in fields(optimizer))]
    assert list(data["decay"]) == [item.name for item in fields(optimizer.decay)]
    assert plain(optimizer) == data
    assert build_optimizer(plain(optimizer)) == optimizer
    assert stacked([optimizer, optimizer]).rate(Clock(0, 10, 0, 1)).shape == (2,)


def test_the_classic_recipe():
    """Srivastava et al. (2014), appendix A: high rate, momentum 0.5 to 0.95, max-norm 3 to 4."""
    recipe, plain_sgd = build_optimizer(load("sgd_dropout")), build_optimizer(load("sgd"))
    assert isinstance(recipe, SGD)
    assert recipe.max_norm == 3
    assert (recipe.momentum_start, recipe.momentum) == (0.5, 0.95)
    assert recipe.momentum_ramp > 0
    assert recipe.decay.shape != "constant"
    assert isinstance(plain_sgd, SGD)
    assert plain_sgd.max_norm is plain_sgd.clip_norm is plain_sgd.weight_decay is None


def test_adam_and_adamw():
    adam, adamw = build_optimizer(load("adam")), build_optimizer(load("adamw"))
    assert isinstance(adam, Adam)
    assert adam == Adam()
    assert adamw == Adam(decoupled=True, weight_decay=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, r"optimizer.learning_rate=0: out of range; allowed: 0 < value"),
        ({"momentum": 1.0}, r"optimizer.momentum=1.0: out of range; allowed: 0 <= value < 1"),
        ({"max_norm": -3}, r"optimizer.max_norm=-3: out of range"),
        ({"momentun": 0.9}, r"unknown key optimizer.momentun=0.9.*optimizer.momentum"),
        ({"decay": {"shape": "cosin"}}, r"optimizer.decay.shape=cosin.*cosine"),
        ({"decay": {"milestones": [0.5, 1.5]}}, r"optimizer.decay.milestones\[1\]=1.5: out of range"),
        ({"nesterov": 1}, r"optimizer.nesterov=1: allowed: true or false"),
    ],
)
def test_a_wrong_value_is_named(change, message):
    with pytest.raises(UserError, match=message):
        build_optimizer({"kind": "sgd", **change})
