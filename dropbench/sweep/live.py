"""What a user sees of a sweep while it runs: a live part on a terminal, plain lines elsewhere, failures at once.

rich is imported only when something is shown.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dropbench.compare.groups import figure as shown_figure
from dropbench.terminal import clean, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.text import Text

_QUIET = 10.0  # seconds between two plain lines
_ENOUGH = 2.0  # seconds of training from which the rest is extrapolated
_MOST_BESTS = 3
_MOST_STACKS = 12
_NARROWEST_BAR, _WIDEST_BAR = 10, 30


def span(seconds: float) -> str:
    """A stretch of time as people say it: `about 40 s`, `about 14 min`, `about 2 h 10 min`, `about 3 d 4 h`.

    Above an hour it is rounded to 5 minutes, above a day to an hour.

    Args:
        seconds: not negative, finite.
    """
    if seconds < 59.5:
        return f"about {max(1, _nearest(seconds))} s"
    if seconds < 3570:  # 59.5 min
        return f"about {_nearest(seconds / 60)} min"
    minutes = 5 * _nearest(seconds / 300)
    if minutes < 24 * 60:
        return _two(minutes, 60, "h", "min")
    return _two(_nearest(seconds / 3600), 24, "d", "h")


def _nearest(x: float) -> int:
    return math.floor(x + 0.5)  # round() takes 2.5 to 2


def _two(count: int, base: int, large: str, small: str) -> str:
    wholes, rest = divmod(count, base)
    return f"about {wholes} {large}" + (f" {rest} {small}" if rest else "")


@dataclass(frozen=True)
class _Stack:
    """A stack on a worker.

    Args:
        number: as it is shown.
        first: the id of its first run, as it is shown.
        size: its runs.
        left: ids of those that are not over.
        share: of the steps that are done.
        base: the same when it was first heard of; None before.
    """

    number: int
    first: str
    size: int
    left: frozenset[str]
    share: float = 0.0
    base: float | None = None

    @property
    def origin(self) -> float:
        """Where it began: a resumed run does not start at zero."""
        return self.share if self.base is None else self.base

    @property
    def gained(self) -> float:
        """The share of each run that was trained since."""
        return self.share - self.origin


@dataclass(frozen=True)
class _Best:
    value: float
    text: str
    run: str


@dataclass(frozen=True)
class _Standing:
    """Where the sweep stands: what is drawn, by a thread of its own, while the next standing is made.

    Args:
        total: runs to be trained in this command.
        before: runs recorded before it.
        done, failed, running: runs of `total`.
        work: what was trained since `began`, in runs.
        left: what is still to be trained, in runs.
        began: when the training did, by the clock of the view.
        stacks: on the workers.
        bests: one a data set and figure, those last heard of.
        more: whether there are further bests.
    """

    total: int
    before: int
    done: int
    failed: int
    running: int
    work: float
    left: float
    began: float
    stacks: tuple[_Stack, ...]
    bests: tuple[_Best, ...]
    more: bool

    @property
    def recorded(self) -> str:
        return f" (+{self.before} before)" if self.before else ""

    @property
    def share(self) -> float:
        return 1 - self.left / self.total if self.total else 1.0

    def pace(self, now: float) -> tuple[str, str] | None:
        """`820 runs/hour` and `about 3 min left` (empty at the end), once there is something to extrapolate."""
        elapsed = now - self.began
        if elapsed < _ENOUGH or self.work <= 0:
            return None
        hourly = 3600 * self.work / elapsed
        rate = f"{hourly:,.0f}" if hourly >= 10 else f"{hourly:.2g}"
        left = f"{span(elapsed * self.left / self.work)} left" if self.left > 0 else ""
        return f"{rate} runs/hour", left

    def line(self, now: float) -> str:
        """Everything in one line, for a pipe."""
        parts = [f"{self.done}/{self.total} runs done{self.recorded}", f"{self.running} running"]
        parts.append(f"{self.failed} failed")
        bests = [f"{best.text} ({best.run})" for best in self.bests] + ["..."] * self.more
        if bests:
            parts.append(f"best {', '.join(bests)}")
        parts += self.pace(now) or ()
        return ", ".join(part for part in parts if part)

    def headline(self, now: float, width: int) -> str:
        """How many runs, how fast and how long, as much as fits; what matters least goes first."""
        rate, left = self.pace(now) or ("", "")
        left = left.removeprefix("about ")
        counts = f"runs {self.done}/{self.total} done"
        others = f", {self.running} running, {self.failed} failed"
        forms = [
            (counts + self.recorded + others, rate, left),
            (counts + others, rate, left),
            (counts + others, left),
            (counts + others,),
            (counts,),
        ]
        lines = [" | ".join(part for part in form if part) for form in forms]
        return next((line for line in lines if len(line) <= width), lines[-1])

    def best_lines(self, width: int) -> list[str]:
        lines = []
        for best in self.bests:
            label = f"best so far: {best.text}  "
            lines.append(label + _shortened(best.run, width - len(label)))
        return lines + ["..."] * self.more

    def stack_lines(self, width: int, most: int) -> list[str]:
        """`stack 7   42 %  digits-mlp-gradual-r0.5-s0-3f9a1c2b +15`, at most `most` lines."""
        many = len(self.stacks) > most
        shown = self.stacks[: most - 1] if many else self.stacks
        longest = max((len(str(stack.number)) for stack in shown), default=1)
        lines = []
        for stack in shown:
            label = f"stack {stack.number:{longest}}  {math.floor(100 * stack.share):3} %  "
            others = f" +{stack.size - 1}" if stack.size > 1 else ""
            lines.append(label + _shortened(stack.first, width - len(label) - len(others)) + others)
        return lines + [f"... and {len(self.stacks) - len(shown)} more stacks"] * many


def _shortened(name: str, width: int) -> str:
    """The name in at most `width` columns, cut in the middle: its end, a hash, tells it from others."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(name) <= width:
        return name
    kept = width - len("...")
    if kept < 2:
        return ""
    tail = kept // 2
    return f"{set_cell_size(name, kept - tail)}...{set_cell_size(name[::-1], tail)[::-1]}"


