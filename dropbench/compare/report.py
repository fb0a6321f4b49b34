"""One HTML page of a comparison: question, answer, protocol, tables, pictures, every run, how to do it again.

The page needs nothing but itself. Its policy (CSP) forbids every request and allows one style sheet and one script, by
their hashes; what comes from disk is text there and stays text. The same records give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dropbench import __version__
from dropbench.compare import plots
from dropbench.compare.cost import cost_sheet
from dropbench.compare.groups import CHOICES, count, figure, partner, tally, title
from dropbench.compare.items import items_sheet
from dropbench.compare.origin import Origin, cut, origins
from dropbench.compare.recommend import recommend
from dropbench.compare.rows import LEVEL, compare
from dropbench.compare.statistics import FEWEST
from dropbench.compare.table import interval, probability, sheet
from dropbench.errors import UserError
from dropbench.runs.files import check_suffix, plain, write
from dropbench.terminal import clean, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.figure import Figure

    from dropbench.compare.rows import Comparison, Options, Row, Verdict
    from dropbench.compare.table import Sheet
    from dropbench.runs.records import RunRecord

#: What a page is saved as.
SUFFIXES = (".html", ".htm")
_TEMPLATE = Path(__file__).with_name("report.html.j2")
_LARGEST = 1 << 20  # bytes of a record.json or an error.txt that are read
_LONGEST = 2_000  # characters of a command or of an error
_VALUE = 200  # characters of a setting
_SETTINGS = 400  # of a run; a config has some sixty
_ABSENT = "\u2013"  # a dash
_LISTED = 8  # names in a sentence
_SHOWN = 10  # environments, and commands in each
_NUMBER = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?)(?: ([kMG])\b)?")
_PLAIN = re.compile(r"\d+(\.\d+)?")
_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}
_TAG = re.compile(r"<[A-Za-z][^<>]*>")
_STYLE = re.compile(r' style="([^"]*)"')
_WIDTH = re.compile(r'<svg [^>]*\bwidth="([\d.]+)pt"')
_NARROW = 400.0  # points
_PAGE = {"#ffffff": "var(--paper)", "#0072b2": "var(--blue)", "'DejaVu Sans'": "var(--sans)"}  # instead of the drawn
_DECLARATIONS = re.compile(r"[\w\s:;.,#%()'-]*")
_TIED = re.compile(r"(?<=\d) (?=%|points\b|seeds?\b|pairs?\b)|(?<=\bp) (?=[=&])")  # no line ends here


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: that is shown.
        key: by which it is sorted, where this is not the text.
        kind: a class of the style sheet.
        config: the settings of a run, shown on demand.
    """

    text: str
    key: str | None = None
    kind: str = ""
    config: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Args:
        name: an id.
        caption: what it is.
        heads: the name of each column, and whether it holds numbers.
        rows: cells.
        bold: places of rows that stand out.
        notes: what is said below, a line each.
    """

    name: str
    caption: str
    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    bold: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A picture of the page.

    Args:
        title: what it is.
        svg: an element.
        narrow: whether it was drawn for one column.
    """

    title: str
    svg: Markup
    narrow: bool


def report(records: Sequence[RunRecord], options: Options, name: str = "") -> str:
    """The page.

    Args:
        records: of any state, in a fixed order.
        options: how to compare.
        name: the title; by default that of the studies.

    Returns:
        HTML, without control characters and lone surrogates.

    Raises:
        UserError: no run has the figure, or none is such a baseline.
    """
    comparisons = compare(records, options)
    origin = origins(records)
    styles: dict[str, str] = {}
    drawings, lacking = _drawings(comparisons, styles)
    common, configs = _configs(records)
    studies = list(dict.fromkeys(map(_study, records)))
    page = _environment().from_string(_TEMPLATE.read_text("utf-8")).render(
        title=name or _text("dropbench: {}", _listed(studies)),
        version=__version__,
        question=_question(comparisons),
        answers=[answer for comparison in comparisons for answer in _answers(comparison)],
        advice=_advice(records, comparisons, options.allow),
        facts=_facts(records, comparisons, origin),
        protocol=_protocol(records, comparisons, origin),
        tables=[_tables(comparison, place, len(comparisons) > 1) for place, comparison in enumerate(comparisons)],
        drawings=drawings,
        lacking=lacking,
        styles=Markup("".join(f".{name}{{{style}}}" for style, name in styles.items())),  # noqa: S704 - checked
        runs=_runs(records, comparisons, configs),
        common=common,
        troubles=_troubles(records),
        origin=[
            (code, commands.most_common(_SHOWN), max(0, len(commands) - _SHOWN))
            for code, commands in sorted(origin.commands.items(), key=lambda each: -each[1].total())[:_SHOWN]
        ],
        more_origins=max(0, len(origin.commands) - _SHOWN),
        silent=origin.silent,
    )  # fmt: skip
    return page.lstrip()


