"""Convolutional nets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from dropbench.errors import UserError
from dropbench.models import Model, wider
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
class CNN(Model):
    """Blocks of convolution, optional batch norm, max-pooling, activation and noise; then fully connected layers.

    Formula: `h_l = noise(f(pool(norm(conv(h_{l-1})))))`, then `noise(f(h W + b))` for each dense layer, then linear.

    Args:
        maps: feature maps of each block.
        kernel: side of the square filters, odd; the padding keeps the size.
        pool: side of the pooling window.
        stride: of the pooling window.
        dense: units of each fully connected hidden layer.
        activation: f.
        batch_norm: whether to normalise before the activation of each block.
        residual: residual branches after each block, `x + noise(conv(f(conv(f(x)))))`, sites of the kind `branch`.
        widen: whether `maps` and `dense` are those of a net without dropout, to be divided by the keep probability.
    """

    maps: Annotated[tuple[int, ...], Range(1, 4096)] = (32, 64)
    kernel: Annotated[int, Range(1, 15)] = 3
    pool: Annotated[int, Range(1, 8)] = 2
    stride: Annotated[int, Range(1, 8)] = 2
    dense: Annotated[tuple[int, ...], Range(1, 65536)] = (128,)
    activation: Activation = "relu"
    batch_norm: bool = False
    residual: Annotated[int, Range(0, 64)] = 0
    widen: bool = False

    def __post_init__(self) -> None:
        """Checks what a single field cannot."""
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}: allowed: an odd number, so that the padding keeps the size")
        if self.stride > self.pool:
            raise ValueError(f"stride={self.stride}: allowed: at most pool={self.pool}, or the pooling skips values")

    def widened(self, keep: float, map_keep: float) -> CNN:
        """See `Model.widened`."""
        return replace(self, maps=wider(self.maps, map_keep), dense=wider(self.dense, keep), widen=False)

    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """See `Model.parameters`."""
        if facts.form != "image":
            raise UserError(
                f"model.kind=cnn: it needs images, and the data set gives a {facts.form}; nearest: mlp, lstm"
            )
        declared: list[Parameter] = []

        def convolution(name: str, inputs: int, outputs: int) -> None:
            declared.extend(conv_parameters(name, inputs, outputs, self.kernel, self.activation))
            if self.batch_norm:
                declared.extend(norm_parameters(name, outputs))

        channels = facts.shape[0]
        for block, maps in enumerate(self.maps, start=1):
            convolution(f"conv{block}", channels, maps)
            for branch in self._branches(block):
                convolution(f"{branch}.a", maps, maps)
                convolution(f"{branch}.b", maps, maps)
            channels = maps
        features = self._features(facts)
        for layer, width in enumerate(self.dense, start=1):
            declared += linear_parameters(f"dense{layer}", features, width, function=self.activation)
            features = width
        return (*declared, *linear_parameters("output", features, facts.outputs, hidden=False))

    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """See `Model.sites`: maps have the axes batch, unit (the map), row, column."""
        layers = max(len(self.maps) + len(self.dense), 1)
        branches = max(self.residual * len(self.maps), 1)
        maps, parameters = ("batch", "unit", "row", "column"), self.parameters(facts)
        names = [*(f"conv{block}" for block in range(1, len(self.maps) + 1))]
        names += [*(f"dense{layer}" for layer in range(1, len(self.dense) + 1)), "output"]
        declared = [Site("input", "input", 0.0, maps, facts.shape[0], feeds=(f"{names[0]}.weight",))]
        for place, units in enumerate((*self.maps, *self.dense)):
            name, depth = names[place], (place + 1) / layers
            axes = maps if place < len(self.maps) else ("batch", "unit")
            declared.append(weight_site(parameters, f"{name}.weight", depth))
            inside = self._branches(place + 1) if place < len(self.maps) else ()
            feeds = (f"{names[place + 1]}.weight", *(f"{branch}.a.weight" for branch in inside[:1]))
            # Pooling keeps the order of what it pools: the largest pre-activation makes the largest value.
            declared.append(
                Site(
                    name, "hidden", depth, axes, units,
                    weight=f"{name}.weight", feeds=feeds, activation=self.activation,
                )
            )  # fmt: skip
            for branch in inside:
                count = sum(site.kind == "branch" for site in declared) + 1
                declared += [weight_site(parameters, f"{branch}.{end}.weight", depth) for end in ("a", "b")]
                declared.append(Site(branch, "branch", count / branches, maps, units, weight=f"{branch}.b.weight"))
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
        """See `Model.apply`."""
        function = activation(self.activation)

        def convolution(name: str, value: Tensor, pooling: tuple[int, int] | None = None) -> Tensor:
            if not self.batch_norm:
                return conv(params, name, value, noise, pooling)
            value = batch_norm(params, name, conv(params, name, value, noise), moments)
            return value if pooling is None else max_pool(value, *pooling)

        value = noise("input", inputs)
        for block in range(1, len(self.maps) + 1):
            drive = convolution(f"conv{block}", value, (self.pool, self.stride))
            value = noise(f"conv{block}", function(drive), drive)
            for branch in self._branches(block):
                inner = convolution(f"{branch}.b", function(convolution(f"{branch}.a", function(value))))
                value = value + noise(branch, inner)
        value = value.flatten(2)
        for layer in range(1, len(self.dense) + 1):
            drive = linear(params, f"dense{layer}", value, noise)
            value = noise(f"dense{layer}", function(drive), drive)
        return linear(params, "output", value)

    def _branches(self, block: int) -> tuple[str, ...]:
        return tuple(f"branch{block}.{branch}" for branch in range(1, self.residual + 1))

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
