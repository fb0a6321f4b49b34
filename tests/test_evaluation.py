"""The figures of an evaluation against plain numpy, written down from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dropbench import evaluation
from dropbench.data import Split
from dropbench.evaluation import PASS, Examples, evaluate, examples, gaussian_nll, monte_carlo
from dropbench.spec import Facts

CLASSES = 7
CLASSIFICATION = Facts("vector", (CLASSES,), "classification", CLASSES)
PER_STEP = Facts("sequence", (5, CLASSES), "classification", CLASSES, per_step=True)
REGRESSION = Facts("vector", (2,), "regression", 2)
#: Each run multiplies the inputs, which are the outputs of run 0, by its own number.
FACTORS = (1.0, -0.7, 5.0)


def forward(batch: Examples) -> torch.Tensor:
    return batch.inputs * torch.tensor(FACTORS).view(-1, *(1,) * (batch.inputs.dim() - 1))


def plainly(batch: Examples) -> torch.Tensor:
    return batch.inputs


def split_of(count: int, shape: tuple[int, ...], hidden: float = 0.0) -> Split:
    """Random logits, and targets of which a share `hidden` is -100."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(count, *shape)).astype(np.float32) * 2
    targets = rng.integers(0, CLASSES, size=(count, *shape[:-1]))
    targets[rng.random(targets.shape) < hidden] = -100
    return Split(torch.from_numpy(logits), torch.from_numpy(targets))


