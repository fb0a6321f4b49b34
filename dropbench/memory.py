"""Memory of the process."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt


def keep_freed() -> None:
    """Tells glibc to keep freed memory for the next tensor instead of handing it back to the kernel.

    Otherwise every tensor above 32 MiB, and many below, is new to the process and costs a page fault every 4 KiB: a
    quarter of the time of a stack of eight small MLPs. Elsewhere than with glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for threshold in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
        mallopt(threshold, 2**30)
