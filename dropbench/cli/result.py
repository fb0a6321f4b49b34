"""The panel at the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropbench.compare.groups import default_metric
from dropbench.errors import UserError
from dropbench.runs.records import MEASURED, SPLITS, read_run
from dropbench.terminal import clean

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from dropbench.runs.records import RunRecord


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
    rates = ", ".join(f"{site} {figures.get('asked', 0):.3f}" for site, figures in record.rates.items())
    epochs = record.sizes.get("epochs", 0)
    also = [name for name in MEASURED if name in record.figures and name.startswith("test_")]
    splits = {name: _figures(record, name) for name in ("test", *also, *reversed(SPLITS[:-1]))}
    facts = {name.replace("_", " "): text for name, text in splits.items()} | {
        "rates": rates or "none: nothing is dropped",
        "selected": f"epoch {record.epoch} of {epochs:.0f} ({record.rule})",
        "time": f"{record.seconds.get('total', 0):.1f} s, {record.sizes.get('parameters', 0):,.0f} parameters",
        "folder": str(path),
    }
    width = max(map(len, facts))
    body = Text("\n".join(f"{key:<{width}} {clean(text)}" for key, text in facts.items()))
    title, subtitle = Text(clean(record.id)), Text(note) if note else None
    out.print(Panel(body, title=title, title_align="left", subtitle=subtitle, expand=False, padding=(0, 1)))


def _figures(record: RunRecord, split: str) -> str:
    """One split: the main figure of the task, then how good the probabilities are."""
    figures = record.figures.get(split, {})
    name = default_metric(record).partition(".")[2]
    unit = " %" if name == "error" else ""
    main = f"{figures[name]:.{2 if unit else 4}f}{unit}" if name in figures else "-"
    others = ", ".join(f"{key} {figures[key]:.4f}" for key in ("nll", "ece", "brier", "entropy") if key in figures)
    return f"{name} {main:>8}   {others}"
