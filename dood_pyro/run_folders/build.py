"""Model and guide from a run's settings. Used by new trainings and by run folders that are loaded."""

from __future__ import annotations

from typing import Any

from dood_pyro.config import RunConfig
from dood_pyro.errors import UserError, told
from dood_pyro.estimators import load_estimator
from dood_pyro.guides import make_guide, refuse_uninitialised
from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.models.base import DrawingModel
from dood_pyro.registry import load_component


def build_model(config: RunConfig) -> DrawingModel[Any]:
    """A new model, initialised from the current random state.

    Raises:
        UserError: there is no such model, or it cannot be made.
    """
    make = load_component("model", config.model_name)
    try:
        model = make(config.model)
    except Exception as error:
        if config.model_name not in config.own_code():
            raise
        raise UserError(f"cannot make the model {config.model_name!r}: {told(error)}") from error
    if not isinstance(model, DrawingModel):
        raise UserError(f"the model {config.model_name!r} must be a dood_pyro.DrawingModel")
    refuse_uninitialised(model, "model")
    return model


def prior_can_learn_alone(config: RunConfig) -> bool:
    """Whether the prior of a run's model can learn from strokes alone, which its guide gives step by
    step, and the prior's best is what the run's estimator is after.

    Raises:
        UserError: there is no such model, guide or estimator.
    """
    model = load_component("model", config.model_name)
    guide = load_component("guide", config.train.guide)
    if isinstance(guide, type) and getattr(guide, "forward", None) is not SequentialGuide.forward:
        return False
    return (
        isinstance(model, type)
        and issubclass(model, DrawingModel)
        and model.prior_is_of_strokes(config.model)
        and load_estimator(config.train.estimator).bounds_one_sample
    )


def build(config: RunConfig) -> tuple[DrawingModel[Any], Guide]:
    """A new model and a new guide for it, initialised from the current random state."""
    model = build_model(config)
    return model, make_guide(config.train, model)
