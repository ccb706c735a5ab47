"""Training images parsed once, for a prior to learn from the strokes found.
The training loop uses it where the prior alone learns, and follows from strokes alone
(`DrawingModel.prior_is_of_strokes`).

The guide stays as it is, so that its samples can be drawn once and kept: a step then scores strokes
that are at hand, where it would infer and render them anew. For each sample the terms of the bound that
do not depend on the prior are kept too, and what is learned from is the same bound, summed over stops.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.messengers import AllOnMessenger
from dood_pyro.inference.stop_marginal import (
    StopMarginalTerms,
    at_step,
    stop_log_probs,
    sums_to_stops,
)
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.sites import latent_sites
from dood_pyro.training.batches import BatchRows
from dood_pyro.training.processes import Team

FILE = "parses.safetensors"
"""Where a run keeps them."""
SAMPLES = 4
"""Samples of each image, if there is time."""
TIME_SHARE = 0.25
"""Share of a training's time that may go by in parsing."""
BATCH = 256
VALUES = "values."


class ParsedImages(NamedTuple):
    """Samples of a guide for images, every step drawn; and terms of the bound that no prior changes."""

    values: dict[str, Float[Tensor, "steps images *event"]]
    """Latent variables but ``on_t``, by the kind of their site."""
    log_q: Float[Tensor, "stops images"]
    """log q_k"""
    log_q_strokes: Float[Tensor, "stops images"]
    """Σ_{t≤k} log q of ``values`` of step t."""
    log_likelihood: Float[Tensor, "stops images"]
    """log p(x | canvas_k)"""

    def __len__(self) -> int:
        return self.log_q.shape[1]

    def rows(self, rows: Tensor) -> ParsedImages:
        """Some of the images."""
        values = {kind: value[:, rows] for kind, value in self.values.items()}
        return ParsedImages(values, *(column[:, rows] for column in self[1:]))

    @classmethod
    def concatenated(cls, parts: Sequence[ParsedImages]) -> ParsedImages:
        """Several as one, images after images."""
        kinds = parts[0].values
        values = {kind: torch.cat([p.values[kind] for p in parts], dim=1) for kind in kinds}
        columns = zip(*(part[1:] for part in parts), strict=True)
        return cls(values, *(torch.cat(column, dim=1) for column in columns))

    def terms(self, model: DrawingModel) -> StopMarginalTerms:
        """Terms of the bound under the model's prior."""
        logits, log_p = model.prior_of(self.values)
        log_ratio = sums_to_stops(log_p) - self.log_q_strokes
        return StopMarginalTerms(self.log_q, stop_log_probs(logits), self.log_likelihood, log_ratio)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by names, to be kept."""
        named = {f"{VALUES}{kind}": value for kind, value in self.values.items()}
        return named | dict(zip(self._fields[1:], self[1:], strict=True))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> ParsedImages:
        """What `tensors` gave."""
        here = {name: tensor.to(device) for name, tensor in tensors.items()}
        values = {
            name.removeprefix(VALUES): tensor for name, tensor in here.items() if VALUES in name
        }
        return cls(values, *(here[name] for name in cls._fields[1:]))


@torch.no_grad()
def parse_batch(model: DrawingModel, guide: Guide, images: ImageBatch) -> ParsedImages:
    """A sample of the guide for each image.

    Args:
        guide: one that returns the model's states (`dood_pyro.models.base.Trajectory`); the model's own
            program, and with it the prior, is not run.
    """
    with pyro.validation_enabled(False), AllOnMessenger():
        trace: Any = poutine.trace(guide).get_trace(images)
    canvases = [state.canvas for state in trace.nodes["_RETURN"]["value"].states]
    values: dict[str, list[Tensor]] = {}
    steps = range(1, len(canvases))
    for step in steps:
        for name, site in latent_sites(trace.nodes, step):
            values.setdefault(site.kind, []).append(trace.nodes[name]["value"])
    logits, log_q = zip(*(at_step(trace, trace, step) for step in steps), strict=True)
    scale = model.likelihood_scale()
    likelihoods = [model.log_likelihood(images.pixels, canvas, scale) for canvas in canvases]
    return ParsedImages(
        {kind: torch.stack(column) for kind, column in values.items()},
        stop_log_probs(torch.stack(logits)),
        sums_to_stops(torch.stack(log_q)),
        torch.stack(likelihoods),
    )


def parse_images(
    model: DrawingModel,
    guide: Guide,
    images: Tensor,
    native_size: int,
    seed: int,
    samples: int = SAMPLES,
    seconds: float | None = None,
) -> ParsedImages:
    """Samples of the guide for images in random order: all of them ``samples`` times, or as many as
    there is time for.

    Args:
        images: bytes, (count, size, size), on the model's device.
        seconds: time after which no further batch is begun.
    """
    began = time.perf_counter()
    parts: list[ParsedImages] = []
    for sample in range(samples):
        order = torch.from_numpy(np.random.default_rng((seed, sample)).permutation(len(images)))
        for rows in order.split(BATCH):
            if parts and seconds is not None and time.perf_counter() - began > seconds:
                break
            batch = ImageBatch(images[rows.to(images.device)].float() / 255, native_size)
            parts.append(parse_batch(model, guide, batch))
    return ParsedImages.concatenated(parts)


class ParsedBatches:
    """Batches of parsed images by step number (`BatchRows`).

    Args:
        team: processes of which each has its rows of every batch.

    Raises:
        UserError: these cannot share a batch evenly.
    """

    def __init__(self, parsed: ParsedImages, batch_size: int, seed: int, team: Team) -> None:
        self.parsed = parsed
        every = np.arange(len(parsed))
        self.rows = BatchRows(every, batch_size, seed, parsed.log_q.device, team)

    def __getitem__(self, step: int) -> ParsedImages:
        """The batch of a step, or this process's part of it."""
        return self.parsed.rows(self.rows[step])
