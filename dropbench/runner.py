"""The one loop that trains and evaluates R runs at once, on CPU or CUDA.

    state = fresh, or what the checkpoints hold
    while step < steps and some run still learns:
        at the first step of an epoch: order = a random order of the training set for every run
        batch  = the next examples of every run, augmented, repeated `objective.copies` times
        noise  = the strategy bound to this step
        losses = objective(model(batch, noise), targets)                # [R]
        sum(losses).backward(); optimizer.step()                        # each run gets exactly its own gradient
        at a control tick:     strategy.update(the signals that some policy needs)
        at an evaluation tick: figures of train and validation; selection; a record a run; early stop
        now and then, and when asked to stop: a checkpoint a run
    with the selected weights: figures of train, validation and, this once, test; a result a run

A control tick is the end of an epoch, an evaluation tick that of every `evaluation.every`-th. Between ticks nothing is
read back from the device. All randomness is keyed by the step, so a run goes on from any step as if it had not stopped.
"""

from __future__ import annotations

import os
import resource
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dropbench.errors import UserError
from dropbench.evaluation import evaluate, gaussian_nll
from dropbench.memory import keep_freed
from dropbench.models.moments import BatchMoments, RunningMoments
from dropbench.spec import Clock, Signals
from dropbench.stack import stacked
from dropbench.state import History, State, initial
from dropbench.strategy import ExpectedNoise, StepNoise
from dropbench.streams import Streams

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.config import Config
    from dropbench.data import Data, Split
    from dropbench.evaluation import Figures
    from dropbench.runs.checkpoint import Checkpoint

SECONDS_BETWEEN_CHECKPOINTS = 20.0
#: Steps of an epoch on which the realised rates are counted.
WATCHED = 8


class Sink(Protocol):
    """Where the runs of a stack report. `run` is the index in the stack."""

    def progress(self, step: int, steps: int) -> None:
        """`step` of `steps` updates are done."""

    def metrics(self, run: int, record: dict[str, Any]) -> None:
        """One evaluation."""

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """The state of one run."""

    def finish(self, run: int, result: dict[str, Any]) -> None:
        """The figures of a run that is done, or the `error` of one that failed."""

    def interrupted(self) -> bool:
        """Whether to save and stop."""


class Interrupted(Exception):  # noqa: N818 - nothing is wrong
    """The sink asked to stop; every run is saved."""


