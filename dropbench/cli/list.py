"""`dropbench list`: what there is, from the first comment line of every config file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dropbench.cli.parser import Parser
from dropbench.paths import conf_dirs
from dropbench.terminal import clean

#: The word a user types, and the folder under `conf/`.
GROUPS = {
    "strategies": "strategy",
    "models": "model",
    "datasets": "dataset",
    "optimizers": "optimizer",
    "experiments": "experiment",
}
_SINGULAR = {folder: word for word, folder in GROUPS.items()}


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(prog="dropbench list", description="What there is, one line each, with where it comes from.")
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
        rows = {word: [{"name": name, "description": text} for name, text in found[word].items()] for word in words}
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    lines = []
    for word in words:
        indent = ""
        if len(words) > 1:
            lines.append(f"{word} ({GROUPS[word]}=...)")
            indent = "  "
        width = max((len(clean(name)) for name in found[word]), default=0)
        lines += [f"{indent}{clean(name):{width}}  {clean(text)}".rstrip() for name, text in found[word].items()]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def entries(folders: list[Path], group: str) -> dict[str, str]:
    """Each choice of a config group, by name, with its description; where two have one name the first folder wins."""
    found: dict[str, str] = {}
    for folder in folders:
        for path in sorted((folder / group).rglob("*.yaml")):
            name = path.relative_to(folder / group).with_suffix("").as_posix()
            found.setdefault(name, _description(path))
    return dict(sorted(found.items()))


def _description(path: Path) -> str:
    """The first comment line that is none of Hydra's (`# @package _global_`)."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            text = line.strip()
            if text.startswith("#") and (comment := text.lstrip("#").strip()) and not comment.startswith("@package"):
                return comment
            if text and not text.startswith("#") and text != "---":
                break
    return ""
