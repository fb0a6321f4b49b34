"""Jobs done behind the back of whoever gives them: in their order, each told of, and none lost but at the very end."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from dropbench.errors import UserError
from dropbench.runs import behind
from dropbench.runs.behind import Behind

SOON = 20.0


class Gate:
    """A job that waits until it is opened; `reached` is set when it has begun."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.opened.wait(SOON)


def noting(into: list[Any], what: Any) -> Callable[[], None]:
    return lambda: into.append(what)


def raising(error: BaseException) -> Callable[[], None]:
    def job() -> None:
        raise error

    return job


def test_jobs_are_done_in_their_order_on_one_other_thread_and_told_of_on_this_one():
    done: list[int] = []
    told: list[tuple[int, int]] = []
    on: set[int] = set()

    def job(number: int) -> None:
        on.add(threading.get_ident())
        done.append(number)

    with Behind() as it:
        for number in range(100):
            it.do(
                lambda number=number: job(number),  # type: ignore[misc]
                lambda number=number: told.append((number, threading.get_ident())),  # type: ignore[misc]
            )
    here = threading.get_ident()
    assert done == list(range(100))
    assert told == [(number, here) for number in range(100)]
    assert len(on) == 1
    assert here not in on


def test_who_gives_a_job_does_not_wait_for_it_and_hears_of_it_when_it_is_done():
    gate, told = Gate(), list[str]()
    with Behind() as it:
        it.do(gate, noting(told, "gate"))
        it.do(noting([], None), noting(told, "other"))
        assert gate.reached.wait(SOON)
        it.settle()
        assert told == []
        gate.opened.set()
        it.wait()
        assert told == ["gate", "other"]


def test_nothing_is_begun_where_nothing_is_given():
    before = threading.active_count()
    with Behind() as it:
        it.settle()
        it.wait()
        assert threading.active_count() == before


def test_a_job_that_raises_is_the_last_and_its_error_is_raised_by_every_call_until_it_is_left():
    done: list[int] = []
    told: list[int] = []
    it = Behind()

    def give() -> None:
        with it:
            it.do(noting(done, 1), noting(told, 1))
            it.do(raising(UserError("disk full: here")), noting(told, 2))
            for call in (it.wait, it.settle, lambda: it.do(noting(done, 3), noting(told, 3))):
                with pytest.raises(UserError, match="disk full: here"):
                    call()

    with pytest.raises(UserError, match="disk full: here"):
        give()
    assert (done, told) == ([1], [1])
    it.wait()
    it.settle()


@pytest.mark.parametrize("kind", [RuntimeError, UserError])
def test_after_an_exception_everything_is_done_and_it_goes_on(kind):
    done: list[int] = []

    def give() -> None:
        with Behind() as it:
            for number in range(50):
                it.do(noting(done, number))
            raise kind("no luck")

    with pytest.raises(kind, match="no luck"):
        give()
    assert done == list(range(50))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_waits_for_the_job_that_has_begun_alone(kind):
    gate, done = Gate(), list[int]()

    def give() -> None:
        with Behind() as it:
            it.do(gate, noting(done, 0))
            it.do(noting(done, 1))
            assert gate.reached.wait(SOON)
            threading.Timer(0.05, gate.opened.set).start()
            raise kind

    with pytest.raises(kind):
        give()
    assert gate.opened.is_set()
    assert done == []


def test_no_thread_is_left():
    before = threading.active_count()
    for error in (None, RuntimeError(), KeyboardInterrupt()):
        try:
            with Behind() as it:
                it.do(noting([], None))
                if error is not None:
                    raise error
        except type(error):  # type: ignore[arg-type]
            pass
    assert threading.active_count() == before


def test_it_may_be_used_again():
    done: list[int] = []
    it = Behind()
    for number in range(3):
        with it:
            it.do(noting(done, number))
    assert done == [0, 1, 2]


def test_who_gives_too_much_waits(monkeypatch):
    monkeypatch.setattr(behind, "MOST", 2)
    gate, given, done = Gate(), list[int](), list[int]()

    def give() -> None:
        with Behind() as it:
            it.do(gate)
            assert gate.reached.wait(SOON)
            for number in range(4):
                it.do(noting(done, number))
                given.append(number)

    giver = threading.Thread(target=give)
    giver.start()
    assert gate.reached.wait(SOON)
    giver.join(0.2)
    assert giver.is_alive()
    assert given == [0, 1]
    gate.opened.set()
    giver.join(SOON)
    assert (given, done) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_what_a_job_holds_is_let_go_when_it_is_done():
    class State:
        pass

    state = State()
    kept = weakref.ref(state)
    with Behind() as it:
        it.do(lambda state=state: None)  # type: ignore[misc]
        del state
        it.wait()
        assert kept() is None