def device_of(name: str) -> torch.device:
    """The device a config names, with deterministic kernels.

    Raises:
        UserError: it is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if count else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= count:
        there = ", ".join(["auto", "cpu", *(f"cuda:{index}" for index in range(count))])
        raise UserError(f"device={name}: this machine has {count} CUDA devices that torch can use; allowed: {there}")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    keep_freed()
    torch.set_deterministic_debug_mode("error")  # torch.use_deterministic_algorithms would load its compiler: 2 s
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def train(
    configs: Sequence[Config], data: Data, device: torch.device, sink: Sink, checkpoints: Sequence[Checkpoint] = ()
) -> None:
    """Trains R runs of one shape from where they stand to the end.

    Args:
        configs: of the runs; they differ in seeds and real numbers alone.
        data: on any device.
        device: where to train.
        sink: gets every figure.
        checkpoints: one a run, all at one step; or none, to start afresh.

    Raises:
        Interrupted: the sink asked to stop.
    """
    trainer = Trainer(configs, data, device, sink)
    if checkpoints:
        trainer.state.restore(checkpoints)
    trainer.run()


class Trainer:
    """R runs of one shape, stacked; see `train` for the arguments."""

    def __init__(self, configs: Sequence[Config], data: Data, device: torch.device, sink: Sink) -> None:
        self.config = configs[0]  # for what the runs have in common
        self.data, self.facts, self.model, self.sink = data.to(device), data.facts, self.config.model, sink
        self.runs, self.device = len(configs), device
        self.strategy = stacked([config.strategy for config in configs], device)
        self.optimizer = stacked([config.optimizer for config in configs], device)
        self.streams = Streams(tuple(config.seed for config in configs), device)
        self.declared = {parameter.name: parameter for parameter in self.model.parameters(self.facts)}
        self.placements = self.config.strategy.place(self.model.sites(self.facts))
        self.batch_size = min(self.config.batch_size, len(data.train))
        self.steps_per_epoch = -(-len(data.train) // self.batch_size)
        self.steps = self.config.epochs * self.steps_per_epoch
        self.state = self._fresh()
        self.trained = {name: self.state.params[name] for name, item in self.declared.items() if item.trained}
        for tensor in self.trained.values():
            tensor.requires_grad_()

    def run(self) -> None:
        """The loop at the top of this file."""
        state = self.state
        order, order_epoch = torch.empty(0), -1
        saved = started = time.monotonic()
        while state.step < self.steps and any(history.active for history in state.histories):
            epoch, position = divmod(state.step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self.streams.permutation("order", epoch, "train", len(self.data.train)), epoch
            self._update(order[:, position * self.batch_size : (position + 1) * self.batch_size], epoch, position)
            state.step += 1
            self.sink.progress(state.step, self.steps)
            if position + 1 == self.steps_per_epoch:
                self._control_tick()
                if (epoch + 1) % self.config.evaluation.every == 0 or state.step == self.steps:
                    started = self._evaluation_tick(epoch + 1, started)
            if self.sink.interrupted():
                self._checkpoint(started)
                raise Interrupted
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                started = saved = self._checkpoint(started)
        self._checkpoint(started)
        self._finish()

    def _update(self, index: Tensor, epoch: int, position: int) -> None:
        """One step of every run on the examples `index` [R, batch]."""
        state, objective = self.state, self.strategy.objective
        clock = Clock(state.step, self.steps, epoch, self.config.epochs)
        inputs, targets, facts = self.data.train.gather(index)
        if self.data.augment is not None:
            inputs = self.data.augment(inputs, self.streams, state.step)
        if objective.copies > 1:
            inputs = inputs.repeat(1, objective.copies, *(1 for _ in inputs.shape[2:]))
            facts = {name: figure.repeat(1, objective.copies) for name, figure in facts.items()}
        watched = position % -(-self.steps_per_epoch // WATCHED) == 0
        noise = StepNoise(self.strategy, self.placements, self.streams, clock, state.policies, facts, watched)
        with self._autocast():
            outputs = self.model.apply(state.params, inputs, noise, BatchMoments(state.params), self.facts)
        losses = objective.loss(outputs.view(self.runs, objective.copies, -1, *outputs.shape[2:]), targets)
        gradients = torch.autograd.grad(losses.sum(), list(self.trained.values()))
        with torch.no_grad():
            named = dict(zip(self.trained, gradients, strict=True))
            self.optimizer.step(self.trained, named, state.optimizer, clock, self.declared)
            state.losses.append(losses.detach())
            if watched:
                state.watched += 1
                for site, asked in noise.asked.items():
                    state.rates[site] += torch.stack([asked, noise.realised[site]], 1)

    def _control_tick(self) -> None:
        """Moves the policies that look at signals."""
        needs = self.strategy.needs
        if needs:
            recent = torch.stack(self.state.losses[-self.steps_per_epoch :], 1).mean(1)
            self.state.policies = self.strategy.update(self.state.policies, Signals(train_loss=recent))

    def _evaluation_tick(self, epoch: int, started: float) -> float:
        """Measures, selects and records; returns the time from which the next seconds count."""
        state = self.state
        losses = torch.stack(state.losses, 1).cpu()  # waits for the device
        training = time.monotonic() - started
        rates = {site: (total / max(state.watched, 1)).tolist() for site, total in state.rates.items()}
        learning_rate = self.optimizer.rate(self._clock(state.step - 1)).tolist()
        train = self._measure(state.params, self.data.train.head(len(self.data.validation)))
        validation = self._measure(state.params, self.data.validation)
        improved = [
            self._select(run, epoch, {name: figure[run] for name, figure in validation.items()}, losses[run])
            for run in range(self.runs)
        ]
        self._keep(improved)
        seconds = time.monotonic() - started
        for run, history in enumerate(state.histories):
            if history.failed is not None or (history.stopped is not None and history.stopped < epoch):
                continue
            history.evaluations += 1
            history.train_seconds += training / self.runs
            history.seconds += seconds / self.runs
            sites = {}
            for site, figures in rates.items():
                asked, dropped = figures[run]
                sites[site] = {"rate": asked, "dropped": dropped}
                before = history.rates.get(site, [0.0, 0.0])
                history.rates[site] = [before[0] + asked, before[1] + dropped]
            self.sink.metrics(
                run,
                {
                    "epoch": epoch,
                    "step": state.step,
                    "training_loss": losses[run].mean().item(),
                    "train": {name: figure[run] for name, figure in train.items()},
                    "validation": {name: figure[run] for name, figure in validation.items()},
                    "learning_rate": learning_rate[run],
                    "sites": sites,
                    "policies": {
                        name: {key: value[run].tolist() for key, value in tensors.items()}
                        for name, tensors in state.policies.items()
                    },
                    "selected": improved[run],
                    "seconds": history.seconds,
                },
            )
        state.losses, state.watched = [], 0
        for total in state.rates.values():
            total.zero_()
        return time.monotonic()

    def _select(self, run: int, epoch: int, validation: Mapping[str, float], losses: Tensor) -> bool:
        """Whether this evaluation is the one to keep of a run; notes failure and early stop."""
        history = self.state.histories[run]
        if not history.active:
            return False
        bad = (~losses.isfinite()).nonzero()
        score = [validation[name] for name in ("error", "rmse", "loss") if name in validation]
        if len(bad) or not all(value - value == 0 for value in score):
            history.failed = self.state.step - len(losses) + (int(bad[0]) if len(bad) else len(losses))
            self.sink.finish(run, {"error": f"the loss is not finite at step {history.failed} (epoch {epoch})"})
            return False
        better = self.config.selection == "last" or score < history.score
        history.waited = 0 if score < history.score else history.waited + 1
        history.score = min(score, history.score)
        if better:
            history.epoch = epoch
        if self.config.early_stop is not None and history.waited >= self.config.early_stop:
            history.stopped = epoch
        return better

    def _keep(self, improved: Sequence[bool]) -> None:
        """Copies the parameters of the runs for which this evaluation is the best."""
        chosen = torch.tensor(improved, device=self.device)
        for name, tensor in self.state.params.items():
            kept = self.state.selected[name]
            kept.copy_(torch.where(chosen.view(-1, *(1 for _ in tensor.shape[1:])), tensor.detach(), kept))

    def _finish(self) -> None:
        """Reads the test set, once, and hands over the results."""
        if all(history.failed is not None for history in self.state.histories):
            return
        started = time.monotonic()
        params = self.state.selected
        measured = {
            "train": self._measure(params, self.data.train),
            "validation": self._measure(params, self.data.validation),
            "test": self._measure(params, self.data.test),
        }
        seconds = (time.monotonic() - started) / self.runs
        for run, history in enumerate(self.state.histories):
            if history.failed is not None:
                continue
            figures = {
                split: {name: figure[run] for name, figure in values.items()} for split, values in measured.items()
            }
            if self.facts.task == "regression":
                variance = figures["train"]["loss"]
                for values in figures.values():
                    values["nll"] = gaussian_nll(values["loss"], variance)
            epochs = history.stopped or self.config.epochs
            self.sink.finish(
                run,
                {
                    "task": self.facts.task,
                    "epochs": epochs,
                    "steps": epochs * self.steps_per_epoch,
                    "parameters": sum(tensor[0].numel() for tensor in self.trained.values()),
                    "selection": {"rule": self.config.selection, "epoch": history.epoch},
                    **figures,
                    "rates": {
                        site: {"asked": asked / history.evaluations, "realised": realised / history.evaluations}
                        for site, (asked, realised) in history.rates.items()
                    },
                    "seconds": {"total": history.seconds + seconds, "train": history.train_seconds},
                    "peak_memory_bytes": peak_memory(self.device),
                },
            )

    def _measure(self, params: Mapping[str, Tensor], split: Split) -> Figures:
        noise = ExpectedNoise(self.strategy, self.placements, self._clock(self.state.step), self.state.policies, {})

        def forward(inputs: Tensor) -> Tensor:
            with self._autocast():
                return self.model.apply(params, inputs, noise, RunningMoments(params), self.facts)

        return evaluate(forward, split, self.facts, self.runs)

    def _checkpoint(self, started: float) -> float:
        """Saves every run that has not failed; returns the time from which the next seconds count."""
        seconds = (time.monotonic() - started) / self.runs
        for run, history in enumerate(self.state.histories):
            if history.active:
                history.seconds += seconds
                history.train_seconds += seconds
            if history.failed is None:
                self.sink.checkpoint(run, self.state.checkpoint(run))
        return time.monotonic()

    def _clock(self, step: int) -> Clock:
        return Clock(step, self.steps, step // self.steps_per_epoch, self.config.epochs)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def _fresh(self) -> State:
        params = initial(tuple(self.declared.values()), self.streams)
        return State(
            params=params,
            optimizer=self.optimizer.init({name: params[name] for name, item in self.declared.items() if item.trained}),
            policies=self.strategy.init(self.runs),
            selected={name: tensor.clone() for name, tensor in params.items()},
            losses=[],
            rates={site: torch.zeros(self.runs, 2, device=self.device) for site in self.placements},
            step=0,
            watched=0,
            histories=[History() for _ in range(self.runs)],
        )


def peak_memory(device: torch.device) -> int:
    """Most memory so far, in bytes: of the device on CUDA, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
