"""A run, made again from its folder."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from dropbench.config import Run, check
from dropbench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGEST = 1 << 20


def reopen(folder: Path, extensions: Sequence[str] = ()) -> Run:
    """The run whose folder this is, wherever it was moved to.

    Args:
        folder: of the run.
        extensions: packages that the user trusts: what a file names is not imported because it names it.

    Raises:
        UserError: its `config.yaml` or `record.json` is not there or damaged, or is that of another run; its study
            is now in a folder whose name is not allowed.
    """
    try:
        data = _Loader(_content(folder / "config.yaml").decode()).get_single_data()
        record = json.loads(_content(folder / "record.json"))
        choices = {str(group): str(name) for group, name in record["choices"].items()}
        began = Path(str(record["folder"]))
        needed = data.get("extensions") or []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: it cannot be gone on with: config.yaml or record.json is damaged") from error
    if not isinstance(needed, list) or not set(map(str, needed)) <= set(extensions):
        raise UserError(f"{folder}: the run needs extensions={needed}; add --extensions if you trust them")
    place = Path(os.path.normpath(folder.absolute()))  # that of `.` has a name
    try:
        config = check(data)
        data_root = config.data_root
        if data_root is not None or "DROPBENCH_DATA" not in os.environ:
            data_root = str(began / config.data_folder)
        root, study = os.path.normpath(folder / ".." / ".."), place.parent.name
        run = Run(replace(config, output_root=root, study=study, data_root=data_root, rerun=False), choices)
        same = run.id == place.name
    except KeyError:
        same = False
    except (UserError, ValueError) as error:
        raise UserError(f"{folder}: {error}") from error
    if not same:
        raise UserError(f"{folder}: its config.yaml is not the config of this run, or is that of another version")
    return run


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Takes no aliases: dropbench writes none, and a few of them can stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError
        return super().compose_node(parent, index)


def _content(path: Path) -> bytes:
    """The bytes of a plain file of a size that `dropbench train` writes."""
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise ValueError
    return path.read_bytes()
