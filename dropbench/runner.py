"""The one loop that trains and evaluates R runs at once, on CPU or CUDA.

    state = fresh, or what the checkpoints hold
    while step < steps and some run still learns:
        at the first step of an epoch: order = a random order of the training set for every run
        batch  = the next examples of every run, augmented, repeated `objective.copies` times
        noise  = the strategy bound to this step
        losses = objective(model(batch, noise), targets) + penalties of the noise       # [R]
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
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from dropbench.data.figures import with_figures
from dropbench.data.splits import hold_out
from dropbench.diagnostics import of_run
from dropbench.errors import UserError
from dropbench.final import final
from dropbench.kernels import cuda
from dropbench.kernels.graph import Captured
from dropbench.memory import keep_freed
from dropbench.nets import Nets, Present
from dropbench.signals import GATED, HELD_OUT, conflict, gradients, saliency
from dropbench.spec import Clock, Signals
from dropbench.stack import stacked
from dropbench.state import History, State, initial, summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dropbench.acting import StepNoise
    from dropbench.config import Config
    from dropbench.data import Data, Split
    from dropbench.policies import State as PolicyState
    from dropbench.runs.checkpoint import Checkpoint

SECONDS_BETWEEN_CHECKPOINTS = 20.0
#: Examples that train, on which the figures of the training set are measured between the ends of a training.
PROBE = 2000
#: Steps of an epoch on which the realised rates are counted.
WATCHED = 4
#: Steps by which the pace is judged, before it is waited for the device; and batches of an evaluation.
FIRST_STEPS, JUDGED = 8, 8


class Sink(Protocol):
    """Where the runs of a stack report. `run` is the index in the stack."""

    def progress(self, step: int, steps: int) -> None:
        """`step` of `steps` updates are done."""

    def metrics(self, run: int, record: dict[str, Any]) -> None:
        """One evaluation."""

    def checkpoint(self, run: int, checkpoint: Checkpoint) -> None:
        """The state of one run, which may be read later: the training does not touch it any more."""

    def predictions(self, run: int, parts: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """What is predicted for a split, and what it should be: before `finish`, where the run is to keep it."""

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
    configs: Sequence[Config],
    data: Data,
    device: torch.device,
    sink: Sink,
    checkpoints: Sequence[Checkpoint] = (),
    until: int | None = None,
) -> None:
    """Trains R runs of one shape from where they stand to the end.

    Args:
        configs: of the runs; they differ in seeds and real numbers alone.
        data: on any device.
        device: where to train.
        sink: gets every figure.
        checkpoints: one a run, all at one step; or none, to start afresh.
        until: epoch after which they are saved and left, without a result; None for the end.

    Raises:
        Interrupted: the sink asked to stop.
    """
    trainer = Trainer(configs, data, device, sink)
    if checkpoints:
        trainer.state.restore(checkpoints)
    trainer.run(until)


class Trainer:
    """R runs of one shape, stacked; see `train` for the arguments."""

    def __init__(self, configs: Sequence[Config], data: Data, device: torch.device, sink: Sink) -> None:
        self.config, self.sink = configs[0], sink  # the config for what the runs have in common
        strategy = self.config.strategy
        data, self.held_out = with_figures(data.to(device), strategy.figures), None
        if "held_out_loss" in strategy.needs:
            rest, self.held_out = hold_out(data.train, HELD_OUT)
            data = replace(data, train=rest)
        self.data = data
        self.nets = Nets(configs, data.facts, len(data.train), device)
        self.optimizer = stacked([config.optimizer for config in configs], device)
        self.batch_size = min(self.config.batch_size, len(data.train))
        self.steps_per_epoch = -(-len(data.train) // self.batch_size)
        self.steps = self.config.epochs * self.steps_per_epoch
        self.signals: Signals | None = None
        self.looked_at = self._looked_at()
        self.state = self._fresh()
        self.trained = {name: self.state.params[name] for name, item in self.nets.declared.items() if item.trained}
        for tensor in self.trained.values():
            tensor.requires_grad_()
        self.captured: Captured | None = None
        if device.type == "cuda":
            moved = [*self.state.params.values(), *self.state.optimizer.values()]
            self.captured = Captured(lambda *step: self._learn(*step)[0], self.nets, moved, self.state.policies)

    def run(self, until: int | None = None) -> None:
        """The loop at the top of this file."""
        state = self.state
        end = self.steps if until is None else min(until * self.steps_per_epoch, self.steps)
        order, order_epoch = torch.empty(0), -1
        if state.step == 0:
            self._control_tick()
        saved = started = time.monotonic()
        while state.step < end and any(history.active for history in state.histories):
            epoch, position = divmod(state.step, self.steps_per_epoch)
            if epoch != order_epoch:
                order, order_epoch = self.nets.streams.permutation("order", epoch, "train", len(self.data.train)), epoch
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
        self.captured = None  # it holds this trainer, and memory of the device
        self._checkpoint(started)
        if state.step == self.steps or not any(history.active for history in state.histories):
            self._finish()

    def pace(self, patience: float) -> float:
        """Seconds that an epoch takes, from a few first steps and a part of an evaluation; it spends the state.

        It may be asked again; the first time warms up, too. What a graph of the device holds is kept until `captured`
        is None.

        Args:
            patience: seconds of steps that are enough; one is done in any case.
        """
        state, batch, train = self.state, self.batch_size, self.data.train
        order = torch.arange(len(train), device=self.nets.device).expand(self.nets.runs, -1)
        taken, steps, started = 0.0, 0, time.monotonic()
        while taken < patience or not steps:
            state.step = steps % (len(train) // batch)  # of an epoch's whole batches
            self._update(order[:, state.step * batch : (state.step + 1) * batch], 0, state.step)
            steps += 1
            if steps % FIRST_STEPS == 0:
                state.losses[-1].sum().item()  # waits for the device
            taken = time.monotonic() - started
        state.losses[-1].sum().item()
        taken = time.monotonic() - started
        state.losses.clear()
        part = self.data.validation.part(0, JUDGED * batch)
        started = time.monotonic()
        self.nets.measure(self._present(), part)
        evaluation = (time.monotonic() - started) * len(self.data.validation) / len(part)
        return taken / steps * self.steps_per_epoch + evaluation / self.config.evaluation.every

    def _update(self, index: Tensor, epoch: int, position: int) -> None:
        """One step of every run on the examples `index` [R, batch]."""
        state = self.state
        clock = Clock(state.step, self.steps, epoch, self.config.epochs)
        watched = position % -(-self.steps_per_epoch // WATCHED) == 0
        if self.captured is not None and not watched:
            repeated = self.captured(index, clock, state.policies)
            if repeated is not None:
                state.losses.append(repeated)
                return
        losses, terms, noise = self._learn(self.nets, index, clock, state.policies, watched=watched)
        state.losses.append(losses)
        if watched:
            state.watched += 1
            for site, asked in noise.asked.items():
                state.rates[site] += torch.stack([asked, noise.realised[site]], 1)
            for name, term in terms.items():
                state.terms[name] = state.terms.get(name, torch.zeros_like(term)) + term.detach()

    def _learn(
        self, nets: Nets, index: Tensor, clock: Clock, policies: Mapping[str, PolicyState], *, watched: bool = False
    ) -> tuple[Tensor, dict[str, Tensor], StepNoise]:
        """One update, in place: the losses [R], what they are made of, and the noise that acted.

        It may be captured (`kernels/graph.py`), so what moves from step to step comes from its arguments alone.
        """
        objective = nets.strategy.objective
        present = Present(self.state.params, policies, clock)
        inputs, targets, facts = self.data.train.gather(index)
        if self.data.augment is not None:
            inputs = self.data.augment(inputs, nets.streams, clock.step)
        outputs, noise = nets.copies(present, inputs, facts, objective, watched=watched)
        terms = objective.terms(outputs, targets)
        losses = objective.total(terms)
        if noise.penalties:
            terms["penalty"] = torch.stack(list(noise.penalties.values())).sum(0)
            losses = losses + terms["penalty"]
        gradients = torch.autograd.grad(losses.sum(), list(self.trained.values()))
        with torch.no_grad():
            named = dict(zip(self.trained, gradients, strict=True))
            self.optimizer.step(self.trained, named, self.state.optimizer, clock, nets.declared)
        return losses.detach(), terms, noise

    def _control_tick(self) -> None:
        """Measures what some policy looks at, and moves the policies; before the first step, and after every epoch."""
        nets, state = self.nets, self.state
        needs, present = nets.strategy.needs, self._present()
        if not needs:
            return
        signals: dict[str, Any] = {}
        if "train_loss" in needs and state.losses:
            signals["train_loss"] = torch.stack(state.losses[-self.steps_per_epoch :], 1).mean(1)
        probe = self._probe()
        for name, split in (("clean_loss", probe), ("held_out_loss", self.held_out)):
            if name in needs and split is not None:
                signals[name] = torch.tensor(nets.measure(present, split)["loss"], device=nets.device)
        if needs & {"saliency", "conflict"}:
            sites = {name: placement.site for name, placement in nets.placements.items()}
            piece = self.data.train.part(0, GATED)
            found, _ = gradients(nets.opened(present), piece, list(sites.values()), "factor")
            signals["saliency"] = {name: saliency(gradient, sites[name]) for name, gradient in found.items()}
            signals["conflict"] = {name: conflict(gradient, sites[name]) for name, gradient in found.items()}
        self.signals = Signals(**signals)
        state.policies = nets.strategy.update(state.policies, self.signals)

    def _probe(self) -> Split:
        """Examples that train, as many as are held out, for the loss on what was seen."""
        return self.data.train.part(0, min(PROBE, len(self.held_out) if self.held_out else PROBE))

    def _looked_at(self) -> int:
        """Examples that a control tick sends through the net."""
        needs, count = self.nets.strategy.needs, 0
        if "clean_loss" in needs:
            count += len(self._probe())
        if "held_out_loss" in needs and self.held_out is not None:
            count += len(self.held_out)
        if needs & {"saliency", "conflict"}:
            count += min(GATED, len(self.data.train))
        return count

    def _evaluation_tick(self, epoch: int, started: float) -> float:
        """Measures, selects and records; returns the time from which the next seconds count."""
        state = self.state
        losses = torch.stack(state.losses, 1).cpu()  # waits for the device
        training = time.monotonic() - started
        rates = {site: (total / max(state.watched, 1)).tolist() for site, total in state.rates.items()}
        present = self._present()
        learning_rate = self.optimizer.rate(present.clock).tolist()
        train = self.nets.measure(present, self.data.train.part(0, min(PROBE, len(self.data.validation))))
        validation = self.nets.measure(present, self.data.validation)
        improved = [
            self._select(run, epoch, {name: figure[run] for name, figure in validation.items()}, losses[run])
            for run in range(self.nets.runs)
        ]
        self._keep(improved)
        terms = {name: (total / max(state.watched, 1)).tolist() for name, total in state.terms.items()}
        signals = {} if self.signals is None else vars(self.signals)
        diagnostics = {}
        if self.config.diagnostics:
            diagnostics = self.nets.diagnose(present, self.data.train, self.batch_size)
        seconds = time.monotonic() - started
        for run, history in enumerate(state.histories):
            if history.failed is not None or (history.stopped is not None and history.stopped < epoch):
                continue
            history.watched += state.watched
            history.train_seconds += training / self.nets.runs
            history.seconds += seconds / self.nets.runs
            sites = {}
            for site, figures in rates.items():
                asked, dropped = figures[run]
                sites[site] = {"rate": asked, "dropped": dropped}
                before = history.rates.get(site, [0.0, 0.0])
                history.rates[site] = [before[0] + asked * state.watched, before[1] + dropped * state.watched]
            self.sink.metrics(
                run,
                {
                    "epoch": epoch,
                    "step": state.step,
                    **self._cost(epoch),
                    "training_loss": losses[run].mean().item(),
                    "terms": {name: figure[run] for name, figure in terms.items()},
                    "train": {name: figure[run] for name, figure in train.items()},
                    "validation": {name: figure[run] for name, figure in validation.items()},
                    "learning_rate": learning_rate[run],
                    "sites": sites,
                    "policies": {
                        name: {key: summary(value[run]) for key, value in tensors.items()}
                        for name, tensors in state.policies.items()
                    },
                    "signals": {
                        name: {site: summary(each[run]) for site, each in value.items()}
                        if isinstance(value, dict)
                        else value[run].item()
                        for name, value in signals.items()
                        if value is not None and not (isinstance(value, dict) and not value)
                    },
                    **({"diagnostics": of_run(diagnostics, run)} if diagnostics else {}),
                    "selected": improved[run],
                    "seconds": history.seconds,
                },
            )
        state.losses, state.watched, state.terms = [], 0, {}
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
        if not any(improved):
            return
        chosen = torch.tensor(improved, device=self.nets.device)
        pairs = [(self.state.selected, self.state.params)]
        pairs += [(self.state.selected_policies[name], tensors) for name, tensors in self.state.policies.items()]
        for kept, present in pairs:
            for name, tensor in present.items():
                if all(improved):
                    kept[name].copy_(tensor.detach())
                else:
                    here = chosen.view(-1, *(1 for _ in tensor.shape[1:]))
                    kept[name].copy_(torch.where(here, tensor.detach(), kept[name]))

    def _finish(self) -> None:
        """Reads the test set, once, and hands over the results."""
        if all(history.failed is not None for history in self.state.histories):
            return
        started = time.monotonic()
        measured = final(self.nets, self._selected(), self.data, self.config.evaluation, self.config.save_predictions)
        seconds = (time.monotonic() - started) / self.nets.runs
        for run, history in enumerate(self.state.histories):
            if history.failed is not None:
                continue
            epochs = history.stopped or self.config.epochs
            if self.config.save_predictions:
                self.sink.predictions(run, measured.predictions(run))
            self.sink.finish(
                run,
                {
                    "task": self.nets.facts.task,
                    "epochs": epochs,
                    "steps": epochs * self.steps_per_epoch,
                    "parameters": sum(tensor[0].numel() for tensor in self.trained.values()),
                    "selection": {"rule": self.config.selection, "epoch": history.epoch},
                    **measured.result(run),
                    "rates": {
                        site: {"asked": asked / history.watched, "realised": realised / history.watched}
                        for site, (asked, realised) in history.rates.items()
                    },
                    "cost": self._cost(epochs),
                    "seconds": {"total": history.seconds + seconds, "train": history.train_seconds},
                    "peak_memory_bytes": peak_memory(self.nets.device),
                    **({"kernels": cuda.in_use()} if self.nets.device.type == "cuda" else {}),
                },
            )

    def _selected(self) -> Present:
        """The nets as they were selected, with the rates that were theirs."""
        done = [max(history.epoch * self.steps_per_epoch - 1, 0) for history in self.state.histories]
        clock = replace(self._clock(self.steps - 1), selected=torch.tensor(done, device=self.nets.device))
        return Present(self.state.selected, self.state.selected_policies, clock)

    def _cost(self, epochs: int) -> dict[str, int]:
        """What a run has cost after some epochs, whatever the machine.

        `samples`: training examples that its updates saw, each once an update. `forward_passes`: examples that the
        training sent forward: for updates as often as the objective has copies of them, even where the first layers
        compute once for all copies; and for the signals that policies look at. Evaluations are not counted.
        """
        objective = self.nets.strategy.objective
        samples = epochs * len(self.data.train)
        passes = samples * (objective.copies + objective.clean)
        return {"samples": samples, "forward_passes": passes + (epochs + 1) * self.looked_at}

    def _checkpoint(self, started: float) -> float:
        """Saves every run that has not failed; returns the time from which the next seconds count."""
        seconds = (time.monotonic() - started) / self.nets.runs
        for history in self.state.histories:
            if history.active:
                history.seconds += seconds
                history.train_seconds += seconds
        for run, checkpoint in enumerate(self.state.checkpoints()):
            if self.state.histories[run].failed is None:
                self.sink.checkpoint(run, checkpoint)
        return time.monotonic()

    def _clock(self, step: int) -> Clock:
        return Clock(step, self.steps, step // self.steps_per_epoch, self.config.epochs)

    def _present(self) -> Present:
        """The nets after the last update; the rates are those of that update."""
        return Present(self.state.params, self.state.policies, self._clock(max(self.state.step - 1, 0)))

    def _fresh(self) -> State:
        nets = self.nets
        params = initial(tuple(nets.declared.values()), nets.streams)
        acted = tuple(placement.site for placement in nets.placements.values())
        policies = nets.strategy.init(nets.runs, acted, nets.device)
        return State(
            params=params,
            optimizer=self.optimizer.init({name: params[name] for name, item in nets.declared.items() if item.trained}),
            policies=policies,
            selected={name: tensor.clone() for name, tensor in params.items()},
            selected_policies={
                name: {key: tensor.clone() for key, tensor in tensors.items()} for name, tensors in policies.items()
            },
            losses=[],
            terms={},
            rates={site: torch.zeros(nets.runs, 2, device=nets.device) for site in nets.placements},
            step=0,
            watched=0,
            histories=[History() for _ in range(nets.runs)],
        )


def peak_memory(device: torch.device) -> int:
    """Most memory so far, in bytes: of the tensors on a CUDA device, of the whole process on a CPU.

    It is that of the process, since it began: of a whole stack, and of the largest of the stacks that this process has
    trained; after a resume, of the process that finished.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
