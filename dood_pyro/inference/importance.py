"""The importance-weighted bound on log p(x) (Burda et al. 2015), stop variable sampled or marginalised.
Used by evaluation and by the comparison of guides.

One pass that draws every stroke serves both: strokes do not depend on later stops, so k drawn from
q_k after the fact has, with strokes 1…k, exactly the guide's joint distribution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.guides.base import Guide, Progress
from dood_pyro.images import Images, as_batch
from dood_pyro.inference.smc import effective_samples
from dood_pyro.inference.stop_marginal import StopMarginalTerms, stop_marginal_terms

CHUNK = 800
"""Particles × images in memory at once; larger ones are slower on a CPU, whose caches they outgrow."""
CHUNK_ON_GPU = 8000
"""A GPU has no such caches, and is idle between small ones."""


def chunk_on(device: torch.device) -> int:
    """Particles × images to have in memory at once on a device."""
    return CHUNK if device.type == "cpu" else CHUNK_ON_GPU


class ImportanceBound(NamedTuple):
    """Bounds and their diagnostics, per image, in nats where not said otherwise."""

    log_p: Float[Tensor, "images"]
    """Bound with the stop variable sampled, as in the paper."""
    log_p_summed: Float[Tensor, "images"]
    """Bound with the stop variable marginalised: tighter."""
    elbo: Float[Tensor, "images"]
    """One-sample bound, the stop variable marginalised, averaged over the particles."""
    effective_samples: Float[Tensor, "images"]
    """(Σw)² / Σw² of the sampled-stop weights, of as many as there are particles; NaN for sequential
    Monte Carlo, whose particles have ancestors in common."""
    strokes: Float[Tensor, "images"]
    """Expected number of strokes under the guide."""

    @classmethod
    def concatenated(cls, parts: Sequence[ImportanceBound]) -> ImportanceBound:
        """The bounds of several batches of images as one."""
        return cls(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def mean_effective_samples(self) -> float | None:
        """Over images; None where there is no such number."""
        mean = float(self.effective_samples.mean())
        return None if math.isnan(mean) else mean


def sampled_log_weights(terms: StopMarginalTerms) -> Float[Tensor, "*batch"]:
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
    model: Any,
    guide: Guide,
    images: Images,
    particles: int = 200,
    chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportanceBound:
    """The bound for each image, in chunks that fit in memory.

    Args:
        particles: samples per image; the paper uses 200.
        chunk: particles × images in memory at once; by default what suits the device.
        progress: called with the number of images done since the last call.
    """
    everything = as_batch(images)
    chunk = chunk_on(everything.device) if chunk is None else chunk
    per_pass = min(particles, chunk)
    parts = []
    for batch in everything.split(max(1, chunk // per_pass)):
        sampled, summed, elbo, strokes = [], [], [], []
        done = 0
        while done < particles:
            count = min(per_pass, particles - done)
            terms = stop_marginal_terms(model, guide, batch, count).by_particle()
            sampled.append(sampled_log_weights(terms))
            summed.append(terms.log_weight())
            elbo.append(terms.elbo())
            stops = torch.arange(len(terms.log_q)).to(terms.log_q)
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
    return ImportanceBound.concatenated(parts)


@torch.no_grad()
def bound_of(
    model: Any,
    guide: Guide,
    images: Images,
    particles: int = 200,
    progress: Progress | None = None,
    posterior: Guide | None = None,
) -> ImportanceBound:
    """The bound of any guide: its own (`Guide.bound`) where it has one, else `importance_bound`.

    A guide that searches image by image does so once per image.

    Args:
        progress: called with the images done since the last call, of which a search is a share
            (`Guide.search_share`).
        posterior: result of the guide's search for these images, if it was made (`Guide.posterior`).
    """
    everything = as_batch(images)
    if not guide.searches and type(guide).bound is Guide.bound:
        return importance_bound(model, guide, everything, particles, progress=progress)
    searched = posterior is not None
    few = max(1, chunk_on(everything.device) // particles)
    parts = []
    for index, batch in enumerate(everything.split(few)):
        bound = guide.bound(batch, particles)
        if bound is None:
            if posterior is None:
                posterior, searched = guide.posterior(everything, progress), True
            rows = slice(index * few, index * few + few)
            bound = importance_bound(model, posterior.rows(rows), batch, particles)
        parts.append(bound)
        if progress is not None:
            progress((1 - guide.search_share if searched else 1.0) * len(batch))
    return ImportanceBound.concatenated(parts)
