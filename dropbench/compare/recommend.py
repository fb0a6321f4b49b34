"""Advice for each task: which setting is best on the validation part, how sure that is, and what to try next.

Test figures are shown and choose nothing. Another setting is within noise of the best where the test of the paired
differences on the validation part does not tell them apart (sign-flip test, Holm's correction over the settings of the
task), or with too few pairs for a test, where the mean difference is at most two of its standard errors.

The best is chosen by the same figures by which others are tested against it. Therefore some of 5, 10, 20 settings that
are all the same is called worse in 6, 10, 12 % of studies with 10 seeds (600 drawn studies each), and not in 5 %.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from dropbench.compare.again import command
from dropbench.compare.formats import as_markdown
from dropbench.compare.groups import (
    Group,
    check_metric,
    columns_that_differ,
    count,
    default_metric,
    figure,
    gather,
    once,
    partner,
    tally,
    title,
)
from dropbench.compare.rows import LEVEL
from dropbench.compare.statistics import EXACT, FEWEST, differences, holm, mean_interval, smallest_p
from dropbench.compare.table import Sheet, interval, print_sheet, probability
from dropbench.compare.tasks import Task, aspects, chosen, selecting, tasks, telling, unlike, words
from dropbench.errors import UserError
from dropbench.runs.files import finite
from dropbench.terminal import Column, console, prose, say, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from dropbench.compare.statistics import Difference
    from dropbench.runs.records import RunRecord

Standing = Literal["best", "within noise", "worse", "likely worse", "cannot tell", "not paired", "failed"]
FORMATS = ("table", "md", "json")
#: Pairs that a claim needs.
CLAIM = 10
#: So many settings chosen among by one validation part make the best look too good.
MANY = 10
_HIGHEST = 0.95  # rates that are proposed are below
_RATE = "strategy.rate"
_NAMED = 6  # names in a sentence


@dataclass(frozen=True)
class Tried:
    """A setting that was tried, and how it stands against the best.

    Args:
        group: its runs; their values are those of the validation part.
        selecting: the mean by which it is judged, a run that failed counted as the worst.
        standing: in a word.
        seeds: of the pairs with the best.
        difference: to the best, over the pairs; None where there is none.
        p_holm: corrected for the settings of the task; None with too few pairs for a test.
        noise: two standard errors of the difference, where that is what was asked.
        refused: pairs that were refused, and why.
    """

    group: Group
    selecting: float
    standing: Standing
    seeds: tuple[int, ...] = ()
    difference: Difference | None = None
    p_holm: float | None = None
    noise: float | None = None
    refused: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @cached_property
    def ci95(self) -> tuple[float, float] | None:
        """Of the mean on the validation part, Student's t."""
        return mean_interval(self.group.values)

    @property
    def told(self) -> str:
        """The standing as it is shown."""
        lost = len(self.group.failed)
        failed = f", {lost} of {lost + len(self.group.runs)} failed" if lost and self.group.runs else ""
        return f"{self.standing}{' (2 se)' if self.noise is not None else ''}{failed}"


