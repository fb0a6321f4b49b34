"""`dropbench list`: every config by its path, described by its comments."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from dropbench.cli import main
from dropbench.cli.list import GROUPS, Entry, entries
from dropbench.errors import UserError
from dropbench.paths import conf_dirs

LATE = """\
# @package _global_

#
#   Late dropout
# formula: rate [t >= 1/5], t = share of the training that is done
# source: Liu et al., ICML 2023
# more
defaults: [standard]
noise: bernoulli
rate: 0.5           # the highest
where: [input, hidden]
rates:
  "*1": 0.25
policies:
  gradual:
    shape: step
    until: 0.2
"""
AT_80 = """\
gradual/late  Late dropout
  formula     rate [t >= 1/5], t = share of the training that is done
  source      Liu et al., ICML 2023
  parameters  noise=bernoulli rate=0.5 where=[input,hidden] rates={"*1":0.25}
              policies.gradual.shape=step policies.gradual.until=0.2

standard      Bernoulli dropout (Srivastava et al., 2014), which drops every
              unit of a layer at one rate
  parameters  rate=0.5

v1.5
  parameters  rate=0.5
"""


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("COLUMNS", raising=False)
    standard = "# Bernoulli dropout (Srivastava et al., 2014), which drops every unit of a layer at one rate"
    files = {
        "strategy/standard.yaml": f"{standard}\nrate: 0.5\n",
        "strategy/gradual/late.yaml": LATE,
        "strategy/v1.5.yaml": "rate: 0.5  # a comment of a line\n# too late\n# source: too late\n",
        "strategy/notes.txt": "# not a config\n",
        "model/strange.yaml": "# \x1b[31mred [bold]x\n",
        "model/torn.yaml": "# Torn\nwidths: [1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("dropbench.cli.list.conf_dirs", lambda extensions: [tmp_path])
    return tmp_path


def test_what_a_config_says_of_itself(conf: Path) -> None:
    late, standard, last = entries([conf], "strategy")
    assert late == Entry(
        "gradual/late",
        "Late dropout",
        "rate [t >= 1/5], t = share of the training that is done",
        "Liu et al., ICML 2023",
        {
            "noise": "bernoulli",
            "rate": 0.5,
            "where": ["input", "hidden"],
            "rates": {"*1": 0.25},
            "policies.gradual.shape": "step",
            "policies.gradual.until": 0.2,
        },
    )
    assert standard.description.startswith("Bernoulli dropout (Srivastava et al., 2014)")
    assert last == Entry("v1.5", "", "", "", {"rate": 0.5})
    assert entries([conf], "dataset") == []


def test_a_config_that_is_not_yaml_is_listed_without_parameters(conf: Path) -> None:
    assert entries([conf], "model")[1] == Entry("torn", "Torn", "", "", {})


def test_of_two_with_one_name_the_first_folder_wins(conf: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "strategy").mkdir()
    (other / "strategy" / "standard.yaml").write_text("# Mine\n")
    assert [entry.description[:4] for entry in entries([other, conf], "strategy")] == ["Late", "Mine", ""]


@pytest.mark.parametrize("word", ["strategies", "strategy"])
def test_strategies_at_80_columns(
    word: str, conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", word]) == 0
    assert capsys.readouterr().out == AT_80


@pytest.mark.parametrize("columns", [None, "200"])
def test_strategies_with_room_are_not_folded(
    columns: str | None, conf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert main(["list", "strategies"]) == 0
    unfolded = AT_80.replace("every\n              unit", "every unit").replace("}\n              p", "} p")
    assert capsys.readouterr().out == unfolded


def test_other_groups_and_the_overview_have_a_line_each(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models"]) == 0
    assert capsys.readouterr().out == "strange  \\x1b[31mred [bold]x\ntorn     Torn\n"
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("strategies (strategy=...)\n  gradual/late  Late dropout\n  standard      Bernoulli")
    assert "\n  v1.5\nmodels (model=...)\n  strange  " in text


def test_json(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--format=json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == list(GROUPS)
    late, _, last = data["strategies"]
    assert list(late) == ["name", "description", "formula", "source", "parameters"]
    assert late["source"] == "Liu et al., ICML 2023"
    assert late["parameters"]["policies.gradual.until"] == 0.2
    assert last == {"name": "v1.5", "description": "", "formula": "", "source": "", "parameters": {"rate": 0.5}}
    assert data["models"][1] == {"name": "torn", "description": "Torn"}


@pytest.mark.parametrize("word", GROUPS)
def test_the_real_configs_are_all_described(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", word, "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)[word]
    files = list((conf_dirs()[0] / GROUPS[word]).rglob("*.yaml"))
    assert len(rows) == len(files)
    assert [row["name"] for row in rows if len(row["description"]) < 10] == []


def test_every_strategy_states_its_formula_source_and_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "strategies", "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)["strategies"]
    assert [row["name"] for row in rows if not row["formula"] or not {"noise", "rate"} & set(row["parameters"])] == []
    sourced = re.compile(r"\b(19|20)\d\d\b|no owning paper|no published figures")
    assert [row["name"] for row in rows if not sourced.search(row["source"])] == ["none"]


@pytest.mark.parametrize("columns", [80, 200])
def test_the_real_strategies_fit(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["list", "strategies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    assert [line for line in lines if line != line.rstrip()] == []


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
    assert "v1.5" in [entry.name for entry in entries(found, "strategy")]
    assert "my_dropouts" not in sys.modules


@pytest.mark.parametrize("name", ["no_such_package", "no_such.inner", "", ".x"])
def test_an_extension_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"extensions={name}: no package"):
        conf_dirs((name,))
