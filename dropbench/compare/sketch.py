"""A quick picture in the terminal: what `panels` says, in braille dots, or in letters where these cannot be shown."""

from __future__ import annotations

import math
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from dropbench.compare.panels import window
from dropbench.errors import UserError
from dropbench.terminal import clean, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from rich.console import Console

    from dropbench.compare.panels import Line, Panel, Picture

#: A row of text: pieces, each with the number of the line whose colour it has, or None.
Row = list[tuple[str, int | None]]

_WIDEST, _PIPED, _NARROWEST = 160, 100, 24  # columns of text
_HEIGHT = 14  # rows of the field
_COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan", "default")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_BRAILLE, _DOTS = 0x2800, np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])


def show(picture: Picture, out: Console) -> None:
    """Prints every panel that has lines, one below the other, then the notes.

    Args:
        picture: see `panels`.
        out: as wide as the terminal; braille if its encoding has it, and letters for lines where there is no colour.

    Raises:
        UserError: there is nothing to show.
    """
    from rich.text import Text

    if not any(panel.lines for panel in picture.panels):
        raise UserError("; ".join(["plot: there is nothing to show", *picture.notes[1:]]))
    width = _PIPED if out.width > _WIDEST * 10 else min(out.width, _WIDEST)
    coloured = out.color_system is not None
    for panel in picture.panels:
        if not panel.lines:
            continue
        unicode = _can_show("⣿│└─", out.encoding)
        letters = not unicode or (not coloured and len(panel.lines) > 1)
        for row in sketch(panel, width, _HEIGHT, zero=picture.zero, unicode=unicode, letters=letters):
            text = Text()
            for piece, number in row:
                text.append(piece, "" if number is None else _COLOURS[number % len(_COLOURS)])
            text.rstrip()
            out.print(text, soft_wrap=True)
        say("", out)
    for note in picture.notes[1:]:  # the first says how intervals are drawn, and here are none
        say(note, out)


