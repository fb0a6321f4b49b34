"""The one place that knows Hydra: the command line in, plain data out.

Hydra composes and expands; what a key may hold is checked behind it, by `config.check`. To have one judge of unknown
keys, `key=value` is handed to Hydra as `++key=value`; a group stays a group, and `+experiment=x` means `experiment=x`.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    Override,
    Quote,
    QuotedString,
    RangeSweep,
    Transformer,
    ValueType,
)
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dropbench.errors import UserError, nearest
from dropbench.paths import conf_dirs

#: `version_base` is what Hydra 1.3 asks for to be silent, and deprecated in 1.4.
_VERSION: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
PRIMARY = "config"
#: The key of a config under which a sweep stands: it says which runs there are, and is no setting of a run.
SWEEP = "sweep"
_SWEEPER = "hydra/sweeper"
_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)\Z)[A-Za-z_][\w./-]*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Composed:
    """A composed config. The runs of a sweep share what they have in common: none of it may be changed in place.

    Args:
        data: plain mappings, lists and scalars; interpolations are resolved.
        choices: the name chosen in each group.
        overrides: what the user typed.
        task: what Hydra was told instead.
        raw: the config before interpolations were resolved; None where it says no more than `data`.
        hydra: Hydra's own node.
        sweep: what stands under `sweep` in an experiment, or None.
    """

    data: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    task: tuple[str, ...]
    raw: dict[str, Any] | None
    hydra: dict[str, Any]
    sweep: Any = None

    @property
    def files(self) -> dict[str, str]:
        """Texts of `.hydra/config.yaml`, `.hydra/hydra.yaml` and `.hydra/overrides.yaml`, by name."""
        node = {
            **self.hydra,
            "overrides": {**self.hydra["overrides"], "task": list(self.task)},
            "job": {**self.hydra["job"], "override_dirname": ",".join(sorted(self.task))},
        }
        return {
            "config.yaml": OmegaConf.to_yaml(self.raw) if self.raw else yaml.safe_dump(self.data, sort_keys=False),
            "hydra.yaml": yaml.safe_dump({"hydra": node}, sort_keys=False),
            "overrides.yaml": yaml.safe_dump(list(self.overrides)),
        }


@dataclass(frozen=True)
class Line:
    """One override with one value.

    Args:
        text: what the user types.
        task: what Hydra is told.
        key: the key, or the group.
        value: of the key, or the name chosen.
        kind: whether it sets a key, chooses a file of a group, or does something else (deletes, speaks to Hydra).
    """

    text: str
    task: str
    key: str
    value: Any
    kind: Literal["sets", "chooses", "other"]


@dataclass(frozen=True)
class Axis:
    """What one override of a sweep stands for: a line each value, one where it does not sweep."""

    key: str
    lines: tuple[Line, ...]
    swept: bool


@dataclass(frozen=True)
class _File:
    """What a config file of a group does.

    Args:
        writes: the keys at the top of the config to which it adds.
        node: its content, where that is all there is to say; None where it has a list of defaults or another package.
    """

    writes: frozenset[str]
    node: dict[str, Any] | None


class Composer:
    """Composes configs from dropbench's `conf`, those of extensions, and a folder of the user's.

    Args:
        config_dir: the user's folder, or None.
        extensions: packages whose `conf` is searched too.
    """

    def __init__(self, config_dir: str | None = None, extensions: tuple[str, ...] = ()) -> None:
        primary, *others = conf_dirs(extensions)
        if config_dir is not None and not Path(config_dir).is_dir():
            raise UserError(f"--config-dir {config_dir}: no such folder")
        self.primary = primary
        self.folders = [primary, *others, *([Path(config_dir)] if config_dir else [])]
        searched = ",".join(f"file://{folder.resolve()}" for folder in self.folders[1:])
        self._search = [f"hydra.searchpath=[{searched}]"] if searched else []
        self._known = self.groups()
        self._bases: dict[tuple[str, ...], Composed] = {}
        self._frames: dict[tuple[tuple[str, Any], ...], Composed] = {}
        self._files: dict[tuple[str, str], _File | None] = {}
        self._lines: dict[str, Line] = {}

    def groups(self) -> dict[str, list[str]]:
        """The names to choose from in each group."""
        found: dict[str, list[str]] = {}
        for folder in self.folders:
            for group in sorted(path for path in folder.iterdir() if path.is_dir()):
                names = (path.relative_to(group).with_suffix("").as_posix() for path in group.rglob("*.yaml"))
                found.setdefault(group.name, []).extend(sorted(names))
        return found

    def compose(self, overrides: Sequence[str]) -> Composed:
        """Composes one config.

        Raises:
            UserError: an unknown choice, bad grammar, a broken YAML file.
        """
        new = [text for text in overrides if text not in self._lines]
        if new:
            with self._hydra():
                for override in self._parsed(new):
                    self._line(override)
        return self.composed([self._lines[text] for text in overrides])

    def composed(self, lines: Sequence[Line]) -> Composed:
        """Composes one config of lines from `axes`.

        Hydra takes a twentieth of a second for a config, so it composes each combination of choices once at most;
        values are then set in copies, as Hydra sets them.
        """
        base = self._base([line for line in lines if line.kind != "sets"], lines)
        texts, task = tuple(line.text for line in lines), tuple(line.task for line in lines)
        values = [line for line in lines if line.kind == "sets"]
        raw = base.data if base.raw is None else base.raw
        for line in values:
            raw = _with(raw, line.key.split("."), line.value)
        if base.raw is None and not any("${" in line.text for line in values):
            return Composed(raw, base.choices, texts, task, None, base.hydra, base.sweep)
        with _told(texts):
            data = OmegaConf.to_container(OmegaConf.create({**raw, SWEEP: base.sweep}), resolve=True)
        assert isinstance(data, dict)
        return Composed(data, base.choices, texts, task, raw, base.hydra, data.pop(SWEEP))

    def _base(self, choosing: Sequence[Line], lines: Sequence[Line]) -> Composed:
        """What these choices give, of the same among `lines`, before values are set."""
        shape = tuple(line.task for line in choosing)
        if shape not in self._bases:
            frame = self._frame(choosing)
            base = self._swapped(choosing, self._frames[frame]) if frame in self._frames else None
            if base is None:
                base = self._composed(shape, [line.text for line in lines])
                if frame is not None and self._swappable(choosing, base):
                    self._frames[frame] = base
            self._bases[shape] = base
        return self._bases[shape]

    def _composed(self, task: tuple[str, ...], typed: Sequence[str]) -> Composed:
        """Composes with Hydra alone what is told to it as `task`; `typed` is for messages."""
        with self._hydra(), _told(typed):
            composed = hydra.compose(PRIMARY, [*task, *self._search], return_hydra_config=True)
            node = composed.hydra
            OmegaConf.set_readonly(composed, False)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            return replace(_plain(composed, node), task=task)

    def _frame(self, choosing: Sequence[Line]) -> tuple[tuple[str, Any], ...] | None:
        """What must agree in two sets of choices so that no more than the content of whole groups tells them apart."""
        if any(line.kind != "chooses" for line in choosing) or len({line.key for line in choosing}) < len(choosing):
            return None
        files = [self._file(line.key, line.value) for line in choosing]
        return tuple(
            (line.key, "any" if file is not None and file.node is not None else line)
            for line, file in zip(choosing, files, strict=True)
        )

    def _swappable(self, choosing: Sequence[Line], base: Composed) -> bool:
        """Whether the groups of which `_frame` takes any choice have their part of the config for themselves."""
        names = {group: name for group, name in base.choices.items() if name != "None"}
        files = {group: self._file(group, name) for group, name in names.items()}
        if base.raw is not None or None in files.values():
            return False
        written = [key for file in files.values() if file is not None for key in file.writes]
        own = [line.key for line in choosing if (file := files.get(line.key)) is not None and file.node is not None]
        return all(written.count(key) == 1 for key in own)

    def _swapped(self, choosing: Sequence[Line], base: Composed) -> Composed:
        """A base with the choices of its frame replaced."""
        files = {line.key: self._file(line.key, line.value) for line in choosing}
        nodes = {group: file.node for group, file in files.items() if file is not None and file.node is not None}
        names = {line.key: line.value for line in choosing if line.key in nodes}
        runtime = base.hydra["runtime"]
        return replace(
            base,
            data=base.data | nodes,
            choices=base.choices | names,
            task=tuple(line.task for line in choosing),
            hydra=base.hydra | {"runtime": runtime | {"choices": runtime["choices"] | names}},
        )

    def _file(self, group: str, name: str) -> _File | None:
        """What the file of a choice does; None where it takes Hydra to say."""
        if (group, name) not in self._files:
            paths = [folder / group / f"{name}.yaml" for folder in self.folders]
            self._files[group, name] = next((_file(group, path) for path in paths if path.is_file()), None)
        return self._files[group, name]

    def axes(self, overrides: Sequence[str]) -> list[Axis]:
        """What each override of a sweep in Hydra's grammar stands for (`a,b`, `range()`, `choice()`, `glob()`).

        Raises:
            UserError: bad grammar, an unknown choice, or a sweep over nothing.
        """
        with self._hydra(), _told(overrides):
            return [self._axis(override) for override in self._parsed(overrides)]

    def axis(self, key: str, values: Sequence[Any]) -> Axis:
        """The axis of a key over plain values.

        Raises:
            UserError: an unknown choice, or a value for which Hydra's grammar has no words.
        """
        axes = self.axes([f"{key}={_said(key, value)}" for value in values])
        return Axis(key, tuple(axis.lines[0] for axis in axes), swept=True)

    def _axis(self, override: Override) -> Axis:
        key, line = override.key_or_group, override.input_line or ""
        if not override.is_sweep_override():
            return Axis(key, (self._line(override),), swept=False)
        known = self._known.get(key, [])
        if override.value_type == ValueType.INTERVAL_SWEEP:
            raise UserError(f"{line}: an interval has no values to go through; allowed: a,b or range(start,stop,step)")
        if override.value_type == ValueType.GLOB_CHOICE_SWEEP:  # Hydra's own looks at the top of a group alone
            values = override.value().filter(known)
        else:
            values = list(_exact(override).sweep_iterator())
        if not values:
            raise UserError(f"{line}: this sweeps over nothing{'; known: ' + ', '.join(known) if known else ''}")
        before = f"{override.get_key_element()}="
        singles = (
            replace(override, value_type=ValueType.ELEMENT, _value=value, input_line=before + Transformer.str(value))
            for value in values
        )
        return Axis(key, tuple(self._line(single) for single in singles), swept=True)

    def _line(self, override: Override) -> Line:
        """The line of an override, which is remembered by what was typed."""
        text, key = override.input_line or "", override.key_or_group
        if text not in self._lines:
            task, value = self._rewrite(override, self._known), override.value()
            kind: Literal["sets", "chooses", "other"] = "other"
            if task.startswith("++") and key and not override.is_sweep_override():
                kind = "sets"
            elif key in self._known and isinstance(value, str) and not (override.is_delete() or override.package):
                kind = "chooses"
            self._lines[text] = Line(text, task, key, value, kind)
        return self._lines[text]

    def show(self, arguments: Sequence[str], overrides: Sequence[str]) -> int:
        """Hydra's own views of the config: `--cfg`, `--info`, `--hydra-help`."""

        def nothing(_: object) -> None:
            """Is never called: Hydra shows and returns."""

        return self._main([*arguments, *self._rewritten(overrides)], nothing)

    def asks_hydra(self, overrides: Sequence[str]) -> bool:
        """Whether a sweeper or a launcher of Hydra's own is asked for."""
        return not {_SWEEPER, "hydra/launcher"}.isdisjoint(map(key_of, overrides))

    def asks_sweeper(self, overrides: Sequence[str]) -> bool:
        """Whether a sweeper is: it reads the overrides itself, in a grammar that it may have extended."""
        return _SWEEPER in map(key_of, overrides)

    def settled(self, overrides: Sequence[str]) -> Composed:
        """Composes what is no sweep among the overrides.

        Raises:
            UserError: see `compose`; a launcher of Hydra's that is not installed.
        """
        with self._hydra(), _told(overrides):
            parsed = self._parsed(overrides)
        return self.compose([override.input_line or "" for override in parsed if not override.is_sweep_override()])

    def multirun(self, overrides: Sequence[str], folder: Path, task: Callable[[Any], object]) -> int:
        """Has Hydra sweep with its own sweeper and launcher, and returns its exit code.

        Args:
            overrides: what the user typed, launcher and all.
            folder: for what Hydra writes; job number n writes into `folder/n`.
            task: what each job does with its config, see `of_job`; a function of a module, for it may be pickled.
        """
        said = f"hydra.sweep.dir={QuotedString(str(folder.absolute()), Quote.single).with_quotes()}"
        ours = [said, "hydra.job.name=dropbench", "hydra.job.chdir=false"]
        ours += [  # standard output is for tables
            f"hydra.{logging}.handlers.console.stream=ext://sys.stderr"
            for logging in ("hydra_logging", "job_logging")
            if f"hydra/{logging}" not in map(key_of, overrides)
        ]
        return self._main(["--multirun", *self._rewritten(overrides), *ours], task)

    def _rewritten(self, overrides: Sequence[str]) -> list[str]:
        with self._hydra():
            return [self._rewrite(override, self._known) for override in self._parsed(overrides)]

    def _main(self, arguments: Sequence[str], task: Callable[[Any], object]) -> int:
        """Runs `hydra.main` with a command line and returns the exit code."""
        main = hydra.main(config_path=str(self.primary), config_name=PRIMARY, **_VERSION)(task)
        before = sys.argv
        sys.argv = ["dropbench train", *arguments, *self._search]
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.argv = before
        return 0

    @contextmanager
    def _hydra(self) -> Iterator[None]:
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(self.primary), job_name="dropbench", **_VERSION):
            yield

    def _parsed(self, overrides: Sequence[str]) -> list[Override]:
        loader = GlobalHydra.instance().config_loader()
        with _told(overrides):
            return list(OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)))

    def _rewrite(self, override: Override, groups: dict[str, list[str]]) -> str:
        line = override.input_line or ""
        key = override.key_or_group
        if key.startswith("hydra"):
            if key in ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.chdir"):
                raise UserError(f"{line}: a run lies in <output_root>/<study>/<run id>; allowed: output_root, study")
            return line
        if key.partition(".")[0] == SWEEP:
            raise UserError(f"{line}: this stands in an experiment; here type the axes, key=a,b, and seeds=")
        if override.is_delete():
            return line
        if key not in groups:
            return f"++{line.lstrip('+')}"
        chosen = override.value()
        names = chosen if isinstance(chosen, list) else [] if override.is_sweep_override() else [chosen]
        if isinstance(chosen, list) and key != "experiment":
            raise UserError(f"{line}: one {key} is chosen; allowed in a sweep: {key}={','.join(map(str, chosen))}")
        for name in names:
            if name is not None and str(name) not in groups[key]:
                known = sorted(set(groups[key]))
                close = nearest(str(name), known)
                raise UserError(f"{key}={name}: there is no such {key}; known: {', '.join(known)}{close}")
        return line.lstrip("+")


