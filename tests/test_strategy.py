"""Where a strategy acts, at which rate, and along which axes a mask is shared; numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch
from support import MODELS, config, message

from dropbench.errors import UserError
from dropbench.models.cnn import CNN
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.noise.bernoulli import Bernoulli
from dropbench.noise.gaussian import Gaussian
from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.policies import Policy
from dropbench.policies.gradual import Gradual
from dropbench.schema import build
from dropbench.spec import Clock, Facts, Signals, Site
from dropbench.stack import stacked
from dropbench.strategy import ExpectedNoise, StepNoise, Strategy, spread
from dropbench.streams import Streams

IMAGE = Facts("image", (1, 8, 8), "classification", 10)
ANSWERS = Facts("sequence", (12, 3), "classification", 4, per_step=True)
CLOCK = Clock(3, 10, 0, 1)
HIDDEN = Site("hidden1", "hidden", 1.0, ("batch", "unit"), 4)
INPUT = Site("input", "input", 0.0, ("batch", "unit"), 4)
PER_STEP = Site("layer1.state", "state", 1.0, ("step", "batch", "unit"), 4)


def strategy(**changes: object) -> Strategy:
    return Strategy(**{"noise": Bernoulli(), "objective": CrossEntropy(), **changes})


@dataclass(frozen=True)
class Given(Policy):
    """A factor of any shape, to try what no YAML does yet; knows the batch by its facts if `fact` is set."""

    values: tuple[object, ...] = ()
    fact: str = ""

    def factor(self, site, clock, state, facts):
        if self.fact:
            return facts[self.fact].unsqueeze(2)
        return torch.tensor(self.values)


@dataclass(frozen=True)
class Counting(Policy):
    """Counts the control ticks and remembers the last loss."""

    needs = frozenset({"train_loss"})

    def init(self, runs):
        return {"ticks": torch.zeros(runs), "loss": torch.ones(runs)}

    def update(self, state, signals):
        return {"ticks": state["ticks"] + 1, "loss": signals.train_loss}

    def factor(self, site, clock, state, facts):
        return state["loss"]


def rate(site: Site = HIDDEN, runs: int = 1, clock: Clock = CLOCK, facts=None, **changes: object) -> torch.Tensor:
    each = stacked([strategy(**changes)] * runs)
    return each.rate_at(site, clock, {name: {} for name in each.policies}, facts or {})


# ---- where


def placed(model, facts: Facts = IMAGE, **changes: object) -> dict[str, set[str]]:
    """The chosen sites and the axes along which their masks are shared."""
    placements = strategy(**changes).place(model.sites(facts))
    assert all(placement.site.name == name for name, placement in placements.items())
    return {name: set(placement.shared) for name, placement in placements.items()}


def test_auto_is_input_and_hidden_where_nothing_recurs():
    assert placed(MLP(widths=(5, 4))) == {"input": set(), "hidden1": set(), "hidden2": set()}
    assert placed(CNN(maps=(3,), dense=(4, 5))) == {"input": set(), "conv1": set(), "dense1": set(), "dense2": set()}


def test_auto_is_the_recommended_transition_in_a_recurrent_net():
    assert placed(LSTM(hidden=4, layers=2)) == {"layer1.state": {"step"}, "layer2.state": {"step"}}
    both = placed(LSTM(hidden=4, bidirectional=True))
    assert both == {"layer1.state": {"step"}, "layer1.reverse.state": {"step"}}
    assert placed(LSTM(hidden=4), where=("transition",)) == placed(LSTM(hidden=4))
    for cell in ("gru", "rnn"):
        assert placed(LSTM(hidden=4, cell=cell)) == {"layer1.state": {"step"}}


def test_a_noise_recommends_its_own_transition():
    @dataclass(frozen=True)
    class OnCells(Bernoulli):
        transition = ("cell", ("batch",))

    assert placed(LSTM(hidden=4), noise=OnCells()) == {"layer1.cell": {"batch"}}
    assert placed(LSTM(hidden=4), noise=OnCells(), where=("cell", "state")) == {
        "layer1.cell": {"batch"},
        "layer1.state": set(),
    }
    with pytest.raises(UserError):
        placed(LSTM(hidden=4, cell="gru"), noise=OnCells())


def test_nowhere():
    assert placed(MLP(), where=("nowhere",)) == {}
    assert placed(LSTM(), where=("nowhere",)) == {}


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (("hidden",), {"hidden1", "hidden2"}),
        (("input",), {"input"}),
        (("input", "hidden"), {"input", "hidden1", "hidden2"}),
        (("candidate", "cell"), {"layer1.candidate", "layer1.cell", "layer2.candidate", "layer2.cell"}),
        (("recurrent_weight",), {"layer1.recurrent_weight", "layer2.recurrent_weight"}),
        (("transition", "hidden"), {"layer1.state", "layer2.state", "hidden1", "hidden2"}),
        (("auto", "input"), {"layer1.state", "layer2.state", "input"}),
    ],
)
def test_kinds(where, names):
    assert set(placed(LSTM(layers=2), where=where)) == names


def test_a_recurrent_answer_at_every_step_is_a_site_with_steps():
    sites = {site.name: site for site in LSTM(hidden=4).sites(ANSWERS)}
    assert sites["hidden1"].axes == ("step", "batch", "unit")
    assert placed(LSTM(hidden=4), ANSWERS, where=("hidden",), share=("step",)) == {"hidden1": {"step"}}


def refused(model, facts: Facts = IMAGE, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        strategy(**changes).place(model.sites(facts))
    return message(error)


def test_what_could_not_act_is_refused_with_the_reason():
    assert refused(MLP(), where=("state",)) == (
        "strategy.where=state: bernoulli noise acts on candidate, cell, embedding, hidden, input, recurrent_weight, "
        "state, and the model has hidden, input: it would act nowhere"
    )
    assert refused(LSTM(), where=("carry",)).startswith("strategy.where=carry: bernoulli noise acts on candidate, ")
    assert "would act nowhere" in refused(MLP(), where=("transition",))
    assert "would act nowhere" in refused(LSTM(cell="rnn"), where=("cell",))
    assert "would act nowhere" in refused(MLP(widths=()), where=("hidden",))
    assert "would act nowhere" in refused(MLP(), where=())


def test_a_policy_that_never_acts_is_refused():
    policies = {"first": Gradual(), "flat": Gradual(start=0.0, end=0.0)}
    assert refused(MLP(), policies=policies).startswith("strategy.policies.flat: its factor never leaves 0")
    assert placed(MLP(), policies=policies, where=("nowhere",)) == {}


def test_shares():
    assert placed(CNN(maps=(3,), dense=()), share=("row", "column"), where=("hidden",)) == {"conv1": {"row", "column"}}
    assert placed(LSTM(hidden=4), share=("batch", "step")) == {"layer1.state": {"batch", "step"}}
    assert placed(LSTM(hidden=4), share=()) == {"layer1.state": set()}  # a new mask at every step
    assert refused(MLP(), share=("step",)) == (
        "strategy.share=step: no such axis at the chosen sites; they have batch, unit"
    )
    assert "they have batch, step, unit" in refused(LSTM(), share=("row",))


def test_acting_nowhere_means_nothing_else():
    policies = {"gradual": Gradual()}
    canonical = strategy(where=("nowhere",), rate=0.3, share=("batch",), policies=policies).canonical()
    assert canonical == strategy(where=("nowhere",), rate=0.0, input_rate=0.0)
    somewhere = strategy(rate=0.3, policies=policies)
    assert somewhere.canonical() == somewhere


# ---- the rate


def test_the_rate_is_that_of_the_run():
    stack = stacked([strategy(rate=0.25), strategy(rate=0.5), strategy(rate=0.0)])
    assert stack.rate_at(HIDDEN, CLOCK, {}, {}).tolist() == [0.25, 0.5, 0]


def test_the_input_rate_bounds_the_rate_at_inputs_alone():
    assert rate(INPUT, rate=0.5, input_rate=0.125).tolist() == [0.125]
    assert rate(INPUT, rate=0.125, input_rate=0.25).tolist() == [0.125]
    assert rate(HIDDEN, rate=0.5, input_rate=0.125).tolist() == [0.5]
    assert rate(INPUT, rate=0.5, input_rate=0.25, policies={"a": Given((0.5,))}).tolist() == [0.125]


def test_the_rate_is_the_product_of_all_factors():
    policies = {"a": Given((0.5,)), "b": Gradual(until=1.0), "c": Given((0.5,))}
    assert rate(rate=0.75, clock=Clock(5, 10, 0, 1), policies=policies).item() == 0.75 / 8


def test_factors_commute():
    named = {"a": Given((0.3,)), "b": Gradual(until=1.0), "c": Given((((0.1, 0.7, 0.9),),))}
    rates = [rate(rate=0.9, policies={name: named[name] for name in order}) for order in permutations(named)]
    for other in rates[1:]:
        torch.testing.assert_close(other, rates[0], rtol=1e-6, atol=0)
    assert rates[0].flatten().tolist() == pytest.approx([0.9 * 0.3 * 0.3 * share for share in (0.1, 0.7, 0.9)])


def test_the_rate_is_capped_and_never_negative():
    assert rate(rate=0.5, cap=0.25).tolist() == [0.25]
    assert rate(rate=0.5, cap=0.75, policies={"a": Given((3.0,))}).tolist() == [0.75]
    assert rate(rate=0.5, policies={"a": Given((-1.0,))}).tolist() == [0]
    assert rate(rate=0.5, cap=0.5, policies={"a": Given((((0.5, 1.5),),))}).tolist() == [[[0.25, 0.5]]]
    assert rate(INPUT, rate=0.5, input_rate=0.5, cap=0.25).tolist() == [0.25]


def test_factors_that_tell_runs_examples_and_units_apart():
    units = Given((((1.0, 0.0),), ((0.5, 0.25),)))  # [2, 1, 2]
    runs = Given((1.0, 0.5))  # [2]
    expected = [[[0.5, 0.0]], [[0.125, 0.0625]]]
    assert rate(runs=2, rate=0.5, policies={"u": units, "r": runs}).tolist() == expected
    assert rate(runs=2, rate=0.5, policies={"r": runs, "u": units}).tolist() == expected
    examples = Given(fact="length")
    length = torch.tensor([[0.5, 1.0, 0.25], [1.0, 1.0, 0.0]])
    both = rate(runs=2, rate=0.5, policies={"e": examples, "u": units}, facts={"length": length})
    assert both.shape == (2, 3, 2)
    assert both[0].tolist() == [[0.25, 0], [0.5, 0], [0.125, 0]]
    assert both[1].tolist() == [[0.25, 0.125], [0.25, 0.125], [0, 0]]


def test_a_rate_is_spread_over_the_axes_of_the_value():
    flat = torch.tensor([0.1, 0.2])
    assert spread(flat, ("step", "batch", "unit")).shape == (2, 1, 1, 1)
    full = torch.rand(2, 3, 4)
    assert torch.equal(spread(full, ("batch", "unit")), full)
    assert torch.equal(spread(full, ("step", "batch", "unit")), full.unsqueeze(1))
    assert torch.equal(spread(full, ("batch", "unit", "row", "column")), full[..., None, None])
    assert torch.equal(spread(full[:, :1], ("source", "unit")), full[:, :1])


def test_policies_have_state_and_move_by_the_signals_they_need():
    counted = stacked([strategy(policies={"count": Counting(), "gradual": Gradual(until=1.0)})] * 2)
    assert counted.needs == {"train_loss"}
    assert strategy(policies={"gradual": Gradual()}).needs == strategy().needs == frozenset()
    state = counted.init(2)
    assert set(state) == {"count", "gradual"}
    state = counted.update(state, Signals(train_loss=torch.tensor([0.5, 0.25])))
    assert state["count"]["ticks"].tolist() == [1, 1]
    assert counted.rate_at(HIDDEN, Clock(5, 10, 0, 1), state, {}).tolist() == [0.125, 0.0625]


# ---- the noise of a step


def step_noise(sites, runs=2, step=0, seeds=None, facts=None, purpose="noise", watched=False, **changes):
    each = stacked([strategy(**changes)] * runs)
    streams = Streams(seeds or tuple(range(runs)))
    placements = strategy(**changes).place(sites)
    clock = Clock(step, 10, 0, 1)
    return StepNoise(each, placements, streams, clock, each.init(runs), facts or {}, watched, purpose)


def test_a_site_that_is_not_chosen_gives_the_very_value_back():
    noise = step_noise((INPUT, HIDDEN), where=("hidden",))
    value = torch.rand(2, 3, 4)
    assert noise("input", value) is value
    assert noise.perturbation("input", (2, 3, 4)) is None
    assert noise("hidden1", value) is not value
    nothing = step_noise((INPUT, HIDDEN), where=("nowhere",))
    assert nothing("hidden1", value) is value


def test_the_walk_of_rate_0_3():
    """The draws of the site are compared with 0.3 and kept values divided by 0.7."""
    noise = step_noise((HIDDEN,), rate=0.3, step=5)
    value = torch.arange(1.0, 25).view(2, 3, 4)
    words = Streams((0, 1)).bits("noise", 5, "hidden1", (3, 4)).to(torch.int64) + 2**15
    expected = torch.where(words < round(0.3 * 2**16), 0, value / 0.7)
    torch.testing.assert_close(noise("hidden1", value), expected)


def test_a_mask_is_shared_along_the_axes_that_are_named():
    shape = (2, 6, 5, 4)  # [R, step, batch, unit]
    for share in ((), ("step",), ("batch",), ("step", "batch"), ("unit",), ("step", "unit")):
        scale = step_noise((PER_STEP,), where=("state",), share=share).perturbation("layer1.state", shape).scale
        scale = scale.expand(shape)
        assert not torch.equal(scale[0], scale[1])
        for axis, name in enumerate(PER_STEP.axes, start=1):
            constant = bool((scale == scale.narrow(axis, 0, 1)).all())
            assert constant == (name in share), (share, name)


def test_by_default_a_sequence_keeps_its_mask_and_another_sequence_has_another():
    noise = step_noise((PER_STEP,), rate=0.5)
    perturbation = noise.perturbation("layer1.state", (2, 6, 50, 4))
    assert perturbation.scale.shape == (2, 1, 50, 4)
    assert len(perturbation.scale[0, 0].unique(dim=0)) == 16  # of 50 sequences, every mask of 4 units
    masks = [perturbation.at(1, step).scale for step in range(6)]
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_a_mask_shared_by_the_whole_batch_is_one():
    noise = step_noise((HIDDEN,), share=("batch",), rate=0.5)
    value = torch.ones(2, 7, 4)
    dropped = noise("hidden1", value) == 0
    assert torch.equal(dropped, dropped[:, :1].expand(2, 7, 4))


def test_a_mask_shared_by_a_map_drops_whole_maps():
    sites = CNN(maps=(3,), dense=()).sites(IMAGE)
    noise = step_noise(sites, where=("hidden",), share=("row", "column"), rate=0.5)
    value = noise("conv1", torch.ones(2, 9, 3, 4, 4))
    per_map = value.flatten(3)
    assert ((per_map == 0).all(3) | (per_map == 2).all(3)).all()
    assert 0 < (per_map == 0).float().mean() < 1


def test_rates_of_units_and_of_examples_reach_the_mask():
    """Half of the units are never touched; the others are dropped at the rate of their example."""
    shape = (1, 2000, 4)
    units = Given((((0.0, 1.0, 0.0, 1.0),),))
    length = torch.cat([torch.full((1, 1000), 0.5), torch.ones(1, 1000)], 1)
    policies = {"units": units, "examples": Given(fact="length")}
    noise = step_noise((HIDDEN,), runs=1, rate=0.5, policies=policies, facts={"length": length})
    result = noise("hidden1", torch.ones(shape))[0]
    assert (result[:, ::2] == 1).all()
    dropped = (result[:, 1::2] == 0).float().view(2, -1).mean(1)
    assert dropped.tolist() == pytest.approx([0.25, 0.5], abs=4.5 * (0.25 / 2000) ** 0.5)
    assert result[:1000, 1].max().item() == pytest.approx(1 / 0.75)
    assert result[1000:, 1].max().item() == 2


@pytest.mark.parametrize("noise", [Bernoulli(), Gaussian()], ids=lambda noise: noise.kind())
def test_examples_with_rates_of_their_own_may_share_a_draw(noise):
    """One draw for the batch, held against the rate of each example: the mask of a higher rate contains the lower's."""
    length = torch.tensor([[0.0, 0.5, 1.0]])
    bound = step_noise(
        (HIDDEN,), runs=1, noise=noise, share=("batch",), rate=0.6, policies={"e": Given(fact="length")},
        facts={"length": length}, watched=True,
    )  # fmt: skip
    result = bound("hidden1", torch.ones(1, 3, 4))[0]
    assert result.shape == (3, 4)
    assert (result[0] == 1).all()
    if isinstance(noise, Bernoulli):
        assert ((result[1] == 0) <= (result[2] == 0)).all()
    else:
        torch.testing.assert_close((result[2] - 1) / (result[1] - 1), torch.full((4,), (1.5 / (0.3 / 0.7)) ** 0.5))
    assert bound.asked["hidden1"].tolist() == pytest.approx([0.3])
    assert bound.realised["hidden1"].shape == (1,)


