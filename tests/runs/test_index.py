"""The index: whatever lies in it or becomes of the runs, the answer is that of reading the folders."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from recorded import result, write

from dropbench.runs import index, records
from dropbench.runs.find import read
from dropbench.runs.records import RunRecord, read_run

FACTS = {
    "versions": {"dropbench": "0.3.0", "torch": "2.13.0+cpu"},
    "hardware": {"device": "cpu"},
    "data": {"sha256": "ab" * 32},
}
CLOCK = count(1_700_000_000_000_000_000, 1_000_000_000)  # ns: no two changes at one time


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is remembered at once."""
    monkeypatch.setattr(index, "MANY", 1)
    monkeypatch.setattr(index, "SETTLED", -(10**18))


def touch(path: Path) -> None:
    os.utime(path, ns=(0, next(CLOCK)))


def run(folder: Path, seed: int = 0, error: float = 2.0, changes: Mapping[str, Any] | None = None) -> Path:
    """A run folder with both files; `changes` replace top-level keys, those of `settings` are added."""
    changes = dict(changes or {})
    write(folder, result(seed, error, settings=changes.pop("settings", {})) | changes)
    (folder / "record.json").write_text(json.dumps(FACTS))
    for name in ("result.json", "record.json"):
        touch(folder / name)
    return folder


def same(*paths: Path) -> list[RunRecord]:
    """What is read with the index, after the check that without it, it is the same to the types and their order."""
    found = read(paths)
    assert repr(found) == repr(read(paths, index=False))
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are opened by reading runs."""
    paths: list[str] = []
    content = records.content

    def noting(path: str, *rest: int) -> tuple[bytes, os.stat_result]:
        paths.append(path)
        return content(path, *rest)

    monkeypatch.setattr(records, "content", noting)
    return paths


ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "another-rate": {"rate": 0.25},
    "whole-rate": {"rate": 1},
    "no-epoch": {"selection": {"rule": "last"}},
    "whole-figures": {"test": {"error": 0, "nll": 0.5}, "validation": {}},
    "more-figures": {"test_mc": {"error": 1.5}, "validation_pruned": {}},
    "no-figures": {"train": None, "seconds": None, "rates": {"input": {}, "x": []}},
    "settings": {"settings": {"a": 1, "b": [1.0, None, {"c": "\ud800"}], "d": True}},
    "true-for-one": {"settings": {"a": True, "b": [1.0, None, {"c": "\ud800"}], "d": 1}},
    "list-of-ones": {"settings": {"a": 1, "b": [1, None, {"c": "\ud800"}], "d": True}},
    "zero": {"settings": {"a": 0.0, "b": False, "d": ""}},
    "minus-zero": {"settings": {"a": -0.0, "b": False, "d": ""}},
    "other-seed": {"settings": {"seed": 9}},
    "float-seed": {"settings": {"seed": 0.0}},
    "no-seed-in-settings": {"settings": {"seed": None}},
    "cost": {"cost": {"samples": 3663, "forward_passes": 7326, "epochs": 1}},
    "large": {"seed": 2**64, "parameters": 10**30, "peak_memory_bytes": -(2**63)},
    "no-numbers": {"steps": float("nan"), "epochs": True, "seconds": {"total": 1e200, "train": -0.0}},
    "study-unsaid": {"study": ""},
    "failed": {"status": "failed", "error": "loss is not finite"},
    "failed-bare": {"status": "failed", "seed": None, "rate": None, "group": None, "choices": None},
}


def test_every_kind_of_record_comes_back_as_it_was(tmp_path: Path, always: None, opened: list[str]) -> None:
    study = tmp_path / "main"
    for name, changes in ODD.items():
        run(study / name, changes=changes)
    (run(study / "no-record") / "record.json").unlink()
    (run(study / "torn-record") / "record.json").write_text("{")
    first = same(tmp_path)
    assert repr(first) == repr([read_run(record.path) for record in first])  # what is shared was the same
    opened.clear()
    assert repr(read([tmp_path])) == repr(first)
    # Not remembered: an integer of more than 64 bits, and what takes its study from the name of the folder.
    assert {Path(path).parent.name for path in opened} == {"large", "study-unsaid"}
    assert first[sorted([*ODD, "no-record", "torn-record"]).index("cost")].sizes["forward_passes"] == 7326


def test_single_numbers_are_those_of_the_fields(tmp_path: Path, always: None) -> None:
    for name, changes in ODD.items():
        run(tmp_path / "main" / name, changes=changes)
    run(tmp_path / "main" / "dotted", changes={"test": {"error": 1.5, "a.b": 2.5}})
    right = {record.id: record for record in read([tmp_path])}
    asked = [f"{split}.{name}" for split in (*records.MEASURED, "cost", "") for name in ("error", "nll", "a.b", "")]
    for record in read([tmp_path]):
        other = right[record.path.name]
        remembered = "figures" not in vars(record)
        assert remembered == (record.id not in ("large", "study-unsaid"))
        for name in (*asked, "error", "seconds.total", ".total"):
            split, _, figure = name.partition(".")
            assert repr(record.figure(name)) == repr(other.figures.get(split, {}).get(figure)), name
        assert repr(record.duration) == repr(other.seconds.get("total"))
        assert ("figures" not in vars(record)) == remembered  # no field was made for it
    assert right["dotted"].figure("test.a.b") == 2.5


def test_runs_of_a_group_share_what_they_have_in_common(tmp_path: Path, always: None) -> None:
    for seed in range(3):
        run(tmp_path / "main" / f"s{seed}", seed, 1.0 + seed)
    for found in (read([tmp_path]), read([tmp_path])):
        assert [record.settings["seed"] for record in found] == [0, 1, 2]
        assert found[0].settings["model.widths"] is found[2].settings["model.widths"]
        assert found[0].choices is found[1].choices
        assert found[0].stamp is found[1].stamp


def test_names_of_any_bytes(tmp_path: Path, always: None, opened: list[str]) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"[bold]x[\\]", "\u00e9".encode(), b'"'):
        run(tmp_path / "main" / os.fsdecode(name))
    same(tmp_path)
    opened.clear()
    read([tmp_path])
    assert opened == []


def test_few_runs_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "SETTLED", -(10**18))
    for seed in range(index.MANY - 1):
        run(tmp_path / "main" / f"s{seed}", seed)
    read([tmp_path])
    assert not (tmp_path / "main" / ".index").exists()
    run(tmp_path / "main" / "one-more")
    read([tmp_path])
    assert (tmp_path / "main" / ".index").exists()
    assert not (tmp_path / ".index").exists()


def test_what_changed_just_now_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second change within the grain of the clock would leave no sign."""
    monkeypatch.setattr(index, "MANY", 1)
    folder = run(tmp_path / "main" / "a")
    changed = max((folder / name).stat().st_ctime_ns for name in ("result.json", "record.json"))
    monkeypatch.setattr("time.time_ns", lambda: changed + index.SETTLED - 1)
    read([tmp_path])
    assert not (tmp_path / "main" / ".index").exists()
    monkeypatch.setattr("time.time_ns", lambda: changed + index.SETTLED)
    read([tmp_path])
    assert (tmp_path / "main" / ".index").exists()


