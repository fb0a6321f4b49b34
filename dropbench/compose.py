"""The one place that knows Hydra: the command line in, plain data out.

Hydra composes and expands; what a key may hold is checked behind it, by `config.check`. To have one judge of unknown
keys, `key=value` is handed to Hydra as `++key=value`; a group stays a group, and `+experiment=x` means `experiment=x`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
        files: texts of `.hydra/config.yaml`, `.hydra/hydra.yaml` and `.hydra/overrides.yaml`, by name.
    """

    data: dict[str, Any]
    choices: dict[str, str]
    overrides: tuple[str, ...]
    files: dict[str, str]


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
        with self._hydra():
            rewritten = self._rewritten(self._parsed(overrides))
            with _told(overrides):
                composed = hydra.compose(PRIMARY, [*rewritten, *self._search], return_hydra_config=True)
                hydra_node = composed.hydra
                OmegaConf.set_readonly(composed, False)
                OmegaConf.set_struct(composed, False)
                del composed["hydra"]
                data = OmegaConf.to_container(composed, resolve=True)
                assert isinstance(data, dict)
                files = {
                    "config.yaml": OmegaConf.to_yaml(composed),
                    "hydra.yaml": OmegaConf.to_yaml(OmegaConf.create({"hydra": hydra_node})),
                    "overrides.yaml": yaml.safe_dump(list(overrides)),
                }
        choices = {group: str(name) for group, name in hydra_node.runtime.choices.items() if "/" not in group}
        return Composed(data, choices, tuple(overrides), files)

    def expand(self, overrides: Sequence[str]) -> list[list[str]]:
        """All combinations of a sweep in Hydra's grammar (`a,b`, `range()`, `choice()`, `glob()`), the last fastest.

        Raises:
            UserError: bad grammar, or a sweep over nothing.
        """
        groups = self.groups()
        with self._hydra(), _told(overrides):
            axes = [_axis(override, groups) for override in self._parsed(overrides)]
        return [list(combination) for combination in product(*axes)]

    def show(self, arguments: Sequence[str], overrides: Sequence[str]) -> int:
        """Hydra's own views of the config: `--cfg`, `--info`, `--hydra-help`."""
        with self._hydra():
            rewritten = self._rewritten(self._parsed(overrides))

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

    def _rewritten(self, parsed: Sequence[Override]) -> list[str]:
        groups = self.groups()
        return [self._rewrite(override, groups) for override in parsed]

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


@contextmanager
def _told(overrides: Sequence[str]) -> Iterator[None]:
    """Turns what Hydra, OmegaConf and YAML complain of into one line."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{' '.join(overrides)}: {reason}" if overrides else reason) from error
