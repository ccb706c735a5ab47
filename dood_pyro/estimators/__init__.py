"""Objectives of training, for model and guide, one file each; `dood_pyro.registry` names them."""

from __future__ import annotations

from dood_pyro.config import TrainConfig
from dood_pyro.errors import UserError, told
from dood_pyro.estimators.base import Estimator
from dood_pyro.registry import is_own_code, load_component

__all__ = ["Estimator", "load_estimator", "make_estimator"]


def make_estimator(config: TrainConfig, max_strokes: int) -> Estimator:
    """The estimator of a training's settings.

    Raises:
        UserError: there is none of that name, or it cannot be made.
    """
    kind = load_estimator(config.estimator)
    try:
        return kind.from_config(config, max_strokes)
    except Exception as error:
        if not is_own_code(config.estimator) or isinstance(error, UserError):
            raise
        raise UserError(f"cannot make the estimator {config.estimator!r}: {told(error)}") from error


def load_estimator(name: str) -> type[Estimator]:
    """The class of an estimator, by its name.

    Raises:
        UserError: there is none of that name, or it is no estimator.
    """
    found = load_component("estimator", name)
    if not (isinstance(found, type) and issubclass(found, Estimator)):
        raise UserError(
            f"the estimator {name!r} must be a subclass of dood_pyro.Estimator, a torch module with a "
            "method loss"
        )
    return found
