"""Training images parsed once, for a prior to learn from the strokes found.
The training loop uses it while the prior alone learns, and follows from strokes alone
(`DrawingModel.prior_is_of_strokes`).

The guide stays as it is, so that its samples can be drawn once and kept: a step then scores strokes
that are at hand, where it would infer and render them anew. For each sample the terms of the bound that
do not depend on the prior are kept too, and what is learned from is the same bound, summed over stops.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.devices import running_programs, seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import (
    StopMarginalTerms,
    guide_strokes,
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
TIME_SHARE = 0.3
"""Share of the prior's time that may go by in parsing."""
BATCH = 256
NEGLIGIBLE = 1e-3
"""Probability below which the prior need not know of a stroke."""
VALUES = "values."


class ParsedImages(NamedTuple):
    """Samples of a guide for images, every step drawn; and terms of the bound that no prior changes."""

    values: dict[str, Float[Tensor, "steps images *event"]]
    """Latent variables but ``on_t``, by the kind of their site."""
    log_q: Float[Tensor, "stops images"]
    """log q_k"""
    log_q_strokes: Float[Tensor, "steps images"]
    """log q of ``values``, step by step."""
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
        """Terms of the bound under the model's prior; what strokes cost that are hardly ever drawn is
        left out."""
        drawn = self.log_q.exp().flip(0).cumsum(0).flip(0)[1:]
        wanted = drawn > NEGLIGIBLE
        logits, log_p = model.prior_of(self.values, wanted)
        ratios = (log_p - self.log_q_strokes).masked_fill(~wanted, 0.0)
        log_p_stops = stop_log_probs(logits)
        return StopMarginalTerms(
            self.log_q, log_p_stops, self.log_likelihood, sums_to_stops(ratios)
        )

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
        guide: one whose strokes are all that is needed (`strokes_are_all`).
    """
    with pyro.validation_enabled(False):
        drawn = guide_strokes(model, guide, images)
    scale = model.likelihood_scale()
    likelihoods = [model.log_likelihood(images.pixels, each, scale) for each in drawn.canvases]
    return ParsedImages(
        drawn.values,
        stop_log_probs(drawn.q_logits),
        drawn.log_q,
        torch.stack(likelihoods),
    )


def parse_images(
    model: DrawingModel,
    guide: Guide,
    images: Tensor,
    native_size: int,
    seed: int,
    count: int,
    seconds: float | None = None,
    show: Callable[[], None] | None = None,
) -> ParsedImages:
    """Samples of the guide for images in random order: ``count`` of them, or as many as there is time
    for.

    Args:
        images: bytes, (images, size, size), on the model's device.
        count: above the number of images, these are gone through again.
        seconds: time after which no further batch is begun.
        show: called after each batch.
    """
    began = time.perf_counter()
    rounds = range(math.ceil(count / len(images)))
    orders = [np.random.default_rng((seed, each)).permutation(len(images)) for each in rounds]
    parts: list[ParsedImages] = []
    for rows in torch.from_numpy(np.concatenate(orders)[:count]).split(BATCH):
        if parts and seconds is not None and time.perf_counter() - began > seconds:
            break
        batch = ImageBatch(images[rows.to(images.device)].float() / 255, native_size)
        parts.append(parse_batch(model, guide, batch))
        if show is not None:
            show()
    return ParsedImages.concatenated(parts)


@running_programs()
def check_room(folder: Path, model: DrawingModel, count: int) -> None:
    """Check that a folder has room for the parses of ``count`` images.

    Raises:
        UserError: it has not.
    """
    with torch.no_grad(), seeded(0, model.device), pyro.validation_enabled(False):
        trace: Any = poutine.trace(model).get_trace(count=1)
    steps = range(1, model.config.max_strokes + 1)
    names = [name for step in steps for name, _ in latent_sites(trace.nodes, step)]
    numbers = sum(trace.nodes[name]["value"].numel() for name in names) + 3 * (len(steps) + 1)
    needed = 4 * count * numbers
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the parses of {count} images need {needed / 2**20:.0f} MiB, of which {folder} has "
            f"{free / 2**20:.0f}: make room, or train without them by --prior-share 0"
        )


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
        # Fewer than a batch, where time for parsing was short, are to be shared evenly, too.
        batch_size = min(batch_size, len(parsed) - len(parsed) % team.share.world)
        self.rows = BatchRows(every, batch_size, seed, parsed.log_q.device, team)

    def __getitem__(self, step: int) -> ParsedImages:
        """The batch of a step, or this process's part of it."""
        return self.parsed.rows(self.rows[step])
