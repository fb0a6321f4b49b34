"""The kernels in Triton: on a GPU where there is one, else in its interpreter; and compiled for GPUs of two kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
if not GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton comes with torch for CUDA")

from dropbench.kernels import triton_bits, triton_lstm  # noqa: E402
from dropbench.kernels.lstm import _Steps  # noqa: E402
from dropbench.streams import Streams, _hash  # noqa: E402

SEEDS = (0, 1, 2**63, 2**64 - 1, 12345678901234567890)
RUNS, STEPS, BATCH, HIDDEN = 2, 4, 3, 5


def keys() -> torch.Tensor:
    return torch.tensor([triton_bits.signed(seed) for seed in SEEDS], device=DEVICE)


# ---- words


@pytest.mark.parametrize("count", [1, 5, 1024, 1027, 4100])
@pytest.mark.parametrize("step", [0, 1, 2**40])
def test_words_are_those_of_the_host(step, count):
    host = Streams(SEEDS)
    there = (keys(), _hash("noise"), step, _hash("hidden1"), count)
    assert torch.equal(triton_bits.device_bits(*there).cpu(), host.bits("noise", step, "hidden1", (count,)))
    assert torch.equal(triton_bits.device_uniform(*there).cpu(), host.uniform("noise", step, "hidden1", (count,)))


def test_a_step_may_be_a_tensor():
    for step in (torch.tensor(16.0, dtype=torch.float64), torch.tensor([16])):
        words = triton_bits.device_bits(keys(), _hash("noise"), step.to(DEVICE), _hash("hidden1"), 9)
        assert torch.equal(words.cpu(), Streams(SEEDS).bits("noise", 16, "hidden1", (9,)))


def test_orders_are_those_of_the_host():
    order = triton_bits.device_permutation(keys(), _hash("order"), 3, _hash("train"), 2500)
    assert torch.equal(order.cpu(), Streams(SEEDS).permutation("order", 3, "train", 2500))


def test_nothing_is_drawn_for_nobody():
    assert triton_bits.device_bits(keys(), 1, 2, 3, 0).shape == (len(SEEDS), 0)
    assert triton_bits.device_bits(keys()[:0], 1, 2, 3, 5).shape == (0, 5)


@pytest.mark.parametrize("word", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_signed_word_has_the_bits_of_the_unsigned(word):
    assert -(2**63) <= triton_bits.signed(word) < 2**63
    assert triton_bits.signed(word) % 2**64 == word


# ---- the steps of an LSTM


def mask(*shape: int) -> torch.Tensor:
    return (torch.rand(*shape) > 0.4).float() * 1.5


def parts(kinds: str) -> list[torch.Tensor | None]:
    """In the order of `lstm._PARTS`."""
    torch.manual_seed(len(kinds))
    whole = (RUNS, STEPS, BATCH, HIDDEN)
    all_of = {
        "state": {0: mask(*whole)},
        "sequence": {0: mask(RUNS, 1, BATCH, HIDDEN)},
        "batch": {0: mask(RUNS, 1, 1, HIDDEN)},
        "candidate": {1: mask(*whole)},
        "cell": {2: mask(RUNS, 1, BATCH, HIDDEN), 3: torch.full((RUNS, 1, 1, 1), 1.7)},
        "carry_c": {4: mask(*whole), 5: mask(*whole)},
        "carry_h": {6: mask(1, STEPS, BATCH, HIDDEN), 7: mask(RUNS, STEPS, 1, 1).expand(whole)},
    }
    found = {place: part.to(DEVICE) for kind in kinds.split() for place, part in all_of[kind].items()}
    return [found.get(place) for place in range(8)]


KINDS = ("", "state", "sequence", "batch", "candidate", "cell", "carry_c", "carry_h",
         "state candidate cell carry_c carry_h")  # fmt: skip
LENGTHS = torch.tensor([[4, 2, 1], [3, 4, 2]])


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kinds", KINDS)
def test_states_and_gradients_are_those_of_torch(kinds, reverse, ends):
    noise = parts(kinds)
    valid = (torch.arange(STEPS).view(-1, 1) < LENGTHS.unsqueeze(1)).unsqueeze(-1).float().to(DEVICE) if ends else None
    projected = torch.randn(RUNS, STEPS, BATCH, 4 * HIDDEN).to(DEVICE).requires_grad_()
    weight = torch.randn(RUNS, HIDDEN, 4 * HIDDEN).to(DEVICE).requires_grad_()
    ours = triton_lstm.FusedSteps.apply(projected, weight, reverse, valid, *noise)
    plain = _Steps.apply(projected, weight, reverse, valid, *noise)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    above = torch.randn(ours.shape).to(DEVICE)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (projected, weight), above),
        torch.autograd.grad(plain, (projected, weight), above),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_bits(dtype):
    noise = [None if part is None else part.to(dtype) for part in parts("state cell carry_c")]
    projected = torch.randn(RUNS, STEPS, BATCH, 4 * HIDDEN).to(DEVICE, dtype)
    weight = torch.randn(RUNS, HIDDEN, 4 * HIDDEN).to(DEVICE, dtype)
    ours = triton_lstm.FusedSteps.apply(projected, weight, False, None, *noise)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, _Steps.apply(projected, weight, False, None, *noise), rtol=5e-2, atol=2e-2)


def test_tanh_near_0_is_not_cancelled():
    """One step without recurrence, where only g differs: c' = i tanh(z), and i = o = 1/2."""
    z = torch.logspace(-6, 1, 200).to(DEVICE)
    projected = torch.zeros(1, 1, len(z), 4, device=DEVICE)
    projected[0, 0, :, 2] = z
    states = triton_lstm.FusedSteps.apply(projected, torch.zeros(1, 1, 4, device=DEVICE), False, None, *(None,) * 8)
    exact = 0.5 * (0.5 * z.double().tanh()).tanh()
    torch.testing.assert_close(states[0, 0, :, 0].double(), exact, rtol=2e-6, atol=0)


# ---- compiled without a GPU

PROGRAM = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dropbench.kernels import triton_bits, triton_lstm

def compiled(kernel, types, constants):
    types = {name: "constexpr" if name in constants else types.get(name, types[""]) for name in kernel.arg_names}
    for capability in (80, 90):
        source = ASTSource(fn=kernel, signature=types, constexprs=constants)
        options = {"enable_fp_fusion": True}
        print(len(compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]))

for step in ("i64", "*fp64"):
    for uniform in (False, True):
        types = {"out": "*fp32" if uniform else "*i64", "seeds": "*i64", "step": step, "": "i64"}
        constants = {"READ": step != "i64", "UNIFORM": uniform, "BLOCK": triton_bits.BLOCK}
        compiled(triton_bits._philox, types, constants)
NOISE = ("state", "candidate", "cell", "readout", "keep_c", "mix_c", "keep_h", "mix_h", "valid")
NUMBERS = dict.fromkeys(("last", "step", "after", "later", "runs", "steps", "batch", "hidden"), "i32")
for kernel in (triton_lstm._forward, triton_lstm._backward):
    for values in ("*fp32", "*bf16"):
        for forms in ((-1,) * 9, (15,) * 8 + (7,)):
            absent = dict.fromkeys(NOISE) if forms[0] < 0 else {}
            types = {**NUMBERS, "dmemory": "*fp32", "dcarried": "*fp32", "": values}
            compiled(kernel, types, {**absent, "FORMS": forms, "BLOCK": triton_lstm.BLOCK})
"""


def test_kernels_compile_for_gpus(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(triton_bits.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.split()) == 2 * (4 + 8)
