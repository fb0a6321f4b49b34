"""Where a strategy acts, at which rate, and along which axes a mask is shared; numbers worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations

import pytest
import torch
from support import MODELS, config, message, scene_at

from dropbench.acting import ExpectedNoise, StepNoise
from dropbench.errors import UserError
from dropbench.models import Parameter
from dropbench.models.cnn import CNN
from dropbench.models.lstm import LSTM
from dropbench.models.mlp import MLP
from dropbench.noise import Perturbation
from dropbench.noise.bernoulli import Bernoulli
from dropbench.noise.gaussian import Gaussian
from dropbench.noise.zoneout import Zoneout
from dropbench.objectives.cross_entropy import CrossEntropy
from dropbench.policies import Policy, along
from dropbench.policies.gradual import Gradual
from dropbench.schema import build
from dropbench.spec import Clock, Facts, Signals, Site
from dropbench.stack import stacked
from dropbench.strategy import Strategy
from dropbench.streams import Streams

IMAGE = Facts("image", (1, 8, 8), "classification", 10)
ANSWERS = Facts("sequence", (12, 3), "classification", 4, per_step=True)
CLOCK = Clock(3, 10, 0, 1)
HIDDEN = Site("hidden1", "hidden", 1.0, ("batch", "unit"), 4)
INPUT = Site("input", "input", 0.0, ("batch", "unit"), 4)
MAPS = Site("conv1", "hidden", 0.5, ("batch", "unit", "row", "column"), 3)
IMAGES = Site("input", "input", 0.0, ("batch", "unit", "row", "column"), 1)
STATE = Site("layer1.state", "state", 1.0, ("step", "batch", "gate", "unit"), 4)
CELL = Site("layer1.cell", "cell", 1.0, ("step", "batch", "unit"), 4)


def strategy(**changes: object) -> Strategy:
    return Strategy(**{"noise": Bernoulli(), "objective": CrossEntropy(), **changes})


@dataclass(frozen=True)
class Given(Policy):
    """A factor for each run, or for each run and unit; knows the batch by its facts if `fact` is set."""

    values: tuple[object, ...] = ()
    fact: str = ""

    def factor(self, site, state, scene):
        if self.fact:
            return along(site, scene.facts[self.fact], "batch")
        values = torch.tensor(self.values)
        return along(site, values, "unit") if values.dim() > 1 else values


@dataclass(frozen=True)
class Counting(Policy):
    """Counts the control ticks and remembers the last loss."""

    needs = frozenset({"train_loss"})

    def init(self, runs, sites):
        return {"ticks": torch.zeros(runs), "loss": torch.ones(runs)}

    def update(self, state, signals):
        return {"ticks": state["ticks"] + 1, "loss": signals.train_loss}

    def factor(self, site, state, scene):
        return state["loss"]


def rate(site: Site = HIDDEN, runs: int = 1, clock: Clock = CLOCK, facts=None, **changes: object) -> torch.Tensor:
    each = stacked([strategy(**changes)] * runs)
    return each.rate_at(site, {name: {} for name in each.policies}, scene_at(clock, facts))


# ---- where


def placed(model, facts: Facts = IMAGE, **changes: object) -> dict[str, set[str]]:
    """The chosen sites and which of their axes share a mask."""
    placements = strategy(**changes).place(model.sites(facts), facts)
    assert all(placement.site.name == name for name, placement in placements.items())
    return {name: set(placement.shared) & set(placement.site.axes) for name, placement in placements.items()}


def test_auto_is_input_and_hidden_where_nothing_recurs():
    assert placed(MLP(widths=(5, 4))) == {"input": set(), "hidden1": set(), "hidden2": set()}
    assert placed(CNN(maps=(3,), dense=(4, 5))) == {"input": set(), "conv1": set(), "dense1": set(), "dense2": set()}


def test_auto_is_the_recommended_transition_in_a_recurrent_net():
    tied = {"step", "gate"}
    assert placed(LSTM(hidden=4, layers=2)) == {"layer1.state": tied, "layer2.state": tied}
    both = placed(LSTM(hidden=4, bidirectional=True))
    assert both == {"layer1.state": tied, "layer1.reverse.state": tied}
    assert placed(LSTM(hidden=4), where=("transition",)) == placed(LSTM(hidden=4))
    for cell in ("gru", "rnn"):
        assert placed(LSTM(hidden=4, cell=cell)) == {"layer1.state": tied}


def test_a_noise_recommends_its_own_transition():
    @dataclass(frozen=True)
    class OnCells(Bernoulli):
        transition = ("cell", ("batch",))

    assert placed(LSTM(hidden=4), noise=OnCells()) == {"layer1.cell": {"batch"}}
    assert placed(LSTM(hidden=4), noise=OnCells(), where=("cell", "state")) == {
        "layer1.cell": {"batch"},
        "layer1.state": {"gate"},
    }
    assert set(placed(LSTM(hidden=4, cell="gru"), noise=Zoneout())) == {"layer1.carry_h"}
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
        (("weight",), {"layer1.weight_ih", "layer2.weight_ih"}),
        (("recurrent_weight",), {"layer1.recurrent_weight", "layer2.recurrent_weight"}),
        (("transition", "hidden"), {"layer1.state", "layer2.state", "hidden1", "hidden2"}),
        (("auto", "input"), {"layer1.state", "layer2.state", "input"}),
    ],
)
def test_kinds(where, names):
    assert set(placed(LSTM(layers=2), where=where)) == names


def test_maps_are_the_hidden_maps_and_the_branches_of_a_convolution():
    net = CNN(maps=(3, 4), dense=(5,), residual=1)
    assert set(placed(net, where=("map",))) == {"conv1", "branch1.1", "conv2", "branch2.1"}
    assert set(placed(net, where=("branch",))) == {"branch1.1", "branch2.1"}
    assert set(placed(net, where=("hidden",))) == {"conv1", "conv2", "dense1"}


def test_symbols_pass_two_sites():
    symbols = Facts("sequence", (12, 6), "classification", 4, symbols=True)
    assert set(placed(LSTM(), symbols, where=("embedding",))) == {"embedding"}
    assert set(placed(LSTM(), symbols, where=("input",))) == {"input"}


def test_a_recurrent_answer_at_every_step_is_a_site_with_steps():
    sites = {site.name: site for site in LSTM(hidden=4).sites(ANSWERS)}
    assert sites["hidden1"].axes == ("step", "batch", "unit")
    assert placed(LSTM(hidden=4), ANSWERS, where=("hidden",), share=("step",)) == {"hidden1": {"step"}}


def refused(model, facts: Facts = IMAGE, **changes: object) -> str:
    with pytest.raises(UserError) as error:
        strategy(**changes).place(model.sites(facts), facts)
    return message(error)


def test_what_could_not_act_is_refused_with_the_reason():
    assert refused(MLP(), where=("state",)) == (
        "strategy.where=state: no such site in the model, which has input, weight, hidden; nearest: model=lstm"
    )
    assert refused(LSTM(), where=("carry",)) == (
        "strategy.where=carry: bernoulli noise acts on input, embedding, hidden, branch, weight, state, candidate, "
        "cell, recurrent_weight"
    )
    assert refused(MLP(), where=("transition",)).endswith("; nearest: model=lstm")
    assert refused(MLP(), where=("map",)).endswith("; nearest: model=cnn")
    assert refused(CNN(), where=("branch",)).endswith("; nearest: model=cnn_residual")
    assert "dataset=temporal_order" in refused(LSTM(), where=("embedding",))
    assert "no such site" in refused(LSTM(cell="rnn"), where=("cell",))
    assert "no such site" in refused(MLP(widths=()), where=("hidden",))
    assert "no such site" in refused(MLP(), where=())


def test_a_noise_says_why_it_does_not_fit_a_site():
    @dataclass(frozen=True)
    class Narrow(Bernoulli):
        def misfit(self, site):
            return None if site.units < 5 else f"{site.name} is too wide"

    assert set(placed(MLP(widths=(4, 6)), noise=Narrow())) == {"hidden1"}  # what fits is left
    assert refused(MLP(widths=(7, 6)), noise=Narrow()) == "strategy.noise=test_strategy: hidden2 is too wide"


def test_a_policy_that_never_acts_is_refused():
    policies = {"first": Gradual(), "flat": Gradual(start=0.0, end=0.0)}
    assert refused(MLP(), policies=policies).startswith("strategy.policies.flat: its factor never leaves 0")
    assert placed(MLP(), policies=policies, where=("nowhere",)) == {}


def test_a_policy_says_why_it_has_no_rate_for_a_site_or_nothing_to_tell_apart():
    @dataclass(frozen=True)
    class Choosy(Given):
        needed: str = "row"

        def misfit(self, site, shared):
            return None if self.needed in site.axes and "batch" not in shared else f"{site.name} has no {self.needed}"

    @dataclass(frozen=True)
    class Idle(Given):
        def idle(self, sites, facts):
            return f"{len(sites)} sites and {facts.outputs} classes are all the same"

    net, choosy = CNN(maps=(3,), dense=(4,)), {"choosy": Choosy()}
    assert set(placed(net, policies=choosy)) == {"input", "conv1"}
    assert refused(net, policies=choosy, share=("batch",)) == "strategy.policies.choosy: dense1 has no row"
    both = {**choosy, "idle": Idle()}
    assert refused(net, policies=both) == "strategy.policies.idle: 2 sites and 10 classes are all the same"


def test_shares():
    assert placed(CNN(maps=(3,), dense=()), share=("row", "column"), where=("hidden",)) == {"conv1": {"row", "column"}}
    assert placed(LSTM(hidden=4), share=("batch", "step")) == {"layer1.state": {"batch", "step"}}
    assert placed(LSTM(hidden=4), share=()) == {"layer1.state": set()}  # a new mask at every step and gate
    assert refused(MLP(), share=("step",)) == (
        "strategy.share=step: no such axis at the chosen sites; they have batch, unit; nearest: model=lstm"
    )
    assert "they have batch, gate, step, unit" in refused(LSTM(), share=("row",))
    weights = placed(LSTM(hidden=4), where=("weight", "recurrent_weight"))
    assert weights == {"layer1.weight_ih": {"batch"}, "layer1.recurrent_weight": {"batch"}}
    assert placed(MLP(widths=(5,)), where=("weight",), share=()) == {"hidden1.weight": set()}  # one an example


def test_a_noise_may_drop_whole_maps():
    @dataclass(frozen=True)
    class Whole(Bernoulli):
        whole_maps = True

    net = CNN(maps=(3,), dense=(4,))
    assert placed(net, noise=Whole()) == {"input": set(), "conv1": {"row", "column"}, "dense1": set()}
    assert placed(net, noise=Whole(), share=("batch",))["conv1"] == {"batch"}


def test_sites_of_a_kind_in_a_layer_may_share_their_draws():
    def keys(**changes: object) -> list[str]:
        sites = LSTM(hidden=4, layers=2).sites(IMAGE)
        placements = strategy(noise=Zoneout(), where=("carry",), **changes).place(sites, IMAGE)
        return [placement.key for placement in placements.values()]

    apart = [f"layer{layer}.carry_{state}" for layer in (1, 2) for state in ("c", "h")]
    assert keys() == keys(share=("step",)) == apart
    assert keys(share=("site",)) == keys(share=("unit", "site")) == ["layer1.carry"] * 2 + ["layer2.carry"] * 2
    mlp = strategy(share=("site",)).place(MLP().sites(IMAGE), IMAGE)
    assert [placement.key for placement in mlp.values()] == ["input", "hidden1", "hidden2"]  # each its own layer


def test_acting_nowhere_means_nothing_else():
    changes = {"rate": 0.3, "share": ("batch",), "policies": {"gradual": Gradual()}, "rates": {"hidden": 0.1}}
    canonical = strategy(where=("nowhere",), **changes).canonical()
    nothing = {"rate": 0.0, "input_rate": 0.0, "image_rate": 0.0, "map_rate": 0.0}
    assert canonical == strategy(where=("nowhere",), **nothing)
    somewhere = strategy(**changes)
    assert somewhere.canonical() == somewhere


# ---- the rate


def test_the_rate_is_that_of_the_run():
    stack = stacked([strategy(rate=0.25), strategy(rate=0.5), strategy(rate=0.0)])
    assert stack.rate_at(HIDDEN, {}, scene_at()).tolist() == [0.25, 0.5, 0]


def test_the_input_rate_bounds_the_rate_at_inputs_alone():
    assert rate(INPUT, rate=0.5, input_rate=0.125).tolist() == [0.125]
    assert rate(INPUT, rate=0.125, input_rate=0.25).tolist() == [0.125]
    assert rate(HIDDEN, rate=0.5, input_rate=0.125).tolist() == [0.5]
    assert rate(INPUT, rate=0.5, input_rate=0.25, policies={"a": Given((0.5,))}).tolist() == [0.125]


def test_images_and_maps_have_bounds_of_their_own():
    bounds = {"rate": 0.75, "input_rate": 0.5, "image_rate": 0.125, "map_rate": 0.25}
    branch, symbols = replace(MAPS, kind="branch"), replace(INPUT, kind="embedding")
    expected = {IMAGES: 0.125, INPUT: 0.5, symbols: 0.5, MAPS: 0.25, branch: 0.25, HIDDEN: 0.75, STATE: 0.75}
    assert {site: rate(site, **bounds).item() for site in expected} == expected


def test_rates_bound_single_sites_by_the_first_name_or_kind_that_fits():
    rates = {"hidden1": 0.125, "conv*": 0.375, "hidden": 0.25, "input": 0.5}
    second = replace(HIDDEN, name="hidden2")
    bounds = {"rate": 0.75, "rates": rates, "input_rate": 0.0, "map_rate": 0.0}
    expected = {HIDDEN: 0.125, second: 0.25, MAPS: 0.375, INPUT: 0.5, STATE: 0.75}  # in place of the other bounds
    assert {site: rate(site, **bounds).item() for site in expected} == expected
    assert rate(HIDDEN, rate=0.0625, rates=rates).item() == 0.0625  # a bound, not a rate
    turned = dict(reversed(rates.items()))
    assert rate(HIDDEN, rate=0.75, rates=turned).item() == 0.25


def test_a_bound_for_no_chosen_site_is_refused():
    assert refused(MLP(), rates={"hiden1": 0.1}) == (
        "strategy.rates.hiden1: no such site is chosen; known: input, hidden1, hidden2; nearest: hidden1"
    )
    assert refused(MLP(), rates={"input": 0.1}, where=("hidden",)).startswith("strategy.rates.input: no such site is ")
    assert set(placed(MLP(), rates={"input": 0.1, "hidden?": 0.2})) == {"input", "hidden1", "hidden2"}


def test_the_rate_is_the_product_of_all_factors():
    policies = {"a": Given((0.5,)), "b": Gradual(until=1.0), "c": Given((0.5,))}
    assert rate(rate=0.75, clock=Clock(5, 10, 0, 1), policies=policies).item() == 0.75 / 8


def test_factors_commute():
    named = {"a": Given((0.3,)), "b": Gradual(until=1.0), "c": Given(((0.1, 0.7, 0.9),))}
    rates = [rate(rate=0.9, policies={name: named[name] for name in order}) for order in permutations(named)]
    for other in rates[1:]:
        torch.testing.assert_close(other, rates[0], rtol=1e-6, atol=0)
    assert rates[0].flatten().tolist() == pytest.approx([0.9 * 0.3 * 0.3 * share for share in (0.1, 0.7, 0.9)])


def test_the_rate_is_capped_and_never_negative():
    assert rate(rate=0.5, cap=0.25).tolist() == [0.25]
    assert rate(rate=0.5, cap=0.75, policies={"a": Given((3.0,))}).tolist() == [0.75]
    assert rate(rate=0.5, policies={"a": Given((-1.0,))}).tolist() == [0]
    assert rate(rate=0.5, cap=0.5, policies={"a": Given(((0.5, 1.5),))}).tolist() == [[[0.25, 0.5]]]
    assert rate(INPUT, rate=0.5, input_rate=0.5, cap=0.25).tolist() == [0.25]


def test_factors_that_tell_runs_examples_and_units_apart():
    units = Given(((1.0, 0.0), (0.5, 0.25)))  # [2 runs, 2 units]
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


def test_figures_are_laid_along_the_axes_of_a_site():
    full = torch.rand(2, 3, 4)  # batch, unit
    matrix = Site("hidden1.weight", "weight", 1.0, ("batch", "source", "unit"), 4)
    assert torch.equal(along(HIDDEN, full, "batch", "unit"), full)
    assert torch.equal(along(STATE, full, "batch", "unit"), full[:, None, :, None])
    assert torch.equal(along(MAPS, full, "batch", "unit"), full[..., None, None])
    assert torch.equal(along(MAPS, full, "unit", "batch"), full.transpose(1, 2)[..., None, None])
    assert torch.equal(along(matrix, full, "source", "unit"), full[:, None])
    assert torch.equal(along(STATE, full[..., 0], "batch"), full[:, None, :, None, :1])


def test_policies_have_state_and_move_by_the_signals_they_need():
    counted = stacked([strategy(policies={"count": Counting(), "gradual": Gradual(until=1.0)})] * 2)
    assert counted.needs == {"train_loss"}
    assert strategy(policies={"gradual": Gradual()}).needs == strategy().needs == frozenset()
    state = counted.init(2, (HIDDEN,))
    assert set(state) == {"count", "gradual"}
    state = counted.update(state, Signals(train_loss=torch.tensor([0.5, 0.25])))
    assert state["count"]["ticks"].tolist() == [1, 1]
    assert counted.rate_at(HIDDEN, state, scene_at(Clock(5, 10, 0, 1))).tolist() == [0.125, 0.0625]


def test_the_figures_that_policies_ask_for_are_put_together():
    @dataclass(frozen=True)
    class Curious(Given):
        figures = frozenset({"length"})

    assert strategy().figures == frozenset()
    assert strategy(policies={"a": Curious(), "b": Gradual()}).figures == {"length"}


# ---- the noise of a step


def acting(kind, sites, runs=2, step=0, seeds=None, facts=None, net=IMAGE, test_scaled=False, changes=None, **more):
    each = stacked([strategy(**(changes or {}))] * runs)
    seeds = seeds or tuple(range(runs))
    return kind(
        strategy=each, placements=strategy(**(changes or {})).place(sites, net), state=each.init(runs, sites),
        scene=scene_at(Clock(step, 10, 0, 1), facts, seeds), test_scaled=test_scaled, **more,
    )  # fmt: skip


def step_noise(sites, runs=2, step=0, seeds=None, facts=None, purpose="noise", key=None, watched=False,
               test_scaled=False, **changes):  # fmt: skip
    return acting(
        StepNoise, sites, runs, step, seeds, facts, test_scaled=test_scaled, changes=changes,
        streams=Streams(seeds or tuple(range(runs))), purpose=purpose, key=key, watched=watched,
    )  # fmt: skip


def expected_noise(sites, runs=2, test_scaled=False, **changes):
    return acting(ExpectedNoise, sites, runs, test_scaled=test_scaled, changes=changes)


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
    shape = (2, 6, 5, 3, 4)  # [R, step, batch, gate, unit]
    for share in ((), ("step",), ("batch",), ("gate",), ("step", "batch"), ("unit",), ("step", "gate", "unit")):
        scale = step_noise((STATE,), where=("state",), share=share).perturbation("layer1.state", shape).scale
        scale = scale.expand(shape)
        assert not torch.equal(scale[0], scale[1])
        for axis, name in enumerate(STATE.axes, start=1):
            constant = bool((scale == scale.narrow(axis, 0, 1)).all())
            assert constant == (name in share), (share, name)


def test_by_default_a_sequence_keeps_its_mask_and_another_sequence_has_another():
    noise = step_noise((STATE,), rate=0.5)
    perturbation = noise.perturbation("layer1.state", (2, 6, 50, 4, 4))
    assert perturbation.scale.shape == (2, 1, 50, 1, 4)
    assert len(perturbation.scale[0, 0, :, 0].unique(dim=0)) == 16  # of 50 sequences, every mask of 4 units
    masks = [perturbation.at(1, step).scale for step in range(6)]
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_a_mask_shared_by_the_whole_batch_is_one():
    noise = step_noise((HIDDEN,), share=("batch",), rate=0.5)
    value = torch.ones(2, 7, 4)
    dropped = noise("hidden1", value) == 0
    assert torch.equal(dropped, dropped[:, :1].expand(2, 7, 4))


def test_a_mask_shared_by_a_map_drops_whole_maps():
    noise = step_noise((MAPS,), share=("row", "column"), rate=0.5, map_rate=0.5)
    value = noise("conv1", torch.ones(2, 9, 3, 4, 4))
    per_map = value.flatten(3)
    assert ((per_map == 0).all(3) | (per_map == 2).all(3)).all()
    assert 0 < (per_map == 0).float().mean() < 1


def test_a_mask_shared_by_the_sites_of_a_layer_is_one():
    sites = tuple(site for site in LSTM(hidden=4).sites(IMAGE) if site.kind == "carry")
    shape = (2, 6, 5, 4)
    for share, same in ((("site",), True), ((), False)):
        noise = step_noise(sites, noise=Zoneout(), rate=0.5, share=share)
        c, h = (noise.perturbation(site.name, shape).scale for site in sites)
        assert torch.equal(c, h) == same


def test_rates_of_units_and_of_examples_reach_the_mask():
    """Half of the units are never touched; the others are dropped at the rate of their example."""
    shape = (1, 2000, 4)
    units = Given(((0.0, 1.0, 0.0, 1.0),))
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
        (step_noise((STATE,), rate=0.25), (2, 6, 3, 4, 4), "layer1.state"),
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


def test_a_rate_that_no_policy_moves_is_computed_once():
    noise = step_noise((HIDDEN,), rate=0.25)
    noise("hidden1", torch.ones(2, 5, 4))
    assert noise.constant["hidden1"].shape == (2, 1, 1)
    again = replace(noise, scene=scene_at(Clock(9, 10, 0, 1)))
    assert again.constant is noise.constant  # for all steps of a training
    moved = step_noise((HIDDEN,), rate=0.25, policies={"gradual": Gradual()})
    moved("hidden1", torch.ones(2, 5, 4))
    assert moved.constant == {}


def test_draws_depend_on_step_site_purpose_and_seed_and_on_nothing_else():
    second = replace(HIDDEN, name="hidden2")

    def mask(name="hidden1", slot=0, **changes):
        return step_noise((HIDDEN, second), rate=0.5, **changes).perturbation(name, (2, 30, 4)).scale[slot]

    base = mask()
    assert torch.equal(base, mask())
    assert torch.equal(base, mask(seeds=(5, 0), slot=1))  # the slot of a stack is nothing
    assert torch.equal(mask(step=1), mask(key=1))  # a key stands in the place of the step
    for other in (mask(step=1), mask("hidden2"), mask(purpose="eval"), mask(slot=1), mask(seeds=(9, 1))):
        assert not torch.equal(base, other)


def test_a_higher_rate_drops_what_a_lower_one_drops_and_more():
    """Runs that differ by rate alone are compared on the same draws."""
    low, high = (step_noise((HIDDEN,), rate=r).perturbation("hidden1", (2, 100, 4)).scale == 0 for r in (0.2, 0.6))
    assert (low <= high).all()
    assert low.sum() < high.sum()


# ---- what is carried, and where noise is scaled


def test_a_scale_on_what_is_carried_stands_where_it_is_read():
    """A cell is 0 or itself, however many steps; the factor 1 / (1 - rate) comes with the reading."""
    shape = (2, 6, 5, 4)
    acted = step_noise((CELL,), where=("cell",), rate=0.75).perturbation("layer1.cell", shape)
    assert acted.scale.unique().tolist() == [0, 1]
    assert acted.readout.unique().tolist() == [4]
    assert acted.at(1, 3).readout.unique().tolist() == [4]
    for site in (HIDDEN, STATE):
        values = {"hidden1": (2, 5, 4), "layer1.state": (2, 6, 5, 1, 4)}
        acted = step_noise((site,), where=(site.kind,), rate=0.75).perturbation(site.name, values[site.name])
        assert acted.scale.unique().tolist() == [0, 4]
        assert acted.readout is None
    assert expected_noise((CELL,), where=("cell",), rate=0.75).perturbation("layer1.cell", shape) is None


def test_scaling_in_evaluation():
    """`scaling=test`: 0 or the value in training, the value times 1 - rate in evaluation; the same draws."""
    shape = (2, 50, 4)
    plainly = step_noise((HIDDEN,), rate=0.75).perturbation("hidden1", shape)
    acted = step_noise((HIDDEN,), rate=0.75, test_scaled=True).perturbation("hidden1", shape)
    assert torch.equal(acted.scale, plainly.scale / 4)
    assert acted.scale.unique().tolist() == [0, 1]
    evaluation = expected_noise((HIDDEN,), rate=0.75, test_scaled=True)
    assert torch.equal(evaluation("hidden1", torch.full(shape, 8.0)), torch.full(shape, 2.0))
    assert evaluation("input", torch.ones(shape)).eq(1).all()


def test_scaling_in_evaluation_of_what_is_carried():
    shape, changes = (2, 6, 5, 4), {"where": ("cell",), "rate": 0.75, "test_scaled": True}
    acted = step_noise((CELL,), **changes).perturbation("layer1.cell", shape)
    assert acted.scale.unique().tolist() == [0, 1]
    assert acted.readout is None
    evaluation = expected_noise((CELL,), **changes).perturbation("layer1.cell", shape)
    assert evaluation.scale.unique().tolist() == [1]
    assert evaluation.readout.unique().tolist() == [0.25]


def test_scaling_in_evaluation_follows_rates_of_units():
    policies = {"units": Given(((0.0, 1.0, 0.5, 1.0),))}
    evaluation = expected_noise((HIDDEN,), runs=1, rate=0.5, policies=policies, test_scaled=True)
    assert evaluation("hidden1", torch.ones(1, 1, 4)).tolist() == [[[1, 0.5, 0.75, 0.5]]]


# ---- evaluation


def test_evaluation_gives_the_value_itself():
    for noise in (Bernoulli(), Gaussian()):
        expected = expected_noise((INPUT, HIDDEN), noise=noise)
        value = torch.rand(2, 3, 4)
        for name in ("input", "hidden1", "elsewhere"):
            assert expected(name, value) is value
            assert expected.perturbation(name, (2, 3, 4)) is None


def test_evaluation_applies_the_expectation_of_a_noise_that_has_one():
    @dataclass(frozen=True)
    class Plain(Bernoulli):
        """Not inverted: evaluation scales by the keep probability."""

        def expect(self, rate, place):
            return Perturbation(1 - rate)

    each = stacked([strategy(noise=Plain(), rate=r) for r in (0.25, 0.5)])
    placements = strategy(noise=Plain()).place((STATE,), IMAGE)
    expected = ExpectedNoise(strategy=each, placements=placements, state={}, scene=scene_at())
    assert expected("layer1.state", torch.ones(2, 3, 1, 1, 1)).flatten().tolist() == [0.75] * 3 + [0.5] * 3


# ---- noises that know more than a rate


@dataclass(frozen=True)
class Knowing(Bernoulli):
    """Learns a rate at every site, looks at what drives a unit, and has a term of the loss."""

    def learned(self, site):
        return (Parameter("more", (), "zeros"),)

    def effective(self, rate, place):
        more = place.learned["more"].view(-1, *(1 for _ in rate.shape[1:]))
        return rate * more if place.drive is None else rate * more * (place.drive > 0)

    def penalty(self, rate, place):
        return rate.flatten(1).sum(1) * place.scene.examples


def test_a_noise_may_learn_look_at_what_drives_a_unit_and_have_a_term_of_the_loss():
    more = torch.tensor([0.5, 1.0], requires_grad=True)
    noise = step_noise((INPUT, HIDDEN), noise=Knowing(), rate=0.5, input_rate=0.25, where=("hidden",), watched=True)
    noise = replace(noise, scene=replace(noise.scene, params={"noise.hidden1.more": more}))
    drive = torch.tensor([-1.0, 2.0, -3.0, 4.0]).expand(2, 100, 4)
    result = noise("hidden1", torch.ones(2, 100, 4), drive)
    assert (result[..., ::2] == 1).all()
    for run, rate_of_run in enumerate((0.25, 0.5)):
        values = sorted(result[run, :, 1::2].unique().tolist())
        assert values == pytest.approx([0, 1 / (1 - rate_of_run)])
    assert noise.asked["hidden1"].tolist() == [0.125, 0.25]  # the rate that acts, over all units
    assert noise.penalties["hidden1"].tolist() == [0.125 * 400 * 48, 0.25 * 400 * 48]
    (gradient,) = torch.autograd.grad(noise.penalties["hidden1"].sum(), more)
    assert gradient.tolist() == [0.5 * 200 * 48] * 2
    assert step_noise((HIDDEN,)).penalties == {}


def test_a_stack_is_made_of_strategies_that_differ_in_numbers_alone():
    gradual = {"gradual": Gradual(until=0.25)}
    one, other = strategy(rate=0.1, policies=gradual), strategy(rate=0.2, policies={"gradual": Gradual()})
    stack = stacked([replace(one, rates={"hidden": 0.25}), replace(other, rates={"hidden": 0.5})])
    assert stack.rate.tolist() == pytest.approx([0.1, 0.2])
    assert stack.policies["gradual"].until.tolist() == [0.25, 0.5]
    assert stack.rates["hidden"].tolist() == [0.25, 0.5]
    for other in (strategy(policies={}), strategy(noise=Gaussian(), policies=gradual), strategy(share=())):
        with pytest.raises(ValueError, match="stack"):
            stacked([strategy(policies=gradual), other])


def test_a_strategy_of_the_bench_walks_through_the_model():
    checked = config("strategy=gradual", *MODELS["mlp"])
    assert build(Strategy, {"noise": "bernoulli", "objective": "cross_entropy"}).rate == 0.5
    sites = checked.model.sites(IMAGE)
    assert list(checked.strategy.place(sites, IMAGE)) == ["input", "hidden1", "hidden2"]
    stack = stacked([checked.strategy])
    for step, expected in ((0, 0.0), (25, 0.25), (50, 0.5), (100, 0.5)):
        scene = scene_at(Clock(step, 100, 0, 1))
        assert stack.rate_at(HIDDEN, stack.init(1, sites), scene).tolist() == pytest.approx([expected])
        assert stack.rate_at(INPUT, stack.init(1, sites), scene).tolist() == pytest.approx([0.4 * expected])
