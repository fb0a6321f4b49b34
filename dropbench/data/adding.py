"""The sum of two marked numbers in a sequence (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.data import Data, Dataset, Split
from dropbench.data.generated import Count, Steps, generate, refuse_absurd
from dropbench.spec import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.streams import Streams

_FEATURES = 2


@dataclass(frozen=True)
class Adding(Dataset):
    """The adding problem: the sum of the two numbers that are marked; regression, one answer a sequence.

    A sequence of L = `length` pairs (value, mark): values are uniform in (0, 1); the mark is 1 at two steps, one
    uniform in the first half (the first L/2 steps, rounded down), one uniform in the rest, and 0 at all others.

    Target: `value[t1] + value[t2]`. To answer 1 always gives a mean squared error of 1/6 = 0.167.

    These are the values, marks and target of Le, Jaitly, Hinton (2015) and Arjovsky, Shah, Bengio (2016). The paper of
    1997 has values in [-1, 1], marks in {-1, 0, 1}, both marked steps in the first half, lengths that vary by a tenth,
    and the target 1/2 + (x1 + x2) / 4.

    Args:
        length: steps of a sequence: the dial for the length of the dependency.
        train_size: sequences that train.
        validation_size: sequences that select.
        test_size: sequences that test.

    Source: Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), experiment 4.
    """

    objective = "mean_squared_error"

    length: Steps = 50
    train_size: Count = 10_000
    validation_size: Count = 1000
    test_size: Count = 2000

    def __post_init__(self) -> None:
        """Refuses sizes that no machine holds."""
        refuse_absurd(self.train_size + self.validation_size + self.test_size, self.length, _FEATURES)

    def load(self, data_root: Path) -> Data:
        """Makes the sequences; `data_root` is not used."""
        del data_root
        facts = Facts("sequence", (self.length, _FEATURES), "regression", 1)
        return generate(facts, self._make, (self.train_size, self.validation_size, self.test_size))

    def _make(self, streams: Streams, part: str, count: int) -> Split:
        import torch

        half = self.length // 2
        values = streams.uniform("data", 0, f"{part}.value", (count, self.length))[0]
        first = streams.integers("data", 0, f"{part}.first", half, (count, 1))[0]
        second = half + streams.integers("data", 0, f"{part}.second", self.length - half, (count, 1))[0]
        marked = torch.cat([first, second], 1)
        marks = torch.zeros_like(values).scatter_(1, marked, 1)
        return Split(torch.stack([values, marks], -1), values.gather(1, marked).sum(1, keepdim=True))