def save(page: str, path: Path) -> None:
    """Writes a page in one piece; the folder is made.

    Raises:
        UserError: the suffix is another one, or the disk refuses.
    """
    check_suffix(path, SUFFIXES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={path}: {error.strerror}: {error.filename}") from error
    if path.is_dir():
        raise UserError(f"--out={path}: this is a folder")
    try:
        write(path, page.encode())
    except UserError as error:
        raise UserError(f"--out={path}: {str(error).partition(':')[0]}") from error


def _question(comparisons: Sequence[Comparison]) -> Markup:
    """What was asked, in a sentence."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    if not rows:
        return Markup("No run is done yet: there is nothing to compare.")
    tasks = [f"{dataset} with {model}" for dataset, model in dict.fromkeys(row.group.task for row in rows)]
    figures = _listed(list(dict.fromkeys(_words(comparison.metric) for comparison in comparisons)), "or")
    strategies = list(dict.fromkeys(row.names[2] for row in rows))
    against = _listed([comparison.baseline for comparison in comparisons if comparison.baseline], "or")
    if len(rows) == 1:
        return _text("Which {} does {} reach on {}?", figures, _strong(rows[0].label), tasks[0])
    settings = f" ({len(rows)} settings)" if len(rows) > len(strategies) else ""
    real = _text(", and is the difference to the baseline {} real", _code(against)) if against else Markup()
    subject = _listed([_strong(name) for name in strategies], "or")
    return _text("Which has the lowest {} on {}: {}{}{}?", figures, _listed(tasks), subject, settings, real)


def _answers(comparison: Comparison) -> Iterator[Markup]:
    """What came of it: for each data set and model the setting that validation chooses, and how sure it is."""
    tasks: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in comparison.rows:
        tasks[row.group.task].append(row)
    for task, rows in tasks.items():
        there = [row for row in rows if row.runs]
        if there:
            text = Markup(" ").join(filter(None, [_best(task, there, comparison), _standing(there)]))
            yield Markup(_TIED.sub("&nbsp;", text))  # noqa: S704 - escaped already
        else:
            yield _text("On {} with {} every run failed.", *map(_strong, task))


def _best(task: tuple[str, str], rows: Sequence[Row], comparison: Comparison) -> Markup:
    metric, (_, _, name) = comparison.metric, comparison.metric.partition(".")
    chosen = min(rows, key=lambda row: (row.group.selecting, row.group.mean))
    here = _text("On {} with {}", *map(_strong, task))
    bounds = f"95 % CI {_minus(interval(chosen.ci95, name))}, " if chosen.ci95 else ""
    reached = f"{_amount(chosen.group.mean, name)} ({bounds}{count(len(chosen.runs), 'seed')})"
    if len(rows) == 1:
        text = _text("{}, {} reaches a {} of {}", here, _strong(chosen.label), _words(metric), reached)
    elif metric.startswith("validation"):
        text = _text("{}, {} has the lowest {} of {}, {}", here, _strong(chosen.label), _words(metric),
                     count(len(rows), "setting"), reached)  # fmt: skip
    elif math.isfinite(chosen.group.selecting):
        text = _text("{}, {} has the lowest {} of {}; its {} is {}", here, _strong(chosen.label),
                     _words(partner(metric)), count(len(rows), "setting"), _words(metric), reached)  # fmt: skip
    else:
        text = _text("{} no validation figure is recorded; {} has the lowest {} of {}, {}, which flatters it", here,
                     _strong(chosen.label), _words(metric), count(len(rows), "setting"), reached)  # fmt: skip
    return text + _against(chosen, comparison.delta, name)


def _against(row: Row, delta: float | None, name: str) -> Markup:
    """How a setting stands to its baseline: the end of a sentence."""
    if row.verdict == "baseline":
        return Markup(". It is the baseline itself.")
    if row.difference is None or row.baseline.group is None:
        return _text(". It {}.", "has no baseline" if row.verdict == "no baseline" else "could not be paired")
    size = abs(row.difference.mean)
    unit = " points" if name.endswith("error") else ""
    sign = "less" if row.difference.mean < 0 else "more"
    than = f"{figure(size, name)}{unit} {sign} than" if size else "the same as"
    far = _text("{} that of {}", than, _strong(row.baseline.group.label))
    bounds = f"95 % CI {_minus(interval(row.delta_ci95, name, sign=True))}, " if row.delta_ci95 else ""
    p = probability(row.p_holm)
    sure = f"{bounds}p {p.replace('<', '< ') if p.startswith('<') else f'= {p}'} after Holm's correction"
    pairs = count(row.difference.n, "pair")
    if row.verdict == "equal":
        return _text(", {} ({}): {}.", far, sure, _strong(f"equal within {delta:g}{unit}"))
    if row.verdict in ("better", "worse"):
        return _text(", {} ({}): {}.", far, sure, _strong(row.verdict))
    if row.difference.n < FEWEST:
        return _text(", {}. {} cannot show that a difference is real; it takes at least {}.", far, pairs, str(FEWEST))
    more = "over 1,000 more" if row.more is None else f"about {row.more} more"
    return _text(", {} ({}): with {} it {} whether this is real ({} seeds would probably tell).", far, sure, pairs,
                 _strong("cannot be told"), more)  # fmt: skip


def _standing(rows: Sequence[Row]) -> Markup:
    """How many settings are better than their baseline, worse, and so on."""
    words: dict[Verdict, str] = {
        "better": "better", "worse": "worse", "equal": "equal within delta", "cannot tell": "not told apart from it",
        "not paired": "not paired",
    }  # fmt: skip
    counts: Counter[Verdict] = Counter(row.verdict for row in rows if row.verdict in words)
    if counts.total() < 2:
        return Markup()
    number = str(counts.total())
    if counts["cannot tell"] == counts.total():
        return _text("None of {} settings can be told apart from the baseline.", number)
    if len(counts) == 1:
        return _text("All {} settings compared with the baseline are {}.", number, words[next(iter(counts))])
    parts = [f"{counts[verdict]} {'is' if counts[verdict] == 1 else 'are'} {word}" for verdict, word in words.items()
             if counts[verdict]]  # fmt: skip
    return _text("Of {} settings compared with the baseline {}.", number, _listed(parts))


def _advice(
    records: Sequence[RunRecord], comparisons: Sequence[Comparison], allow: frozenset[str]
) -> list[tuple[str, str]]:
    """What else to know before one believes the answer: a line, and a command that would mend it, if there is one."""
    lines = []
    for metric in dict.fromkeys(comparison.metric for comparison in comparisons):
        try:
            found = recommend(records, metric if metric.startswith("validation") else partner(metric), allow)
        except UserError:  # no run has the figure
            continue
        for advice in found:
            task = f"{advice.task.name}: " if len(found) > 1 else ""
            if advice.sentences[1]:
                among = f"against {advice.best.group.label} on the validation part: "
                lines.append((f"{task}{among}{advice.sentences[1]}", ""))
            lines += [(f"{task}{warned.text}", warned.command) for warned in advice.warnings]
    return lines


def _facts(records: Sequence[RunRecord], comparisons: Sequence[Comparison], origin: Origin) -> list[tuple[str, str]]:
    """The size of what is shown."""
    runs = [run for comparison in comparisons for row in comparison.rows for run in row.runs]
    seeds = {run.seed for run in runs}
    tasks = {row.group.task for comparison in comparisons for row in comparison.rows}
    days = [min(origin.days), max(origin.days)] if origin.days else []
    seconds = sum(record.seconds.get("total", 0.0) for record in records)
    settings = sum(len(comparison.rows) for comparison in comparisons)
    numbers = {"run": len(records), "setting": settings, "seed": len(seeds), "task": len(tasks)}
    return [
        *((f"{what}{'s' * (number != 1)}", f"{number:,}") for what, number in numbers.items()),
        ("time to train", _duration(seconds)),
        *([("begun", " to ".join(dict.fromkeys(days)))] if days else []),
    ]


def _protocol(
    records: Sequence[RunRecord], comparisons: Sequence[Comparison], origin: Origin
) -> list[tuple[str, list[Markup]]]:
    """How it was measured and decided, a term with its lines each."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    differences = [row.difference for row in rows if row.difference]
    rules = sorted({rule for comparison in comparisons for rule in comparison.rules})
    methods = sorted({difference.method for difference in differences if difference.interval})
    lines: dict[str, list[Markup | str]] = {
        "Runs": [tally(records), "Runs of one setting differ by seed alone. Failed runs are counted, never dropped."],
        "Figure": [f"{_words(comparison.metric)}; less is better" for comparison in comparisons],
        "Selection": [
            _text("Epoch of a run: {}.", _listed([_code(rule) for rule in rules])) if rules else "Not recorded.",
            "Settings are chosen by their validation figure; test figures are read once a run and choose nothing.",
        ],
    }
    if differences:
        fewest, most = min(d.n for d in differences), max(d.n for d in differences)
        over = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        how = "exact" if all(d.exact for d in differences) else "exact up to 20 pairs, Monte Carlo beyond"
        lines["Pairs"] = [
            "Runs of one seed share their initial weights and their order of examples; a difference is a setting less "
            f"its baseline at the same seed, over {over} pairs.",
            *(_text("Baseline: {}.", _code(c.baseline)) for c in comparisons if c.baseline),
        ]
        lines["Decision"] = [
            f"Two-sided sign-flip test of the mean difference ({how}); Holm's correction over all rows of a table "
            f"({_listed([str(c.tests) for c in comparisons], 'and')}); a verdict at {100 * LEVEL:g} %.",
            f"Intervals have 95 %: of a mean by Student's t, of a difference by {_listed(methods)}"
            f"{' (the test inverted)' * ('sign-flip' in methods)}."
            if methods
            else "Intervals have 95 %: of a mean by Student's t; a difference over one pair has no interval.",
            *(
                f"Equal: the test of equivalence shows that the difference is smaller than {c.delta:g}."
                for c in comparisons[:1]
                if c.delta is not None
            ),
        ]
    if notes := list(dict.fromkeys(note for comparison in comparisons for note in comparison.notes)):
        lines["Notes"] = list(notes)
    codes = origin.commands
    lines["Code"] = [
        _text("{} {}{} ({})", "dropbench " + dict(code.versions).get("dropbench", "of unknown version"),
              _code(code.commit[:12]) if code.commit else "not from a checkout",
              ", changed since that commit" if code.dirty else "", count(commands.total(), "run"))
        for code, commands in list(codes.items())[:_SHOWN]
    ]  # fmt: skip
    lines["Hardware"] = [f"{name} ({count(number, 'run')})" for name, number in origin.hardware.most_common(_SHOWN)]
    lines["Data"] = [
        _text("{}: sha256 {} ({})", name, _code(digest[:16]), count(number, "run"))
        for name, digests in origin.data.items()
        for digest, number in digests.most_common(_SHOWN)
    ]
    return [(term, [_text("{}", line) for line in told]) for term, told in lines.items() if told]


def _environment() -> Environment:
    """Names are cleaned and escaped wherever the template shows them."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters["digest"] = _digest
    return environment


def _tables(comparison: Comparison, place: int, several: bool) -> list[Table]:
    """Of one figure: the comparison, and what stands below it; `several` says whether there are other figures."""
    words = _words(comparison.metric)
    against = ", each against its baseline" if any(row.difference for row in comparison.rows) else ""
    verdicts = [row.verdict for row in comparison.rows]
    more = {
        "items": ("Single examples, and the mean prediction over seeds", items_sheet(comparison)),
        "cost": ("What a run costs", cost_sheet(comparison, None)),
    }
    return [
        _table(sheet(comparison), f"compare-{place}", f"Settings by {words}{against}", verdicts),
        *(
            _table(each, f"{name}-{place}", f"{caption}: {words}" if several else caption)
            for name, (caption, each) in more.items()
            if each is not None
        ),
    ]


def _table(of: Sheet, name: str, caption: str, verdicts: Sequence[str] = ()) -> Table:
    """A table in words as one of the page; what is the same in every row is said below it, once."""
    heads = [(column.header.replace("-\n", "").replace("\n", " "), column.number) for column in of.columns]
    same = {
        at: f"{head} {of.rows[0][at]}"
        for at, (head, _) in enumerate(heads)
        if head in CHOICES and len(of.rows) > 1 and len({row[at] for row in of.rows}) == 1
    }
    rows = []
    for place, cells in enumerate(of.rows):
        row = []
        for at, (text, (head, number)) in enumerate(zip(cells, heads, strict=True)):
            if at in same:
                continue
            kind = "also" if head == "also" else ""
            if verdicts and head == "verdict":
                kind = f"verdict {verdicts[place].replace(' ', '-')}"
            row.append(_number(text) if number else Cell(text, kind=kind))
        rows.append(tuple(row))
    kept = tuple(head for at, head in enumerate(heads) if at not in same)
    notes = [*([f"in every row: {', '.join(same.values())}"] if same else []), *of.captions]
    return Table(name, caption, kept, tuple(rows), of.bold, tuple(notes))


def _number(text: str) -> Cell:
    """A cell that is sorted as a number: an interval by its middle, `12 M` as what it means, `-` not at all."""
    if text == "-":
        return Cell(_ABSENT, key="", kind="absent")
    if _PLAIN.fullmatch(text):
        return Cell(text)
    if text.startswith("<"):
        return Cell(f"< {text[1:]}", key="0")
    found = [float(number.replace(",", "")) * _UNITS.get(unit, 1) for number, unit in _NUMBER.findall(text)]
    found = found[:1] if not text.startswith("[") else found
    key = f"{sum(found) / len(found):.10g}" if found else ""
    return Cell(_minus(text), key=key)


def _minus(text: str) -> str:
    """Numbers with the sign that is as wide as a plus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)


