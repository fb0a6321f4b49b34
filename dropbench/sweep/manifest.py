"""What was asked for, in `sweep-<hash>.json` beside the runs: enough to go on with a sweep from its folder alone."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dropbench.compose import Composer
from dropbench.config import Run, check, digest
from dropbench.errors import UserError
from dropbench.runs.files import disk, dump, write

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dropbench.compose import Composed
    from dropbench.config import Config

_LARGEST = 64 << 20
_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._+-]{1,255}\Z")


@dataclass(frozen=True)
class Entry:
    """One run: its id, and the overrides that give it."""

    id: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """A sweep.

    Args:
        path: of the file, in the folder of its study.
        command: what the user typed.
        config_dir: a folder with configs of the user's, or None.
        extensions: packages that bring parts and configs.
        folder: in which the command was given; relative paths hold from there.
        study: the name that its folder had then.
        runs: each once.
        block: the `sweep` block of its experiment, or None.
        race: whether its seeds are as many as the question needs; its runs then have the first one.
    """

    path: Path
    command: tuple[str, ...]
    config_dir: str | None
    extensions: tuple[str, ...]
    folder: str
    study: str
    runs: tuple[Entry, ...]
    block: dict[str, Any] | None = None
    race: bool = False

    @property
    def id(self) -> str:
        """`sweep-3f9a1c2b`."""
        return self.path.stem

    def composer(self, extensions: Sequence[str]) -> Composer:
        """Composes what the sweep did.

        Args:
            extensions: packages that the user trusts: what a file names is not imported because it names it.

        Raises:
            UserError: it needs others.
        """
        if not set(self.extensions) <= set(extensions):
            names = ",".join(self.extensions)
            raise UserError(f"{self.path}: the sweep needs extensions; add --extensions {names} if you trust them")
        config_dir = None if self.config_dir is None else os.path.join(self.folder, self.config_dir)  # noqa: PTH118
        return Composer(config_dir, self.extensions)

    def compose(self, composer: Composer, ids: Collection[str] | None = None) -> tuple[list[Run], dict[str, Composed]]:
        """The runs, or those of `ids`, and what Hydra composed; their folders lie beside this file, from anywhere.

        Args:
            composer: see `composer`.
            ids: of runs.

        Raises:
            UserError: the configs or dropbench changed since, and other runs come out; a run would import what the
                user was not asked about; the folder of the study has a name that is not allowed.
        """
        runs, hydra = [], {}
        for entry in self.runs:
            if ids is not None and entry.id not in ids:
                continue
            try:
                composed = self._composed(composer, entry)
                run = Run(check(composed.data), composed.choices, entry.overrides)
                if run.id != entry.id:
                    raise UserError(
                        f"it is {run.id} now: the configs or dropbench changed since the sweep began; the same command "
                        "starts it anew"
                    )
                runs.append(replace(run, config=self.placed(run.config)))
            except (UserError, ValueError, KeyError) as error:  # KeyError: a list of names was chosen in a group
                raise UserError(f"{self.path}: {entry.id}: {error}") from error
            hydra[run.id] = composed
        return runs, hydra

    def placed(self, config: Config) -> Config:
        """The config with the places of runs and data as they are seen from anywhere."""
        data_root = config.data_root
        if data_root is not None or "DROPBENCH_DATA" not in os.environ:
            data_root = str(Path(self.folder) / config.data_folder)
        study = Path(os.path.normpath(self.path.absolute())).parent.name if config.study == self.study else config.study
        root = os.path.normpath(self.path / ".." / "..")  # of `sweep-3f9a1c2b.json` the parent's parent is no other
        return replace(config, output_root=root, study=study, data_root=data_root)

    def _composed(self, composer: Composer, entry: Entry) -> Composed:
        """What Hydra composes; a run imports nothing but what the file as a whole names, and `composer` asks about."""
        for text in entry.overrides:
            if text.lstrip("+").startswith("hydra.searchpath"):  # `pkg://NAME` imports NAME
                raise UserError(f"{text}: not taken from a file; the same command goes on with the sweep")
        composed = composer.compose(entry.overrides)
        names = composed.data.get("extensions") or []
        if not isinstance(names, list) or not set(map(str, names)) <= set(self.extensions):
            raise UserError(f"extensions={names}: the sweep was begun with {list(self.extensions)}")
        return composed


def save(
    runs: Iterable[Run],
    command: Sequence[str],
    config_dir: str | None,
    block: dict[str, Any] | None = None,
    race: bool = False,
) -> Manifest:
    """Writes what was asked for beside the first run, and returns it; the same command writes the same file.

    Args:
        runs: each once; at least one.
        command: what the user typed.
        config_dir: a folder with configs of the user's, or None.
        block: the `sweep` block of the experiment.
        race: see `Manifest`.
    """
    runs = list(runs)
    config = runs[0].config
    study = runs[0].path.parent
    content = {
        "command": list(command),
        "config_dir": config_dir,
        "extensions": list(config.extensions),
        "folder": str(Path.cwd()),
        "study": config.study,
        "block": block,
        "race": race,
        "runs": [{"id": run.id, "overrides": list(run.overrides)} for run in runs],
    }
    name = digest({key: content[key] for key in ("command", "config_dir", "block")})
    path = study / f"sweep-{name}.json"
    with disk(study):
        study.mkdir(parents=True, exist_ok=True)
    write(path, (dump(content) + "\n").encode())
    return _manifest(path, content)


def load(path: Path) -> Manifest:
    """Reads a manifest.

    Raises:
        UserError: it is not one.
    """
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:  # reading a pipe would wait
            raise ValueError
        return _manifest(path, json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: this is not the record of a sweep") from error


def manifests(path: Path) -> list[Manifest]:
    """The sweeps under a study or a folder of studies, or the one of this file; unreadable ones are left out."""
    if path.is_file():
        return [load(path)]
    found = []
    for file in sorted([*path.glob("sweep-*.json"), *path.glob("*/sweep-*.json")]):
        try:
            found.append(load(file))
        except UserError:
            continue
    return found


def _manifest(path: Path, data: dict[str, Any]) -> Manifest:
    config_dir, block = data["config_dir"], data["block"]
    if not isinstance(block, dict | None) or not data["runs"]:
        raise TypeError
    return Manifest(
        path,
        _texts(data["command"]),
        None if config_dir is None else _text(config_dir),
        _texts(data["extensions"]),
        _text(data["folder"]),
        _text(data["study"]),
        tuple(_entry(entry["id"], entry["overrides"]) for entry in data["runs"]),
        block,
        data["race"] is True,
    )


def _entry(name: Any, overrides: Any) -> Entry:
    if not _ID.match(name):  # it becomes the name of a folder
        raise ValueError
    return Entry(name, _texts(overrides))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    if b"\0" in value.encode():  # which is no part of a path; what has no encoding raises
        raise ValueError
    return value
