"""The training loop: from a run folder's start or last checkpoint to the end of its budget.
The command line and `dood_pyro.research` train through it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dood_pyro import data
from dood_pyro.config import RunConfig
from dood_pyro.devices import keep_freed_memory, one_training, running_programs, set_random_state
from dood_pyro.errors import Interrupted, UserError, told
from dood_pyro.files import locked, unwritable
from dood_pyro.guides import check_guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import ElboTerms, StopMarginalTerms
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import INITIAL, LOCK, LOCKED, STATE, Run
from dood_pyro.run_folders.tensors import refuse_not_finite
from dood_pyro.training import parsed
from dood_pyro.training.batches import Batches, split_held_out
from dood_pyro.training.checkpoint import initialise_from, restore_trainer, trainer_state
from dood_pyro.training.interrupts import DeferredInterrupt
from dood_pyro.training.log import MetricsLog, Show
from dood_pyro.training.parsed import ParsedBatches, ParsedImages
from dood_pyro.training.processes import Followed, Team
from dood_pyro.training.trainer import Trainer

BEST = "best.safetensors"
LOG_EVERY = 20
EVALUATE_EVERY = 500
CHECKPOINT_SECONDS = 120.0
MANY_SKIPPED = 2 * LOG_EVERY
"""Steps in a row with a non-finite loss or gradient that end a run."""


@dataclasses.dataclass
class Training:
    """A run with all that its training needs, read and built once."""

    run: Run
    trainer: Trainer
    dataset: data.ImageDataset
    team: Team = dataclasses.field(default_factory=Team)
    """This process and those that train with it."""

    @classmethod
    def begin(
        cls,
        path: str | Path,
        config: RunConfig,
        budget: TrainingBudget,
        device: torch.device,
        data_dir: str | Path | None = None,
        initial: dict[str, Tensor] | None = None,
        initial_sha256: str = "",
        team: Team | None = None,
    ) -> Training:
        """A new run folder, once its data have been read and its programs built and compared.

        Args:
            initial: weights of another run, to begin with, and their hash.
            team: processes that train together, of which this is the first; the others `open` the run.

        Raises:
            UserError: something of it cannot be; then nothing has been written.
        """
        team = team or Team()
        team.rows(config.train.batch_size)
        dataset = _load_dataset(config, data_dir)
        trained_on, _ = split_held_out(len(dataset.images))
        # A batch is all images, where there are fewer.
        team.rows(min(config.train.batch_size, len(trained_on)))
        trainer = _new_trainer(config, device, dataset.native_size, team)
        check_guide(trainer.model, trainer.guide)
        if team.alone and config.own_code(training=True):
            _try_step(config, device, dataset)
        run = Run.create(path, config, budget, device, initial, initial_sha256)
        return cls(run, trainer, dataset, team)

    @classmethod
    def open(
        cls,
        run: Run,
        device: torch.device,
        data_dir: str | Path | None = None,
        trusted: Iterable[str] = (),
        team: Team | None = None,
    ) -> Training:
        """Open a run folder that is there already, to begin or continue its training.

        Args:
            trusted: names ``module:Class`` of code of its own that the run may run.
            team: processes that train together.

        Raises:
            UserError: the folder is no run, its data cannot be had, or its code is not trusted.
        """
        config = run.trusted_config(trusted=trusted, training=True)
        run.refuse_without_state()
        team = team or Team()
        dataset = _load_dataset(config, data_dir)
        return cls(run, _new_trainer(config, device, dataset.native_size, team), dataset, team)

    def train(
        self,
        show: Show | None = None,
        tensorboard: bool = True,
        budget: TrainingBudget | None = None,
        cuda_graph: bool = True,
    ) -> Trainer:
        """Train to the end of the budget; see `resume` for arguments and errors. One of several threads
        that train waits for the others."""
        if budget is None:
            _, budget = self.run.read_config()
        device = self.trainer.device
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_training())
            # The caller's random numbers go on as if there had been no training.
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            with self.team.after_first():
                if self.team.first:
                    self._take_up(stack, budget, tensorboard)
                else:
                    restore_trainer(self.trainer, *self.run.read_tensors(STATE), str(self.run.path))
            if cuda_graph:
                self.trainer.capture_steps()
            self._loop(budget, show, tensorboard)
        return self.trainer

    @running_programs(learn=True)
    def _take_up(
        self, stack: contextlib.ExitStack, budget: TrainingBudget, tensorboard: bool
    ) -> None:
        """Take the run for this training, and bring the trainer to where it was."""
        path = self.run.path
        try:
            stack.enter_context(locked(path / LOCK, wait=False))
        except BlockingIOError:
            raise UserError(f"{LOCKED} {path}; wait for it to end") from None
        except OSError as error:
            raise unwritable(path / LOCK, error) from None
        self._restore()
        # Only now: what cannot be gone on with stays as it was.
        self.run.write_config(self.trainer.config, budget, tensorboard)

    def _restore(self) -> None:
        """Bring the trainer to where the run's last checkpoint left it, or to its initial weights."""
        run, trainer, facts = self.run, self.trainer, self.run.read_facts()
        if not facts.data_sha256:
            facts = dataclasses.replace(
                facts, data_sha256=self.dataset.sha256, native_size=self.dataset.native_size
            )
        if facts.data_sha256 != self.dataset.sha256:
            raise UserError(
                f"the data of {trainer.config.train.source} are not those that {run.path} began with "
                f"(sha256 {self.dataset.sha256[:12]}… now, {facts.data_sha256[:12]}… then)"
            )
        run.refuse_without_state()
        run.write_facts(facts)
        run.remove_partial_files()
        if (run.path / STATE).exists():
            restore_trainer(trainer, *run.read_tensors(STATE), f"{run.path}/{STATE}")
        else:
            set_random_state(trainer.random_state, trainer.device)
            if facts.initial_sha256:
                initialise_from(trainer, run.read_tensors(INITIAL)[0])
            run.write_tensors(STATE, *trainer_state(trainer))
        run.forget_metrics_after(trainer.step)
        if not any(
            line["kind"] == "held-out" and line["step"] == trainer.step
            for line in run.read_metrics()
        ):
            trainer.evaluated = 0  # killed before the line was written: evaluated again at the end

    def _loop(self, budget: TrainingBudget, show: Show | None, tensorboard: bool) -> None:
        run, trainer, dataset, team = self.run, self.trainer, self.dataset, self.team
        settings = trainer.config.train
        trained_on, rows = split_held_out(len(dataset.images))
        held_out = ImageBatch(
            dataset.images[rows].to(trainer.device).float() / 255, dataset.native_size
        )
        log = recorder = None
        if team.first:
            log = MetricsLog(run, trainer, show, tensorboard)
            recorder = _Recorder(run, trainer, held_out, log)
        try:
            with DeferredInterrupt() as interrupt:
                on_images = budget.before_last(trainer.prior_share)
                steps = _Steps(run, trainer, interrupt, team, recorder)
                if on_images is not None:
                    images = dataset.images, trained_on, settings.batch_size, settings.seed
                    where = trainer.device, dataset.native_size, team
                    steps.on_images(Batches(*images, *where), on_images)
                if trainer.prior_share and not budget.used_up(trainer.step, trainer.seconds):
                    strokes = self._parsed(trained_on, budget, steps)
                    of_strokes = settings.batch_size, settings.seed, team
                    steps.on_parses(ParsedBatches(strokes, *of_strokes), budget)
                if log is not None:
                    _finish(run, trainer, held_out, log)
                if interrupt.asked:
                    raise Interrupted(
                        f"interrupted; {run.path} is trained to the end of its budget",
                        interrupt.asked,
                    )
        finally:
            if log is not None:
                log.close()

    def _parsed(self, rows: np.ndarray, budget: TrainingBudget, steps: _Steps) -> ParsedImages:
        """The training images' parses: those that the run has kept, if they are by the present guide of
        the same images and the budget allows no more, or new ones, whose time counts."""
        trainer = self.trainer
        made_by = {"guide": trainer.sha256_of_guide(), "data": self.dataset.sha256}
        with self.team.after_first():
            try:
                kept, notes = self.run.read_tensors(parsed.FILE)
            except UserError:  # none, or damaged
                notes = {}
            found = None
            if notes.items() >= made_by.items():
                found = ParsedImages.from_tensors(kept, trainer.device)
            if not self.team.first:
                if found is None:
                    raise UserError(
                        f"the parses of {self.run.path} cannot be read; train with --resume"
                    )
                return found
            count, seconds = self._to_parse(len(rows), budget)
            # What was cut short by a budget is made anew where a raised one allows more.
            took = float(notes.get("seconds", "inf"))
            if found is None or (len(found) < count and (seconds is None or seconds > took)):
                before = trainer.seconds
                found = self._parse(rows, count, seconds, steps)
                made_by["seconds"] = f"{trainer.seconds - before:.3f}"
                self.run.write_tensors(parsed.FILE, found.tensors(), made_by)
            return found

    def _to_parse(self, images: int, budget: TrainingBudget) -> tuple[int, float | None]:
        """How many parses a budget allows, and the time for them in seconds, if it sets one."""
        trainer, count, seconds = self.trainer, parsed.SAMPLES * images, None
        if budget.steps is not None:  # no more than there will be steps for
            left = (budget.steps - trainer.step) * trainer.config.train.batch_size
            count = min(count, max(1, left))
        if budget.seconds is not None:
            seconds = parsed.TIME_SHARE * max(0.0, budget.seconds - trainer.seconds)
        return count, seconds

    def _parse(
        self, rows: np.ndarray, count: int, seconds: float | None, steps: _Steps
    ) -> ParsedImages:
        """Parse the training images.

        Raises:
            UserError: the disk cannot hold what will be found.
            Interrupted: by a signal; a checkpoint is written, and weights to use.
        """
        trainer, dataset = self.trainer, self.dataset
        parsed.check_room(self.run.path, trainer.model, count)
        _checkpoint(self.run, trainer)
        waiting = steps.waiting()
        try:
            with trainer.averaged():
                found = parsed.parse_images(
                    trainer.model,
                    trainer.guide,
                    dataset.images[torch.from_numpy(rows)].to(trainer.device),
                    dataset.native_size,
                    trainer.config.train.seed,
                    count,
                    seconds,
                    waiting,
                )
        except Interrupted:
            _keep_unmeasured(self.run, trainer)
            raise
        steps.say_parsed(len(found))
        return found


