"""The border: what Hydra composed becomes one closed, typed, checked `Config`; nothing behind it sees a DictConfig."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from dropbench import __version__, schema
from dropbench.data import Dataset
from dropbench.errors import UserError
from dropbench.loggers import Logger, no_logger
from dropbench.models import Model
from dropbench.objectives import Objective
from dropbench.optim import Optimizer
from dropbench.parts import find
from dropbench.paths import folders
from dropbench.spec import Range
from dropbench.strategy import Strategy
from dropbench.sweep.slurm_settings import Slurm

_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)([smh])\Z")
_DEVICE = re.compile(r"(auto|cpu|cuda(:\d{1,3})?)\Z")
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)

Seeds = Annotated[int, Range(1, 100_000)] | tuple[int, ...] | Literal["auto"] | None


@dataclass(frozen=True)
class Evaluation:
    """How a run is evaluated.

    Args:
        every: epochs between evaluations; the last epoch is always evaluated.
        samples: passes with noise whose mean prediction is measured, beside the one without, at the end; 0 for none.
        prune: share of the net that is cut, after training, by smallest norm, to be measured once more; null for none.
        prune_by: what is cut: hidden units, or weights into hidden units.
    """

    every: Annotated[int, Range(1, 1_000_000)] = 1
    samples: Annotated[int, Range(0, 1_000_000)] = 0
    prune: Annotated[float, Range(0, 1)] | None = None
    prune_by: Literal["units", "weights"] = "units"


@dataclass(frozen=True)
class Config:
    """Everything about one run. The fields under `CIRCUMSTANCES` do not change its result and are not in its hash.

    Args:
        dataset: what is learned.
        model: what learns.
        strategy: the dropout strategy.
        optimizer: the update rule and the recipe around it.
        epochs: passes over the training set.
        batch_size: examples an update.
        seed: of initial weights, data order, masks and augmentation; 0 is a seed like any other.
        precision: of the forward and backward pass; parameters and losses are float32.
        selection: which evaluation gives the result: the one with the lowest validation error, or the last.
        early_stop: evaluations without a better one after which a run stops; null for never.
        scaling: where noise is scaled: what is kept, in training (`inverted`), or everything by the keep probability,
            in evaluation (`test`).
        control: `mean`: in place of the run its twin, whose rates do not move and have the same mean over training;
            `shuffled`: the twin whose targets are chosen at random.
        diagnostics: whether to measure, at evaluations, what dropout is said to do to a net.
        evaluation: how often, and what else.
        study: the folder under `output_root` that the run belongs to.
        device: `auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:N`.
        data_root: where data sets lie or are downloaded to; null: `$DROPBENCH_DATA`, else `data`.
        output_root: where studies lie.
        rerun: whether to train again what is done.
        save_predictions: whether to keep what is predicted for every validation and test example.
        logger: where figures go beside the run folder.
        stack: most runs that train as one batch; `auto` for as many as memory takes.
        workers: processes that train a sweep here; `auto`: one a GPU, else as many as cores, if that is worth it.
        launcher: what trains a sweep: this machine, or a Slurm cluster.
        slurm: what its tasks ask for there.
        on_failure: what a sweep does when a run fails.
        prune: share of the settings that stop at a quarter and at half of the epochs; null for none.
        seeds: of a sweep: how many, which, or `auto`, as many as the question needs; null: the one of `seed`.
        budget: time for `seeds=auto`: `90s`, `10m`, `1.5h`; null: until no difference is contested.
        extensions: packages that bring parts and configs.
    """

    dataset: Dataset
    model: Model
    strategy: Strategy
    optimizer: Optimizer
    epochs: Annotated[int, Range(1, 1_000_000)] = 220
    batch_size: Annotated[int, Range(1, 1_000_000)] = 64
    seed: Annotated[int, Range(0, 2**64 - 1)] = 0
    precision: Literal["float32", "bfloat16"] = "float32"
    selection: Literal["validation_best", "last"] = "validation_best"
    early_stop: Annotated[int, Range(1, 1_000_000)] | None = None
    scaling: Literal["inverted", "test"] = "inverted"
    control: Literal["none", "mean", "shuffled"] = "none"
    diagnostics: bool = False
    evaluation: Evaluation = field(default_factory=Evaluation)
    study: str = "main"
    device: str = "auto"
    data_root: str | None = None
    output_root: str = "outputs"
    rerun: bool = False
    save_predictions: bool = False
    logger: Logger = field(default_factory=no_logger)
    stack: Annotated[int, Range(1, 4096)] | Literal["auto"] = "auto"
    workers: Annotated[int, Range(1, 1024)] | Literal["auto"] = "auto"
    launcher: Literal["local", "slurm"] = "local"
    slurm: Slurm = field(default_factory=Slurm)
    on_failure: Literal["continue", "stop"] = "continue"
    prune: Annotated[float, Range(0, 1)] | None = None
    seeds: Seeds = None
    budget: str | None = None
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks names that become paths or devices."""
        if not _STUDY.match(self.study):
            raise ValueError(
                f"study={self.study!r}: allowed: up to 80 letters, digits, '.', '_' and '-', a letter or digit first"
            )
        if not _DEVICE.match(self.device):
            raise ValueError(f"device={self.device}: allowed: auto, cpu, cuda, cuda:N")
        if self.budget is not None and not _BUDGET.match(self.budget):
            raise ValueError(f"budget={self.budget}: allowed: a time such as 90s, 10m, 1.5h; or null")

    @property
    def needs_record(self) -> bool:
        """Whether the twin that is trained can only be made after the run that it controls.

        Its rates are then those that followed from what was measured.
        """
        return self.control == "mean" and not all(policy.timed for policy in self.strategy.policies.values())

    @property
    def budget_seconds(self) -> float | None:
        """The budget in seconds."""
        found = _BUDGET.match(self.budget or "")
        return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]] if found else None

    @property
    def data_folder(self) -> Path:
        """Where data sets lie: `data_root`, else `$DROPBENCH_DATA`, else `data`."""
        return Path(self.data_root or os.environ.get("DROPBENCH_DATA") or "data").expanduser()


