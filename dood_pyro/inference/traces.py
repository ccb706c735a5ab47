"""Traces of a guide, and of the model replayed on its samples.
Used by estimators, bounds, parses and searches.

A guide that advances the model's own states returns them (`dood_pyro.models.base.Trajectory`); they are
handed to the model, which then neither encodes nor renders anything twice.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pyro
from pyro import poutine

from dood_pyro.images import Images
from dood_pyro.inference.messengers import AllOnMessenger
from dood_pyro.models.base import DrawingModel, Trajectory
from dood_pyro.models.sites import PARTICLES


def replayed(model: Any, q_trace: Any) -> Any:
    """The model, replayed on the samples of a guide's trace, its states taken over.

    A model that is conditioned or otherwise wrapped may go through other states than the guide's: it
    computes its own.
    """
    returned = q_trace.nodes["_RETURN"]["value"] if "_RETURN" in q_trace.nodes else None
    same = isinstance(model, DrawingModel) and isinstance(returned, Trajectory)
    trajectory = returned if same else None

    def program(images: Images) -> Any:
        return model(images, trajectory=trajectory) if trajectory is not None else model(images)

    return poutine.replay(program, trace=q_trace)


def model_and_guide_traces(model: Any, guide: Any, images: Images) -> tuple[Any, Any]:
    """Traces of the model and of the guide that it is replayed on."""
    q_trace = poutine.trace(guide).get_trace(images)
    p_trace = poutine.trace(replayed(model, q_trace)).get_trace(images)
    return p_trace, q_trace


def stroke_traces(model: Any, guide: Any, images: Images, particles: int = 1) -> tuple[Any, Any]:
    """Traces of the model and the guide with every ``on_t`` forced to 1.

    Args:
        particles: samples per image; for more than one, sites have a leading dimension more.
    """
    with ExitStack() as contexts:
        if particles > 1:
            contexts.enter_context(pyro.plate(PARTICLES, particles, dim=-2))
        # Around the guide alone: the model is replayed on the guide's values.
        with AllOnMessenger():
            q_trace = poutine.trace(guide).get_trace(images)
        p_trace = poutine.trace(replayed(model, q_trace)).get_trace(images)
    return p_trace, q_trace
