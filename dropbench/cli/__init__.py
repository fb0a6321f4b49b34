"""The front door: finds the verb, loads what it needs and no more, and turns every error into one line.

Exit codes: 0 done, 1 a bug in dropbench, 2 bad input or environment, 3 some runs of a sweep failed, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module

from dropbench import __version__
from dropbench.errors import UserError, nearest
from dropbench.terminal import clean

#: Each verb: the module in this folder that has `run(argv) -> exit code`, and its line in `dropbench --help`.
VERBS = {
    "train": ("train", "train and evaluate one run, or with -m a sweep of runs"),
    "sweep": ("train", "the same as train -m"),
    "resume": ("resume", "go on with interrupted runs and sweeps"),
    "status": ("status", "how far a sweep is, on this machine or a cluster"),
    "compare": ("compare", "the table: which setting wins, by how much, and is it real"),
    "recommend": ("recommend", "which strategy and rate to use, and how sure that is"),
    "plot": ("plot", "pictures: curves, rates, schedule, gap, differences, calibration, profile"),
    "report": ("report", "one HTML page of it all"),
    "runs": ("runs", "list recorded runs, look at one, remove some"),
    "list": ("list", "what there is: strategies, models, datasets, optimizers, loggers, experiments"),
}

#: The environment, not dropbench, is at fault.
_ENVIRONMENT = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE}
)


def entry() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # no name can be too strange for the terminal's encoding
    sys.exit(main(sys.argv[1:]))


def main(argv: list[str]) -> int:
    """Runs one command and returns the exit code."""
    try:
        code = _dispatch(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except SystemExit as stop:  # argparse after --help; a library that ends by itself
        code = _complain(stop.code, 1) if isinstance(stop.code, str) else stop.code or 0
    except KeyboardInterrupt:
        code = _complain("interrupted", 130)
    except BrokenPipeError:  # `dropbench ... | head`
        _discard_output()
        code = 0
    except UserError as error:
        code = _complain(str(error), 2)
    except OSError as error:
        _discard_output()
        where = f"{error.filename}: " if error.filename is not None else ""
        code = (
            _complain(f"{where}{error.strerror}", 2)
            if error.errno in _ENVIRONMENT
            else _complain(f"bug: {type(error).__name__}: {error} {_HOW}", 1)
        )
    except Exception as error:
        code = _complain(f"bug: {type(error).__name__}: {error} {_HOW}", 1)
    return code


_HOW = "(DROPBENCH_DEBUG=1 shows the traceback; please report it)"


def _dispatch(argv: list[str]) -> int:
    verb = argv[0] if argv else "--help"
    if verb in ("-h", "--help"):
        sys.stdout.write(_help())
        return 0
    if verb in ("-V", "--version"):
        sys.stdout.write(f"dropbench {__version__}\n")
        return 0
    if verb not in VERBS:
        if "=" in verb:
            raise UserError(f"{verb}: a verb comes first; try dropbench train {' '.join(argv)}")
        raise UserError(f"{verb}: there is no such verb; known: {', '.join(VERBS)}{nearest(verb, VERBS)}")
    module = import_module(f"dropbench.cli.{VERBS[verb][0]}")
    if VERBS[verb][0] == "train":
        return int(module.run(argv[1:], multirun=verb == "sweep"))
    return int(module.run(argv[1:]))


def _help() -> str:
    lines = [f"  {verb:9} {text}" for verb, (_, text) in VERBS.items()]
    return "\n".join(
        [
            "usage: dropbench VERB ...",
            "",
            "Which dropout strategy, at which rate, for this model and this data, and is the difference real?",
            "",
            *lines,
            "",
            "  --version  the version",
            "  --help     this page; after a verb, its own page",
            "",
        ]
    )


def _complain(message: str, code: int) -> int:
    """Writes the one line of an error to stderr, below the traceback if one is wanted."""
    if os.environ.get("DROPBENCH_DEBUG", "0") not in ("", "0") and code != 130:
        import traceback

        traceback.print_exc()
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    if sys.stderr is not None:
        sys.stderr.write(f"dropbench: {clean(line)}\n")
    return code


def _discard_output() -> None:
    """Nobody reads standard output any more: keeps the interpreter from failing at exit over what is buffered."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (AttributeError, OSError, ValueError):  # no such stream, or one without a descriptor
        pass
