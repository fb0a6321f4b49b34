"""Pictures on paper and on the web: what `panels` says, drawn by matplotlib.

Colours are those of Okabe and Ito (2008), which all eyes tell apart; in grey, markers and dashes do. The same records
give the same bytes.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from dropbench.compare import panels
from dropbench.errors import UserError
from dropbench.runs.files import check_suffix, write
from dropbench.terminal import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from dropbench.compare.groups import Group
    from dropbench.compare.panels import Line, Panel, Picture
    from dropbench.compare.rows import Comparison, Row

    Array = NDArray[np.float64]

#: What a picture is saved as.
SUFFIXES = (".png", ".svg")
#: Rows that a forest plot shows.
ROWS = 40
_INK, _SOFT, _FAINT, _SHADE = "#1f1f1f", "#666666", "#dedede", "#ececec"
_BLUE, _RED = "#0072b2", "#d55e00"
_COLOURS = (_BLUE, _RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", _INK)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ((0, ()), (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1.2)), (0, (8, 2)), (0, (1, 2.5)))
#: On a page colours of the text take their place: the colour, and how much of it.
_ON_PAGE = {_INK: 1.0, _SOFT: 0.7, _FAINT: 0.18, _SHADE: 0.1}
_SIZE, _SMALL, _FINE = 7.5, 7.0, 6.0  # points
_LONGEST = 52  # characters of a name
_WIDE, _NARROW = 7.0, 3.6  # inches: two columns of a paper, and one
_LEFT, _RIGHT, _BETWEEN = 0.62, 0.12, 0.62  # inches
_HEAD, _APART, _ENTRY, _NOTE = 0.3, 0.72, 0.16, 0.13  # inches: above panels, between rows, of a legend, of the notes
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": _SIZE,
    "text.parse_math": False,  # a name may hold $
    "text.color": _INK,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _INK,
    "axes.labelsize": _SIZE,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.6,
    "svg.hashsalt": "dropbench",
    "path.simplify": True,
}


def curves(groups: Sequence[Group], metric: str | None = None) -> Figure:
    """Learning curves with intervals; see `panels.learning`."""
    return draw(panels.learning(groups, metric))


def generalisation(groups: Sequence[Group]) -> Figure:
    """The generalisation gap over time; see `panels.generalisation`."""
    return draw(panels.generalisation(groups))


def over_rates(groups: Sequence[Group], metric: str | None = None) -> Figure:
    """Error against rate; see `panels.over_rates`."""
    return draw(panels.over_rates(groups, metric))


def schedules(groups: Sequence[Group]) -> Figure:
    """Rates over the training; see `panels.schedules`."""
    return draw(panels.schedules(groups))


def calibration(groups: Sequence[Group]) -> Figure:
    """Reliability diagrams, and below each how the predictions spread; see `panels.calibrations`.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to show.
    """
    picture = panels.calibrations(groups)
    with _style():
        looks = _looks(picture)
        frame = _Frame(picture, looks, height=2.6, below=0.7)
        for place, panel in enumerate(picture.panels):
            axes, spread = frame.axes(place), frame.lower(place)
            axes.plot([0, 1], [0, 1], color=_SOFT, linewidth=0.7, linestyle=(0, (2, 2)))
            for line in panel.lines:
                look = looks[line.label]
                axes.plot(line.x, line.y, **look.line(), marker=look.marker)
                assert line.weights is not None
                spread.plot(line.x, 100 * line.weights, **look.line(), marker=look.marker)
            axes.set(xlim=(0, 1), ylim=(0, 1.02), ylabel=panel.y)
            _title(axes, panel.title)
            axes.tick_params(labelbottom=False)
            spread.set(xlim=(0, 1), ylim=(0, 105), xlabel=panel.x, ylabel="% of all", yticks=[0, 50, 100])
        return frame.figure


def differences(table: Comparison) -> Figure:
    """Forest plot: the difference of every row to its baseline, with its interval and the verdict.

    Args:
        table: see `rows.compare`.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to show.
    """
    require()
    from matplotlib.figure import Figure

    shown = [row for row in table.rows if row.delta is not None or row.verdict == "baseline"][:ROWS]
    if not any(row.delta is not None for row in shown):
        raise UserError("plot differences: no row has a difference to a baseline; --baseline KEY=VALUE names one")
    tasks = list(dict.fromkeys(row.group.task for row in shown))
    several = len(tasks) > 1
    entries: list[tuple[str, Row | None]] = []
    for task in tasks:
        entries += [(f"{task[0]}, {task[1]}", None)] if several else []
        entries += [(row.label, row) for row in shown if row.group.task == task]
    notes = [f"point: mean over pairs of runs with the same seed; bar: 95 % interval; baseline: {table.baseline}"]
    notes += [f"shaded: equal within {table.delta:g}"] if table.delta is not None else []
    notes += [f"the first {ROWS} of {len(table.rows)} rows are shown"] if len(table.rows) > ROWS else []
    with _style():
        said = {id(row): _text(row.told(table.delta)) for row in shown}
        labels = [_text(label) for label, _ in entries]
        left = max(_inches(label, _SIZE) for label in labels) + 0.25
        right = max(_inches(text, _SMALL) for text in said.values()) + 0.2
        width = max(_WIDE, left + right + 2.6)
        notes = _wrapped(notes, width)
        title = 0.12 if several else 0.3
        height = title + 0.19 * len(entries) + 0.5 + _NOTE * len(notes)
        figure = Figure(figsize=(width, height))
        bottom = 0.5 + _NOTE * len(notes)
        axes = figure.add_axes(
            (left / width, bottom / height, 1 - (left + right) / width, (height - bottom - title) / height)
        )
        axes.axvline(0, color=_SOFT, linewidth=0.8)
        if table.delta is not None:
            axes.axvspan(-table.delta, table.delta, color=_SHADE, linewidth=0, zorder=0)
        for place, (label, row) in enumerate(entries):
            y = -place
            axes.text(-0.1 / (width - left - right), y, _text(label), transform=axes.get_yaxis_transform(), ha="right",
                      va="center", fontweight="bold" if row is None else "normal")  # fmt: skip
            if row is not None:
                _difference(axes, row, y)
                axes.text(1 + 0.1 / (width - left - right), y, said[id(row)], transform=axes.get_yaxis_transform(),
                          va="center", fontsize=_SMALL, color=_INK if _clear(row) else _SOFT)  # fmt: skip
        if not several:
            _title(axes, f"{tasks[0][0]}, {tasks[0][1]}")
        axes.set(ylim=(0.6 - len(entries), 0.6), yticks=[])
        unit = " in points" if table.metric.endswith("error") else ""
        axes.set_xlabel(f"difference{unit}: {panels.axis(table.metric).removesuffix(' (%)')} less that of the baseline")
        axes.spines["left"].set_visible(False)
        axes.grid(visible=True, axis="x")
        _tell(figure, notes)
        return figure


def draw(picture: Picture) -> Figure:
    """The figure of a picture.

    Raises:
        UserError: matplotlib is not installed, or there is nothing to show.
    """
    with _style():
        from matplotlib.ticker import MaxNLocator

        looks = _looks(picture)
        frame = _Frame(picture, looks, height=2.1 if picture.columns < 3 else 1.45)
        for place, panel in enumerate(picture.panels):
            axes = frame.axes(place)
            _title(axes, panel.title)
            axes.set(xlabel=panel.x)
            if place % picture.columns == 0 or panel.y != picture.panels[place - 1].y:
                axes.set_ylabel(panel.y)
            axes.grid(visible=True, axis="y")
            if picture.zero:
                axes.axhline(0, color=_SOFT, linewidth=0.7)
            for number, line in enumerate(panel.lines):
                (_points if picture.bars else _line)(axes, line, looks[line.label], number, len(panel.lines))
            axes.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
            axes.set_ylim(*panels.window(frame.beside(place), picture.zero)[:2])
            _horizontal(axes, panel)
        return frame.figure


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG (300 dots an inch) or SVG, by the suffix; the folder is made.

    Raises:
        UserError: the suffix is another one, or the disk refuses.
    """
    check_suffix(path, SUFFIXES)
    content = io.BytesIO()
    kind = path.suffix[1:].lower()
    with _style():
        figure.savefig(content, format=kind, dpi=300, facecolor="white", metadata=_silent(kind))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={path}: {error.strerror}: {error.filename}") from error
    write(path, content.getvalue())


