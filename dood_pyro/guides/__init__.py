"""Trainable guides q(drawing | images), one file each: named in `dood_pyro.registry`, built by runs."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine

from dood_pyro.config import TrainConfig
from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.images import ImageBatch
from dood_pyro.models.base import MIN_INK_SCALE, DrawingModel
from dood_pyro.models.sites import IMAGES
from dood_pyro.registry import GUIDES, canonical, first_line, load_component

__all__ = ["Guide", "SequentialGuide", "amortised_guide", "check_guide", "make_guide"]


def amortised_guide(model: DrawingModel[Any], config: TrainConfig) -> Guide:
    """A model's own trainable guide."""
    return _make(load_component("guide", type(model).amortised_guide), "amortised", model, config)


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
        raise UserError(f"cannot make the guide {name!r}: {first_line(error)}") from None
    if not isinstance(guide, Guide):
        raise UserError(
            f"the guide {name!r} must be a dood_pyro.Guide, a torch module whose forward is the program"
        )
    return guide


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
        theirs: Any = poutine.trace(model).get_trace(images)
        try:
            ours: Any = poutine.trace(guide).get_trace(images)
        except Exception as error:  # the guide is anyone's code
            raise UserError(f"the guide fails on blank images: {first_line(error)}") from None
        if isinstance(guide, SequentialGuide):
            drawn = guide.model_state(guide.initial_state(images))
            if not all(hasattr(drawn, name) for name in ("canvas", "alive")):
                raise UserError(
                    "the guide's model_state(state) must give the model's own state, with its canvas; "
                    "a guide that carries more than that says there where it is"
                )
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
