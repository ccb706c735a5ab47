"""Recognition programs q(strokes | image), one file each; this is the table of their names."""

from __future__ import annotations

import importlib

from torch import nn

from dood_pyro.errors import UserError

GUIDES = {"amortised": "dood_pyro.guides.amortised:AmortisedGuide"}
"""Built-in guides; anyone's own is named ``module:Class``, a class called with the model."""


def make_guide(name: str, model: nn.Module) -> nn.Module:
    """The guide of that name for a model.

    Raises:
        UserError: there is no such guide, or it cannot be made.
    """
    path = GUIDES.get(name, name)
    module_name, _, class_name = path.partition(":")
    if not class_name:
        raise UserError(
            f"there is no guide {name!r}; choose one of {', '.join(GUIDES)} "
            "or name your own as module:Class"
        )
    try:
        guide_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"cannot import the guide {name!r}: {error}") from None
    guide = guide_class(model)
    if not isinstance(guide, nn.Module):
        raise UserError(
            f"the guide {name!r} must be a torch.nn.Module whose forward is the program"
        )
    return guide