def _runs(
    records: Sequence[RunRecord], comparisons: Sequence[Comparison], configs: Mapping[Path, tuple[str, ...]]
) -> Table:
    """Every run, with the settings in which it is not like all others."""
    metrics = [name for comparison in comparisons for name in (partner(comparison.metric), comparison.metric)]
    named = {key: {record.choices.get(key, _ABSENT) for record in records if record.choices} for key in CHOICES}
    same = {key: values.pop() for key, values in named.items() if len(values) == 1}
    shown = [key for key in CHOICES if key not in same]
    studies = set(map(_study, records))
    splits = [(name, *name.partition(".")[::2]) for name in dict.fromkeys(metrics)]
    heads = [("run", False), *([("study", False)] if len(studies) > 1 else []), ("state", False)]
    heads += [(key, False) for key in shown]
    heads += [("rate", True), ("seed", True)]
    heads += [(f"{split.replace('_', ' ')} {title(name)}", True) for _, split, name in splits]
    heads += [("epoch", True), ("seconds", True)]
    rows = []
    for record in records:
        seconds = record.seconds.get("total")
        numbers = [
            "-" if record.rate is None else f"{record.rate:g}",
            "-" if record.seed is None else str(record.seed),
            *(figure(record.figure(full), name) for full, _, name in splits),
            "-" if record.epoch is None else str(record.epoch),
            "-" if seconds is None else f"{seconds:.1f}",
        ]
        rows.append((
            Cell(record.id, key=record.id, kind="run", config=configs.get(record.path, ())),
            *([Cell(_study(record))] if len(studies) > 1 else []),
            Cell(record.state, kind=f"state {record.state}"),
            *(Cell(record.choices.get(key, _ABSENT)) for key in shown),
            *map(_number, numbers),
        ))  # fmt: skip
    notes = [f"in every run: {', '.join(f'{key} {value}' for key, value in same.items())}"] if same else []
    return Table("all-runs", "All runs", tuple(heads), tuple(rows), notes=tuple(notes))


