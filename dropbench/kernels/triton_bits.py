# mypy: disable-error-code="import-not-found,import-untyped,no-untyped-def,no-untyped-call,untyped-decorator"
"""The words of `streams.Streams`, made on a GPU: bit for bit those that NumPy's Philox4x64-10 makes on the host.

Only this file and `triton_lstm.py` import Triton, and nothing imports them before a GPU needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from torch import Tensor

#: Counters of a program: each gives four 64-bit words.
BLOCK = 256


def device_words(seeds: Tensor, purpose: int, step: int | Tensor, site: int, count: int) -> Tensor:
    """64-bit words of R runs, of key `(seed, purpose)` and counters `(1 + block, 0, step, site)`.

    Args:
        seeds: int64 [R], the bits of the unsigned seeds.
        purpose: hash of its name, in 0 <= purpose < 2**64.
        step: a number; or a tensor of one number, which is read when the kernel runs, for a step that is captured.
        site: hash of its name.
        count: words of a run.

    Returns:
        int64 [R, count], the bits of the unsigned words.

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    return _drawn(seeds, purpose, step, site, count, torch.int64)


def device_bits(seeds: Tensor, purpose: int, step: int | Tensor, site: int, count: int) -> Tensor:
    """Uniform 16-bit words as int16 [R, count]: see `Streams.bits` and, for the arguments, `device_words`."""
    return device_words(seeds, purpose, step, site, -(-count // 4)).view(torch.int16)[:, :count]


def device_uniform(seeds: Tensor, purpose: int, step: int | Tensor, site: int, count: int) -> Tensor:
    """Uniform float32 [R, count] in (0, 1): see `Streams.uniform` and, for the arguments, `device_words`."""
    return _drawn(seeds, purpose, step, site, -(-count // 2), torch.float32)[:, :count]


def device_permutation(seeds: Tensor, purpose: int, step: int, site: int, length: int) -> Tensor:
    """A random order of 0 .. length - 1 for every run, int64 [R, length]: see `Streams.permutation`."""
    unsigned = device_words(seeds, purpose, step, site, length) ^ torch.iinfo(torch.int64).min  # in their order
    return unsigned.argsort(dim=1, stable=True)


def signed(word: int) -> int:
    """The int64 whose bits are those of an unsigned `word`."""
    return word - ((word >> 63) << 64)


def _drawn(seeds: Tensor, purpose: int, step: int | Tensor, site: int, count: int, dtype: torch.dtype) -> Tensor:
    each = 1 if dtype == torch.int64 else 2  # numbers that a word gives
    out = torch.empty(len(seeds), count * each, dtype=dtype, device=seeds.device)
    programs = (triton.cdiv(count, 4 * BLOCK), len(seeds))
    if count and len(seeds):
        _philox[programs](
            out, seeds, signed(purpose), step, signed(site), count,
            READ=not isinstance(step, int), UNIFORM=dtype == torch.float32, BLOCK=BLOCK, enable_fp_fusion=True,
        )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["purpose", "step", "site", "count"])
def _philox(
    out, seeds, purpose: tl.int64, step, site: tl.int64, count: tl.int64,
    READ: tl.constexpr, UNIFORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    run = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * BLOCK
    key0 = tl.load(seeds + run).to(tl.uint64, bitcast=True)
    key1 = purpose.to(tl.uint64, bitcast=True)
    moment = tl.load(step) if READ else step
    zero = tl.zeros((BLOCK,), tl.uint64)
    c0 = (first + tl.arange(0, BLOCK) + 1).to(tl.uint64, bitcast=True)
    c1 = zero
    c2 = zero + moment.to(tl.int64).to(tl.uint64, bitcast=True)
    c3 = zero + site.to(tl.uint64, bitcast=True)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, zero + 0xD2E7470EE14C6C93), c0 * 0xD2E7470EE14C6C93
        high2, low2 = tl.umulhi(c2, zero + 0xCA5A826395121157), c2 * 0xCA5A826395121157
        c0, c1, c2, c3 = high2 ^ c1 ^ key0, low2, high0 ^ c3 ^ key1, low0
        key0 += 0x9E3779B97F4A7C15
        key1 += 0xBB67AE8584CAA73B
    words = tl.interleave(tl.interleave(c0, c2), tl.interleave(c1, c3))
    place = 4 * first + tl.arange(0, 4 * BLOCK)
    if UNIFORM:
        # The halves of a word, low first; 23 bits of each, and its centre: exact in float32, so equal on every device.
        cells = tl.interleave((words & 0xFFFFFFFF) >> 9, words >> 41).to(tl.int32).to(tl.float32)
        place = 8 * first + tl.arange(0, 8 * BLOCK)
        tl.store(out + run * 2 * count + place, cells * 2**-23 + 2**-24, mask=place < 2 * count)
    else:
        tl.store(out + run * count + place, words.to(tl.int64, bitcast=True), mask=place < count)
