"""Kills runs as the kernel does, and lets them go on. `test_kills.py` runs this in a process of its own, which forks.

So torch is loaded once for all runs. Before the forks it runs no kernel, and in them it has one thread.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from tiny_runs import NETS, outcome, rows, run_of, strays, train

import dropbench
from dropbench import runner
from dropbench.config import Run
from dropbench.errors import UserError
from dropbench.runs.checkpoint import load
from dropbench.runs.files import lines
from dropbench.runs.folder import METRICS

PACKAGE = Path(dropbench.__file__).parent
#: Where a kill strikes: before any line of these files.
STRUCK = (str(PACKAGE / "runs"), str(PACKAGE / "runner.py"), str(PACKAGE / "state.py"), str(PACKAGE / "sweep"))
BUSY = 2


def forked(job: Callable[[], Any]) -> int:
    """Runs a job in a child; its exit code, or minus the signal that killed it."""
    return ended(started(job))


def started(job: Callable[[], Any]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        job()
    except UserError as error:
        os._exit(BUSY if re.search(r"^run folder busy: .* is held by process \d+$", str(error)) else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_line(number: int, strike: Callable[[], None]) -> None:
    """Strikes before the n-th line that runs in the files of `STRUCK`."""
    left = number

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return walk if frame.f_code.co_filename.startswith(STRUCK) else None

    def walk(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if event == "line":
            left -= 1
            if left <= 0:
                strike()
        return walk

    threading.settrace(enter)  # the thread that writes
    sys.settrace(enter)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(run: Run, number: int) -> None:
    at_line(number, kill)
    train([run])


def count(run: Run, told: Path) -> None:
    """Trains to the end and writes down how many lines that took."""
    passed = 0

    def enter(frame: FrameType, event: str, argument: Any) -> Any:
        return walk if frame.f_code.co_filename.startswith(STRUCK) else None

    def walk(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal passed
        passed += event == "line"
        return walk

    threading.settrace(enter)
    sys.settrace(enter)
    train([run])
    sys.settrace(None)
    told.write_text(str(passed))


def check_kills(root: Path, net: str, kills: int) -> None:
    """Kills a run at many places, once more while it goes on, and holds what it comes to against one left alone."""
    whole = run_of(root / "whole", net)
    assert forked(lambda: count(whole, root / "lines")) == 0
    total = int((root / "lines").read_text())
    expected, all_rows = outcome(whole.path), rows(whole.path)
    chance = random.Random(net)
    for number in range(kills):
        place = 1 + (number * total + chance.randrange(total)) // kills
        run = run_of(root / f"killed{number}", net)
        folder = run.path
        assert forked(lambda run=run, place=place: killed(run, place)) == -signal.SIGKILL
        check_kept(folder, all_rows)
        again = chance.randrange(1, total)
        assert forked(lambda run=run, again=again: killed(run, again)) in (0, -signal.SIGKILL)
        check_kept(folder, all_rows)
        assert forked(lambda run=run: train([run])) == 0
        assert outcome(folder) == expected, (net, place, again)
        assert strays(folder) == [], (net, place, again)


def check_kept(folder: Path, all_rows: list[dict[str, Any]]) -> None:
    """What was recorded is there, and the checkpoint of the step before its last record."""
    sound = [{key: row[key] for key in row if key != "seconds"} for row in lines(folder / METRICS)]
    assert sound == all_rows[: len(sound)], folder
    saved, complaints = load(folder)
    assert complaints == []
    if sound:
        assert saved is not None, folder
        assert saved.facts["step"] >= sound[-1]["step"] - 1, folder


def check_light(root: Path) -> None:
    """No run waits for torch's compiler or for sympy: that would be seconds."""

    def light() -> None:
        for net in NETS:
            train([run_of(root, net), run_of(root, net, "seed=1")])
        train([run_of(root, "mlp", "strategy.noise=gaussian", "optimizer=adam", "precision=bfloat16")])
        assert not {"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()

    assert forked(light) == 0


def check_race(root: Path, starts: int) -> None:
    """Many start the same run at the same moment: one trains it, the others are told, nothing is overwritten."""
    whole = run_of(root / "whole")
    assert forked(lambda: train([whole])) == 0
    run = run_of(root / "raced")
    gate, lift = os.pipe()

    def race() -> None:
        os.close(lift)
        os.read(gate, 1)  # until the parent closes its end
        trained: list[bool] = []
        train([run], lambda: bool(trained.append(True)))
        if trained:
            (root / f"trained_by_{os.getpid()}").touch()

    children = [started(race) for _ in range(starts)]
    os.close(gate)
    os.close(lift)
    codes = [ended(child) for child in children]
    assert set(codes) <= {0, BUSY}, codes
    assert len(list(root.glob("trained_by_*"))) == 1, codes
    assert codes.count(BUSY) > 0, codes
    assert outcome(run.path) == outcome(whole.path)
    assert strays(run.path) == []


def main(root: Path, kills: int, starts: int) -> None:
    torch.set_num_threads(1)
    runner.SECONDS_BETWEEN_CHECKPOINTS = -1.0  # after every step
    os.fsync = lambda descriptor: None  # a kill takes nothing from the kernel, and it is slow
    (root / "light").mkdir()
    check_light(root / "light")
    for net in NETS:
        (root / net).mkdir()
        check_kills(root / net, net, kills if net == "mlp" else kills // 4)
    (root / "race").mkdir()
    check_race(root / "race", starts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print("all as it should be")
