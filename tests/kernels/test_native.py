"""Compiling kernels, keeping them, and choosing between them and torch; the kernel here is one line long."""

from __future__ import annotations

import json
import os
import threading

import pytest

from dropbench.errors import UserError
from dropbench.kernels import in_use, native

ADD = "int add(int a, int b) { return a + b; }\n"


@pytest.fixture(autouse=True)
def kernels(monkeypatch, tmp_path):
    """An empty cache folder, and a folder of kernels with one in it."""
    native._loaded.cache_clear()
    monkeypatch.setattr(native, "_choices", {})
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    monkeypatch.delenv("DROPBENCH_KERNELS_FOLDER", raising=False)
    monkeypatch.delenv("DROPBENCH_KERNELS", raising=False)
    (tmp_path / "adds.c").write_text(ADD)
    yield tmp_path
    native._loaded.cache_clear()


def compiled():
    library = native.library("adds")
    if library is None:
        pytest.skip(native.reason("adds"))
    return library


def afresh() -> None:
    """As in a new process."""
    native._loaded.cache_clear()
    native._choices.clear()


def test_a_kernel_is_compiled_and_called():
    assert compiled().add(2, 3) == 5
    assert native.reason("adds") == ""


def test_it_is_compiled_once(monkeypatch):
    compiled()
    afresh()
    monkeypatch.setattr(native, "_run", lambda command: pytest.fail("compiled again"))
    assert native.library("adds").add(1, 1) == 2


def test_another_source_is_another_library(kernels):
    compiled()
    afresh()
    (kernels / "adds.c").write_text(ADD.replace("a + b", "a + b + 1"))
    assert native.library("adds").add(1, 1) == 3


def test_without_openmp_it_is_compiled_without_threads(monkeypatch):
    compiled()
    native._loaded.cache_clear()
    monkeypatch.setattr(native, "THREADS", "-no-such-flag")
    monkeypatch.setattr(native, "FLAGS", native.FLAGS[:-1])  # another name for the library
    assert native.library("adds").add(1, 2) == 3


def test_it_is_compiled_ahead_by_another_thread_and_found(kernels):
    compiled()
    native._loaded.cache_clear()
    (kernels / "adds.c").write_text(ADD.replace("a + b", "a + b + 2"))
    native.ahead(["adds", "missing"])
    assert native.library("adds").add(1, 1) == 4
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon:
            thread.join(timeout=60)
    assert len(list((kernels / "__pycache__").glob("*.so"))) == 2


def test_no_compiler_no_library(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.library("adds") is None
    assert native.reason("adds") == "there is no C compiler (cc, gcc, clang, or what $CC names)"
    assert not native.chosen("adds", lambda with_library: pytest.fail("nothing to choose"))
    assert native.choices() == {"adds": {"chosen": "torch", "why": native.reason("adds")}}


def test_a_compiler_that_fails_is_quoted(kernels):
    compiled()
    (kernels / "adds.c").write_text("#error out of order\n")
    native._loaded.cache_clear()
    assert native.library("adds") is None
    assert "out of order" in native.reason("adds")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(kernels, monkeypatch):
    kernels.chmod(0o500)
    assert native.library("adds") is None


def test_a_folder_that_cannot_be_made(kernels, monkeypatch):
    (kernels / "file").touch()
    monkeypatch.setenv("DROPBENCH_KERNELS_FOLDER", str(kernels / "file" / "folder"))
    assert native.library("adds") is None
    assert "Not a directory" in native.reason("adds")


def test_they_are_kept_beside_the_bytecode_or_where_one_says(kernels, monkeypatch):
    compiled()
    assert [path.suffix for path in (kernels / "__pycache__").iterdir()] == [".so"]
    native._loaded.cache_clear()
    monkeypatch.setenv("DROPBENCH_KERNELS_FOLDER", str(kernels / "elsewhere"))
    compiled()
    assert [path.suffix for path in (kernels / "elsewhere").iterdir()] == [".so"]


def test_whoever_asks_for_torch_gets_it(monkeypatch):
    monkeypatch.setenv("DROPBENCH_KERNELS", "torch")
    assert native.library("adds") is None
    assert native.reason("adds") == "DROPBENCH_KERNELS=torch"


def test_whoever_asks_for_c_hears_why_not(monkeypatch):
    monkeypatch.setenv("DROPBENCH_KERNELS", "native")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(UserError, match=r"DROPBENCH_KERNELS=native: there is no C compiler"):
        native.library("adds")


def test_a_typing_error_is_told(monkeypatch):
    monkeypatch.setenv("DROPBENCH_KERNELS", "c")
    with pytest.raises(UserError, match=r"DROPBENCH_KERNELS=c: allowed: auto, native, torch"):
        native.library("adds")


@pytest.fixture
def clock(monkeypatch):
    """A clock that a trial can turn."""
    now = [0.0]
    monkeypatch.setattr(native.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize("faster", [True, False])
def test_the_faster_is_chosen_and_remembered(clock, faster):
    compiled()

    def trial(with_library: bool) -> None:
        clock[0] += 1 if with_library == faster else 2

    assert native.chosen("adds", trial) == faster
    told = native.choices()["adds"]
    assert told["chosen"] == ("native" if faster else "torch")
    assert {told["native_seconds"], told["torch_seconds"]} == {1.0, 2.0}
    afresh()
    assert native.chosen("adds", lambda with_library: pytest.fail("measured again")) == faster
    assert native.choices()["adds"] == told


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"chosen": "magic"}', "\x00"])
def test_a_choice_that_cannot_be_read_is_made_again(kernels, clock, damage):
    compiled()
    assert native.chosen("adds", lambda with_library: None)
    (path,) = (kernels / "__pycache__").glob("*.json")
    assert json.loads(path.read_text())["chosen"] == "native"
    path.write_text(damage)
    afresh()

    def trial(with_library: bool) -> None:
        clock[0] += with_library

    assert not native.chosen("adds", trial)
    afresh()
    assert not native.chosen("adds", lambda with_library: pytest.fail("not mended"))


def test_what_is_in_use_is_said_in_words(monkeypatch):
    monkeypatch.undo()
    native._loaded.cache_clear()
    told = in_use(("bits", "update"))
    assert list(told) == ["bits", "update"]
    for name, way in told.items():
        reason = native.reason(name)
        assert way == f"torch ({reason})" if reason else way in ("native", "torch")