def test_a_dropped_unit_has_no_gradient_and_a_kept_one_its_share():
    for noise, shape, name in (
        (step_noise((HIDDEN,), rate=0.25), (2, 3, 4), "hidden1"),
        (step_noise((PER_STEP,), rate=0.25), (2, 6, 3, 4), "layer1.state"),
    ):
        value = torch.ones(shape, requires_grad=True)
        result = noise(name, value)
        (gradient,) = torch.autograd.grad(result.sum(), value)
        dropped = result == 0
        assert 0 < dropped.sum() < dropped.numel()
        assert (gradient[dropped] == 0).all()
        torch.testing.assert_close(gradient[~dropped], torch.full_like(gradient[~dropped], 4 / 3))


def test_what_is_asked_and_what_came_of_it_are_noted_when_watched():
    noise = step_noise((HIDDEN,), rate=0.5, watched=True)
    value = noise("hidden1", torch.ones(2, 50, 4))
    assert noise.asked["hidden1"].tolist() == [0.5, 0.5]
    assert torch.equal(noise.realised["hidden1"], (value == 0).flatten(1).float().mean(1))
    assert noise.realised["hidden1"].unique().numel() == 2
    unwatched = step_noise((HIDDEN,), rate=0.5)
    unwatched("hidden1", torch.ones(2, 50, 4))
    assert unwatched.asked == unwatched.realised == {}


