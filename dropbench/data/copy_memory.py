"""Symbols to be repeated after a long wait (Hochreiter and Schmidhuber, 1997; Arjovsky et al., 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.data import Data, Dataset, Split
from dropbench.data.generated import Count, Steps, generate, one_hot, refuse_absurd
from dropbench.spec import Facts, Range

if TYPE_CHECKING:
    from pathlib import Path

    from dropbench.streams import Streams


@dataclass(frozen=True)
class CopyMemory(Dataset):
    """Copy memory: K symbols, a wait of T steps, then the same symbols again; one answer a step.

    With T = `length`, K = `symbols`, A = `alphabet`, a sequence of T + 2K one-hot symbols (0 .. A - 1 to be copied, A
    blank, A + 1 the signal) and its targets (classes 0 .. A):

        steps      0 .. K-1    K .. K+T-2    K+T-1     K+T .. T+2K-1
        input      symbols     blank         signal    blank
        target     blank       blank         blank     the symbols, in order

    The symbols are uniform and independent. A target stands at every step, blanks included, as in the source: a net
    must also learn to keep silent, and the figures compare with those in print. To answer blank, and then to guess, has
    a loss of `K ln(A) / (T + 2K)`; to answer always blank, an error of `K / (T + 2K)`.

    Args:
        length: T, steps between the last symbol and the first answer: the dial for the length of the dependency (every
            symbol is asked T + K steps after it was shown).
        symbols: K, how many are to be copied.
        alphabet: A, how many there are.
        train_size: sequences that train.
        validation_size: sequences that select.
        test_size: sequences that test.

    Source: Arjovsky, Shah, Bengio, "Unitary evolution recurrent neural networks", ICML 2016, section 4.1
    (K = 10, A = 8), after Hochreiter, Schmidhuber, "Long short-term memory", Neural Computation 9 (1997).
    """

    length: Steps = 50
    symbols: Annotated[int, Range(1, 1000)] = 10
    alphabet: Annotated[int, Range(2, 1000)] = 8
    train_size: Count = 10_000
    validation_size: Count = 1000
    test_size: Count = 2000

    def __post_init__(self) -> None:
        """Refuses sizes that no machine holds."""
        refuse_absurd(self.train_size + self.validation_size + self.test_size, self._steps, self.alphabet + 2)

    @property
    def _steps(self) -> int:
        return self.length + 2 * self.symbols

    def load(self, data_root: Path) -> Data:
        """Makes the sequences; `data_root` is not used."""
        del data_root
        shape = (self._steps, self.alphabet + 2)
        facts = Facts("sequence", shape, "classification", self.alphabet + 1, per_step=True, symbols=True)
        return generate(facts, self._make, (self.train_size, self.validation_size, self.test_size))

    def _make(self, streams: Streams, part: str, count: int) -> Split:
        import torch

        symbols = streams.integers("data", 0, f"{part}.symbol", self.alphabet, (count, self.symbols))[0]
        inputs = torch.full((count, self._steps), self.alphabet)
        targets = inputs.clone()
        inputs[:, : self.symbols] = symbols
        inputs[:, self.symbols + self.length - 1] = self.alphabet + 1
        targets[:, -self.symbols :] = symbols
        return Split(one_hot(inputs, self.alphabet + 2), targets)
