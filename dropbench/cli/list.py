"""`dropbench list`: what there is, from the first comment lines of every config file.

Of a strategy also its formula, its source and its parameters, as `# formula: ...`, `# source: ...` and the content of
the file give them.
"""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from dropbench.cli.parser import Parser
from dropbench.paths import conf_dirs
from dropbench.terminal import clean, line_width, setting

#: The word a user types, and the folder under `conf/`.
GROUPS = {
    "strategies": "strategy",
    "models": "model",
    "datasets": "dataset",
    "optimizers": "optimizer",
    "loggers": "logger",
    "experiments": "experiment",
}
_SINGULAR = {folder: word for word, folder in GROUPS.items()}
_DETAILED = "strategies"
_INDENT = 14  # of the details of a strategy: two blanks, a word, blanks


@dataclass(frozen=True)
class Entry:
    """What a config file says of itself.

    Args:
        name: its path below the group, without the suffix.
        description: its first comment line that is neither of those below nor Hydra's (`# @package _global_`).
        formula: the rest of `# formula: ...`.
        source: the rest of `# source: ...`.
        parameters: its content, by dotted key.
    """

    name: str
    description: str
    formula: str
    source: str
    parameters: dict[str, object]


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(
        prog="dropbench list",
        description="What there is, one line each; with strategies asked for: formula, source and parameters too.",
    )
    parser.add_argument(
        "group",
        nargs="?",
        type=lambda word: _SINGULAR.get(word, word),
        choices=GROUPS,
        metavar="GROUP",
        help=f"{', '.join(GROUPS)} (default: all)",
    )
    parser.add_argument("--format", choices=["table", "json"], default="table", help="table (default) or json")
    parser.add_argument(
        "--extension", action="append", default=[], metavar="PACKAGE", help="a package that brings configs of its own"
    )
    options = parser.parse_args(argv)
    words = [options.group] if options.group else list(GROUPS)
    folders = conf_dirs(tuple(options.extension))
    found = {word: entries(folders, GROUPS[word]) for word in words}
    if options.format == "json":
        rows = {word: [_plain(entry, word == _DETAILED) for entry in found[word]] for word in words}
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    lines = []
    for word in words:
        indent = ""
        if len(words) > 1:
            lines.append(f"{word} ({GROUPS[word]}=...)")
            indent = "  "
        elif word == _DETAILED:
            lines = "\n\n".join(_details(entry, line_width()) for entry in found[word]).splitlines()
            continue
        width = max((len(clean(entry.name)) for entry in found[word]), default=0)
        lines += [f"{indent}{clean(entry.name):{width}}  {clean(entry.description)}".rstrip() for entry in found[word]]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def entries(folders: list[Path], group: str) -> list[Entry]:
    """Each choice of a config group, in the order of their names; where two have one name the first folder wins."""
    found: dict[str, Entry] = {}
    for folder in folders:
        for path in sorted((folder / group).rglob("*.yaml")):
            name = path.relative_to(folder / group).with_suffix("").as_posix()
            if name not in found:
                found[name] = _entry(name, path.read_text(encoding="utf-8", errors="replace"))
    return [found[name] for name in sorted(found)]


def _entry(name: str, text: str) -> Entry:
    said = {"description": "", "formula": "", "source": ""}
    for line in map(str.strip, text.splitlines()):
        if line and line != "---" and not line.startswith("#"):
            break
        comment = line.lstrip("#").strip()
        key, _, rest = comment.partition(":")
        if key in ("formula", "source"):
            said[key] = said[key] or rest.strip()
        elif comment and line != "---" and not comment.startswith("@package"):
            said["description"] = said["description"] or comment
    return Entry(name, **said, parameters=_parameters(text))


def _parameters(text: str) -> dict[str, object]:
    """The content of a config by dotted key, without Hydra's list of defaults; empty where it is not YAML."""
    import yaml

    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # `dropbench train` says what is wrong
        return {}
    if not isinstance(data, dict):
        return {}
    return _flat({key: value for key, value in data.items() if key != "defaults"})


def _flat(data: dict[object, object], prefix: str = "") -> dict[str, object]:
    """A mapping of mappings by dotted key; a mapping with keys that are no words (`*.carry_h`) is one value."""
    found: dict[str, object] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and all(str(inner).isidentifier() for inner in value):
            found |= _flat(value, f"{name}.")
        else:
            found[name] = value
    return found


def _plain(entry: Entry, detailed: bool) -> dict[str, object]:
    if not detailed:
        return {"name": entry.name, "description": entry.description}
    # Whatever YAML holds becomes JSON: a date its text.
    return {**vars(entry), "parameters": json.loads(json.dumps(entry.parameters, default=str))}


def _details(entry: Entry, width: int) -> str:
    """A strategy in a few lines: name and description, and below them what else is known, folded at blanks."""
    parameters = " ".join(f"{clean(key)}={setting(value)}" for key, value in entry.parameters.items())
    lines = _folded(clean(entry.name), entry.description, width)
    for key, text in (("formula", entry.formula), ("source", entry.source), ("parameters", parameters)):
        if text:
            lines += _folded(f"  {key}", text, width)
    return "\n".join(lines)


def _folded(head: str, text: str, width: int) -> list[str]:
    start = f"{head:{_INDENT - 2}}  "
    lines = textwrap.wrap(
        clean(text), width, initial_indent=start, subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines or [start.rstrip()]
