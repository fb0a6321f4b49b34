"""What becomes of the runs of a command. It is told as it happens; whoever wants to show it overrides a method."""

from __future__ import annotations

from typing import Any


class Report:
    """Gathers what must be said at the end.

    Attributes:
        failures: a line about each run that failed, by its id.
        refusals: a line about each run whose strategy or model cannot act on its data, by its id.
        warnings: what was mended on the way.
        crashed: whether an error of dropbench itself, and not of the training, made a run fail.
    """

    def __init__(self) -> None:
        self.failures: dict[str, str] = {}
        self.refusals: dict[str, str] = {}
        self.warnings: list[str] = []
        self.crashed = False

    def progress(self, step: int, steps: int) -> None:
        """`step` of `steps` updates of the stack are done."""

    def evaluated(self, run: str, record: dict[str, Any]) -> None:
        """One evaluation of a run."""

    def finished(self, run: str, figure: float, name: str, dataset: str) -> None:
        """A run has its result; `figure` is its validation `name`, the lower the better."""

    def failed(self, run: str, reason: str, crashed: bool) -> None:
        """A run failed: its loss is not finite, or it `crashed`."""
        self.failures[run] = reason
        self.crashed |= crashed

    def refused(self, run: str, reason: str) -> None:
        """A run cannot be trained."""
        self.refusals[run] = reason

    def warned(self, line: str) -> None:
        """Something was mended."""
        self.warnings.append(line)
