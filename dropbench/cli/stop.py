"""Ctrl-C and SIGTERM while runs train."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from dropbench.terminal import tell

if TYPE_CHECKING:
    from types import FrameType


class Stop:
    """Ctrl-C and SIGTERM: while runs train, the first asks to save and stop; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.signal = 0
        self.training = False

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._caught) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to save and stop."""
        return self.signal != 0

    @property
    def code(self) -> int:
        """The exit code after a signal."""
        return 128 + self.signal

    def _caught(self, number: int, _: FrameType | None) -> None:
        again = self.signal != 0
        self.signal = number
        if again or not self.training:
            tell("interrupted")
            sys.exit(self.code)

    def leave(self, how: str) -> NoReturn:
        """Ends the program after everything was saved; `how` says how one goes on."""
        tell(f"interrupted: saved; {how}")
        sys.exit(self.code)
