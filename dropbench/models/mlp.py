"""Fully connected nets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from dropbench.errors import UserError
from dropbench.models import Model, wider
from dropbench.models.layers import (
    Activation,
    activation,
    batch_norm,
    linear,
    linear_parameters,
    norm_parameters,
    weight_site,
)
from dropbench.spec import Range, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.models import Moments, Parameter
    from dropbench.spec import Facts


@dataclass(frozen=True)
class MLP(Model):
    """Multilayer perceptron: linear, optional batch norm, activation, noise; then a linear output layer.

    Formula: `h_l = noise(f(norm(h_{l-1} W_l + b_l)))`, `h_0 = noise(x)`, `z = h_L W + b`.

    Args:
        widths: units of each hidden layer.
        activation: f.
        batch_norm: whether to normalise before the activation.
        widen: whether `widths` are those of a net without dropout, to be divided by the keep probability.
    """

    widths: Annotated[tuple[int, ...], Range(1, 65536)] = (256, 256)
    activation: Activation = "relu"
    batch_norm: bool = False
    widen: bool = False

    def widened(self, keep: float, map_keep: float) -> MLP:
        """See `Model.widened`."""
        return replace(self, widths=wider(self.widths, keep), widen=False)

    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """See `Model.parameters`."""
        if facts.per_step:
            raise UserError("model.kind=mlp: this data set asks for an answer at every step; nearest: model=lstm")
        declared: list[Parameter] = []
        for layer, (inputs, outputs) in enumerate(pairwise((facts.size, *self.widths)), start=1):
            declared += linear_parameters(f"hidden{layer}", inputs, outputs, function=self.activation)
            if self.batch_norm:
                declared += norm_parameters(f"hidden{layer}", outputs)
        declared += linear_parameters("output", (facts.size, *self.widths)[-1], facts.outputs, hidden=False)
        return tuple(declared)

    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """See `Model.sites`."""
        count = max(len(self.widths), 1)
        names = [f"hidden{layer}" for layer in range(1, len(self.widths) + 1)] + ["output"]
        parameters = self.parameters(facts)
        declared = [Site("input", "input", 0.0, ("batch", "unit"), facts.size, feeds=(f"{names[0]}.weight",))]
        for layer, width in enumerate(self.widths, start=1):
            name, depth = names[layer - 1], layer / count
            declared += [
                weight_site(parameters, f"{name}.weight", depth),
                Site(
                    name, "hidden", depth, ("batch", "unit"), width,
                    weight=f"{name}.weight", feeds=(f"{names[layer]}.weight",), activation=self.activation,
                ),
            ]  # fmt: skip
        return tuple(declared)

    def apply(
        self,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        noise: NoiseFn,
        moments: Moments,
        facts: Facts,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """See `Model.apply`; padding, if any, is input like any other."""
        function = activation(self.activation)
        value = noise("input", inputs.flatten(2))
        for layer in range(1, len(self.widths) + 1):
            drive = linear(params, f"hidden{layer}", value, noise)
            if self.batch_norm:
                drive = batch_norm(params, f"hidden{layer}", drive, moments)
            value = noise(f"hidden{layer}", function(drive), drive)
        return linear(params, "output", value)
