"""What the benches share: sides that alternate, ratios of neighbours, the line of a goal, JSON.

    GOAL = Goal("P4", "MLP step with dropout against the same without", cpu=(1.2, 1.08), cuda=(1.05, 1.02))

    with Bench(GOAL, __doc__) as bench:
        for name, ours, theirs in ...:
            bench.pairs(name, ours, theirs)     # a line for each shape
        bench.conclude()                        # P4 1.15 (goal 1.2) ok

One process tree runs both sides in turn, A B A B, after warm-ups. A ratio is that of two neighbours, so a machine that
slows down for a second spoils one pair and no more; the figure of a shape is the median of its ratios, and the range
beside it holds 10 to 90 % of them. The figure of a goal is the geometric mean over its shapes; it is missed if one of
them is 1.5 times worse than the goal, whatever the mean. What the rest of the machine did meanwhile is said too: a
figure of a busy machine is none.

Nothing here loads torch before a bench asks for a device.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    import torch

#: A shape may be so many times worse than the goal of the mean.
WORST = 1.5
#: Seconds that a sample takes at least: one call, or as many as that needs.
LEAST = 0.05
#: Cores that others may keep busy, in the mean, before a line says so.
QUIET = 0.1

Target = tuple[float, float | None]


@dataclass(frozen=True)
class Goal:
    """What a bench is held against.

    Args:
        name: P1 to P11.
        what: is measured, in a line.
        cpu: the goal and the stretch (None for none) on two cores.
        cuda: the same on one GPU; None where no GPU takes part.
        more: whether a greater figure is a better one (a speed-up), not a smaller one (a share of time).
    """

    name: str
    what: str
    cpu: Target
    cuda: Target | None = None
    more: bool = False

    def of(self, device: str) -> Target:
        """The goal and the stretch on a kind of device."""
        return self.cuda if device == "cuda" and self.cuda is not None else self.cpu


@dataclass(frozen=True)
class Spread:
    """Of some values: the median, and the ends of the range that holds 10 to 90 % of them."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of a list that is not empty; the ends are values of it."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(statistics.median(ordered), ordered[round(0.1 * last)], ordered[round(0.9 * last)])


@dataclass(frozen=True)
class Figure:
    """What was measured of one shape.

    Args:
        shape: in words or numbers.
        ratio: of neighbours, A to B, or B to A where more is better.
        seconds: medians of a call of A and of one of B.
        calls: of A and of B in a sample.
        pairs: how many.
        about: what else is to be known of it.
    """

    shape: str
    ratio: Spread
    seconds: tuple[float, float]
    calls: tuple[int, int]
    pairs: int
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """A figure held against a goal: `missed`, `ok`, or `stretch`."""

    figure: float
    goal: float
    stretch: float | None
    status: str
    label: str = ""


def judge(figure: float, target: Target, more: bool, worst: float | None = None, label: str = "") -> Verdict:
    """The verdict on a figure; `worst`: that of the worst shape, which may be so much worse than the goal."""
    goal, stretch = target

    def reaches(value: float, limit: float, slack: float = 1.0) -> bool:
        return value * slack >= limit if more else value <= limit * slack

    status = "missed"
    if reaches(figure, goal) and (worst is None or reaches(worst, goal, WORST)):
        status = "stretch" if stretch is not None and reaches(figure, stretch) else "ok"
    return Verdict(figure, goal, stretch, status, label)


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of positive values."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def rounds(
    sides: Sequence[Callable[[], object]],
    count: int,
    *,
    warm_ups: int = 3,
    least: float = LEAST,
    wait: Callable[[], object] = lambda: None,
) -> tuple[list[list[float]], list[int]]:
    """Seconds of one call of each side, side by side in `count` rounds A B ... A B ...

    Args:
        sides: what to call.
        count: of rounds.
        warm_ups: rounds before the first that counts.
        least: seconds of a sample at least; a side that is faster is called several times in one.
        wait: for the device.

    Returns:
        The seconds of a call, by side and round, and the calls in a sample, by side.
    """

    def sample(side: Callable[[], object], calls: int) -> float:
        wait()
        begun = time.perf_counter()
        for _ in range(calls):
            side()
        wait()
        return (time.perf_counter() - begun) / calls

    first = [[sample(side, 1) for side in sides] for _ in range(warm_ups)]
    fastest = [min(column) for column in zip(*first, strict=True)] or [least] * len(sides)
    calls = [max(1, math.ceil(least / taken)) for taken in fastest]
    measured = [[sample(side, number) for side, number in zip(sides, calls, strict=True)] for _ in range(count)]
    return [list(column) for column in zip(*measured, strict=True)], calls


