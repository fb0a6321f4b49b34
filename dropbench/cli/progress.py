"""The bar of a single run."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm

from dropbench.sweep.report import Report


class Bar(Report):
    """Shows how far a run is, on standard error if that is a terminal.

    Args:
        title: in front of the bar.
        shown: whether to show it at all.
    """

    def __init__(self, title: str, shown: bool) -> None:
        super().__init__()
        disabled = None if shown else True  # None: where there is no terminal
        self._bar = tqdm(desc=title, unit="step", leave=False, dynamic_ncols=True, disable=disabled)

    def progress(self, step: int, steps: int) -> None:
        """See `Report`."""
        if self._bar.total is None:
            self._bar.total, self._bar.initial = steps, step - 1
            self._bar.n = step - 1
        self._bar.update()

    def evaluated(self, run: str, record: dict[str, Any]) -> None:
        """See `Report`."""
        if self._bar.disable:
            return
        name = "error" if "error" in record["validation"] else "rmse"
        rates = [site["rate"] for site in record["sites"].values()]
        self._bar.set_postfix(
            {
                "epoch": record["epoch"],
                "loss": f"{record['training_loss']:.3f}",
                f"validation {name}": f"{record['validation'][name]:.2f}",
                "rate": f"{max(rates, default=0):.2f}",
            },
            refresh=False,
        )

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()
