"""Which runs share a stack, how large it gets, and one part that stands for many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import config

from dropbench.models import Parameter
from dropbench.models.mlp import MLP
from dropbench.noise.bernoulli import Bernoulli
from dropbench.noise.gaussian import Gaussian
from dropbench.optim.adam import Adam
from dropbench.optim.schedules import Decay
from dropbench.optim.sgd import SGD
from dropbench.stack import MEMORY, MOST_RUNS, capacity, signature, stacked

# ---- one part for many


def test_floats_become_a_vector_in_every_depth_and_the_rest_stays():
    parts = [SGD(learning_rate=rate, decay=Decay("cosine", final=rate / 2), max_norm=3.0) for rate in (0.1, 0.2, 0.4)]
    one = stacked(parts)
    assert isinstance(one, SGD)
    assert one.learning_rate.dtype == torch.float32
    assert torch.equal(one.learning_rate, torch.tensor([0.1, 0.2, 0.4]))
    assert torch.equal(one.decay.final, torch.tensor([0.05, 0.1, 0.2]))
    assert torch.equal(one.max_norm, torch.tensor([3.0, 3.0, 3.0]))
    assert (one.decay.shape, one.nesterov, one.clip_norm) == ("cosine", False, None)
    assert one.decay.milestones == (0.5, 0.75)  # the same in all runs, so no vector


def test_the_parts_of_a_mapping_are_stacked_by_name():
    strategies = [
        config("strategy=gradual", f"strategy.policies.gradual.until={until}").strategy for until in (0.3, 0.7)
    ]
    one = stacked(strategies)
    assert torch.equal(one.policies["gradual"].until, torch.tensor([0.3, 0.7]))
    assert one.where == strategies[0].where


def test_one_run_is_a_stack_of_one():
    assert stacked([SGD(learning_rate=0.3)]).learning_rate.tolist() == [pytest.approx(0.3)]


@pytest.mark.parametrize(
    "parts",
    [
        (SGD(nesterov=True), SGD(nesterov=False)),
        (SGD(max_norm=None), SGD(max_norm=1.0)),
        (SGD(max_norm=1.0), SGD(max_norm=None)),
        (SGD(decay=Decay("cosine")), SGD(decay=Decay("linear"))),
        (SGD(decay=Decay(milestones=(0.5,))), SGD(decay=Decay(milestones=(0.6,)))),
        (SGD(), Adam()),
        (Bernoulli(), Gaussian()),
        (MLP((3,)), MLP((4,))),
        ({"a": 1.0}, {"b": 1.0}),
        ({"a": 1.0}, {"a": 1.0, "b": 1.0}),
        (1.0, None),
    ],
    ids=repr,
)
def test_parts_that_differ_in_more_than_floats_are_refused(parts):
    with pytest.raises(ValueError, match="the runs of a stack"):
        stacked(parts)


# ---- who may share

BASE = config()
#: Changes of which none decides the shape of a graph.
SMALL = {
    "seed": lambda c, x: replace(c, seed=int(100 * x)),
    "rate": lambda c, x: replace(c, strategy=replace(c.strategy, rate=x)),
    "input_rate": lambda c, x: replace(c, strategy=replace(c.strategy, input_rate=x)),
    "cap": lambda c, x: replace(c, strategy=replace(c.strategy, cap=x)),
    "learning_rate": lambda c, x: replace(c, optimizer=replace(c.optimizer, learning_rate=x)),
    "max_norm": lambda c, x: replace(c, optimizer=replace(c.optimizer, max_norm=x)),
    "final": lambda c, x: replace(c, optimizer=replace(c.optimizer, decay=replace(c.optimizer.decay, final=x))),
}
#: Changes that each do.
LARGE = {
    "nothing": lambda c: c,
    "widths": lambda c: replace(c, model=MLP((3,))),
    "noise": lambda c: replace(c, strategy=replace(c.strategy, noise=Gaussian())),
    "where": lambda c: replace(c, strategy=replace(c.strategy, where=("hidden",))),
    "policies": lambda c: replace(c, strategy=config("strategy=gradual").strategy),
    "no_max_norm": lambda c: replace(c, optimizer=replace(c.optimizer, max_norm=None)),
    "milestones": lambda c: replace(
        c, optimizer=replace(c.optimizer, decay=replace(c.optimizer.decay, milestones=(0.1,)))
    ),
    "optimizer": lambda c: replace(c, optimizer=Adam()),
    "epochs": lambda c: replace(c, epochs=7),
    "batch_size": lambda c: replace(c, batch_size=7),
    "precision": lambda c: replace(c, precision="bfloat16"),
    "selection": lambda c: replace(c, selection="last"),
    "dataset": lambda c: replace(c, dataset=replace(c.dataset, train_size=50)),
    "device": lambda c: replace(c, device="cpu"),
}


@pytest.mark.parametrize("change", SMALL)
def test_runs_that_differ_in_seed_and_real_numbers_share_a_stack(change):
    changed = SMALL[change](BASE, 0.37)
    assert changed != BASE
    assert signature(changed) == signature(BASE)


def test_every_other_difference_separates():
    signatures = {name: signature(change(BASE)) for name, change in LARGE.items()}
    assert len(set(signatures.values())) == len(LARGE)


def test_every_real_number_of_the_presets_is_read_as_such():
    """Equal signatures are kept: what shares a stack can be stacked."""
    for optimizer in ("sgd", "sgd_dropout", "adam", "adamw"):
        one, two = config(f"optimizer={optimizer}"), config(f"optimizer={optimizer}", "optimizer.learning_rate=0.7")
        assert signature(one) == signature(two)
        stacked([one.optimizer, two.optimizer])
        stacked([one.strategy, two.strategy])


# ---- how many


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=3), st.integers(1, 3))
def test_a_stack_stays_in_its_memory_and_takes_at_least_one_run(shape, copies):
    parameters = [Parameter(f"w{number}", tuple(shape)) for number in range(copies)]
    size = sum(torch.Size(item.shape).numel() for item in parameters) * 4 * 6
    found = capacity(parameters)
    assert 1 <= found <= MOST_RUNS
    assert found == 1 or found * size <= MEMORY
    assert found == MOST_RUNS or (found + 1) * size > MEMORY  # and no smaller than it must be
