"""Recognition programs q(strokes | image), one file each; this is the table of their names."""

from __future__ import annotations

import importlib
import math
import os
import sys
from typing import Any

import torch
from pyro import poutine
from torch import nn

from dood_pyro.config import TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.stepwise import COARSEST, Program, StepwiseGuide

GUIDES = {
    "amortised": {
        "DooD": "dood_pyro.guides.amortised:AmortisedGuide",
        "AIR": "dood_pyro.baselines.air:AIRGuide",
    },
    "full-covariance": {"DooD": "dood_pyro.guides.full_covariance:FullCovarianceGuide"},
}
"""Built-in guides by name, for each class of models; anyone's own is named ``module:Class``. Called
with the model and the training's configuration."""

REFINEMENTS = {
    "refined": "dood_pyro.guides.refined:RefinedGuide",
    "smc": "dood_pyro.guides.smc:SMCGuide",
    "per-image": "dood_pyro.guides.per_image:PerImageGuide",
}
"""Guides that need no training of their own: called with a model and its trained guide."""


def split_guide(name: str | None) -> tuple[str | None, str | None]:
    """What a command's ``--guide`` names: a run's own guide, and one of `REFINEMENTS` to put over it,
    as in ``own:Guide``, ``smc`` or ``own:Guide+smc``.

    Raises:
        UserError: what follows the ``+`` is no refinement.
    """
    if name is None or name in REFINEMENTS:
        return None, name
    own, plus, over = name.partition("+")
    if plus and over not in REFINEMENTS:
        raise UserError(f"there is no {over!r} to put over {own}: {', '.join(REFINEMENTS)}")
    return own, over or None


def refine_guide(name: str, model: nn.Module, guide: nn.Module) -> nn.Module:
    """A guide of `REFINEMENTS` over a trained one."""
    module_name, _, class_name = REFINEMENTS[name].partition(":")
    made: nn.Module = getattr(importlib.import_module(module_name), class_name)(model, guide)
    return made


def make_guide(config: TrainConfig, model: nn.Module) -> nn.Module:
    """The guide that a training's configuration names, for a model.

    Raises:
        UserError: there is no such guide, or it cannot be made.
    """
    name = config.guide
    built_in = GUIDES.get(name, {})
    family = type(model).__name__
    if built_in and family not in built_in:
        raise UserError(f"the guide {name!r} is not for {family}; it is for {', '.join(built_in)}")
    module_name, _, class_name = built_in.get(family, name).partition(":")
    if not module_name or not class_name:
        raise UserError(
            f"there is no guide {name!r}; choose one of {', '.join(GUIDES)} "
            "or name your own as module:Class"
        )
    if name not in GUIDES and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a guide of one's own lies where one works
    try:
        guide = getattr(importlib.import_module(module_name), class_name)(model, config)
    # Whatever somebody's module or class raises is about that module or class.
    except Exception as error:
        if name in GUIDES:
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot make the guide {name!r}: {reason}") from None
    if not isinstance(guide, nn.Module):
        raise UserError(
            f"the guide {name!r} must be a torch.nn.Module whose forward is the program"
        )
    return guide


def check_guide(model: Program[Any], guide: nn.Module) -> None:
    """Runs both programs on blank images, that came with as many pixels as the canvas has and with
    fewer, and compares their sites.

    Raises:
        UserError: sites are missing, extra, or of another shape; they are named.
    """
    size = model.config.canvas_size
    for resolution in (size, math.ceil(COARSEST * size)):
        with model.at(resolution):
            _check_guide(model, guide, size)


def _check_guide(model: nn.Module, guide: nn.Module, size: int) -> None:
    images = torch.zeros(2, size, size)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        theirs: Any = poutine.trace(model).get_trace(images)
        try:
            ours: Any = poutine.trace(guide).get_trace(images)
        except Exception as error:  # the guide is anyone's code
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"the guide fails on blank images: {reason}") from None
        if isinstance(guide, StepwiseGuide):
            drawn = guide.drawn(guide.start(images))
            if not all(hasattr(drawn, name) for name in ("canvas", "alive")):
                raise UserError(
                    "the guide's drawn(state) must give the model's own state, with its canvas; a "
                    "guide that carries more than that says there where it is"
                )
    latent = {name: theirs.nodes[name]["fn"] for name in theirs.stochastic_nodes}
    found = {name: ours.nodes[name]["fn"] for name in ours.stochastic_nodes}
    faults = [f"lacks {name}" for name in latent.keys() - found.keys()]
    faults += [f"has {name}, which the model lacks" for name in found.keys() - latent.keys()]
    for name in (latent.keys() & found.keys()) - {"images"}:
        model_shape, guide_shape = (
            (tuple(fn.batch_shape), tuple(fn.event_shape)) for fn in (latent[name], found[name])
        )
        if model_shape != guide_shape:
            faults.append(f"has {name} of shape {guide_shape} where the model has {model_shape}")
    if faults:
        raise UserError(f"the guide does not fit the model: it {'; it '.join(sorted(faults))}")