def agree(what: str, ours: float, theirs: float, within: float = 0.01) -> None:
    """Ends the bench if two sides that should have done the same work did not: relative difference above `within`."""
    if not abs(ours - theirs) <= within * max(abs(ours), abs(theirs)):
        broken(f"{what}: {ours:.6g} here and {theirs:.6g} there, so the sides do not do the same work")


def broken(reason: str) -> NoReturn:
    """Ends the bench: what it would measure is not what it should."""
    sys.exit(f"{Path(sys.argv[0]).name}: {reason}")


class Bench:
    """One bench: its options, what it measured, its verdicts; a context manager that writes the JSON.

    Args:
        goal: of the bench.
        doc: the docstring of the script, for --help.
        pairs: measured pairs, where --pairs does not say.
        add: adds options of its own to the parser.

    Attributes:
        options: from the command line: device, threads, pairs, json, and those that `add` added.
        figures: of the shapes.
    """

    def __init__(
        self,
        goal: Goal,
        doc: str | None,
        pairs: int = 15,
        add: Callable[[argparse.ArgumentParser], object] | None = None,
    ) -> None:
        text = doc or ""
        parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--pairs", type=int, default=pairs, help=f"measured pairs of a shape (default: {pairs})")
        parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
        parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure (default: cpu)")
        parser.add_argument("--json", type=Path, metavar="PATH", help="writes all numbers there")
        if add is not None:
            add(parser)
        self.goal, self.options = goal, parser.parse_args()
        if self.options.pairs < 1 or self.options.threads < 1:
            parser.error("--pairs and --threads: allowed: 1 and more")
        self.figures: list[Figure] = []
        self.verdicts: list[Verdict] = []
        self.notes: dict[str, Any] = {}
        self._device: torch.device | None = None
        self._rest = Rest()
        self._begun = time.perf_counter()

    def __enter__(self) -> Self:
        if self.options.device == "cuda":
            if self.goal.cuda is None:
                self.skip("no GPU takes part in it")
            import torch

            if not torch.cuda.is_available():
                self.skip("torch finds no CUDA device")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            others = self._rest.cores()
            if others is not None and others > QUIET:
                print(f"{self.goal.name} a busy machine: others kept {others:.1f} cores busy meanwhile", flush=True)
            self._write(others)

    @property
    def device(self) -> torch.device:
        """Where to measure; torch is set up for it, as dropbench does for a training."""
        if self._device is None:
            import torch

            from dropbench.runner import device_of

            torch.set_num_threads(self.options.threads)
            self._device = device_of(self.options.device)
        return self._device

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self._device is not None and self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)

    def pairs(
        self,
        shape: str,
        ours: Callable[[], object],
        theirs: Callable[[], object],
        *,
        scale: float = 1.0,
        warm_ups: int = 3,
        least: float = LEAST,
        about: Mapping[str, Any] | None = None,
    ) -> Figure:
        """Measures A against B, says it in a line, and keeps it.

        Args:
            shape: in words or numbers.
            ours: A, one call.
            theirs: B, one call.
            scale: what the ratio A to B is multiplied by, where A does `1 / scale` times the work of B.
            warm_ups: of both sides.
            least: seconds of a sample at least.
            about: what else is to be known of it.
        """
        (a, b), calls = rounds((ours, theirs), self.options.pairs, warm_ups=warm_ups, least=least, wait=self.wait)
        return self.add(shape, a, b, scale=scale, calls=(calls[0], calls[1]), about=about)

    def add(
        self,
        shape: str,
        a: Sequence[float],
        b: Sequence[float],
        *,
        scale: float = 1.0,
        calls: tuple[int, int] = (1, 1),
        about: Mapping[str, Any] | None = None,
    ) -> Figure:
        """Keeps seconds of A and B that were measured in turn, and says the figure in a line."""
        quotients = [scale * one / other for one, other in zip(a, b, strict=True)]
        ratio = Spread.of([1 / each for each in quotients] if self.goal.more else quotients)
        seconds = statistics.median(a), statistics.median(b)
        figure = Figure(shape, ratio, seconds, calls, len(quotients), dict(about or {}))
        self.figures.append(figure)
        number = "1 pair" if figure.pairs == 1 else f"{figure.pairs} pairs"
        facts = "".join(f", {key} {value}" for key, value in figure.about.items())
        print(
            f"{self.goal.name} {figure.shape:40} {ratio.median:6.3f}  ({ratio.p10:.3f} to {ratio.p90:.3f})  "
            f"{_time(seconds[0])} : {_time(seconds[1])}, {number}{facts}",
            flush=True,
        )
        return figure

    def say(self, text: str, **notes: Any) -> None:
        """A line beside the figures, and what stands in the JSON for it."""
        print(f"{self.goal.name} {text}", flush=True)
        self.notes |= notes

    def conclude(
        self,
        figure: float | None = None,
        target: Target | None = None,
        label: str = "",
        worst: float | None = None,
    ) -> Verdict:
        """The line of the goal, `P1 1.18 (goal 1.3) ok`: without arguments that of all shapes.

        Args:
            figure: None for the geometric mean of the shapes, of which none may be much worse than the goal.
            target: goal and stretch, where they are not those of the bench.
            label: says what the figure is, where a bench has several.
            worst: that of the worst shape behind a `figure`.
        """
        more = self.goal.more
        if figure is None:
            medians = [each.ratio.median for each in self.figures]
            figure, worst = geometric(medians), (min if more else max)(medians)
        verdict = judge(figure, target or self.goal.of(self.options.device), more, worst, label)
        self.verdicts.append(verdict)
        print(line(self.goal.name, verdict, self.options.device), flush=True)
        return verdict

    def skip(self, reason: str) -> NoReturn:
        """Says why nothing is measured, and ends the bench: that is no failure."""
        where = " GPU:" if self.options.device == "cuda" else ""
        print(f"{self.goal.name}{where} not run ({reason})", flush=True)
        self.notes["not_run"] = reason
        self._write(None)
        sys.exit(0)

    def _write(self, others: float | None) -> None:
        if self.options.json is None:
            return
        document = {
            "goal": self.goal.name,
            "what": self.goal.what,
            "device": self.options.device,
            "threads": self.options.threads,
            "verdicts": [asdict(each) for each in self.verdicts],
            "shapes": [asdict(each) for each in self.figures],
            "notes": self.notes,
            "others_busy_cores": others,
            "seconds": time.perf_counter() - self._begun,
            "machine": machine(self._device),
        }
        self.options.json.write_text(json.dumps(document, indent=2) + "\n")


