"""Who wins a contest between torch and a kernel; the clock is given."""

from __future__ import annotations

import pytest
import torch

from dropbench.kernels import cuda
from dropbench.kernels.lstm import _Steps


@pytest.fixture(autouse=True)
def seconds(monkeypatch) -> list[float]:
    """What the clock says of the next pieces of work, in turns: fast, plain, fast, ..."""
    taken = [1.0, 2.0] * cuda.ROUNDS
    monkeypatch.setattr(cuda, "_choices", {})
    monkeypatch.setattr(cuda, "_seconds", lambda work: (work(), taken.pop(0))[1])
    return taken


def nothing() -> None:
    pass


def test_the_faster_wins_by_the_median(seconds):
    seconds[0] = 100.0  # once, by bad luck
    assert cuda.contest("work", "triton", lambda: True, nothing, nothing)
    each = 1 / cuda.WORK
    assert cuda.choices() == {"work": {"chosen": "triton", "triton_seconds": each, "torch_seconds": 2 * each}}


def test_the_slower_loses(seconds):
    seconds.reverse()
    assert not cuda.contest("work", "triton", lambda: True, nothing, nothing)
    each = 1 / cuda.WORK
    assert cuda.choices()["work"] == {"chosen": "torch", "triton_seconds": 2 * each, "torch_seconds": each}


def test_other_numbers_lose_however_fast():
    assert not cuda.contest("work", "triton", lambda: False, nothing, nothing)
    assert cuda.choices()["work"] == {"chosen": "torch", "why": "the triton gives other numbers"}


@pytest.mark.parametrize(
    "error", [RuntimeError("no compiler\nmore"), ImportError("no compiler"), OSError("no compiler")]
)
def test_what_fails_loses(error):
    def fails():
        raise error

    assert not cuda.contest("first", "triton", fails, nothing, nothing)
    assert not cuda.contest("later", "triton", lambda: True, nothing, fails)
    why = {"chosen": "torch", "why": "the triton fails: no compiler"}
    assert cuda.choices() == {"first": why, "later": why}


def test_what_is_in_use_is_said_in_words(seconds):
    cuda.contest("first", "triton", lambda: True, nothing, nothing)
    seconds[:] = [2.0, 1.0] * cuda.ROUNDS
    cuda.contest("second", "triton", lambda: True, nothing, nothing)
    cuda.refuse("third", "too short")
    assert cuda.in_use() == {"first": "triton", "second": "torch", "third": "torch (too short)"}


def test_whoever_asks_for_torch_gets_it(monkeypatch):
    monkeypatch.setenv("DROPBENCH_KERNELS", "torch")
    assert not cuda.contest("work", "triton", lambda: True, nothing, nothing)
    assert cuda.choices()["work"] == {"chosen": "torch", "why": "DROPBENCH_KERNELS=torch"}


def test_there_is_one_contest_a_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    asked = []

    def alike() -> bool:
        asked.append(1)
        return True

    assert all(cuda.chosen("work", "triton", alike, nothing, nothing) for _ in range(3))
    assert len(asked) == 1


@pytest.mark.parametrize(("there", "capturing"), [(False, False), (True, True)])
def test_there_is_no_contest_without_a_gpu_or_within_a_capture(monkeypatch, there, capturing):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    assert not cuda.chosen("work", "triton", lambda: True, nothing, nothing)
    assert not cuda.choices()


def test_near_is_a_share_of_the_whole():
    one = torch.tensor([3.0, 4.0])
    assert cuda.near([one], [one + torch.tensor([0.0, 0.04])], 0.01)
    assert not cuda.near([one], [one + torch.tensor([0.0, 0.06])], 0.01)
    assert not cuda.near([one, one], [one, one * torch.nan], 0.01)


def test_a_cpu_walks_the_steps_of_torch():
    projected, weight = torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 8)
    assert cuda.lstm_steps(_Steps, projected, weight, False, None, *(None,) * 8) is _Steps
    assert not cuda.choices()