def expected(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """One answer after the other, in double precision."""
    count = 0
    nll = wrong = brier = 0.0
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for z, y in zip(logits.reshape(-1, CLASSES).astype(float), targets.reshape(-1), strict=True):
        if y == -100:
            continue
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        truth = np.eye(CLASSES)[y]
        count += 1
        nll -= math.log(p[y])
        wrong += p.argmax() != y
        brier += ((p - truth) ** 2).sum()
        place = next(place for place in range(15) if place / 15 < p.max() <= (place + 1) / 15 + 1e-12)
        bins[place].append((p.max(), p.argmax() == y))
    ece = sum(
        len(inside) / count * abs(np.mean([right for _, right in inside]) - np.mean([sure for sure, _ in inside]))
        for inside in bins
        if inside
    )
    return {"loss": nll / count, "error": 100 * wrong / count, "nll": nll / count, "ece": ece, "brier": brier / count}


def check(split: Split, facts: Facts) -> None:
    figures = evaluate(forward, split, facts, len(FACTORS))
    assert figures.keys() == {"loss", "error", "nll", "ece", "brier"}
    for run, factor in enumerate(FACTORS):
        wanted = expected(split.inputs.numpy() * np.float32(factor), split.targets.numpy())
        for name, value in wanted.items():
            assert figures[name][run] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert len({round(value, 3) for value in figures["loss"]}) == len(FACTORS)


def test_one_answer_an_example():
    check(split_of(200, (CLASSES,)), CLASSIFICATION)


def test_one_answer_a_step_some_not_asked():
    check(split_of(60, (5, CLASSES), hidden=0.4), PER_STEP)


def test_what_is_not_asked_does_not_count():
    split = split_of(40, (5, CLASSES))
    more = Split(torch.cat([split.inputs, 9 * split.inputs]), torch.cat([split.targets, -100 + 0 * split.targets]))
    figures = evaluate(forward, more, PER_STEP, 3)
    for name, values in evaluate(forward, split, PER_STEP, 3).items():
        assert figures[name] == pytest.approx(values, rel=1e-5), name


def test_figures_by_hand():
    """Two classes and three sure answers: right at 0.8, wrong at 0.8, right at 0.5 + a breath."""
    z = math.log(4)  # softmax (0.8, 0.2)
    split = Split(torch.tensor([[z, 0.0], [z, 0.0], [0.001, 0.0]]), torch.tensor([0, 1, 0]))
    figures = evaluate(plainly, split, Facts("vector", (2,), "classification", 2), 1)
    assert figures["error"] == pytest.approx([100 / 3])
    assert (
        figures["loss"] == figures["nll"] == pytest.approx([-(math.log(0.8) + math.log(0.2) + math.log(0.5)) / 3], 1e-3)
    )
    assert figures["brier"] == pytest.approx([(0.08 + 1.28 + 0.5) / 3], rel=2e-3)
    assert figures["ece"] == pytest.approx([2 / 3 * (0.8 - 0.5) + 1 / 3 * 0.5], rel=2e-3)


@pytest.mark.parametrize("place", range(2, 15))
def test_neighbouring_bins_of_the_confidence_stay_apart(place):
    """A right answer in one bin does not make up for a wrong one in the next."""
    sure = [(place - 0.5) / 15, (place + 0.5) / 15]
    logits = torch.zeros(2, 15)
    logits[:, 0] = torch.tensor([math.log(14 * each / (1 - each)) for each in sure])
    figures = evaluate(plainly, Split(logits, torch.tensor([0, 1])), Facts("vector", (15,), "classification", 15), 1)
    assert figures["ece"] == pytest.approx([(1 - sure[0] + sure[1]) / 2], rel=1e-5)


def test_sure_answers_fall_into_the_last_bin_and_lose_nothing():
    split = Split(torch.tensor([[200.0, 0.0], [0.0, 200.0]]), torch.tensor([0, 1]))
    figures = evaluate(plainly, split, Facts("vector", (2,), "classification", 2), 1)
    assert figures == {"loss": [0.0], "error": [0.0], "nll": [0.0], "ece": [0.0], "brier": [0.0]}


@pytest.mark.parametrize("facts", [CLASSIFICATION, REGRESSION], ids=["classification", "regression"])
@pytest.mark.parametrize("examples", [1, 50, 100])
def test_pieces_do_not_change_the_figures(monkeypatch, facts, examples):
    split = split_of(230, (CLASSES,))
    if facts is REGRESSION:
        split = Split(split.inputs[:, :2], split.inputs[:, 2:4])
    whole = evaluate(forward, split, facts, 3)
    sizes = []

    def counted(batch: Examples) -> torch.Tensor:
        sizes.append(batch.inputs.shape[1])
        return forward(batch)

    monkeypatch.setattr(evaluation, "PASS", examples)
    pieces = evaluate(counted, split, facts, 3)
    assert len(sizes) > 2
    assert sum(sizes) == 230
    assert pieces.keys() == whole.keys()
    for name, values in whole.items():
        exact = name == "error"
        assert pieces[name] == (values if exact else pytest.approx(values, rel=1e-5))


def test_the_pieces_are_the_same_for_every_stack():
    split = split_of(600, (CLASSES,))
    sizes: dict[int, list[int]] = {}
    for runs in (1, 3, 32):

        def counted(batch: Examples, runs: int = runs) -> torch.Tensor:
            sizes.setdefault(runs, []).append(batch.inputs.shape[1])
            return batch.inputs

        evaluate(counted, split, CLASSIFICATION, runs)
    assert sizes[1] == sizes[3] == sizes[32]


def test_regression():
    rng = np.random.default_rng(4)
    outputs, targets = rng.normal(size=(2, 90, 2)).astype(np.float32)
    figures = evaluate(forward, Split(torch.from_numpy(outputs), torch.from_numpy(targets)), REGRESSION, 3)
    assert figures.keys() == {"loss", "rmse"}
    for run, factor in enumerate(FACTORS):
        wanted = np.mean((outputs * factor - targets) ** 2, dtype=float)
        assert figures["loss"][run] == pytest.approx(wanted, rel=1e-5)
        assert figures["rmse"][run] == pytest.approx(math.sqrt(wanted), rel=1e-5)


def test_gaussian_nll():
    rng = np.random.default_rng(5)
    outputs, targets = rng.normal(size=(2, 50))
    for variance in (0.25, 1.0, 7.0):
        wanted = -scipy.stats.norm.logpdf(targets, outputs, math.sqrt(variance)).mean()
        assert gaussian_nll(float(np.mean((outputs - targets) ** 2)), variance) == pytest.approx(wanted, rel=1e-6)
    assert math.isfinite(gaussian_nll(0.0, 0.0))


def test_an_evaluation_leaves_no_graph():
    weight = torch.ones(3, 1, 1, requires_grad=True)

    def forward(batch: Examples) -> torch.Tensor:
        outputs = batch.inputs * weight
        assert not outputs.requires_grad
        return outputs

    evaluate(forward, split_of(10, (CLASSES,)), CLASSIFICATION, 3)


def test_every_run_sees_the_same_examples_with_their_facts():
    split = split_of(9, (CLASSES,))
    split = Split(split.inputs, split.targets, {"steps": torch.arange(9)})
    batch = examples(split.part(2, 6), 3)
    assert batch.inputs.shape == (3, 4, CLASSES)
    assert torch.equal(batch.inputs[2], split.inputs[2:6])
    assert batch.facts["steps"].tolist() == [[2, 3, 4, 5]] * 3
    seen = []

    def forward(batch: Examples) -> torch.Tensor:
        seen.append(batch.facts["steps"][0])
        return batch.inputs

    evaluate(forward, split, CLASSIFICATION, 3)
    assert torch.cat(seen).tolist() == list(range(9))


# ---- Monte Carlo


def noisy(batch: Examples, key: int) -> torch.Tensor:
    """Another answer for every key, run and class."""
    runs, classes = batch.inputs.shape[0], batch.inputs.shape[-1]
    shifts = torch.sin(torch.arange(runs * classes) * 1.7 + key).view(runs, *(1,) * (batch.inputs.dim() - 2), classes)
    return forward(batch) + 2 * shifts


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z - z.max(-1, keepdims=True)) / np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("split", "facts"),
    [(split_of(40, (CLASSES,)), CLASSIFICATION), (split_of(20, (5, CLASSES), hidden=0.4), PER_STEP)],
    ids=["an example", "a step"],
)
def test_monte_carlo_averages_probabilities(split, facts):
    figures = monte_carlo(noisy, split, facts, 3, samples=5)
    assert figures.keys() == {"loss", "error", "nll", "ece", "brier", "entropy"}
    batch, asked = examples(split, 3), split.targets.numpy() != -100
    mean = np.mean([softmax(noisy(batch, key).double().numpy()) for key in range(5)], 0)
    for run in range(3):
        wanted = expected(np.log(mean[run]), split.targets.numpy())
        wanted["entropy"] = float(-(mean[run] * np.log(mean[run])).sum(-1)[asked].mean())
        for name, value in wanted.items():
            assert figures[name][run] == pytest.approx(value, rel=1e-6), name
    assert figures["nll"] != pytest.approx(evaluate(forward, split, facts, 3)["nll"], rel=1e-3)


