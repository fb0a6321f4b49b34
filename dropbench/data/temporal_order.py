"""Which of two symbols came first, far back in a sequence (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.data import Data, Dataset, Split
from dropbench.data.generated import Sequences, below, generate, one_hot
from dropbench.spec import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.streams import Streams


@dataclass(frozen=True)
class TemporalOrder(Sequences, Dataset):
    """Temporal order: two relevant symbols among distractors; the class is their order, asked at the end.

    A sequence of L one-hot symbols of the alphabet a, b, c, d, X, Y, E, B (in this order):

        symbol 0       E, the start
        symbol t1      X or Y, t1 uniform among L/10, ..., L/5      (whole numbers, rounded down)
        symbol t2      X or Y, t2 uniform among L/2, ..., 6L/10
        symbol L - 1   B, the trigger
        all others     a, b, c or d, uniform

    Class: XX 0, XY 1, YX 2, YY 3, each with probability 1/4; one answer a sequence, so an error of 75 % is chance. The
    first symbol must be held for at least 8/10 of the sequence. L is `length`, or differs between sequences
    (`shortest`), and the windows grow with it. The paper's lengths vary between 100 and 110, with t1 in [10, 20] and t2
    in [50, 60].

    Args: see `Sequences`.

    Source: Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), experiment 6a.
    """

    features = 8

    def load(self, data_root: Path) -> Data:
        """Makes the sequences; `data_root` is not used."""
        del data_root
        shape = (self.length, self.features)
        facts = Facts("sequence", shape, "classification", 4, symbols=True, shortest=self.shortest)
        return generate(facts, self._make, self.sizes)

    def _make(self, streams: Streams, part: str, count: int) -> Split:
        steps = self.steps(streams, part, count)
        symbols = streams.integers("data", 0, f"{part}.distractor", 4, (count, self.length))[0]
        which = streams.integers("data", 0, f"{part}.symbol", 2, (count, 2))[0]
        symbols[:, 0] = 6
        symbols.scatter_(1, steps.unsqueeze(1) - 1, 7)
        for place, (low, high) in enumerate(((steps // 10, steps // 5), (steps // 2, 6 * steps // 10))):
            at = low + below(streams, f"{part}.place{place}", high - low + 1)
            symbols.scatter_(1, at.unsqueeze(1), 4 + which[:, place : place + 1])
        return self.padded(one_hot(symbols, self.features), 2 * which[:, 0] + which[:, 1], steps)
