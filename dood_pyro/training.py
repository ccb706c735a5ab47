"""One training loop for every model, guide and estimator (section 2.3).

The loop has no horizon: the learning rate falls as a power of the step and what is kept and
evaluated is a running average of the weights, so that a run can be evaluated at any time and go on
from there.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyro
import torch
from torch import Tensor, nn

from dood_pyro import data
from dood_pyro.checkpoints import Run, RunConfig, Until, load_tensors
from dood_pyro.errors import UserError
from dood_pyro.inference import Estimator, Report, StopTimeTerms, make_estimator, stop_time_terms

WARM_UP = 100
"""Steps over which the learning rate rises from 0."""
DECAY_STEPS, DECAY_POWER = 1000, 0.75
"""The learning rate is divided by (1 + step / DECAY_STEPS) to the DECAY_POWER."""
SCALE_RATE = 20.0
"""The likelihood's scale, one number among millions, learns faster than the rest by this."""
CLIP = 2.0
"""Largest norm of the gradient, of the loss in nats a pixel. In practice a few times lower."""
AVERAGE_DECAY = 0.999
LOG_EVERY = 20
EVALUATE_EVERY = 500
CHECKPOINT_SECONDS = 120.0
HELD_OUT = 512
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

    def __init__(self, images: Tensor, batch_size: int, seed: int, device: torch.device) -> None:
        self.images = images.to(device)
        self.batch_size = min(batch_size, len(images))
        self.seed = seed
        self.epoch = -1
        self.order = torch.empty(0, dtype=torch.long)

    def __getitem__(self, step: int) -> Tensor:
        """The batch of a step: (batch, size, size), floats in [0, 1]."""
        epoch, place = divmod(step, len(self.images) // self.batch_size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
            self.order, self.epoch = torch.from_numpy(order).to(self.images.device), epoch
        rows = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.images[rows].float() / 255


class Trainer:
    """A training under way: all that changes from step to step."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        torch.manual_seed(config.train.seed)
        self.config = config
        self.device = device
        self.model, self.guide = (module.to(device) for module in config.build())
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
        self.groups = self._groups()
        self.optimiser = torch.optim.Adam(
            [{"params": parameters} for parameters, _ in self.groups],
            lr=config.train.learning_rate,
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.best = float("-inf")
        # Counted on the device; read when logging only.
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_a_row = torch.zeros((), device=device)

    def _groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters with the factor of their learning rate; each group is clipped by itself."""
        scale, baselines, rest = [], [], []
        for name, parameter in self.parameters.items():
            if name.endswith("raw_scale"):
                scale.append(parameter)
            elif name.startswith("guide.baseline"):
                baselines.append(parameter)
            else:
                rest.append(parameter)
        groups = [(rest, 1.0), (scale, SCALE_RATE), (baselines, 1.0)]
        return [(parameters, rate) for parameters, rate in groups if parameters]

    def learning_rate(self) -> float:
        """Of the step to come."""
        rise = min(1.0, (self.step + 1) / WARM_UP)
        return self.config.train.learning_rate * rise / (1 + self.step / DECAY_STEPS) ** DECAY_POWER

    def train_step(self, image: Tensor) -> tuple[Report, Tensor]:
        """One step on a batch; the report and the gradient's norm stay on the device.

        A step whose loss or gradient is not finite changes nothing but the counts.
        """
        self.estimator.anneal(self.step, self.guide)
        if isinstance(self.guide, Anneals):
            self.guide.anneal(self.step)
        # Checks of supports and shapes in every step would wait for the device.
        with pyro.validation_enabled(False):
            loss = self.estimator.differentiable_loss(self.model, self.guide, image)
        self.optimiser.zero_grad()
        (loss / image.numel()).backward()
        norms = [torch.nn.utils.clip_grad_norm_(group, CLIP) for group, _ in self.groups]
        finite = torch.isfinite(torch.stack([loss.detach(), *norms])).all()
        bad = (~finite).float()
        # Fused Adam skips on the device, without a word to the host, where this is 1.
        self.optimiser.found_inf = bad  # type: ignore[attr-defined]
        for group, (_, rate) in zip(self.optimiser.param_groups, self.groups, strict=True):
            group["lr"] = self.learning_rate() * rate
        self.optimiser.step()
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        current = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.averages.values()), current, 1 - decay)
        self.skipped += bad
        self.skipped_in_a_row = (self.skipped_in_a_row + bad) * bad
        self.step += 1
        report = self.estimator.report
        assert report is not None
        return report, norms[0]

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights and buffers of model and guide, under the names a run keeps them by."""
        buffers = {
            f"{prefix}.{name}": tensor
            for prefix, module in (("model", self.model), ("guide", self.guide))
            for name, tensor in module.state_dict().items()
        }
        return buffers | self.averages

    def evaluate(self, images: Tensor) -> StopTimeTerms:
        """The averaged weights' terms on held-out images; the random state is left as it was."""
        devices = [self.device] if self.device.type == "cuda" else []
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        has_floor = hasattr(self.guide, "on_floor")
        with torch.random.fork_rng(devices), torch.no_grad(), pyro.validation_enabled(False):
            torch.manual_seed(0)
            floor: Any = getattr(self.guide, "on_floor", None)
            try:
                self.guide.eval()
                for name, parameter in self.parameters.items():
                    parameter.copy_(self.averages[name])
                if has_floor:
                    self.guide.on_floor = 0.0  # type: ignore[assignment]
                parts = [stop_time_terms(self.model, self.guide, part) for part in images.split(64)]
            finally:
                self.guide.train()
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
                if has_floor:
                    self.guide.on_floor = floor
        return StopTimeTerms(*(torch.cat(column, dim=-1) for column in zip(*parts, strict=True)))

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """All that going on needs, as tensors and notes."""
        tensors: dict[str, Tensor] = {f"weights.{n}": p for n, p in self.parameters.items()}
        tensors |= {f"average.{name}": p for name, p in self.averages.items()}
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
        return tensors, notes

    def restore(self, tensors: dict[str, Tensor], notes: dict[str, str], what: str) -> None:
        """Takes up what `state` gave.

        Raises:
            UserError: it is of another model or training.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }

        weights, averages = part("weights."), part("average.")
        if {n: p.shape for n, p in weights.items()} != {
            n: p.shape for n, p in self.parameters.items()
        } or set(averages) != set(weights):
            raise UserError(f"{what} does not fit the model of its config.json")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
                self.averages[name].copy_(averages[name])
        for key in ("step", "exp_avg", "exp_avg_sq"):
            for name, value in part(f"adam.{key}.").items():
                parameter = self.parameters[name]
                self.optimiser.state[parameter][key] = value.to(self.device)
        load_tensors(self.estimator.state, part("estimator."), what)
        torch.set_rng_state(tensors["random.cpu"])
        if self.device.type == "cuda" and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        self.skipped, self.skipped_in_a_row = tensors["skipped"].to(self.device).unbind()
        self.step, self.seconds = int(notes["step"]), float(notes["seconds"])
        self.best = float(notes["best"])


def choose_device(name: str = "auto") -> torch.device:
    """``"auto"`` is a GPU where there is one.

    Raises:
        UserError: a GPU is asked for where there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    return torch.device(name)