def test_monte_carlo_of_one_sure_net_is_its_evaluation():
    split = split_of(50, (CLASSES,))
    figures = monte_carlo(lambda batch, _: forward(batch), split, CLASSIFICATION, 3, samples=3)
    for name, values in evaluate(forward, split, CLASSIFICATION, 3).items():
        assert figures[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


def test_entropy_by_hand():
    """Nets that contradict one another are unsure together: log 2; nets that agree are sure: 0."""
    split = Split(torch.tensor([[50.0, 0.0]]), torch.tensor([0]))
    facts = Facts("vector", (2,), "classification", 2)
    agree = monte_carlo(lambda batch, _: batch.inputs, split, facts, 1, samples=2)
    assert agree["entropy"] == pytest.approx([0], abs=1e-9)
    contradict = monte_carlo(lambda batch, key: batch.inputs.roll(key, -1), split, facts, 1, samples=2)
    assert contradict["entropy"] == pytest.approx([math.log(2)])
    assert contradict["nll"] == pytest.approx([math.log(2)])


def test_monte_carlo_of_real_targets():
    rng = np.random.default_rng(6)
    outputs, targets = rng.normal(size=(2, 60, 2)).astype(np.float32)
    split, variance = Split(torch.from_numpy(outputs), torch.from_numpy(targets)), [0.25, 1.0, 4.0]
    figures = monte_carlo(noisy, split, REGRESSION, 3, 4, variance)
    assert figures.keys() == {"loss", "rmse", "nll"}
    passes = np.stack([noisy(examples(split, 3), key).double().numpy() for key in range(4)])
    for run in range(3):
        wanted = np.mean((passes[:, run].mean(0) - targets) ** 2)
        assert figures["loss"][run] == pytest.approx(wanted, rel=1e-6)
        assert figures["rmse"][run] == pytest.approx(math.sqrt(wanted), rel=1e-6)
        likely = scipy.stats.norm.pdf(targets, passes[:, run], math.sqrt(variance[run])).mean(0)
        assert figures["nll"][run] == pytest.approx(-np.log(likely).mean(), rel=1e-6)


def test_every_pass_of_every_piece_has_draws_of_its_own():
    """Keyed by the pass: the stack does not decide the size of a piece."""
    split, seen = split_of(2 * PASS + 7, (CLASSES,)), []

    def counted(batch: Examples, key: int) -> torch.Tensor:
        seen.append((batch.inputs.shape[1], key))
        return batch.inputs

    for runs in (1, 30):
        seen.clear()
        monte_carlo(counted, split, CLASSIFICATION, runs, samples=2)
        assert seen == [(PASS, 0), (PASS, 1), (PASS, 2), (PASS, 3), (7, 4), (7, 5)]
