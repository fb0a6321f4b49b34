"""Convolutional nets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from dropbench.errors import UserError
from dropbench.models import Model
from dropbench.models.layers import (
    Activation,
    activation,
    batch_norm,
    conv,
    conv_parameters,
    linear,
    linear_parameters,
    max_pool,
    norm_parameters,
)
from dropbench.spec import Range, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.models import Moments, Parameter
    from dropbench.spec import Facts
    from dropbench.strategy import NoiseFn


@dataclass(frozen=True)
class CNN(Model):
    """Blocks of convolution, optional batch norm, activation, max-pooling and noise; then fully connected layers.

    Formula: `h_l = noise(pool(f(norm(conv(h_{l-1})))))`, then `noise(f(h W + b))` for each dense layer, then linear.

    Args:
        maps: feature maps of each block.
        kernel: side of the square filters, odd; the padding keeps the size.
        pool: side of the pooling window.
        stride: of the pooling window.
        dense: units of each fully connected hidden layer.
        activation: f.
        batch_norm: whether to normalise before the activation of each block.
    """

    maps: Annotated[tuple[int, ...], Range(1, 4096)] = (32, 64)
    kernel: Annotated[int, Range(1, 15)] = 3
    pool: Annotated[int, Range(1, 8)] = 2
    stride: Annotated[int, Range(1, 8)] = 2
    dense: Annotated[tuple[int, ...], Range(1, 65536)] = (128,)
    activation: Activation = "relu"
    batch_norm: bool = False

    def __post_init__(self) -> None:
        """Checks what a single field cannot."""
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: allowed: an odd number, so that the padding keeps the size")
        if self.stride > self.pool:
            raise ValueError(f"stride={self.stride}: allowed: at most pool={self.pool}, or the pooling skips values")

    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """See `Model.parameters`."""
        if facts.form != "image":
            raise UserError(
                f"model.kind=cnn: it needs images, and the data set gives a {facts.form}; nearest: mlp, lstm"
            )
        declared: list[Parameter] = []
        channels = facts.shape[0]
        for block, maps in enumerate(self.maps, start=1):
            declared += conv_parameters(f"conv{block}", channels, maps, self.kernel)
            if self.batch_norm:
                declared += norm_parameters(f"conv{block}", maps)
            channels = maps
        features = self._features(facts)
        for layer, width in enumerate(self.dense, start=1):
            declared += linear_parameters(f"dense{layer}", features, width)
            features = width
        return (*declared, *linear_parameters("output", features, facts.outputs, hidden=False))

    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """See `Model.sites`: maps have the axes batch, unit (the map), row, column."""
        layers = max(len(self.maps) + len(self.dense), 1)
        maps = ("batch", "unit", "row", "column")
        return (
            Site("input", "input", 0.0, maps, facts.shape[0]),
            *(
                Site(f"conv{block}", "hidden", block / layers, maps, count)
                for block, count in enumerate(self.maps, start=1)
            ),
            *(
                Site(f"dense{layer}", "hidden", (len(self.maps) + layer) / layers, ("batch", "unit"), width)
                for layer, width in enumerate(self.dense, start=1)
            ),
        )

    def apply(
        self, params: Mapping[str, Tensor], inputs: Tensor, noise: NoiseFn, moments: Moments, facts: Facts
    ) -> Tensor:
        """See `Model.apply`."""
        function = activation(self.activation)
        value = noise("input", inputs)
        for block in range(1, len(self.maps) + 1):
            value = conv(params, f"conv{block}", value)
            if self.batch_norm:
                value = batch_norm(params, f"conv{block}", value, moments)
            value = noise(f"conv{block}", max_pool(function(value), self.pool, self.stride))
        value = value.flatten(2)
        for layer in range(1, len(self.dense) + 1):
            value = noise(f"dense{layer}", function(linear(params, f"dense{layer}", value)))
        return linear(params, "output", value)

    def _features(self, facts: Facts) -> int:
        channels, rows, columns = facts.shape
        padding = (self.pool - 1) // 2
        for block, maps in enumerate(self.maps, start=1):
            rows, columns = ((side + 2 * padding - self.pool) // self.stride + 1 for side in (rows, columns))
            if min(rows, columns) < 1:
                side = f"{facts.shape[1]}x{facts.shape[2]}"
                raise UserError(f"model.maps: nothing is left of {side} images after {block} poolings")
            channels = maps
        return channels * rows * columns
