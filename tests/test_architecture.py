"""What the house rests on, read off the source: who imports whom, who knows whose name, who draws, what runs as code.

Source is read with `ast`, so docstrings, comments and the prose of messages do not count.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from support import choices

import dropbench
from dropbench.data import Dataset
from dropbench.loggers import Logger
from dropbench.models import Model
from dropbench.noise import Noise
from dropbench.objectives import Objective
from dropbench.optim import Optimizer
from dropbench.parts import find, names
from dropbench.policies import Policy
from dropbench.strategy import Axis, Where

PACKAGE = Path(dropbench.__file__).parent
BASES = (Dataset, Logger, Model, Noise, Objective, Optimizer, Policy)
FOLDERS = {base.folder for base in BASES}
CORE_FILES = (
    "runner", "nets", "state", "strategy", "acting", "spec", "stack", "streams", "evaluation", "schema", "config",
    "control", "signals", "diagnostics", "pruning", "ranking", "final",
)  # fmt: skip
CORE_FOLDERS = ("runs", "compare", "sweep")
#: What stands in a folder of parts and is none: the core may know it.
SHARED = {"dropbench.models.moments", "dropbench.data.figures", "dropbench.data.splits"}


@cache
def source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def core() -> list[Path]:
    found = [PACKAGE / f"{name}.py" for name in CORE_FILES]
    return [*found, *(path for folder in CORE_FOLDERS for path in sorted((PACKAGE / folder).rglob("*.py")))]


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that may be imported, at any depth: `from a import b` may be `a` or `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"dropbench\.[\w.]+", str(node.value)):
            yield str(node.value)  # for importlib


def chain(node: ast.expr) -> str:
    """`a.b.c` of an attribute or a name; what stands before a call or an index is `?`."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{chain(node.value)}.{node.attr}"
    return "?"


def prose(tree: ast.Module) -> set[int]:
    """The ids of docstring nodes."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, owners) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found.add(id(first.value))
    return found


# ---- the core imports no concrete part


def concrete(tree: ast.Module) -> set[str]:
    """The parts of the house that a file imports beyond the abstract classes."""
    found = set()
    for module in imported(tree):
        package, folder, *rest = (*module.split("."), "", "")
        if package != "dropbench" or folder not in FOLDERS or not rest[0]:
            continue
        name = f"dropbench.{folder}.{rest[0]}"
        is_file = (PACKAGE / folder / f"{rest[0]}.py").is_file()
        if is_file and name not in SHARED:
            found.add(name)
    return found


@pytest.mark.parametrize("path", core(), ids=short)
def test_the_core_imports_no_part(path):
    assert not concrete(source(path))


def test_a_part_imports_no_part_of_another_folder():
    """A data set knows no model, a model no noise: they meet in the config alone."""
    for path in files():
        folder = path.relative_to(PACKAGE).parts[0]
        if folder in FOLDERS:
            others = {name for name in concrete(source(path)) if name.split(".")[1] != folder}
            assert not others, short(path)


def test_the_check_of_imports_sees_every_form():
    for line in (
        "from dropbench.noise.bernoulli import Bernoulli",
        "from dropbench.noise import bernoulli",
        "import dropbench.noise.bernoulli as b",
        "def f():\n    from dropbench.policies.gradual import Gradual",
        "import_module('dropbench.models.mlp')",
        "if TYPE_CHECKING:\n    from dropbench.models.lstm import LSTM",
    ):
        assert concrete(ast.parse(line)), line
    for line in ("from dropbench.noise import Noise", "from dropbench.models.moments import BatchMoments"):
        assert not concrete(ast.parse(line)), line


# ---- the core knows no strategy and no part by name

#: Ordinary words of Python or of training that are also names of YAMLs: allowed as identifiers, not as whole strings,
#: for to ask for a strategy by its name takes a string.
ORDINARY = {"none", "early", "late", "standard", "adding"}  # None, early_stop, standard deviation, adding up
#: The vocabulary in which models and strategies meet, kinds of sites and names of axes: allowed as strings too.
#: The path of a YAML is never allowed, so `transition/state` is found where `state` is not.
VOCABULARY = {*get_args(Where), *get_args(Axis)} | {"rates", "saliency", "weights"}  # a key, a signal, what is cut
#: Figures of the evaluation that are named after the mathematics.
FIGURES = {"gaussian_nll", "mean_squared_error"}


def words_of(identifier: str) -> list[str]:
    """`EarlyStop`, `early_stop` -> early, stop."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", identifier)]


def contains(identifier: str, name: str) -> bool:
    words, wanted = words_of(identifier), name.split("_")
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words) - len(wanted) + 1))


@cache
def known_names() -> set[str]:
    """Every word by which a strategy, or a part of one, or a model, a data set, an optimizer goes."""
    strategies = {word for name in choices("strategy") for word in (name, *name.split("/"))}
    groups = {name for group in ("model", "dataset", "optimizer", "logger") for name in choices(group)}
    return strategies | groups | {name for base in BASES for name in names(base)}


