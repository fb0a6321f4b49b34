"""The live view of a sweep: what is on the screen and in a log, line by line, and the arithmetic of the time left."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise

import pytest
from rich.cells import cell_len
from rich.console import Console

from dropbench.sweep.live import View, span

RUN = "digits-mlp-gradual-r0.5-s0-3f9a1c2b"
HOSTILE = "[bold]x[/bold]\x1b[2J\nnext\u202e"
CLEANED = r"[bold]x[/bold]\x1b[2J\nnext\u202e"


class Time:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def screen(written: str, width: int) -> tuple[list[str], int]:
    """The lines of a terminal that was sent this, and the row of its cursor; only what the view may send is known."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|.|\n", written):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token == "\x1b[1A":
            row -= 1
            assert row >= 0
        elif token.startswith("\x1b"):
            assert re.fullmatch(r"\x1b\[([0-9;]*m|\?25[lh])", token), token
        else:
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += cell_len(token)
            assert column <= width, "a line wraps"
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines], row


def cursor(written: str) -> str:
    return "hidden" if written.rfind("\x1b[?25l") > written.rfind("\x1b[?25h") else "shown"


class Sight:
    """A view and what it wrote; `tty=False`: to a pipe."""

    def __init__(self, total=4, done=0, workers=2, shown=True, tty=True, width=80, height=24, file=None, **environ):
        self.time, self.file, self.width = Time(), file or io.StringIO(), width
        self.console = Console(
            file=self.file, force_terminal=tty, width=width if tty else None, height=height if tty else None,
            _environ={"TERM": "xterm-256color", **environ}, highlight=False, markup=False, emoji=False,
        )  # fmt: skip
        self.view = View(total, done, workers, shown, clock=self.time, console=self.console)

    @property
    def written(self) -> str:
        return self.file.getvalue()

    def look(self) -> list[str]:
        """What is on the screen, after a note that has the live part drawn again; without that note."""
        self.view.note("look")
        return [line for line in screen(self.written, self.width)[0] if line != "dropbench: look"]

    def train(self, stack: int, runs: Sequence[str], seconds: float, figure: float | None = None) -> None:
        """A stack from its first step to its end."""
        self.view.started(stack, runs)
        self.view.progress(stack, 0.0)
        self.time.now += seconds
        for run in runs:
            self.view.finished(run, figure, "error")
        self.view.stopped(stack)


# ---- words for a stretch of time


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "about 1 s"), (0.2, "about 1 s"), (2.5, "about 3 s"), (40, "about 40 s"), (59.4, "about 59 s"),
        (59.5, "about 1 min"), (90, "about 2 min"), (14 * 60 + 20, "about 14 min"), (3569, "about 59 min"),
        (3570, "about 1 h"), (3900, "about 1 h 5 min"), (7830, "about 2 h 10 min"), (8 * 3600, "about 8 h"),
        (86_200, "about 23 h 55 min"), (86_399, "about 1 d"), (100 * 3600, "about 4 d 4 h"),
    ],
)  # fmt: skip
def test_a_stretch_of_time_in_words(seconds, words):
    assert span(seconds) == words


def test_longer_is_never_said_to_be_shorter():
    units = {"s": 1, "min": 60, "h": 3600, "d": 86_400}

    def value(words: str) -> int:
        return sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+) (\w+)", words))

    said = [value(span(seconds)) for seconds in range(0, 200_000, 7)]
    assert all(before <= after for before, after in pairwise(said))


# ---- a terminal


