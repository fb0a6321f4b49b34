"""Tasks: runs on the same data with the same model, among which a setting can be chosen on the validation part."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.compare.groups import CHOICES, Group, count, default_metric, differing, mean, selector
from dropbench.compare.rows import ASPECTS
from dropbench.terminal import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from dropbench.runs.records import RunRecord

_DATA = "dataset."  # settings of the data


@dataclass(frozen=True)
class Task:
    """Runs whose figures can be held against one another: one data set, in one form of it, and one model.

    Args:
        dataset: its name.
        model: its name, `` where models are what is compared.
        also: the settings of the data in which it differs from tasks that look like it.
        metric: the figure by which its runs are judged.
        records: of its runs, done or failed.
    """

    dataset: str
    model: str
    also: str
    metric: str
    records: tuple[RunRecord, ...]

    @property
    def name(self) -> str:
        """`digits/mlp`, `mnist/mlp dataset.train_size=1000`."""
        return " ".join(filter(None, ("/".join(filter(None, (self.dataset, self.model))), self.also)))

    @property
    def lacking(self) -> int:
        """How many of its runs are done and have no such figure."""
        return sum(record.state == "done" and record.figure(self.metric) is None for record in self.records)


def tasks(
    records: Iterable[RunRecord], metric: Callable[[RunRecord], str] = default_metric, free: str = ""
) -> list[Task]:
    """The tasks in which some run is done, by name.

    Args:
        records: of any state; a failed run counts where it names its data and its model.
        metric: the figure by which a run is judged; a task goes by that of most of its runs.
        free: the choice or the setting that is compared, in which runs of one task may differ.
    """
    places: dict[tuple[str, str, str], tuple[object, ...]] = {}
    found: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for record in records:
        if (
            record.state not in ("done", "failed")
            or not record.group
            or any(key not in record.choices for key in CHOICES)
        ):
            continue
        names = record.choices["dataset"], "" if free == "model" else record.choices["model"]
        place = places.get(key := (record.group, *names))
        if place is None:
            data = [(name, setting(value)) for name, value in _data(record).items() if name != free]
            place = places[key] = (*names, frozenset(data))
        found[place].append(record)
    done = {
        place: Counter(metric(record) for record in runs if record.state == "done") for place, runs in found.items()
    }
    kept = [place for place in found if done[place]]
    alike: dict[tuple[object, ...], list[tuple[object, ...]]] = defaultdict(list)
    for place in kept:
        alike[place[:2]].append(place)
    made = []
    for place in kept:
        first = found[place][0]
        others = [found[other][0] for other in alike[place[:2]] if other != place]
        also = " ".join(f"{key}={_text(first, key)}" for key in _telling(first, others) if key != free)
        model = "" if free == "model" else first.choices["model"]
        best = max(done[place], key=lambda name: (done[place][name], name))
        made.append(Task(first.choices["dataset"], model, also, best, tuple(found[place])))
    return sorted(made, key=lambda task: task.name)


def selecting(groups: Sequence[Group]) -> list[float]:
    """The mean figure of the validation part of each group; infinite where there is none.

    A run that failed counts as the worst run of all: what fails is not dropped.
    """
    found = []
    for group in groups:
        name = selector(group.metric)
        found.append([value for run in group.runs if (value := run.figure(name)) is not None])
    worst = max((value for values in found for value in values), default=math.inf)
    means = (mean([*values, *(worst for _ in group.failed)]) for values, group in zip(found, groups, strict=True))
    return [math.inf if value is None else value for value in means]


def chosen(groups: Sequence[Group], figures: Sequence[float]) -> int | None:
    """The place of the group that is best on the validation part; None where no group can be chosen.

    Args:
        groups: to choose from, of one value, strategy, ...
        figures: see `selecting`. A group that is the only one needs none.
    """
    places = [place for place, group in enumerate(groups) if group.runs]
    if len(groups) > 1:
        places = [place for place in places if math.isfinite(figures[place])]
    return min(
        places,
        key=lambda place: (figures[place], len(groups[place].failed), groups[place].rate, groups[place].first.group),
        default=None,
    )


def telling(group: Group, among: Iterable[Group]) -> dict[str, object]:
    """The choices and settings by which a group differs from others.

    What belongs to a choice (`strategy.rate`) tells it only from groups of the same choice.
    """
    others = [other for other in among if other is not group]
    found: dict[str, object] = {}
    for place, key in enumerate(CHOICES):
        if any(other.names[place] != group.names[place] for other in others):
            found[key] = group.names[place]
    for other in others:
        apart = {key for place, key in enumerate(CHOICES) if other.names[place] != group.names[place]}
        for key in differing(group.settings, other.settings):
            if key not in found and key.partition(".")[0] not in apart:
                found[key] = group.settings.get(key, "absent")
    if "strategy.rate" not in group.settings and any(other.rate != group.rate for other in others):
        found["rate"] = group.rate
    return found


def words(settings: Mapping[str, object]) -> str:
    """Settings as one would type them: `strategy.rate=0.4 optimizer.learning_rate=0.1`."""
    return " ".join(f"{key}={setting(value)}" for key, value in settings.items())


def aspects(run: RunRecord, others: Collection[RunRecord], allow: Collection[str]) -> tuple[str, ...]:
    """In what a run is so unlike others that figures cannot be held against each other: data, code, compute.

    Args:
        run: to be compared.
        others: what it is compared with; it must be like one of them in each aspect.
        allow: aspects that do not matter.
    """
    found = []
    for aspect in ASPECTS:
        there = {other.stamp.get(aspect) for other in others}
        if aspect not in allow and there and run.stamp.get(aspect) not in there:
            theirs = min(value or "not recorded" for value in there)
            found.append(f"{aspect} ({run.stamp.get(aspect, 'not recorded')} against {theirs})")
    return tuple(found)


def unlike(refused: Mapping[tuple[str, ...], int], what: str) -> list[str]:
    """What is said of runs or pairs that were refused, a line each."""
    return [f"{count(number, what)} refused, different in {', '.join(why)}" for why, number in refused.items()]


def _data(record: RunRecord) -> dict[str, object]:
    return {key: value for key, value in record.settings.items() if key.startswith(_DATA)}


def _telling(record: RunRecord, others: Iterable[RunRecord]) -> list[str]:
    return list(dict.fromkeys(key for other in others for key in differing(_data(record), _data(other))))


def _text(record: RunRecord, key: str) -> str:
    return setting(record.settings[key]) if key in record.settings else "absent"
