"""What all noises have in common."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from places import HIDDEN, place, rates

from dropbench.noise import Noise
from dropbench.noise.alpha import Alpha
from dropbench.noise.bernoulli import Bernoulli
from dropbench.noise.dropblock import Dropblock
from dropbench.noise.gaussian import Gaussian
from dropbench.noise.standout import Standout
from dropbench.noise.variational import Variational
from dropbench.noise.zoneout import Zoneout
from dropbench.parts import names
from dropbench.spec import SITE_KINDS
from dropbench.stack import stacked
from dropbench.streams import Streams

PASSES = 40_000
#: The noises whose mean is exactly what stands in evaluation. Alpha keeps the moments of a layer; DropBlock counts what
#: it keeps; the mask of concrete dropout is relaxed; what sparse variational dropout adds is tried beside its formula.
UNBIASED: list[Noise] = [Bernoulli(), Gaussian(), Variational(), Standout()]


def test_every_noise_is_tried_here_or_beside_its_formula():
    assert names(Noise) == (
        "alpha", "bernoulli", "concrete", "dropblock", "gaussian", "sparse", "standout", "variational", "zoneout",
    )  # fmt: skip


@pytest.mark.parametrize("noise", UNBIASED, ids=lambda noise: noise.kind())
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_mean_over_masks_of_a_linear_step_is_the_evaluation(noise, rate):
    """`E[(x * noise) W + b] = expect(x) W + b`, every output within 4.5 of its own standard errors."""
    generator = torch.Generator().manual_seed(0)
    value, weight, bias = (torch.randn(*shape, generator=generator) for shape in ((1, 1, 3), (1, 3, 2), (1, 1, 2)))
    noise = stacked([noise])
    learned = {item.name: torch.zeros(1, *item.shape) for item in noise.learned(HIDDEN)}
    at = place(learned=learned, drive=value)
    acting = noise.effective(rates(rate, dims=3), at)
    draw = getattr(Streams((0,)), noise.draw)("noise", 0, "x", (PASSES, 3))
    outputs = (torch.bmm(noise.perturb(draw, acting, at)(value), weight) + bias).double()
    expected = noise.expect(acting, at)
    evaluated = torch.bmm(value if expected is None else expected(value), weight) + bias
    error = outputs.std(1) / PASSES**0.5
    assert (error > 0).all()
    assert ((outputs.mean(1) - evaluated[:, 0]).abs() < 4.5 * error).all()


@pytest.mark.parametrize("noise", [Bernoulli(), Alpha(), Gaussian(), Variational(), Dropblock()])
def test_a_noise_that_rescales_by_itself_stands_for_the_value_in_evaluation(noise):
    assert noise.expect(rates(0.5), place()) is None


@pytest.mark.parametrize("kind", names(Noise))
def test_the_kinds_of_sites_are_known_and_the_recommended_transition_is_one_of_them(kind):
    noise = next(each for each in Noise.__subclasses__() if each.kind() == kind)
    assert noise.kinds
    assert noise.kinds <= set(SITE_KINDS)
    if noise.transition is not None:
        assert noise.transition[0] in noise.kinds


@pytest.mark.parametrize("noise", [Bernoulli(), Alpha(), Zoneout()])
def test_a_rate_for_each_element_is_forgotten_after_its_step(noise):
    # as large as a weight and new in every step: to remember it would fill the memory
    rate = torch.full((2, 1, 3), 0.5)
    seen = weakref.ref(rate)
    noise.perturb(Streams((0, 1)).bits("noise", 0, "x", (4, 3)), rate, place())
    del rate
    gc.collect()
    assert seen() is None


def test_the_same_rate_in_another_tensor_acts_the_same():
    draw = Streams((0, 1)).bits("noise", 0, "x", (50, 3))
    whole = Bernoulli().perturb(draw, rates(0.2, 0.7, dims=3), place()).scale
    single = Bernoulli().perturb(draw, rates(0.2, 0.7, dims=3).expand(2, 50, 3).contiguous(), place()).scale
    assert torch.equal(whole, single)