def _configs(records: Sequence[RunRecord]) -> tuple[list[str], dict[Path, tuple[str, ...]]]:
    """The settings that all runs share, and for each run those beside, as `key=value`; the seed has a column."""
    texts = {
        record.path: {key: f"{key}={_setting(value)}" for key, value in list(record.settings.items())[:_SETTINGS]}
        for record in records
        if record.settings
    }
    if not texts:
        return [], {}
    each = list(texts.values())
    first = each[0].items() if len(each) > 1 else []
    common = {key: text for key, text in first if key != "seed" and all(other.get(key) == text for other in each)}
    own = {path: tuple(text for key, text in one.items() if key not in common) for path, one in texts.items()}
    return sorted(common.values()), own


def _setting(value: object) -> str:
    try:
        return cut(setting(value), _VALUE)
    except RecursionError:  # lists in lists in lists
        return "nested too deep to be shown"


def _troubles(records: Sequence[RunRecord]) -> Table | None:
    """Runs that failed or cannot be read, and why."""
    rows = []
    for record in records:
        if record.state == "failed":
            told = plain(record.path / "error.txt", _LARGEST).decode(errors="replace").strip().splitlines()
            rows.append((record, cut(told[-1], _LONGEST) if told else "not recorded"))
        elif record.state == "unreadable":
            rows.append((record, record.reason))
    if not rows:
        return None
    cells = tuple(
        (Cell(record.id, kind="run"), Cell(record.state, kind=f"state {record.state}"),
         _number("-" if record.seed is None else str(record.seed)),
         Cell(why, kind="why"))
        for record, why in rows
    )  # fmt: skip
    heads = (("run", False), ("state", False), ("seed", True), ("the last line of its error", False))
    return Table("troubles", "Runs without a result", heads, cells)