def resume(
    run: Run,
    device: torch.device,
    data_dir: str | Path | None = None,
    show: Show | None = None,
    tensorboard: bool = True,
    budget: TrainingBudget | None = None,
    trusted: Iterable[str] = (),
    cuda_graph: bool = True,
) -> Trainer:
    """Train a run folder, from its start or its last checkpoint, until its end.

    Args:
        trusted: names ``module:Class`` of code of its own that the run may run.
        tensorboard: whether to log for it, which the run keeps for the next time.
        budget: another end than the run's own, which takes its place.
        show: called with the trainer and a line of kind ``"start"`` when training begins, then
            with each line of metrics as it is written.
        cuda_graph: whether steps are captured as CUDA graphs, on a CUDA device and where the estimator
            can be (`Estimator.capturable`).

    Raises:
        UserError: the data cannot be had or is not what the run began with; the checkpoint is
            damaged; the disk is full; the training diverged; another process trains the run. The
            last checkpoint stays as it was.
        Interrupted: by SIGINT (Ctrl-C) or SIGTERM, after a checkpoint.
    """
    return Training.open(run, device, data_dir, trusted).train(
        show, tensorboard, budget, cuda_graph
    )


def _load_dataset(config: RunConfig, data_dir: str | Path | None) -> data.ImageDataset:
    dataset = data.load(config.train.source, "train", config.model.canvas_size, data_dir)
    split_held_out(len(dataset.images))  # says where there are too few
    return dataset