@dataclass(frozen=True)
class Warned:
    """What makes advice weak, and a command that would mend it, `` where there is none."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Advice:
    """What is advised for a task.

    Args:
        task: it.
        tried: the settings, the best first.
        sentences: the best with its uncertainty; what is within noise of it.
        warnings: what makes it weak.
        notes: what must be said of the runs.
    """

    task: Task
    tried: tuple[Tried, ...]
    sentences: tuple[str, str]
    warnings: tuple[Warned, ...]
    notes: tuple[str, ...]

    @property
    def best(self) -> Tried:
        """On the validation part."""
        return self.tried[0]


def recommend(
    records: Sequence[RunRecord], metric: str | None = None, allow: Collection[str] = (), notes: Sequence[str] = ()
) -> list[Advice]:
    """Advice for each task in which a run is done.

    Args:
        records: of any state.
        metric: a figure of the validation part; None: the partner of that by which a run is judged.
        allow: aspects in which runs may differ and yet be paired.
        notes: what must be said of each task.

    Raises:
        UserError: no run has the figure, or it is not one of the validation part.
    """
    if metric is not None:
        if not metric.startswith("validation"):
            other = partner(metric) if metric.startswith("test") else "validation.error"
            raise UserError(
                f"--metric={metric}: settings are chosen on the validation part; allowed: validation.*, such as {other}"
            )
        check_metric(metric, records)
    runs, doubles = once(records)
    advice = []
    for task in tasks(runs, lambda record: metric or partner(default_metric(record))):
        groups = gather(task.records, task.metric)
        if chosen(groups, selecting(groups)) is None:
            continue
        said = list(notes)
        if task.lacking:
            said.append(f"{count(task.lacking, 'run')} done without a finite {task.metric}, left out")
        if doubles:
            said.append(f"{count(doubles, 'run')} with the settings and the seed of another, counted once")
        advice.append(_advise(task, groups, allow, said))
    return advice


def show_recommend(advice: Sequence[Advice], records: Sequence[RunRecord], form: str) -> None:
    """Prints advice.

    Args:
        advice: for each task.
        records: of any state, to count them.
        form: one of `FORMATS`.
    """
    if form == "json":
        print(as_json(advice, records))
        return
    if form == "md":
        sheets = []
        for each in advice:
            said = [" ".join(filter(None, (f"{warned.text}:" if warned.command else warned.text, warned.command)))
                    for warned in each.warnings]  # fmt: skip
            table = sheet(each)
            sheets.append(replace(table, captions=(*each.sentences, *said, *table.captions)))
        print(as_markdown(sheets, records))
        return
    out = console()
    for each in advice:
        prose(each.sentences[0], out, "bold")
        prose(each.sentences[1], out)
        say("", out)
        for warned in each.warnings:
            prose(f"- {warned.text}{':' if warned.command else ''}", out)
            if warned.command:
                say(f"    {warned.command}", out)
        if each.warnings:
            say("", out)
        print_sheet(sheet(each), out)
        say("", out)
    say(tally(records), out)


def sheet(advice: Advice) -> Sheet:
    """The rate curves on the validation part: a row for each strategy and rate, the best setting of each."""
    name = advice.task.metric.partition(".")[2]
    heads = [split.partition(".")[0].replace("_", " ") for split in (advice.task.metric, partner(advice.task.metric))]
    at: dict[tuple[str, float], list[Tried]] = {}
    for tried in advice.tried:
        at.setdefault((tried.group.names[2], tried.group.rate), []).append(tried)
    order = list(dict.fromkeys(strategy for strategy, _ in at))
    lines = sorted(at.items(), key=lambda line: (order.index(line[0][0]), line[0][1]))
    several = any(len(line) > 1 for line in at.values())
    tested = any(tried.p_holm is not None for tried in advice.tried)
    shown = [line[0].group for line in at.values()]
    telling_columns = columns_that_differ(shown)
    columns = [
        Column("strategy"),
        *([Column("optimizer")] if "optimizer" in telling_columns else []),
        Column("rate", number=True),
        Column("n", number=True),
        Column(f"{heads[0]}\n{title(name)}", number=True),
        Column("95 % CI\n(t)", number=True, drop=2),
        Column("differ-\nence", number=True, drop=4),
        *([Column("p\n(Holm)", number=True, drop=3)] if tested else []),
        Column(f"{heads[1]}\n{title(name)}", number=True, drop=5),
        Column("against\nthe best"),
        *([Column("best\nof", number=True, drop=1), Column("also", drop=6)] if several else []),
    ]
    cells, bold = [], set()
    for place, (_, line) in enumerate(lines):
        tried = line[0]
        group = tried.group
        if tried is advice.best:
            bold.add(place)
        cells.append(
            (
                group.names[2],
                *([group.names[3]] if "optimizer" in telling_columns else []),
                f"{group.rate:g}",
                str(len(group.runs)),
                figure(group.mean, name),
                interval(tried.ci95, name),
                "-" if tried.difference is None else figure(tried.difference.mean, name),
                *([probability(tried.p_holm)] if tested else []),
                figure(group.partner, name),
                tried.told,
                *([str(len(line)), words(_other(group, [each.group for each in line]))] if several else []),
            )
        )
    return Sheet(tuple(columns), tuple(cells), frozenset(bold), tuple(_captions(advice, several)))


def as_json(advice: Sequence[Advice], records: Sequence[RunRecord]) -> str:
    """One object: for each task the advice, the warnings and a row a setting, ready for `pandas.DataFrame`."""
    states = Counter(record.state for record in records)
    data = {
        "metric": ", ".join(dict.fromkeys(each.task.metric for each in advice)) or None,
        "level": LEVEL,
        "tasks": [
            {
                "task": each.task.name,
                "dataset": each.task.dataset,
                "model": each.task.model,
                "metric": each.task.metric,
                "advice": list(each.sentences),
                "warnings": [{"text": warned.text, "command": warned.command or None} for warned in each.warnings],
                "best": row_data(each.best),
                "rows": [row_data(tried) for tried in each.tried],
                "notes": list(each.notes),
            }
            for each in advice
        ],
        "runs": len(records),
        **{state: states[state] for state in ("done", "failed", "pruned", "running", "interrupted", "unreadable")},
    }
    return json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def row_data(tried: Tried) -> dict[str, Any]:
    """A setting as plain data; what there is no value for is None."""
    group, bounds, difference = tried.group, tried.ci95, tried.difference
    between = None if difference is None else difference.interval
    return {
        "strategy": group.names[2],
        "optimizer": group.names[3],
        "rate": group.rate,
        "also": group.also,
        "n": len(group.runs),
        "failed": len(group.failed),
        "mean": group.mean,
        "sd": group.deviation,
        "ci95": None if bounds is None else list(bounds),
        "test": group.partner,
        "standing": tried.standing,
        "pairs": len(tried.seeds),
        "delta": None if difference is None else difference.mean,
        "delta_ci95": None if between is None else [float(bound) for bound in between],
        "p": None if difference is None else difference.p,
        "p_holm": tried.p_holm,
        "two_standard_errors": tried.noise,
        "seeds": [run.seed for run in group.runs],
        "values": list(group.values),
    }


def _advise(task: Task, groups: Sequence[Group], allow: Collection[str], notes: list[str]) -> Advice:
    figures = selecting(groups)
    place = chosen(groups, figures)
    assert place is not None
    best = groups[place]
    order = sorted(zip(groups, figures, strict=True), key=lambda pair: (pair[0] is not best, pair[1]))
    tried, pairs = [], []
    for group, value in order:
        each, values = _against(group, best, value, allow)
        tried.append(each)
        pairs.append(values)
    several = [at for at, values in enumerate(pairs) if values]
    found = dict(zip(several, differences([pairs[at] for at in several]), strict=True))
    tested = [at for at in several if smallest_p(found[at].n, len(several)) * len(several) <= LEVEL]
    adjusted = dict(zip(tested, holm([found[at].p for at in tested]), strict=True))
    for at, difference in found.items():
        each = replace(tried[at], difference=difference)
        if at in adjusted:
            standing: Standing = "worse" if adjusted[at] <= LEVEL else "within noise"
            tried[at] = replace(each, p_holm=adjusted[at], standing=standing)
        else:
            tried[at] = _by_noise(each, difference)
    name = f"{best.names[2]} {best.rate:g}" if best.rate else best.names[2]
    for each in tried:
        lines = unlike(each.refused, "pair")
        notes += [f"{each.group.label}: {line} from {name}; --allow=ASPECT takes them" for line in lines]
    sentences = _best_sentence(task, tried[0], groups), _noise_sentence(tried)
    return Advice(task, tuple(tried), sentences, tuple(_warnings(tried, groups)), tuple(notes))


def _against(group: Group, best: Group, value: float, allow: Collection[str]) -> tuple[Tried, list[float]]:
    """A setting, not judged yet, and its differences to the best one, one a pair."""
    if group is best or not group.runs:
        return Tried(group, value, "best" if group is best else "failed"), []
    of = {run.seed: (run, figure) for run, figure in zip(best.runs, best.values, strict=True)}
    seeds, values = [], []
    refused: Counter[tuple[str, ...]] = Counter()
    for run, own in zip(group.runs, group.values, strict=True):
        if run.seed is None or run.seed not in of:
            continue
        other, theirs = of[run.seed]
        if why := aspects(run, [other], allow):
            refused[why] += 1
        else:
            seeds.append(run.seed)
            values.append(own - theirs)
    return Tried(group, value, "not paired", tuple(seeds), refused=refused), values


def _by_noise(tried: Tried, difference: Difference) -> Tried:
    """A setting that no test can tell from the best, judged by the standard error; a single pair says nothing."""
    if difference.sd is None:
        return replace(tried, standing="cannot tell")
    noise = 2 * difference.sd / math.sqrt(difference.n)
    return replace(tried, noise=noise, standing="within noise" if difference.mean <= noise else "likely worse")


def _best_sentence(task: Task, best: Tried, groups: Sequence[Group]) -> str:
    group = best.group
    place = f"{task.dataset} ({task.also})" if task.also else task.dataset
    rate = f" at rate {group.rate:g}" if group.rate else ""
    other = words(_other(group, groups))
    split, _, name = task.metric.partition(".")
    bounds = "" if best.ci95 is None else f"95 % CI {interval(best.ci95, name)}, "
    test = group.partner
    beside = partner(task.metric).partition(".")[0].replace("_", " ")
    tested = "" if test is None else f", {beside} {name} {_valued(test, name)}"
    return (
        f"On {place} with {task.model} use strategy={group.names[2]}{rate}{f', {other}' if other else ''}: "
        f"{split.replace('_', ' ')} {name} {_valued(group.mean, name)} "
        f"({bounds}{count(len(group.runs), 'seed')}){tested}."
    )


def _noise_sentence(tried: Sequence[Tried]) -> str:
    """What is within noise of the best, and what is not."""
    others = tried[1:]
    if not others:
        return "Nothing else was tried."
    of: dict[str, list[Tried]] = {}
    for each in others:
        of.setdefault(each.standing, []).append(each)
    near = of.get("within noise")
    parts = [f"within noise of it: {_named(near, others)} ({_how(near, min)})"] if near else []
    for standing in ("likely worse", "worse"):
        if those := of.get(standing):
            number = "all others" if len(those) == len(others) else count(len(those), "setting")
            parts.append(f"{standing}: {number} ({_how(those, max)})")
    unknown = sum(len(of.get(standing, ())) for standing in ("cannot tell", "not paired", "failed"))
    if unknown:
        parts.append(f"not known: {count(unknown, 'setting')}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _how(those: Sequence[Tried], extreme: Callable[[Iterable[float]], float]) -> str:
    """By which rule: `p at least 0.11`, `by two standard errors`."""
    p = [each.p_holm for each in those if each.p_holm is not None]
    parts = []
    if p:
        bound = "" if len(p) == 1 else "at least " if extreme is min else "at most "
        parts.append(f"p {bound}{probability(extreme(p))}".replace("at most <", "at most "))
    if any(each.noise is not None for each in those):
        parts.append("by two standard errors")
    return ", ".join(parts)


def _named(those: Sequence[Tried], others: Sequence[Tried]) -> str:
    """Settings by strategy, neighbouring rates together: `standard at 0.3 to 0.5, gradual at 0.2`."""
    names = []
    for strategy in dict.fromkeys(each.group.names[2] for each in those):
        rates = sorted({each.group.rate for each in those if each.group.names[2] == strategy})
        every = sorted({each.group.rate for each in others if each.group.names[2] == strategy})
        runs: list[list[float]] = []
        for rate in rates:
            if runs and every.index(rate) == every.index(runs[-1][-1]) + 1:
                runs[-1].append(rate)
            else:
                runs.append([rate])
        texts = [
            text
            for run in runs
            for text in ([f"{run[0]:g} to {run[-1]:g}"] if len(run) > 2 else [f"{rate:g}" for rate in run])
        ]
        at = " and ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
        names.append(f"strategy={strategy}" if rates == [0] else f"{strategy} at {at}")
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _warnings(tried: Sequence[Tried], groups: Sequence[Group]) -> Iterator[Warned]:
    best = tried[0].group
    seeds = [run.seed for run in best.runs if run.seed is not None]
    first = best.runs[0]
    strategy = best.names[2]
    for key, value, values in _searched(best, groups):
        numbers = ",".join(f"{number:g}" for number in values)
        what = f"rate that was tried of {strategy}" if key == _RATE else f"{key} that was tried"
        typed = command(first, {key: numbers}, seeds) if values else ""
        advice = f"; try {numbers.replace(',', ', ')}" if values else ""
        yield Warned(f"{value} {what}{advice}", typed)
    others = sum(bool(each.group.runs) for each in tried[1:])
    needed = next((n for n in range(FEWEST, EXACT) if smallest_p(n) * others <= LEVEL), EXACT)
    if len(seeds) < needed:
        near = [each.group for each in tried if each.standing in ("best", "within noise", "cannot tell")]
        names = dict.fromkeys(group.names[2] for group in near)
        rates = sorted({group.rate for group in near if group.rate})
        changes = {"strategy": ",".join(names)} | ({_RATE: ",".join(f"{rate:g}" for rate in rates)} if rates else {})
        yield Warned(
            f"{count(len(seeds), 'seed')}: a test of {count(others, 'other setting')} takes {needed}, a claim {CLAIM}",
            command(first, changes, range(max(needed, CLAIM))),
        )
    if best.failed:
        number = len(best.failed)
        yield Warned(f"{number} of {number + len(best.runs)} runs of the best setting failed")
    able = sum(bool(each.group.runs) for each in tried)
    if able >= MANY:
        yield Warned(
            f"it is the best of {able} settings by one validation part, so its validation figure is too good; the test "
            "figure, by which nothing was chosen, is not"
        )
    if len({len(each.group.runs) for each in tried if each.group.runs}) > 1:
        yield Warned("settings have different numbers of seeds: with few of them luck decides more")


def _searched(best: Group, groups: Sequence[Group]) -> Iterator[tuple[str, str, list[float]]]:
    """The numbers that were searched and are best at an edge: key, what is said of the value, what to try."""
    same = [group for group in groups if group.names[2] == best.names[2] and group.runs]
    rates = sorted({group.rate for group in same})
    if best.rate and len(rates) == 1:
        low, high = (best.rate - 0.2 if best.rate > 0.25 else best.rate / 2), best.rate + 0.2
        tries = [low, high if high < _HIGHEST else (best.rate + _HIGHEST) / 2]
        yield _RATE, f"{best.rate:g} is the only", _rounded(tries, best.rate)
    elif best.rate and best.rate == rates[-1]:
        step = rates[-1] - rates[-2]
        tries = [value for value in (best.rate + step, best.rate + 2 * step) if value < _HIGHEST]
        yield _RATE, f"{best.rate:g} is the highest", _rounded(tries or [(best.rate + _HIGHEST) / 2], best.rate)
    elif best.rate and best.rate == rates[0]:
        yield _RATE, f"{best.rate:g} is the lowest", _rounded([best.rate / 4, best.rate / 2], best.rate)
    for key in _other(best, same):
        found = {value for group in same if (value := _numeric(group.settings.get(key))) is not None}
        own = _numeric(best.settings.get(key))
        if own is None or own <= 0 or len(found) < 2:
            continue
        ordered = sorted(found)
        if own == ordered[-1] and ordered[-2] > 0:
            yield key, f"{own:g} is the highest", _whole([own * own / ordered[-2]], best.settings[key])
        elif own == ordered[0]:
            yield key, f"{own:g} is the lowest", _whole([own * own / ordered[1]], best.settings[key])


def _rounded(rates: Iterable[float], best: float) -> list[float]:
    """Rates as one would type them, without the best one and what is no rate."""
    return [rate for rate in dict.fromkeys(float(f"{rate:.2g}") for rate in rates) if 0 < rate < 1 and rate != best]


def _whole(values: Iterable[float], like: object) -> list[float]:
    """Values of the kind of another: whole where that is, three digits else."""
    if isinstance(like, int):
        return [value for value in map(round, values) if value > 0 and value != like]
    return [float(f"{value:.3g}") for value in values if math.isfinite(value)]


def _numeric(value: object) -> float | None:
    return (
        float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e100 else None
    )


def _other(group: Group, among: Sequence[Group]) -> dict[str, object]:
    """What tells a setting from others, beside strategy and rate."""
    found = telling(group, among)
    return {key: value for key, value in found.items() if key not in ("strategy", "rate", _RATE)}


def _valued(value: float | None, name: str) -> str:
    return f"{figure(value, name)} %" if name.endswith("error") else figure(value, name)


def _captions(advice: Advice, several: bool) -> list[str]:
    rules = sorted({run.rule for tried in advice.tried for run in tried.group.runs if run.rule})
    name = advice.task.metric
    lines = [
        f"n: seeds; difference: of {name} to the best at the same seed; selection: "
        f"{', '.join(map(setting, rules)) or 'not recorded'}; test figures choose nothing",
    ]
    if any(tried.p_holm is not None for tried in advice.tried):
        tests = sum(tried.p_holm is not None for tried in advice.tried)
        lines.append(
            f"p: sign-flip test, Holm's correction for {count(tests, 'setting')}; the best is chosen by the same "
            "figures, so one of many that are as good is called worse a little more often than in 5 % of studies"
        )
    if any(tried.noise is not None for tried in advice.tried):
        lines.append("2 se: with too few pairs for a test, within noise is a difference of at most two standard errors")
    if several:
        lines.append("best of: settings with this strategy and rate, of which the best is shown")
    return [*lines, *advice.notes]