def _drawings(comparisons: Sequence[Comparison], styles: dict[str, str]) -> tuple[list[Drawing], list[str]]:
    """The pictures, and what could not be drawn, with the reason."""
    if not comparisons:
        return [], []
    if find_spec("matplotlib") is None:
        return [], ["Pictures need matplotlib: pip install 'dropbench[plot]'"]
    drawings, lacking = [], []
    for place, comparison in enumerate(comparisons):
        of = f": {_words(comparison.metric)}" if len(comparisons) > 1 else ""
        for name, heading, draw in _pictures(comparison):
            try:
                drawn = plots.svg(draw(), f"{name}{place}", f"{heading}{of}")
                width = _WIDTH.search(drawn)
                narrow = width is not None and float(width[1]) < _NARROW
                drawings.append(Drawing(f"{heading}{of}", _classed(drawn, styles), narrow))
            except UserError as error:
                lacking.append(f"{heading}{of}: {re.sub(r'^plot[^:]*: ', '', str(error))}")
            except (ValueError, ArithmeticError) as error:  # figures of a size that no axis has
                lacking.append(f"{heading}{of}: cannot be drawn: {error}")
    return drawings, lacking


def _pictures(comparison: Comparison) -> list[tuple[str, str, Callable[[], Figure]]]:
    groups = [row.group for row in comparison.rows if row.runs]
    return [
        ("forest", "Differences to the baseline", lambda: plots.differences(comparison)),
        ("rates", "Error against rate", lambda: plots.over_rates(groups, comparison.metric)),
        ("curves", "Learning curves", lambda: plots.curves(groups)),
        ("schedule", "Rates over the training", lambda: plots.schedules(groups)),
        ("generalisation", "Generalisation gap", lambda: plots.generalisation(groups)),
        ("calibration", "Calibration", lambda: plots.calibration(groups)),
    ]


