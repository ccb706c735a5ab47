"""One training loop for every model, guide and estimator (section 2.3).

The loop has no horizon: the learning rate falls as a power of the step and what is kept and
evaluated is a running average of the weights, so that a run can be evaluated at any time and go on
from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.checkpoints import (
    LOCK,
    START,
    Run,
    RunConfig,
    Until,
    load_tensors,
    number_in,
    refuse_not_finite,
)
from dood_pyro.devices import keep_freed_memory, seeded
from dood_pyro.doodling import doodle
from dood_pyro.errors import Interrupted, UserError
from dood_pyro.files import locked
from dood_pyro.guides.stopping import UNBOUNDED
from dood_pyro.inference import Estimator, Report, StopTimeTerms, make_estimator, stop_time_terms
from dood_pyro.inference.multi_sample import fixed, sleep_loss
from dood_pyro.optimiser import Adam

LOG_EVERY = 20
EVALUATE_EVERY = 500
CHECKPOINT_SECONDS = 120.0
HELD_OUT = 512
PRACTICE_SIGMAS = (0.015, 0.12)
"""Pens of the doodles that a guide practises on, canvas units: the renderer's range but for the
broadest, which fill the canvas."""
COARSE_PRACTICE = 0.56
"""Of the canvas's pixels a side: 28 of 50, what most datasets of drawings have. Every other batch of
doodles is of so few where the source has more, and of the canvas's where it has fewer."""
MANY_SKIPPED = 2 * LOG_EVERY
"""Steps in a row with a non-finite loss or gradient that end a run."""


@runtime_checkable
class Anneals(Protocol):
    """A guide that changes with the number of steps taken; what it sets must be a buffer."""

    def anneal(self, step: int) -> None:
        """Called before every training step."""


