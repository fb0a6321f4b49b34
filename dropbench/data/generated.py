"""What the generated sequence tasks share: sizes, and the same sequences for every run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from dropbench.data import Data
from dropbench.spec import Range

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from dropbench.data import Split
    from dropbench.spec import Facts
    from dropbench.streams import Streams

Count = Annotated[int, Range(1, 10**6)]
Steps = Annotated[int, Range(10, 10**4)]
_LIMIT = 10**9


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


def one_hot(symbols: Tensor, alphabet: int) -> Tensor:
    """int64 [N, steps] -> float32 [N, steps, alphabet]."""
    import torch

    return torch.zeros(*symbols.shape, alphabet).scatter_(-1, symbols.unsqueeze(-1), 1)
