"""What is written while a stack trains is written behind its back, so that a step never waits for the disk."""

from __future__ import annotations

import threading
from collections import deque
from queue import Queue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

#: Jobs that may wait; who gives more waits too, so that a slow disk cannot fill the memory.
MOST = 256


class Behind:
    """Does jobs one after the other, in the order in which they are given, on a thread of its own.

    The disk sees the calls it would see if every job were done at once, in the same order, only later: a kill leaves
    what it would have left a moment before. As a context manager it leaves when all is done, also after an exception;
    only what ends the program (`SystemExit`, `KeyboardInterrupt`) drops the jobs that still wait.

    Once a job raised, no other is begun, and every method raises the same until the context is left.
    """

    def __init__(self) -> None:
        self._jobs: Queue[tuple[Callable[[], object], Callable[[], object] | None] | None] = Queue(MOST)
        self._told: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._dropped = False

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self.wait()
        finally:
            self._dropped = True
            if self._thread is not None:
                self._jobs.put(None)
                self._thread.join()
            self._thread, self._error, self._dropped = None, None, False

    def do(self, job: Callable[[], object], told: Callable[[], object] | None = None) -> None:
        """Gives a job; `told` is called when it is done, on the thread of the caller: in `settle` or `wait`."""
        self.settle()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="behind", daemon=True)
            self._thread.start()
        self._jobs.put((job, told))

    def settle(self) -> None:
        """Tells of the jobs that are done by now, in their order, and does not wait."""
        while self._told:
            self._told.popleft()()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Waits for every job, and tells of it."""
        self._jobs.join()
        self.settle()

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            if self._error is None and not self._dropped:
                self._do(*given)
            del given  # what it holds, the state of a run maybe, is not kept until the next one comes
            self._jobs.task_done()
        self._jobs.task_done()

    def _do(self, job: Callable[[], object], told: Callable[[], object] | None) -> None:
        try:
            job()
        except BaseException as error:  # whatever it is, it is raised where the job was given
            self._error = error
        else:
            if told is not None:
                self._told.append(told)
