"""Sparse variational dropout: every weight learns its own noise, and most can then be cut (Molchanov et al., 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dropbench.models import Parameter
from dropbench.noise import Noise, Perturbation
from dropbench.spec import NonNegative, Share, vector

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.noise import Place
    from dropbench.spec import Site

_K1, _K2, _K3 = 0.63576, 1.8732, 1.48695


@dataclass(frozen=True)
class Sparse(Noise):
    """Additive Gaussian noise on each weight, of learned size; in evaluation, weights that are mostly noise are 0.

    Formula: `w = theta + sigma e`, `e ~ N(0, 1)`; `log alpha = log sigma^2 - log theta^2`, cut to [-8, 8]; in
    evaluation `w = theta [log alpha < threshold]`. The loss gets, for N training examples, the sum over weights of

        KL = -(k1 s(k2 + k3 log alpha) - 0.5 log(1 + 1 / alpha) - k1) / N,   k = 0.63576, 1.8732, 1.48695

    which rises from 0 to its full weight over the share `warmup` of the training.

    `rate` says how noisy weights are at first: `alpha = rate / (1 - rate)` at the variance they are initialised with.
    The noise is drawn once a step for the whole batch. It drops nothing in training: the realised rate is 0.

    Args:
        threshold: on log alpha, above which a weight is cut.
        warmup: share of the training over which the divergence comes in.

    Source: Molchanov, Ashukha, Vetrov, "Variational dropout sparsifies deep neural networks", ICML 2017.
    """

    threshold: NonNegative = 3.0
    warmup: Share = 0.5
    draw = "normal"
    kinds = frozenset({"weight", "recurrent_weight"})
    transition = ("recurrent_weight", ("batch",))

    def learned(self, site: Site) -> tuple[Parameter, ...]:
        """What is added to log sigma^2, the shape of the weight."""
        return (Parameter("log_sigma2", site.shape, "zeros"),)

    def perturb(self, draw: Tensor, rate: Tensor, place: Place) -> Perturbation:
        """One scale, which cuts nothing, and the noise."""
        log_sigma2 = self._log_sigma2(rate, place)
        shift = draw * (log_sigma2 / 2).exp().unsqueeze(1)
        return Perturbation(shift.new_ones(()).expand_as(shift[:, :1]), shift=shift)

    def realised(self, perturbation: Perturbation) -> Tensor:
        """The noise says nothing of what is cut: see the share of zeros in evaluation."""
        assert perturbation.shift is not None
        return perturbation.shift.detach().new_zeros(len(perturbation.shift))

    def expect(self, rate: Tensor, place: Place) -> Perturbation:
        """Cuts the weights that are mostly noise."""
        cut = self._log_alpha(rate, place) >= vector(self.threshold).view(-1, *(1 for _ in place.site.shape))
        return Perturbation((~cut).float().unsqueeze(1))

    def penalty(self, rate: Tensor, place: Place) -> Tensor:
        """The approximated divergence from the log-uniform prior, for each example."""
        log_alpha = self._log_alpha(rate, place).flatten(1)
        on = (rate.flatten(1).amax(1) > 0).float()
        warmup = vector(self.warmup)
        warm = (place.scene.clock.progress / warmup.clamp(min=1e-9)).clamp(max=1).where(warmup > 0, 1.0)
        return divergence(log_alpha).sum(1) * on * warm / place.scene.examples

    def _log_sigma2(self, rate: Tensor, place: Place) -> Tensor:
        weight = place.site.weight
        assert weight is not None
        variance = place.scene.declared[weight].bound ** 2 / 3
        first = rate.flatten(1).amax(1).logit() + math.log(variance)
        return place.learned["log_sigma2"] + first.view(-1, *(1 for _ in place.site.shape))

    def _log_alpha(self, rate: Tensor, place: Place) -> Tensor:
        assert place.site.weight is not None
        theta = place.scene.params[place.site.weight]
        return (self._log_sigma2(rate, place) - (theta.square() + 1e-16).log()).clamp(-8, 8)


def divergence(log_alpha: Tensor) -> Tensor:
    """`KL(log alpha)` of each weight (Molchanov et al., 2017, equation 14)."""
    from torch.nn.functional import softplus

    return -(_K1 * (_K2 + _K3 * log_alpha).sigmoid() - 0.5 * softplus(-log_alpha) - _K1)
