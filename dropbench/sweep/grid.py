"""What a sweep stands for: all its runs, composed, checked and named before anything is trained.

    axes = what is typed (a,b; range(); glob()) and what the experiment's `sweep` block says
    for each combination of them, the last axis fastest:
        compose, check                      # a key that means nothing for this choice is left out
        run = config, choices, overrides    # the overrides alone give the same run again

A block is versioned with its experiment; the command line has the last word:

    sweep:
      grid: {strategy: [none, standard], strategy.rate: "range(0.1,0.6,0.1)"}   # every combination
      zip: {model: [mlp, lstm], epochs: [50, 10]}                               # these move together
      exclude: [{strategy: standard, model: lstm}]                              # not these
      seeds: 5                                                                  # 0 to 4; or a list; or auto
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from dropbench import schema
from dropbench.config import Run, Seeds, check
from dropbench.errors import UserError, nearest

if TYPE_CHECKING:
    from dropbench.compose import Axis, Composed, Composer, Line

    #: The lines of an axis: those of one step are set together.
    Steps = Sequence[tuple[Line, ...]]

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*\Z")
#: What decides which runs there are, or where the configs are, is no axis of a block.
_NO_AXES = ("experiment", "seeds", "sweep", "extensions", "hydra")


@dataclass(frozen=True)
class Expansion:
    """The runs of a sweep.

    Args:
        runs: in order, the last axis fastest, with duplicates.
        hydra: what Hydra composed, by run id.
        notes: what was left out, a line each.
        block: the `sweep` block of the experiment; where several bring one, by their names; None without.
        seeds_auto: whether there are to be as many seeds as the question needs; the runs then have seed 0.
    """

    runs: list[Run]
    hydra: dict[str, Composed]
    notes: list[str]
    block: dict[str, Any] | None
    seeds_auto: bool


@dataclass(frozen=True)
class Block:
    """The `sweep` block of an experiment.

    Args:
        grid: axes that are combined with one another: lists of values, or texts in Hydra's grammar for sweeps.
        zip: axes of one length that move together.
        exclude: combinations that are left out, by some of their values.
        seeds: how many, which, or `auto`; null: the one of `seed`.
    """

    grid: Mapping[str, Any] = field(default_factory=dict)
    zip: Mapping[str, Any] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()
    seeds: Seeds = None

    def __post_init__(self) -> None:
        """Checks that there are seeds."""
        if self.seeds == ():
            raise ValueError("seeds=[]: allowed: a number, a list of at least one, or auto")


@dataclass(frozen=True)
class _Study:
    """What one experiment adds to the command line.

    Args:
        name: `experiment=rates`.
        steps: of the axes of its block that the command line leaves.
        exclude: see `Block`.
        seeds: see `Block`.
        block: plain data; None without.
    """

    name: str
    steps: tuple[Steps, ...] = ()
    exclude: tuple[Mapping[str, Any], ...] = ()
    seeds: Seeds = None
    block: dict[str, Any] | None = None


def has_block(composer: Composer, overrides: Sequence[str]) -> bool:
    """Whether a plain `train` of this is a sweep: an experiment brings a block, or seeds are asked for."""
    typed = composer.axes(overrides)
    return any(study.block is not None or study.seeds is not None for study in _studies(composer, typed).values())


def expand(composer: Composer, overrides: Sequence[str]) -> Expansion:
    """Composes and checks every run of a sweep.

    Args:
        composer: of the configs.
        overrides: what the user typed, in Hydra's grammar for sweeps.

    Raises:
        UserError: bad grammar, a broken block, an unknown choice, a value that is not allowed, a key that is unknown
            whatever is chosen.
    """
    typed = composer.axes(overrides)
    studies = _studies(composer, typed)
    combinations = list(_combinations(composer, [axis for axis in typed if axis.key != "seeds"], studies))
    several = len({tuple(line.task for line in lines if line.kind != "sets") for lines in combinations}) > 1
    runs, hydra = [], {}
    left_out: dict[str, dict[str, UserError]] = {}
    seen: schema.Seen = {}
    used: set[str] = set()
    for lines in combinations:
        run, composed, kept = _run(composer, lines, seen, left_out if several else None)
        runs.append(run)
        hydra[run.id] = composed
        used.update(line.key for line in kept)
    for key, reasons in left_out.items():
        if key not in used:
            raise next(iter(reasons.values()))
    blocks = {name: study.block for name, study in studies.items() if study.block is not None}
    return Expansion(
        runs,
        hydra,
        [f"{key} means nothing for {', '.join(reasons)}: left out there" for key, reasons in left_out.items()],
        next(iter(blocks.values())) if len(blocks) == 1 else blocks or None,
        any(study.seeds == "auto" for study in studies.values()),
    )


def flat(composer: Composer, overrides: Sequence[str]) -> list[str]:
    """The overrides of a sweep for Hydra's own launchers: its block as overrides too, its values one by one.

    Raises:
        UserError: what Hydra does not know: axes that move together, exclusions, `seeds=auto`, several blocks, keys
            that mean nothing for a choice; and everything that `expand` raises.
    """
    expansion = expand(composer, overrides)
    typed = composer.axes(overrides)
    study, *others = _studies(composer, typed).values()
    axes: list[Sequence[Line]] = [[step[0] for step in steps] for steps in study.steps]
    axes += [*(axis.lines for axis in typed if axis.key != "seeds"), *_seeds(composer, study)]
    reasons = {
        **dict.fromkeys(expansion.notes, True),
        "seeds=auto": expansion.seeds_auto,
        "several experiments, one with a sweep": bool(others) and expansion.block is not None,
        f"{study.name}: sweep.zip": any(len(step) > 1 for steps in study.steps for step in steps),
        f"{study.name}: sweep.exclude": len(expansion.runs) != math.prod(map(len, axes)),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(f"{reason}: Hydra's own launchers take all combinations; allowed without hydra/launcher")
    return [_spoken(lines) for lines in axes]


def _spoken(lines: Sequence[Line]) -> str:
    """One override for all values of an axis."""
    return ",".join([lines[0].text, *(line.text.partition("=")[2] for line in lines[1:])])


def _run(
    composer: Composer, lines: Sequence[Line], seen: schema.Seen, left_out: dict[str, dict[str, UserError]] | None
) -> tuple[Run, Composed, Sequence[Line]]:
    """A run, and the lines that say something of it; the others go to `left_out`, unless that is None."""
    while True:
        composed = composer.composed(lines)
        try:
            return Run(check(composed.data, seen), composed.choices, composed.overrides), composed, lines
        except schema.UnknownKeyError as error:
            idle = [line for line in lines if line.kind == "sets" and f"{line.key}.".startswith(f"{error.key}.")]
            if left_out is None or not idle:
                raise
            for line in idle:
                group = line.key.partition(".")[0]
                choice = f"{group}={composed.choices.get(group)}"
                left_out.setdefault(line.key, {}).setdefault(choice, error)
            lines = [line for line in lines if line not in idle]


def _combinations(
    composer: Composer, typed: Sequence[Axis], studies: Mapping[str, _Study]
) -> Iterator[tuple[Line, ...]]:
    """The lines of every run. Those of a block come first, so that what is typed has the last word."""
    at = next((index for index, axis in enumerate(typed) if axis.key == "experiment"), None)
    before = typed if at is None else typed[:at]
    after = () if at is None else typed[at + 1 :]
    experiments = ((),) if at is None else tuple((line,) for line in typed[at].lines)
    inner = {name: (*(axis.lines for axis in after), *_seeds(composer, study)) for name, study in studies.items()}
    found = dict.fromkeys(studies, 0)
    for outer in product(*(axis.lines for axis in before)):
        for experiment in experiments:
            name = f"experiment={experiment[0].value}" if experiment else ""
            study = studies[name]
            for steps in product(*study.steps):
                block = tuple(chain.from_iterable(steps))
                for rest in product(*inner[name]):
                    lines = (*experiment, *block, *outer, *rest)
                    if not study.exclude or not _excluded(lines, study.exclude):
                        found[name] += 1
                        yield lines
    for name, count in found.items():
        if not count:
            raise UserError(f"{name}: sweep.exclude leaves no run")


def _excluded(lines: Sequence[Line], exclude: Sequence[Mapping[str, Any]]) -> bool:
    values = {line.key: line.value for line in lines}
    return any(all(key in values and _same(values[key], value) for key, value in entry.items()) for entry in exclude)


def _same(first: Any, second: Any) -> bool:
    return isinstance(first, bool) == isinstance(second, bool) and bool(first == second)


def _seeds(composer: Composer, study: _Study) -> list[Sequence[Line]]:
    """The last axis."""
    if study.seeds is None:
        return []
    if isinstance(study.seeds, int):
        return [composer.axes([f"seed=range(0,{study.seeds})"])[0].lines]
    return [composer.axis("seed", [0] if study.seeds == "auto" else list(study.seeds)).lines]


def _studies(composer: Composer, typed: Sequence[Axis]) -> dict[str, _Study]:
    """What each experiment that is typed adds, by its name; by an empty text where there is none.

    Raises:
        UserError: a broken block; `seed` and `seeds` at once; some of the seeds `auto` and some not.
    """
    axes = {axis.key: axis for axis in typed}
    if "seeds" in axes and axes["seeds"].swept:
        raise UserError(f"{axes['seeds'].lines[0].text},...: allowed: a number, a list such as [3,4], or auto")
    seeds = _checked({"seeds": axes["seeds"].lines[0].value}).seeds if "seeds" in axes else None
    if seeds is not None and "seed" in axes:
        raise UserError(f"{axes['seeds'].lines[0].text}: says which seeds there are; type this or seed, not both")
    if "experiment" not in axes:
        return {"": _Study("", seeds=seeds)}
    fixed = [axis.lines[0] for axis in typed if not axis.swept and axis.key not in ("experiment", "seeds")]
    told = [line for line in fixed if line.kind != "other"]
    studies = {}
    for line in axes["experiment"].lines:
        composed = composer.composed([*told, line])
        study = _study(composer, f"experiment={line.value}", composed.sweep, axes.keys())
        if "seeds" in axes or "seed" in axes:
            study = replace(study, seeds=seeds)
        elif study.seeds is None:
            study = replace(study, seeds=_checked({"seeds": composed.data.get("seeds")}).seeds)
        studies[study.name] = study
    if len({study.seeds == "auto" for study in studies.values()}) > 1:
        names = [name for name, study in studies.items() if study.seeds == "auto"]
        raise UserError(f"{names[0]}: sweep.seeds=auto: allowed where all experiments say so, or seeds= is typed")
    return studies


def _study(composer: Composer, name: str, raw: Any, typed: Collection[str]) -> _Study:
    """What an experiment adds to keys that are typed."""
    if raw is None:
        return _Study(name)
    try:
        block = _checked(raw, "sweep")
        grid = {key: _axis(composer, f"sweep.grid.{key}", key, values) for key, values in block.grid.items()}
        rows = {key: _axis(composer, f"sweep.zip.{key}", key, values) for key, values in block.zip.items()}
        _check(block, grid, rows)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    gone = {*typed, *(("seed",) if "seeds" in typed else ())}
    steps = [[(line,) for line in axis.lines] for key, axis in grid.items() if key not in gone]
    together = [axis.lines for key, axis in rows.items() if key not in gone]
    if together:
        steps.append(list(zip(*together, strict=True)))
    return _Study(name, tuple(steps), block.exclude, block.seeds, raw)


def _checked(raw: Any, path: str = "") -> Block:
    return schema.build(Block, raw, path)


def _axis(composer: Composer, path: str, key: str, values: Any) -> Axis:
    """An axis of a block: a list of values, or a text in Hydra's grammar."""
    if not _KEY.match(key) or key.partition(".")[0] in _NO_AXES:
        raise UserError(f"{path}: allowed: a group, or a key of a run such as strategy.rate")
    try:
        if isinstance(values, list) and values:
            return composer.axis(key, values)
        if isinstance(values, str):
            (axis,) = composer.axes([f"{key}={values}"])
            if axis.swept:
                return axis
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    raise UserError(f"{path}={values}: allowed: a list of values, or a text such as a,b or range(0.1,0.6,0.1)")


def _check(block: Block, grid: Mapping[str, Axis], rows: Mapping[str, Axis]) -> None:
    """Checks what the parts of a block say of one another."""
    for key in grid.keys() & rows.keys():
        raise UserError(f"sweep.zip.{key}: sweep.grid has this axis too")
    if block.seeds is not None and "seed" in {*grid, *rows}:
        raise UserError("sweep.seeds: there is an axis seed too")
    lengths = {key: len(axis.lines) for key, axis in rows.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{key} has {length} values" for key, length in lengths.items())
        raise UserError(f"sweep.zip: {shown}; allowed: one length")
    known = [*grid, *rows, *(("seed",) if block.seeds is not None else ())]
    for index, entry in enumerate(block.exclude):
        if not entry:
            raise UserError(f"sweep.exclude[{index}]={{}}: allowed: some of the axes with a value each")
        for key in entry:
            if key not in known:
                raise UserError(
                    f"sweep.exclude[{index}].{key}={entry[key]}: there is no such axis; known: {', '.join(known)}"
                    f"{nearest(key, known)}"
                )
