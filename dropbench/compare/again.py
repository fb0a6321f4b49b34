"""The command that goes on from a run that was typed once: like it, with other values."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from typing import TYPE_CHECKING

from dropbench.terminal import clean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dropbench.runs.records import RunRecord

_WORD = re.compile(r"[+~]*([\w./@-]+)(=.*)?\Z", re.DOTALL)
_MOST = 1 << 13  # bytes of overrides that are looked at
#: What was typed for the machine and not for the result, and what the command says itself.
_NOT_MEANT = frozenset(
    {"seed", "seeds", "rerun", "study", "output_root", "data_root", "workers", "stack", "launcher", "device", "budget"}
)


def command(run: RunRecord, changes: Mapping[str, str], seeds: Sequence[int]) -> str:
    """A sweep of runs like this one, with other values, into its folder; `` where it is not known what was typed.

    Extensions are left out: what a file names is not imported because it names it.
    """
    typed = _overrides(run.path)
    if typed is None:
        return ""
    study, root = run.path.parent.name, str(run.path.parent.parent)
    kept = [f"study={study}"] if study != "main" else []
    kept += [f"output_root={root}"] if root != "outputs" else []
    for word in typed:
        match = _WORD.match(word)
        key = match[1] if match else ""
        if not key or key.partition(".")[0] == "hydra" or key == "extensions":
            continue
        if key in changes or key in _NOT_MEANT:
            continue
        if "strategy" in changes and "," in changes["strategy"] and key.startswith("strategy."):
            return ""  # it may mean nothing to another strategy
        kept.append(word)
    ordered = sorted(seeds)
    follow = len(ordered) > 2 and all(after == before + 1 for before, after in pairwise(ordered))
    listed = f"range({ordered[0]},{ordered[-1] + 1})" if follow else ",".join(map(str, ordered))
    command = ["dropbench", "sweep", *kept, *(f"{key}={value}" for key, value in changes.items()), f"seed={listed}"]
    return clean(shlex.join(command))


def _overrides(folder: Path) -> list[str] | None:
    """What the user typed for a run; None where it is not recorded."""
    import yaml

    path = folder / ".hydra" / "overrides.yaml"
    try:
        if not path.is_file() or path.stat().st_size > _MOST:
            return None
        with path.open("rb") as file:
            data = yaml.safe_load(file.read(_MOST))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    if not isinstance(data, list) or not all(isinstance(word, str) for word in data):
        return None
    return data