#: How it is trained, and how many others are.
CIRCUMSTANCES = frozenset(
    {
        "study", "device", "data_root", "output_root", "rerun", "save_predictions", "logger", "stack", "workers",
        "launcher", "slurm", "on_failure", "prune", "seeds", "budget", "extensions",
    }
)  # fmt: skip


#: The fields that decide a result.
_MEANT = tuple(item.name for item in fields(Config) if item.name not in CIRCUMSTANCES)


@dataclass(frozen=True)
class Run:
    """A config, the names of the choices that made it, and what the user typed.

    A choice that is a circumstance is none of those names: the run is the same with any.
    """

    config: Config
    choices: Mapping[str, str]
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Leaves circumstances out."""
        meant = {group: name for group, name in self.choices.items() if group not in CIRCUMSTANCES}
        object.__setattr__(self, "choices", meant)

    @cached_property
    def id(self) -> str:
        """Readable and content-addressed: `digits-mlp-gradual-r0.5-s0-3f9a1c2b`."""
        names = [re.sub(r"[^A-Za-z0-9._]+", ".", self.choices[group]) for group in ("dataset", "model", "strategy")]
        config = self.config
        return "-".join((*names, f"r{config.strategy.rate:g}", f"s{config.seed}", _digest(config)))

    @property
    def path(self) -> Path:
        """The folder it lies in."""
        return Path(self.config.output_root) / self.config.study / self.id

    @cached_property
    def group(self) -> str:
        """The hash of everything but the seed: runs that share it are repetitions of one another."""
        return _digest(self.config, seed=None, choices=dict(self.choices))


def check(data: Mapping[str, Any], seen: schema.Seen | None = None) -> Config:
    """Checks a composed config.

    Args:
        data: plain mappings, lists and scalars.
        seen: what was checked before, for a sweep: what runs have in common is checked once, and they share it.

    Raises:
        UserError: an unknown key, a wrong type, a value out of range; one line that names the key.
    """
    names = data.get("extensions") or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"extensions={names}: allowed: a list of package names")
    extensions = tuple(names)
    for name in extensions:
        folders(name)
    config = schema.build(Config, {**data, "strategy": _with_objective(data, extensions)}, "", extensions, seen)
    plain = find(Objective, config.dataset.objective, "dataset.kind", extensions)
    objective = config.strategy.objective
    if not objective.tasks & plain.tasks:
        raise UserError(
            f"strategy.objective={objective.kind()}: the data set is a {'/'.join(sorted(plain.tasks))} task; "
            f"allowed: auto, {plain.kind()}"
        )
    strategy = _canonical(schema.Same(config.strategy))
    if strategy.where != ("nowhere",) and config.scaling == "test" and not strategy.noise.rescales:
        raise UserError(
            f"scaling=test: {strategy.noise.kind()} noise is not divided by a keep probability; allowed: inverted"
        )
    model = config.model
    if model.widen:
        assert isinstance(strategy.rate, float)
        assert isinstance(strategy.map_rate, float)
        model = model.widened(1 - strategy.rate, 1 - min(strategy.rate, strategy.map_rate))
    if strategy is config.strategy and model is config.model:
        return config
    return replace(config, strategy=strategy, model=model)


def _with_objective(data: Mapping[str, Any], extensions: tuple[str, ...]) -> Any:
    """The strategy node with the objective `auto`, or one without a kind, replaced by the plain one of the data set."""
    strategy, dataset = data.get("strategy"), data.get("dataset")
    if not isinstance(strategy, Mapping) or not isinstance(dataset, Mapping):
        return strategy  # the schema says what is wrong
    kind = dataset.get("kind")
    objective = strategy.get("objective", "auto")
    settings = objective if isinstance(objective, Mapping) else {}
    if (objective != "auto" and not settings) or "kind" in settings or not isinstance(kind, str):
        return strategy
    return {**strategy, "objective": {**settings, "kind": find(Dataset, kind, "dataset.kind", extensions).objective}}


def meaning(config: Config) -> dict[str, Any]:
    """What decides the result of a run: the config without its circumstances, the files it names, the minor version."""
    return {name: schema.plain(getattr(config, name)) for name in _MEANT} | _around(config)


def _around(config: Config) -> dict[str, Any]:
    """What is no field of a config and decides the result: the minor version, and what is in the files it names."""
    data: dict[str, Any] = {"version": ".".join(__version__.split(".")[:2])}
    files = [Path(name).expanduser() for policy in config.strategy.policies.values() for name in policy.files]
    if files:  # one that is not there is refused before training
        data["files"] = {
            path.name: hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()[:16] for path in files
        }
    return data


def digest(data: Mapping[str, Any]) -> str:
    """Eight hex digits of the SHA-256 of canonical JSON."""
    return _hash(_JSON.encode(data))


def _digest(config: Config, **changes: Any) -> str:
    """`digest(meaning(config) | changes)`, put together from the texts of the parts, which many configs share."""
    texts = {name: _json(getattr(config, name)) for name in _MEANT}
    texts |= {name: _json(value) for name, value in (_around(config) | changes).items()}
    return _hash("{" + ",".join([f'"{name}":{texts[name]}' for name in sorted(texts)]) + "}")


def _json(value: Any) -> str:
    if value is None or isinstance(value, str | int):
        return _scalar(value)
    return _text(schema.Same(value)) if is_dataclass(value) else _JSON.encode(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@lru_cache(maxsize=4096, typed=True)
def _scalar(value: str | int | None) -> str:
    return _JSON.encode(value)


@lru_cache(maxsize=4096)
def _text(part: schema.Same) -> str:
    return _JSON.encode(schema.plain(part.it))


@lru_cache(maxsize=4096)
def _canonical(strategy: schema.Same) -> Strategy:
    canonical: Strategy = strategy.it.canonical()
    return canonical