def test_draws_depend_on_step_site_purpose_and_seed_and_on_nothing_else():
    second = replace(HIDDEN, name="hidden2")

    def mask(name="hidden1", slot=0, **changes):
        return step_noise((HIDDEN, second), rate=0.5, **changes).perturbation(name, (2, 30, 4)).scale[slot]

    base = mask()
    assert torch.equal(base, mask())
    assert torch.equal(base, mask(seeds=(5, 0), slot=1))  # the slot of a stack is nothing
    for other in (mask(step=1), mask("hidden2"), mask(purpose="eval"), mask(slot=1), mask(seeds=(9, 1))):
        assert not torch.equal(base, other)


def test_a_higher_rate_drops_what_a_lower_one_drops_and_more():
    """Runs that differ by rate alone are compared on the same draws."""
    low, high = (step_noise((HIDDEN,), rate=r).perturbation("hidden1", (2, 100, 4)).scale == 0 for r in (0.2, 0.6))
    assert (low <= high).all()
    assert low.sum() < high.sum()


def test_evaluation_gives_the_value_itself():
    for noise in (Bernoulli(), Gaussian()):
        each = stacked([strategy(noise=noise)] * 2)
        expected = ExpectedNoise(each, strategy(noise=noise).place((INPUT, HIDDEN)), CLOCK, {}, {})
        value = torch.rand(2, 3, 4)
        for name in ("input", "hidden1", "elsewhere"):
            assert expected(name, value) is value
            assert expected.perturbation(name, (2, 3, 4)) is None


