"""What the generated sequence tasks share: sizes, lengths, and the same sequences for every run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from dropbench.data import Data, Split
from dropbench.spec import Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dropbench.spec import Facts
    from dropbench.streams import Streams

Count = Annotated[int, Range(1, 10**6)]
Steps = Annotated[int, Range(10, 10**4)]
_LIMIT = 10**9


@dataclass(frozen=True)
class Sequences:
    """What tasks with one answer a sequence have in common: how many sequences there are, and how long they are.

    Args:
        length: steps of a sequence, the longest if they differ: the dial for the length of the dependency.
        shortest: steps of the shortest sequence; the others are uniform in `shortest` .. `length`, and zeros follow a
            sequence that is shorter than `length`. null: all have `length` steps.
        train_size: sequences that train.
        validation_size: sequences that select.
        test_size: sequences that test.
    """

    features: ClassVar[int]

    length: Steps = 50
    shortest: Steps | None = None
    train_size: Count = 10_000
    validation_size: Count = 1000
    test_size: Count = 2000

    def __post_init__(self) -> None:
        """Refuses sizes that no machine holds, and a shortest sequence that is not shorter."""
        refuse_absurd(sum(self.sizes), self.length, self.features)
        if self.shortest is not None and self.shortest >= self.length:
            raise ValueError(f"shortest={self.shortest}: allowed: less than length={self.length}, or null")

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Sequences that train, that select and that test."""
        return self.train_size, self.validation_size, self.test_size

    def steps(self, streams: Streams, part: str, count: int) -> Tensor:
        """The steps of each sequence, int64 [count]."""
        import torch

        if self.shortest is None:
            return torch.full((count,), self.length)
        choices = self.length - self.shortest + 1
        return self.shortest + streams.integers("data", 0, f"{part}.steps", choices, (count,))[0]

    def padded(self, inputs: Tensor, targets: Tensor, steps: Tensor) -> Split:
        """Sequences with zeros behind their ends: inputs [count, length, features], targets, and steps [count]."""
        import torch

        from dropbench.data.figures import STEPS

        if self.shortest is None:
            return Split(inputs, targets)
        inside = torch.arange(self.length) < steps.unsqueeze(1)
        return Split(inputs * inside.unsqueeze(2), targets, {STEPS: steps})


def refuse_absurd(sequences: int, steps: int, features: int) -> None:
    """Raises ValueError, before anything is allocated, for more numbers than a machine should hold."""
    numbers = sequences * steps * features
    if numbers > _LIMIT:
        raise ValueError(
            f"{sequences} sequences of {steps} steps of {features} values take {numbers * 4 / 1e9:.0f} GB;"
            f" allowed: at most {_LIMIT * 4 / 1e9:.0f} GB, so lower length or the sizes"
        )


def generate(facts: Facts, make: Callable[[Streams, str, int], Split], sizes: tuple[int, int, int]) -> Data:
    """Training, validation and test sequences of a constant key, whatever the seed of a run.

    Args:
        facts: of the task.
        make: (streams, name of the part, number of sequences) -> sequences; its draws must carry the name.
        sizes: of the three parts. A smaller part is the beginning of a larger one.
    """
    from dropbench.streams import Streams

    streams = Streams((0,))
    train, validation, test = (
        make(streams, name, size) for name, size in zip(("train", "validation", "test"), sizes, strict=True)
    )
    return Data(facts, train, validation, test)


def below(streams: Streams, site: str, high: Tensor) -> Tensor:
    """Whole numbers 0 .. high - 1, each with a bound of its own, int64 like `high`; else as `Streams.integers`."""
    words = streams.integers("data", 0, site, 2**32, tuple(high.shape))[0]
    return words * high >> 32


def one_hot(symbols: Tensor, alphabet: int) -> Tensor:
    """int64 [N, steps] -> float32 [N, steps, alphabet]."""
    import torch

    return torch.zeros(*symbols.shape, alphabet).scatter_(-1, symbols.unsqueeze(-1), 1)