@pytest.mark.parametrize("name", ["result.json", "record.json"])
def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path, always: None, name: str) -> None:
    path = run(tmp_path / "main" / "a", error=2.5) / name
    same(tmp_path)
    before = path.stat()
    with path.open("r+") as file:
        content = file.read().replace('"error": 2.5', '"error": 7.5').replace("ab" * 32, "cd" * 32)
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        path.write_text(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (before.st_size, before.st_ino)
    [record] = same(tmp_path)
    assert record.figure("test.error") == (7.5 if name == "result.json" else 2.5)
    assert record.stamp["data"] == ("cd" * 32 if name == "record.json" else "ab" * 32)


def test_a_study_that_moves_or_is_copied(tmp_path: Path, always: None) -> None:
    for seed in range(3):
        run(tmp_path / "old" / f"s{seed}", seed)
    run(tmp_path / "old" / "unsaid", changes={"study": None})
    same(tmp_path)
    (tmp_path / "old").rename(tmp_path / "new")
    assert [record.study for record in same(tmp_path)] == ["main", "main", "main", "new"]
    shutil.copytree(tmp_path / "new", tmp_path / "third")
    assert len(same(tmp_path)) == 8


def test_links_and_repeated_paths(tmp_path: Path, always: None) -> None:
    for study in ("one", "two"):
        for seed in range(2):
            run(tmp_path / study / f"s{seed}", seed)
    (tmp_path / "one" / "a-link").symlink_to(tmp_path / "two" / "s1")
    (tmp_path / "one" / "self").symlink_to(tmp_path / "one")
    (tmp_path / "zero").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "empty").mkdir()
    for _ in range(2):
        assert len(same(tmp_path)) == 5
        assert len(same(tmp_path / "two" / "s0", tmp_path / "zero", tmp_path / "one", tmp_path)) == 5


