"""Parts are found by file: in dropbench, in packages that the user names, in installed plug-ins."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from support import MODELS, message, scene_at

import dropbench
from dropbench import parts
from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.data import Dataset
from dropbench.errors import UserError, nearest
from dropbench.models import Model
from dropbench.noise import Noise, Place
from dropbench.noise.bernoulli import Bernoulli
from dropbench.objectives import Objective
from dropbench.optim import Optimizer
from dropbench.parts import Part, find, names, roots
from dropbench.policies import Policy
from dropbench.schema import plain
from dropbench.spec import Facts
from dropbench.stack import stacked

PACKAGE = Path(dropbench.__file__).parent
BASES = (Dataset, Model, Noise, Objective, Optimizer, Policy)

NOISE = '''
    """A noise of one's own."""
    from __future__ import annotations
    from dataclasses import dataclass
    from dropbench.noise import Noise, Perturbation

    @dataclass(frozen=True)
    class Shifting(Noise):
        """Adds the rate."""
        draw = "uniform"
        kinds = frozenset({"hidden"})
        transition = ("state", ())
        size: float = 2.0

        def perturb(self, draw, rate, place):
            return Perturbation(draw * 0 + 1, None, draw * 0 + rate * self.size)

        def realised(self, perturbation):
            return perturbation.shift.flatten(1).mean(1) / self.size
'''
POLICY = '''
    """A policy of one's own."""
    from __future__ import annotations
    from dataclasses import dataclass
    from dropbench.policies import Policy
    from dropbench.spec import Share, vector

    @dataclass(frozen=True)
    class Halving(Policy):
        """A constant share."""
        share: Share = 0.5

        def factor(self, site, state, scene):
            return vector(self.share)