class Batches:
    """Training batches by step number: epoch after epoch, each in its own order.

    The order follows from the seed and the step alone, so that there is no place to remember.
    """

    def __init__(
        self, images: Tensor, rows: np.ndarray, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.images = images.to(device)
        self.rows = rows
        self.batch_size = min(batch_size, len(rows))
        self.seed = seed
        self.epoch = -1
        self.order = torch.empty(0, dtype=torch.long)

    def __getitem__(self, step: int) -> Tensor:
        """The batch of a step: (batch, size, size), floats in [0, 1]."""
        epoch, place = divmod(step, len(self.rows) // self.batch_size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            self.order, self.epoch = torch.from_numpy(order).to(self.images.device), epoch
        rows = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.images[rows].float() / 255


class Trainer:
    """A training under way: all that changes from step to step."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        model, guide = config.build()
        self.model, self.guide = model.to(device), guide.to(device)
        self.estimator: Estimator = make_estimator(config.train, config.model.max_strokes)
        self.estimator.state.to(device)
        self.parameters = {
            f"{prefix}.{name}": parameter
            for prefix, module in (("model", self.model), ("guide", self.guide))
            for name, parameter in module.named_parameters()
        }
        self.averages: dict[str, Tensor] = {
            n: p.detach().clone() for n, p in self.parameters.items()
        }
        if config.train.fit != "both":
            self.model.requires_grad_(False)
        if config.train.fit == "prior":
            self.guide.requires_grad_(False)
            for parameter in self.model.prior_parameters():
                parameter.requires_grad_(True)
        self.groups = self._groups()
        self.optimiser = Adam([parameters for parameters, _ in self.groups])
        self.step = 0
        self.seconds = 0.0
        self.best = float("-inf")
        self.evaluated = 0
        """The last step whose held-out bound is known."""
        # Counted on the device; read when logging only.
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_a_row = torch.zeros((), device=device)

    def _groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters with the factor of their learning rate; each group is clipped by itself."""
        scale, baselines, rest = [], [], []
        for name, parameter in self.parameters.items():
            if not parameter.requires_grad:
                continue
            if name.endswith("raw_scale"):
                scale.append(parameter)
            elif not name.startswith("guide.baseline"):
                rest.append(parameter)
            elif self.config.train.estimator == "nvil":  # no other estimator trains baselines
                baselines.append(parameter)
        groups = [(rest, 1.0), (scale, self.config.train.scale_rate), (baselines, 1.0)]
        return [(parameters, rate) for parameters, rate in groups if parameters]

    def learning_rate(self) -> float:
        """Of the step to come."""
        settings = self.config.train
        rise = min(1.0, (self.step + 1) / max(1, settings.warm_up))
        fall = (1 + self.step / settings.decay_steps) ** settings.decay_power
        return settings.learning_rate * rise / fall

    def train_step(self, image: Tensor) -> tuple[Report, Tensor]:
        """One step on a batch; the report and the gradient's norm stay on the device.

        A step whose loss or gradient is not finite leaves weights and moments as they are, and is
        counted.
        """
        # What is explored and held up at the start is so once dreams are over.
        self.estimator.anneal(max(0, self.step - self.config.train.dream_steps), self.guide)
        if isinstance(self.guide, Anneals) and self.config.train.fit != "prior":
            self.guide.anneal(self.step)
        # Checks of supports and shapes in every step would wait for the device.
        dreams = self.step < self.config.train.dream_steps
        with pyro.validation_enabled(False):
            # Before the images: while those have gradients there is no room for a second graph.
            practised = {} if dreams else self.practise(len(image))
            if dreams:
                loss = sleep_loss(self.model, self.guide, len(image))
                with torch.no_grad():  # what is reported is of the data all the same
                    report = stop_time_terms(self.model, self.guide, image).report()
            else:
                loss = self.estimator.differentiable_loss(self.model, self.guide, image)
                assert self.estimator.report is not None
                report = self.estimator.report
            (loss / image.numel()).backward()
            norms = [self._clip(group) for group, _ in self.groups]
            for parameter, gradient in practised.items():
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        finite = torch.isfinite(torch.stack([loss.detach(), *norms])).all()
        bad = (~finite).float()
        self.optimiser.step([self.learning_rate() * rate for _, rate in self.groups], skip=bad)
        self.optimiser.zero_grad()  # now: the next step needs the memory before it needs gradients
        decay = min(self.config.train.average_decay, (1 + self.step) / (10 + self.step))
        current = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)
        self.skipped += bad
        self.skipped_in_a_row = (self.skipped_in_a_row + bad) * bad
        self.step += 1
        return report, norms[0]

    def _clip(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Cuts the gradient to the largest norm allowed; returns what its norm was."""
        if all(parameter.grad is None for parameter in parameters):
            return torch.zeros((), device=self.device)
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.train.clip)

    def practise(self, count: int) -> dict[nn.Parameter, Tensor]:
        """The gradient of the guide's loss on random doodles, which the images' is to be added to.

        Doodles come by whole batches of ``count``, not with every step: a small batch costs nearly
        as much as a large one. Their gradient, at first much the larger, is clipped by itself, or it
        would leave nothing of the images'. One that is not finite is left out and counted.
        """
        settings, share, model = self.config.model, self.config.train.practice, self.model
        fine = model.ink_size == settings.canvas_size
        other = round(COARSE_PRACTICE * settings.canvas_size) if fine else settings.canvas_size
        learns = [p for p in self.guide.parameters() if p.requires_grad]
        gradients: dict[nn.Parameter, Tensor] = {}
        for batch in range(math.floor(self.step * share), math.floor((self.step + 1) * share)):
            doodles = doodle(count, settings.max_strokes, PRACTICE_SIGMAS, device=self.device)
            with fixed(model), model.at(other if batch % 2 else model.ink_size):
                image = model.picture(doodles.ink(model.ink_size))
                loss = self.estimator.differentiable_loss(self.model, self.guide, image)
                (loss / image.numel()).backward()
            finite = torch.isfinite(self._clip(learns) + loss.detach())
            self.skipped += (~finite).float()
            for parameter in learns:
                if parameter.grad is not None:
                    gradient = parameter.grad.masked_fill_(~finite, 0.0)
                    earlier = gradients.get(parameter)
                    gradients[parameter] = gradient if earlier is None else earlier + gradient
                    parameter.grad = None
        return gradients

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights and buffers of model and guide, under the names a run keeps them by."""
        return self.buffers() | self.averages

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, model and guide have the averaged weights and are in evaluation mode, and the
        random state, which is seeded anew, is given back afterwards."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        bounds: Any = getattr(self.guide, "on_bounds", None)

        def put(weights: dict[str, Tensor]) -> None:
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

        with seeded(0, self.device), torch.no_grad(), pyro.validation_enabled(False):
            try:
                put(self.averages)
                self.model.eval()
                self.guide.eval()
                if bounds is not None:
                    self.guide.on_bounds = UNBOUNDED  # type: ignore[assignment]
                yield
            finally:
                put(kept)
                self.model.train()
                self.guide.train()
                if bounds is not None:
                    self.guide.on_bounds = bounds

    def evaluate(self, images: Tensor) -> StopTimeTerms:
        """The averaged weights' terms on held-out images."""
        with self.averaged():
            parts = [stop_time_terms(self.model, self.guide, part) for part in images.split(64)]
        return StopTimeTerms(*(torch.cat(column, dim=-1) for column in zip(*parts, strict=True)))

    def buffers(self) -> dict[str, Tensor]:
        """What model and guide keep beside their parameters."""
        return {
            f"{prefix}.{name}": tensor
            for prefix, module in (("model", self.model), ("guide", self.guide))
            for name, tensor in module.state_dict().items()
            if f"{prefix}.{name}" not in self.parameters
        }

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that going on needs, as tensors and notes."""
        tensors: dict[str, Tensor] = {f"weights.{n}": p for n, p in self.parameters.items()}
        tensors |= {f"average.{name}": p for name, p in self.averages.items()}
        tensors |= {f"buffer.{name}": tensor for name, tensor in self.buffers().items()}
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        for parameter, moments in self.optimiser.state.items():
            for key, value in moments.items():
                tensors[f"adam.{key}.{names[id(parameter)]}"] = value
        for name, value in self.estimator.state.state_dict().items():
            tensors[f"estimator.{name}"] = value
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        tensors["skipped"] = torch.stack([self.skipped, self.skipped_in_a_row])
        notes = {"step": str(self.step), "seconds": repr(self.seconds), "best": repr(self.best)}
        notes["evaluated"] = str(self.evaluated)
        return tensors, notes

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Takes up another run's weights: the model's, and of the guide those that are alike.

        Where the prior alone learns, the guide is the other run's, whole and as far as it has come.

        Raises:
            UserError: then, it has other weights than this one; or they are damaged.
        """
        own: dict[str, Tensor] = dict(self.parameters)
        if self.config.train.fit == "prior":
            own |= self.buffers()
            if {n: t.shape for n, t in own.items()} != {n: t.shape for n, t in weights.items()}:
                raise UserError(
                    "--start-from names a run whose guide has other weights than its code now gives it"
                )
        refuse_not_finite(weights, START)
        with torch.no_grad():
            for name, tensor in own.items():
                theirs = weights.get(name)
                if theirs is None or theirs.shape != tensor.shape:
                    continue
                if theirs.is_floating_point() != tensor.is_floating_point():
                    raise UserError(f"{START} is damaged: {name} is of {theirs.dtype}")
                tensor.copy_(theirs)
                if name in self.averages:
                    self.averages[name].copy_(theirs)

    def restore(self, tensors: dict[str, Tensor], notes: dict[str, str], what: str) -> None:
        """Takes up what `state` gave.

        Raises:
            UserError: it is of another model or training, or damaged.
        """
        refuse_not_finite(tensors, what)

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        own: dict[str, dict[str, Any]] = {
            "weights.": dict(self.parameters),
            "average.": self.averages,
            "buffer.": self.buffers(),
        }
        step = number_in(notes, "step", int, what)
        trained = {id(parameter) for group, _ in self.groups for parameter in group}
        names = [name for name, p in self.parameters.items() if id(p) in trained]
        moments = {key: part(f"adam.{key}.") for key in ("step", "exp_avg", "exp_avg_sq")}
        for key, found in moments.items():
            fits = set(found) == set(moments["step"]) and set(found) <= set(names)
            if not fits or (step > 0 and not found):
                raise UserError(f"{what} does not fit the training of its config.json")
            for name, value in found.items():
                parameter = self.parameters[name]
                shape = () if key == "step" else parameter.shape
                if value.shape != shape or value.dtype != parameter.dtype:
                    raise UserError(f"{what} does not fit the training of its config.json")
                self.optimiser.state.setdefault(parameter, {})[key] = value.to(self.device)
        with torch.no_grad():
            for prefix, mine in own.items():
                theirs = part(prefix)
                kinds = [
                    {n: (t.shape, t.dtype) for n, t in each.items()} for each in (mine, theirs)
                ]
                if kinds[0] != kinds[1]:
                    raise UserError(f"{what} does not fit the model of its config.json")
                for name, tensor in mine.items():
                    tensor.copy_(theirs[name])
        load_tensors(self.estimator.state, part("estimator."), what)
        try:
            self.best = float(notes["best"])  # −∞ before the first
            self.step, self.seconds = step, number_in(notes, "seconds", float, what)
            self.evaluated = number_in({"evaluated": step, **notes}, "evaluated", int, what)
            if not {"step", "seconds"} <= set(notes) or math.isnan(self.best):
                raise ValueError
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
            skipped = tensors["skipped"].to(self.device, self.skipped.dtype)
            self.skipped, self.skipped_in_a_row = skipped.unbind()
        except (KeyError, ValueError, TypeError, RuntimeError):
            raise UserError(f"{what} is incomplete or damaged; train a new run") from None


def split_held_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Of ``count`` images, the rows to train on and the rows held out to choose the best checkpoint
    by: a tenth, up to `HELD_OUT`.

    Raises:
        UserError: there are too few.
    """
    if count < 2:
        raise UserError("a source needs at least two training images: one is held out")
    order = np.random.default_rng(0).permutation(count)
    held_out = min(HELD_OUT, max(1, count // 10))
    return order[held_out:], order[:held_out]


Show = Callable[["Trainer", dict[str, Any]], None]
"""Called with the trainer and a line of metrics. An `OSError` that it raises, of a display that cannot
be written to, ends the showing, not the training."""


def train(
    run: Run,
    device: torch.device,
    data_dir: str | Path | None = None,
    show: Show | None = None,
    tensorboard: bool = True,
    until: Until | None = None,
) -> Trainer:
    """Trains a run, from its start or its last checkpoint, until its end.

    Args:
        tensorboard: whether to log for it; with ``until`` the run keeps that, too.
        until: another end than the run's own, which takes its place.
        show: called with the trainer and a line of kind ``"start"`` when training begins, then
            with each line of metrics as it is written.

    Raises:
        UserError: the data cannot be had or is not what the run began with; the checkpoint is
            damaged; the disk is full; the training diverged; another process trains the run. The
            last checkpoint stays as it was.
        Interrupted: by SIGINT (Ctrl-C) or SIGTERM, after a checkpoint.
    """
    run.read_config()  # says what is wrong with the path
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(run.path / LOCK, wait=False))
        except BlockingIOError:
            raise UserError(f"another process is training {run.path}; wait for it to end") from None
        return _train(run, device, data_dir, show, tensorboard, until)


def _train(
    run: Run,
    device: torch.device,
    data_dir: str | Path | None,
    show: Show | None,
    tensorboard: bool,
    other_end: Until | None,
) -> Trainer:
    config, until = run.read_config()
    drawings = data.load(config.train.source, "train", config.model.canvas_size, data_dir)
    if not config.train.data_sha256:
        train_config = dataclasses.replace(
            config.train, data_sha256=drawings.sha256, resolution=drawings.resolution
        )
        config = dataclasses.replace(config, train=train_config)
        run.write_config(config, until)
    if config.train.data_sha256 != drawings.sha256:
        raise UserError(
            f"the data of {config.train.source} are not those that {run.path} began with "
            f"(sha256 {drawings.sha256[:12]}… now, {config.train.data_sha256[:12]}… then)"
        )
    trained_on, rows = split_held_out(len(drawings.images))
    held_out = drawings.images[rows].to(device).float() / 255
    run.sweep()
    trainer = Trainer(config, device)
    if (run.path / "state.safetensors").exists():
        trainer.restore(*run.read_tensors("state.safetensors"), f"{run.path}/state.safetensors")
    else:
        if config.train.start:
            trainer.start_from(run.read_tensors(START)[0])
        run.write_tensors("state.safetensors", *trainer.state())
    if other_end is not None:  # only now: what cannot be gone on with stays as it was
        until = other_end
        run.write_config(config, until, tensorboard)
    run.forget_metrics_after(trainer.step)
    if not any(
        line["kind"] == "held-out" and line["step"] == trainer.step for line in run.read_metrics()
    ):
        trainer.evaluated = 0  # killed before the line was written: evaluated again at the end
    settings = config.train
    batches = Batches(drawings.images, trained_on, settings.batch_size, settings.seed, device)
    log = _Log(run, trainer, show, tensorboard)
    try:
        _loop(run, trainer, until, batches, held_out, log)
    finally:
        log.close()
    return trainer


def _loop(
    run: Run, trainer: Trainer, until: Until, batches: Batches, held_out: Tensor, log: _Log
) -> None:
    began, before = time.perf_counter(), trainer.seconds
    saved = began
    with _Interrupt() as interrupt:
        while not until.reached(trainer.step, trainer.seconds):
            report, norm = trainer.train_step(batches[trainer.step])
            log.add(report, norm)
            now = time.perf_counter()
            trainer.seconds = before + now - began
            if trainer.step % LOG_EVERY == 0:
                log.write_training()
                if float(trainer.skipped_in_a_row) >= MANY_SKIPPED:
                    raise UserError(
                        f"training diverged: {MANY_SKIPPED} steps in a row had a non-finite loss "
                        f"or gradient; the last good checkpoint is in {run.path}; "
                        "try a lower --learning-rate"
                    )
            if trainer.step % EVALUATE_EVERY == 0:
                log.write_held_out(_evaluate(run, trainer, held_out), held_out)
            if now - saved > CHECKPOINT_SECONDS:
                _checkpoint(run, trainer)
                saved = time.perf_counter()
            if interrupt.asked is not None:
                _checkpoint(run, trainer)
                raise Interrupted(
                    f"interrupted; go on with: dood-pyro train --resume {run.path}", interrupt.asked
                )
        # All is saved before anything is said about it, which may fail: nobody may be there to hear.
        terms = None
        if trainer.evaluated != trainer.step or not (run.path / "best.safetensors").exists():
            terms = _evaluate(run, trainer, held_out)
        if (run.path / "best.safetensors").exists():
            _checkpoint(run, trainer)
        if terms is not None:
            log.write_held_out(terms, held_out)
        if not (run.path / "best.safetensors").exists():
            raise UserError(
                f"training diverged: no held-out bound of {run.path} was finite; try a lower "
                "--learning-rate"
            )


class _Interrupt:
    """Ctrl-C waits for the end of a step, so that what is saved is a whole step; a second one does not.
    SIGTERM waits, too, however often it comes.

    Half a step, its random numbers drawn and its weights not yet moved, could not be gone on from.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that came."""

    def __enter__(self) -> _Interrupt:
        self.before: dict[signal.Signals, Any] = {}
        # Python delivers signals to its main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        # A terminal's Ctrl-C may come twice over: from it, and as SIGTERM from the parent.
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number

    def __exit__(self, *exception: object) -> None:
        for number, before in self.before.items():
            if before is not None:  # else set by other than Python, and not to be had again
                signal.signal(number, before)


def _evaluate(run: Run, trainer: Trainer, held_out: Tensor) -> StopTimeTerms:
    """The held-out images' terms; the weights are kept where they are the best so far."""
    terms = trainer.evaluate(held_out)
    elbo = float(terms.report().elbo)
    trainer.evaluated = trainer.step
    if elbo > trainer.best:
        trainer.best = elbo
        run.write_tensors("best.safetensors", trainer.weights(), {"step": str(trainer.step)})
    return terms


def _checkpoint(run: Run, trainer: Trainer) -> None:
    weights, (tensors, notes) = trainer.weights(), trainer.state()
    # What could not be gone on from must not take the place of what can.
    refuse_not_finite(weights | tensors, f"what would be saved of {run.path}")
    run.write_tensors("last.safetensors", weights, {"step": str(trainer.step)})
    run.write_tensors("state.safetensors", tensors, notes)


def _finite(value: float) -> float | None:
    """JSON knows no NaN: of what was never finite there is no number."""
    return value if math.isfinite(value) else None


class _Log:
    """Metrics to metrics.jsonl, TensorBoard and whoever shows progress.

    Sums stay on the device between lines, so that logging costs one wait every few steps.
    """

    def __init__(self, run: Run, trainer: Trainer, show: Show | None, tensorboard: bool) -> None:
        self.run, self.trainer, self.show = run, trainer, show
        self.sums: list[Tensor] = []
        self.clock = (time.perf_counter(), trainer.step)
        self._show({"kind": "start", "step": trainer.step})
        self.writer: Any = None
        if tensorboard:
            # Imported here: it takes a second, and only trainings need it.
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run.path), purge_step=trainer.step + 1)

    def add(self, report: Report, norm: Tensor) -> None:
        """Takes in one step."""
        self.sums.append(torch.stack([*report, norm]))

    def write_training(self) -> None:
        """A line for the steps since the last one; means over those that were finite."""
        rows = torch.stack(self.sums)
        self.sums = []
        rows = torch.where(torch.isfinite(rows), rows, torch.nan)
        means = [_finite(mean) for mean in rows.nanmean(0).tolist()]
        now, (then, step_then) = time.perf_counter(), self.clock
        self.clock = (now, self.trainer.step)
        values = dict(zip([*Report._fields, "gradient_norm"], means, strict=True))
        values |= {
            "scale": float(self.trainer.model.likelihood_scale().detach()),
            "learning_rate": self.trainer.learning_rate(),
            "steps_per_second": (self.trainer.step - step_then) / max(now - then, 1e-9),
            "skipped": int(self.trainer.skipped),
        }
        self._write("train", values)

    def write_held_out(self, terms: StopTimeTerms, images: Tensor) -> None:
        """A line, and a picture, for the held-out images."""
        report = {name: float(value) for name, value in terms.report()._asdict().items()}
        self._write("held-out", {name: _finite(value) for name, value in report.items()})
        if self.writer is not None:
            from dood_pyro.tasks.reconstruct import preview

            with self.trainer.averaged():
                picture = preview(self.trainer.model, self.trainer.guide, images[:8])
            self._board("add_image", "held-out/reconstructions", picture)
        # Evaluation is not training: the pace counts from here.
        self.clock = (time.perf_counter(), self.trainer.step)

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        line = {
            "step": self.trainer.step,
            "seconds": round(self.trainer.seconds, 3),
            "kind": kind,
            **values,
        }
        self.run.append_metrics([line])
        for name, value in values.items():
            if value is not None:
                self._board("add_scalar", f"{kind}/{name}", value)
        self._show(line)

    def _show(self, line: dict[str, Any]) -> None:
        if self.show is None:
            return
        try:
            self.show(self.trainer, line)
        except OSError:
            self.show = None

    def _board(self, method: str, name: str, value: Any) -> None:
        """Hands a value to TensorBoard; what it cannot write is no reason to stop training."""
        if self.writer is None:
            return
        try:
            getattr(self.writer, method)(name, value, self.trainer.step)
        except OSError as error:
            self.writer = None
            warnings.warn(f"TensorBoard is given up: {error.strerror or error}", stacklevel=2)

    def close(self) -> None:
        """Flushes what TensorBoard holds."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()