def of_control(tree: ast.Module) -> set[int]:
    """The ids of constants that `control` is compared with or set to: there `none` is the lack of a twin."""
    found: set[int] = set()
    for node in ast.walk(tree):
        names, values = [], []
        if isinstance(node, ast.Compare):
            names, values = [node.left], node.comparators
        elif isinstance(node, ast.AnnAssign):
            names, values = [node.target], [node.annotation, node.value]
        elif isinstance(node, ast.keyword):
            names, values = [ast.Name(node.arg or "")], [node.value]
        if any(chain(name).split(".")[-1] == "control" for name in names):
            found |= {id(item) for value in values if value is not None for item in ast.walk(value)}
    return found


#: What an error message tells the user to type.
ADVICE = re.compile(r"(model|dataset)=\w+")


def betrayed(tree: ast.Module) -> set[str]:
    """The known names that occur in code: in an identifier, or as a string of one word (a key, a name, a path)."""
    skipped = prose(tree) | of_control(tree)
    classes = {find(base, name, "key").__name__: name for base in BASES for name in names(base)}
    found = set()
    for node in ast.walk(tree):
        identifiers = [getattr(node, field) for field in ("id", "attr", "arg", "name") if hasattr(node, field)]
        for identifier in (name for name in identifiers if isinstance(name, str)):
            if identifier in classes:
                found.add(f"{identifier} (class)")
            for name in known_names() - ORDINARY - VOCABULARY:
                if "/" not in name and identifier not in FIGURES and contains(identifier, name):
                    found.add(f"{identifier} ({name})")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            text = node.value
            if re.search(r"\s", text) or ADVICE.fullmatch(text):
                continue  # prose for people: an error message
            for name in known_names() - VOCABULARY:
                if text == name or name in re.split(r"[/.\-:=,]", text):
                    found.add(f"'{text}' ({name})")
            if "/" in text and any("/" in name and name in text for name in known_names()):
                found.add(f"'{text}'")
    return found


@pytest.mark.parametrize("path", core(), ids=short)
def test_the_core_knows_no_strategy_and_no_part_by_name(path):
    assert not betrayed(source(path))


def test_the_check_of_names_sees_every_form():
    for line in (
        "if strategy == 'gradual': pass",
        "if name.startswith('gradual/'): pass",
        "kind = 'none'",
        "x = {'standard': 1}",
        "is_bernoulli = True",
        "def gradual_rate(): pass",
        "def f(cross_entropy=1): pass",
        "Bernoulli()",
        "isinstance(model, LSTM)",
        "path = 'strategy/gradual/step'",
        "config.gradual = 1",
        "x = 'cross_entropy'",
        "if strategy.noise == 'none': pass",
        "x = 'strategy=gradual'",
        "x = 'layerwise/rates'",
        "x = 'model=mlp,strategy=none'",
    ):
        assert betrayed(ast.parse(line)), line
    for line in (
        '"""Gradual dropout, see standard."""',
        "raise ValueError('letters, digits and dots')",
        "step = 1",
        "axis = 'step'",
        "early_stop = None",
        "x = None  # gradual",
        "def f():\n    'gradual'",
        "if config.control != 'none': pass",
        "control: Literal['none', 'mean'] = 'none'",
        "replace(config, control='none')",
        "hint = 'model=cnn'",
        "rates = record['rates']",
    ):
        assert not betrayed(ast.parse(line)), line


# ---- random draws are made in streams.py alone

DRAWS = re.compile(
    r"""
      (torch|tensor)\.(rand|randn|randint|randperm|rand_like|randn_like|randint_like|normal|bernoulli|multinomial
                      |poisson|manual_seed|seed|initial_seed|get_rng_state|set_rng_state|Generator|default_generator
                      |random(\..*)?|cuda\.(manual_seed|manual_seed_all|seed|seed_all))
    | (.*\.)?(alpha_|feature_|feature_alpha_)?dropout([123]d)?(_)?
    | (.*\.)?(Alpha|FeatureAlpha)?Dropout([123]d)?
    | (np|numpy)\.random(\..*)?
    | random(\..*)?
    | (.*\.)?(rrelu|gumbel_softmax|kaiming_\w+|xavier_\w+|trunc_normal_|orthogonal_)
    | .*\.(bernoulli_|normal_|uniform_|random_|exponential_|cauchy_|log_normal_|geometric_)
    | (secrets|uuid)(\..*)?
    """,
    re.VERBOSE,
)