def require() -> None:
    """Refuses to go on without matplotlib.

    Raises:
        UserError: it is not installed.
    """
    try:
        import matplotlib  # noqa: F401 - whether it can be
    except ImportError as error:
        raise UserError("dropbench plot needs matplotlib: pip install 'dropbench[plot]'") from error


def svg(figure: Figure, prefix: str, title: str = "") -> str:
    """A figure as SVG to stand in a page: text is text, axes and text have the colour of the text around it.

    Args:
        figure: one of the above.
        prefix: before every id, so that several can stand in one page.
        title: what it is, for those who cannot see it.

    Returns:
        An `<svg>` element as wide as it was drawn, and no wider than its place.
    """
    content = io.StringIO()
    with _style():
        import matplotlib as mpl

        mpl.rcParams["svg.fonttype"] = str(None).lower()  # neither paths nor fonts, but text
        figure.savefig(content, format="svg", transparent=True, metadata=_silent("svg"))
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)  # would act on the page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<[^<>]+>", lambda tag: _on_page(tag[0], prefix), text)  # names hold no < or >, these are escaped
    head, rest = text.split(">", 1)
    head = head.replace(' version="1.1"', "")
    style = "max-width:100%;height:auto;stroke-linejoin:round;stroke-linecap:butt"
    told = f"<title>{_escaped(clean(title))}</title>" if title else ""
    return f'{head} role="img" style="{style}">{told}{rest}'.strip()


