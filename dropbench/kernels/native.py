"""Kernels in C for the CPU: compiled on the machine where they run, when they are first needed.

A kernel is one file `<name>.c` of this folder. It is compiled with the machine's own C compiler for its own processor
and kept beside the bytecode of this package, or in `DROPBENCH_KERNELS_FOLDER`, under a name that is the hash of
everything it depends on. Where there is no compiler, or the folder cannot be written, every caller has another way, in
torch, to the same numbers within rounding; `DROPBENCH_KERNELS=torch` asks for that way.

The libraries use OpenMP by the runtime that torch has loaded already, so they run on torch's threads and no others.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VARIABLE, FOLDER = "DROPBENCH_KERNELS", "DROPBENCH_KERNELS_FOLDER"
FLAGS = (
    "-std=gnu11", "-O3", "-march=native", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math",
    "-ffp-contract=fast",
)  # fmt: skip
THREADS = "-fopenmp"
#: Times that each side of a contest is run, after one that warms up.
ROUNDS = 7


def library(name: str) -> ctypes.CDLL | None:
    """The compiled `<name>.c` of this folder, or None where it cannot be had: see `reason`."""
    return _loaded(name)[0]


def reason(name: str) -> str:
    """Why there is no library of that name; empty where there is one."""
    return _loaded(name)[1]


def ahead(names: Iterable[str]) -> None:
    """Begins to compile what is not there yet, while this process does something else, such as loading torch."""

    def work(asked: tuple[str, ...]) -> None:
        for name in asked:
            with suppress(OSError, subprocess.SubprocessError):  # whoever needs it says why there is none
                _compiled(name)

    if os.environ.get(VARIABLE) != "torch":
        threading.Thread(target=work, args=(tuple(names),), daemon=True).start()


def chosen(name: str, trial: Callable[[bool], object]) -> bool:
    """Whether a kernel wins on this machine: measured once, and remembered beside its library.

    What is decided once holds for all shapes, stacks and threads, so that no result depends on the luck of a clock.

    Args:
        name: of the library.
        trial: does a typical piece of work, with the library (True) or without it.
    """
    if name not in _choices:
        missing = library(name) is None
        _choices[name] = {"chosen": "torch", "why": reason(name)} if missing else _contest(name, trial)
    return _choices[name]["chosen"] == "native"


def choices() -> dict[str, dict[str, object]]:
    """What was chosen so far in this process, by name: `chosen` (native or torch), the seconds of both, or `why`."""
    return {name: dict(choice) for name, choice in sorted(_choices.items())}


_choices: dict[str, dict[str, object]] = {}
_compiling = threading.Lock()


def _contest(name: str, trial: Callable[[bool], object]) -> dict[str, object]:
    path = Path(_loaded(name)[2]).with_suffix(".json")
    known = _remembered(path)
    if known is not None:
        return known
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for round_ in range(ROUNDS + 1):
        for compiled in (True, False):
            started = time.perf_counter()
            trial(compiled)
            if round_:
                seconds[compiled].append(time.perf_counter() - started)
    native, torch = (statistics.median(seconds[side]) for side in (True, False))
    choice: dict[str, object] = {
        "chosen": "native" if native <= torch else "torch", "native_seconds": native, "torch_seconds": torch,
    }  # fmt: skip
    try:
        _put(path, json.dumps(choice).encode())
    except OSError:
        return choice
    return _remembered(path) or choice  # what another process decided meanwhile holds here too


def _remembered(path: Path) -> dict[str, object] | None:
    """The choice that a file holds, if it holds one; a damaged file goes."""
    try:
        known = json.loads(path.read_text())
        if known["chosen"] in ("native", "torch"):
            return {key: known[key] for key in ("chosen", "native_seconds", "torch_seconds")}
    except (ValueError, KeyError, TypeError):
        pass
    except OSError:
        return None
    path.unlink(missing_ok=True)
    return None


@cache
def _loaded(name: str) -> tuple[ctypes.CDLL | None, str, str]:
    """The library, or why there is none; and its path."""
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("auto", "native", "torch"):
        raise UserError(f"{VARIABLE}={asked}: allowed: auto, native, torch")
    if asked == "torch":
        return None, f"{VARIABLE}=torch", ""
    try:
        path = _compiled(name)
        return ctypes.CDLL(str(path)), "", str(path)
    except (OSError, subprocess.SubprocessError) as error:
        if asked == "native":
            raise UserError(f"{VARIABLE}=native: {error}") from None
        return None, str(error), ""


def _compiled(name: str) -> Path:
    """Compiles the library unless it is there.

    Raises:
        OSError: no compiler, or no folder that can be written.
        subprocess.SubprocessError: the compiler fails.
    """
    source = Path(__file__).with_name(f"{name}.c")
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise FileNotFoundError("there is no C compiler (cc, gcc, clang, or what $CC names)")
    about = (source.read_bytes(), compiler, Path(compiler).stat().st_mtime_ns, FLAGS, _processor(), sys.platform)
    digest = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    path = _folder() / f"{name}-{digest}.so"
    with _compiling:
        if path.exists():
            return path
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work, path.name)
            command = [compiler, *FLAGS, str(source), "-o", str(made), "-lm"]
            try:
                _run([*command, THREADS])
            except subprocess.SubprocessError:
                _run(command)
            made.replace(path)
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)  # noqa: S603 - the user's own compiler
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise subprocess.SubprocessError(f"{command[0]}: {said}")


def _folder() -> Path:
    """Beside the bytecode of this package, and as trusted as that; or where `DROPBENCH_KERNELS_FOLDER` says.

    Raises:
        OSError: it cannot be made.
    """
    named = os.environ.get(FOLDER)
    folder = Path(named) if named else Path(__file__).with_name("__pycache__")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _put(path: Path, content: bytes) -> None:
    """Writes a file whole, unless there is one."""
    with tempfile.NamedTemporaryFile(dir=path.parent) as file:
        file.write(content)
        file.flush()
        if not path.exists():
            os.link(file.name, path)


def _processor() -> str:
    """What `-march=native` looks at: a cache folder may be shared by machines that differ."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return f"{platform.machine()} {platform.processor()}"
