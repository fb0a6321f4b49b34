"""Whether files can be fetched at all, and one process at a time fetching them. No torch here."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Name look-up and TCP handshake: seconds until a network counts as absent. A slow one answers in less.
PATIENCE = 1.2
#: Seconds without a single byte until a download that has begun counts as broken.
STALL = 30.0


def unreachable(urls: tuple[str, ...], patience: float = PATIENCE) -> str | None:
    """Why none of the hosts of `urls` (or the proxies before them) takes a connection; None when one does.

    It asks all hosts at once, in threads, because a name look-up has no time-out of its own. No byte is sent.
    """
    answers: queue.Queue[str | None] = queue.Queue()
    hosts = {_address(url) for url in urls}
    for host, port in hosts:
        threading.Thread(target=_knock, args=(host, port, patience, answers), daemon=True).start()
    reasons = []
    end = time.monotonic() + patience
    with contextlib.suppress(queue.Empty):
        for _ in hosts:
            reason = answers.get(timeout=max(0.0, end - time.monotonic()))
            if reason is None:
                return None
            reasons.append(reason)
    if len(reasons) < len(hosts):
        return f"no answer from {', '.join(sorted(host for host, _ in hosts))} within {patience:g} s"
    return ", ".join(sorted(reasons))


def _knock(host: str, port: int, patience: float, answers: queue.Queue[str | None]) -> None:
    try:
        socket.create_connection((host, port), timeout=patience).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: a proxy's name that is no host name
        answers.put(f"{host}: {getattr(error, 'strerror', None) or error}")
    else:
        answers.put(None)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        parts = urlsplit(proxy if "//" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


@contextlib.contextmanager
def patient() -> Iterator[None]:
    """Downloads inside may be slow, but not silent for longer than `STALL`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time in here, for each folder: the others wait rather than read what is half written.

    The lock is on the folder itself, so that it leaves no file and works where one may only read; a file system that
    knows no locks does without.
    """
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
