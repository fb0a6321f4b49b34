"""A run made again from its folder, wherever it was moved to and from anywhere; what is hostile does no harm."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import after, outcome, run_of, train

from dropbench import runner
from dropbench.config import Run
from dropbench.errors import UserError
from dropbench.runs.folder import RunFolder
from dropbench.runs.records import read_run
from dropbench.runs.reopen import reopen


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, in which the run was begun."""
    monkeypatch.delenv("DROPBENCH_DATA", raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def begun(place: Path, *words: str) -> Run:
    """A run that was begun and saved nothing."""
    run = run_of(Path("outputs"), "mlp", *words)
    folder = RunFolder.take(run.path)
    folder.start(run, {"folder": str(place), "choices": dict(run.choices)}, {})
    folder.close()
    return run


@pytest.fixture
def run(place: Path) -> Run:
    return begun(place)


def change(run: Run, name: str, changes: Any) -> None:
    """Replaces keys of config.yaml or record.json; a value of `...` takes the key out."""
    path = run.path / name
    content = {**yaml.safe_load(path.read_text()), **changes}
    content = {key: value for key, value in content.items() if value is not ...}
    path.write_text(json.dumps(content) if name.endswith("json") else yaml.safe_dump(content))


# ---- the same run


def test_it_is_the_same_run(place, run):
    again = reopen(run.path)
    assert (again.id, again.group, again.path) == (run.id, run.group, run.path)
    assert dict(again.choices) == dict(run.choices)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("outputs/main/{id}", "."),
        ("outputs/main/{id}/.hydra", ".."),
        ("outputs/main", "{id}"),
        ("outputs/main", "./{id}/"),
        ("outputs/main/{id}", "../{id}"),
        ("outputs", "main/{id}"),
        ("outputs", "../outputs/main/{id}"),
        ("data", "../outputs/main/{id}"),
        ("/", "{place}/outputs/main/{id}"),
    ],
)
def test_from_anywhere(place, run, monkeypatch, folder, name):
    (place / "data").mkdir()
    where = (place / run.path).resolve()
    monkeypatch.chdir(place / folder.format(id=run.id))
    again = reopen(Path(name.format(id=run.id, place=place)))
    assert again.path.resolve() == where
    assert (again.config.study, again.config.data_root) == ("main", str(place / "data"))


def test_a_folder_that_was_moved_is_gone_on_with_where_it_is_now(place, monkeypatch):
    """From another working directory, to the same end."""
    whole, moved = run_of(place / "whole"), run_of(Path("outputs"))
    train([whole])
    with pytest.raises(runner.Interrupted):
        train([moved], after(4))
    there = place / "archive" / "another" / moved.id
    shutil.move(moved.path, there)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    again = reopen(there)
    assert (again.path, again.config.study) == (there, "another")
    steps: list[bool] = []
    train([again], lambda: bool(steps.append(True)))
    assert len(steps) == 1  # of six
    ours, theirs = outcome(there), outcome(whole.path)
    assert ours == ({**theirs[0], "study": "another"}, *theirs[1:])
    assert not (place / "outputs" / "main" / moved.id).exists()
    assert list((place / "elsewhere").iterdir()) == []


def test_what_was_to_be_trained_anew_goes_on(place):
    run = begun(place, "rerun=true")
    assert run.config.rerun
    assert not reopen(run.path).config.rerun


@pytest.mark.parametrize(
    ("typed", "environment", "expected"),
    [
        (None, None, "{place}/data"),
        (None, "/datasets", None),  # the environment says it anywhere
        ("mine", None, "{place}/mine"),
        ("mine", "/datasets", "{place}/mine"),
        ("/mine", None, "/mine"),
    ],
)
def test_data_lie_where_they_did(place, monkeypatch, typed, environment, expected):
    run = begun(place, *(() if typed is None else (f"data_root={typed}",)))
    if environment is not None:
        monkeypatch.setenv("DROPBENCH_DATA", environment)
    monkeypatch.chdir("/")
    assert reopen(place / run.path).config.data_root == (expected and expected.format(place=place))


