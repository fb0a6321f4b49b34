"""A recorded sweep in, the table out, byte for byte, in every format.

The sweep is the study of the README, `dropbench sweep experiment=mnist_1000`. After a change that is meant:

    DROPBENCH_GOLDEN=write scripts/test tests/compare/test_golden.py

writes what is printed now; `git diff` shows what changed. `python tests/compare/test_golden.py STUDY` records a sweep.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from dropbench.cli import main

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = {
    "table_80.txt": (["compare"], "80"),
    "table_200.txt": (["compare"], "200"),
    "table_piped.txt": (["compare", "--cost"], ""),
    "table.md": (["compare", "--format=md"], ""),
    "table.csv": (["compare", "--format=csv"], ""),
    "table.tex": (["compare", "--format=latex"], ""),
    "table.json": (["compare", "--format=json"], ""),
    "standard_80.txt": (["compare", "--baseline=strategy=standard", "--delta=0.3"], "80"),
    "by_200.txt": (["compare", "--by=strategy"], "200"),
    "recommend_80.txt": (["recommend"], "80"),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recorded")
    data = json.loads((GOLDEN / "sweep.json").read_text())
    for run in data["runs"]:
        folder = place / "outputs" / "mnist_1000" / run["result"]["id"]
        folder.mkdir(parents=True)
        result = run["result"] | {"settings": data["settings"] | run["result"]["settings"]}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "record.json").write_text(json.dumps(data["record"]))
    return place


@pytest.mark.parametrize("name", COMMANDS)
def test_golden(recorded: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words, columns = COMMANDS[name]
    monkeypatch.chdir(recorded)
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    assert main(words) == 0
    text = capsys.readouterr().out
    if os.environ.get("DROPBENCH_GOLDEN") == "write":
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")
    if columns:
        assert max(map(len, text.splitlines())) <= int(columns)


def record(study: Path) -> None:
    """Writes the results of a study, what they have in common once."""
    runs: list[dict[str, Any]] = []
    for path in sorted(study.glob("*/result.json")):
        result = json.loads(path.read_text())
        for key in ("calibration", "rates"):
            result.pop(key, None)
        runs.append({"result": result})
    settings = [run["result"]["settings"] for run in runs]
    common = {key: value for key, value in settings[0].items() if all(each.get(key) == value for each in settings)}
    for run in runs:
        run["result"]["settings"] = {k: v for k, v in run["result"]["settings"].items() if k not in common}
    made = json.loads((study / runs[0]["result"]["id"] / "record.json").read_text())
    stamp = {key: made[key] for key in ("versions", "determinism", "data")}
    stamp |= {"hardware": {"device": made["hardware"]["device"]}, "git": None}
    lines = ",\n".join(json.dumps(run) for run in runs)
    head = f'"record": {json.dumps(stamp)},\n"settings": {json.dumps(common)},\n"runs": [\n{lines}\n]'
    (GOLDEN / "sweep.json").write_text(f"{{\n{head}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