def test_the_screen_while_runs_train():
    sight = Sight(total=48, workers=3)
    view = sight.view
    with view:
        assert sight.look() == ["─" * 30 + " runs 0/48 done, 0 running, 0 failed"]
        view.started(1, [RUN, *(f"run{i}" for i in range(15))])
        view.started(12, ["digits-cnn-none-r0-s0-aaaaaaaa"])
        view.progress(1, 0.0)
        view.progress(12, 0.0)
        sight.time.now += 36
        view.progress(1, 0.5)
        view.progress(12, 0.129)
        for i in range(4):
            view.finished(f"run{i}", 3.0 - i / 10, "error", "digits")
        view.failed("run5", "loss is nan")
        # Trained: 4 runs, half of the failed one, half of 11, 0.129 of one = 10.129 in 36 s, 1013 an hour.
        # To be trained: 48 - 5 - 5.5 - 0.129 = 37.371, at that speed 133 s.
        assert sight.look() == [
            "dropbench: failed: run5: loss is nan",
            "━━──────── runs 4/48 done, 12 running, 1 failed | 1,013 runs/hour | 2 min left",
            "best so far: 2.70 % validation error  run3",
            "stack  1   50 %  digits-mlp-gradual-r0.5-s0-3f9a1c2b +15",
            "stack 12   12 %  digits-cnn-none-r0-s0-aaaaaaaa",
        ]


def test_a_wide_screen_has_a_wider_bar_and_whole_names():
    sight = Sight(total=4, done=12, width=200)
    name = "long-" * 20 + "3f9a1c2b"
    with sight.view:
        sight.view.started(1, [name, "b"])
        sight.view.progress(1, 0.0)
        sight.time.now += 10
        sight.view.finished("b", 0.03121, "rmse")
        sight.view.finished(name, 0.02, "rmse")
        sight.view.stopped(1)
        sight.view.started(2, [name + "x"])
        assert sight.look() == [
            "━" * 15 + "─" * 15 + " runs 2/4 done (+12 before), 1 running, 0 failed | 720 runs/hour | 10 s left",
            f"best so far: 0.0200 validation rmse  {name}",
            f"stack 2    0 %  {name}x",
        ]


def test_a_stack_keeps_its_line_and_a_free_one_is_taken():
    sight = Sight(total=9, workers=3)
    with sight.view as view:
        for stack in (1, 2, 3):
            view.started(stack, [f"run{stack}"])
        view.stopped(1)
        assert [line[:7] for line in sight.look()[1:]] == ["stack 2", "stack 3"]
        view.started(4, ["run4"])
        assert [line[:7] for line in sight.look()[1:]] == ["stack 4", "stack 2", "stack 3"]


@pytest.mark.parametrize("width", [15, 20, 40, 60, 79])
def test_a_narrow_screen_shows_what_matters_most(width):
    """`screen` fails where a line wraps."""
    sight = Sight(total=4800, done=1200, workers=4, width=width)
    with sight.view as view:
        assert len(screen(sight.written, width)[0]) == 1
        view.started(1, [RUN, *(f"run{i}" for i in range(100))])
        view.started(2, ["宽" * 60])
        view.progress(1, 0.0)
        sight.time.now += 100
        view.finished("run1", 2.3, "error")
        view.finished("宽" * 60, 2.2, "error", "wide")
        lines = sight.look()
    assert len(lines) == 5
    first = {
        15: "runs 2/4800 don",
        20: "runs 2/4800 done",
        40: "runs 2/4800 done, 100 running, 0 failed",
        60: "runs 2/4800 done, 100 running, 0 failed | 2 d 19 h left",
        79: "runs 2/4800 done, 100 running, 0 failed | 72 runs/hour | 2 d 19 h left",
    }
    assert lines[0] == first[width]  # 4798 runs at 50 s each are 2 d 18.6 h


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (56, f"stack 1    0 %  {RUN} +100"),
        (55, "stack 1    0 %  digits-mlp-gradu...0.5-s0-3f9a1c2b +100"),
        (40, "stack 1    0 %  digits-m...3f9a1c2b +100"),
        (26, "stack 1    0 %  d...b +100"),
        (25, "stack 1    0 %   +100"),
    ],
)
def test_a_name_is_cut_in_the_middle(width, line):
    """Its end is the hash that tells it from others."""
    sight = Sight(total=200, width=width)
    with sight.view as view:
        view.started(1, [RUN, *(f"run{i}" for i in range(100))])
        assert sight.look()[-1] == line