def drawn(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and DRAWS.fullmatch(chain(node)):
            found.add(chain(node))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and DRAWS.fullmatch(node.func.id):
            found.add(node.func.id)
    return found | {module for module in imported(tree) if DRAWS.fullmatch(module.removeprefix("torch.nn.functional."))}


@pytest.mark.parametrize("path", files(), ids=short)
def test_random_draws_are_made_in_streams_alone(path):
    if short(path) == "streams.py":
        assert drawn(source(path)) == {"np.random", "np.random.Philox"}
    elif short(path) in ("sweep/race.py", "compare/statistics.py"):  # what luck can do; no run sees these numbers
        assert drawn(source(path)) == {"np.random", "np.random.Generator", "np.random.Philox"}
    else:
        assert not drawn(source(path))


def test_the_check_of_draws_sees_every_form():
    for line in (
        "torch.rand(3)", "torch.randn_like(x)", "torch.manual_seed(0)", "torch.cuda.manual_seed_all(0)",
        "np.random.default_rng(0)", "numpy.random.rand()", "import random", "from random import shuffle",
        "from numpy.random import Philox", "from torch.nn.functional import dropout", "F.dropout(x)", "nn.Dropout(0.5)",
        "torch.nn.functional.alpha_dropout(x)", "x.bernoulli_(0.5)", "weight.data.normal_()", "f(x).uniform_(-1, 1)",
        "torch.bernoulli(x)", "torch.Generator()", "torch.nn.init.kaiming_uniform_(w)", "from torch import randperm",
        "import uuid", "def f():\n    import numpy.random",
    ):  # fmt: skip
        assert drawn(ast.parse(line)), line
    for line in ("streams.uniform('noise', 0, 'x', (3,))", "streams.normal(1)", "randomness = 3", "x.view(3)"):
        assert not drawn(ast.parse(line)), line


# ---- Hydra at the border, data never run as code


@pytest.mark.parametrize("path", files(), ids=short)
def test_hydra_is_imported_in_one_place(path):
    hydra = {module for module in imported(source(path)) if module.split(".")[0] == "hydra"}
    assert bool(hydra) == (short(path) == "compose.py")


CODE = {"eval", "exec", "compile", "__import__"}
LOADERS = {"torch.load", "joblib.load", "shelve.open", "marshal.loads", "marshal.load", "yaml.load", "yaml.unsafe_load"}


def run_as_code(tree: ast.Module) -> set[str]:
    """What would run the content of a file or of a config."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = chain(node.func)
            if name in CODE or name in LOADERS or name.endswith("instantiate"):
                found.add(name)
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    found.add("allow_pickle")
            if name in ("np.load", "numpy.load") and not any(item.arg == "allow_pickle" for item in node.keywords):
                found.add(name)
        elif isinstance(node, ast.Constant) and node.value == "_target_":
            found.add("_target_")
    roots = {module.split(".")[0] for module in imported(tree)}
    found |= roots & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    return found | {module for module in imported(tree) if module.startswith("hydra.utils")}


@pytest.mark.parametrize("path", files(), ids=short)
def test_data_are_never_run_as_code(path):
    # The schema evaluates the annotations of dropbench's own dataclasses, in one place, and nothing of the user's.
    allowed = {"eval"} if short(path) == "schema.py" else set()
    assert run_as_code(source(path)) == allowed


def test_the_one_eval_reads_annotations():
    calls = [
        node
        for node in ast.walk(source(PACKAGE / "schema.py"))
        if isinstance(node, ast.Call) and chain(node.func) == "eval"
    ]
    assert [ast.unparse(call.args[0]) for call in calls] == ["item.type"]


def test_the_check_of_code_sees_every_form():
    for line in (
        "import pickle", "from pickle import loads", "torch.load(path)", "eval(text)", "exec(text)",
        "hydra.utils.instantiate(c)", "from hydra.utils import instantiate", "np.load(path)",
        "np.load(path, allow_pickle=True)", "yaml.load(text)", "x = {'_target_': 1}", "__import__(name)",
    ):  # fmt: skip
        assert run_as_code(ast.parse(line)), line
    for line in ("np.load(path, allow_pickle=False)", "yaml.safe_load(text)", "model.eval()", "json.load(file)"):
        assert not run_as_code(ast.parse(line)), line


# ---- quick to start: no torch before a run


def light() -> list[str]:
    """Modules that load before anything trains."""
    part_files = [path for path in files() if path.relative_to(PACKAGE).parts[0] in FOLDERS]
    light = [PACKAGE / name for name in ("config.py", "compose.py", "spec.py", "schema.py", "strategy.py", "parts.py")]
    return sorted(
        "dropbench." + path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in [*part_files, *light, *(PACKAGE / "cli").glob("*.py")]
    )


def test_nothing_before_a_run_imports_torch():
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'torchvision', 'scipy', 'matplotlib', 'tensorboard', 'wandb', 'mlflow'}\n"
        "    heavy &= set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    modules = light()
    assert {"dropbench.cli.train", "dropbench.noise.bernoulli", "dropbench.models.recurrent"} <= set(modules)
    paths = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- small files


def test_a_part_of_a_strategy_and_a_logger_is_a_small_file():
    """About 60 lines of code: docstrings, comments, imports and blank lines are not counted."""
    for folder in ("noise", "policies", "objectives", "loggers"):
        for path in (PACKAGE / folder).glob("*.py"):
            tree = source(path)
            docs = prose(tree)
            lines: set[int] = set()
            for node in ast.walk(tree):
                if isinstance(node, ast.stmt) and not isinstance(node, ast.Import | ast.ImportFrom):
                    if isinstance(node, ast.Expr) and id(node.value) in docs:
                        continue
                    lines.add(node.lineno)
            assert len(lines) <= 66, f"{short(path)}: {len(lines)}"