def split_held_out(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images to train on, and those held out to choose the best checkpoint by (up to a tenth)."""
    order = np.random.default_rng(0).permutation(len(images))
    count = min(HELD_OUT, len(images) // 10)
    return images[order[count:].copy()], images[order[:count].copy()]


Show = Callable[["Trainer", dict[str, Any]], None]


def train(
    run: Run,
    device: torch.device,
    data_dir: str | Path | None = None,
    show: Show | None = None,
    tensorboard: bool = True,
) -> Trainer:
    """Trains a run, from its start or its last checkpoint, until its end.

    Args:
        show: called with the trainer and a line of kind ``"start"`` when training begins, then
            with each line of metrics as it is written.

    Raises:
        UserError: the data cannot be had or is not what the run began with; the checkpoint is
            damaged; the disk is full; the training diverged. The last checkpoint stays as it was.
        KeyboardInterrupt: passed on, after a checkpoint.
    """
    config, until = run.read_config()
    drawings = data.load(config.train.source, "train", config.model.canvas_size, data_dir)
    if not config.train.data_sha256:
        train_config = dataclasses.replace(config.train, data_sha256=drawings.sha256)
        config = dataclasses.replace(config, train=train_config)
        run.write_config(config, until)
    if config.train.data_sha256 != drawings.sha256:
        raise UserError(
            f"the data of {config.train.source} are not those that {run.path} began with "
            f"(sha256 {drawings.sha256[:12]}… now, {config.train.data_sha256[:12]}… then)"
        )
    trained_on, held_out = split_held_out(drawings.images)
    trainer = Trainer(config, device)
    if (run.path / "state.safetensors").exists():
        trainer.restore(*run.read_tensors("state.safetensors"), f"{run.path}/state.safetensors")
    run.forget_metrics_after(trainer.step)
    batches = Batches(trained_on, config.train.batch_size, config.train.seed, device)
    held_out = held_out.to(device).float() / 255
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
    saved, evaluated = began, trainer.step
    try:
        while not until.reached(trainer.step, trainer.seconds):
            report, norm = trainer.train_step(batches[trainer.step])
            log.add(report, norm)
            now = time.perf_counter()
            trainer.seconds = before + now - began
            if trainer.step % LOG_EVERY == 0:
                log.write_training()
                if float(trainer.skipped_in_a_row) >= MANY_SKIPPED:
                    raise UserError(
                        f"training diverged: {MANY_SKIPPED} steps in a row had a non-finite loss or "
                        f"gradient; the last good checkpoint is in {run.path}; "
                        "try a lower --learning-rate"
                    )
            if trainer.step % EVALUATE_EVERY == 0:
                _evaluate(run, trainer, held_out, log)
                evaluated = trainer.step
            if now - saved > CHECKPOINT_SECONDS:
                _checkpoint(run, trainer)
                saved = time.perf_counter()
    except KeyboardInterrupt:
        _checkpoint(run, trainer)
        raise
    if evaluated != trainer.step or not (run.path / "best.safetensors").exists():
        _evaluate(run, trainer, held_out, log)
    _checkpoint(run, trainer)


def _evaluate(run: Run, trainer: Trainer, held_out: Tensor, log: _Log) -> None:
    elbo = log.write_held_out(trainer.evaluate(held_out), held_out)
    if elbo > trainer.best:
        trainer.best = elbo
        run.write_tensors("best.safetensors", trainer.weights(), {"step": str(trainer.step)})


def _checkpoint(run: Run, trainer: Trainer) -> None:
    run.write_tensors("last.safetensors", trainer.weights(), {"step": str(trainer.step)})
    run.write_tensors("state.safetensors", *trainer.state())


class _Log:
    """Metrics to metrics.jsonl, TensorBoard and whoever shows progress.

    Sums stay on the device between lines, so that logging costs one wait every few steps.
    """

    def __init__(self, run: Run, trainer: Trainer, show: Show | None, tensorboard: bool) -> None:
        self.run, self.trainer, self.show = run, trainer, show
        self.sums: list[Tensor] = []
        self.clock = (time.perf_counter(), trainer.step)
        if show is not None:
            show(trainer, {"kind": "start", "step": trainer.step})
        self.writer: Any = None
        if tensorboard:
            # Imported here: it takes a second, and only trainings need it.
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run.path), purge_step=trainer.step)

    def add(self, report: Report, norm: Tensor) -> None:
        """Takes in one step."""
        self.sums.append(torch.stack([*report, norm]))

    def write_training(self) -> None:
        """A line for the steps since the last one; means over those that were finite."""
        rows = torch.stack(self.sums)
        self.sums = []
        means = rows.nanmean(0).tolist()
        now, (then, step_then) = time.perf_counter(), self.clock
        self.clock = (now, self.trainer.step)
        values = dict(zip([*Report._fields, "gradient_norm"], means, strict=True))
        values |= {
            "scale": float(self.trainer.model.likelihood_scale().detach()),  # type: ignore[operator]
            "learning_rate": self.trainer.learning_rate(),
            "steps_per_second": (self.trainer.step - step_then) / max(now - then, 1e-9),
            "skipped": int(self.trainer.skipped),
        }
        self._write("train", values)

    def write_held_out(self, terms: StopTimeTerms, images: Tensor) -> float:
        """A line, and a picture, for the held-out images; returns their bound."""
        report = {name: float(value) for name, value in terms.report()._asdict().items()}
        self._write("held-out", report)
        if self.writer is not None:
            from dood_pyro.tasks.reconstruct import preview

            picture = preview(self.trainer.model, self.trainer.guide, images[:8])
            self.writer.add_image("held-out/reconstructions", picture, self.trainer.step)
        # Evaluation is not training: the pace counts from here.
        self.clock = (time.perf_counter(), self.trainer.step)
        return report["elbo"]

    def _write(self, kind: str, values: dict[str, Any]) -> None:
        line = {
            "step": self.trainer.step,
            "seconds": round(self.trainer.seconds, 3),
            "kind": kind,
            **values,
        }
        self.run.append_metrics([line])
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{kind}/{name}", value, self.trainer.step)
        if self.show is not None:
            self.show(self.trainer, line)

    def close(self) -> None:
        """Flushes what TensorBoard holds."""
        if self.writer is not None:
            self.writer.close()
