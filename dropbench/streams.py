"""All randomness of dropbench, and the only place where random numbers are made.

Every draw is a function of its key (run seed, purpose, step, site, element) and of nothing else: not of the stack, the
device, the order of calls or what was drawn before. So a run draws the same alone, in any stack and after a resume, and
there is no generator state to save.

The generator is Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a bijection of a
256-bit counter under a 128-bit key. A draw uses

    key     = (run seed, purpose)
    counter = (block + 1, 0, step, site)        block = 0, 1, ...; each block gives four 64-bit words

where `site` and `purpose` are 64-bit hashes of their names. Words are made on the host, by a kernel in C or by NumPy's
Philox, which agree bit for bit, and copied to the device, so that CPU and CUDA see the same numbers.

Resolution. A mask element is 16 bits: a value is dropped when its 16-bit word lies below `rate * 2**16` (rounded), so
the probability differs from the asked rate by at most 2**-17 = 7.6e-6. Uniforms have 23 bits, normals are made of two
uniforms (Box and Muller, 1958), permutations sort 64-bit words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dropbench.kernels import bits, cuda

Purpose = Literal["init", "order", "noise", "augment", "eval", "split", "data"]


@cache
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class Streams:
    """The random numbers of R runs.

    Args:
        seeds: one seed a run, in 0 <= seed < 2**64.
        device: where the drawn tensors go.
    """

    def __init__(self, seeds: tuple[int, ...], device: torch.device | str = "cpu") -> None:
        self.seeds = seeds
        self.device = torch.device(device)
        self._seeds = np.array(seeds, dtype=np.uint64)
        self._keys = torch.from_numpy(self._seeds.view(np.int64)).to(self.device)
        self._generators: dict[tuple[int, str], tuple[np.random.Philox, int]] = {}

    @property
    def runs(self) -> int:
        """R, the number of runs."""
        return len(self.seeds)

    def bits(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform 16-bit words as int16 [R, *shape]: a word w stands for (w + 2**15) / 2**16 in [0, 1)."""
        count = _count(shape)
        if self.made_there:
            return self._there("bits", purpose, step, site, count).view(self.runs, *shape)
        return self._tensor(self._words(purpose, step, site, -(-count // 4)).view(np.int16)[:, :count], shape)

    def uniform(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """Uniform float32 [R, *shape] in (0, 1), at the centres of 2**23 equal cells."""
        count = _count(shape)
        if self.made_there:
            return self._there("uniform", purpose, step, site, count).view(self.runs, *shape)
        words = self._words(purpose, step, site, -(-count // 2)).view(np.uint32)[:, :count]
        return self._tensor(_unit(words), shape)

    def normal(self, purpose: Purpose, step: int, site: str, shape: tuple[int, ...]) -> Tensor:
        """Standard normal float32 [R, *shape]: `sqrt(-2 ln u) cos(2 pi v)`, and the sine beside it."""
        count = _count(shape)
        uniform = _unit(self._words(purpose, step, site, -(-count // 2)).view(np.uint32))
        radius = np.sqrt(np.float32(-2) * np.log(uniform[:, ::2]))
        angle = uniform[:, 1::2] * np.float32(2 * np.pi)
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
        return self._tensor(pairs.reshape(self.runs, -1)[:, :count], shape)

    def permutation(self, purpose: Purpose, step: int, site: str, length: int) -> Tensor:
        """A random order of 0 .. length - 1 for every run, int64 [R, length]: the ranks of 64-bit words."""
        if self.made_there:
            return self._there("permutation", purpose, step, site, length)
        return self._tensor(np.argsort(self._words(purpose, step, site, length), axis=1, kind="stable"), (length,))

    def integers(self, purpose: Purpose, step: int, site: str, high: int, shape: tuple[int, ...]) -> Tensor:
        """Whole numbers 0 .. high - 1, int64 [R, *shape], uniform to within high / 2**32."""
        words = self._words(purpose, step, site, _count(shape))
        return self._tensor(((words >> np.uint64(32)) * np.uint64(high) >> np.uint64(32)).astype(np.int64), shape)

    @cached_property
    def _compiled(self) -> bool:
        return bits.is_native()

    @cached_property
    def made_there(self) -> bool:
        """Whether the device makes the words itself, by `kernels/triton_bits.py`: the very same."""
        if self.device.type != "cuda":
            return False
        count = 2**16

        def host() -> Tensor:
            return self._tensor(self._words("noise", 0, "", count // 4).view(np.int16), (count,))

        def there() -> Tensor:
            return self._there("bits", "noise", 0, "", count)

        return cuda.chosen("words", "triton", lambda: torch.equal(host(), there()), host, there)

    def _there(self, kind: str, purpose: str, step: int, site: str, count: int) -> Tensor:
        from dropbench.kernels import triton_bits

        draw: Callable[..., Tensor] = getattr(triton_bits, f"device_{kind}")
        return draw(self._keys, _hash(purpose), step, _hash(site), count)

    def _words(self, purpose: str, step: int, site: str, count: int) -> NDArray[np.uint64]:
        """Raw words [R, count], rounded up to whole blocks so that a longer draw begins as a shorter one does."""
        if self._compiled:
            return bits.words(self._seeds, _hash(purpose), step, _hash(site), count)
        return self.numpy_words(purpose, step, site, count)

    def numpy_words(self, purpose: str, step: int, site: str, count: int) -> NDArray[np.uint64]:
        """Words of NumPy's generator, [R, count]: where there is no kernel in C."""
        words = np.empty((self.runs, count), dtype=np.uint64)
        for run, seed in enumerate(self.seeds):
            words[run] = self._run_words(seed, purpose, (step << 128) + (_hash(site) << 192), count)
        return words

    def _run_words(self, seed: int, purpose: str, counter: int, count: int) -> NDArray[np.uint64]:
        # To move an existing generator is three times cheaper than to build one.
        generator, at = self._generators.get((seed, purpose), (None, 0))
        if generator is None:
            generator = np.random.Philox(key=seed + (_hash(purpose) << 64), counter=0)
        generator.advance((counter - at) % 2**256)
        words: NDArray[np.uint64] = generator.random_raw(count)
        self._generators[seed, purpose] = generator, (counter + -(-count // 4)) % 2**256
        return words

    def _tensor(self, values: NDArray[np.generic], shape: tuple[int, ...]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(values)).view(self.runs, *shape)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor


def _unit(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    """The centre of one of 2**23 equal cells of (0, 1): a float32 cannot hold the centres of more."""
    return (words >> np.uint32(9)).astype(np.float32) * np.float32(2**-23) + np.float32(2**-24)


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
