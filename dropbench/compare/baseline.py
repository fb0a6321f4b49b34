"""Which group is the baseline of which: `strategy=none`, in the same setting otherwise."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from dropbench.compare.groups import CHOICES, Group, differing
from dropbench.errors import UserError, nearest
from dropbench.terminal import setting

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

_OUTSIDE_BRACKETS = re.compile(r",(?![^\[]*\])")


@dataclass(frozen=True)
class Condition:
    """`key=value`: the name of a choice (`strategy=standard`), the rate, or a setting (`optimizer.momentum=0.9`)."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"

    def holds(self, group: Group) -> bool:
        """Whether a group is so."""
        return any(found == self.value or _number(found) == _number(self.value) for found in self.found(group))

    def found(self, group: Group) -> list[str]:
        """What the group has there; nothing where it has no such setting."""
        if self.key in CHOICES:
            return [group.names[CHOICES.index(self.key)]]
        if self.key == "rate":
            return [f"{group.rate:g}"]
        return [setting(group.settings[self.key])] if self.key in group.settings else []

    def frees(self, key: str) -> bool:
        """Whether a baseline that is told by this condition may differ from its rows in a setting."""
        if self.key == "rate":
            return key.startswith("strategy.")
        return key == self.key or (self.key in CHOICES and key.startswith(f"{self.key}."))


Conditions: TypeAlias = tuple[Condition, ...]


def conditions(text: str) -> Conditions:
    """What the words of `--baseline` ask for: `strategy=standard`, `strategy=standard,rate=0.5`.

    Raises:
        UserError: a word is not `key=value`.
    """
    found = []
    for word in _OUTSIDE_BRACKETS.split(text):
        key, mark, value = (part.strip() for part in word.partition("="))
        if not mark or not key or not value:
            raise UserError(f"--baseline={text}: allowed: key=value, several with commas: strategy=standard,rate=0.5")
        found.append(Condition(key, value))
    return tuple(found)


def meets(group: Group, asked: Conditions) -> bool:
    """Whether a group meets all conditions."""
    return all(condition.holds(group) for condition in asked)


def check(groups: Sequence[Group], asked: Conditions) -> None:
    """Refuses conditions that no group meets.

    Raises:
        UserError: the line names what there is.
    """
    if any(meets(group, asked) for group in groups):
        return
    for condition in asked:
        known = sorted({value for group in groups for value in condition.found(group)})
        if not known:
            keys = sorted({*CHOICES, "rate", *(key for group in groups for key in group.settings if key != "seed")})
            raise UserError(f"--baseline={condition}: no run has this setting{nearest(condition.key, keys)}")
        if not any(condition.holds(group) for group in groups):
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise UserError(
                f"--baseline={condition}: no such runs; {condition.key} is one of: {shown}"
                f"{nearest(condition.value, known)}"
            )
    raise UserError(f"--baseline={','.join(map(str, asked))}: no runs meet all of these")


@dataclass(frozen=True)
class Baseline:
    """The baseline of a group.

    Args:
        group: it, or None where there is none.
        own: whether the group is a baseline itself.
        differs: settings in which it differs beside those that it should differ in.
        several: whether it was chosen among several, by the same rate or by the validation part.
    """

    group: Group | None
    own: bool = False
    differs: tuple[str, ...] = ()
    several: bool = False


def baselines(groups: Sequence[Group], choices: Sequence[Conditions]) -> tuple[list[Baseline], list[Conditions]]:
    """The baseline of each group.

    It is the group of the same data set and model that meets the conditions and differs in nothing else; where there is
    none, the one that differs in the fewest other settings. Of several the one of the same rate, else the one that is
    best on the validation part.

    Args:
        groups: all that are compared.
        choices: conditions in the order of preference; in each task (dataset and model) the first that a group meets.

    Returns:
        One for each group, and the conditions that were used.
    """
    used: list[Conditions] = []
    found: dict[int, Baseline] = {}
    for task in _tasks(groups, choices):
        asked = next((asked for asked in choices if any(meets(group, asked) for group in task)), None)
        if asked is None:
            found.update({id(group): Baseline(None) for group in task})
            continue
        used += [asked] if asked not in used else []
        candidates = [group for group in task if meets(group, asked)]
        own = {id(group) for group in candidates}
        keys = {key for group in task for key in group.settings}
        bound = {key for key in keys if key != "seed" and not _frees(asked, key)}
        alike: dict[object, list[Group]] = defaultdict(list)
        for candidate in candidates:
            alike[_context(candidate, asked, bound)].append(candidate)
        best = {context: _Best(same) for context, same in alike.items()}
        for group in task:
            if id(group) in own:
                found[id(group)] = Baseline(None, own=True)
            elif (context := _context(group, asked, bound)) in best:
                found[id(group)] = Baseline(best[context].of(group), several=len(alike[context]) > 1)
            else:
                found[id(group)] = _nearest(group, candidates, asked)
    return [found[id(group)] for group in groups], used


def _tasks(groups: Sequence[Group], choices: Sequence[Conditions]) -> Iterable[list[Group]]:
    """Groups that may be compared: of one data set and model, but for that of these which the conditions name."""
    free = {condition.key for asked in choices for condition in asked}
    tasks: dict[tuple[str, ...], list[Group]] = defaultdict(list)
    for group in groups:
        names = zip(CHOICES[:2], group.task, strict=True)
        tasks[tuple("" if key in free else name for key, name in names)].append(group)
    return tasks.values()


def _frees(asked: Conditions, key: str) -> bool:
    """Whether a baseline that is told by these conditions may differ from its rows in a setting."""
    return any(condition.frees(key) for condition in asked)


def _context(group: Group, asked: Conditions, bound: Container[str]) -> object:
    """What must be the same in a group and in its baseline, of the settings those that are `bound`."""
    free = {condition.key for condition in asked}
    names = tuple(name for key, name in zip(CHOICES, group.names, strict=True) if key not in free)
    rates = any(condition.key == "rate" or condition.frees("strategy.rate") for condition in asked)
    rate = None if rates else group.rate
    return names, rate, frozenset([(key, repr(value)) for key, value in group.settings.items() if key in bound])


class _Best:
    """The best on the validation part: of some candidates, and of those of each rate."""

    def __init__(self, candidates: Sequence[Group]) -> None:
        ranked = sorted(candidates, key=lambda each: (each.selecting, each.first.group))
        self._first = ranked[0]
        self._by_rate = {each.rate: each for each in reversed(ranked)}

    def of(self, group: Group) -> Group:
        """That of the rate of a group; where none has it, that of all."""
        return self._by_rate.get(group.rate, self._first)


def _nearest(group: Group, candidates: Sequence[Group], asked: Conditions) -> Baseline:
    def strange(candidate: Group) -> tuple[str, ...]:
        keys = differing(group.settings, candidate.settings)
        return tuple(key for key in keys if not _frees(asked, key))

    differs = {id(candidate): strange(candidate) for candidate in candidates}
    fewest = min(len(keys) for keys in differs.values())
    best = _Best([candidate for candidate in candidates if len(differs[id(candidate)]) == fewest]).of(group)
    return Baseline(best, differs=differs[id(best)])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
