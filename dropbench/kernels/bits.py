"""Random words and masks in C (`bits.c`): bit for bit those of NumPy and torch, in a third of the time."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dropbench.kernels import native

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

NAME = "bits"
#: 64-bit words of a block of Philox4x64.
BLOCK = 4


def is_native() -> bool:
    """Whether words on the CPU are made in C: measured once a machine, against a draw of as many."""
    return native.chosen(NAME, _trial)


def words(seeds: NDArray[np.uint64], purpose: int, step: int, site: int, count: int) -> NDArray[np.uint64]:
    """Words of Philox4x64-10 under the keys (seed, purpose) and the counters (block + 1, 0, step, site).

    Args:
        seeds: [R], contiguous.
        purpose: a 64-bit number, as are step and site.
        step: see there.
        site: see there.
        count: words of each run.

    Returns:
        [R, count].

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    blocks = -(-count // BLOCK)
    found = np.empty((len(seeds), blocks * BLOCK), dtype=np.uint64)
    _library().words(len(seeds), blocks, seeds.ctypes.data, purpose, step, site, found.ctypes.data)
    return found[:, :count]


def kept(bits: Tensor, threshold: Tensor, scale: Tensor) -> Tensor:
    """A mask: `scale` where a word is not below the threshold, else 0.

    Args:
        bits: int16 [R, ...].
        threshold: int16, broadcastable to it.
        scale: float32, shaped as the threshold.

    Returns:
        float32 [R, ...].
    """
    runs, device = len(bits), bits.device
    if device.type == "cpu" and threshold.numel() == runs and bits.is_contiguous() and native.library(NAME) is not None:
        mask = torch.empty(bits.shape)
        _library().keep(
            runs, bits.numel() // runs, bits.data_ptr(), threshold.data_ptr(), scale.data_ptr(), mask.data_ptr()
        )
        return mask
    mask = torch.empty(0, device=device)  # grows by itself; torch.broadcast_shapes would load sympy: 1 s
    torch.ge(bits, threshold, out=mask)  # straight to floats: five times faster than by way of booleans
    return mask.mul_(scale)


def _trial(compiled: bool) -> None:
    from dropbench.streams import Streams

    if compiled:
        words(np.arange(2, dtype=np.uint64), 0, 0, 0, 2**14)
    else:
        Streams((0, 1)).numpy_words("noise", 0, "", 2**14)


@cache
def _library() -> Any:
    library: Any = native.library(NAME)
    integer, word, pointer = ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    library.words.argtypes = (integer, integer, pointer, word, word, word, pointer)
    library.keep.argtypes = (integer, integer, pointer, pointer, pointer, pointer)
    library.words.restype = library.keep.restype = None
    return library
