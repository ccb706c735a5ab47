"""The trainer: model, guide and estimator, and all that changes from step to step.
Used by the training loop at every step, and by checkpoints.

The learning rate falls as a power of the step, and a running average of the weights is what is kept and
evaluated: there is no horizon, so that a run can be evaluated at any time and go on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from dood_pyro.config import RunConfig, SettingError
from dood_pyro.data.random_strokes import RandomStrokes, sample_random_strokes
from dood_pyro.devices import random_state, running_programs, seeded
from dood_pyro.errors import UserError
from dood_pyro.estimators import make_estimator
from dood_pyro.estimators.sleep import frozen_parameters, sleep_loss
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import (
    ElboTerms,
    StopMarginalTerms,
    stop_marginal_terms,
    strokes_are_all,
)
from dood_pyro.models.base import DrawingModel
from dood_pyro.optimiser import Adam
from dood_pyro.run_folders.build import build
from dood_pyro.schedules import Step, at_least, at_most
from dood_pyro.training.parsed import ParsedImages
from dood_pyro.training.processes import SharedLoss, Team

if TYPE_CHECKING:
    from dood_pyro.training.cuda_graphs import CudaGraphs

SYNTHETIC_SIGMAS = (0.015, 0.12)
"""Pens of the random strokes that a guide learns to parse, canvas units: the renderer's range but for
the broadest, which fill the canvas."""
COARSE_SYNTHETIC = 0.56
"""Size of coarse random drawings, as a share of the canvas's: 28 of 50, what most datasets of drawings
have. Every other batch of them is coarse where the source has more pixels, and of the canvas's size
where it has fewer."""


PRIOR_LEARNING_RATE_FACTOR = 4.0
"""Learning rate of a prior over strokes alone, times that of model and guide."""


class StepPlan(NamedTuple):
    """What a training step does: steps of one plan run the same operations on other numbers."""

    asleep: bool
    """Whether it is of the sleep phase."""
    synthetic: tuple[int, ...]
    """Native sizes of its batches of random drawings."""
    estimator: Hashable
    guide: Hashable
    """Phases of the estimator (`Estimator.phase`) and of the guide (`Guide.phase`)."""


class Trainer:
    """Model, guide and estimator in training.

    Args:
        config: settings of the run.
        model, guide: programs with their initial weights.
        device: where to train; they are moved there.
        native_size: pixels per side of the source's images as they came.
        team: processes that train together; each is handed its share of every batch.
    """

    def __init__(
        self,
        config: RunConfig,
        model: DrawingModel[Any],
        guide: Guide,
        device: torch.device,
        native_size: int = 0,
        team: Team | None = None,
    ) -> None:
        self.config = config
        self.team = team or Team()
        self.device = device
        self.native_size = native_size
        self.model, self.guide = model.to(device), guide.to(device)
        self.estimator = make_estimator(config.train, config.model.max_strokes)
        self.estimator.to(device)
        if not (self.team.alone or self.estimator.shares_batches):
            raise UserError(
                f"the estimator {config.train.estimator} learns from whole batches; train with it in "
                "one process, without torchrun"
            )
        if config.train.prior_share and not self._prior_can_learn_alone():
            raise SettingError(
                "prior_share",
                f"is for models whose prior is of strokes alone, such as dood-transformer, with guides "
                f"that draw step by step, not for {config.model_name}: set it to 0",
            )
        self.parameters = dict(self._named_parameters())
        self.averages: dict[str, Tensor] = {
            n: p.detach().clone() for n, p in self.parameters.items()
        }
        if config.train.trainable != "both":
            self.model.requires_grad_(False)
        if config.train.trainable == "prior":
            self.guide.requires_grad_(False)
            for parameter in self.model.prior_parameters():
                parameter.requires_grad_(True)
        self.groups = self._groups()
        self.shared = SharedLoss(self.team, [self.model, self.guide], device)
        self.optimiser = Adam([parameters for parameters, _ in self.groups])
        self.random_state: dict[str, Tensor] = {}
        """State of the random numbers that training begins with (`dood_pyro.devices`)."""
        self.graphs: CudaGraphs | None = None
        """Captured steps; None where each step is run operation by operation."""
        self.step = 0
        """Steps taken."""
        self.prior_steps = 0
        """Those of them that the prior alone took, on parsed images."""
        self.seconds = 0.0
        self.best = float("-inf")
        """Best held-out bound so far."""
        self.evaluated = 0
        """Last step whose held-out bound is known."""
        self.on_parses = False
        """Whether the last step was the prior's alone."""
        # Gradients left out because they were not finite, of images or of random strokes; counted on
        # the device, read when logging only.
        self.skipped = torch.zeros((), device=device)
        self.skipped_in_a_row = torch.zeros((), device=device)

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        device: torch.device,
        native_size: int = 0,
        team: Team | None = None,
    ) -> Trainer:
        """A trainer of new programs, whose weights are drawn by the training's seed.

        Torch's global random state stays as it is; a training begins with ``random_state``.
        """
        with running_programs(learn=True), seeded(config.train.seed, device):
            model, guide = build(config)
            trainer = cls(config, model, guide, device, native_size, team)
            trainer.random_state = random_state(device)
        return trainer

    def _groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters with the factor of their learning rate; each group is clipped by itself."""
        scale_ids = {id(parameter) for parameter in self.model.scale_parameters()}
        baseline_ids = {id(parameter) for parameter in self.guide.baseline_parameters()}
        prior_ids = set()
        if self._prior_can_learn_alone():
            prior_ids = {id(parameter) for parameter in self.model.prior_parameters()}
        scale, baselines, prior, rest = [], [], [], []
        for parameter in self.parameters.values():
            if not parameter.requires_grad:
                continue
            if id(parameter) in scale_ids:
                scale.append(parameter)
            elif id(parameter) in prior_ids:
                prior.append(parameter)
            elif id(parameter) not in baseline_ids:
                rest.append(parameter)
            elif self.estimator.trains_baselines:
                baselines.append(parameter)
        factor = self.config.train.scale_learning_rate_factor
        groups = [
            (rest, 1.0),
            (prior, PRIOR_LEARNING_RATE_FACTOR),
            (scale, factor),
            (baselines, 1.0),
        ]
        return [(parameters, factor) for parameters, factor in groups if parameters]

    def learning_rate(self, step: Step) -> Step:
        """Learning rate of a step on images, or of the prior's steps on parsed ones."""
        settings = self.config.train
        rise = at_most((step + 1) / max(1, settings.warm_up), 1.0)
        fall = (1 + step / settings.decay_steps) ** settings.decay_power
        return settings.learning_rate * rise / fall

    @property
    def prior_share(self) -> float:
        """Share of the budget, at its end, in which the prior alone learns from parsed images."""
        train = self.config.train
        if train.trainable == "prior" and self._prior_can_learn_alone():
            return 1.0
        return train.prior_share

    def _prior_can_learn_alone(self) -> bool:
        return strokes_are_all(self.model, self.guide) and self.estimator.bounds_one_sample

    def sha256_of_guide(self) -> str:
        """Hash of all averaged weights but the prior's: what decides the guide's samples."""
        prior = {id(parameter) for parameter in self.model.prior_parameters()}
        kept = self.buffers() | {
            name: self.averages[name] for name, p in self.parameters.items() if id(p) not in prior
        }
        found = hashlib.sha256()
        for name in sorted(kept):
            found.update(name.encode() + kept[name].detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @property
    def image_steps(self) -> int:
        """Steps taken on images, by which schedules go."""
        return self.step - self.prior_steps

    @property
    def present_learning_rate(self) -> float:
        """Learning rate of the next step, if it is of the kind of the last; of model and guide, where
        they learn."""
        if self.on_parses:
            return float(PRIOR_LEARNING_RATE_FACTOR * self.learning_rate(self.prior_steps))
        return float(self.learning_rate(self.image_steps))

    @running_programs(learn=True)
    def train_step(self, images: ImageBatch) -> tuple[ElboTerms, Tensor]:
        """One step on a batch; the terms and the gradient's norm stay on the device.

        A step whose loss or gradient is not finite leaves weights and moments as they are, and is
        counted.
        """
        self.shared.connect()
        self.on_parses = False
        if self.config.train.trainable != "prior":
            self.guide.set_step(self.image_steps)
        plan = self.plan()
        if self.graphs is None:
            found = self.operations(images, self.image_steps, plan)
        else:
            found = self.graphs.step(images, self.image_steps, plan)
        self.step += 1
        return found

    @running_programs(learn=True)
    def prior_step(self, images: ParsedImages) -> tuple[ElboTerms, Tensor]:
        """One step of the prior alone on a batch of parsed images, on the bound itself (β = 1);
        else as `train_step`."""
        self.shared.connect()
        self.on_parses = True

        def compute() -> tuple[Tensor, ElboTerms]:
            terms = images.terms(self.model)
            return -terms.elbo().sum() / self._pixels(len(images)), terms.averages()

        with pyro.validation_enabled(False):
            loss, terms = self.shared(compute)
            loss.backward()
        rate = self.learning_rate(self.prior_steps)
        found = self._update(loss, terms, rate, self.prior_steps, self.model.prior_parameters())
        self.step += 1
        self.prior_steps += 1
        return found

    def capture_steps(self) -> None:
        """From now on replay steps as CUDA graphs, where device and estimator allow it and no other
        process takes part."""
        if self.device.type == "cuda" and self.estimator.capturable and self.team.alone:
            from dood_pyro.training.cuda_graphs import CudaGraphs

            self.graphs = CudaGraphs(self.operations, self.device)

    def plan(self) -> StepPlan:
        """What the step to come does that others may not."""
        settings, step = self.config.train, self.image_steps
        asleep = step < settings.sleep_steps
        share = 0.0 if asleep else settings.synthetic_ratio
        batches = range(math.floor(step * share), math.floor((step + 1) * share))
        since = max(0, step - settings.sleep_steps)
        return StepPlan(
            asleep,
            tuple(self._synthetic_size(batch) for batch in batches),
            self.estimator.phase(since),
            self.guide.phase(),
        )

    def operations(
        self, images: ImageBatch, step: Step, plan: StepPlan
    ) -> tuple[ElboTerms, Tensor]:
        """All that a step computes, on the device alone: nothing is read back, and steps of one plan
        run the same operations.

        Args:
            step: its number; on the device, where the step is captured for all of its plan.
        """
        # Checks of supports and shapes in every step would wait for the device.
        with pyro.validation_enabled(False):
            # Before the images: while those have gradients there is no room for a second graph.
            synthetic = self.synthetic_gradient(len(images), step, plan)
            if plan.asleep:
                loss = self.shared(
                    lambda: (
                        sleep_loss(self.model, self.guide, len(images), self.native_size)
                        / images.pixels.numel()
                    )
                )
                # What is reported is of the data all the same.
                with torch.no_grad(), self.team.noise():
                    terms = stop_marginal_terms(self.model, self.guide, images).averages()
            else:
                loss, terms = self._loss(images, step, plan)
            loss.backward()
        return self._update(loss, terms, self.learning_rate(step), step, None, synthetic)

    def _update(
        self,
        loss: Tensor,
        terms: ElboTerms,
        learning_rate: Step,
        step: Step,
        learning: Sequence[nn.Parameter] | None = None,
        synthetic: dict[nn.Parameter, Tensor] | None = None,
    ) -> tuple[ElboTerms, Tensor]:
        """Move the weights by their gradients, and the averaged ones after them.

        Args:
            learning: parameters whose averages move; None for all.
            synthetic: gradients to be added once the others are clipped.
        """
        norms = [self._clip(group) for group, _ in self.groups]
        for parameter, gradient in (synthetic or {}).items():
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        mean_loss, *of_terms = self.team.mean(torch.stack([loss.detach(), *terms])).unbind()
        terms = ElboTerms(*of_terms)
        finite = torch.isfinite(torch.stack([mean_loss, *norms])).all()
        bad = (~finite).float()
        self.optimiser.step([learning_rate * rate for _, rate in self.groups], skip=bad)
        self.optimiser.zero_grad()  # now: the next step needs the memory before it needs gradients
        decay = at_most((1 + step) / (10 + step), self.config.train.average_decay)
        self._move_averages(1 - decay, learning)
        self.skipped += bad
        self.skipped_in_a_row.add_(bad).mul_(bad)
        return terms, torch.stack(norms).norm()

    def _move_averages(self, share: Step, learning: Sequence[nn.Parameter] | None) -> None:
        """Move the averaged weights towards the current ones by a share of the way."""
        some = None if learning is None else {id(parameter) for parameter in learning}
        names = [n for n, p in self.parameters.items() if some is None or id(p) in some]
        current = [self.parameters[name].detach() for name in names]
        averages = [self.averages[name] for name in names]
        if isinstance(share, Tensor):
            moves = torch._foreach_sub(current, averages)
            torch._foreach_mul_(moves, share.to(current[0]))
            torch._foreach_add_(averages, moves)
        else:
            torch._foreach_lerp_(averages, current, share)

    def _loss(self, images: ImageBatch, step: Step, plan: StepPlan) -> tuple[Tensor, ElboTerms]:
        """The estimator's loss per pixel, whose schedules begin once the sleep phase is over."""
        since = at_least(step - self.config.train.sleep_steps, 0)

        def compute() -> tuple[Tensor, ElboTerms]:
            loss, terms = self.estimator.scheduled_loss(
                self.model, self.guide, images, since, plan.estimator
            )
            return loss / self._pixels(len(images)), terms

        return self.shared(compute)

    @running_programs(learn=True)
    def try_loss(self, images: ImageBatch) -> None:
        """Compute the loss of a first step on images, and its gradient, which the parameters keep.

        Raises:
            UserError: the estimator gives something else than a loss and its terms.
        """
        with seeded(0, self.device), pyro.validation_enabled(False):
            found: Any = self.estimator.scheduled_loss(
                self.model, self.guide, images, 0, self.estimator.phase(0)
            )
            fits = isinstance(found, tuple | list) and len(found) == 2
            loss, terms = found if fits else (found, None)
            if not (
                isinstance(loss, Tensor)
                and loss.shape == ()
                and loss.requires_grad
                and isinstance(terms, ElboTerms)
            ):
                raise UserError(
                    f"the estimator {self.config.train.estimator} must return a scalar tensor with a "
                    f"gradient, and ElboTerms; not {_in_short(found)}"
                )
            loss.backward()

    def _pixels(self, images: int) -> int:
        """Pixels of so many images: losses are nats per pixel."""
        return images * self.config.model.canvas_size**2

    def _clip(self, parameters: Sequence[nn.Parameter]) -> Tensor:
        """Cut the gradient to the largest norm allowed; return what its norm was."""
        if all(parameter.grad is None for parameter in parameters):
            return torch.zeros((), device=self.device)
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.train.clip_norm)

    def _synthetic_size(self, batch: int) -> int:
        """Native size of a batch of random drawings."""
        size = self.config.model.canvas_size
        own_size = self.model.ink_size(self.native_size)
        other = round(COARSE_SYNTHETIC * size) if own_size == size else size
        return other if batch % 2 else own_size

    def synthetic_gradient(
        self, count: int, step: Step, plan: StepPlan
    ) -> dict[nn.Parameter, Tensor]:
        """The gradient of the guide's loss on random strokes, to be added to the images'.

        Random drawings come by whole batches of ``count``, not with every step: a small batch costs
        nearly as much as a large one. Their gradient, at first much the larger, is clipped by itself,
        or it would leave nothing of the images'. One that is not finite is left out and counted.
        """
        settings, model = self.config.model, self.model
        learning = [p for p in self.guide.parameters() if p.requires_grad]
        gradients: dict[nn.Parameter, Tensor] = {}
        for native_size in plan.synthetic:
            every = count * self.team.share.world
            drawn = sample_random_strokes(
                every, settings.max_strokes, SYNTHETIC_SIGMAS, device=self.device
            )
            mine = self.team.share.rows(every)
            strokes = RandomStrokes(*(column[mine] for column in drawn))
            with frozen_parameters(model):
                pixels = model.picture(strokes.ink(model.ink_size(native_size)))
                loss, _ = self._loss(ImageBatch(pixels, native_size), step, plan)
                loss.backward()
            finite = torch.isfinite(self._clip(learning) + self.team.mean(loss.detach()))
            self.skipped += (~finite).float()
            for parameter in learning:
                if parameter.grad is not None:
                    gradient = parameter.grad.masked_fill_(~finite, 0.0)
                    earlier = gradients.get(parameter)
                    gradients[parameter] = gradient if earlier is None else earlier + gradient
                    parameter.grad = None
        return gradients

    # Averaged weights.

    def weights(self) -> dict[str, Tensor]:
        """Averaged weights and buffers of model and guide, under the names a run keeps them by: of tied
        weights, all their names."""
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        averages = {
            other: self.averages[names[id(parameter)]]
            for other, parameter in self._named_parameters(remove_duplicate=False)
        }
        return self.buffers() | averages

    def _named_parameters(
        self, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for prefix, module in (("model", self.model), ("guide", self.guide)):
            yield from module.named_parameters(prefix, remove_duplicate=remove_duplicate)

    def buffers(self) -> dict[str, Tensor]:
        """Tensors that model and guide keep beside their parameters."""
        parameters = dict(self._named_parameters(remove_duplicate=False))
        return {
            f"{prefix}.{name}": tensor
            for prefix, module in (("model", self.model), ("guide", self.guide))
            for name, tensor in module.state_dict().items()
            if f"{prefix}.{name}" not in parameters
        }

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, model and guide have the averaged weights and are in evaluation mode, and the
        random state, which is seeded anew, is given back afterwards."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}

        def put(weights: dict[str, Tensor]) -> None:
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])

        with (
            running_programs(),
            seeded(0, self.device),
            torch.no_grad(),
            pyro.validation_enabled(False),
        ):
            try:
                put(self.averages)
                self.model.eval()
                self.guide.eval()
                yield
            finally:
                put(kept)
                self.model.train()
                self.guide.train()

    def evaluate(self, images: ImageBatch) -> StopMarginalTerms:
        """The averaged weights' terms on held-out images."""
        with self.averaged():
            parts = [stop_marginal_terms(self.model, self.guide, part) for part in images.split(64)]
        return StopMarginalTerms(
            *(torch.cat(column, dim=-1) for column in zip(*parts, strict=True))
        )


def _in_short(value: Any) -> str:
    """What kind of thing a value is, and what a pair consists of."""
    if isinstance(value, Tensor):
        gradient = "with" if value.requires_grad else "without"
        return f"a tensor of shape {tuple(value.shape)} {gradient} a gradient"
    if type(value) in (tuple, list):
        return f"({', '.join(map(_in_short, value))})"
    return type(value).__name__
