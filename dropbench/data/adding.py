"""The sum of two marked numbers in a sequence (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.data import Data, Dataset, Split
from dropbench.data.generated import Sequences, below, generate
from dropbench.spec import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.streams import Streams


@dataclass(frozen=True)
class Adding(Sequences, Dataset):
    """The adding problem: the sum of the two numbers that are marked; regression, one answer a sequence.

    A sequence of L pairs (value, mark): values are uniform in (0, 1); the mark is 1 at two steps, one uniform in the
    first half (the first L/2 steps, rounded down), one uniform in the rest, and 0 at all others.

    Target: `value[t1] + value[t2]`. To answer 1 always gives a mean squared error of 1/6 = 0.167.

    L is `length`, or differs between sequences (`shortest`). These are the values, marks and target of Le, Jaitly,
    Hinton (2015) and Arjovsky, Shah, Bengio (2016). The paper of 1997 has values in [-1, 1], marks in {-1, 0, 1}, both
    marked steps in the first half, lengths that vary by a tenth, and the target 1/2 + (x1 + x2) / 4.

    Args: see `Sequences`.

    Source: Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), experiment 4.
    """

    objective = "mean_squared_error"
    features = 2

    def load(self, data_root: Path) -> Data:
        """Makes the sequences; `data_root` is not used."""
        del data_root
        facts = Facts("sequence", (self.length, self.features), "regression", 1, shortest=self.shortest)
        return generate(facts, self._make, self.sizes)

    def _make(self, streams: Streams, part: str, count: int) -> Split:
        import torch

        steps = self.steps(streams, part, count)
        half = steps // 2
        values = streams.uniform("data", 0, f"{part}.value", (count, self.length))[0]
        first = below(streams, f"{part}.first", half)
        second = half + below(streams, f"{part}.second", steps - half)
        marked = torch.stack([first, second], 1)
        marks = torch.zeros_like(values).scatter_(1, marked, 1)
        return self.padded(torch.stack([values, marks], -1), values.gather(1, marked).sum(1, keepdim=True), steps)