def test_of_many_workers_some_are_shown():
    sight = Sight(total=99, workers=30)
    with sight.view as view:
        for stack in range(1, 31):
            view.started(stack, [f"run{stack}"])
        lines = sight.look()
    assert len(lines) == 13
    assert lines[1] == "stack  1    0 %  run1"
    assert lines[-2:] == ["stack 11    0 %  run11", "... and 19 more stacks"]


@pytest.mark.parametrize("height", [2, 3, 6])
def test_a_low_screen_is_never_filled(height):
    """What scrolls off cannot be taken back."""
    sight = Sight(total=99, workers=30, height=height)
    with sight.view as view:
        for stack in range(1, 31):
            view.started(stack, [f"run{stack}"])
        view.finished("run30", 1.0, "error")
        lines = sight.look()
    assert len(lines) <= height - 1
    assert lines[0].endswith("runs 1/99 done, 29 running, 0 failed")
    assert screen(sight.written, 80) == (["dropbench: look"], 1)


def test_the_best_of_each_data_set_and_figure():
    sight = Sight(total=99)
    with sight.view as view:
        view.finished("a1", 5.0, "error", "a")
        view.finished("a2", 4.0, "error", "a")
        view.finished("a3", 4.0, "error", "a")
        view.finished("b1", 0.5, "rmse", "b")
        view.finished("b2", None, "rmse", "b")
        view.finished("b3", float("nan"), "rmse", "b")
        view.finished("b4", float("-inf"), "rmse", "b")
        two = ["best so far: 4.00 % validation error  a2", "best so far: 0.5000 validation rmse  b1"]
        assert sight.look()[1:] == two
        view.finished("c1", 7.0, "error", "c")
        three = [*two, "best so far: 7.00 % validation error  c1"]
        assert sight.look()[1:] == three
        view.finished("d1", 8.0, "error", "d")
        assert sight.look()[1:] == [*three[1:], "best so far: 8.00 % validation error  d1", "..."]
        view.finished("a4", 9.0, "error", "a")
        assert sight.look()[1:] == [three[0], three[2], "best so far: 8.00 % validation error  d1", "..."]


def test_it_is_gone_at_the_end_and_messages_stay():
    sight = Sight()
    streams = sys.stdout, sys.stderr
    with sight.view as view:
        assert (sys.stdout, sys.stderr) == streams
        view.started(1, [RUN, "b"])
        view.note("warning: a disk is slow")
        view.failed("b", "ValueError: no\n  good ")
        assert cursor(sight.written) == "hidden"
    lines = ["dropbench: warning: a disk is slow", "dropbench: failed: b: ValueError: no good"]
    assert screen(sight.written, 80) == (lines, 2)
    assert cursor(sight.written) == "shown"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_whatever_is_raised_the_terminal_is_given_back(error):
    sight = Sight()

    def sweep() -> None:
        with sight.view as view:
            view.started(1, [RUN])
            raise error

    with pytest.raises(error):
        sweep()
    assert screen(sight.written, 80) == ([], 0)
    assert cursor(sight.written) == "shown"
    sight.console.print("after")
    assert sight.written.endswith("after\n")


def test_names_do_no_harm():
    sight = Sight(width=120)
    with sight.view as view:
        view.started(1, [HOSTILE, "b"])
        view.failed("b" + HOSTILE, HOSTILE)
        view.finished(HOSTILE, 1.0, "error", HOSTILE)
        view.note(HOSTILE)
        assert sight.look() == [
            rf"dropbench: failed: b{CLEANED}: [bold]x[/bold]\x1b[2J next\u202e",
            r"dropbench: [bold]x[/bold]\x1b[2J next\u202e",
            "━━━━━━━━━━━━━━━─────────────── runs 1/4 done, 1 running, 1 failed",
            f"best so far: 1.00 % validation error  {CLEANED}",
            f"stack 1    0 %  {CLEANED} +1",
        ]


def test_colours_and_none():
    def written(**environ: str) -> str:
        sight = Sight(**environ)
        with sight.view as view:
            view.failed("b", "no")
        return sight.written

    assert "\x1b[31m" in written()
    assert not re.search(r"\x1b\[[0-9;]*3\d", written(NO_COLOR="1"))


