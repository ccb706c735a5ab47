"""A trainer's state as tensors and notes, to go on from; and initial weights from another run.
Used by the training loop.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dood_pyro.devices import random_state, set_random_state
from dood_pyro.errors import UserError
from dood_pyro.run_folders.run import INITIAL
from dood_pyro.run_folders.tensors import load_tensors, number_in, refuse_not_finite
from dood_pyro.training.trainer import Trainer


def trainer_state(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All that going on needs, as tensors and notes."""
    tensors: dict[str, Tensor] = {f"weights.{n}": p for n, p in trainer.parameters.items()}
    tensors |= {f"average.{name}": p for name, p in trainer.averages.items()}
    tensors |= {f"buffer.{name}": tensor for name, tensor in trainer.buffers().items()}
    names = {id(parameter): name for name, parameter in trainer.parameters.items()}
    for parameter, moments in trainer.optimiser.state.items():
        for key, value in moments.items():
            tensors[f"adam.{key}.{names[id(parameter)]}"] = value
    for name, value in trainer.estimator.state_dict().items():
        tensors[f"estimator.{name}"] = value
    for kind, state in random_state(trainer.device).items():
        tensors[f"random.{kind}"] = state
    tensors["skipped"] = torch.stack([trainer.skipped, trainer.skipped_in_a_row])
    notes = {
        "step": str(trainer.step),
        "prior_steps": str(trainer.prior_steps),
        "seconds": repr(trainer.seconds),
        "best": repr(trainer.best),
        "evaluated": str(trainer.evaluated),
    }
    return tensors, notes


def restore_trainer(
    trainer: Trainer, tensors: dict[str, Tensor], notes: dict[str, str], what: str
) -> None:
    """Take up what `trainer_state` gave.

    Raises:
        UserError: it is of another model or training, or damaged; ``what`` says whose it is.
    """
    refuse_not_finite(tensors, what)

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }

    own: dict[str, dict[str, Any]] = {
        "weights.": dict(trainer.parameters),
        "average.": trainer.averages,
        "buffer.": trainer.buffers(),
    }
    step = number_in(notes, "step", int, what)
    _restore_moments(trainer, part, step, what)
    with torch.no_grad():
        for prefix, mine in own.items():
            theirs = part(prefix)
            kinds = [{n: (t.shape, t.dtype) for n, t in each.items()} for each in (mine, theirs)]
            if kinds[0] != kinds[1]:
                raise UserError(f"{what} does not fit the model of its config.json")
            for name, tensor in mine.items():
                tensor.copy_(theirs[name])
    load_tensors(trainer.estimator, part("estimator."), what)
    try:
        trainer.best = float(notes["best"])  # −∞ before the first
        trainer.step, trainer.seconds = step, number_in(notes, "seconds", float, what)
        # A checkpoint of before they were counted is of a training of one kind.
        alone = step if trainer.prior_share == 1 else 0
        trainer.prior_steps = number_in({"prior_steps": alone, **notes}, "prior_steps", int, what)
        trainer.evaluated = number_in({"evaluated": step, **notes}, "evaluated", int, what)
        if not {"step", "seconds"} <= set(notes) or math.isnan(trainer.best):
            raise ValueError
        set_random_state(part("random."), trainer.device)
        skipped = tensors["skipped"].to(trainer.device, trainer.skipped.dtype)
        trainer.skipped, trainer.skipped_in_a_row = skipped.unbind()
    except (KeyError, ValueError, TypeError, RuntimeError):
        raise UserError(f"{what} is incomplete or damaged; train a new run") from None


def _restore_moments(trainer: Trainer, part: Any, step: int, what: str) -> None:
    """Take up Adam's moments."""
    trained = {id(parameter) for group, _ in trainer.groups for parameter in group}
    names = [name for name, p in trainer.parameters.items() if id(p) in trained]
    moments = {key: part(f"adam.{key}.") for key in ("step", "exp_avg", "exp_avg_sq")}
    for key, found in moments.items():
        fits = set(found) == set(moments["step"]) and set(found) <= set(names)
        if not fits or (step > 0 and not found):
            raise UserError(f"{what} does not fit the training of its config.json")
        for name, value in found.items():
            parameter = trainer.parameters[name]
            shape = () if key == "step" else parameter.shape
            if value.shape != shape or value.dtype != parameter.dtype:
                raise UserError(f"{what} does not fit the training of its config.json")
            state = trainer.optimiser.state.setdefault(parameter, {})
            state[key] = value.to(trainer.device)


def initialise_from(trainer: Trainer, weights: dict[str, Tensor]) -> None:
    """Take up another run's weights: the model's, and of the guide those that are alike.

    Where the prior alone learns, the guide is the other run's, whole and as far as it has come.

    Raises:
        UserError: then, it has other weights than this one; or they are damaged.
    """
    own: dict[str, Tensor] = dict(trainer.parameters)
    if trainer.config.train.trainable == "prior":
        own |= trainer.buffers()
        prior = {id(parameter) for parameter in trainer.model.prior_parameters()}
        kept = {n: t.shape for n, t in own.items() if id(t) not in prior}
        found = {n: t.shape for n, t in weights.items() if n in kept or n.startswith("guide.")}
        if kept != found:
            raise UserError(
                "init_from names a run whose guide has other weights than its code now gives it"
            )
    refuse_not_finite(weights, INITIAL)
    with torch.no_grad():
        for name, tensor in own.items():
            theirs = weights.get(name)
            if theirs is None or theirs.shape != tensor.shape:
                continue
            if theirs.is_floating_point() != tensor.is_floating_point():
                raise UserError(f"{INITIAL} is damaged: {name} is of {theirs.dtype}")
            tensor.copy_(theirs)
            if name in trainer.averages:
                trainer.averages[name].copy_(theirs)
