"""The file from which a sweep goes on: from anywhere, to the same runs; what is damaged or hostile does no harm."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dropbench.compose import Composer
from dropbench.config import Run, check
from dropbench.errors import UserError
from dropbench.sweep.manifest import Entry, Manifest, load, manifests, save

WORDS = (("strategy=gradual", "seed=1"), ("strategy.rate=0.3",))
COMMAND = ("dropbench", "train", "-m", "strategy=gradual,standard")


def made(words: Sequence[str] = (), config_dir: str | None = None, extensions: tuple[str, ...] = ()) -> Run:
    composed = Composer(config_dir, extensions).compose(words)
    return Run(check(composed.data), composed.choices, tuple(words))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.delenv("DROPBENCH_DATA", raising=False)
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def saved(place: Path) -> Manifest:
    return save([made(words) for words in WORDS], COMMAND, None)


def opened(manifest: Manifest, extensions: Sequence[str] = ()) -> list[Run]:
    return manifest.compose(manifest.composer(extensions))[0]


def put(place: Path, content: Any) -> Path:
    """Writes a file as that of a sweep."""
    path = place / "outputs" / "main" / "sweep-00000000.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# ---- there and back


def test_what_is_saved_is_read_again(place):
    runs = [made(words) for words in WORDS]
    block = {"grid": {"strategy": ["gradual", "standard"]}, "seeds": "auto"}
    written = save(runs, COMMAND, "configs", block, race=True)
    assert written == load(written.path)
    assert written.path.parent == Path("outputs/main")
    assert written.id == written.path.stem
    assert written.id.startswith("sweep-")
    assert written.command == COMMAND
    assert (written.config_dir, written.extensions) == ("configs", ())
    assert (written.folder, written.study) == (str(place), "main")
    assert written.runs == tuple(Entry(run.id, run.overrides) for run in runs)
    assert (written.block, written.race) == (block, True)
    assert [path.name for path in written.path.parent.iterdir()] == [written.path.name]


def test_the_same_command_writes_the_same_file_and_another_another(place):
    runs = [made(words) for words in WORDS]

    def path(command: Sequence[str] = COMMAND, config_dir: str | None = None, block: Any = None) -> Path:
        return save(runs, command, config_dir, block).path

    first = path()
    before = first.read_bytes()
    assert path() == first
    assert first.read_bytes() == before
    others = [path((*COMMAND, "epochs=3")), path(config_dir="configs"), path(block={"seeds": 3})]
    assert len({first, *others}) == 4
    assert [sweep.path for sweep in manifests(first.parent)] == sorted({first, *others})


def test_a_sweep_lies_in_the_study_of_its_first_run(place):
    one, other = made(("study=one",)), made(("study=other", "seed=1"))
    written = save([one, other], COMMAND, None)
    assert written.path.parent == Path("outputs/one")
    assert [run.path for run in opened(written)] == [Path("outputs/one") / one.id, Path("outputs/other") / other.id]


def test_it_is_found_in_its_study_and_in_a_folder_of_studies(place, saved):
    other = save([made(("study=other",))], COMMAND, None)
    (saved.path.parent / "sweep-damaged.json").write_text("{")
    (saved.path.parent / "sweep-folder.json").mkdir()
    assert manifests(Path("outputs/main")) == [saved]
    assert manifests(Path("outputs")) == [saved, other]
    assert manifests(saved.path) == [saved]
    assert manifests(place) == []
    assert manifests(place / "nowhere") == []


# ---- its runs


def test_its_runs_are_those_that_were_typed(saved):
    runs, hydra = saved.compose(saved.composer(()))
    typed = [made(words) for words in WORDS]
    assert [(run.id, run.group, run.choices, run.overrides) for run in runs] == [
        (run.id, run.group, run.choices, run.overrides) for run in typed
    ]
    assert [run.path for run in runs] == [run.path for run in typed]
    assert list(hydra) == [run.id for run in runs]
    assert [hydra[run.id].overrides for run in runs] == list(WORDS)


def test_some_of_its_runs(saved):
    _, second = saved.runs
    runs, hydra = saved.compose(saved.composer(()), {second.id, "another"})
    assert [run.id for run in runs] == [second.id] == list(hydra)


def places(study: Path) -> list[tuple[Path, Path]]:
    """From where one may go on with a study, and how its file is named there."""
    (file,) = study.glob("sweep-*.json")
    return [
        (study, Path(file.name)),
        (study.parent, Path(study.name, file.name)),
        (study.parent.parent, file.relative_to(study.parent.parent)),
        (study / "run", Path("..", file.name)),
        (study / "run", Path("..", "..", study.name, file.name)),
        (Path("/"), file),
    ]


@pytest.mark.parametrize("number", range(6))
def test_from_anywhere_the_folders_of_runs_lie_beside_the_file(place, saved, monkeypatch, number):
    study = place / "outputs" / "main"
    (study / "run").mkdir()
    folder, name = places(study)[number]
    monkeypatch.chdir(folder)
    found = load(name)
    assert [run.path.parent.resolve() for run in opened(found)] == [study] * 2
    assert [run.config.data_root for run in opened(found)] == [str(place / "data")] * 2
    assert manifests(name.parent) == [found]


@pytest.mark.parametrize("number", range(6))
def test_a_study_that_was_moved_and_renamed_goes_on_where_it_is_now(place, saved, monkeypatch, number):
    study = place / "archive" / "renamed"
    shutil.copytree(place / "outputs" / "main", study)
    (study / "run").mkdir()
    folder, name = places(study)[number]
    monkeypatch.chdir(folder)
    assert [run.path.parent.resolve() for run in opened(load(name))] == [study] * 2


def test_of_a_sweep_over_studies_the_other_ones_lie_beside_it(place, monkeypatch):
    written = save([made(("study=one",)), made(("study=other", "seed=1"))], COMMAND, None)
    (place / "outputs" / "one").rename(place / "outputs" / "renamed")
    monkeypatch.chdir(place / "outputs" / "renamed")
    (found,) = manifests(Path())
    assert found.id == written.id
    studies = [run.path.parent.resolve() for run in opened(found)]
    assert studies == [place / "outputs" / "renamed", place / "outputs" / "other"]


@pytest.mark.parametrize(
    ("typed", "environment", "expected"),
    [
        (None, None, "{place}/data"),
        (None, "/datasets", None),  # the environment says it anywhere
        (None, "datasets", None),
        ("mine", None, "{place}/mine"),
        ("mine", "/datasets", "{place}/mine"),
        ("/mine", None, "/mine"),
    ],
)
def test_data_lie_where_they_did(place, monkeypatch, typed, environment, expected):
    words = () if typed is None else (f"data_root={typed}",)
    if environment is not None:
        monkeypatch.setenv("DROPBENCH_DATA", environment)
    written = save([made(words)], COMMAND, None)
    monkeypatch.chdir("/")
    (run,) = opened(load(place / written.path))
    assert run.config.data_root == (expected and expected.format(place=place))


def test_configs_of_the_users_are_found_from_anywhere(place, monkeypatch):
    (place / "configs" / "strategy").mkdir(parents=True)
    mine = place / "configs" / "strategy" / "mine.yaml"
    mine.write_text("# mine\nnoise: bernoulli\nobjective: auto\nrate: 0.25\n")
    run = made(("strategy=mine",), "configs")
    written = save([run], COMMAND, "configs")
    monkeypatch.chdir("/")
    found = load(place / written.path)
    assert [again.id for again in opened(found)] == [run.id]
    mine.write_text("# mine\nnoise: bernoulli\nobjective: auto\nrate: 0.35\n")
    with pytest.raises(UserError, match=rf"{written.path}: {run.id}: it is \S+ now: the configs or dropbench changed"):
        opened(found)
    shutil.rmtree(place / "configs")
    with pytest.raises(UserError, match=rf"^--config-dir {place}/configs: no such folder$"):
        opened(found)


def test_a_run_that_is_another_now_is_refused(place, saved):
    content = json.loads(saved.path.read_text())
    content["runs"][1]["overrides"] = ["strategy.rate=0.4"]
    path = put(place, content)
    with pytest.raises(UserError) as error:
        opened(load(path))
    assert str(error.value) == (
        f"{path}: {saved.runs[1].id}: it is {made(['strategy.rate=0.4']).id} now: the configs or dropbench changed "
        "since the sweep began; the same command starts it anew"
    )


# ---- trust


@pytest.fixture
def alien(place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """A package that can be imported; whether it was."""
    package = place / "alien_parts"
    for folder in (package, package / "noise", package / "conf"):
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    (package / "__init__.py").write_text("import pathlib; pathlib.Path(__file__).with_name('imported').touch()\n")
    monkeypatch.syspath_prepend(str(place))
    for name in [name for name in sys.modules if name.partition(".")[0] == "alien_parts"]:
        monkeypatch.delitem(sys.modules, name)
    return lambda: (package / "imported").exists()


def test_extensions_are_imported_only_where_the_user_names_them(place, alien, saved):
    content = json.loads(saved.path.read_text())
    for words in (["extensions=[alien_parts]"], ["+extensions=[alien_parts]"]):
        for entry in content["runs"]:
            entry["overrides"] = [*words, "strategy.noise=alien"]  # which must be looked for
        path = put(place, {**content, "extensions": ["alien_parts"]})
        with pytest.raises(UserError) as error:
            opened(load(path))
        assert str(error.value) == (
            f"{path}: the sweep needs extensions; add --extensions alien_parts if you trust them"
        )
        assert not alien()
    with pytest.raises(UserError, match="there is no such noise"):
        opened(load(path), ["other", "alien_parts"])
    assert alien()


@pytest.mark.parametrize(
    "words",
    [
        ("extensions=[alien_parts]", "strategy.noise=alien"),
        ("extensions=[alien_parts.noise]",),
        ("+extensions=[alien_parts.noise]",),
        ("++extensions=alien_parts.noise",),
        ("extensions={alien_parts.noise: 1}",),
        ("experiment=alien",),
        ("hydra.searchpath=[pkg://alien_parts.conf]",),
        ("+hydra.searchpath=[pkg://alien_parts.conf]",),
        ("++hydra.searchpath=[pkg://alien_parts.conf]",),
        ("strategy.noise._target_=alien_parts.noise.run",),
        ("strategy.noise=alien_parts.noise.run",),
    ],
)
def test_what_its_runs_name_is_not_imported_behind_the_back_of_the_user(place, alien, saved, words):
    """The file as a whole says that it needs nothing, or something that was named."""
    experiment = place / "configs" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "alien.yaml").write_text("# @package _global_\nextensions: [alien_parts.noise]\n")
    content = json.loads(saved.path.read_text()) | {"config_dir": str(place / "configs")}
    content["runs"][0]["overrides"] = list(words)
    found = load(put(place, content))
    with pytest.raises(UserError) as error:
        opened(found, ["some_other_package"])
    assert "\n" not in str(error.value)
    assert not alien()


def test_a_sweep_with_extensions_goes_on(place, alien):
    run = made(("extensions=[alien_parts]", "seed=3"), None, ("alien_parts",))
    written = save([run], COMMAND, None)
    assert written.extensions == ("alien_parts",)
    assert [again.id for again in opened(load(written.path), ["alien_parts"])] == [run.id]


# ---- what is damaged


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


#: What replaces parts of a sound file.
WRONG: dict[str, Any] = {
    "command": ["text", 5, None, {}, [["nested"]], [5], [None], ["\ud800"]],
    "config_dir": [5, [], {}, True, "nul\0"],
    "extensions": ["text", 5, None, {"a": 1}, [5], [None], [["a"]]],
    "folder": [5, None, [], {}, "nul\0", "\udfff"],
    "study": [5, None, []],
    "block": ["text", 5, [], True],
    "runs": [
        "text", 5, None, {}, {"id": "a"}, [], [5], ["text"], [None], [[]], [{}], [{"id": "a"}], [{"overrides": []}],
        [{"id": "a", "overrides": "text"}], [{"id": "a", "overrides": [5]}], [{"id": "a", "overrides": None}],
        [{"id": "a", "overrides": ["nul\0"]}], nested(50),
        *([{"id": name, "overrides": []}] for name in (
            5, None, [], "", ".", "..", "../x", "/etc", "a/b", "nul\0", "line\n", "\ud800", "ü", "a" * 256,
        )),
    ],
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_a_file_of_wrong_types_is_refused_in_one_line_and_left_out(place, saved, key):
    sound = json.loads(saved.path.read_text())
    for value in WRONG[key]:
        path = put(place, {**sound, key: value})
        with pytest.raises(UserError) as error:
            load(path)
        assert str(error.value) == f"{path}: this is not the record of a sweep", repr(value)
        assert manifests(saved.path.parent) == [saved]
    without = {name: value for name, value in sound.items() if name != key}
    with pytest.raises(UserError, match="this is not the record of a sweep"):
        load(put(place, without))


DAMAGED = {
    "empty": b"",
    "torn": b'{"command": ["dropbench", "train"',
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "text": b'"sweep"',
    "nul": bytes(1000),
    "no_utf8": b'{"command": ["\xff"]}',
    "deep": b"[" * 100_000,
    "deep_mapping": b'{"a":' * 100_000,
    "digits": b"9" * 10_000,
    "nan": b"NaN",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line_and_left_out(place, saved, name):
    path = put(place, DAMAGED[name])
    with pytest.raises(UserError) as error:
        load(path)
    assert str(error.value) == f"{path}: this is not the record of a sweep"
    assert manifests(saved.path.parent) == [saved]


def test_what_is_no_plain_file_is_not_waited_for(place, saved):
    pipe, folder, gone, loop = (saved.path.with_name(f"sweep-{name}.json") for name in ("pipe", "dir", "gone", "loop"))
    os.mkfifo(pipe)
    folder.mkdir()
    gone.symlink_to("nowhere")
    loop.symlink_to(loop)
    for path in (pipe, folder, gone, loop, place / "nowhere.json"):
        with pytest.raises(UserError, match="this is not the record of a sweep"):
            load(path)
    assert manifests(saved.path.parent) == [saved]


def test_a_huge_file_is_not_read(place, saved, monkeypatch):
    path = put(place, saved.path.read_bytes())
    assert load(path).runs == saved.runs
    with path.open("ab") as file:
        file.truncate(65 << 20)

    def read(self: Path) -> bytes:
        raise AssertionError(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(UserError, match="this is not the record of a sweep"):
        load(path)


@pytest.mark.parametrize(
    "words",
    [
        ["study=../../x"], ["study=/etc"], ["study='a\nb'"], ["output_root=/nowhere"], ["epochs=3,4"], ["seed="], [""],
        ["~dataset"], ["nonsense"], ["strategy=nonsense"], ["${oc.env:HOME}=1"], ["epochs=${oc.env:HOME}"],
        ["hydra.run.dir=x"], ["--cfg"], ["strategy=[none,standard]"], ["strategy={a: 1}"], ["strategy.policies=5"],
        ["sweep.seeds=3"], ["dataset.kind=../x"], ["epochs=1e400"], ["a" * 100_000],
    ],
)  # fmt: skip
def test_hostile_overrides_are_refused_and_nothing_is_written(place, saved, words):
    content = json.loads(saved.path.read_text())
    content["runs"][0]["overrides"] = words
    found = load(put(place, content))
    before = sorted(place.rglob("*"))
    if words == ["output_root=/nowhere"]:  # means nothing here
        content["runs"][0]["id"] = made().id
        assert opened(load(put(place, content)))[0].path.parent.resolve() == place / "outputs" / "main"
        return
    with pytest.raises(UserError):
        opened(found)
    assert sorted(place.rglob("*")) == before


def test_a_study_of_which_the_folder_has_no_name_of_a_study_is_refused(place, saved):
    odd = place / "outputs" / "my study"
    (place / "outputs" / "main").rename(odd)
    with pytest.raises(UserError, match="study='my study': allowed"):
        opened(load(odd / saved.path.name))


def test_placed_changes_places_alone(place, saved):
    config = made(WORDS[0]).config
    placed = saved.placed(config)
    assert placed == replace(config, output_root=placed.output_root, data_root=placed.data_root)