def test_a_terminal_without_unicode():
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    sight = Sight(file=file)
    with sight.view as view:
        view.finished("a", None, "error")
        view.note("look")
    written = file.buffer.getvalue().decode("ascii")
    assert screen(written, 80)[0] == ["dropbench: look"]
    assert "#" * 7 in written
    assert "-" * 23 in written


# ---- how fast, how long


def pace(sight: Sight) -> str:
    """What the first line says after the counts."""
    return str(sight.view).partition(" failed")[2].removeprefix(", ")


def test_the_time_left_goes_by_the_work_done():
    sight = Sight(total=10)
    sight.view.started(1, ["a", "b", "c", "d"])
    sight.view.progress(1, 0.0)
    assert pace(sight) == ""
    sight.time.now += 60
    assert pace(sight) == ""
    sight.view.progress(1, 0.5)  # 2 runs' worth in 60 s; 8 to go
    assert pace(sight) == "120 runs/hour, about 4 min left"
    sight.view.finished("a", None, "error")  # 1 + 3/2 in 60 s; 7.5 to go
    assert pace(sight) == "150 runs/hour, about 3 min left"
    sight.view.grew(10)  # 17.5 to go: 7 minutes
    assert pace(sight) == "150 runs/hour, about 7 min left"
    for i in range(14):
        sight.view.dropped(f"later{i}")  # 3.5 to go
    assert pace(sight) == "150 runs/hour, about 1 min left"
    sight.view.dropped("b")  # half of it was work and half of it is not to be done: 3 to go, 72 s
    assert str(sight.view) == "1/5 runs done, 2 running, 0 failed, 150 runs/hour, about 1 min left"
    sight.time.now += 15
    sight.view.progress(1, 1.0)  # 1 + 2 + a half in 75 s; 2 to go
    assert pace(sight) == "168 runs/hour, about 43 s left"


def test_the_first_seconds_say_nothing():
    sight = Sight(total=10)
    sight.view.started(1, ["a"])
    sight.view.progress(1, 0.0)
    sight.time.now += 1.9
    sight.view.progress(1, 0.9)
    assert pace(sight) == ""
    sight.time.now += 0.1
    assert pace(sight) == "1,620 runs/hour, about 20 s left"  # 0.9 runs in 2 s; 9.1 to go


def test_the_start_of_the_processes_does_not_count():
    sight = Sight(total=10)
    sight.view.started(1, ["a"])
    sight.time.now += 30
    sight.view.progress(1, 0.0)
    sight.time.now += 10
    sight.view.progress(1, 0.5)
    assert pace(sight) == "180 runs/hour, about 3 min left"  # 9.5 runs at 20 s


def test_what_an_earlier_command_trained_is_no_work_of_this():
    sight = Sight(total=10)
    sight.view.started(1, [f"run{i}" for i in range(10)])
    sight.view.progress(1, 0.6)
    sight.time.now += 20
    sight.view.progress(1, 0.8)
    assert pace(sight) == "360 runs/hour, about 20 s left"
    sight.time.now += 20
    for i in range(10):
        sight.view.finished(f"run{i}", None, "error")
    assert pace(sight) == "360 runs/hour"  # 10 times 0.4 in 40 s


def test_a_run_that_fails_at_once_is_no_work():
    sight = Sight(total=10)
    sight.view.started(1, ["a", "b"])
    sight.view.progress(1, 0.0)
    sight.time.now += 10
    sight.view.failed("a", "no")
    assert pace(sight) == ""
    sight.view.progress(1, 0.5)
    assert pace(sight) == "180 runs/hour, about 3 min left"  # 8.5 at 20 s


