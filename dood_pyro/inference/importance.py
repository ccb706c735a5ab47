"""The importance-weighted bound on log p(x) (Burda et al. 2015), stops sampled and stops summed.

One pass that draws every stroke serves both: strokes do not depend on later stops, so k drawn from
q_k after the fact has, with strokes 1…k, exactly the guide's joint distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro.guides.factors import Factors, ImageByImage
from dood_pyro.guides.smc import SMCGuide
from dood_pyro.inference.smc import effective_samples, smc
from dood_pyro.inference.stop_time import StopTimeTerms, stop_time_terms

CHUNK = 800
"""Particles × images in memory at once; larger ones are slower on a CPU, whose caches they outgrow."""
CHUNK_ON_GPU = 8000
"""A GPU has no such caches, and is idle between small ones."""


def chunk_on(device: torch.device) -> int:
    """Particles × images to have in memory at once on a device."""
    return CHUNK if device.type == "cpu" else CHUNK_ON_GPU


class ImportanceBound(NamedTuple):
    """Per image, in nats where not said otherwise."""

    log_p: Float[Tensor, "images"]
    """Bound with stops sampled, as in the paper."""
    log_p_summed: Float[Tensor, "images"]
    """Bound with stops summed out: tighter."""
    elbo: Float[Tensor, "images"]
    """One-sample bound, stops summed out, averaged over the particles."""
    effective_samples: Float[Tensor, "images"]
    """(Σw)² / Σw² of the sampled-stop weights, of as many as there are particles; NaN for sequential
    Monte Carlo, whose particles have ancestors in common."""
    strokes: Float[Tensor, "images"]
    """Expected number of strokes under the guide."""

    @classmethod
    def joined(cls, parts: Sequence[ImportanceBound]) -> ImportanceBound:
        """The bounds of several batches of images as one."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def mean_effective_samples(self) -> float | None:
        """Over images; None where there is no such number."""
        mean = float(self.effective_samples.mean())
        return None if math.isnan(mean) else mean


def sampled_log_weights(terms: StopTimeTerms) -> Float[Tensor, "*batch"]:
    """log p/q of strokes and a stop drawn from the guide."""
    log_q, log_p, log_likelihood, log_ratio = terms
    stop = torch.distributions.Categorical(logits=log_q.movedim(0, -1)).sample()
    inner = log_likelihood + log_ratio + log_p - log_q
    return inner.gather(0, stop[None]).squeeze(0)


def log_mean_exp(values: Float[Tensor, "particles *batch"]) -> Float[Tensor, "*batch"]:
    """log of the mean of exponentials over the first dimension."""
    return torch.logsumexp(values, dim=0) - math.log(values.shape[0])


@torch.no_grad()
def importance_bound(
    model: nn.Module,
    guide: nn.Module,
    images: Float[Tensor, "images size size"],
    particles: int = 200,
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportanceBound:
    """The bound for each image, in chunks that fit in memory.

    Args:
        particles: samples an image; the paper uses 200.
        chunk: particles × images in memory at once; by default what suits the device.
        progress: called with the number of images done since the last call.
    """
    chunk = chunk_on(images.device) if chunk is None else chunk
    per_pass = min(particles, chunk)
    parts = []
    for batch in images.split(max(1, chunk // per_pass)):
        sampled, summed, elbo, strokes = [], [], [], []
        done = 0
        while done < particles:
            count = min(per_pass, particles - done)
            terms = stop_time_terms(model, guide, batch, count).by_particle()
            sampled.append(sampled_log_weights(terms))
            summed.append(terms.log_weight())
            elbo.append(terms.elbo())
            stops = torch.arange(len(terms.log_q), device=batch.device, dtype=batch.dtype)
            strokes.append(torch.tensordot(stops, terms.log_q.exp(), 1))
            done += count
        weights = torch.cat(sampled)
        parts.append(
            ImportanceBound(
                log_mean_exp(weights),
                log_mean_exp(torch.cat(summed)),
                torch.cat(elbo).mean(0),
                effective_samples(weights),
                torch.cat(strokes).mean(0),
            )
        )
        if progress is not None:
            progress(len(batch))
    return ImportanceBound.joined(parts)


SEARCH = 0.7
"""The share of the time that an image takes which goes into a search, roughly."""


def search(
    guide: ImageByImage, images: Tensor, progress: Callable[[float], None] | None = None
) -> Factors:
    """What a guide that searches finds for images; it counts as `SEARCH` of the progress."""
    return guide.factors(images, progress and (lambda done: progress(SEARCH * done)))


@torch.no_grad()
def bound_of(
    model: nn.Module,
    guide: nn.Module,
    images: Float[Tensor, "images size size"],
    particles: int = 200,
    progress: Callable[[float], None] | None = None,
    factors: Factors | None = None,
) -> ImportanceBound:
    """`importance_bound` of any guide; one that searches image by image does so once an image.

    Sequential Monte Carlo has one bound in place of three, the expectation of the log of its own
    estimate of p(x), whose stops are summed out.

    Args:
        progress: called with the images done since the last call, of which a search is `SEARCH`.
        factors: what a guide that searches has found for these images already.
    """
    if not isinstance(guide, ImageByImage):
        return importance_bound(model, guide, images, particles, progress=progress)
    searched = factors is not None
    if factors is None and not isinstance(guide, SMCGuide):
        factors, searched = search(guide, images, progress), True
    rest = 1 - SEARCH if searched else 1.0
    few = max(1, chunk_on(images.device) // particles)
    parts = []
    for first in range(0, len(images), few):
        rows = slice(first, first + few)
        if isinstance(guide, SMCGuide):
            parts.append(_smc_bound(guide, images[rows], particles))
        else:
            assert factors is not None
            parts.append(importance_bound(model, factors.of(rows), images[rows], particles))
        if progress is not None:
            progress(rest * len(images[rows]))
    return ImportanceBound.joined(parts)


def _smc_bound(guide: SMCGuide, images: Tensor, particles: int) -> ImportanceBound:
    found = smc(guide.model, guide.guide, images, particles)
    log_p = found.log_p()
    stops = torch.arange(len(found.log_weight), device=images.device, dtype=images.dtype)
    strokes = torch.tensordot(stops, found.log_stop().exp(), 1)
    return ImportanceBound(log_p, log_p, log_p, torch.full_like(log_p, torch.nan), strokes)
