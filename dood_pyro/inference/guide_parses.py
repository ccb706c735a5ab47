"""The guide's best guess of an image's strokes: every latent variable at its mode.
Used by recognition, and by tasks that draw or measure strokes.

A guide that infers strokes one after the other amplifies what differs in its input, on some drawings
tenfold with every stroke (`dood_pyro.tasks.sensitivity`). In single precision the rounding of a matrix
product, which depends on how many images are multiplied at once, can then move a late stroke by a
pixel. Best guesses that are shown or measured are therefore computed by copies of model and guide in
double precision (`in_double`). Bounds and samples, which are averaged, are not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from itertools import count as count_from
from typing import Any, NamedTuple

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.messengers import ModeMessenger, TemperatureMessenger, bernoulli_logits
from dood_pyro.inference.traces import model_and_guide_traces
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.sites import IMAGES, canvas_site, on_site, parse_site

HOTTEST = 1000.0
"""Highest temperature of samples; at far higher ones numbers overflow."""


class Parse(NamedTuple):
    """A guide's values for images, step by step; steps that are not drawn hold meaningless ones."""

    on_probability: Float[Tensor, "steps *batch"]
    """q(on_t = 1) given that the drawing came that far; 0 once it has stopped."""
    alive: Float[Tensor, "steps *batch"]
    """1 where a stroke is drawn."""
    canvas: Float[Tensor, "steps *batch size size"]
    """The canvas after each step."""
    values: dict[str, Float[Tensor, "steps *batch *event"]]
    """Modes (`ModeMessenger`) of the other latent variables, by the kind of their site: ``layout``,
    ``stroke`` and ``pen`` of DooD, ``layout`` and ``part`` of AIR."""
    std: dict[str, Float[Tensor, "steps *batch *event"]]
    """Standard deviations of the guide, of the variables that have one; samples have none."""

    @classmethod
    def concatenated(cls, parts: Sequence[Parse]) -> Parse:
        """Several parses as one, images after images."""

        def images(column: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(column), dim=1)

        def by_name(columns: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: images([each[name] for each in columns]) for name in columns[0]}

        on, alive, canvas, values, std = zip(*parts, strict=True)
        return cls(images(on), images(alive), images(canvas), by_name(values), by_name(std))

    def rows(self, rows: Tensor) -> Parse:
        """The parse of some of the images."""
        on, alive, canvas, values, std = self
        return Parse(
            on[:, rows],
            alive[:, rows],
            canvas[:, rows],
            {name: value[:, rows] for name, value in values.items()},
            {name: value[:, rows] for name, value in std.items()},
        )

    def to(self, dtype: torch.dtype) -> Parse:
        """The parse in another precision."""
        on, alive, canvas, values, std = self
        return Parse(
            on.to(dtype),
            alive.to(dtype),
            canvas.to(dtype),
            {name: value.to(dtype) for name, value in values.items()},
            {name: value.to(dtype) for name, value in std.items()},
        )


ModelAndGuide = tuple[DrawingModel[Any], Guide]


def in_double(model: DrawingModel[Any], guide: Guide) -> ModelAndGuide:
    """Copies of model and guide in float64, to `parse` with; with the weights as they are now."""
    # Together, as a guide holds its model.
    copied = copy.deepcopy((model, guide))
    return copied[0].double(), copied[1].double()


@torch.no_grad()
def parse(model: DrawingModel[Any], guide: Guide, images: Images) -> Parse:
    """The guide's modes for ``images``; the same each time, for guides that search by chance, too.

    Computed in the model's precision, returned in that of ``images``. By copies `in_double` what is
    found for an image does not depend on the images beside it or on the number of threads, to within
    10⁻³ pixels.
    """
    batch = as_batch(images)
    seen = batch.to(model.raw_scale.dtype)
    found, sampled = _parse(model, guide, seen)
    if sampled and len(seen) > 1:  # by random numbers that are each image's own
        found = Parse.concatenated([_parse(model, guide, one)[0] for one in seen.split(1)])
    return found.to(batch.pixels.dtype)


def _parse(model: DrawingModel[Any], guide: Guide, images: ImageBatch) -> tuple[Parse, bool]:
    """A parse, and whether some of it was sampled."""
    modes = ModeMessenger()
    with seeded(0, images.device), pyro.validation_enabled(False), modes:
        if isinstance(guide, SequentialGuide) and tells_all(guide, model):
            return _step_by_step(guide, images), modes.sampled
        return _from_both(model, guide, images), modes.sampled


