"""Fully connected nets."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from dropbench.errors import UserError
from dropbench.models import Model
from dropbench.models.layers import Activation, activation, batch_norm, linear, linear_parameters, norm_parameters
from dropbench.spec import Range, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Moments, Parameter
    from dropbench.spec import Facts
    from dropbench.strategy import NoiseFn


@dataclass(frozen=True)
class MLP(Model):
    """Multilayer perceptron: linear, optional batch norm, activation, noise; then a linear output layer.

    Formula: `h_l = noise(f(norm(h_{l-1} W_l + b_l)))`, `h_0 = noise(x)`, `z = h_L W + b`.

    Args:
        widths: units of each hidden layer.
        activation: f.
        batch_norm: whether to normalise before the activation.
    """

    widths: Annotated[tuple[int, ...], Range(1, 65536)] = (256, 256)
    activation: Activation = "relu"
    batch_norm: bool = False

    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """See `Model.parameters`."""
        if facts.per_step:
            raise UserError("model.kind=mlp: this data set asks for an answer at every step; nearest: model=lstm")
        declared: list[Parameter] = []
        for layer, (inputs, outputs) in enumerate(pairwise((facts.size, *self.widths)), start=1):
            declared += linear_parameters(f"hidden{layer}", inputs, outputs)
            if self.batch_norm:
                declared += norm_parameters(f"hidden{layer}", outputs)
        declared += linear_parameters("output", (facts.size, *self.widths)[-1], facts.outputs, hidden=False)
        return tuple(declared)

    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """See `Model.sites`."""
        count = max(len(self.widths), 1)
        return (
            Site("input", "input", 0.0, ("batch", "unit"), facts.size),
            *(
                Site(f"hidden{layer}", "hidden", layer / count, ("batch", "unit"), width)
                for layer, width in enumerate(self.widths, start=1)
            ),
        )

    def apply(
        self, params: Mapping[str, Tensor], inputs: Tensor, noise: NoiseFn, moments: Moments, facts: Facts
    ) -> Tensor:
        """See `Model.apply`."""
        function = activation(self.activation)
        value = noise("input", inputs.flatten(2))
        for layer in range(1, len(self.widths) + 1):
            value = linear(params, f"hidden{layer}", value)
            if self.batch_norm:
                value = batch_norm(params, f"hidden{layer}", value, moments)
            value = noise(f"hidden{layer}", function(value))
        return linear(params, "output", value)