def test_a_stack_that_waits_keeps_what_it_has():
    sight = Sight(total=4)
    runs = ["a", "b", "c", "d"]
    sight.view.started(1, runs)
    sight.view.progress(1, 0.0)
    sight.time.now += 100
    sight.view.progress(1, 0.5)
    sight.view.stopped(1)
    assert str(sight.view) == "0/4 runs done, 0 running, 0 failed, 72 runs/hour, about 2 min left"  # 2 of 4 in 100 s
    sight.view.started(2, runs[:2])
    assert pace(sight) == "72 runs/hour, about 2 min left"
    sight.view.progress(2, 0.5)
    sight.time.now += 50
    sight.view.progress(2, 1.0)
    assert pace(sight) == "72 runs/hour, about 50 s left"  # 3 of 4 in 150 s
    for run in runs[:2]:
        sight.view.finished(run, None, "error")
    sight.view.stopped(2)
    assert pace(sight) == "72 runs/hour, about 50 s left"
    sight.view.failed("c", "no")
    assert pace(sight) == "72 runs/hour, about 25 s left"  # half a run
    sight.view.finished("d", None, "error")  # by another process: no work of this command
    assert pace(sight) == "72 runs/hour"


def test_a_stack_that_starts_anew_loses_no_time():
    sight = Sight(total=2)
    sight.view.started(1, ["a", "b"])
    sight.view.progress(1, 0.8)
    sight.view.progress(1, 0.0)  # the checkpoint was stale
    sight.time.now += 10
    sight.view.progress(1, 0.5)
    assert pace(sight) == "360 runs/hour, about 10 s left"


def test_words_that_come_late_or_twice_change_nothing():
    sight = Sight(total=2)
    sight.train(1, ["a"], 10)
    before = str(sight.view)
    sight.view.progress(1, 0.3)
    sight.view.stopped(1)
    sight.view.finished("a", None, "error")
    assert str(sight.view) == before == "1/2 runs done, 0 running, 0 failed, 360 runs/hour, about 10 s left"
    sight.view.failed("b", "no")
    sight.view.finished("b", None, "error")  # it was trained again
    assert str(sight.view).startswith("2/2 runs done, 0 running, 0 failed")


def test_runs_that_are_over_may_be_taken_up_again():
    sight = Sight(total=3)
    with sight.view as view:
        view.failed("a", "no")
        view.finished("b", None, "error")
        view.started(1, ["a", "b"])
        view.progress(1, 0.5)  # 1.5 of 3
        assert sight.look()[1] == "━" * 15 + "─" * 15 + " runs 1/3 done, 1 running, 0 failed"
        view.stopped(1)
        view.started(2, ["b"])  # nothing of it is left
        assert str(view) == "1/3 runs done, 0 running, 0 failed"


def test_more_runs_than_were_announced():
    sight = Sight(total=1)
    with sight.view as view:
        view.finished("a", None, "error")
        view.finished("b", None, "error")
        assert sight.look() == ["━" * 30 + " runs 2/1 done, 0 running, 0 failed"]


@pytest.mark.parametrize(("seconds", "rate"), [(5, "720"), (360, "10"), (370, "9.7"), (7200, "0.5")])
def test_slow_sweeps_have_decimals(seconds, rate):
    sight = Sight(total=2)
    sight.train(1, ["a"], seconds)
    assert pace(sight).startswith(f"{rate} runs/hour")


# ---- a pipe


def test_the_lines_in_a_pipe():
    sight = Sight(total=48, done=3, tty=False)
    with sight.view as view:
        assert sight.written == ""
        view.started(2, [f"{RUN}{i}" for i in range(8)])
        sight.train(1, [f"run{i}" for i in range(12)], 60, 2.314)
        # 12 in 60 s, 36 to go
        assert sight.written == (
            "12/48 runs done (+3 before), 8 running, 0 failed, best 2.31 % validation error (run0), 720 runs/hour, "
            "about 3 min left\n"
        )


def test_a_line_a_stack_but_not_too_many():
    sight = Sight(total=6, tty=False)

    def counts() -> list[str]:
        return [line.partition(" ")[0] for line in sight.written.splitlines()]

    with sight.view as view:
        sight.train(1, ["a"], 1)
        assert counts() == ["1/6"]
        sight.train(2, ["b"], 9.9)
        assert counts() == ["1/6"]
        sight.train(3, ["c"], 0.1)
        assert counts() == ["1/6", "3/6"]
        view.started(4, ["d"])
        sight.time.now += 60
        view.stopped(4)  # its worker died: nothing is over
        assert counts() == ["1/6", "3/6"]
        sight.train(5, ["d"], 0)
        sight.train(6, ["e"], 1)
        assert counts() == ["1/6", "3/6", "4/6"]
    assert counts() == ["1/6", "3/6", "4/6", "5/6"]  # the last is said in any case


