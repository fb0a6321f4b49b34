"""The twins that keep a comparison honest: `control=mean` and `control=shuffled`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dropbench.errors import UserError
from dropbench.spec import Clock, Scene
from dropbench.stack import stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dropbench.config import Config
    from dropbench.data import Data

#: Steps at which a schedule is looked at to find its mean.
LOOKS = 2000


def twin(config: Config, data: Data, recorded: Mapping[str, float] | None = None) -> Config:
    """The run that stands for `config.control`.

    `mean`: no policies, and at every site the rate that the run has on average over its training. `shuffled`: what the
    policies choose is chosen at random.

    Args:
        config: of the run.
        data: it trains on.
        recorded: the mean rate at every site of the run that is controlled, where the config `needs_record`.

    Raises:
        UserError: there is nothing to control: no policy, or none that makes a choice that could be shuffled.
    """
    strategy = config.strategy
    if config.control == "none":
        return config
    if not strategy.policies:
        raise UserError(f"control={config.control}: the rates of this strategy do not move; allowed: none")
    if config.control == "shuffled":
        shuffled = {name: policy.shuffled() for name, policy in strategy.policies.items()}
        if not any(shuffled.values()):
            raise UserError("control=shuffled: no policy of this strategy chooses elements; nearest: strategy=targeted")
        policies = {name: twin or strategy.policies[name] for name, twin in shuffled.items()}
        return replace(config, strategy=replace(strategy, policies=policies))
    rates = _mean_rates(config, data) if recorded is None else recorded
    # Where the run itself does nothing, because a policy leaves the site out, its twin does nothing either.
    return replace(config, strategy=replace(strategy, policies={}, rates={**rates, "*": 0.0}))


def data_of_twin(config: Config, data: Data) -> Data:
    """The data that the twin trains on: without what the run itself holds out for its policies."""
    if config.control != "mean" or "held_out_loss" not in config.strategy.needs:
        return data
    from dropbench.data.splits import hold_out
    from dropbench.signals import HELD_OUT

    return replace(data, train=hold_out(data.train, HELD_OUT)[0])


def _mean_rates(config: Config, data: Data) -> dict[str, float]:
    """The mean over the training of the rate that a schedule sets at each site."""
    strategy = stacked([config.strategy])
    placements = config.strategy.place(config.model.sites(data.facts), data.facts)
    steps = config.epochs * -(-len(data.train) // min(config.batch_size, len(data.train)))
    looks = sorted({look * steps // LOOKS for look in range(LOOKS)}) if steps > LOOKS else range(steps)
    total = dict.fromkeys(placements, 0.0)
    state = strategy.init(1, tuple(placement.site for placement in placements.values()))
    for step in looks:
        # Policies that are timed read the clock alone.
        scene = Scene(Clock(step, steps, 0, config.epochs), {}, {}, 0, data.facts.task, None)  # type: ignore[arg-type]
        for name, placement in placements.items():
            total[name] += strategy.rate_at(placement.site, state, scene).mean().item()
    return {name: value / len(looks) for name, value in total.items()}
