"""Which of two symbols came first, far back in a sequence (Hochreiter and Schmidhuber, 1997)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.data import Data, Dataset, Split
from dropbench.data.generated import Count, Steps, generate, one_hot, refuse_absurd
from dropbench.spec import Facts

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.streams import Streams

_FEATURES = 8


@dataclass(frozen=True)
class TemporalOrder(Dataset):
    """Temporal order: two relevant symbols among distractors; the class is their order, asked at the end.

    A sequence of L = `length` one-hot symbols of the alphabet a, b, c, d, X, Y, E, B (in this order):

        symbol 0       E, the start
        symbol t1      X or Y, t1 uniform among L/10, ..., L/5      (whole numbers, rounded down)
        symbol t2      X or Y, t2 uniform among L/2, ..., 6L/10
        symbol L - 1   B, the trigger
        all others     a, b, c or d, uniform

    Class: XX 0, XY 1, YX 2, YY 3, each with probability 1/4; one answer a sequence, so an error of 75 % is chance. The
    first symbol must be held for at least 8/10 of the sequence. The paper's lengths vary between 100 and 110, with t1
    in [10, 20] and t2 in [50, 60]; here all sequences are of one length, and the windows grow with it.

    Args:
        length: steps of a sequence: the dial for the length of the dependency.
        train_size: sequences that train.
        validation_size: sequences that select.
        test_size: sequences that test.

    Source: Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997), experiment 6a.
    """

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
        facts = Facts("sequence", (self.length, _FEATURES), "classification", 4)
        return generate(facts, self._make, (self.train_size, self.validation_size, self.test_size))

    def _make(self, streams: Streams, part: str, count: int) -> Split:
        length = self.length
        symbols = streams.integers("data", 0, f"{part}.distractor", 4, (count, length))[0]
        which = streams.integers("data", 0, f"{part}.symbol", 2, (count, 2))[0]
        symbols[:, 0] = 6
        symbols[:, -1] = 7
        for place, (low, high) in enumerate(((length // 10, length // 5), (length // 2, 6 * length // 10))):
            at = low + streams.integers("data", 0, f"{part}.place{place}", high - low + 1, (count, 1))[0]
            symbols.scatter_(1, at, 4 + which[:, place : place + 1])
        return Split(one_hot(symbols, _FEATURES), 2 * which[:, 0] + which[:, 1])