def test_evaluation_applies_the_expectation_of_a_noise_that_has_one():
    @dataclass(frozen=True)
    class Plain(Bernoulli):
        """Not inverted: evaluation scales by the keep probability."""

        def expect(self, rate):
            from dropbench.noise import Perturbation

            return Perturbation(1 - rate)

    each = stacked([strategy(noise=Plain(), rate=r) for r in (0.25, 0.5)])
    placements = strategy(noise=Plain()).place((PER_STEP,))
    expected = ExpectedNoise(each, placements, CLOCK, {}, {})
    assert expected("layer1.state", torch.ones(2, 3, 1, 1)).flatten().tolist() == [0.75] * 3 + [0.5] * 3


def test_a_stack_is_made_of_strategies_that_differ_in_numbers_alone():
    gradual = {"gradual": Gradual(until=0.25)}
    stack = stacked([strategy(rate=0.1, policies=gradual), strategy(rate=0.2, policies={"gradual": Gradual()})])
    assert stack.rate.tolist() == pytest.approx([0.1, 0.2])
    assert stack.policies["gradual"].until.tolist() == [0.25, 0.5]
    for other in (strategy(policies={}), strategy(noise=Gaussian(), policies=gradual), strategy(share=())):
        with pytest.raises(ValueError, match="stack"):
            stacked([strategy(policies=gradual), other])


def test_a_strategy_of_the_bench_walks_through_the_model():
    checked = config("strategy=gradual", *MODELS["mlp"])
    assert build(Strategy, {"noise": "bernoulli", "objective": "cross_entropy"}).rate == 0.5
    assert list(checked.strategy.place(checked.model.sites(IMAGE))) == ["input", "hidden1", "hidden2"]
    stack = stacked([checked.strategy])
    for step, expected in ((0, 0.0), (25, 0.25), (50, 0.5), (100, 0.5)):
        found = stack.rate_at(HIDDEN, Clock(step, 100, 0, 1), stack.init(1), {})
        assert found.tolist() == pytest.approx([expected])
        found = stack.rate_at(INPUT, Clock(step, 100, 0, 1), stack.init(1), {})
        assert found.tolist() == pytest.approx([0.4 * expected])
