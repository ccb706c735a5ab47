"""Objectives of training, for model and guide, one file each; `dood_pyro.registry` names them."""

from __future__ import annotations

from dood_pyro.errors import UserError
from dood_pyro.estimators.base import Estimator
from dood_pyro.registry import load_component

__all__ = ["Estimator", "load_estimator"]


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
