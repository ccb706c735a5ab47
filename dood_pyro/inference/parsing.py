"""The guide's best guess of an image's strokes: every latent variable at its mode."""

from __future__ import annotations

from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from dood_pyro.inference.stop_time import bernoulli_logits
from dood_pyro.model import sharing_states


class Modes(Messenger):
    """Sets latent Gaussians to their mean and ``on_t`` to 1 where it is likelier than not."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or not hasattr(msg["fn"], "batch_shape"):
            return
        if msg["name"].startswith("on_"):
            msg["value"] = (bernoulli_logits(msg) > 0).to(bernoulli_logits(msg))
            msg["done"] = True
        elif msg["fn"].event_shape:
            msg["value"] = msg["fn"].mean
            msg["done"] = True


class Parse(NamedTuple):
    """Strokes of images, step by step; dead steps hold values that mean nothing."""

    on_probability: Float[Tensor, "steps *batch"]
    """q(on_t = 1) given that the drawing came that far; 0 once it has stopped."""
    alive: Float[Tensor, "steps *batch"]
    """1 where a stroke is drawn."""
    layout: Float[Tensor, "steps *batch 4"]
    stroke: Float[Tensor, "steps *batch controls 2"]
    stroke_std: Float[Tensor, "steps *batch controls 2"]
    """The guide's standard deviations of the control points, in the glimpse's frame."""
    pen: Float[Tensor, "steps *batch 2"]
    canvas: Float[Tensor, "steps *batch size size"]
    """The canvas after each step."""


@torch.no_grad()
def parse(model: nn.Module, guide: nn.Module, images: Float[Tensor, "images size size"]) -> Parse:
    """The guide's modes for ``images``; deterministic."""
    with sharing_states(), pyro.validation_enabled(False):
        with Modes():
            q_trace: Any = poutine.trace(guide).get_trace(images)
        p_trace: Any = poutine.trace(poutine.replay(model, trace=q_trace)).get_trace(images)
    columns: list[tuple[Tensor, ...]] = []
    alive = images.new_ones(images.shape[:-2])
    step = 1
    while f"on_{step}" in q_trace.nodes:
        on, stroke = q_trace.nodes[f"on_{step}"], q_trace.nodes[f"stroke_{step}"]
        probability = alive * torch.sigmoid(bernoulli_logits(on))
        alive = alive * on["value"]
        columns.append(
            (
                probability,
                alive,
                p_trace.nodes[f"layout_{step}"]["value"],
                stroke["value"],
                stroke["fn"].stddev,
                p_trace.nodes[f"pen_{step}"]["value"],
                p_trace.nodes[f"canvas_{step}"]["value"],
            )
        )
        step += 1
    return Parse(*(torch.stack(column) for column in zip(*columns, strict=True)))
