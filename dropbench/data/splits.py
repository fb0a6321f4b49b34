"""Stratified splits that are the same for every run: which examples validate, and which train when few may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dropbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from dropbench.data import Split


def stratified(labels: Tensor, name: str) -> Tensor:
    """An order of all examples whose every beginning is stratified: a smaller part is contained in a larger one.

    Example j (from 0, in random order) of a class of n stands at `(j + 1/2) / n`, the first of each class before all
    others. So the first m examples are m seats shared out among the classes by Webster's rule, at least one each.

    Args:
        labels: class numbers, int64 [N].
        name: of the split; another name gives another order.

    Returns:
        int64 [N], the numbers of the examples. A function of the labels and the name alone, for every run seed.
    """
    import torch

    from dropbench.streams import Streams

    shuffled = Streams((0,)).permutation("split", 0, name, len(labels))[0]
    classes = labels[shuffled]
    sizes = classes.bincount()
    by_class = classes.argsort(stable=True)
    first = (sizes.cumsum(0) - sizes)[classes[by_class]]
    rank = torch.empty_like(by_class)
    rank[by_class] = torch.arange(len(labels)) - first
    place = (rank + 0.5).double() / sizes[classes]
    place[rank == 0] = 0
    return shuffled[place.argsort(stable=True)]


def divide(labels: Tensor, validation_size: int, train_size: int | None) -> tuple[Tensor, Tensor]:
    """Cuts the validation part from a training set, then takes `train_size` of what is left (null: all).

    Args:
        labels: of the training set, int64 [N].
        validation_size: examples that validate.
        train_size: examples that train.

    Returns:
        The numbers of the training and of the validation examples, rising.

    Raises:
        UserError: a size that the set cannot give, or less than one example a class.
    """
    classes = int((labels.bincount() > 0).sum())
    whole = f"of {len(labels)} examples in {classes} classes"
    _check("validation_size", validation_size, classes, len(labels) - classes, whole)
    order = stratified(labels, "validation")
    validation, rest = order[:validation_size].sort().values, order[validation_size:].sort().values
    if train_size is None:
        return rest, validation
    _check("train_size", train_size, classes, len(rest), f"{whole}, {validation_size} validate")
    return rest[stratified(labels[rest], "train")[:train_size]].sort().values, validation


def hold_out(split: Split, share: float) -> tuple[Split, Split]:
    """Cuts a part of the training set that neither trains nor selects, the same for every run.

    Args:
        split: the training set.
        share: of it that is held out, but of small sets up to a quarter or 50 examples, since fewer say too little;
            stratified by class where an example has one.

    Returns:
        What is left to train on, and what is held out.
    """
    import torch

    from dropbench.streams import Streams

    count = len(split)
    if split.targets.dim() == 1 and not split.targets.is_floating_point():
        order = stratified(split.targets.cpu(), "held_out")
    else:
        order = Streams((0,)).permutation("split", 0, "held_out", count)[0]
    held = max(1, round(share * count), min(50, count // 4))
    if held >= count:
        raise UserError(f"dataset.train_size={count}: too few examples to hold some out, which strategy.policies needs")
    order = order.to(split.inputs.device)
    rest, out = torch.sort(order[held:]).values, torch.sort(order[:held]).values
    return split.pick(rest), split.pick(out)


def _check(key: str, value: int, low: int, high: int, why: str) -> None:
    if not low <= value <= high:
        raise UserError(f"dataset.{key}={value}: out of range; allowed: {low} <= value <= {high} ({why})")
