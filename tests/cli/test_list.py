"""`dropbench list`: every config by its path, described by its first comment."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dropbench.cli import main
from dropbench.cli.list import GROUPS, entries
from dropbench.errors import UserError
from dropbench.paths import conf_dirs


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    files = {
        "strategy/standard.yaml": "# Bernoulli dropout (Srivastava et al., 2014)\nrate: 0.5\n",
        "strategy/gradual/late.yaml": "# @package _global_\n\n#\n#   Late dropout (Liu et al., 2023)\n# more\n",
        "strategy/v1.5.yaml": "rate: 0.5  # a comment of a line\n# too late\n",
        "strategy/notes.txt": "# not a config\n",
        "model/strange.yaml": "# \x1b[31mred [bold]x\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_names_and_descriptions(conf: Path) -> None:
    assert entries([conf], "strategy") == {
        "gradual/late": "Late dropout (Liu et al., 2023)",
        "standard": "Bernoulli dropout (Srivastava et al., 2014)",
        "v1.5": "",
    }
    assert entries([conf], "dataset") == {}


def test_exact_text(conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dropbench.cli.list.conf_dirs", lambda extensions: [conf])
    for word in ("strategies", "strategy"):
        assert main(["list", word]) == 0
        assert capsys.readouterr().out == (
            "gradual/late  Late dropout (Liu et al., 2023)\n"
            "standard      Bernoulli dropout (Srivastava et al., 2014)\n"
            "v1.5\n"
        )
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("strategies (strategy=...)\n  gradual/late  Late")
    assert "  strange  \\x1b[31mred [bold]x\n" in text


def test_json(conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dropbench.cli.list.conf_dirs", lambda extensions: [conf])
    assert main(["list", "--format=json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == list(GROUPS)
    assert data["strategies"][1] == {"name": "standard", "description": "Bernoulli dropout (Srivastava et al., 2014)"}


@pytest.mark.parametrize("word", GROUPS)
def test_the_real_configs_are_all_described(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word, "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)[word]
    files = list((conf_dirs()[0] / GROUPS[word]).rglob("*.yaml"))
    assert len(rows) == len(files)
    assert [row["name"] for row in rows if len(row["description"]) < 10] == []


def test_an_extension_brings_configs(
    conf: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path_factory.mktemp("place") / "my_dropouts"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('listing must not run this')")
    conf.rename(package / "conf")
    monkeypatch.syspath_prepend(package.parent)
    found = conf_dirs(("my_dropouts",))
    assert found[-1] == package / "conf"
    assert "v1.5" in entries(found, "strategy")
    assert "my_dropouts" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "no_such.inner", "", ".x"])
def test_an_extension_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"extensions={name}: no package"):
        conf_dirs((name,))