def _classed(svg: str, styles: dict[str, str]) -> Markup:
    """An SVG whose styles are classes of the page, since its policy allows no other; `styles` gets the new ones."""

    def named(style: re.Match[str]) -> str:
        text = re.sub(r"\s*([:;,])\s*", r"\1", style[1]).strip("; ")
        for drawn, here in _PAGE.items():
            text = text.replace(drawn, here)
        if not _DECLARATIONS.fullmatch(text):
            return ""
        return f' class="{styles.setdefault(text, f"s{len(styles)}")}"'

    svg = _TAG.sub(lambda tag: _STYLE.sub(named, tag[0]), svg)
    return Markup(re.sub(r">\s+<", "><", svg))  # noqa: S704 - drawn by us, names in it are escaped


def _digest(text: str) -> Markup:
    """The hash by which a policy allows a style sheet or a script."""
    return Markup(f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}")  # noqa: S704 - letters


def _text(form: str, *parts: str) -> Markup:
    """A sentence with names in it, which are cleaned and escaped."""
    return Markup(form).format(*(part if isinstance(part, Markup) else clean(part) for part in parts))  # noqa: S704


def _strong(text: str) -> Markup:
    return _text("<strong>{}</strong>", text)


def _code(text: str) -> Markup:
    return _text("<code>{}</code>", text)


def _listed(names: Sequence[str], joint: str = "and") -> Markup:
    """`a, b and c`; the last of very many are counted."""
    shown = [_text("{}", name) for name in dict.fromkeys(names)]
    if len(shown) > _LISTED:
        shown = [*shown[: _LISTED - 1], _text("{} more", str(len(shown) - _LISTED + 1))]
        joint = "and"
    last = shown[-1:]
    return Markup(f" {joint} ").join([Markup(", ").join(shown[:-1]), *last] if len(shown) > 1 else last)  # noqa: S704


def _study(record: RunRecord) -> str:
    return record.study or record.path.parent.name


def _words(metric: str) -> str:
    """`test error`."""
    return metric.replace(".", " ").replace("_", " ")


def _amount(value: float | None, name: str) -> str:
    return f"{figure(value, name)} %" if name.endswith("error") else figure(value, name)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