def damaged(content: bytes) -> Iterator[bytes]:
    """An index that was torn, that rotted, or that somebody wrote with care."""
    yield b""
    yield b"\n"
    yield b"\xff" * 1000
    for at in (1, 20, 40, 60, len(content) // 2, len(content) - 1):
        yield content[:at]
        yield content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
    yield content + b"x"
    first, _, body = content.partition(b"\n")
    yield first.replace(first.split(b" ")[2], b"0.1.0") + b"\n" + body
    _, _, edition, _, length = first.split(b" ")

    def sealed(header: bytes, rows: bytes, told: int | bytes | None = None) -> bytes:
        told = len(header) if told is None else told
        told = told if isinstance(told, bytes) else str(told).encode()
        seal = f"{crc32(header + rows):08x}".encode()
        return b"dropbench index " + edition + b" " + seal + b" " + told + b"\n" + header + rows

    header, rows = body[: int(length)], body[int(length) :]
    assert sealed(header, rows) == content
    for told in (0, -1, 10**9, b"x", b"9" * 5000, b""):
        yield sealed(header, rows, told)
    yield sealed(header, rows[:-8])
    yield sealed(header, rows + b"\0" * 8)
    yield sealed(b"[" * 100_000, b"")
    for text in (b"null", b"[]", b"{}", b'{"parts": 1, "kinds": 1, "names": 1}', b'{"parts": [], "kinds": [[]]}'):
        yield sealed(text, b"")
    yield sealed(header, b"\xff" * len(rows))
    data = json.loads(header)
    nan = bytes(6) + b"\xf8\x7f"
    yield sealed(header, rows[:72] + nan + rows[80:])  # the rate of the first run
    for number in range(len(data["parts"])):
        for value in (None, [], {}, 7, "x", ["x"], {"x": 1}, {"x": {"y": 1}}, ["done"] * 5, [[]] * 5, True):
            if value != data["parts"][number]:
                parts = [*data["parts"]]
                parts[number] = value
                yield sealed(json.dumps(data | {"parts": parts}).encode(), rows)
    for key in ("kinds", "names"):
        for value in (None, [], [[]], [[None]], [[10**9] * 8], [["a", "b"], ["c"]]):
            yield sealed(json.dumps(data | {key: value}).encode(), rows)


def test_an_index_in_which_anything_may_be(tmp_path: Path, always: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(2):
        run(tmp_path / "main" / f"s{seed}", seed)
    right = repr(same(tmp_path))
    path = tmp_path / "main" / ".index"
    content = path.read_bytes()
    monkeypatch.setattr(index, "MANY", 10**9)  # it stays damaged
    tried = 0
    for tried, each in enumerate(damaged(content), 1):  # noqa: B007
        path.write_bytes(each)
        found = read([tmp_path])
        # Whoever writes a right seal below wrong words could as well have written the results; but nothing breaks, and
        # what is there has the types that it should have.
        if crc32(each.partition(b"\n")[2]) == crc32(content.partition(b"\n")[2]) or b'"parts"' not in each:
            assert repr(found) == right
        assert [record.id for record in found] == ["s0", "s1"]
        for record in found:
            assert record.state in ("done", "failed")
            assert {*map(type, record.choices.values()), *map(type, record.stamp.values())} <= {str}
            numbers = [value for part in record.figures.values() for value in part.values()]
            assert all(abs(value) < 1e100 for value in (*numbers, *record.sizes.values(), *record.seconds.values()))
            assert type(record.seed) is int
            assert record.rate is not None
            assert abs(record.rate) < 1e100
            assert repr(hash((record.group, record.task, record.rule, record.study)))
    assert tried > 100


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "link", "huge"])
def test_an_index_that_is_no_file(tmp_path: Path, always: None, kind: str) -> None:
    study = tmp_path / "main"
    run(study / "a")
    path = study / ".index"
    if kind == "folder":
        (path / "x").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    for _ in range(2):
        assert len(same(tmp_path)) == 1
    assert path.is_dir() == (kind == "folder")
    assert not path.is_symlink()
    assert not list(study.glob(".index.*"))


