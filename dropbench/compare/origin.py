"""Where runs come from, as their `record.json` says: what ran, on what, on which data, by which command."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dropbench.compare.groups import count
from dropbench.runs.files import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dropbench.runs.records import RunRecord

_LARGEST = 1 << 20  # bytes of a record.json that are read
_LONGEST = 2_000  # characters of a command or of an error
_VALUE = 200  # characters of a setting
_VERSION = re.compile(r"[A-Za-z0-9._+!-]{1,64}")
_DAY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d")


@dataclass(frozen=True)
class Code:
    """What ran: a commit of dropbench, and versions.

    Args:
        commit: `` where it is not known.
        dirty: whether the code had been changed since the commit.
        versions: of dropbench and of what it stands on, by name.
    """

    commit: str
    dirty: bool
    versions: tuple[tuple[str, str], ...]

    @property
    def install(self) -> list[str]:
        """The lines that install it."""
        own = dict(self.versions).get("dropbench", "")
        known = [(name, version.partition("+")[0]) for name, version in self.versions]
        others = [f"{name}=={version}" for name, version in known if name not in ("dropbench", "python", "cuda")]
        if self.commit:
            return [f"git checkout {self.commit}", shlex.join(["pip", "install", ".", *others])]
        return [shlex.join(["pip", "install", f"dropbench=={own}" if own else "dropbench", *others])]


@dataclass
class Origin:
    """Where runs come from, as their `record.json` says, each with the number of runs.

    Args:
        commands: by what ran, the command lines.
        hardware: on which they ran.
        data: the hash of the data, by the name of the data set.
        days: when they began.
        silent: runs without such a record.
    """

    commands: dict[Code, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    hardware: Counter[str] = field(default_factory=Counter)
    data: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    days: list[str] = field(default_factory=list)
    silent: int = 0


def origins(records: Iterable[RunRecord]) -> Origin:
    """Reads `record.json` of every run; what is not there or not ours is passed over."""
    origin = Origin()
    for record in records:
        try:
            found = json.loads(plain(record.path / "record.json", _LARGEST))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            origin.silent += 1
            continue
        git, versions, hardware, data = (_mapping(found, key) for key in ("git", "versions", "hardware", "data"))
        known = {key: _version(value) for key, value in versions.items() if _VERSION.fullmatch(key)}
        versions = {key: version for key, version in known.items() if version}
        code = Code(_version(git.get("commit")), git.get("dirty") is True, tuple(versions.items()))
        words = found.get("command")
        words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
        origin.commands[code][cut(shlex.join(words), _LONGEST) if words else "not recorded"] += 1
        where = [hardware.get("name"), hardware.get("device"), *_threads(hardware)]
        origin.hardware[", ".join(cut(word, _VALUE) for word in where if isinstance(word, str)) or "not recorded"] += 1
        if digest := _version(data.get("sha256")):
            origin.data[record.choices.get("dataset", "data")][digest] += 1
        if isinstance(began := found.get("started"), str) and _DAY.match(began):
            origin.days.append(began[:10])
    return origin


def cut(text: str, longest: int) -> str:
    """The text, or its beginning with a mark that there was more."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _threads(hardware: Mapping[str, Any]) -> list[str]:
    number = hardware.get("threads")
    return [count(number, "thread")] if isinstance(number, int) and not isinstance(number, bool) else []


def _mapping(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _version(value: object) -> str:
    return value if isinstance(value, str) and _VERSION.fullmatch(value) else ""