'''
YAML = """
    # Shifts by a share of the rate (nobody, never)
    rate: 0.4
    input_rate: 0.2
    where: hidden
    share: auto
    noise: {kind: shifting, size: 3.0}
    policies:
      halving:
        share: 0.25
    objective: auto
    cap: 0.95
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """An importable package with a noise, a policy and a strategy."""
    name = "ext_" + re.sub(r"\W", "_", request.node.name)
    root = tmp_path / name
    for path, text in {
        "__init__.py": "",
        "noise/__init__.py": "",
        "noise/shifting.py": NOISE,
        "policies/halving.py": POLICY,  # no __init__.py: a folder is enough
        "conf/strategy/shifted.yaml": YAML,
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(dedent(text), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.folder)
def test_every_part_is_a_file_of_its_folder(base):
    found = names(base)
    files = {path.stem for path in (PACKAGE / base.folder).glob("*.py")} - {"__init__"}
    assert found
    assert list(found) == sorted(found)
    assert set(found) <= files
    for name in found:
        part = find(base, name, "key")
        assert part.kind() == name
        assert issubclass(part, base)
        assert part.__module__ == f"dropbench.{base.folder}.{name}"
        assert part.__doc__
        assert part.__dataclass_params__.frozen
        for other in BASES:
            if other is not base:
                assert name not in names(other)


def test_the_parts_of_the_bench():
    noises = {"alpha", "bernoulli", "concrete", "dropblock", "gaussian", "sparse", "standout", "variational", "zoneout"}
    objectives = {"cross_entropy", "mean_squared_error", "rdrop", "multi_sample", "fraternal", "expectation_linear"}
    assert noises <= set(names(Noise))
    assert {"gradual", "gap", "difficulty", "complexity", "targeted", "layerwise"} <= set(names(Policy))
    assert objectives <= set(names(Objective))
    assert {"mlp", "cnn", "lstm"} <= set(names(Model))


def test_files_without_a_part_are_no_parts():
    assert not {"layers", "moments", "recurrent"} & set(names(Model))
    assert not {"schedules", "constraints"} & set(names(Optimizer))
    assert not {"splits", "figures", "fetch"} & set(names(Dataset))
    for name in ("layers", "__init__", "", "../mlp", "mlp.MLP", "MLP", "mlp ", "mlp\n", "os"):
        with pytest.raises(UserError, match="there is no such model"):
            find(Model, name, "model.kind")


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UserError) as error:
        find(Noise, "bernouli", "strategy.noise")
    assert message(error) == (
        f"strategy.noise=bernouli: there is no such noise; known: {', '.join(names(Noise))}; nearest: bernoulli"
    )


def test_nearest():
    assert nearest("mpl", ("mlp", "cnn")) == "; nearest: mlp"
    assert nearest("xyz", ("mlp", "cnn")) == ""
    assert nearest("rat", ("rate", "cap"), "strategy") == "; nearest: strategy.rate"
    assert nearest("zzz", ("strategy", "stratum"), "strategy") == ""


def test_two_parts_in_a_file_are_a_mistake_of_the_author(package, tmp_path):
    second = NOISE + "\n    @dataclass(frozen=True)\n    class Another(Shifting):\n        pass\n"
    (tmp_path / package / "noise" / "shifting.py").write_text(dedent(second), encoding="utf-8")
    with pytest.raises(TypeError, match="2 parts"):
        find(Noise, "shifting", "strategy.noise", (package,))


def test_a_part_that_imports_what_is_not_there_says_so(package, tmp_path):
    (tmp_path / package / "noise" / "shifting.py").write_text("import surely_not_there_at_all\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="surely_not_there_at_all"):
        find(Noise, "shifting", "strategy.noise", (package,))


def test_roots_are_dropbench_plug_ins_and_what_the_user_names(monkeypatch):
    entry = EntryPoint("plugin", "installed_plugin", "dropbench.extensions")
    monkeypatch.setattr(parts, "entry_points", lambda group: [entry] if group == "dropbench.extensions" else [])
    assert roots(("mine", "installed_plugin", "mine")) == ("dropbench", "installed_plugin", "mine")


def test_an_extension_brings_parts(package):
    assert "shifting" in names(Noise, (package,))
    assert "halving" in names(Policy, (package,))
    assert names(Objective, (package,)) == names(Objective)
    assert "shifting" not in names(Noise)
    part = find(Noise, "shifting", "strategy.noise", (package,))
    assert part.__module__ == f"{package}.noise.shifting"
    with pytest.raises(UserError, match="no such noise"):
        find(Noise, "shifting", "strategy.noise")


def test_what_dropbench_has_cannot_be_replaced(package, tmp_path):
    (tmp_path / package / "noise" / "bernoulli.py").write_text(dedent(NOISE), encoding="utf-8")
    assert find(Noise, "bernoulli", "strategy.noise", (package,)) is Bernoulli


def test_an_extension_brings_a_strategy_that_works(package):
    composer = Composer(None, (package,))
    assert "shifted" in composer.groups()["strategy"]
    composed = composer.compose(["strategy=shifted", f"extensions=[{package}]", *MODELS["mlp"]])
    config = check(composed.data)
    assert config.strategy.noise.kind() == "shifting"
    assert plain(config)["strategy"]["policies"] == {"halving": {"kind": "halving", "share": 0.25}}
    assert check(plain(config)) == config
    assert Run(config, composed.choices).id.startswith("digits-mlp-shifted-r0.4-s0-")
    facts = Facts("image", (1, 8, 8), "classification", 10)
    placements = config.strategy.place(config.model.sites(facts), facts)
    assert list(placements) == ["hidden1", "hidden2"]
    strategy = stacked([config.strategy])
    site, scene = placements["hidden1"].site, scene_at()
    rate = strategy.rate_at(site, {"halving": {}}, scene)
    assert rate.tolist() == pytest.approx([0.1])
    perturbation = strategy.noise.perturb(torch.rand(1, 3, 2), rate.view(1, 1, 1), Place(site, scene))
    assert strategy.noise.realised(perturbation).tolist() == pytest.approx([0.1])


def test_without_the_extension_its_strategy_is_unknown(package):
    with pytest.raises(UserError, match="strategy=shifted: there is no such strategy"):
        Composer().compose(["strategy=shifted"])


@pytest.mark.parametrize("name", ["surely_not_there_at_all", "", ".", "..", "a b", "a..b", ".a", "\0"])
def test_an_unknown_package_is_refused(name):
    for ask in (
        lambda: Composer(None, (name,)),
        lambda: check({**Composer().compose([]).data, "extensions": [name]}),
    ):
        with pytest.raises(UserError) as error:
            ask()
        assert message(error) == f"extensions={name}: no package of that name can be imported"


@pytest.mark.parametrize("names", ["mypkg", [1], {"a": 1}, 3, [None]])
def test_extensions_are_a_list_of_names(names):
    with pytest.raises(UserError, match=r"extensions=.*: allowed: a list of package names"):
        check({**Composer().compose([]).data, "extensions": names})


def test_a_part_without_a_folder_is_no_part():
    @dataclass(frozen=True)
    class Odd(Part):
        pass

    assert Odd.kind() == "test_parts"
