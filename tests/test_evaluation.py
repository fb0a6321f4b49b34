"""The figures of an evaluation against plain numpy, written down from their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from dropbench import evaluation
from dropbench.data import Split
from dropbench.evaluation import evaluate, gaussian_nll
from dropbench.spec import Facts

CLASSES = 7
CLASSIFICATION = Facts("vector", (CLASSES,), "classification", CLASSES)
PER_STEP = Facts("sequence", (5, CLASSES), "classification", CLASSES, per_step=True)
REGRESSION = Facts("vector", (2,), "regression", 2)
#: Each run multiplies the inputs, which are the outputs of run 0, by its own number.
FACTORS = (1.0, -0.7, 5.0)


def forward(inputs: torch.Tensor) -> torch.Tensor:
    return inputs * torch.tensor(FACTORS).view(-1, *(1,) * (inputs.dim() - 1))


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
    figures = evaluate(lambda inputs: inputs, split, Facts("vector", (2,), "classification", 2), 1)
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
    figures = evaluate(
        lambda inputs: inputs, Split(logits, torch.tensor([0, 1])), Facts("vector", (15,), "classification", 15), 1
    )
    assert figures["ece"] == pytest.approx([(1 - sure[0] + sure[1]) / 2], rel=1e-5)


def test_sure_answers_fall_into_the_last_bin_and_lose_nothing():
    split = Split(torch.tensor([[200.0, 0.0], [0.0, 200.0]]), torch.tensor([0, 1]))
    figures = evaluate(lambda inputs: inputs, split, Facts("vector", (2,), "classification", 2), 1)
    assert figures == {"loss": [0.0], "error": [0.0], "nll": [0.0], "ece": [0.0], "brier": [0.0]}


@pytest.mark.parametrize("facts", [CLASSIFICATION, REGRESSION], ids=["classification", "regression"])
@pytest.mark.parametrize("examples", [1, 150, 300])
def test_pieces_do_not_change_the_figures(monkeypatch, facts, examples):
    split = split_of(230, (CLASSES,))
    if facts is REGRESSION:
        split = Split(split.inputs[:, :2], split.inputs[:, 2:4])
    whole = evaluate(forward, split, facts, 3)
    sizes = []

    def counted(inputs: torch.Tensor) -> torch.Tensor:
        sizes.append(inputs.shape[1])
        return forward(inputs)

    monkeypatch.setattr(evaluation, "EXAMPLES", examples)
    pieces = evaluate(counted, split, facts, 3)
    assert len(sizes) > 2
    assert sum(sizes) == 230
    assert pieces.keys() == whole.keys()
    for name, values in whole.items():
        exact = name == "error"
        assert pieces[name] == (values if exact else pytest.approx(values, rel=1e-5))


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

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        outputs = inputs * weight
        assert not outputs.requires_grad
        return outputs

    evaluate(forward, split_of(10, (CLASSES,)), CLASSIFICATION, 3)