# ---- another run


def refused(folder: Path, extensions: Sequence[str] = ()) -> str:
    """What the user is told, which begins with the folder."""
    with pytest.raises(UserError) as error:
        reopen(folder, extensions)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(f"{folder}: ")
    return line.removeprefix(f"{folder}: ")


@pytest.mark.parametrize("changes", [{"epochs": 3}, {"seed": 1}, {"control": "mean"}])
def test_the_config_of_another_run_is_refused(run, changes):
    change(run, "config.yaml", changes)
    assert refused(run.path).startswith("its config.yaml is not the config of this run")


@pytest.mark.parametrize(
    "changes", [{"study": "x"}, {"output_root": "/x"}, {"stack": 3}, {"workers": 2}, {"prune": 0.5}]
)
def test_circumstances_are_not_its_meaning(run, changes):
    change(run, "config.yaml", changes)
    assert reopen(run.path).path == run.path


def test_a_folder_of_another_name_is_refused(run):
    there = run.path.with_name("renamed")
    shutil.move(run.path, there)
    assert refused(there).startswith("its config.yaml is not the config of this run")


def test_other_choices_are_another_run(run):
    change(run, "record.json", {"choices": {**run.choices, "strategy": "standard"}})
    assert refused(run.path).startswith("its config.yaml is not the config of this run")


def test_a_study_that_was_renamed_to_what_is_no_name_is_refused(run):
    there = run.path.parent.with_name("my study")
    run.path.parent.rename(there)
    assert refused(there / run.id).startswith("study='my study': allowed: ")


def test_settings_that_are_unknown_or_wrong_are_refused_with_their_keys(run):
    sound = (run.path / "config.yaml").read_text()
    for changes, told in (
        ({"epoch": 3}, "unknown key epoch=3; nearest: epochs"),
        ({"epochs": "many"}, "epochs=many: allowed: a whole number"),
        ({"epochs": ...}, ""),  # has a default, so that it is another run
        ({"dataset": ...}, "missing key dataset"),
        ({"_target_": "os.system"}, "unknown key _target_=os.system"),
        ({"model": {"_target_": "os.system", "kind": "mlp"}}, "unknown key model._target_=os.system"),
        ({"model": {"kind": "os"}}, "model.kind=os: there is no such model"),
        ({"model": {"kind": "../../x"}}, "model.kind=../../x: there is no such model"),
        ({"study": "../x"}, "study='../x': allowed: "),
        ({1: 2}, "unknown key 1=2"),
    ):
        (run.path / "config.yaml").write_text(sound)
        change(run, "config.yaml", changes)
        assert refused(run.path).startswith(told), changes


# ---- trust


