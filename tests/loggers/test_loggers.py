"""Each logger with its own library, read back: the points of a run are those of its folder, once each."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import dedent
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from readers import READERS, Kept
from tiny_runs import after, never, outcome, rows, run_of, strays

from dropbench import runner
from dropbench.cli import main
from dropbench.compose import Composer
from dropbench.config import Config, Run, check
from dropbench.errors import UserError
from dropbench.loggers import Log, Logger, Point, Subject
from dropbench.loggers.none import NoLogger
from dropbench.parts import find, names
from dropbench.runs.find import folders
from dropbench.runs.folder import METRICS, RESULT, RunFolder
from dropbench.schema import plain
from dropbench.sweep.local import Local
from dropbench.sweep.report import Report

#: Libraries that warn of what they do themselves.
LOUD = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
KINDS = [pytest.param(kind, marks=LOUD) for kind in READERS]
NONE = Point(0, {})
PACKAGES = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    # Hydra, where a test before ran its launcher, leaves a handler whose stream is closed.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def there(kind: str) -> None:
    """Skips without the library, which it does not import: dropbench sets its environment before."""
    if not all(map(find_spec, PACKAGES[kind])):
        pytest.skip(f"logger={kind} is an extra: pip install 'dropbench[{kind}]'")


def some(root: Path, count: int, *words: str) -> list[Run]:
    runs = [run_of(root, "mlp", f"seed={seed}", *words) for seed in range(count)]
    if "logger=mlflow" in words:
        store = runs[0].path.parent / ".mlflow"
        store.mkdir(parents=True)
        (store / "mlflow.db").write_bytes(database())
    return runs


@cache
def database() -> bytes:
    """A database of MLflow with nothing of ours in it: one takes seconds to make."""
    with TemporaryDirectory() as folder:
        find(Logger, "mlflow", "logger")().open(Subject("x", "elsewhere", {}, {}), Path(folder), []).close("done", NONE)
        return (Path(folder) / "mlflow.db").read_bytes()


def trained(runs: list[Run], interrupted: Any = never, until: int | None = None) -> Report:
    report = Report()
    Local(["dropbench", "train"], {}, interrupted, report).train(runs, until)
    return report


def numbers(data: dict[str, Any]) -> dict[str, float]:
    """Every number by its path."""
    found: dict[str, float] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            found |= {f"{key}/{inner}": number for inner, number in numbers(value).items()}
        elif type(value) in (int, float):
            found[key] = value
    return found


def expected(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The history that the run folder tells."""
    found: dict[str, list[tuple[int, float]]] = {}
    for text in (run.path / METRICS).read_text().splitlines():
        record = json.loads(text)
        step = record.pop("step")
        for name, value in numbers({key: record[key] for key in record if key not in ("seq", "crc")}).items():
            found.setdefault(name, []).append((step, value))
    return found


def check_history(kind: str, run: Run) -> Kept:
    """The points are those of the folder, in order and once each; TensorBoard keeps numbers of 32 bits."""
    kept, told = READERS[kind](run.path.parent, run.id), expected(run)
    assert kept.history.keys() == told.keys()
    rel = 1e-6 if kind == "tensorboard" else 0
    for name, points in kept.history.items():
        steps, values = zip(*points, strict=True)
        assert list(steps) == [step for step, _ in told[name]], name
        assert list(values) == pytest.approx([value for _, value in told[name]], rel=rel, abs=0), name
    return kept


