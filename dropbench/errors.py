"""The one error that a user, not dropbench, can mend."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a bad environment: ends the program with exit code 2 and this one line on stderr.

    The line names the key or the path, the value, what is allowed and the nearest known name.
    """


def nearest(name: str, known: Iterable[str], path: str = "") -> str:
    """Returns `; nearest: NAME` for the known name closest to `name`, or `` when none is close.

    What all names have in front, `path`, is shown and not compared: it would make everything look close.
    """
    match = get_close_matches(name, list(known), n=1, cutoff=0.5)
    before = f"{path}." if path else ""
    return f"; nearest: {before}{match[0]}" if match else ""
