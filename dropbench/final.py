"""What is measured of R runs when their training is over: the last step of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dropbench.evaluation import Figures, Predicted, Reliability, gaussian_nll

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.config import Evaluation
    from dropbench.data import Data
    from dropbench.evaluation import Seen
    from dropbench.nets import Nets, Present


@dataclass(frozen=True)
class Final:
    """What was measured of R runs.

    Args:
        figures: by split; `_mc` of the mean of passes with noise, `_pruned` of what is left of the net.
        reliability: on the test set; None for regression.
        predicted: by split, as far as it is kept: what is predicted [R, items, ...] and what it should be [items, ...].
    """

    figures: Mapping[str, Figures]
    reliability: Reliability | None
    predicted: Mapping[str, tuple[Tensor, Tensor]]

    def result(self, run: int) -> dict[str, Any]:
        """What the result of a run says of it."""
        figures: dict[str, Any] = {
            split: {name: figure[run] for name, figure in values.items()} for split, values in self.figures.items()
        }
        return figures | ({} if self.reliability is None else {"calibration": self.reliability.of_run(run)})

    def predictions(self, run: int) -> dict[str, tuple[Tensor, Tensor]]:
        """What is predicted by a run, and what it should be, by split."""
        return {split: (outputs[run], targets) for split, (outputs, targets) in self.predicted.items()}


def final(nets: Nets, selected: Present, data: Data, evaluation: Evaluation, keep: bool) -> Final:
    """Measures R runs on every split: the one time that the test set is read.

    Args:
        nets: the runs.
        selected: the weights and the rates that were selected.
        data: what they were trained on, and the rest.
        evaluation: what else is measured.
        keep: whether to keep what is predicted for every validation and test example.
    """
    classes = nets.facts.task == "classification"
    reliability = Reliability() if classes else None
    kept: dict[str, Predicted] = {}

    def seen(name: str) -> list[Seen]:
        found: list[Seen] = [reliability] if name == "test" and reliability else []
        if keep:
            kept[name] = Predicted(nets.facts)
            found.append(kept[name])
        return found

    held = {"validation": data.validation, "test": data.test}
    measured = {"train": nets.measure(selected, data.train)}
    measured |= {name: nets.measure(selected, split, seen=seen(name)) for name, split in held.items()}
    variance = None if classes else measured["train"]["loss"]
    if variance is not None:
        for values in measured.values():
            values["nll"] = [gaussian_nll(loss, v) for loss, v in zip(values["loss"], variance, strict=True)]
    for name, split in held.items():
        if evaluation.samples:
            mean = f"{name}_mc"
            measured[mean] = nets.sampled(selected, split, evaluation.samples, variance, seen(mean))
        if evaluation.prune is not None:
            measured[f"{name}_pruned"] = nets.pruned(selected, split, evaluation.prune)
    return Final(measured, reliability, {name: each.all() for name, each in kept.items()})
