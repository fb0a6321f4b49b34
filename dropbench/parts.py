"""How parts are found: one file in one folder is one part, named by its file. There is no list to edit.

A part is a frozen dataclass that is its own config: its fields are the keys that a YAML or the command line may set.
Files of parts import no torch when they are loaded, so that a config is checked without waiting for it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC
from functools import cache
from importlib.metadata import entry_points
from typing import ClassVar, TypeVar

from dropbench.errors import UserError, nearest

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


class Part(ABC):
    """Something found by name: a noise, a policy, an objective, a model, a data set, an optimizer.

    A subclass is either abstract (one a folder, in the folder's `__init__.py`) or final (one a file).
    """

    folder: ClassVar[str]

    @classmethod
    def kind(cls) -> str:
        """The name of the part: that of its file."""
        return cls.__module__.rpartition(".")[2]


AnyPart = TypeVar("AnyPart", bound=Part)


@cache
def roots(extensions: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Packages in which parts and configs are looked for: dropbench, installed plug-ins, those the user names."""
    installed = (entry.value for entry in entry_points(group="dropbench.extensions"))
    return tuple(dict.fromkeys(("dropbench", *installed, *extensions)))


@cache
def names(base: type[Part], extensions: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of all parts of the kind `base`, sorted."""
    found: set[str] = set()
    for root in roots(extensions):
        try:
            package = importlib.import_module(f"{root}.{base.folder}")
        except ModuleNotFoundError as error:
            if error.name and f"{root}.{base.folder}".startswith(error.name) and error.name != root:
                continue  # the package brings no parts of this kind
            raise UserError(f"extensions={root}: no package of that name can be imported") from error
        found.update(
            module.name
            for module in pkgutil.iter_modules(package.__path__)
            if _part_in(f"{package.__name__}.{module.name}", base)
        )
    return tuple(sorted(found))


def find(base: type[AnyPart], name: str, key: str, extensions: tuple[str, ...] = ()) -> type[AnyPart]:
    """Returns the class of the part `name` of kind `base`.

    Raises:
        UserError: no such part; the line names the config key and the nearest known name.
    """
    if _NAME.match(name):
        for root in roots(extensions):
            part = _part_in(f"{root}.{base.folder}.{name}", base)
            if part is not None:
                return part
    known = names(base, extensions)
    what = base.__name__.lower()
    raise UserError(f"{key}={name}: there is no such {what}; known: {', '.join(known)}{nearest(name, known)}")


@cache
def _part_in(module_name: str, base: type[AnyPart]) -> type[AnyPart] | None:
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.startswith(error.name):
            return None
        raise
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == module_name
    ]
    if len(found) > 1:
        raise TypeError(f"{module_name} defines {len(found)} parts; one file is one part")
    return found[0] if found else None
