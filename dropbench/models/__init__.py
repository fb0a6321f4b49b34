"""Nets that declare sites: one file is one model, built on the stacked layers of `layers.py`."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from dropbench.errors import UserError
from dropbench.parts import Part

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dropbench.acting import NoiseFn
    from dropbench.spec import Facts, Site


@dataclass(frozen=True)
class Parameter:
    """What a model asks for: one parameter of one run, or one running figure.

    Args:
        name: unique in the model, `hidden1.weight`.
        shape: without the run axis.
        init: `uniform` in [-bound, bound], or a constant.
        bound: of the uniform.
        raised: the entries `raised[0]:raised[1]` of the last axis start higher by 1 (forget gates).
        unit_axis: axis whose elements are the units of a hidden layer, where max-norm bounds the weights coming into
            each; None where it does not apply (biases, output layer).
        decays: whether weight decay acts on it (weights) or not (biases, gains).
        trained: False for running figures such as the moments of batch norm.
    """

    name: str
    shape: tuple[int, ...]
    init: Literal["uniform", "zeros", "ones"] = "uniform"
    bound: float = 0.0
    raised: tuple[int, int] | None = None
    unit_axis: int | None = None
    decays: bool = False
    trained: bool = True


class Moments(Protocol):
    """Gives a normalising layer its mean and variance: of the batch in training, running ones in evaluation."""

    def __call__(self, name: str, value: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Mean and (biased) variance of `value` over the axes `over`, with those axes kept at length 1."""


class Model(Part):
    """Abstract: a net as a pure function of its parameters, every tensor with a leading run axis R.

    Fields of every model:
        widen: whether its widths are those of a net without dropout, to be divided by the keep probability.

    Class attributes:
        kernels: names of kernels in C that it comes to, besides `kernels.COMMON`.
    """

    folder = "models"
    kernels: ClassVar[tuple[str, ...]] = ()
    widen: bool

    @abstractmethod
    def parameters(self, facts: Facts) -> tuple[Parameter, ...]:
        """The parameters for such data.

        Raises:
            UserError: the model cannot be fed such data.
        """

    @abstractmethod
    def sites(self, facts: Facts) -> tuple[Site, ...]:
        """Where noise may act, in the order of the data's way."""

    def widened(self, keep: float, map_keep: float) -> Self:
        """The model with hidden layers `1 / keep` times as wide, maps `1 / map_keep`, rounded up, for `model.widen`.

        With dropout n units do the work of `keep n`: Srivastava et al., "Dropout", JMLR 2014, appendix A.1.
        """
        raise UserError(f"model.widen=true: {self.kind()} has no widths to change")

    @abstractmethod
    def apply(
        self,
        params: Mapping[str, Tensor],
        inputs: Tensor,
        noise: NoiseFn,
        moments: Moments,
        facts: Facts,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """The outputs of R nets.

        Args:
            params: as declared, each [R, *shape].
            inputs: [R, batch, *facts.shape].
            noise: to be called at every site.
            moments: for normalising layers.
            facts: of the data.
            lengths: steps of each sequence, int64 [R, batch], where they differ; what follows is padding.

        Returns:
            [R, batch, outputs], or [R, batch, steps, outputs] if `facts.per_step`.
        """


def wider(widths: tuple[int, ...], keep: float) -> tuple[int, ...]:
    """`ceil(n / keep)` for each width n."""
    return tuple(math.ceil(width / keep - 1e-9) for width in widths)