def sketch(
    panel: Panel, width: int, height: int, *, zero: bool = False, unicode: bool = True, letters: bool = False
) -> list[Row]:
    """One panel as rows of text: the name of y, the field with its axes and labels at the ends of lines, the name of x.

    Args:
        panel: with lines.
        width: columns of text; what is below 24 counts as 24.
        height: rows of the field.
        zero: whether the range of y reaches to 0.
        unicode: whether more than ASCII can be shown.
        letters: a letter a line instead of dots.
    """
    width = max(width, _NARROWEST)
    low, high, _ = window([panel], zero)
    first = min(float(line.x[0]) for line in panel.lines)
    last = max(float(line.x[-1]) for line in panel.lines)
    last = last if last > first else first + 1
    names = [
        _cut((f"{_LETTERS[number]} " if letters else "") + _safe(line.label, unicode), width // 3, unicode)
        for number, line in enumerate(panel.lines)
    ]
    ticks = {_at(value, low, high, height): text for value, text in _ticks(low, high, max(2, height // 4))}
    margin = max(map(len, ticks.values()), default=0)
    across = max(8, width - margin - 2 - max(map(len, names)) - 1)
    field, owner = _field(panel.lines, (first, last), (low, high), (height, across), letters)
    ends = _ends([_last(line) for line in panel.lines], low, high, height)
    up, corner, along = ("│", "└", "─") if unicode else ("|", "+", "-")
    rows: list[Row] = [[(_cut(_safe(f"{panel.title}: {panel.y}", unicode), width, unicode), None)]]
    for y in range(height):
        row: Row = [(f"{ticks.get(y, ''):>{margin}} {up}", None)]
        for number, pieces in groupby(zip(owner[y].tolist(), field[y], strict=True), key=itemgetter(0)):
            row.append(("".join(piece for _, piece in pieces), number if number >= 0 else None))
        row += [(f" {names[number]}", number) for number in range(len(names)) if ends[number] == y]
        rows.append(row)
    rows.append([(f"{'':{margin}} {corner}{along * across}", None)])
    rows.append([(" " * (margin + 2) + _below(first, last, across, panel.x), None)])
    return rows


def _field(
    lines: Sequence[Line], xs: tuple[float, float], ys: tuple[float, float], size: tuple[int, int], letters: bool
) -> tuple[list[list[str]], NDArray[np.int64]]:
    """The characters of the field, and which line each belongs to (-1: none); earlier lines lie above later ones."""
    height, across = size
    fine, wide = (1, 1) if letters else (4, 2)
    owner = np.full((height, across), -1)
    bits = np.zeros((height, across), dtype=np.int64)
    for number, line in reversed(list(enumerate(lines))):
        for x, y in _pixels(line, xs, ys, height * fine, across * wide):
            place = y // fine, x // wide
            owner[place] = number
            bits[place] |= int(_DOTS[y % fine, x % wide])
    if letters:
        return [[_LETTERS[number] if number >= 0 else " " for number in row] for row in owner], owner
    return [[chr(_BRAILLE + each) if each else " " for each in row] for row in bits], owner


def _pixels(
    line: Line, xs: tuple[float, float], ys: tuple[float, float], height: int, across: int
) -> Iterator[tuple[int, int]]:
    """The pixels of a line, column by column, joined from one to the next; what lies outside is not drawn."""
    known = np.isfinite(line.y)
    if not known.any():
        return
    x, y = line.x[known], line.y[known]
    columns = xs[0] + (np.arange(across) + 0.5) / across * (xs[1] - xs[0])
    values = np.interp(columns, x, y)
    if not line.level:
        step = (xs[1] - xs[0]) / across
        values[(columns < x[0] - step) | (columns > x[-1] + step)] = np.nan
    before: int | None = None
    for column, value in enumerate(values):
        if not np.isfinite(value):
            before = None
            continue
        row = math.floor((ys[1] - value) / (ys[1] - ys[0]) * height)
        start = row if before is None else before + (row > before) - (row < before)
        for each in range(max(0, min(start, row)), min(height - 1, max(start, row)) + 1):
            yield column, each
        before = row


def _last(line: Line) -> float:
    known = line.y[np.isfinite(line.y)]
    return float(known[-1]) if len(known) else math.nan


def _ends(values: Sequence[float], low: float, high: float, height: int) -> list[int]:
    """The row of each label: that where its line ends, or the nearest that leaves one to each."""
    wanted = [_at(value, low, high, height) if math.isfinite(value) else height - 1 for value in values]
    rows = [0] * len(values)
    free = -1
    order = sorted(range(len(values)), key=lambda number: (wanted[number], -values[number], number))
    for place, number in enumerate(order):
        room = height - (len(order) - place)  # the last row that leaves one for each of those below
        rows[number] = free = min(max(wanted[number], free + 1), max(room, free + 1))
    return rows


def _at(value: float, low: float, high: float, height: int) -> int:
    """The row of a value, 0 at the top."""
    return min(height - 1, max(0, math.floor((high - value) / (high - low) * height)))


def _ticks(low: float, high: float, about: int) -> list[tuple[float, str]]:
    """Round values in a range, and how they are written: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(each * power for each in (1, 2, 5) if each * power <= rough * (1 + 1e-9))
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    form = f".{places}f" if places < 7 and high < 1e7 else ".3g"
    return [(value, format(value, form)) for value in values]


def _below(first: float, last: float, across: int, name: str) -> str:
    """The values of x under the axis, and in the middle its name."""
    left, right = f"{first:.4g}", f"{last:.4g}"
    space = across - len(left) - len(right)
    return f"{left}{name:^{space}}{right}" if space > len(name) + 1 else f"{left} {name} {right}"


def _safe(text: str, unicode: bool) -> str:
    text = clean(text)
    return text if unicode else text.encode("ascii", "backslashreplace").decode("ascii")


def _cut(text: str, width: int, unicode: bool) -> str:
    """The text without its middle where it is too long."""
    if len(text) <= width:
        return text
    mark = "…" if unicode else "..."
    kept = max(width - len(mark), 2)
    return text[: kept - kept // 2] + mark + text[len(text) - kept // 2 :]


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