@pytest.fixture
def alien(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A package that can be imported; whether it was."""
    package = place / "alien_parts"
    (package / "noise").mkdir(parents=True)
    (package / "__init__.py").write_text("import pathlib; pathlib.Path(__file__).with_name('imported').touch()\n")
    (package / "noise" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(place))
    for name in [name for name in sys.modules if name.partition(".")[0] == "alien_parts"]:
        monkeypatch.delitem(sys.modules, name)
    return lambda: (package / "imported").exists()


@pytest.mark.parametrize(
    "named", [["alien_parts"], "alien_parts.noise", ["known", "alien_parts.noise"], {"alien_parts.noise": 1}, 5, [5]]
)
def test_extensions_are_imported_only_where_the_user_names_them(run, alien, named):
    change(run, "config.yaml", {"extensions": named, "strategy": {"noise": "alien", "objective": "auto"}})
    assert refused(run.path, ["known"]) == f"the run needs extensions={named}; add --extensions if you trust them"
    assert not alien()


def test_extensions_that_the_user_names_are_used(run, alien):
    change(run, "config.yaml", {"extensions": ["alien_parts"]})
    assert reopen(run.path, ["other", "alien_parts"]).config.extensions == ("alien_parts",)


# ---- what is damaged

UNREADABLE = "it cannot be gone on with: config.yaml or record.json is damaged"


@pytest.mark.parametrize("name", ["config.yaml", "record.json"])
def test_what_is_missing_or_no_plain_file_is_refused(place, run, name):
    path = run.path / name
    path.unlink()
    assert refused(run.path) == UNREADABLE
    os.mkfifo(path)  # nobody writes into it
    assert refused(run.path) == UNREADABLE
    path.unlink()
    path.mkdir()
    assert refused(run.path) == UNREADABLE
    path.rmdir()
    path.symlink_to(path)
    assert refused(run.path) == UNREADABLE
    assert refused(place / "nowhere") == UNREADABLE


@pytest.mark.parametrize("name", ["config.yaml", "record.json"])
def test_what_is_huge_is_refused(run, name):
    with (run.path / name).open("ab") as file:
        file.write(b" " * (1 << 20))
    assert refused(run.path) == UNREADABLE


def bomb(first: bytes, level: bytes) -> bytes:
    def written(number: int) -> bytes:
        names = b", ".join([b"*a%d" % (number - 1)] * 10)
        return level % (*[number] * (level.count(b"%d")), names)

    return first + b"".join(map(written, range(1, 11)))


CONFIGS = {
    "empty": b"",
    "null": b"null",
    "list": b"[1, 2]",
    "number": b"5",
    "text": b"text",
    "torn": b"dataset: {kind: digits",
    "tabs": b"a:\n\t- b",
    "no_utf8": b"study: \xff",
    "nul": b"study: a\0b",
    "deep": b"[" * 50_000,
    "deep_mapping": b"{a: " * 50_000,
    "python": b"study: !!python/object/apply:os.mkdir [executed]",
    "unknown_tag": b"study: !mine x",
    "two_documents": b"a: 1\n---\nb: 2\n",
    "unhashable": b"{[1]: 2}",
    "alias": b"a: &a [x]\nb: *a\n",
    "loop": b"epochs: &a [*a]\n",
    "merge": b"a: &a {epochs: 3}\n<<: *a\n",
    #: Ten levels of ten: as one text ten gigabytes.
    "bomb": bomb(b"- &a0 [x]\n", b"- &a%d [%s]\n"),
    "merge_bomb": bomb(b"a0: &a0 {x: 1}\n", b"a%d: &a%d {<<: [%s]}\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_a_damaged_config_is_refused(place, run, name):
    (run.path / "config.yaml").write_bytes(CONFIGS[name])
    assert refused(run.path) == UNREADABLE
    assert not (place / "executed").exists()


RECORDS: dict[str, Any] = {
    "empty": b"",
    "torn": b'{"choices": {',
    "null": None,
    "list": [],
    "number": 5,
    "deep": b"[" * 100_000,
    "no_choices": {"folder": "/"},
    "no_folder": {"choices": {"dataset": "digits", "model": "mlp", "strategy": "gradual"}},
    "choices_of_a_list": {"folder": "/", "choices": [1]},
    "choices_of_a_text": {"folder": "/", "choices": "digits"},
    "choices_of_nothing": {"folder": "/", "choices": None},
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_damaged_record_is_refused(run, name):
    content = RECORDS[name]
    (run.path / "record.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert refused(run.path) == UNREADABLE


@pytest.mark.parametrize(
    "choices", [{}, {"dataset": "digits"}, dict.fromkeys(("dataset", "model", "strategy"), "../x")]
)
def test_choices_that_are_not_those_of_the_run_are_refused(run, choices):
    change(run, "record.json", {"choices": choices})
    assert refused(run.path).startswith("its config.yaml is not the config of this run")


def test_nothing_in_the_folder_is_touched(run):
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    reopen(run.path)
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert read_run(run.path).state == "interrupted"
