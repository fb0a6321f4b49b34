"""Targeted dropout: who is chosen, against rankings worked out by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scenes import CARRY, HIDDEN, MAP, STATE, WEIGHT, scene

from dropbench.errors import UserError
from dropbench.models import Parameter
from dropbench.policies.targeted import Targeted
from dropbench.schema import build
from dropbench.spec import Facts, Signals
from dropbench.stack import stacked

FACTS = Facts("vector", (3,), "classification", 2)
#: Columns of norm 5, 1, 13 and 2.
W = torch.tensor([[[3.0, 0.0, 0.0, 2.0], [4.0, 1.0, -5.0, 0.0], [0.0, 0.0, 12.0, 0.0]]])
DENSE = {"w": Parameter("w", (3, 4), unit_axis=1)}


def chosen(*policies: Targeted, weights: torch.Tensor = W, site=HIDDEN, state=None, seeds=(0,)) -> torch.Tensor:
    now = scene(params={site.weight: weights}, declared=DENSE, seeds=seeds)
    return stacked(policies).factor(site, state or {}, now)


# ---- units


def test_the_units_of_least_norm_are_chosen():
    factor = chosen(Targeted())
    assert factor.shape == (1, 1, 4)
    assert factor.flatten().tolist() == [0, 1, 0, 1]


def test_adversarial_chooses_those_of_greatest_norm():
    assert chosen(Targeted(direction="adversarial")).flatten().tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [(0.25, [0, 1, 0, 0]), (0.5, [0, 1, 0, 1]), (0.75, [1, 1, 0, 1]), (1.0, [1, 1, 1, 1]), (0.7, [1, 1, 0, 1])],
)
def test_gamma_is_the_share_that_is_chosen(gamma, expected):
    assert chosen(Targeted(gamma=gamma)).flatten().tolist() == expected


def test_every_run_ranks_its_own_weights_and_has_its_own_gamma():
    both = torch.cat([W, W.flip(2)])
    result = chosen(Targeted(gamma=0.25), Targeted(gamma=0.75), weights=both, seeds=(0, 1))
    assert result.flatten(1).tolist() == [[0, 1, 0, 0], [1, 0, 1, 1]]


def test_of_units_that_are_equal_just_as_many_are_chosen():
    assert chosen(Targeted(), weights=torch.ones(1, 3, 4)).sum() == 2


def test_the_expected_share_that_is_dropped_is_gamma_times_the_rate():
    # Gomez et al.: a share 1 - gamma alpha is kept
    rate = 0.66
    for gamma in (0.25, 0.5, 0.75):
        assert (chosen(Targeted(gamma=gamma)) * rate).mean().item() == pytest.approx(gamma * rate)


def test_maps_are_ranked_by_their_kernels():
    kernels = torch.zeros(1, 2, 3, 2, 2)  # [R, maps, inputs, rows, columns]
    kernels[0, 0, 1], kernels[0, 1, 0, 0, 0] = 0.5, 1.5  # norms 1 and 1.5
    now = scene(params={"k": kernels}, declared={"k": Parameter("k", (2, 3, 2, 2), unit_axis=0)})
    factor = stacked([Targeted()]).factor(MAP, {}, now)
    assert factor.shape == (1, 1, 2, 1, 1)
    assert factor.flatten().tolist() == [1, 0]


@pytest.mark.parametrize("site", [STATE, CARRY])
def test_recurrent_units_are_ranked_by_their_weights_over_all_gates(site):
    # two units, four gates, gate after gate; squares of unit 0: 4 + 0 + 0 + 0, of unit 1: 4 times 1.5^2 = 9
    u = torch.zeros(1, 2, 8)
    u[0, 0, 0] = 2.0
    u[0, 1, 1::2] = 1.5
    now = scene(params={"u": u}, declared={"u": Parameter("u", (2, 8), unit_axis=1)})
    assert now.norms(site)[0].tolist() == pytest.approx([2, 3])
    factor = stacked([Targeted()]).factor(site, {}, now)
    assert factor.shape == (1, *(2 if axis == "unit" else 1 for axis in site.axes))
    assert factor.flatten().tolist() == [1, 0]


def test_the_choice_has_no_gradient():
    weight = W.clone().requires_grad_()
    assert not chosen(Targeted(), weights=weight).requires_grad
    assert not chosen(Targeted(), weights=weight, site=WEIGHT).requires_grad


# ---- weights


def test_the_smallest_weights_into_each_unit_are_chosen_column_by_column():
    weights = torch.tensor([[[0.1, -4.0, 9.0, 1.0], [-0.2, 0.5, 7.0, -3.0], [0.3, 2.0, -8.0, 2.0]]])
    factor = chosen(Targeted(gamma=1 / 3), weights=weights, site=WEIGHT)
    assert factor.shape == (1, 1, 3, 4)  # one mask for the batch
    assert factor[0, 0].tolist() == [[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    factor = chosen(Targeted(gamma=2 / 3, direction="adversarial"), weights=weights, site=WEIGHT)
    assert factor[0, 0].tolist() == [[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 1, 1]]


def test_the_kernel_of_each_map_is_a_column_of_its_own():
    site = replace(WEIGHT, axes=("batch", "unit", "source", "row", "column"), units=2, weight="k", shape=(2, 1, 2, 2))
    kernels = torch.tensor([[[[1.0, -2.0], [3.0, 0.5]]], [[[40.0, 10.0], [-20.0, 30.0]]]]).unsqueeze(0)
    now = scene(params={"k": kernels}, declared={"k": Parameter("k", (2, 1, 2, 2), unit_axis=0)})
    factor = stacked([Targeted()]).factor(site, {}, now)
    assert factor.shape == (1, 1, 2, 1, 2, 2)
    assert factor[0, 0].tolist() == [[[[1, 0], [0, 1]]], [[[0, 1], [1, 0]]]]


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("direction", ["protective", "adversarial"])
def test_as_a_sort_of_each_column(gamma, direction):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 10, 6, generator=generator)
    site = replace(WEIGHT, units=6, shape=(10, 6))
    factor = chosen(*[Targeted(gamma=gamma, direction=direction)] * 2, weights=weights, site=site, seeds=(0, 1))
    for run in range(2):
        for unit in range(6):
            column = weights[run, :, unit].abs().tolist()
            order = sorted(range(10), key=column.__getitem__, reverse=direction == "adversarial")
            picked = set(factor[run, 0, :, unit].nonzero().flatten().tolist())
            assert picked == set(order[: round(gamma * 10)])


# ---- measured scores


def test_saliency_is_a_running_mean_and_the_least_salient_are_chosen():
    policy = stacked([Targeted(score="saliency", memory=0.75)])
    state = policy.init(1, (HIDDEN,))
    assert state["hidden1"].tolist() == [[0, 0, 0, 0]]
    state = policy.update(state, Signals(saliency={"hidden1": torch.tensor([[4.0, 1.0, 2.0, 3.0]])}))
    assert state["hidden1"].tolist() == [[4, 1, 2, 3]]  # the first measurement as it is
    assert policy.factor(HIDDEN, state, scene()).flatten().tolist() == [0, 1, 1, 0]
    state = policy.update(state, Signals(saliency={"hidden1": torch.tensor([[0.0, 9.0, 2.0, 3.0]])}))
    assert state["hidden1"].tolist() == [[3, 3, 2, 3]]  # 0.75 old + 0.25 new
    state = policy.update(state, Signals(saliency={"hidden1": torch.tensor([[0.0, 9.0, 2.0, 3.0]])}))
    assert state["hidden1"].tolist() == [[2.25, 4.5, 2, 3]]
    assert policy.factor(HIDDEN, state, scene()).flatten().tolist() == [1, 0, 1, 0]
    assert policy.needs == {"saliency"}


def test_adversarial_saliency_chooses_the_most_salient():
    policy = stacked([Targeted(score="saliency", direction="adversarial")])
    state = {"hidden1": torch.tensor([[4.0, 1.0, 2.0, 3.0]])}
    assert policy.factor(HIDDEN, state, scene()).flatten().tolist() == [1, 0, 0, 1]


def test_protective_conflict_drops_what_is_most_in_conflict():
    conflict = {"hidden1": torch.tensor([[0.1, 0.9, 0.5, 0.2]])}
    for direction, expected in (("protective", [0, 1, 1, 0]), ("adversarial", [1, 0, 0, 1])):
        policy = stacked([Targeted(score="gradient_conflict", direction=direction)])
        state = policy.update(policy.init(1, (HIDDEN,)), Signals(conflict=conflict))
        assert policy.factor(HIDDEN, state, scene()).flatten().tolist() == expected
        assert policy.needs == {"conflict"}


def test_a_site_that_was_not_measured_keeps_its_scores():
    policy = stacked([Targeted(score="saliency")])
    state = {"hidden1": torch.tensor([[4.0, 1.0, 2.0, 3.0]])}
    assert policy.update(state, Signals())["hidden1"] is state["hidden1"]


def test_magnitude_remembers_and_measures_nothing():
    policy = stacked([Targeted()])
    assert policy.init(1, (HIDDEN,)) == {}
    assert policy.needs == frozenset()
    assert not Targeted.timed


# ---- given scores


def given(tmp_path: Path, content: object, **changes: object) -> Targeted:
    path = tmp_path / "scores.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Targeted(**{"score": "given", "file": str(path), **changes})


def test_scores_from_a_file(tmp_path):
    policy = stacked([given(tmp_path, {"hidden1": [0.3, -1, 2, 0.1], "other": [1]})] * 2)
    state = policy.init(2, (HIDDEN,))
    assert state["hidden1"].tolist() == [pytest.approx([0.3, -1, 2, 0.1])] * 2
    assert policy.factor(HIDDEN, state, scene(seeds=(0, 1))).flatten(1).tolist() == [[0, 1, 0, 1]] * 2
    assert torch.equal(policy.update(state, Signals())["hidden1"], state["hidden1"])
    assert given(tmp_path, {"hidden1": [1, 2, 3, 4]}).idle((HIDDEN,), FACTS) is None


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "",
        [1, 2, 3, 4],
        {"hidden2": [1, 2, 3, 4]},
        {"hidden1": 3},
        {"hidden1": None},
        {"hidden1": "1234"},
        {"hidden1": [1, 2, 3, "4"]},
        {"hidden1": [1, 2, 3, None]},
        {"hidden1": [1, 2, 3, [4]]},
        {"hidden1": [1, 2, 3, math.nan]},
        {"hidden1": [1, 2, 3, 10**400]},
    ],
    ids=str,
)
def test_a_file_that_is_not_a_mapping_of_lists_of_numbers_is_refused(tmp_path, content):
    policy = given(tmp_path, content)
    with pytest.raises(UserError) as error:
        policy.idle((HIDDEN,), FACTS)
    assert str(error.value) == (
        f"strategy.policies.targeted.file={tmp_path / 'scores.json'}: allowed: a JSON mapping with a list of numbers "
        "for the site hidden1"
    )


def test_a_file_with_too_few_scores_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"scores\.json: 3 scores for hidden1, which has 4 units$"):
        given(tmp_path, {"hidden1": [1, 2, 3]}).idle((HIDDEN,), FACTS)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    policy = Targeted(score="given", file=str(tmp_path / "none.json"))
    with pytest.raises(UserError, match=r"targeted\.file=.*none\.json: No such file or directory$"):
        policy.idle((HIDDEN,), FACTS)


def test_a_file_goes_with_given_scores_and_with_nothing_else():
    with pytest.raises(UserError, match=r"policies\.targeted: file=None: score=given needs one"):
        build(Targeted, {"score": "given"}, "strategy.policies.targeted")
    with pytest.raises(UserError, match=r"policies\.targeted: file=a\.json: score=magnitude has none"):
        build(Targeted, {"file": "a.json"}, "strategy.policies.targeted")


# ---- the shuffled twin


@pytest.mark.parametrize(("site", "ranked_along"), [(HIDDEN, -1), (WEIGHT, -2)])
def test_the_shuffled_twin_chooses_as_many_at_random_and_always_the_same(site, ranked_along):
    weights = torch.randn(3, 40, 50, generator=torch.Generator().manual_seed(0))
    site = replace(site, units=50, shape=(40, 50))
    plain = [Targeted()] * 3
    twin = [policy.shuffled() for policy in plain]
    assert all(policy == Targeted(shuffle=True) for policy in twin)
    ranked = chosen(*plain, weights=weights, site=site, seeds=(0, 1, 2))
    dealt = chosen(*twin, weights=weights, site=site, seeds=(0, 1, 2))
    assert torch.equal(dealt, chosen(*twin, weights=weights, site=site, seeds=(0, 1, 2)))
    assert torch.equal(dealt.sum(ranked_along), ranked.sum(ranked_along))
    agreement = (dealt == ranked).float().flatten(1).mean(1)
    assert ((agreement > 0.2) & (agreement < 0.8)).all()  # about half, by chance
    assert not torch.equal(dealt[0], dealt[1])


def test_a_run_is_dealt_the_same_in_any_stack():
    weights = W.expand(2, 3, 4)
    both = chosen(*[Targeted(shuffle=True)] * 2, weights=weights, seeds=(7, 8))
    alone = chosen(Targeted(shuffle=True), weights=W, seeds=(8,))
    assert torch.equal(both[1:], alone)


# ---- where it has no place


def test_what_has_no_score_is_refused():
    policy = Targeted()
    assert policy.misfit(HIDDEN, frozenset()) is None
    assert policy.misfit(WEIGHT, frozenset({"batch"})) is None
    for kind in ("input", "embedding"):
        assert "not those of the input" in policy.misfit(replace(HIDDEN, kind=kind), frozenset())
    assert "no weights of its own" in policy.misfit(replace(HIDDEN, weight=None), frozenset())
    assert Targeted(score="saliency").misfit(replace(HIDDEN, weight=None), frozenset()) is None
    for score in ("saliency", "gradient_conflict"):
        assert "nearest: magnitude" in Targeted(score=score).misfit(WEIGHT, frozenset())


def test_a_share_in_which_nothing_lies_is_refused():
    # 4 units: 0.1 * 4 rounds to 0; 3 weights into each unit: 0.15 * 3 does, while 0.2 * 3 rounds to 1
    assert "no unit of the 4 at hidden1" in Targeted(gamma=0.1).misfit(HIDDEN, frozenset())
    assert Targeted(gamma=0.2).misfit(HIDDEN, frozenset()) is None
    assert "no weight into a unit of the 3 at w" in Targeted(gamma=0.15).misfit(WEIGHT, frozenset())
    assert Targeted(gamma=0.2).misfit(WEIGHT, frozenset()) is None