def _try_step(config: RunConfig, device: torch.device, dataset: data.ImageDataset) -> None:
    """Compute the loss and gradient of a batch by programs made for this alone: what fails in anyone's
    code is to be said before there is a run folder.

    Raises:
        UserError: it fails, or the loss is not what it should be.
    """
    trainer = _new_trainer(config, device, dataset.native_size, Team())
    images = dataset.images[: config.train.batch_size].to(device).float() / 255
    try:
        trainer.try_loss(ImageBatch(images, dataset.native_size))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"a first training step fails: {told(error)}") from error


def _new_trainer(config: RunConfig, device: torch.device, native_size: int, team: Team) -> Trainer:
    if device.type == "cpu":
        keep_freed_memory()
    return Trainer.from_config(config, device, native_size, team)


class _Steps:
    """Steps of a training, to the end of a budget.

    Args:
        recorder: of the process that writes; None in the others.
    """

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        interrupt: DeferredInterrupt,
        team: Team,
        recorder: _Recorder | None,
    ) -> None:
        self.run, self.trainer, self.team = run, trainer, team
        self.interrupt, self.recorder = interrupt, recorder

    def on_images(self, batches: Batches, budget: TrainingBudget) -> None:
        """Model and guide learn from images.

        Raises:
            UserError: the training diverged, or another process is gone.
            Interrupted: by a signal, after a checkpoint.
            Followed: either, in processes that do not write.
        """
        trainer = self.trainer
        self._take(lambda: trainer.train_step(batches[trainer.image_steps]), budget)

    def on_parses(self, batches: ParsedBatches, budget: TrainingBudget) -> None:
        """The prior learns from parsed images; raises as `on_images`."""
        trainer = self.trainer
        self._take(lambda: trainer.prior_step(batches[trainer.prior_steps]), budget)

    def say_parsed(self, count: int) -> None:
        """Show how many images have been parsed."""
        if self.recorder is not None:
            self.recorder.log.show_parsed(count)

    def waiting(self) -> Callable[[], None]:
        """What is to be called now and then while time goes by that is not of steps.

        Raises:
            Interrupted: when it is called, by a signal; what was saved before stays.
        """
        trainer, before, began = self.trainer, self.trainer.seconds, time.perf_counter()

        def now_and_then() -> None:
            trainer.seconds = before + time.perf_counter() - began
            if self.recorder is not None:
                self.recorder.log.show_parsing()
            if self.interrupt.asked:
                raise self._interrupted(self.interrupt.asked)

        return now_and_then

    def _take(self, step: Callable[[], tuple[ElboTerms, Tensor]], budget: TrainingBudget) -> None:
        trainer, recorder, team = self.trainer, self.recorder, self.team
        # The first process has more behind it where it has parsed.
        (before,) = team.largest([trainer.seconds])
        trainer.seconds = before
        began, asked = time.perf_counter(), 0.0
        while not asked and not budget.used_up(trainer.step, trainer.seconds):
            with team.together():
                terms, norm = step()
            trainer.seconds = before + time.perf_counter() - began
            if recorder is not None:
                recorder.record(terms, norm)
            if trainer.step % LOG_EVERY == 0:
                self._refuse_divergence(MANY_SKIPPED)
            # All stop after the same step.
            trainer.seconds, asked = team.largest([trainer.seconds, self.interrupt.asked or 0])
        if not asked:  # a training may be short
            self._refuse_divergence(min(MANY_SKIPPED, trainer.step))
        if asked:
            if recorder is None:
                raise Followed
            _checkpoint(self.run, trainer)
            _keep_unmeasured(self.run, trainer)
            raise self._interrupted(int(asked))

    def _refuse_divergence(self, many: int) -> None:
        """Raise if no step has been taken in for that many steps.

        Raises:
            UserError: so it is.
            Followed: so it is, in processes that do not write.
        """
        if not many or float(self.trainer.skipped_in_a_row) < many:
            return
        if self.recorder is None:
            raise Followed
        raise UserError(
            f"training diverged: {many} steps in a row had a non-finite loss or gradient; the last "
            f"good checkpoint is in {self.run.path}; try a lower learning rate"
        )

    def _interrupted(self, signal: int) -> Interrupted:
        return Interrupted(
            f"interrupted; go on with: dood-pyro train --resume {self.run.path}", signal
        )