def _standard_error() -> Console:
    """A console on standard error that takes it for a terminal only if it is one, whatever FORCE_COLOR says."""
    from rich.console import Console

    class Errors(Console):
        def on_broken_pipe(self) -> None:
            """Nobody reads it any more: rich would end the program."""

    terminal = bool(sys.stderr and sys.stderr.isatty())
    return Errors(stderr=True, force_terminal=terminal, highlight=False, markup=False, emoji=False)


class View:
    """What a user sees of a sweep while it runs, on standard error.

    On a terminal a live part of few lines, gone at the end; elsewhere a line when a stack is over, at most one in 10 s,
    and one at the end. All methods are called by one thread. Where nothing can be shown any more (the terminal was
    closed), nothing is raised: the sweep goes on.

    Args:
        total: runs to be trained in this command.
        done: runs recorded before it.
        workers: that train stacks at the same time.
        shown: False leaves failures and notes alone.
        clock: seconds, monotonic.
        console: where to show it; by default standard error.
    """

    def __init__(
        self,
        total: int,
        done: int,
        workers: int,
        shown: bool,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._total, self._before, self._shown, self._clock = total, done, shown, clock
        self._console = _standard_error() if console is None else console
        # Without the first, TTY_INTERACTIVE draws into a pipe; the second is False for TERM=dumb.
        self._animated = shown and self._console.is_terminal and self._console.is_interactive
        self._live: Live | None = None
        self._slots: list[_Stack | None] = [None] * workers
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._waiting: dict[str, float] = {}  # runs off the workers and not over: how far they are
        self._work = 0.0
        self._bests: dict[tuple[str, str], _Best] = {}
        self._heard: dict[tuple[str, str], None] = {}  # the same keys, the last one heard of at the end
        self._began, self._measured = clock(), False
        self._told, self._told_of = -math.inf, 0  # the last plain line: when, and of how many runs that were over
        self._update()

    def __enter__(self) -> View:
        """Starts the live part."""
        if self._animated:
            from rich.live import Live

            self._live = Live(
                self, console=self._console, refresh_per_second=4, transient=True,
                redirect_stdout=False, redirect_stderr=False,
            )  # fmt: skip
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Gives the terminal back as it was; where there is none, says how it ended."""
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()
            self._live = None
        elif len(self._done) + len(self._failed) > self._told_of:
            self._tell()

    def started(self, stack: int, runs: Sequence[str]) -> None:
        """A worker took up a stack.

        Args:
            stack: its number, as it is shown; no other stack on the workers has it.
            runs: ids, at least one; those that have a result already are not counted again.
        """
        left = frozenset(runs) - self._done
        self._failed -= left
        share = math.fsum(self._waiting.pop(run, 0.0) for run in left) / max(1, len(left))
        taken = _Stack(stack, clean(runs[0]), len(runs), left, share)
        if None in self._slots:
            self._slots[self._slots.index(None)] = taken
        else:
            self._slots.append(taken)
        self._update()

    def progress(self, stack: int, share: float) -> None:
        """A stack is so far: 0 to 1 of its steps, those of an earlier command among them."""
        if not self._measured:
            # A process takes seconds to start: what is extrapolated begins with the first step.
            self._began, self._measured = self._clock(), True
        for slot, held in enumerate(self._slots):
            if held is not None and held.number == stack:
                base = share if held.base is None else min(held.base, share)
                self._slots[slot] = replace(held, share=share, base=base)
        self._update()

    def finished(self, run: str, figure: float | None, name: str, about: str = "") -> None:
        """A run has its result.

        Args:
            run: its id.
            figure: of the validation part, lower is better; None or not finite is never the best.
            name: of the figure: `error` (in percent), `rmse`.
            about: the name of the data set; runs on different ones are not compared.
        """
        new = run not in self._done and run not in self._waiting
        stack = self._leave(run)
        self._measured = True
        self._done.add(run)
        self._failed.discard(run)
        if new:
            self._work += 1 - (stack.origin if stack else 0.0)
        if figure is not None and math.isfinite(figure):
            key = (about, name)
            if key not in self._bests or figure < self._bests[key].value:
                unit = " %" if name == "error" else ""
                text = f"{shown_figure(figure, name)}{unit} validation {clean(name)}"
                self._bests[key] = _Best(figure, text, clean(run))
            self._heard.pop(key, None)
            self._heard[key] = None
        self._update()

    def failed(self, run: str, reason: str) -> None:
        """A run failed: shown at once, in one line."""
        stack = self._leave(run)
        self._failed.add(run)
        self._work += stack.gained if stack else 0.0
        self._update()
        self._say(f"dropbench: failed: {run}: {' '.join(reason.split())}", "red")

    def stopped(self, stack: int) -> None:
        """A stack is off the workers: its runs finished or failed before; what remains of them may come back."""
        for slot, held in enumerate(self._slots):
            if held is not None and held.number == stack:
                self._slots[slot] = None
                self._work += held.gained * len(held.left)
                self._waiting |= dict.fromkeys(held.left, held.share)
        self._update()
        over = len(self._done) + len(self._failed) > self._told_of
        if self._shown and not self._animated and over and self._clock() - self._told >= _QUIET:
            self._tell()

    def note(self, line: str) -> None:
        """Says something at once, above the live part: `warning: ...`."""
        self._say(f"dropbench: {' '.join(line.split())}")

    def grew(self, more: int) -> None:
        """There are more runs to be trained than was known."""
        self._total += more
        self._update()

    def dropped(self, run: str) -> None:
        """A run that was to be trained will not be: it was refused, or it cannot win any more."""
        stack = self._leave(run)
        self._total -= 1
        self._work += stack.gained if stack else 0.0
        self._update()

    def __str__(self) -> str:
        """Everything in one line."""
        return self._standing.line(self._clock())

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The live part, never wider or higher than the terminal."""
        from rich.text import Text

        now, standing, width = self._clock(), self._standing, options.max_width
        height = options.size.height - 1  # one line stays free for the cursor
        headline = standing.headline(now, width)
        columns = min(_WIDEST_BAR, (width - len(headline) - 1) // _NARROWEST_BAR * _NARROWEST_BAR)
        if columns >= _NARROWEST_BAR:
            full, empty = "#-" if options.ascii_only else "━─"
            filled = math.floor(standing.share * columns)
            yield Text.assemble(
                (full * filled, "green"),
                (empty * (columns - filled), "dim"),
                f" {headline}",
                no_wrap=True,
                overflow="crop",
            )
        else:
            yield Text(headline, no_wrap=True, overflow="crop")
        lines = standing.best_lines(width)
        lines += standing.stack_lines(width, max(1, min(_MOST_STACKS, height - 1 - len(lines))))
        for line in lines[: max(0, height - 1)]:
            yield Text(line, no_wrap=True, overflow="crop")

    def _leave(self, run: str) -> _Stack | None:
        """Takes a run out of its stack; returns the stack, if it is on a worker."""
        self._waiting.pop(run, None)
        for slot, held in enumerate(self._slots):
            if held is not None and run in held.left:
                self._slots[slot] = replace(held, left=held.left - {run})
                return held
        return None

    def _update(self) -> None:
        stacks = tuple(held for held in self._slots if held is not None)
        recent = list(self._heard)[-_MOST_BESTS:]
        over = len(self._done) + len(self._failed)
        begun = sum(stack.share * len(stack.left) for stack in stacks) + sum(self._waiting.values())
        self._standing = _Standing(
            total=self._total,
            before=self._before,
            done=len(self._done),
            failed=len(self._failed),
            running=sum(len(stack.left) for stack in stacks),
            work=self._work + sum(stack.gained * len(stack.left) for stack in stacks),
            left=max(0.0, self._total - over - begun),
            began=self._began,
            stacks=stacks,
            bests=tuple(best for key, best in self._bests.items() if key in recent),
            more=len(self._bests) > _MOST_BESTS,
        )

    def _tell(self) -> None:
        if self._shown:
            self._told, self._told_of = self._clock(), len(self._done) + len(self._failed)
            self._say(str(self))

    def _say(self, line: str, style: str = "") -> None:
        with suppress(OSError):
            say(line, self._console, style)
