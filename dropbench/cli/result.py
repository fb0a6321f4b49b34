"""The panel at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropbench.errors import UserError
from dropbench.runs.records import read_run
from dropbench.terminal import clean

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def show(path: Path, out: Console, note: str = "") -> None:
    """Prints what a run folder holds of its result, in a few lines.

    Raises:
        UserError: there is no readable result.
    """
    from rich.panel import Panel
    from rich.text import Text

    record = read_run(path)
    if record.state != "done":
        raise UserError(f"{path}: no result ({record.state}{': ' + record.reason if record.reason else ''})")
    lines = []
    name, unit = ("error", " %") if record.task == "classification" else ("rmse", "")
    for split in ("test", "validation", "train"):
        figures = record.figures[split]
        main = f"{figures[name]:.2f}{unit}" if unit else f"{figures[name]:.4f}"
        others = ", ".join(f"{key} {figures[key]:.4f}" for key in ("nll", "ece", "brier") if key in figures)
        lines.append(f"{split:<10} {name} {main:>8}   {others}")
    rates = ", ".join(f"{site} {figures['asked']:.3f}" for site, figures in record.rates.items())
    lines += [
        f"{'rates':<10} {rates or 'none: nothing is dropped'}",
        f"{'selected':<10} epoch {record.epoch} of {record.sizes['epochs']:.0f} ({record.rule})",
        f"{'time':<10} {record.seconds['total']:.1f} s, {record.sizes['parameters']:,.0f} parameters",
        f"{'folder':<10} {path}",
    ]
    body = Text("\n".join(clean(line) for line in lines))
    subtitle = Text(note) if note else None
    out.print(Panel(body, title=Text(clean(record.id)), subtitle=subtitle, expand=False, title_align="left", padding=(0, 1)))