def _on_page(tag: str, prefix: str) -> str:
    """A tag with the ids of its picture, and with the colours of the page."""
    tag = re.sub(r'( id="|href="#|url\(#)', lambda mark: f"{mark[0]}{prefix}-", tag)
    for colour, part in _ON_PAGE.items():
        for what in ("fill", "stroke"):
            faded = f"; {what}-opacity: {part:g}" if part < 1 else ""
            tag = re.sub(rf"\b{what}: {colour}\b", f"{what}: currentColor{faded}", tag)
    return tag


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _silent(kind: str) -> dict[str, None]:
    """Metadata that would differ from day to day, or from one version of matplotlib to the next."""
    return {"Software": None} if kind == "png" else {"Date": None, "Creator": None}


class _Look:
    """Colour, marker and dashes of a line."""

    def __init__(self, number: int) -> None:
        self.colour = _COLOURS[number % len(_COLOURS)]
        self.marker = _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)]
        self.dashes = _DASHES[(number + 2 * (number // len(_COLOURS))) % len(_DASHES)]

    def line(self) -> dict[str, Any]:
        """As arguments of `Axes.plot`."""
        return {"color": self.colour, "linestyle": self.dashes, "markeredgewidth": 0}


def _looks(picture: Picture) -> dict[str, _Look]:
    """One look a label, the same in every panel."""
    labels = dict.fromkeys(line.label for panel in picture.panels for line in panel.lines)
    return {label: _Look(number) for number, label in enumerate(labels)}


class _Frame:
    """A figure with places for panels, the legend and the notes below them; measures are in inches."""

    def __init__(self, picture: Picture, looks: Mapping[str, _Look], height: float, below: float = 0.0) -> None:
        from matplotlib.figure import Figure

        if not any(panel.lines for panel in picture.panels):
            told = f": {'; '.join(picture.notes[1:])}" if picture.notes[1:] else ""
            raise UserError(f"plot: there is nothing to show{told}")
        self.columns = picture.columns
        self.rows = -(-len(picture.panels) // self.columns)
        self.width = _NARROW if self.columns == 1 else _WIDE
        between = _BETWEEN if self.columns < 3 else 0.52
        self.across = (self.width - _LEFT - _RIGHT - between * (self.columns - 1)) / self.columns
        self.stride = self.across + between, height + below + _APART
        legend = _legend(looks, self.width - _LEFT - _RIGHT)
        self.picture = picture
        cut = not below and any(
            panels.window(self.beside(place), picture.zero)[2] for place in range(0, len(picture.panels), self.columns)
        )
        notes = _wrapped(
            [*picture.notes, *(["what is steep at the beginning lies beyond the axes"] if cut else [])], self.width
        )
        entries, foot = 1 + legend[-1][0], 0.1 + _NOTE * len(notes)
        self.height = _HEAD + self.stride[1] * self.rows - _APART + 0.46 + _ENTRY * entries + foot
        self.panel, self.below = height, below
        self.figure = Figure(figsize=(self.width, self.height))
        _tell(self.figure, notes)
        for row, at, label in legend:
            self._entry(_LEFT + at, foot + _ENTRY * (entries - row - 0.5), looks[label], label)

    def beside(self, place: int) -> Sequence[Panel]:
        """The panels that have one range of y with a panel: those of its row, or all where each is a setting."""
        if self.columns == 3:
            return self.picture.panels
        row = place // self.columns
        return self.picture.panels[row * self.columns : (row + 1) * self.columns]

    def _entry(self, x: float, y: float, look: _Look, label: str) -> None:
        from matplotlib.lines import Line2D

        width, height = self.width, self.height
        handle = Line2D([x / width, (x + 0.26) / width], [y / height] * 2, color=look.colour, linestyle=look.dashes,
                        transform=self.figure.transFigure)  # fmt: skip
        dot = Line2D([(x + 0.13) / width], [y / height], color=look.colour, marker=look.marker, markeredgewidth=0,
                     linewidth=0, transform=self.figure.transFigure)  # fmt: skip
        self.figure.add_artist(handle)
        self.figure.add_artist(dot)
        self.figure.text((x + 0.32) / width, y / height, _text(label), va="center_baseline", fontsize=_SMALL)

    def axes(self, place: int) -> Axes:
        """The axes of a panel."""
        return self._axes(place, self.below, self.panel)

    def lower(self, place: int) -> Axes:
        """Axes below those of a panel."""
        return self._axes(place, 0, self.below - 0.12)

    def _axes(self, place: int, up: float, height: float) -> Axes:
        row, column = divmod(place, self.columns)
        bottom = self.height - _HEAD - row * self.stride[1] - self.panel - self.below + up
        left = _LEFT + column * self.stride[0]
        box = left / self.width, bottom / self.height, self.across / self.width, height / self.height
        return self.figure.add_axes(box)


def _legend(looks: Mapping[str, _Look], width: float) -> list[tuple[int, float, str]]:
    """Where the entries of a legend stand, in columns: row, inches from the left, label."""
    cell = max(0.54 + _inches(_text(label), _SMALL) for label in looks)
    columns = max(1, int((width + 0.22) / cell))
    return [(place // columns, cell * (place % columns), label) for place, label in enumerate(looks)]


def _title(axes: Axes, text: str) -> None:
    """Writes the title above the axes, no wider than they are."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    room = axes.get_position().width * figure.get_figwidth()
    # Bold is the wider by an eighth.
    longest = next((each for each in range(_LONGEST, 8, -2) if 1.13 * _inches(_text(text, each), _SIZE) <= room), 8)
    axes.set_title(
        _text(text, longest), loc="left", fontsize=_SIZE, fontweight="bold"
    )  # bold is the wider by an eighth


def _tell(figure: Figure, notes: Sequence[str]) -> None:
    """Writes what must be said at the foot."""
    height = figure.get_figheight()
    for number, note in enumerate(reversed(notes)):
        figure.text(0.1 / figure.get_figwidth(), (0.06 + _NOTE * number) / height, note, fontsize=_FINE, color=_SOFT)


def _wrapped(notes: Sequence[str], width: float) -> list[str]:
    """The notes in lines that fit."""
    lines: list[str] = []
    for note in notes:
        line = ""
        for word in _text(note, 1000).split():
            longer = f"{line} {word}".lstrip()
            if line and _inches(longer, _FINE) > width - 0.2:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _line(axes: Axes, line: Line, look: _Look, number: int, of: int) -> None:
    """A mean with its band; markers only here and there, not where those of others are."""
    if (line.high > line.low).any():
        axes.fill_between(line.x, line.low, line.high, color=(look.colour, 0.13), linewidth=0)
    if line.marks is not None:
        axes.plot(line.x, line.y, color=look.colour, linestyle=look.dashes)
        every = max(1, len(line.x) // 14)
        axes.plot(line.x[::every], line.marks[::every], color=look.colour, marker=look.marker, linestyle="",
                  markeredgewidth=0, markersize=3)  # fmt: skip
        return
    every = max(1, len(line.x) // 7)
    axes.plot(line.x, line.y, **look.line(), marker=look.marker, markevery=(number * every // of, every))


def _points(axes: Axes, line: Line, look: _Look, number: int, of: int) -> None:
    """Means with bars, side by side where several stand at one x."""
    aside = (number - (of - 1) / 2) * 1.6
    from matplotlib.transforms import ScaledTranslation

    figure = axes.get_figure()
    assert figure is not None
    shifted = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
    if line.level:
        axes.axhline(float(line.y[0]), color=look.colour, linestyle=look.dashes, linewidth=0.8)
    bars = axes.errorbar(line.x, line.y, yerr=[line.y - line.low, line.high - line.y], **look.line(),
                         marker=look.marker, elinewidth=0.9, capsize=0, transform=shifted)  # fmt: skip
    bars[2][0].set_linestyle("-")


def _difference(axes: Axes, row: Row, y: float) -> None:
    """One row of a forest plot."""
    if row.delta is None:
        axes.plot([0], [y], marker="D", color=_SOFT, markersize=3.5, linestyle="")
        return
    colour = {"better": _BLUE, "worse": _RED}.get(row.verdict, _SOFT)
    if row.delta_ci95 is not None and np.isfinite(row.delta_ci95).all():
        axes.plot(row.delta_ci95, [y, y], color=colour, linewidth=1.3, solid_capstyle="butt")
    axes.plot([row.delta], [y], marker="s" if _clear(row) else "o", color=colour, linestyle="", markersize=4.5)


def _clear(row: Row) -> bool:
    return row.verdict in ("better", "worse", "equal")


def _horizontal(axes: Axes, panel: Panel) -> None:
    """The range and the ticks of x."""
    from matplotlib.ticker import MaxNLocator

    lines = [line for line in panel.lines if len(line.x)]
    if not lines:
        return
    first, last = min(float(line.x[0]) for line in lines), max(float(line.x[-1]) for line in lines)
    if panel.x == "epoch":
        axes.set_xlim(min(first, 0), last if last > first else last + 1)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    elif panel.x == "rate":
        room = 0.08 * (last - first) or 0.1
        axes.set_xlim(first - room, last + room)
        places = sorted({float(x) for line in lines for x in line.x})
        if len(places) <= 8:
            axes.set_xticks(places, [f"{place:g}" for place in places])
    elif last > first:
        axes.set_xlim(first, last)


@contextmanager
def _style() -> Iterator[None]:
    """The look of the house, whatever the user's `matplotlibrc` says.

    Raises:
        UserError: matplotlib is not installed.
    """
    require()
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


@cache
def _glyphs() -> frozenset[int]:
    """The characters that the font has; it comes with matplotlib."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(get_font(findfont("DejaVu Sans")).get_charmap())


def _text(text: str, longest: int = _LONGEST) -> str:
    """A name as it can be drawn: in one line, what the font lacks spelt out, the middle of a very long one left out."""
    text = "".join(c if ord(c) in _glyphs() else c.encode("unicode_escape").decode("ascii") for c in clean(text))
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]}…{text[-half:]}"


def _inches(text: str, size: float) -> float:
    """How wide a line of text is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family="DejaVu Sans", size=size), ismath=False
    )
    return float(width) / 72