def line(name: str, verdict: Verdict, device: str = "cpu") -> str:
    """`P1 1.18 (goal 1.3) ok`."""
    where = " GPU" if device == "cuda" else ""
    label = f" {verdict.label}" if verdict.label else ""
    end = f"ok, stretch {verdict.stretch:g} reached" if verdict.status == "stretch" else verdict.status
    return f"{name}{where} {verdict.figure:.3g}{label} (goal {verdict.goal:g}) {end}"


def machine(device: torch.device | None) -> dict[str, Any]:
    """What the figures depend on besides the code; versions of packages and kernels where torch took part."""
    if device is None:
        return {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    from dropbench.runs.environment import describe

    return {key: value for key, value in describe(device).items() if key != "folder"}


class Rest:
    """How busy the machine is with what is not this process or a child that it waited for."""

    def __init__(self) -> None:
        self._begun, self._busy, self._own = time.monotonic(), _busy(), _own()

    def cores(self) -> float | None:
        """Cores that others kept busy since then, in the mean; None where the system does not say."""
        busy, passed = _busy(), time.monotonic() - self._begun
        if busy is None or self._busy is None or passed <= 0:
            return None
        return max(0.0, busy - self._busy - (_own() - self._own)) / passed


def _busy() -> float | None:
    """Seconds that the cores of the machine were busy so far, or taken away by a host."""
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, soft, stolen = (int(word) for word in words[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + soft + stolen) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    """Seconds of processors that this process, and the children that it waited for, took so far."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _time(seconds: float) -> str:
    """`1.23 ms`."""
    size, unit = next(((size, unit) for size, unit in ((1.0, "s"), (1e-3, "ms")) if seconds >= size), (1e-6, "us"))
    return f"{seconds / size:.3g} {unit}"
