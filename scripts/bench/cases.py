"""What the benches train: dropbench's own objects, for data of any shape that are drawn and need no download."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dropbench.compose import Composer
from dropbench.config import Config, Run, check
from dropbench.data import Data, Dataset, Split
from dropbench.spec import Facts

if TYPE_CHECKING:
    import torch

CLASSES = 10


@dataclass(frozen=True)
class Drawn(Dataset):
    """Examples around a random centre of their class, values near [0, 1]: as hard to compute on as real ones.

    Args:
        shape: of an example: [features], [channels, rows, columns], or [steps, features].
        train_size: examples that train.
        validation_size: that select.
        test_size: that test.
    """

    shape: tuple[int, ...]
    train_size: int = 4096
    validation_size: int = 512
    test_size: int = 512

    def load(self, data_root: Path) -> Data:
        """Draws them; the same every time."""
        import torch

        chance = torch.Generator().manual_seed(0)
        centres = torch.rand(CLASSES, *self.shape, generator=chance)

        def split(count: int) -> Split:
            labels = torch.randint(CLASSES, (count,), generator=chance)
            return Split(centres[labels] + 0.7 * torch.randn(count, *self.shape, generator=chance), labels)

        return Data(self.facts, split(self.train_size), split(self.validation_size), split(self.test_size))

    @property
    def facts(self) -> Facts:
        """What a model must know of them."""
        forms: dict[int, Literal["vector", "sequence", "image"]] = {1: "vector", 2: "sequence", 3: "image"}
        return Facts(forms[len(self.shape)], self.shape, "classification", CLASSES)


@cache
def _composer() -> Composer:
    return Composer()


@cache
def run(*overrides: str, data: Drawn | None = None) -> Run:
    """The run of a command line, on drawn data where they are given."""
    composed = _composer().compose(overrides)
    config = check(composed.data)
    return Run(config if data is None else replace(config, dataset=data), composed.choices, overrides)


def config(*overrides: str, data: Drawn | None = None) -> Config:
    """The config of a command line, on drawn data where they are given."""
    return run(*overrides, data=data).config


@cache
def data_of(dataset: Dataset, folder: Path = Path("data")) -> Data:
    """The data of a config, loaded once."""
    return dataset.load(folder)


@dataclass(frozen=True)
class Case:
    """A net with its data, as several benches train it.

    Args:
        text: what it is, for people.
        words: of a command line.
        data: that are drawn for it.
    """

    text: str
    words: tuple[str, ...]
    data: Drawn

    def run(self, *overrides: str) -> Run:
        """A run of it, with more words of a command line."""
        return run(*self.words, *overrides, data=self.data)

    def config(self, *overrides: str) -> Config:
        """The config of such a run."""
        return self.run(*overrides).config


CASES = {
    "small MLP": Case(
        "64-256-256-10, B=64", ("model=mlp", "model.widths=[256,256]", "batch_size=64"), Drawn((1, 8, 8))
    ),
    "MLP 784-512-512": Case(
        "784-512-512-10, B=128", ("model=mlp", "model.widths=[512,512]", "batch_size=128"), Drawn((1, 28, 28))
    ),
    "MLP 784-1024x3": Case(
        "784-1024-1024-1024-10, B=128",
        ("model=mlp", "model.widths=[1024,1024,1024]", "batch_size=128"),
        Drawn((1, 28, 28)),
    ),
    "CNN 8x8": Case("CNN 32-64-256, 8x8, B=64", ("model=cnn", "batch_size=64"), Drawn((1, 8, 8))),
    "CNN 28x28": Case("CNN 32-64-256, 28x28, B=64", ("model=cnn", "batch_size=64"), Drawn((1, 28, 28))),
    "LSTM 8 rows": Case(
        "LSTM T,B,I,H = 8,64,8,64", ("model=lstm", "model.hidden=64", "batch_size=64"), Drawn((1, 8, 8))
    ),
    "LSTM 28 rows": Case("LSTM T,B,I,H = 28,64,28,128", ("model=lstm", "batch_size=64"), Drawn((1, 28, 28))),
}


def chosen_size(case: Case, count: int, device: torch.device) -> int:
    """The stack size that a sweep of so many runs of one shape (seeds 0, 1, ...) chooses, with one worker."""
    from dropbench.sweep.local import Local
    from dropbench.sweep.plan import cut
    from dropbench.sweep.report import Report
    from dropbench.sweep.sizing import look

    runs = [case.run("strategy=standard", f"device={device.type}", f"seed={seed}") for seed in range(count)]
    found = look(Local([], {}, lambda: False, Report()), runs, count, 1)
    return max(len(stack) for stack in cut(runs, found, {}, 1, 1))


class Nowhere:
    """A `Sink` for steps that nobody keeps."""

    def progress(self, step: int, steps: int) -> None: ...

    def metrics(self, run: int, record: dict[str, Any]) -> None: ...

    def checkpoint(self, run: int, checkpoint: object) -> None: ...

    def predictions(self, run: int, parts: object) -> None: ...

    def finish(self, run: int, result: dict[str, Any]) -> None: ...

    def interrupted(self) -> bool:
        return False


class Steps:
    """Training steps of a stack through the runner, one a call, without evaluation; for ever.

    Args:
        configs: of the runs.
        device: where.
    """

    def __init__(self, configs: Sequence[Config], device: torch.device) -> None:
        from dropbench.runner import Trainer

        self._trainer = Trainer(configs, data_of(configs[0].dataset), device, Nowhere())
        self._epoch = -1
        self._order: torch.Tensor

    def __call__(self) -> None:
        trainer, state = self._trainer, self._trainer.state
        epoch, position = divmod(state.step, trainer.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, state.losses = epoch, []
            self._order = trainer.nets.streams.permutation("order", epoch, "train", len(trainer.data.train))
        size = trainer.batch_size
        trainer._update(self._order[:, position * size : (position + 1) * size], epoch, position)
        state.step += 1

    @property
    def loss(self) -> float:
        """The mean loss of the runs in the steps of this epoch."""
        import torch

        return torch.stack(self._trainer.state.losses).mean().item()


def several(side: Callable[[], object], times: int) -> Callable[[], None]:
    """`times` calls as one."""

    def call() -> None:
        for _ in range(times):
            side()

    return call
