"""A run that is killed, terminated or interrupted comes to exactly the numbers it would have had."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tiny_runs import outcome, rows

from dropbench.runs.folder import METRICS
from dropbench.runs.records import read_run

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent))),
    "OMP_NUM_THREADS": "1",
}
#: How often an MLP is killed (the other nets a quarter as often), and how many start one run at the same moment.
KILLS, STARTS = 16, 12


def test_kill_minus_9_before_any_line_and_many_starts_at_once(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("killed.py"), tmp_path, str(KILLS), str(STARTS)],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "all as it should be\n", done.stdout + done.stderr
    assert done.returncode == 0


COMMAND = [
    sys.executable, "-m", "dropbench", "train", "-q", "device=cpu", "model.widths=[8]", "epochs=120",
    "strategy=gradual",
]  # fmt: skip


class Trained:
    """The command in a folder of its own, as a user's shell starts it."""

    def __init__(self, place: Path) -> None:
        place.mkdir()
        self.process = subprocess.Popen(
            COMMAND, env=ENVIRONMENT, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        self.place = place

    @property
    def run(self) -> Path:
        (found,) = self.place.glob("outputs/main/*/")
        return found

    def again(self) -> None:
        """The same command once more."""
        self.process.communicate()
        self.process = subprocess.Popen(
            COMMAND, env=ENVIRONMENT, cwd=self.place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    @property
    def recorded(self) -> int:
        return len((self.run / METRICS).read_bytes().splitlines())

    def wait_for(self, evaluations: int) -> None:
        """Until so many are recorded: more than before, so that they are of this process."""
        while self.process.poll() is None:
            try:
                if self.recorded >= evaluations:
                    return
            except (ValueError, FileNotFoundError):
                pass
            time.sleep(0.002)
        raise AssertionError(f"it ended first: {self.process.communicate()}")

    def stop(self, number: int) -> tuple[int, str]:
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=60)
        return self.process.returncode, told


def test_the_same_command_after_kill_9_sigterm_and_ctrl_c_ends_as_one_left_alone(tmp_path):
    whole = Trained(tmp_path / "whole")
    whole.process.communicate()
    assert (whole.process.returncode, read_run(whole.run).state) == (0, "done")
    assert len(rows(whole.run)) == 120

    stopped = Trained(tmp_path / "stopped")
    stopped.wait_for(3)
    code, _ = stopped.stop(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert read_run(stopped.run).state == "interrupted"

    for number, expected in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = stopped.recorded
        stopped.again()  # after the kill it begins anew, for there was no checkpoint yet
        stopped.wait_for(before + 2)
        code, told = stopped.stop(number)
        assert code == expected
        assert told.count("\n") == 1
        assert read_run(stopped.run).state == "interrupted"
        assert before + 2 <= len(rows(stopped.run)) < 120

    stopped.again()
    stopped.process.communicate()
    assert stopped.process.returncode == 0
    assert outcome(stopped.run) == outcome(whole.run)
