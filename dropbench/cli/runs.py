"""`dropbench runs`: lists recorded runs (`ls`), looks at one (`show`), removes some (`rm`)."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from dropbench.cli.parser import Parser
from dropbench.compare.groups import CHOICES, count, default_metric, figure, tally, title
from dropbench.errors import UserError, nearest
from dropbench.runs.files import unsealed
from dropbench.runs.find import folders, read
from dropbench.runs.records import RunRecord, read_run
from dropbench.runs.remove import obstacle, remove, size
from dropbench.runs.where import facts, select
from dropbench.terminal import Column, clean, console, say, setting, show_table, tell

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

_TAIL = 1 << 20  # bytes of a metrics log that are looked at
_LINES = 5  # of them shown
_LISTED = 20  # runs that are named before they go
_TOLD = 5  # runs that stay, and why


def run(argv: list[str]) -> int:
    """See the module."""
    parser = Parser(prog="dropbench runs", description="Looks at recorded runs.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="ls|show|rm")
    ls = verbs.add_parser("ls", help="one line a run", description="One line a run: state, test figure, rate, seconds.")
    ls.add_argument(
        "paths", nargs="*", default=["outputs"], metavar="PATH", help="run folders, studies or folders of them"
    )
    ls.add_argument("--format", choices=("table", "json"), default="table", help="table (default), or json: all facts")
    show = verbs.add_parser(
        "show", help="one run", description="The result, the settings and the last metrics of a run."
    )
    show.add_argument("run", metavar="RUN", help="a run folder, or the id of a run or its beginning")
    rm = verbs.add_parser(
        "rm",
        help="removes run folders",
        description="Removes run folders, those named and those that a filter means; what is running stays. It says "
        "what would go and asks; --yes removes without asking.",
    )
    rm.add_argument(
        "paths",
        nargs="*",
        metavar="RUN|PATH",
        help="a run folder or the whole id of a run; with --where or --all also studies or folders of them (with "
        "--where alone: those of --outputs)",
    )
    for verb in (ls, rm):
        verb.add_argument(
            "--where", metavar="EXPR", help="""only runs for which this holds: 'strategy=="gradual" and rate<0.4'"""
        )
    rm.add_argument("--all", action="store_true", help="every run under the paths")
    rm.add_argument("--dry-run", action="store_true", help="say what would go, and stop")
    rm.add_argument("--yes", action="store_true", help="do not ask")
    for verb in (show, rm):
        verb.add_argument(
            "--outputs", default="outputs", metavar="PATH", help="where an id is looked up (default: outputs)"
        )
    options = parser.parse_args(argv)
    if options.verb == "ls":
        records = read(options.paths)
        chosen = select(records, options.where)
        if options.format == "json":
            rows = [facts(record) | {"path": str(record.path), "reason": record.reason} for record in chosen]
            print(json.dumps({"runs": rows}, indent=2))
        else:
            _list(chosen, len(records) - len(chosen), console())
        return 0
    if options.verb == "rm":
        return _remove(options, console())
    _show(read_run(find(options.run, options.outputs)), console())
    return 0


def find(name: str, outputs: str, whole: bool = False) -> Path:
    """The run folder that a user means.

    Args:
        name: a path, `study/id`, an id or the beginning of one.
        outputs: where ids are looked up.
        whole: whether the beginning of an id is not enough.

    Raises:
        UserError: none or several; the line names the nearest.
    """
    for path in (Path(name), Path(outputs, name)):
        if _folders(path) == [path]:
            return path
    known = _folders(Path(outputs))
    found = [path for path in known if path.name == name]
    if not found and not whole:
        found = [path for path in known if path.name.startswith(name)]
    if len(found) == 1 and name:
        return found[0]
    if found and name:
        shown = ", ".join(str(path) for path in found[:3])
        raise UserError(f"{name}: {len(found)} runs are meant: {shown}{', ...' if len(found) > 3 else ''}")
    raise UserError(
        f"{name}: there is no such run folder, and no run in {outputs} whose id {'is this' if whole else 'begins so'}"
        f"{nearest(name, [path.name for path in known])}"
    )


def _folders(path: Path) -> list[Path]:
    try:
        return folders([path])
    except (UserError, OSError):  # nothing there, or a name that no file can have
        return []


def _list(records: list[RunRecord], left_out: int, out: Console) -> None:
    if not records:
        say(f"no run is so; --where leaves out {left_out}", out)
        return
    several = len({record.path.parent for record in records}) > 1
    columns = [
        Column("study"),
        Column("run"),
        Column("state"),
        Column("test", number=True),
        Column("rate", number=True),
        Column("seconds", number=True),
        Column("note", drop=1),
    ]
    rows = []
    for record in records:
        metric = default_metric(record)
        value = record.figure(metric)
        name = metric.removeprefix("test.")
        unit = "%" if name == "error" else name
        seconds = record.seconds.get("total")
        rows.append(
            [
                record.path.parent.name,
                record.id,
                record.state,
                "-" if value is None else f"{figure(value, name)} {unit}",
                "-" if record.rate is None else f"{record.rate:g}",
                "-" if seconds is None else f"{seconds:.1f}",
                _last_line(record.path / "error.txt") if record.state == "failed" else record.reason,
            ]
        )
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if not several:
        columns, rows = columns[1:], [row[1:] for row in rows]
    dropped = show_table(columns, rows, out)
    say("", out)
    say(tally(records) + (f"; --where leaves out {left_out}" if left_out else ""), out)
    if dropped:
        say("not shown at this width: note", out)


def _show(record: RunRecord, out: Console) -> None:
    from rich.panel import Panel
    from rich.text import Text

    facts = {"run": str(record.path), "state": record.state}
    if record.reason:
        facts["reason"] = record.reason
    if record.choices:
        facts["what"] = ", ".join(record.choices[key] for key in CHOICES if key in record.choices)
        facts["rate"] = "-" if record.rate is None else f"{record.rate:g}"
        facts["seed"] = str(record.seed)
    if record.rule:
        facts["selection"] = record.rule + ("" if record.epoch is None else f", epoch {record.epoch}")
    facts |= {key.replace("_", " "): f"{value:,}" for key, value in record.sizes.items()}
    facts |= {f"seconds ({key})": f"{value:.1f}" for key, value in record.seconds.items()}
    if record.state == "failed":
        facts["error"] = _last_line(record.path / "error.txt") or "not recorded"
    width = max(len(key) for key in facts)
    text = Text("\n".join(f"{clean(key):{width}}  {clean(value)}" for key, value in facts.items()))
    out.print(Panel.fit(text, title="run") if out.is_terminal else text, soft_wrap=not out.is_terminal)

    names = list(dict.fromkeys(name for figures in record.figures.values() for name in figures))
    if names:
        _section("figures", out)
        columns = [Column("split"), *(Column(title(name), number=True) for name in names)]
        rows = [
            [split.replace("_", " "), *(figure(figures.get(name), name) for name in names)]
            for split, figures in record.figures.items()
            if figures
        ]
        show_table(columns, rows, out)
    if record.rates:
        _section("rates", out)
        kinds = list(dict.fromkeys(kind for site in record.rates.values() for kind in site))
        columns = [Column("site"), *(Column(kind, number=True) for kind in kinds)]
        show_table(
            columns,
            [[site, *(f"{v[k]:.4f}" if k in v else "-" for k in kinds)] for site, v in record.rates.items()],
            out,
        )
    _section("settings", out)
    if record.settings:
        lines = [f"{clean(key)}={setting(value)}" for key, value in record.settings.items()]
    else:
        lines = [clean(line) for line in _text(record.path / "config.yaml").splitlines()] or ["not recorded"]
    for line in lines:
        say(line, out)
    _section("last metrics", out)
    _metrics(record.path / "metrics.jsonl", out)


def _remove(options: argparse.Namespace, out: Console) -> int:
    """Removes what the user names, after saying so; 2 if something of it stays."""
    found = _asked(options)
    below = {record.path: folder for record, folder in found}
    records = select((record for record, _ in found), options.where)
    stay = {record.path: why for record in records if (why := obstacle(record, below[record.path]))}
    going = [(record, size(record.path)) for record in records if record.path not in stay]
    reasons = [f"{path}: {why}" for path, why in stay.items()]
    if going:
        listed = going if options.dry_run else going[:_LISTED]
        columns = [Column("run"), Column("state"), Column("size", number=True)]
        show_table(columns, [[str(record.path), record.state, _bytes(n)] for record, n in listed], out)
        if len(listed) < len(going):
            say(f"and {len(going) - len(listed):,} more", out)
        say("", out)
    what = f"{tally(record for record, _ in going)}; {_bytes(sum(n for _, n in going))}"
    if not going or options.dry_run:
        say(f"would go: {what}" if going else "nothing to remove", out)
    elif options.yes or _confirmed(what):
        gone: list[int] = []
        try:
            for record, n in going:
                try:
                    remove(record)
                    gone.append(n)
                except UserError as error:
                    reasons.append(str(error))
        finally:  # also after Ctrl-C
            rest = f" of {len(going):,}" if len(gone) < len(going) else ""
            say(f"removed {count(len(gone), 'run')}{rest}; {_bytes(sum(gone))}", out)
    else:
        say("nothing removed", out)
    for reason in reasons[:_TOLD]:
        tell(reason)
    if len(reasons) > _TOLD:
        tell(f"{count(len(reasons) - _TOLD, 'more run')} not removed")
    return 2 if reasons and not options.dry_run else 0


def _asked(options: argparse.Namespace) -> list[tuple[RunRecord, Path]]:
    """The runs that are named or lie under what is named, each with the folder in which it was looked for."""
    many = options.where is not None or options.all
    if not options.paths and options.where is None:
        raise UserError("runs rm: nothing is named; allowed: RUN ..., [PATH ...] --where EXPR, or PATH ... --all")
    found: dict[Path, tuple[RunRecord, Path]] = {}
    for name in options.paths or [options.outputs]:
        path = next((path for path in (Path(name), Path(options.outputs, name)) if name and _folders(path)), None)
        if path is None:
            run = find(name, options.outputs, whole=True)
            pairs = [(read_run(run), Path(options.outputs))]
        elif _folders(path) == [path]:
            pairs = [(read_run(path), path.parent)]
        elif many:
            pairs = [(record, path) for record in read([path])]
        else:
            inside = count(len(_folders(path)), "run")
            raise UserError(f"{name}: this is no run but a folder of {inside}; add --where EXPR, or --all")
        for record, below in pairs:
            found.setdefault(record.path.resolve(), (record, below))
    return list(found.values())


def _confirmed(what: str) -> bool:
    """Whether the user says yes.

    Raises:
        UserError: there is nobody to ask.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError(f"runs rm: nothing removed, this is not a terminal to ask at; --yes removes {what}")
    sys.stderr.write(f"Remove {what}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _bytes(number: int) -> str:
    """A size as it is shown: `850 B`, `1.2 MB`."""
    size, unit = float(number), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def _section(name: str, out: Console) -> None:
    say("", out)
    say(name, out, style="bold")


def _metrics(path: Path, out: Console) -> None:
    """The last lines of a metrics log; a line that cannot be read is counted."""
    lines: deque[dict[str, str]] = deque(maxlen=_LINES)
    torn = 0
    for line in _text(path).splitlines():
        row = unsealed(line.encode())
        if row is not None:
            lines.append(_flat(row))
        elif line.strip():
            torn += 1
    names = list(dict.fromkeys(name for line in lines for name in line))
    if names:
        columns = [
            Column(name, number=True, drop=0 if i < 3 else len(names) - i)  # what stands last goes first
            for i, name in enumerate(names)
        ]
        dropped = show_table(columns, [[line.get(name, "-") for name in names] for line in lines], out)
        if dropped:
            say(f"not shown at this width: {', '.join(column.name for column in dropped)}", out)
    elif not torn:
        say("none recorded", out)
    if torn:
        say(f"{torn} line{'s' * (torn != 1)} could not be read", out)


def _flat(data: dict[str, object], prefix: str = "", depth: int = 4) -> dict[str, str]:
    """The numbers in a mapping of mappings, by dotted key, as they are shown."""
    found: dict[str, str] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and depth:
            found |= _flat(value, f"{name}.", depth - 1)
        elif isinstance(value, int) and not isinstance(value, bool):
            found[name] = str(value)
        elif isinstance(value, float):
            found[name] = f"{value:.4g}"
    return found


def _text(path: Path) -> str:
    """The end of a plain file from the start of a line, `` when there is none that can be read."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            data = file.read(_TAIL)
    except OSError:
        return ""
    if size > _TAIL:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def _last_line(path: Path) -> str:
    """What a traceback ends with."""
    return (_text(path).strip().splitlines() or [""])[-1]
