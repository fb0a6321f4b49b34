"""Curves in the terminal: exact text, and whatever the width, the encoding and the names."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dropbench.compare.panels import Line, Panel, Picture
from dropbench.compare.sketch import show, sketch
from dropbench.errors import UserError


def line(label: str, y: list[float], x: list[float] | None = None, **more: Any) -> Line:
    nothing = np.full(len(y), np.nan)
    return Line(
        label, np.array(x or range(1, len(y) + 1), dtype=float), np.array(y, dtype=float), nothing, nothing, **more
    )


def text(panel: Panel, width: int, height: int, **options: Any) -> str:
    rows = sketch(panel, width, height, **options)
    return "\n".join("".join(piece for piece, _ in row).rstrip() for row in rows)


RISING = Panel("digits, mlp", "rate", "validation error (%)", (line("up", [0.0, 4.0]), line("flat", [2.0, 2.0])))

DOTS = """\
digits, mlp: validation error (%)
4 │                       ⢀⣀⠤⠔⠒ up
  │                 ⢀⣀⠤⠔⠒⠉⠁
2 │⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤⣤⠤⠴⠶⠭⠥⠤⠤⠤⠤⠤⠤⠤⠤⠤⠤ flat
  │      ⣀⡠⠤⠒⠊⠉
0 │⣀⡠⠤⠒⠊⠉
  └────────────────────────────
   1           rate           2"""

LETTERS = """\
digits, mlp: validation error (%)
4 |                      aaaa a up
  |                aaaaaa
2 |bbbbbbbbbbbaaaaabbbbbbbbbb b flat
  |     aaaaaa
0 |aaaaa
  +--------------------------
   1          rate          2"""


def test_dots() -> None:
    assert text(RISING, 36, 5) == DOTS


def test_letters_in_ascii() -> None:
    assert text(RISING, 36, 5, unicode=False, letters=True) == LETTERS


def test_the_pieces_say_whose_colour_they_have() -> None:
    rows = sketch(RISING, 36, 5)
    assert {number for row in rows for _, number in row} == {None, 0, 1}
    assert (" up", 0) in rows[1]
    assert (" flat", 1) in rows[3]


def test_a_jump_is_joined() -> None:
    panel = Panel("t", "epoch", "y", (line("a", [0, 0, 10, 10], x=[0, 5, 5.001, 10]),))
    columns = list(zip(*(row.ljust(40) for row in text(panel, 30, 8, letters=True).splitlines()[1:9]), strict=True))
    assert any(column.count("a") >= 7 for column in columns)


def test_a_hole_is_crossed_and_an_end_is_not_continued() -> None:
    panel = Panel("t", "epoch", "y", (line("a", [1, math.nan, 1], x=[1, 2, 3]), line("b", [2.0, 2.0], x=[1, 5])))
    rows = [row.split("│")[1] for row in text(panel, 40, 4, letters=True).splitlines() if "aa" in row or "bb" in row]
    across = rows[0].count("b") - 1  # without the label
    assert rows[1].startswith("a" * (across // 2))
    assert rows[1].count("a") - 1 <= across // 2 + 2


def test_a_level_goes_all_the_way() -> None:
    panel = Panel("t", "rate", "y", (line("a", [1.0], x=[0.0], level=True), line("b", [2.0, 3.0], x=[0.2, 0.8])))
    row = next(row for row in text(panel, 40, 6, letters=True).splitlines() if "aaa" in row)
    assert row.split("│")[1].startswith("aaaaaaaaaaaaaaaaaaaa")


@pytest.mark.parametrize("width", [1, 24, 40, 80, 160])
@pytest.mark.parametrize("unicode", [True, False])
def test_it_fits_at_every_width(width: int, unicode: bool) -> None:
    lines = tuple(line(f"a very long name of a setting {number}", [number, 1e-9, 1e12]) for number in range(7))
    found = text(Panel("a long title " * 9, "epoch", "y", lines), width, 6, unicode=unicode, letters=True)
    assert max(map(len, found.splitlines())) <= max(width, 40)
    assert found.isascii() or unicode
    assert len(found.splitlines()) == 9


def test_every_line_has_its_label_once() -> None:
    lines = tuple(line(f"name{number}", [5.0, 1.0]) for number in range(7))
    found = text(Panel("t", "epoch", "y", lines), 60, 14)
    for number in range(7):
        assert found.count(f"name{number}") == 1


@pytest.mark.parametrize(
    "ys", [[[3.0]], [[0.0]], [[math.nan]], [[-1e99, 1e99]], [[1e-99, 2e-99]], [[1.0, 1.0 + 1e-15]]]
)
def test_every_range_can_be_drawn(ys: list[list[float]]) -> None:
    panel = Panel("t", "epoch", "y", tuple(line(str(number), y) for number, y in enumerate(ys)))
    assert len(text(panel, 60, 6).splitlines()) == 9


def shown(picture: Picture, encoding: str = "utf-8", **options: Any) -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, highlight=False, markup=False, **({"width": 60} | options))
    show(picture, console)
    file.flush()
    return file.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


PICTURE = Picture((RISING, Panel("empty", "epoch", "y", ())), notes=("how intervals are drawn", "2 runs left out"))


def test_colour_where_there_is_colour_and_letters_where_there_is_none() -> None:
    coloured = shown(PICTURE, force_terminal=True, color_system="standard")
    assert "\x1b[34m" in coloured
    assert "⠤" in coloured
    plain = shown(PICTURE, color_system=None)
    assert "a up" in plain
    assert "│" in plain
    assert "\x1b" not in plain
    assert "⠤" not in plain


def test_the_encoding_of_the_terminal_is_kept_to() -> None:
    found = shown(PICTURE, encoding="ascii", force_terminal=True, color_system="standard")
    assert "a up" in found
    assert found.isascii()


def test_notes_stand_below_and_empty_panels_are_left_out() -> None:
    found = shown(PICTURE, color_system=None)
    assert found.splitlines()[-1] == "2 runs left out"
    assert "intervals" not in found
    assert "empty" not in found


def test_names_cannot_do_harm() -> None:
    panel = Panel("[red]t\x1b[31m\n", "epoch", "y", (line("[b]\x07é", [1.0, 2.0]),))
    found = shown(Picture((panel,)), color_system=None)
    assert "[red]t\\x1b[31m\\n" in found
    assert "[b]\\x07é" in found
    assert shown(Picture((panel,)), encoding="ascii", color_system=None).isascii()


def test_nothing_to_show_says_why() -> None:
    picture = Picture((Panel("empty", "epoch", "y", ()),), notes=("how", "3 runs without such a record, left out"))
    with pytest.raises(UserError, match="there is nothing to show; 3 runs without"):
        shown(picture)
