"""Is there a network? The answer comes in time, whatever the network does."""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from pathlib import Path

import pytest

from dropbench.data.fetch import STALL, alone, patient, unreachable


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def port() -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_host_that_answers(port: int) -> None:
    assert unreachable((f"http://127.0.0.1:{port}/mnist/",)) is None


def test_nobody_there(closed: int) -> None:
    assert unreachable((f"http://127.0.0.1:{closed}/",)) == "127.0.0.1: Connection refused"


def test_one_of_two_is_enough(port: int, closed: int) -> None:
    assert unreachable((f"http://127.0.0.1:{closed}/", f"http://127.0.0.1:{port}/")) is None


@pytest.mark.parametrize("stuck", ["connect", "look-up"])
def test_silence(monkeypatch: pytest.MonkeyPatch, stuck: str) -> None:
    """A name look-up has no time-out of its own, and packets may be dropped."""

    def hang(*args: object, **kwargs: object) -> None:
        time.sleep(0.6)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection" if stuck == "connect" else "getaddrinfo", hang)
    start = time.monotonic()
    assert (
        unreachable(("https://a.invalid/", "http://b.invalid/"), 0.2)
        == "no answer from a.invalid, b.invalid within 0.2 s"
    )
    assert time.monotonic() - start < 0.5
    time.sleep(0.5)  # the threads end inside the test


def test_a_proxy_is_asked_instead(monkeypatch: pytest.MonkeyPatch, port: int, closed: int) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("http_proxy", f"127.0.0.1:{closed}")
    assert unreachable(("https://nowhere.invalid/",)) is None
    assert unreachable(("http://nowhere.invalid/",)) == "127.0.0.1: Connection refused"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert unreachable((f"http://127.0.0.1:{port}/",)) is None


def test_the_time_out_is_put_back() -> None:
    before = socket.getdefaulttimeout()
    with patient():
        assert socket.getdefaulttimeout() == STALL
    assert socket.getdefaulttimeout() == before


def _hold(folder: Path, inside: object, leave: object) -> None:
    with alone(folder):
        inside.set()  # type: ignore[attr-defined]
        leave.wait(5)  # type: ignore[attr-defined]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    inside, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, inside, leave))
    other.start()
    assert inside.wait(5)
    start = time.monotonic()
    timer = threading.Timer(0.3, leave.set)
    timer.start()
    with alone(tmp_path):
        assert time.monotonic() - start > 0.25
    other.join()
    timer.join()
    assert list(tmp_path.iterdir()) == []