def test_the_last_line_is_not_said_twice():
    sight = Sight(total=1, tty=False)
    with sight.view:
        sight.train(1, ["a"], 5)
    assert sight.written == "1/1 runs done, 0 running, 0 failed, 720 runs/hour\n"
    nothing = Sight(total=1, tty=False)
    with nothing.view:
        nothing.view.started(1, ["a"])
    assert nothing.written == ""


def test_failures_and_notes_come_at_once_in_a_pipe():
    sight = Sight(total=4, tty=False)
    with sight.view as view:
        view.failed("a" + HOSTILE, HOSTILE)
        assert sight.written == rf"dropbench: failed: a{CLEANED}: [bold]x[/bold]\x1b[2J next\u202e" + "\n"
        view.note(" ".join(["warning: long"] * 30))
        assert sight.written.splitlines()[1:] == ["dropbench: " + " ".join(["warning: long"] * 30)]
        view.finished(HOSTILE, 1.0, "error", "digits")
        view.finished("b", 0.5, "rmse", "b")
        view.finished("c", 0.5, "rmse", "c")
        view.finished("d", 0.25, "rmse", "d")
    assert sight.written.splitlines()[2:] == [
        "4/4 runs done, 0 running, 1 failed, best 0.5000 validation rmse (b), 0.5000 validation rmse (c), "
        "0.2500 validation rmse (d), ..."
    ]
    assert not set(sight.written) & {"\x1b", "\r"}


@pytest.mark.parametrize("tty", [True, False])
def test_quiet_leaves_failures_and_notes(tty):
    sight = Sight(total=3, tty=tty, shown=False, NO_COLOR="1")
    with sight.view as view:
        sight.train(1, ["a"], 60, 1.0)
        view.failed("b", "no")
        view.note("warning: careful")
        sight.train(2, ["c"], 60, 1.0)
    assert sight.written == "dropbench: failed: b: no\ndropbench: warning: careful\n"


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "unknown"}])
def test_a_dumb_terminal_is_told_lines(environ):
    sight = Sight(total=1, **environ)
    with sight.view as view:
        sight.train(1, ["a"], 5)
        view.failed("b", "no")
    assert sight.written == "1/1 runs done, 0 running, 0 failed, 720 runs/hour\ndropbench: failed: b: no\n" + (
        "1/1 runs done, 0 running, 1 failed, 720 runs/hour\n"
    )


def test_standard_error_is_asked_whether_it_is_a_terminal(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.setenv(name, "1")
    with View(1, 0, 1, shown=True) as view:
        view.started(1, ["a"])
        view.failed("a", "[red]no[/red] :smile: 1234")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "dropbench: failed: a: [red]no[/red] :smile: 1234\n0/1 runs done, 0 running, 1 failed\n"


class Gone(io.StringIO):
    """A terminal that was closed, a pipe that nobody reads."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("tty", [True, False])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sweep_does_not_end_with_its_terminal(tty):
    sight = Sight(total=3, tty=tty, file=Gone())
    with sight.view as view:
        sight.file.error = OSError(errno.EIO, "Input/output error")
        view.note("a note")
        view.failed("b", "no")
        sight.train(1, ["a"], 60)
    assert "1/3" not in sight.written


def test_a_sweep_does_not_end_with_its_pipe():
    program = (
        "from dropbench.sweep.live import View\n"
        "with View(1, 0, 1, shown=True) as view:\n"
        "    view.note('to nobody')\n"
        "    view.failed('a', 'no')\n"
        "print('went on', flush=True)\n"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing, text=True, check=False
    )
    os.close(writing)
    assert done.stdout == "went on\n"


def test_neither_torch_nor_rich_is_loaded_before_something_is_shown():
    program = "import sys, dropbench.sweep.live; sys.exit(sorted({'torch', 'rich', 'scipy'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