@pytest.mark.parametrize("where", ["open", "replace"])
def test_a_disk_that_refuses(tmp_path: Path, always: None, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    run(tmp_path / "main" / "a")
    real = os.open

    def refusing(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_CREAT and where == "open":
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest, **more)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", refusing)
    if where == "replace":
        monkeypatch.setattr(Path, "replace", full)
    assert len(same(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "main").iterdir()] == ["a"]


def test_readers_at_the_same_time(tmp_path: Path, always: None) -> None:
    for seed in range(30):
        run(tmp_path / "main" / f"s{seed:02}", seed)
    right = repr(read([tmp_path], index=False))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: repr(read([tmp_path])), range(12)))
    assert set(found) == {right}
    assert {path.name for path in (tmp_path / "main").glob(".*")} == {".index"}


def test_other_code_reads_anew(
    tmp_path: Path, always: None, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    run(tmp_path / "main" / "a")
    read([tmp_path])
    opened.clear()
    monkeypatch.setattr(index, "_edition", lambda: "other")
    read([tmp_path])
    assert {Path(path).name for path in opened} == {"result.json", "record.json"}


# ---- whatever becomes of the runs between two readings


def _edit(study: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(study.rglob("*.json")))
    path.write_bytes(path.read_bytes().replace(b"2.0", b"3.0").replace(b"done", b"gone"))
    touch(path)


def _delete(study: Path, chance: random.Random) -> None:
    chance.choice(sorted(study.rglob("*.json"))).unlink()


def _replace(study: Path, chance: random.Random) -> None:
    """The files of one run come to stand in another."""
    source, target = chance.choices(sorted(study.rglob("*.json")), k=2)
    if source.name == target.name and source != target:
        source.replace(target)


def _rewrite(study: Path, chance: random.Random) -> None:
    folder = chance.choice(_runs(study))
    shutil.rmtree(folder)
    run(folder, chance.randrange(3), chance.random(), changes=chance.choice([*ODD.values()]))


def _tear(study: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(study.rglob("*.json")))
    os.truncate(path, chance.randrange(path.stat().st_size + 1))
    touch(path)


def _swap(study: Path, chance: random.Random) -> None:
    one, other = chance.sample(_runs(study), 2)
    one.rename(study / "between")
    other.rename(one)
    (study / "between").rename(other)


def _rename(study: Path, chance: random.Random) -> None:
    chance.choice(_runs(study)).rename(study / f"renamed-{chance.random()}")


def _remove(study: Path, chance: random.Random) -> None:
    shutil.rmtree(chance.choice(_runs(study)))


def _add(study: Path, chance: random.Random) -> None:
    run(study / f"new-{chance.random()}", chance.randrange(3), changes=chance.choice([*ODD.values()]))


def _empty(study: Path, chance: random.Random) -> None:
    (study / f"empty-{chance.random()}").mkdir()


def _link(study: Path, chance: random.Random) -> None:
    (study / f"link-{chance.random()}").symlink_to(chance.choice(_runs(study)))


def _old_index(study: Path, chance: random.Random) -> None:
    """The index becomes what it was some time ago."""
    if (study / ".kept").exists():
        shutil.copy(study / ".kept", study / ".index")
    elif (study / ".index").exists():
        shutil.copy(study / ".index", study / ".kept")


def _rot(study: Path, chance: random.Random) -> None:
    path = study / ".index"
    if path.exists() and (content := bytearray(path.read_bytes())):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)


def _runs(study: Path) -> list[Path]:
    return sorted(path for path in study.iterdir() if path.is_dir() and not path.is_symlink())


CHANGES: list[Callable[[Path, random.Random], None]] = [
    _edit, _delete, _replace, _rewrite, _tear, _swap, _rename, _remove, _add, _empty, _link, _old_index, _rot,
]  # fmt: skip


@given(
    st.lists(st.lists(st.sampled_from(CHANGES), max_size=4), min_size=1, max_size=5),
    st.integers(0, 2**32),
    st.sampled_from([1, 3]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_is_there(
    rounds: list[list[Callable[[Path, random.Random], None]]], seed: int, many: int
) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "MANY", many)
        patch.setattr(index, "SETTLED", -(10**18))
        root, study = Path(name), Path(name, "main")
        for number in range(6):
            run(study / f"s{number}", number)
        run(root / "other" / "a")
        same(root)
        for changes in rounds:
            for change in changes:
                if len(_runs(study)) > 1 and len(list(study.rglob("*.json"))) > 1:
                    change(study, chance)
            same(root)
            same(root)
