"""Trainable guides q(drawing | images), one file each: named in `dood_pyro.registry`, built by runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from torch import nn

from dood_pyro.config import TrainConfig
from dood_pyro.devices import running_programs, seeded
from dood_pyro.errors import UserError, told
from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.images import ImageBatch
from dood_pyro.models.base import MIN_INK_SCALE, DrawingModel, Trajectory
from dood_pyro.models.sites import IMAGES
from dood_pyro.registry import GUIDES, canonical, load_component

__all__ = [
    "Guide",
    "SequentialGuide",
    "amortised_guide",
    "check_guide",
    "make_guide",
    "refuse_uninitialised",
]


def amortised_guide(model: DrawingModel[Any], config: TrainConfig) -> Guide:
    """A model's own trainable guide.

    Raises:
        UserError: it has none.
    """
    own = getattr(model, "amortised_guide", None)
    if own is None:
        raise UserError(
            f"the model {type(model).__name__} has no guide of its own: name one by its class's "
            "amortised_guide, as module:Class, or train with --guide"
        )
    return _make(load_component("guide", own), "amortised", model, config)


def make_guide(config: TrainConfig, model: DrawingModel[Any]) -> Guide:
    """The guide that a training's settings name, for a model.

    Raises:
        UserError: there is no such guide, or it cannot be made for this model.
    """
    return _make(load_component("guide", config.guide), config.guide, model, config)


def _make(make: Any, name: str, model: DrawingModel[Any], config: TrainConfig) -> Guide:
    refusal = make.refusal(model) if hasattr(make, "refusal") else None
    if refusal is not None:
        raise UserError(f"the guide {name!r} is not for {type(model).title}: {refusal}")
    try:
        guide = make(model, config)
    except Exception as error:
        if canonical(name) in GUIDES or isinstance(error, UserError):
            raise
        raise UserError(f"cannot make the guide {name!r}: {told(error)}") from error
    if not isinstance(guide, Guide):
        raise UserError(
            f"the guide {name!r} must be a dood_pyro.Guide, a torch module whose forward is the program"
        )
    refuse_uninitialised(guide, "guide")
    of_model = {id(parameter) for parameter in model.parameters()}
    for each, parameter in guide.named_parameters():
        if id(parameter) in of_model:
            raise UserError(
                f"the guide {name!r} has the model's weights among its own, as {each}; use what is the "
                "model's by self.model, which Guide.__init__ sets without making it a part of the guide"
            )
    return guide


def refuse_uninitialised(module: nn.Module, what: str) -> None:
    """Refuse weights whose shape is not known yet, such as a ``LazyLinear``'s: nothing can be kept of
    them.

    Raises:
        UserError: there are such weights.
    """
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UserError(
                f"the {what} has a weight of unknown size, {name}: give its layer all sizes, as "
                "nn.Linear in place of nn.LazyLinear"
            )


@running_programs()
def check_guide(model: DrawingModel[Any], guide: Guide) -> None:
    """Run both programs on blank images, that came with as many pixels as the canvas has and with
    fewer, and compare their sites.

    Raises:
        UserError: sites are missing, extra, or of another shape; they are named.
    """
    size = model.config.canvas_size
    blank = torch.zeros(2, size, size, device=model.device)
    for native_size in (size, math.ceil(MIN_INK_SCALE * size)):
        _check_sites(model, guide, ImageBatch(blank, native_size))


def _check_sites(model: DrawingModel[Any], guide: Guide, images: ImageBatch) -> None:
    with seeded(0, model.device), torch.no_grad():
        try:
            theirs: Any = poutine.trace(model).get_trace(images)
        except Exception as error:  # the model is anyone's code
            raise UserError(f"the model fails on blank images: {told(error)}") from error
        try:
            ours: Any = poutine.trace(guide).get_trace(images)
        except Exception as error:  # and so is the guide
            raise UserError(f"the guide fails on blank images: {told(error)}") from error
        if isinstance(guide, SequentialGuide):
            drawn = guide.model_state(guide.initial_state(images))
            if not all(hasattr(drawn, name) for name in ("canvas", "alive")):
                raise UserError(
                    "the guide's model_state(state) must give the model's own state, with its canvas; "
                    "a guide that carries more than that says there where it is"
                )
    returned = ours.nodes["_RETURN"]["value"]
    if isinstance(returned, Trajectory) and len(returned.states) != model.config.max_strokes + 1:
        raise UserError(
            "the guide returns a Trajectory, which must have the state before the first stroke and "
            f"that after each of {model.config.max_strokes}; it has {len(returned.states)} states"
        )
    for what, module, trace in (("model", model, theirs), ("guide", guide, ours)):
        _refuse_loose_parameters(what, module, trace)
    latent = {name: theirs.nodes[name]["fn"] for name in theirs.stochastic_nodes}
    found = {name: ours.nodes[name]["fn"] for name in ours.stochastic_nodes}
    faults = [f"lacks {name}" for name in latent.keys() - found.keys()]
    faults += [f"has {name}, which the model lacks" for name in found.keys() - latent.keys()]
    for name in (latent.keys() & found.keys()) - {IMAGES}:
        model_shape, guide_shape = (
            (tuple(fn.batch_shape), tuple(fn.event_shape)) for fn in (latent[name], found[name])
        )
        if model_shape != guide_shape:
            faults.append(f"has {name} of shape {guide_shape} where the model has {model_shape}")
    if faults:
        raise UserError(f"the guide does not fit the model: it {'; it '.join(sorted(faults))}")


def _refuse_loose_parameters(what: str, module: nn.Module, trace: Any) -> None:
    """Refuse what ``pyro.param`` puts into Pyro's store alone: neither trained nor kept with a run."""
    own = {id(parameter) for parameter in module.parameters()}
    for name, node in trace.nodes.items():
        if node["type"] != "param":
            continue
        if id(node["value"].unconstrained()) not in own:
            raise UserError(
                f"the {what} has a pyro.param, {name}, that is no weight of its module, so that it "
                "would be neither trained nor kept; make it an nn.Parameter of the module"
            )
