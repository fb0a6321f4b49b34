"""Recurrent nets: LSTM, GRU and plain RNN."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from dropbench.errors import UserError
from dropbench.models import Model, wider
from dropbench.models.layers import linear, linear_parameters
from dropbench.models.recurrent import Cell, recurrent_layer, recurrent_parameters, recurrent_sites
from dropbench.spec import Range, Site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.models import Moments, Parameter
    from dropbench.spec import Facts


@dataclass(frozen=True)
class LSTM(Model):
    """Recurrent layers, then a linear output layer on the last state, or on the state of every step.

    Formula: `z = noise(h_L) W + b`; the transitions stand in `recurrent.py`.

    Args:
        hidden: units of each layer and direction.
        layers: number of layers.
        cell: transition.
        bidirectional: whether each layer also walks backwards.
        read: how an image becomes a sequence: its rows, its pixels, or its pixels in one fixed random order.
        widen: whether `hidden` is that of a net without dropout, to be divided by the keep probability.

    Sources: Hochreiter and Schmidhuber, Neural Computation 9 (1997); GRU, Cho et al., EMNLP 2014; permuted pixels,
    Le, Jaitly, Hinton, 2015.
    """

    kernels = ("lstm",)
    hidden: Annotated[int, Range(1, 16384)] = 128
    layers: Annotated[int, Range(1, 64)] = 1
    cell: Cell = "lstm"
    bidirectional: bool = False
    read: Literal["rows", "pixels", "permuted_pixels"] = "rows"
    widen: bool = False

    def widened(self, keep: float, map_keep: float) -> LSTM:
        """See `Model.widened`."""
        return replace(self, hidden=wider((self.hidden,), keep)[0], widen=False)

    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """See `Model.parameters`."""
        if facts.form == "vector":
            raise UserError(
                "model.kind=lstm: it needs sequences or images, and this data set gives vectors; nearest: model=mlp"
            )
        declared: list[Parameter] = []
        inputs = self._steps(facts)[1]
        for layer in range(1, self.layers + 1):
            for direction in self._directions(layer):
                declared += recurrent_parameters(direction, self.cell, inputs, self.hidden)
            inputs = self._width
        return (*declared, *linear_parameters("output", self._width, facts.outputs, hidden=False))

    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """See `Model.sites`: the input, and for each layer its transitions and what goes up from it.

        One-hot symbols pass two sites: `embedding`, whose units are word types, and `input`.
        """
        per_step = ("step", "batch", "unit")
        features, declared = self._steps(facts)[1], []
        feeds = {
            layer: tuple(f"{direction}.weight_ih" for direction in self._directions(layer))
            for layer in range(1, self.layers + 1)
        }
        if facts.symbols:
            declared.append(Site("embedding", "embedding", 0.0, per_step, features, feeds=feeds[1]))
        declared.append(Site("input", "input", 0.0, per_step, features, feeds=feeds[1]))
        for layer in range(1, self.layers + 1):
            depth = layer / self.layers
            for direction in self._directions(layer):
                declared += recurrent_sites(direction, self.cell, features, self.hidden, depth)
            features, last = self._width, layer == self.layers and not facts.per_step
            declared.append(
                Site(
                    f"hidden{layer}", "hidden", depth, per_step[1:] if last else per_step, self._width,
                    weight=f"layer{layer}.weight_hh",
                    second=f"layer{layer}.reverse.weight_hh" if self.bidirectional else None,
                    feeds=feeds.get(layer + 1, ("output.weight",)),
                )
            )  # fmt: skip
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
        import torch

        value = self._sequence(inputs, facts)
        if facts.symbols:
            value = noise("embedding", value)
        value = noise("input", value)
        lengths = lengths if facts.form == "sequence" else None
        for layer in range(1, self.layers + 1):
            if lengths is not None:  # noise may have made copies of the batch
                lengths = lengths.repeat(1, value.shape[2] // lengths.shape[1])
            walked = [
                recurrent_layer(
                    params, direction, self.cell, value, noise, reverse=index == 1,
                    lengths=lengths,
                )
                for index, direction in enumerate(self._directions(layer))
            ]  # fmt: skip
            if layer == self.layers and not facts.per_step:
                value = torch.cat([last for _, last in walked], -1)
            else:
                value = torch.cat([states for states, _ in walked], -1)
            value = noise(f"hidden{layer}", value)
        outputs = linear(params, "output", value)
        return outputs.transpose(1, 2) if facts.per_step else outputs

    @property
    def _width(self) -> int:
        return self.hidden * (2 if self.bidirectional else 1)

    def _directions(self, layer: int) -> tuple[str, ...]:
        return (f"layer{layer}", f"layer{layer}.reverse") if self.bidirectional else (f"layer{layer}",)

    def _steps(self, facts: Facts) -> tuple[int, int]:
        """Steps and features of the sequence."""
        if facts.form == "sequence":
            return facts.shape[0], facts.shape[1]
        channels, rows, columns = facts.shape
        return (rows, channels * columns) if self.read == "rows" else (rows * columns, channels)

    def _sequence(self, inputs: Tensor, facts: Facts) -> Tensor:
        """[R, batch, *shape] -> [R, steps, batch, features]."""
        if facts.form == "sequence":
            return inputs.transpose(1, 2)
        runs, batch, channels, rows, columns = inputs.shape
        if self.read == "rows":
            return inputs.permute(0, 3, 1, 2, 4).reshape(runs, rows, batch, channels * columns)
        pixels = inputs.flatten(3).permute(0, 3, 1, 2)
        if self.read == "permuted_pixels":
            from dropbench.streams import Streams

            order = Streams((0,), inputs.device).permutation("data", 0, "permuted_pixels", rows * columns)[0]
            pixels = pixels.index_select(1, order)
        return pixels