# ---- what is kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_of_three_is_three_runs_of_the_logger(tmp_path, kind, capfd):
    there(kind)
    runs = some(tmp_path, 3, f"logger={kind}", "dataset.validation_size=19", "study=mine")
    report = trained(runs)
    assert (report.failures, report.warnings) == ({}, [])
    assert tuple(capfd.readouterr()) == ("", "")
    for run in runs:
        kept = check_history(kind, run)
        assert {step for step, _ in kept.history["validation/error"]} == {3, 6}
        names = {"training_loss", "learning_rate", "train/error", "validation/loss", "epoch", "seconds"}
        assert names | {"sites/hidden1/rate", "sites/hidden1/dropped"} <= kept.history.keys()
        result = json.loads((run.path / RESULT).read_text())
        told = {f"test/{name}": value for name, value in result["test"].items()}
        told |= {f"selected/{s}/{name}": v for s in ("train", "validation") for name, v in result[s].items()}
        told["selected/epoch"] = result["selection"]["epoch"]
        assert kept.last == pytest.approx(told, rel=1e-6)
        assert (kept.study, kept.end) == ("mine", "done")
        settings = {"seed": run.config.seed, "dataset.kind": "digits", "strategy.rate": 0.5, "model.widths": [5]}
        found = {key: kept.settings[key] for key in settings}
        if kind == "tensorboard":  # all its numbers are floats
            found["seed"] = str(int(float(found["seed"])))
        assert found == {key: str(value) for key, value in settings.items()}
        assert kept.settings.keys() >= result["settings"].keys()
        assert kept.tags.items() >= {"strategy": "gradual", "model": "mlp", "dataset": "digits"}.items()
    assert sorted(path.name for path in folders([tmp_path / "mine"])) == sorted(run.id for run in runs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logger_is_a_circumstance(tmp_path, kind):
    """Neither the name nor the result of a run nor its folder shows it."""
    there(kind)
    (bare,), (logged,) = some(tmp_path / "bare", 1), some(tmp_path / "logged", 1, f"logger={kind}")
    trained([bare])
    trained([logged])
    assert (logged.id, logged.group, logged.choices) == (bare.id, bare.group, bare.choices)
    assert outcome(logged.path) == outcome(bare.path)
    assert strays(logged.path) == []


def test_a_figure_that_is_not_finite_is_left_out(tmp_path, monkeypatch):
    """As in JSON it is null."""
    heard = Heard.instead(monkeypatch)
    (run,) = some(tmp_path, 1)
    measure = runner.Nets.measure

    def measured(*args: Any, **options: Any) -> Any:
        figures = measure(*args, **options)
        return {**figures, "ece": [float("nan")], "nll": [float("inf")]}

    monkeypatch.setattr(runner.Nets, "measure", measured)
    trained([run])
    added = [figures for what, figures in heard.told if what == "add"]
    assert len(added) == 2
    assert {name for figures in added for name in figures if name.startswith("validation/")} == {
        "validation/loss", "validation/error", "validation/brier",
    }  # fmt: skip


# ---- runs that go on, or start anew


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_has_each_point_once(tmp_path, kind):
    there(kind)
    runs = some(tmp_path, 2, f"logger={kind}", "epochs=3")
    with pytest.raises(runner.Interrupted):
        trained(runs, after(3))  # in the second epoch
    for run in runs:
        assert check_history(kind, run).end != "done"
    trained(runs)
    for run in runs:
        kept = check_history(kind, run)
        assert ([step for step, _ in kept.history["epoch"]], kept.end) == ([3, 6, 9], "done")


@pytest.mark.parametrize("kind", KINDS)
def test_points_ahead_of_the_checkpoint_are_not_doubled(tmp_path, kind, monkeypatch):
    """A kill after the second evaluation, of a run that was saved in the second epoch last."""
    there(kind)
    runs = some(tmp_path, 2, f"logger={kind}", "epochs=3")
    monkeypatch.setattr(runner, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    save, update = RunFolder.checkpoint, runner.Trainer._update

    def saved(folder: RunFolder, state: Any) -> None:
        if state.facts["step"] <= 4:
            save(folder, state)

    def updated(trainer: runner.Trainer, *args: Any) -> None:
        if trainer.state.step == 7:
            raise SystemExit
        update(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "checkpoint", saved)
        patch.setattr(runner.Trainer, "_update", updated)
        with pytest.raises(SystemExit):
            trained(runs)
    assert [row["step"] for row in rows(runs[0].path)] == [3, 6]
    trained(runs)
    for run in runs:
        points = READERS[kind](run.path.parent, run.id).history["validation/loss"]
        assert [step for step, _ in points] == [3, 6, 9]
        told = [row["validation"]["loss"] for row in rows(run.path)]
        assert [value for _, value in points] == pytest.approx(told, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_trained_anew_replaces_its_log(tmp_path, kind):
    there(kind)
    trained(some(tmp_path, 1, f"logger={kind}"))
    again = run_of(tmp_path, "mlp", "seed=0", f"logger={kind}", "rerun=true")
    trained([again])
    assert check_history(kind, again).end == "done"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_in_two_parts_is_one_run(tmp_path, kind):
    """As a sweep with `prune` trains it."""
    there(kind)
    runs = some(tmp_path, 2, f"logger={kind}")
    trained(runs, until=1)
    trained(runs)
    for run in runs:
        assert check_history(kind, run).end == "done"


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_fails_is_marked(tmp_path, kind):
    there(kind)
    wild = ("optimizer=sgd", "optimizer.learning_rate=1", "optimizer.weight_decay=100000", "epochs=4")
    (run,) = some(tmp_path, 1, *wild, f"logger={kind}")
    assert list(trained([run]).failures) == [run.id]
    kept = READERS[kind](run.path.parent, run.id)
    assert kept.last == {}
    assert kept.end == ("" if kind == "tensorboard" else "failed")


# ---- nothing that a logger does costs a run its result


class Heard(Log):
    """Notes what it is told, and raises where it is asked to."""

    def __init__(self, raises: str = "") -> None:
        self.raises = raises
        self.told: list[tuple[str, Any]] = []

    @classmethod
    def instead(cls, monkeypatch: pytest.MonkeyPatch, raises: str = "") -> Heard:
        """In place of every log."""
        heard = cls(raises)
        monkeypatch.setattr(NoLogger, "open", heard.opened)
        return heard

    def _tell(self, what: str, content: Any) -> None:
        self.told.append((what, content))
        if what == self.raises:
            raise OSError(28, "No space left on device\n\x1b[31m")

    def opened(self, subject: Subject, store: Path, past: Any) -> Heard:
        self._tell("open", (subject.id, [point.step for point in past]))
        return self

    def add(self, point: Point) -> None:
        self._tell("add", point.figures)

    def close(self, end: str, last: Point) -> None:
        self._tell("close", end)


@pytest.mark.parametrize("raises", ["open", "add", "close"])
def test_a_log_that_raises_is_told_once_and_given_up(tmp_path, monkeypatch, raises):
    calm, runs = some(tmp_path / "calm", 2), some(tmp_path / "broken", 2)
    trained(calm)
    heard = Heard.instead(monkeypatch, raises)
    report = trained(runs)
    said = "logger=none failed and logs no more of this run: OSError: [Errno 28] No space left on device"
    assert report.warnings == [rf"{run.path}: {said} \x1b[31m" for run in runs]
    assert (report.failures, report.crashed) == ({}, False)
    assert [what for what, _ in heard.told].count(raises) == 2
    for run, other in zip(runs, calm, strict=True):
        assert outcome(run.path) == outcome(other.path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_cannot_be_made_costs_the_log_alone(tmp_path, kind):
    there(kind)
    (run,) = some(tmp_path, 1, f"logger={kind}")
    shutil.rmtree(run.path.parent, ignore_errors=True)
    run.path.parent.mkdir()
    (run.path.parent / f".{kind}").write_text("in the way")
    report = trained([run])
    ((line,), failures) = report.warnings, report.failures
    assert line.startswith(f"{run.path}: logger={kind} failed and logs no more of this run: ")
    assert failures == {}
    assert (run.path / RESULT).exists()


def test_the_log_of_a_run_that_goes_on_is_opened_with_what_it_has(tmp_path, monkeypatch):
    heard = Heard.instead(monkeypatch)
    (run,) = some(tmp_path, 1, "epochs=3")
    with pytest.raises(runner.Interrupted):
        trained([run], after(6))
    trained([run])
    assert [content if what != "add" else content["epoch"] for what, content in heard.told] == [
        (run.id, []), 1, 2, "interrupted", (run.id, [3, 6]), 3, "done",
    ]  # fmt: skip


def test_a_run_that_raises_ends_its_log_and_the_half_without_it_opens_its_own_again(tmp_path, monkeypatch):
    heard = Heard.instead(monkeypatch)
    runs = some(tmp_path, 2)
    update = runner.Trainer._update

    def updated(trainer: runner.Trainer, *args: Any) -> None:
        if trainer.state.step == 4 and 1 in trainer.nets.streams.seeds:
            raise RuntimeError("poison")
        update(trainer, *args)

    monkeypatch.setattr(runner.Trainer, "_update", updated)
    assert list(trained(runs).failures) == [runs[1].id]
    ends = [content for what, content in heard.told if what == "close"]
    assert ends == ["interrupted", "interrupted", "done", "failed"]


# ---- a library that is not there


@pytest.mark.parametrize(("kind", "package"), [(kind, name) for kind in PACKAGES for name in PACKAGES[kind]])
def test_a_library_that_is_not_there_is_refused_before_training(tmp_path, monkeypatch, capsys, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    for name in PACKAGES[kind][: PACKAGES[kind].index(package)]:
        there_already = type(sys)(name)
        there_already.__spec__ = type("Spec", (), {"origin": "somewhere"})()  # type: ignore[assignment]
        monkeypatch.setitem(sys.modules, name, there_already)
    line = f"logger={kind}: needs the package {package}: pip install 'dropbench[{kind}]'"
    (run,) = some(tmp_path, 1, f"logger={kind}")
    assert trained([run]).refusals == {run.id: line}
    assert not run.path.exists()
    assert main(["train", f"logger={kind}", "epochs=1", f"output_root={tmp_path}"]) == 2
    assert capsys.readouterr().err == f"dropbench: {line}\n"


def test_a_folder_that_a_library_left_is_no_library(tmp_path, monkeypatch):
    class Mine(Logger):
        needs = ("left_by_a_library",)

        def open(self, subject: Subject, store: Path, past: Any) -> Log:
            raise NotImplementedError

    (tmp_path / "left_by_a_library").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"needs the package left_by_a_library: pip install left_by_a_library$"):
        Mine().check()


# ---- how it is chosen


def test_the_loggers_are_found_and_none_is_the_choice_of_who_says_nothing():
    assert names(Logger) == ("mlflow", "none", "tensorboard", "wandb")
    data = Composer().compose([]).data
    assert check(data).logger == NoLogger()
    assert check({key: value for key, value in data.items() if key != "logger"}).logger == NoLogger()
    assert plain(check(Composer().compose(["logger=wandb", "logger.project=mine"]).data))["logger"] == {
        "kind": "wandb", "project": "mine", "entity": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("logger=tensorbord", "logger=tensorbord: there is no such logger; known: mlflow, none, tensorboard, wandb; "),
        (
            "logger.kind=wandbe",
            "logger.kind=wandbe: there is no such logger; known: mlflow, none, tensorboard, wandb; ",
        ),
        ("logger.project=x", "unknown key logger.project=x"),
    ],
)
def test_a_mistake_is_one_line(words, line):
    with pytest.raises(UserError) as error:
        check(Composer().compose([words]).data)
    assert str(error.value).startswith(line)
    assert "\n" not in str(error.value)


MINE = """
    from dataclasses import dataclass
    from dropbench.loggers import Log, Logger

    @dataclass(frozen=True)
    class Mine(Logger):
        mark: str = "-"

        def open(self, subject, store, past):
            store.mkdir(exist_ok=True)
            return Lines((store / subject.id).open("w"), self.mark)

    class Lines(Log):
        def __init__(self, file, mark):
            self.file, self.mark = file, mark

        def add(self, point):
            print(self.mark, point.step, point.figures["epoch"], file=self.file)

        def close(self, end, last):
            print(end, last.step, "test/error" in last.figures, file=self.file)
            self.file.close()
"""


def test_an_extension_brings_a_logger(tmp_path, monkeypatch):
    package = tmp_path / "with_a_logger"
    for folder in ("loggers", "conf/logger"):
        (package / folder).mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "loggers" / "__init__.py").touch()
    (package / "loggers" / "lines.py").write_text(dedent(MINE))
    (package / "conf" / "logger" / "lines.yaml").write_text("# Lines\nkind: lines\n")
    monkeypatch.syspath_prepend(tmp_path)
    composed = Composer(None, ("with_a_logger",)).compose(
        ["logger=lines", "logger.mark=x", "extensions=[with_a_logger]", "epochs=2", "dataset.train_size=40",
         "batch_size=16", "model.widths=[5]", f"output_root={tmp_path}"]
    )  # fmt: skip
    run = Run(check(composed.data), composed.choices)
    assert find(Logger, "lines", "logger", ("with_a_logger",))(mark="x") == run.config.logger  # type: ignore[call-arg]
    trained([run])
    assert (run.path.parent / ".lines" / run.id).read_text() == "x 3 1\nx 6 2\ndone 6 True\n"


# ---- the command


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`dropbench train` in a folder of its own, with a home of its own, and no way of the tests to silence it."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "MLFLOW", "XDG"))}
    tiny = ["epochs=2", "dataset.train_size=40", "batch_size=16", "model.widths=[5]", "device=cpu"]
    (folder / "home").mkdir()
    (folder / "here").mkdir()
    return subprocess.run(
        [sys.executable, "-m", "dropbench", "train", *words, *tiny],
        cwd=folder / "here", env={**kept, "HOME": str(folder / "home")}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_log_at_once_print_nothing_and_write_under_outputs_alone(tmp_path, kind):
    there(kind)
    done = command(tmp_path, "-m", "seed=0,1", "stack=1", "workers=2", f"logger={kind}")
    assert done.returncode == 0, done.stderr
    for word in ("wandb", "mlflow", "tensorboard", "warning", "alembic"):
        assert word not in (done.stdout + done.stderr).lower()
    assert list((tmp_path / "home").iterdir()) == []
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["outputs"]
    runs = folders([tmp_path / "here" / "outputs"])
    assert len(runs) == 2
    for path in runs:
        assert READERS[kind](path.parent, path.name).end == "done"


def test_without_a_logger_no_library_is_loaded(tmp_path):
    program = (
        "import sys\nfrom dropbench.cli import main\n"
        "assert main(['train', *sys.argv[1:]]) == 0\n"
        "assert not {'tensorboard', 'wandb', 'mlflow'} & set(sys.modules)\n"
    )
    words = ["epochs=1", "dataset.train_size=40", "model.widths=[5]", f"output_root={tmp_path}"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_field_of_the_config_is_a_logger():
    assert Config.__dataclass_fields__["logger"].default_factory() == NoLogger()  # type: ignore[misc]
