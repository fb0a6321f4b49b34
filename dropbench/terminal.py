"""What a terminal, a pipe or a file is shown: text that cannot do harm, tables that fit.

rich is imported only when something is laid out, so that the front door may use this file.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from rich.console import Console

_GAP = 2  # blanks between columns
_TEXT_FLOOR = 10  # a column of text is folded, but not below this width
_UNLIMITED = 100_000


def clean(text: object) -> str:
    r"""The text with everything unprintable spelt out (`\x1b`), in one line: names come from disk.

    For rich, wrap the result in `rich.text.Text`, which reads no markup.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)


def tell(line: str) -> None:
    """Says one line on standard error."""
    line = clean(line)
    print(line if line[:1].isdigit() else f"dropbench: {line}", file=sys.stderr, flush=True)


def setting(value: object) -> str:
    """A config value as one would type it: `0.5`, `[256,256]`, `[input,hidden]`, `null`, `true`, `digits`."""
    try:
        if isinstance(value, list):
            return f"[{','.join(map(setting, value))}]"
        return clean(value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str))
    except RecursionError:  # a file can hold lists in lists without end
        return "..."


def console() -> Console:
    """A console on standard output: as wide as the terminal, unlimited when piped (unless COLUMNS is set)."""
    from rich.console import Console

    class Output(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this while it handles the error; the front door ends the program

    return Output(width=_UNLIMITED if _unlimited() else None, highlight=False, markup=False, emoji=False)


def line_width() -> int:
    """The width of that console, for what is laid out without rich."""
    return _UNLIMITED if _unlimited() else shutil.get_terminal_size().columns


def _unlimited() -> bool:
    piped = not (sys.stdout and sys.stdout.isatty())
    return piped and not os.environ.get("COLUMNS", "").isdecimal()


def say(line: str, out: Console, style: str = "") -> None:
    """Prints one line as it is, cleaned: no markup, no emoji, not wrapped."""
    from rich.text import Text

    out.print(Text(clean(line), style), soft_wrap=True)


def prose(line: str, out: Console, style: str = "") -> None:
    """Prints a line, cleaned, and broken between words where it is wider than the console; no word is cut."""
    for part in textwrap.wrap(
        clean(line), max(out.width, 20), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    ):
        say(part, out, style)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        header: shown above; may have two lines.
        number: aligned to the right and never folded.
        drop: 0 stays at every width; of the others the lowest goes first.
        fold: a width to which its text is folded before other columns go; 0: they go first.
    """

    header: str
    number: bool = False
    drop: int = 0
    fold: int = 0

    @property
    def name(self) -> str:
        """The header in one line."""
        return self.header.replace("\n", " ")


def show_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], out: Console, bold: Container[int] = ()
) -> list[Column]:
    """Prints a table that cuts nothing: drops columns that may go, folds text; returns the dropped columns.

    What then is still too wide is printed wider than the console. Rows at the places `bold` are bold.
    """
    from rich.cells import cell_len

    cells = [[clean(cell) for cell in row] for row in rows]
    heads = [max(cell_len(line) for line in column.header.split("\n")) for column in columns]
    widths = [max(head, *(cell_len(row[i]) for row in cells), 1) for i, head in enumerate(heads)]
    shown = list(range(len(columns)))

    def excess(of: Sequence[int]) -> int:
        return sum(of[i] + _GAP for i in shown) - _GAP - out.width

    dropped = []
    least = [max(heads[i], min(widths[i], columns[i].fold or widths[i])) for i in shown]
    for i in sorted((i for i in shown if columns[i].drop), key=lambda i: columns[i].drop):
        if excess(least) <= 0:
            break
        shown.remove(i)
        dropped.append(columns[i])
    folded = excess(widths) > 0
    while excess(widths) > 0:  # fold the widest column of text
        foldable = [i for i in shown if not columns[i].number and widths[i] > max(heads[i], _TEXT_FLOOR)]
        if not foldable:
            break
        widths[max(foldable, key=lambda i: widths[i])] -= 1

    if not folded and not out.is_terminal:
        _plain_table([columns[i] for i in shown], [[row[i] for i in shown] for row in cells], out)
    else:
        _rich_table(
            [columns[i] for i in shown],
            [widths[i] for i in shown],
            [[row[i] for i in shown] for row in cells],
            out,
            bold,
        )
    return dropped


def _plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], out: Console) -> None:
    """Prints a table for a pipe or a file, ten times as fast as rich lays one out."""
    from rich.cells import cell_len
    from rich.text import Text

    heads = [[clean(part) for part in column.header.split("\n")] for column in columns]
    height = max(map(len, heads))
    heads = [[""] * (height - len(head)) + head for head in heads]
    lines = [*zip(*heads, strict=True), *rows]
    lengths = [[cell_len(cell) for cell in line] for line in lines]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    text = []
    for line, taken in zip(lines, lengths, strict=True):
        padded = [
            " " * (width - length) + cell if column.number else cell + " " * (width - length)
            for column, cell, width, length in zip(columns, line, widths, taken, strict=True)
        ]
        text.append((" " * _GAP).join(padded).rstrip())
    out.print(Text("\n".join(text)), soft_wrap=True)


def _rich_table(
    columns: Sequence[Column], widths: Sequence[int], rows: Sequence[Sequence[str]], out: Console, bold: Container[int]
) -> None:
    """Prints a table on a terminal, or one in which text is folded."""
    from rich.box import SIMPLE_HEAD
    from rich.segment import Segments
    from rich.table import Table
    from rich.text import Text

    # A divider of the box is one of the two blanks between columns.
    box, blanks = (SIMPLE_HEAD, _GAP - 1) if out.is_terminal else (None, _GAP)
    table = Table(box=box, show_edge=False, pad_edge=False, padding=(0, blanks, 0, 0), header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        table.add_column(
            Text(column.header),
            justify="right" if column.number else "left",
            vertical="top",
            width=width,
            no_wrap=column.number,
            overflow="fold",
        )
    for place, row in enumerate(rows):
        table.add_row(*map(Text, row), style="bold" if place in bold else None)
    total = sum(width + _GAP for width in widths)
    segments = list(out.render(table, out.options.update_width(max(total, 1))))
    if out.is_terminal:
        out.print(Segments(segments), soft_wrap=True, end="")
    else:
        for line in "".join(segment.text for segment in segments).splitlines():
            say(line.rstrip(), out)
