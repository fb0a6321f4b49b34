"""Groups of recorded runs that differ by seed alone, and the figures by which they are judged."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from operator import methodcaller
from typing import TYPE_CHECKING

from dropbench.errors import UserError, nearest
from dropbench.runs.records import STATES, RunRecord
from dropbench.terminal import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

CHOICES = ("dataset", "model", "strategy", "optimizer")
_JUDGED = {"classification": "test.error", "regression": "test.rmse"}
_FALLBACK = ("error", "rmse", "perplexity", "loss")


@dataclass(frozen=True)
class Group:
    """Runs that differ by seed alone.

    Args:
        runs: that are done and have the figure, one a seed, by seed.
        values: the figure of each run.
        failed: runs that have none, because they failed.
        metric: the figure, `test.error`.
        also: the settings by which it differs from groups that look like it.
    """

    runs: tuple[RunRecord, ...]
    values: tuple[float, ...]
    failed: tuple[RunRecord, ...]
    metric: str
    also: str = ""

    @property
    def first(self) -> RunRecord:
        """A run of it."""
        return (self.runs or self.failed)[0]

    @cached_property
    def names(self) -> tuple[str, str, str, str]:
        """Dataset, model, strategy, optimizer."""
        dataset, model, strategy, optimizer = (self.first.choices[key] for key in CHOICES)
        return dataset, model, strategy, optimizer

    @property
    def task(self) -> tuple[str, str]:
        """Dataset and model."""
        return self.names[:2]

    @property
    def rate(self) -> float:
        """The highest that the strategy reaches."""
        return self.first.rate or 0.0

    @property
    def label(self) -> str:
        """What tells it from the others of its task, in a few words."""
        words = [self.names[2], *([f"{self.rate:g}"] if self.rate else []), *([self.also] if self.also else [])]
        return " ".join(words)

    @property
    def settings(self) -> Mapping[str, object]:
        """The whole config, by dotted key, with the seed of one of the runs."""
        return self.first.settings

    @cached_property
    def mean(self) -> float | None:
        """Of the figure; None where every run failed."""
        return statistics.fmean(self.values) if self.values else None

    @cached_property
    def deviation(self) -> float | None:
        """The sample deviation over seeds (n - 1); a single run has none."""
        return sample_deviation(self.values) if len(self.values) > 1 else None

    @property
    def partner(self) -> float | None:
        """Mean of the same figure on the other held-out split."""
        beside = partner(self.metric)
        return mean(run.figure(beside) for run in self.runs)

    @cached_property
    def selecting(self) -> float:
        """Mean of the figure that selects among settings: that of the validation part; infinite where there is none."""
        telling = selector(self.metric)
        found = mean(run.figure(telling) for run in self.runs)
        return math.inf if found is None else found


def gather(
    records: Iterable[RunRecord], metric: str, value: Callable[[RunRecord], float | None] | None = None
) -> list[Group]:
    """The groups of runs that have a figure or failed, the best first within a dataset and model.

    Args:
        records: of any state; of one run recorded twice the first counts.
        metric: a figure, `test.error`.
        value: the figure of a run; by default that which is recorded.
    """
    value = value or methodcaller("figure", metric)
    done: dict[tuple[object, ...], dict[int, tuple[RunRecord, float]]] = defaultdict(dict)
    failed: dict[tuple[object, ...], dict[int, RunRecord]] = defaultdict(dict)
    for record, key in _keyed(records):
        if record.state not in ("done", "failed") or record.seed is None or not record.group:
            continue
        if record.state == "failed" and any(name not in record.choices for name in CHOICES):
            continue
        if record.state == "failed":
            failed[key].setdefault(record.seed, record)
        elif (figure := value(record)) is not None:
            done[key].setdefault(record.seed, (record, figure))
    groups = []
    for each in dict.fromkeys((*done, *failed)):
        runs = [done[each][seed] for seed in sorted(done[each])]
        lost = tuple(record for seed, record in sorted(failed[each].items()) if seed not in done[each])
        groups.append(Group(tuple(run for run, _ in runs), tuple(figure for _, figure in runs), lost, metric))
    groups.sort(
        key=lambda group: (
            group.task,
            group.mean is None,
            group.mean,
            group.names,
            group.rate,
            group.first.group,
        )
    )
    return _told_apart(groups)


def once(records: Iterable[RunRecord]) -> tuple[list[RunRecord], int]:
    """The records without repetitions of a run that is done (in another study, or copied), and how many those were."""
    seen: set[tuple[object, ...]] = set()
    left, doubles = [], 0
    for record, group in _keyed(records):
        key = (record.seed, group)
        if record.state == "done" and key in seen:
            doubles += 1
            continue
        seen.add(key)
        left.append(record)
    return left, doubles


def _keyed(records: Iterable[RunRecord]) -> Iterator[tuple[RunRecord, tuple[object, ...]]]:
    """Each record, and what is the same in all runs of its group."""
    known: dict[int, tuple[object, tuple[object, ...]]] = {}  # by id, with what has the id: runs share their choices
    for record in records:
        choices = record.choices
        if (found := known.get(id(choices))) is None:
            found = known[id(choices)] = (choices, tuple([choices.get(name) for name in CHOICES]))
        yield record, (record.group, record.rate, found[1])


def tally(records: Iterable[RunRecord]) -> str:
    """How many runs there are in each state: `14 runs: 12 done, 1 failed, 1 unreadable`."""
    counts = Counter(record.state for record in records)
    parts = [f"{counts[state]:,} {state}" for state in STATES if counts[state] or state == "done"]
    return f"{count(counts.total(), 'run')}: {', '.join(parts)}"


def default_metric(record: RunRecord) -> str:
    """The figure by which a run is judged."""
    known = _JUDGED.get(record.task)
    if known is not None:
        return known
    test = record.figures.get("test", {})
    return f"test.{next((name for name in _FALLBACK if name in test), 'loss')}"


def partner(metric: str) -> str:
    """The figure shown beside: that of the validation part, or for this that of the test set; measured the same way."""
    split, _, figure = metric.partition(".")
    name, mark, way = split.partition("_")
    return f"{'test' if name == 'validation' else 'validation'}{mark}{way}.{figure}"


def check_metric(metric: str, records: Iterable[RunRecord]) -> None:
    """Refuses a figure that no run has.

    Raises:
        UserError: the line names what there is.
    """
    done = [record for record in records if record.state == "done"]
    known = sorted({f"{split}.{name}" for record in done for split, names in record.figures.items() for name in names})
    if done and metric not in known:
        raise UserError(f"--metric={metric}: no run has this figure; known: {', '.join(known)}{nearest(metric, known)}")


def selector(metric: str) -> str:
    """The figure of the validation part by which settings are chosen that are judged by another."""
    return metric if metric.startswith("validation") else partner(metric)


def figure(value: float | None, name: str) -> str:
    """A figure as it is shown: an error has two decimals, since it is in percent."""
    if value is None:
        return "-"
    if name.endswith("error"):
        return f"{value:.2f}"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"


def title(name: str) -> str:
    """The name of a figure as it stands above a column, with its unit."""
    return f"{name} %" if name == "error" else name


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there and finite."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def sample_deviation(values: Sequence[float]) -> float:
    """The sample deviation, sqrt((n sum x^2 - (sum x)^2) / (n (n - 1))), exactly rounded.

    It is that of `statistics.stdev` to the last bit, which takes two to eight times as long: floats are whole numbers
    of one power of two, so that sums and squares are exact.

    Args:
        values: finite [n], n > 1.
    """
    ratios = [value.as_integer_ratio() for value in values]
    unit = max(denominator for _, denominator in ratios)  # the others divide it, being powers of two
    whole = [numerator * (unit // denominator) for numerator, denominator in ratios]
    n = len(whole)
    above, below = n * sum(x * x for x in whole) - sum(whole) ** 2, n * (n - 1) * unit**2
    shift = max(0, (below.bit_length() - above.bit_length()) // 2 + 64)
    quotient, rest = divmod(above << 2 * shift, below)
    root = math.isqrt(quotient)
    # At least 63 bits: what is cut off tells in the last of them on which side of a float the root lies.
    return math.ldexp(root | bool(rest or root * root < quotient), -shift)


def count(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def differing(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """The settings in which two configs differ, but for the seed."""
    keys = dict.fromkeys((*one, *other))
    return [key for key in keys if key != "seed" and _text(one, key) != _text(other, key)]


def _told_apart(groups: list[Group]) -> list[Group]:
    """Gives groups that look alike in the named columns the settings that differ between them."""
    alike: dict[tuple[object, ...], list[Group]] = defaultdict(list)
    for group in groups:
        alike[(group.names, group.rate)].append(group)
    also: dict[int, str] = {}
    for same in alike.values():
        if len(same) == 1:
            continue
        keys = dict.fromkeys(key for group in same for key in group.settings if key != "seed")
        texts = {key: [_text(group.settings, key) for group in same] for key in keys}
        telling = {key: each for key, each in texts.items() if len(set(each)) > 1}
        for number, group in enumerate(same):
            words = [f"{key}={each[number]}" for key, each in telling.items()]
            also[id(group)] = " ".join(words or [f"group={group.first.group}"])
    return [replace(group, also=also.get(id(group), "")) for group in groups]


def _text(settings: Mapping[str, object], key: str) -> str:
    return setting(settings[key]) if key in settings else "absent"


def columns_that_differ(groups: Sequence[Group]) -> set[str]:
    """Of dataset, model, strategy and optimizer those that are not the same in every group."""
    return {key for place, key in enumerate(CHOICES) if len({group.names[place] for group in groups}) > 1}
