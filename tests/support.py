"""What the tests of the core share: configs by the names of their choices, tiny runs, a scene, a sink in memory."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropbench.compose import Composed, Composer
from dropbench.config import Config, Run, check
from dropbench.spec import Clock, Scene
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.data import Data
    from dropbench.runs.checkpoint import Checkpoint

CONF = Path(__file__).parents[1] / "conf"

#: Digits small enough for a run of a blink: 48 examples train.
TINY = ("dataset.train_size=48", "dataset.validation_size=20", "batch_size=16", "epochs=2")
#: Each kind of net, as small as it gets.
MODELS = {
    "mlp": ("model=mlp", "model.widths=[7,6]"),
    "cnn": ("model=cnn", "model.maps=[3,4]", "model.dense=[5]"),
    "lstm": ("model=lstm", "model.hidden=5"),
}
#: The same kinds with what some strategies need. `NAME_OF_THE_KIND/WHAT`.
VARIANTS = {
    "mlp/selu": ("model=mlp", "model.widths=[7,6]", "model.activation=selu"),
    "cnn/residual": ("model=cnn_residual", "model.maps=[3,4]", "model.residual=1"),
    "lstm/layers": ("model=lstm", "model.hidden=5", "model.layers=2"),
    "lstm/symbols": ("dataset=temporal_order", "dataset.length=10", "dataset.test_size=30", *MODELS["lstm"]),
}


def choices(group: str) -> list[str]:
    """The names of all YAMLs of a group, found recursively: `gradual/late`."""
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


@cache
def composed(*overrides: str) -> Composed:
    return Composer().compose(overrides)


@cache
def config(*overrides: str) -> Config:
    return check(composed(*overrides).data)


def run_of(*overrides: str) -> Run:
    return Run(config(*overrides), composed(*overrides).choices)


def tiny(strategy: str, model: str, changes: Mapping[str, Any] | None = None) -> Config:
    """A run that takes a blink; `changes`: values by the keys of the command line."""
    net = composed(*{**MODELS, **VARIANTS}[model], *TINY).data
    data = {**net, "strategy": composed(f"strategy={strategy}").data["strategy"]}
    for key, value in (changes or {}).items():
        data = set_at(data, key.split("."), value)
    return check(data)


@cache
def data_of(part: Any) -> Data:
    loaded: Data = part.load(Path("nowhere"))
    return loaded


def scene_at(
    clock: Clock | None = None, facts: Mapping[str, Tensor] | None = None, seeds: tuple[int, ...] = (0,)
) -> Scene:
    """A scene without nets: what most policies and noises look at."""
    return Scene(clock or Clock(3, 10, 0, 1), {}, {}, 48, "classification", Streams(seeds), facts or {})


class MemorySink:
    """Keeps what a stack reports; asks it to stop after `stop_after` steps."""

    def __init__(self, runs: int, stop_after: int | None = None) -> None:
        self.records: list[list[dict[str, Any]]] = [[] for _ in range(runs)]
        self.checkpoints: list[Checkpoint | None] = [None] * runs
        self.predicted: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(runs)]
        self.results: list[dict[str, Any] | None] = [None] * runs
        self.steps = 0
        self.stop_after = stop_after

    def progress(self, step: int, steps: int) -> None:
        self.steps = step

    def metrics(self, run: int, record: dict[str, Any]) -> None:
        self.records[run].append({key: value for key, value in record.items() if key != "seconds"})

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        tensors = {name: tensor.detach().clone() for name, tensor in checkpoint.tensors.items()}
        self.checkpoints[run] = type(checkpoint)(tensors, checkpoint.facts)

    def predictions(self, run: int, parts: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        assert self.results[run] is None
        self.predicted[run] = dict(parts)

    def finish(self, run: int, result: dict[str, Any]) -> None:
        circumstances = ("seconds", "peak_memory_bytes")
        self.results[run] = {key: value for key, value in result.items() if key not in circumstances}

    def interrupted(self) -> bool:
        return self.stop_after is not None and self.steps >= self.stop_after


def message(error: Any) -> str:
    """The text of an error a user reads, which is one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


def set_at(data: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested mappings with one value replaced."""
    head, *rest = path
    return {**data, head: set_at(data[head], rest, value) if rest else value}
