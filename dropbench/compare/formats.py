"""A comparison for other programs and for papers: JSON, CSV, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from dropbench.compare.cost import cost
from dropbench.compare.groups import CHOICES, selector, tally
from dropbench.compare.rows import LEVEL
from dropbench.compare.table import sheet
from dropbench.runs.files import finite
from dropbench.terminal import clean, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dropbench.compare.rows import Comparison, Row
    from dropbench.compare.table import Format, Sheet
    from dropbench.runs.records import RunRecord

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''",
}  # fmt: skip
#: What Markdown would read as markup; an underscore inside a word is none.
_MARKDOWN = re.compile(r"[\\`*<>|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])[(\[]")


def as_json(comparisons: Sequence[Comparison], records: Sequence[RunRecord], target: float | None = None) -> str:
    """One object: what was compared and how, and a flat row a group, ready for `pandas.DataFrame(data["rows"])`.

    Args:
        comparisons: of one or more figures.
        records: of any state, to count them.
        target: see `cost`.
    """
    states = Counter(record.state for record in records)
    data = {
        "baseline": _joined(comparison.baseline for comparison in comparisons),
        "metric": _joined(comparison.metric for comparison in comparisons),
        "selection": _joined(rule for comparison in comparisons for rule in comparison.rules),
        "level": LEVEL,
        "delta": comparisons[0].delta if comparisons else None,
        "rows": [row_data(row, comparison, target) for comparison in comparisons for row in comparison.rows],
        "runs": len(records),
        **{state: states[state] for state in ("done", "failed", "pruned", "running", "interrupted", "unreadable")},
        "notes": list(dict.fromkeys(note for comparison in comparisons for note in comparison.notes)),
    }
    return json.dumps(finite(data), indent=2, ensure_ascii=False, allow_nan=False)


def row_data(row: Row, comparison: Comparison, target: float | None = None) -> dict[str, Any]:
    """A row as plain data; what there is no value for is None."""
    group, difference = row.group, row.difference
    spent = cost(group, target)
    return {
        **dict(zip(CHOICES, group.names, strict=True)),
        "rate": group.rate,
        "also": group.also,
        "metric": comparison.metric,
        "n": len(group.runs),
        "failed": len(group.failed),
        "mean": group.mean,
        "sd": group.deviation,
        "ci95": _pair(row.ci95),
        "validation": None
        if group.mean is None
        else group.mean
        if group.metric == selector(group.metric)
        else group.selecting,
        "baseline": None if row.baseline.group is None else row.baseline.group.label,
        "pairs": len(row.seeds),
        "delta": row.delta,
        "delta_ci95": _pair(row.delta_ci95),
        "delta_ci95_method": None if difference is None or difference.interval is None else difference.method,
        "p": None if difference is None else difference.p,
        "p_exact": None if difference is None else difference.exact,
        "p_holm": row.p_holm,
        "p_equal_holm": row.p_equal,
        "improvement": row.improvement,
        "improvement_ci95": _pair(row.improvement_ci95),
        "verdict": row.verdict,
        "more_seeds": row.more,
        "seconds": spent.seconds,
        "samples": spent.samples,
        "forward_passes": spent.forward_passes,
        "peak_memory_bytes": spent.peak_memory_bytes,
        **(
            {}
            if target is None
            else {
                "reached_target": spent.reached,
                "epochs_to_target": spent.epochs_to_target,
                "seconds_to_target": spent.seconds_to_target,
            }
        ),
        "seeds": [run.seed for run in group.runs],
        "values": list(group.values),
    }


def as_csv(comparisons: Sequence[Comparison], target: float | None = None) -> str:
    """One line a row, with the keys of the JSON; intervals in two columns, lists left out."""
    rows = []
    for comparison in comparisons:
        for row in comparison.rows:
            data = finite(row_data(row, comparison, target))
            flat: dict[str, Any] = {}
            for key, value in data.items():
                if key in ("seeds", "values"):
                    continue
                if key.endswith("ci95"):
                    flat[f"{key}_low"], flat[f"{key}_high"] = value or (None, None)
                else:
                    flat[key] = clean(value) if isinstance(value, str) else value
            rows.append(flat)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for flat in rows:
        writer.writerow({key: unarmed(value) for key, value in flat.items()})
    return file.getvalue().rstrip("\n")


def as_markdown(sheets: Sequence[Sheet], records: Sequence[RunRecord]) -> str:
    """Tables of GitHub's Markdown, the captions as lists below."""
    parts = []
    for of in sheets:
        head = "| " + " | ".join(_md(column.header) for column in of.columns) + " |"
        rule = "|" + "|".join(" ---: " if column.number else " --- " for column in of.columns) + "|"
        rows = [
            "| " + " | ".join(f"**{_md(cell)}**" if place in of.bold else _md(cell) for cell in row) + " |"
            for place, row in enumerate(of.rows)
        ]
        parts.append("\n".join([head, rule, *rows, "", *(f"- {_md(line)}" for line in of.captions)]))
    return "\n\n".join([*parts, f"- {tally(records)}"])


def as_latex(sheets: Sequence[Sheet], records: Sequence[RunRecord]) -> str:
    """Tables for the package booktabs, the captions as text below."""
    parts = []
    for of in sheets:
        kinds = "".join("r" if column.number else "l" for column in of.columns)
        lines = ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{{kinds}}}", "\\toprule"]
        lines += [" & ".join(_tex(column.header) for column in of.columns) + r" \\", "\\midrule"]
        for place, row in enumerate(of.rows):
            cells = [f"\\textbf{{{_tex(cell)}}}" if place in of.bold else _tex(cell) for cell in row]
            line = " & ".join(cells)
            guard = "{}" if line[:1] in ("[", "*") else ""  # which \\ and \midrule would take for an option
            lines.append(guard + line + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}", ""]
        lines += [f"{_tex(line)}.\\\\" for line in of.captions]
        parts.append("\n".join(lines))
    return "\n\n".join([*parts, f"{_tex(tally(records))}."])


def render(
    form: Format,
    comparisons: Sequence[Comparison],
    records: Sequence[RunRecord],
    more: Callable[[Comparison], Sequence[Sheet]] = lambda _: (),
    target: float | None = None,
) -> str:
    """The text of comparisons in a form other than a table for the terminal.

    Args:
        form: which.
        comparisons: one a figure.
        records: of any state, to count them.
        more: tables that stand below that of a comparison, in Markdown and LaTeX.
        target: see `cost`.
    """
    if form == "json":
        return as_json(comparisons, records, target)
    if form == "csv":
        return as_csv(comparisons, target)
    sheets = [each for comparison in comparisons for each in (sheet(comparison), *more(comparison))]
    return (as_markdown if form == "md" else as_latex)(sheets, records)


def _joined(words: Any) -> str | None:
    return ", ".join(dict.fromkeys(setting(word) for word in words if word)) or None


def _pair(bounds: tuple[float, float] | None) -> list[float] | None:
    return None if bounds is None else [float(bound) for bound in bounds]


def unarmed(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula, with a quote before it."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _md(text: str) -> str:
    line = clean(text.replace("-\n", "").replace("\n", " "))
    return _MARKDOWN.sub(r"\\\g<0>", line)


def _tex(text: str) -> str:
    line = "".join(_LATEX.get(letter, letter) for letter in clean(text.replace("-\n", "").replace("\n", " ")))
    return line.replace("--", "-{}-")  # which TeX would make a dash