def tells_all(guide: SequentialGuide[Any], model: DrawingModel[Any]) -> bool:
    """Whether the steps of a guide, without the model's program, give every value of a parse."""
    own_forward = type(guide).forward is not SequentialGuide.forward
    return not own_forward and guide.model is model and model.samples_all


@torch.no_grad()
def sample_parse(model: DrawingModel[Any], guide: Guide, images: Images) -> Parse:
    """A sample of the guide for each image."""
    with pyro.validation_enabled(False):
        return _from_both(model, guide, as_batch(images))


def _from_both(model: DrawingModel[Any], guide: Guide, images: ImageBatch) -> Parse:
    """The guide's values, drawn by the model."""
    p_trace, q_trace = model_and_guide_traces(model, guide, images)
    return _collect(p_trace, q_trace, q_trace)


def _step_by_step(guide: SequentialGuide[Any], images: ImageBatch) -> Parse:
    """The guide's values, drawn by the states that it shares with the model, whose conditionals are not
    computed; and no further than the last of the drawings goes."""
    max_strokes: int = guide.model.config.max_strokes
    canvases: list[Tensor] = []
    with poutine.trace() as tracer, pyro.plate(IMAGES, len(images), dim=-1):
        state = guide.initial_state(images)
        for t in range(1, max_strokes + 1):
            state = guide.step(t, state, images.pixels)
            drawn = guide.model_state(state)
            canvases.append(drawn.canvas)
            if not drawn.alive.any():
                break
    found = _collect(tracer.trace, tracer.trace, tracer.trace, canvases)
    rest = max_strokes - len(canvases)

    def to_the_end(column: Tensor) -> Tensor:
        return torch.cat([column, column[-1:].expand(rest, *column.shape[1:])])

    never = found.on_probability.new_zeros(rest, *found.on_probability.shape[1:])
    return Parse(
        torch.cat([found.on_probability, never]),
        to_the_end(found.alive),
        to_the_end(found.canvas),
        {name: to_the_end(column) for name, column in found.values.items()},
        {name: to_the_end(column) for name, column in found.std.items()},
    )


@torch.no_grad()
def sample_prior(
    model: DrawingModel[Any], count: int, native_size: int = 0, temperature: float = 1.0
) -> Parse:
    """Drawings from the prior, step by step; probabilities are the model's, and there are no standard
    deviations.

    Args:
        native_size: pixels per side of the grid that ink is put on (`DrawingModel.ink_size`).
        temperature: of every conditional (`inference.messengers.TemperatureMessenger`).

    Raises:
        UserError: the temperature is not above 0, or above `HOTTEST`.
    """
    if not 0 < temperature <= HOTTEST:
        raise UserError(
            f"the temperature must be more than 0 and at most {HOTTEST:g}; it is {temperature:g}"
        )
    cooled = nullcontext() if temperature == 1 else TemperatureMessenger(temperature)
    with pyro.validation_enabled(False), cooled:
        trace: Any = poutine.trace(model).get_trace(count=count, native_size=native_size)
    return _collect(trace, trace, None)


def _collect(
    drawn: Any, by: Any, gaussians: Any | None, canvases: list[Tensor] | None = None
) -> Parse:
    """Values of the trace ``drawn``, probabilities of ``by``, deviations of ``gaussians``; the
    canvases are the trace's own, unless given."""
    probabilities, lives = [], []
    canvases = [] if canvases is None else list(canvases)
    values: dict[str, list[Tensor]] = {}
    std: dict[str, list[Tensor]] = {}
    alive: Any = 1.0
    for step in count_from(1):
        if on_site(step) not in by.nodes:
            break
        on = by.nodes[on_site(step)]
        probabilities.append(alive * torch.sigmoid(bernoulli_logits(on)))
        alive = alive * on["value"]
        lives.append(alive)
        if canvas_site(step) in drawn.nodes:
            canvases.append(drawn.nodes[canvas_site(step)]["value"])
        for name, site in drawn.nodes.items():
            parsed = parse_site(name)
            if parsed is None or parsed.step != step or parsed.kind in ("on", "canvas"):
                continue
            values.setdefault(parsed.kind, []).append(site["value"])
            if gaussians is not None and name in gaussians.nodes:
                with suppress(NotImplementedError):
                    deviation = gaussians.nodes[name]["fn"].stddev
                    std.setdefault(parsed.kind, []).append(deviation)
    return Parse(
        torch.stack(probabilities),
        torch.stack(lives),
        torch.stack(canvases),
        {name: torch.stack(column) for name, column in values.items()},
        {name: torch.stack(column) for name, column in std.items()},
    )
