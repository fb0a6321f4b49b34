"""The one place that knows Hydra: the command line in, plain data out.

Hydra composes and expands; what a key may hold is checked behind it, by `config.check`. To have one judge of unknown
keys, `key=value` is handed to Hydra as `++key=value`; a group stays a group, and `+experiment=x` means `experiment=x`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dropbench.errors import UserError, nearest
from dropbench.paths import conf_dirs

#: `version_base` is what Hydra 1.3 asks for to be silent, and deprecated in 1.4.
_VERSION: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {}
PRIMARY = "config"


@dataclass(frozen=True)
class Composed:
    """A composed config.

    Args:
        data: plain mappings, lists and scalars; interpolations are resolved.
        choices: the name chosen in each group.
        overrides: what the user typed.
        task: what Hydra was told instead.
        text: of the config as Hydra composed it, interpolations and all; None where it says no more than `data`.
        hydra: Hydra's own node.
    """

    data: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    task: tuple[str, ...]
    text: str | None
    hydra: dict[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """Texts of `.hydra/config.yaml`, `.hydra/hydra.yaml` and `.hydra/overrides.yaml`, by name."""
        node = {
            **self.hydra,
            "overrides": {**self.hydra["overrides"], "task": list(self.task)},
            "job": {**self.hydra["job"], "override_dirname": ",".join(sorted(self.task))},
        }
        return {
            "config.yaml": self.text or yaml.safe_dump(self.data, sort_keys=False),
            "hydra.yaml": yaml.safe_dump({"hydra": node}, sort_keys=False),
            "overrides.yaml": yaml.safe_dump(list(self.overrides)),
        }


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
        self._lines: dict[str, tuple[str, Override, bool]] = {}

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

        In a sweep Hydra composes each combination of choices once; values are then set in copies, since Hydra takes a
        tenth of a second for each.

        Raises:
            UserError: an unknown choice, bad grammar, a broken YAML file.
        """
        parsed = [self._parse(line) for line in overrides]
        shape = tuple(line for line, _, value in parsed if not value)
        if shape not in self._bases:
            self._bases[shape] = self._composed(shape, overrides)
        base = self._bases[shape]
        values = [(each.key_or_group, each.value()) for _, each, value in parsed if value]
        task = tuple(line for line, _, _ in parsed)
        if base.text is not None or any("${" in str(value) for _, value in values):
            return replace(self._composed(task, overrides), overrides=tuple(overrides))
        data = deepcopy(base.data)
        for key, value in values:
            _set(data, key.split("."), value)
        return replace(base, data=data, overrides=tuple(overrides), task=task)

    def _composed(self, task: tuple[str, ...], typed: Sequence[str]) -> Composed:
        """Composes with Hydra alone what was `typed`, and is told to it as `task`."""
        with self._hydra(), _told(typed):
            composed = hydra.compose(PRIMARY, [*task, *self._search], return_hydra_config=True)
            node = OmegaConf.to_container(composed.hydra, resolve=False)
            OmegaConf.set_readonly(composed, False)
            OmegaConf.set_struct(composed, False)
            del composed["hydra"]
            data, text = OmegaConf.to_container(composed, resolve=True), OmegaConf.to_yaml(composed)
            assert isinstance(data, dict)
            assert isinstance(node, dict)
        chosen = node["runtime"]["choices"]
        choices = {group: str(name) for group, name in chosen.items() if "/" not in group}
        return Composed(data, choices, (), task, text if "${" in text else None, node)

    def _parse(self, line: str) -> tuple[str, Override, bool]:
        """What Hydra is told for an override, the override, and whether it sets a value (or chooses, deletes, ...)."""
        if line not in self._lines:
            with self._hydra():
                (parsed,) = self._parsed([line])
                rewritten = self._rewrite(parsed, self._known)
            value = rewritten.startswith("++") and bool(parsed.key_or_group) and not parsed.is_sweep_override()
            self._lines[line] = rewritten, parsed, value
        return self._lines[line]

    def expand(self, overrides: Sequence[str]) -> list[list[str]]:
        """All combinations of a sweep in Hydra's grammar (`a,b`, `range()`, `choice()`, `glob()`), the last fastest.

        Raises:
            UserError: bad grammar, or a sweep over nothing.
        """
        with self._hydra(), _told(overrides):
            axes = [_axis(override, self._known) for override in self._parsed(overrides)]
        return [list(combination) for combination in product(*axes)]

    def show(self, arguments: Sequence[str], overrides: Sequence[str]) -> int:
        """Hydra's own views of the config: `--cfg`, `--info`, `--hydra-help`."""
        with self._hydra():
            rewritten = [self._rewrite(override, self._known) for override in self._parsed(overrides)]

        @hydra.main(config_path=str(self.primary), config_name=PRIMARY, **_VERSION)  # type: ignore[untyped-decorator]
        def nothing(_: object) -> None:
            """Is never called: Hydra shows and returns."""

        before = sys.argv
        sys.argv = ["dropbench train", *arguments, *rewritten, *self._search]
        try:
            nothing()
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
        if override.is_delete():
            return line
        if key not in groups:
            return f"++{line.lstrip('+')}"
        chosen = override.value()
        names = chosen if isinstance(chosen, list) else [chosen]
        for name in names:
            if name is not None and str(name) not in groups[key]:
                known = sorted(set(groups[key]))
                close = nearest(str(name), known)
                raise UserError(f"{key}={name}: there is no such {key}; known: {', '.join(known)}{close}")
        return line.lstrip("+")


def _axis(override: Override, groups: dict[str, list[str]]) -> list[str]:
    """The overrides that one override of a sweep stands for."""
    line = override.input_line or ""
    if not override.is_sweep_override():
        return [line]
    if override.value_type == ValueType.GLOB_CHOICE_SWEEP:  # Hydra's own looks at the top of a group alone
        values = override.value().filter(groups.get(override.key_or_group, []))
    else:
        values = list(override.sweep_string_iterator())
    if not values:
        known = groups.get(override.key_or_group, [])
        raise UserError(f"{line}: this sweeps over nothing{'; known: ' + ', '.join(known) if known else ''}")
    return [f"{override.get_key_element()}={value}" for value in values]


def _set(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Sets a value as Hydra's `++` does: mappings are merged, what is missing on the way is made."""
    for name in path[:-1]:
        if not isinstance(data.get(name), dict):
            data[name] = {}
        data = data[name]
    last = path[-1]
    if isinstance(value, dict) and isinstance(data.get(last), dict):
        for name, item in value.items():
            _set(data[last], [str(name)], item)
    else:
        data[last] = deepcopy(value)


@contextmanager
def _told(overrides: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra, OmegaConf and YAML complain of into one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{' '.join(overrides)}: {reason}" if overrides else reason) from error