class _Recorder:
    """What is logged, measured and saved between steps."""

    def __init__(self, run: Run, trainer: Trainer, held_out: ImageBatch, log: MetricsLog) -> None:
        self.run, self.trainer, self.held_out, self.log = run, trainer, held_out, log
        self.saved = time.perf_counter()

    def record(self, terms: ElboTerms, norm: Tensor) -> None:
        """Take in a step."""
        now, step = time.perf_counter(), self.trainer.step
        self.log.add(terms, norm)
        if step % LOG_EVERY == 0:
            self.log.write_training()
        if step % EVALUATE_EVERY == 0:
            self.log.write_held_out(_evaluate(self.run, self.trainer, self.held_out), self.held_out)
        if now - self.saved > CHECKPOINT_SECONDS:
            _checkpoint(self.run, self.trainer)
            self.saved = time.perf_counter()


def _keep_unmeasured(run: Run, trainer: Trainer) -> None:
    """Write the weights to use where none have been measured yet: they are all that was learned."""
    if not (run.path / BEST).exists():
        run.write_tensors(BEST, trainer.weights(), {"step": str(trainer.step)})


def _finish(run: Run, trainer: Trainer, held_out: ImageBatch, log: MetricsLog) -> None:
    """Save all before anything is said about it, which may fail: nobody may be there to hear."""
    best = run.path / BEST
    terms = None
    if trainer.evaluated != trainer.step or not best.exists():
        terms = _evaluate(run, trainer, held_out)
    if best.exists():
        _checkpoint(run, trainer)
    if terms is not None:
        log.write_held_out(terms, held_out)
    if not best.exists():
        raise UserError(
            f"training diverged: no held-out bound of {run.path} was finite; try a lower "
            "learning rate"
        )


def _evaluate(run: Run, trainer: Trainer, held_out: ImageBatch) -> StopMarginalTerms:
    """The held-out images' terms; the weights are kept where they are the best so far."""
    terms = trainer.evaluate(held_out)
    elbo = float(terms.averages().elbo)
    trainer.evaluated = trainer.step
    if elbo > trainer.best:
        trainer.best = elbo
        run.write_tensors(BEST, trainer.weights(), {"step": str(trainer.step)})
    return terms


def _checkpoint(run: Run, trainer: Trainer) -> None:
    weights, (tensors, notes) = trainer.weights(), trainer_state(trainer)
    # What could not be gone on from must not take the place of what can.
    refuse_not_finite(weights | tensors, f"what would be saved of {run.path}")
    run.write_tensors("last.safetensors", weights, {"step": str(trainer.step)})
    run.write_tensors(STATE, tensors, notes)