def key_of(override: str) -> str:
    """The key or group of an override, without the grammar for its value."""
    return override.lstrip("+~").partition("=")[0]


def of_job(config: Any) -> Composed:
    """What Hydra composed for the job that runs now; see `Composer.multirun`."""
    composed = _plain(config, HydraConfig.get())
    task = tuple(composed.hydra["overrides"]["task"])
    return replace(composed, overrides=tuple(line.removeprefix("++") for line in task), task=task)


def _plain(config: Any, node: Any) -> Composed:
    """A config of Hydra's and its own node as plain data; the `sweep` with its interpolations, where there are any."""
    data, raw = (OmegaConf.to_container(config, resolve=resolve) for resolve in (True, False))
    node = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    assert isinstance(data, dict)
    assert isinstance(raw, dict)
    choices = {group: str(name) for group, name in node["runtime"]["choices"].items() if "/" not in group}
    interpolated = raw != data
    data.pop(SWEEP, None)
    sweep = raw.pop(SWEEP, None)
    return Composed(data, choices, (), (), raw if interpolated else None, node, sweep)


def _said(key: str, value: Any) -> str:
    """A plain value of a key in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        return value if _PLAIN.match(value) else str(QuotedString(value, Quote.single).with_quotes())
    if isinstance(value, list):
        return f"[{','.join(_said(key, item) for item in value)}]"
    if isinstance(value, dict) and all(isinstance(name, str) and re.fullmatch(r"[\w.*]+", name) for name in value):
        return f"{{{','.join(f'{name}:{_said(key, item)}' for name, item in value.items())}}}"
    raise UserError(f"{key}={value}: allowed: numbers, texts, true, false, null, and lists and mappings of them")


def _exact(override: Override) -> Override:
    """A sweep over a range of decimals goes through what is written: 0.3, not the sum 0.30000000000000004."""
    sweep = override.value()
    if not isinstance(sweep, RangeSweep) or all(isinstance(end, int) for end in (sweep.start, sweep.stop, sweep.step)):
        return override
    if not all(math.isfinite(end) for end in (sweep.start, sweep.stop, sweep.step)) or sweep.step == 0:
        raise ValueError("a range needs finite ends and a step that is not 0")
    start, stop, step = (Decimal(f"{end:.15g}") for end in (sweep.start, sweep.stop, sweep.step))
    values = [float(start + step * index) for index in range(max(0, math.ceil((stop - start) / step)))]
    choice = ChoiceSweep(list=values, shuffle=sweep.shuffle)
    return replace(override, value_type=ValueType.CHOICE_SWEEP, _value=choice)


def _file(group: str, path: Path) -> _File | None:
    """What a config file does, where that is plain from its text."""
    try:
        text = path.read_text(encoding="utf-8")
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError):  # Hydra says what is wrong
        return None
    package = re.findall(r"^\s*#\s*@package\b\s*(.*?)\s*$", text, re.MULTILINE)
    if "${" in text or "???" in text or package not in ([], ["_global_"]) or not isinstance(content, dict):
        return None
    defaults = content.pop("defaults", None)
    if defaults is not None and not (isinstance(defaults, list) and all(map(_overrides, defaults))):
        return None
    if package:
        return _File(frozenset(map(str, content)), None)
    return _File(frozenset({group}), content if content and defaults is None else None)


def _overrides(default: object) -> bool:
    """Whether an entry of a list of defaults does no more than to make another choice."""
    return default == "_self_" or (
        isinstance(default, dict) and len(default) == 1 and next(iter(default)).startswith("override ")
    )


def _with(data: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """A copy of nested mappings with a value set as Hydra's `++` does: mappings are merged, what is missing is made."""
    name, *rest = path
    node = data.get(name)
    if rest:
        value = _with(node if isinstance(node, dict) else {}, rest, value)
    elif isinstance(value, dict) and isinstance(node, dict):
        for key, item in value.items():
            node = _with(node, [str(key)], item)
        value = node
    return {**data, name: value}


@contextmanager
def _told(overrides: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra, OmegaConf and YAML complain of into one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{' '.join(overrides)}: {reason}" if overrides else reason) from error
