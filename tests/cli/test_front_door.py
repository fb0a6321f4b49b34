"""The front door: what it loads, what it says, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

import dropbench
from dropbench.cli import VERBS, main
from dropbench.errors import UserError

HEAVY = ("torch", "torchvision", "hydra", "omegaconf", "rich", "numpy", "scipy", "tqdm", "matplotlib")


def dropbench_process(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])} | changes
    command = [sys.executable, "-m", "dropbench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Puts a function in the place of `dropbench train`."""

    def put(function: Callable[..., int]) -> None:
        module = types.ModuleType("dropbench.cli.train")
        module.run = function
        monkeypatch.setitem(sys.modules, "dropbench.cli.train", module)

    monkeypatch.delenv("DROPBENCH_DEBUG", raising=False)
    return put


def raising(error: BaseException) -> Callable[..., int]:
    def run(argv: list[str], multirun: bool) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["runs", "ls", "--help"], ["list"], ["list", "strategies"]]
)
def test_nothing_heavy_is_loaded(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom dropbench.cli import main\n"
        f"assert main({arguments}) == 0\nprint([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "[]\n"


def test_compare_loads_no_torch_and_no_hydra(tmp_path: Path) -> None:
    run = tmp_path / "study" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    script = "import sys\nfrom dropbench.cli import main\n"
    script += "".join(f"main({[*verb, str(tmp_path)]})\n" for verb in (["compare"], ["runs", "ls"]))
    script += f"print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "['rich', 'numpy']\n"


def test_a_table_loads_no_filter_and_no_other_format(tmp_path: Path) -> None:
    run = tmp_path / "study" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    script = f"import sys\nfrom dropbench.cli import main\nmain(['compare', {str(tmp_path)!r}])\n"
    script += "print(*sorted(set(sys.modules) & {'dropbench.runs.where', 'dropbench.compare.formats', 'scipy'}))"
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines()[-1:] == [""]


def test_help_names_every_verb() -> None:
    for arguments in ((), ("--help",), ("-h",)):
        done = dropbench_process(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(f"\n  {name} " in done.stdout for name in VERBS)


@pytest.mark.parametrize("name", ["compare", "runs", "list"])
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: dropbench {name}")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dropbench {dropbench.__version__}\n"


def test_train_and_sweep_get_their_arguments_untouched(verb: Callable[..., None]) -> None:
    calls = []
    verb(lambda argv, multirun: calls.append((argv, multirun)) or 3)
    assert main(["train", "--help", "-m", "strategy=a,b"]) == 3
    assert main(["sweep", "seed=range(3)"]) == 3
    assert calls == [(["--help", "-m", "strategy=a,b"], False), (["seed=range(3)"], True)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], f"trian: there is no such verb; known: {', '.join(VERBS)}; nearest: train"),
        (["strategy=none", "-m"], "strategy=none: a verb comes first; try dropbench train strategy=none -m"),
        (["runs", "lss"], "runs lss: known: ls, show, rm; nearest: ls"),
        (
            ["list", "stratgy"],
            "list stratgy: known: strategies, models, datasets, optimizers, loggers, experiments; nearest: strategies",
        ),
        (
            ["list", "--format", "jsn"],
            "list --format=jsn: known: table, json; nearest: json",
        ),
        (
            ["compare", "--metrc=test.nll"],
            "compare: unknown argument --metrc=test.nll; known: --help, --where, --metric, --baseline, --delta, "
            "--allow, --by, --cost, --target, --equal, --format; nearest: --metric",
        ),
        (
            ["compare", "--metric"],
            "compare: argument --metric: expected one argument; see dropbench compare --help",
        ),
        (["compare", "no/such/folder"], "no/such/folder: there is no such folder"),
        (["compare", "a\x1b[31m\nb"], "a\\x1b[31m b: there is no such folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"dropbench: {line}\n")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("seed=-1: out of range;\n  allowed: 0 <= value"), 2, "seed=-1: out of range; allowed: 0 <= value"),
        (
            ZeroDivisionError("division\nby zero"),
            1,
            "bug: ZeroDivisionError: division by zero (DROPBENCH_DEBUG=1 shows the traceback; please report it)",
        ),
        (OSError(28, "No space left on device", "outputs/x"), 2, "outputs/x: No space left on device"),
        (PermissionError(13, "Permission denied", "outputs/x"), 2, "outputs/x: Permission denied"),
        (
            FileNotFoundError(2, "No such file or directory", "x"),
            1,
            "bug: FileNotFoundError: [Errno 2] No such file or directory: 'x' "
            "(DROPBENCH_DEBUG=1 shows the traceback; please report it)",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
        (SystemExit("a library gives up"), 1, "a library gives up"),
    ],
)
def test_errors(
    error: BaseException, code: int, line: str, verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(error))
    assert main(["train"]) == code
    assert capsys.readouterr().err == f"dropbench: {line}\n"


@pytest.mark.parametrize(("error", "code"), [(UserError("no"), 2), (ZeroDivisionError("no"), 1)])
def test_the_traceback_on_request(
    error: Exception,
    code: int,
    verb: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb(raising(error))
    monkeypatch.setenv("DROPBENCH_DEBUG", "1")
    assert main(["train"]) == code
    text = capsys.readouterr().err
    assert text.startswith("Traceback (most recent call last):")
    assert text.splitlines()[-1].startswith("dropbench: ")


@pytest.mark.parametrize(("stop", "code"), [(SystemExit(), 0), (SystemExit(None), 0), (SystemExit(7), 7)])
def test_exits_of_libraries_pass(stop: SystemExit, code: int, verb: Callable[..., None]) -> None:
    verb(raising(stop))
    assert main(["train"]) == code


def test_a_broken_pipe_is_quiet(tmp_path: Path) -> None:
    for i in range(500):
        folder = tmp_path / "study" / f"run{i:04}{'x' * 200}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])}
    command = [sys.executable, "-m", "dropbench", "runs", "ls", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(dropbench.__file__).parents[1])}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "dropbench", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "dropbench: No space left on device\n")


def test_a_name_that_the_terminal_cannot_encode(tmp_path: Path) -> None:
    folder = tmp_path / "study" / "run-\u03b1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    done = dropbench_process("runs", "ls", str(tmp_path), PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run-\\u03b1" in done.stdout
