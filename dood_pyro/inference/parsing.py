"""The guide's best guess of an image's strokes: every latent variable at its mode.

A guide that infers strokes one after the other amplifies what differs in its input, on some drawings
tenfold with every stroke (`dood_pyro.tasks.sensitivity`). In single precision the rounding of a matrix
product, which depends on how many images are multiplied at once, can then move a late stroke by a
pixel. Best guesses that are shown or measured are therefore computed by copies of model and guide in
double precision (`in_double`). Bounds and samples, which are averaged, are not.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from itertools import count as count_from
from typing import Any, NamedTuple, TypeGuard

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from dood_pyro.devices import seeded
from dood_pyro.inference.stop_time import bernoulli_logits
from dood_pyro.stepwise import Program, StepwiseGuide, sharing_states


class Modes(Messenger):
    """Sets latent Gaussians to their mean and ``on_t`` to 1 where it is likelier than not.

    A distribution that has no mean to give is sampled from, and ``sampled`` is then True.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sampled = False

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or not hasattr(msg["fn"], "batch_shape"):
            return
        if msg["name"].startswith("on_"):
            msg["value"] = (bernoulli_logits(msg) > 0).to(bernoulli_logits(msg))
            msg["done"] = True
        elif msg["fn"].event_shape:
            try:
                msg["value"] = msg["fn"].mean
                msg["done"] = True
            except NotImplementedError:
                self.sampled = True


class Parse(NamedTuple):
    """What a guide makes of images, step by step; dead steps hold values that mean nothing."""

    on_probability: Float[Tensor, "steps *batch"]
    """q(on_t = 1) given that the drawing came that far; 0 once it has stopped."""
    alive: Float[Tensor, "steps *batch"]
    """1 where a stroke is drawn."""
    canvas: Float[Tensor, "steps *batch size size"]
    """The canvas after each step."""
    values: dict[str, Float[Tensor, "steps *batch *event"]]
    """Modes (`Modes`) of the other latent variables, by the part of their name before ``_t``: DooD's
    ``layout``, ``stroke`` and ``pen``, AIR's ``layout`` and ``part``."""
    std: dict[str, Float[Tensor, "steps *batch *event"]]
    """The guide's standard deviations of those of them that have one; of samples there are none."""

    @classmethod
    def joined(cls, parts: Sequence[Parse]) -> Parse:
        """The parse of several parses' images, one's after the other's."""

        def images(column: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(column), dim=1)

        def by_name(columns: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {name: images([each[name] for each in columns]) for name in columns[0]}

        on, alive, canvas, values, std = zip(*parts, strict=True)
        return cls(images(on), images(alive), images(canvas), by_name(values), by_name(std))

    def to(self, dtype: torch.dtype) -> Parse:
        """The same in another precision."""
        on, alive, canvas, values, std = self
        return Parse(
            on.to(dtype),
            alive.to(dtype),
            canvas.to(dtype),
            {name: value.to(dtype) for name, value in values.items()},
            {name: value.to(dtype) for name, value in std.items()},
        )


Programs = tuple[Program[Any], nn.Module]
"""Model and guide."""


def in_double(model: Program[Any], guide: nn.Module) -> Programs:
    """Copies of model and guide in float64, to `parse` with; of weights as they are now."""
    # Together, as a guide holds its model.
    copied = copy.deepcopy((model, guide))
    return copied[0].double(), copied[1].double()


@torch.no_grad()
def parse(
    model: Program[Any], guide: nn.Module, images: Float[Tensor, "images size size"]
) -> Parse:
    """The guide's modes for ``images``; the same each time, for guides that search by chance, too.

    Computed in the model's precision, returned in that of ``images``. By copies `in_double` what is
    found for an image does not depend on the images beside it or on the number of threads, to within
    10⁻³ pixels.
    """
    seen = images.to(model.raw_scale.dtype)
    found, sampled = _parse(model, guide, seen)
    if sampled and len(seen) > 1:  # by random numbers that are each image's own
        found = Parse.joined([_parse(model, guide, one)[0] for one in seen.split(1)])
    return found.to(images.dtype)


def _parse(model: Program[Any], guide: nn.Module, images: Tensor) -> tuple[Parse, bool]:
    """A parse, and whether some of it was sampled."""
    modes = Modes()
    with seeded(0, images.device), sharing_states(), pyro.validation_enabled(False), modes:
        if _says_all(guide, model):
            return _step_by_step(guide, images), modes.sampled
        return _replayed(model, guide, images), modes.sampled


def _says_all(guide: nn.Module, model: nn.Module) -> TypeGuard[StepwiseGuide[Any]]:
    """Whether the steps of a guide leave nothing that only the model knows."""
    return (
        isinstance(guide, StepwiseGuide)
        and type(guide).forward is StepwiseGuide.forward
        and guide.program is model
        and guide.program.config.pen != "shared"  # the model's own function of its RNN
    )


@torch.no_grad()
def sample_parse(
    model: nn.Module, guide: nn.Module, images: Float[Tensor, "images size size"]
) -> Parse:
    """A sample of the guide's for each image."""
    with sharing_states(), pyro.validation_enabled(False):
        return _replayed(model, guide, images)


def _replayed(model: nn.Module, guide: nn.Module, images: Tensor) -> Parse:
    """What the guide says, drawn by the model."""
    q_trace: Any = poutine.trace(guide).get_trace(images)
    p_trace: Any = poutine.trace(poutine.replay(model, trace=q_trace)).get_trace(images)
    return _collect(p_trace, q_trace, q_trace)


def _step_by_step(guide: StepwiseGuide[Any], images: Tensor) -> Parse:
    """What the guide says, by the states that it shares with the model, whose own conditionals are
    not asked; and no further than the last of the drawings goes."""
    most: int = guide.program.config.max_strokes
    canvases: list[Tensor] = []
    with poutine.trace() as tracer, pyro.plate("images", len(images), dim=-1):
        state = guide.start(images)
        for t in range(1, most + 1):
            state = guide.step(t, state, images)
            drawn = guide.drawn(state)
            canvases.append(drawn.canvas)
            if not drawn.alive.any():
                break
    found = _collect(tracer.trace, tracer.trace, tracer.trace, canvases)
    rest = most - len(canvases)

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
def dream(model: nn.Module, count: int) -> Parse:
    """Drawings from the prior, step by step; probabilities are the model's, and there are no
    standard deviations."""
    with pyro.validation_enabled(False):
        trace: Any = poutine.trace(model).get_trace(count=count)
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
        if f"on_{step}" not in by.nodes:
            break
        on = by.nodes[f"on_{step}"]
        probabilities.append(alive * torch.sigmoid(bernoulli_logits(on)))
        alive = alive * on["value"]
        lives.append(alive)
        for name, site in drawn.nodes.items():
            kind, _, number = name.rpartition("_")
            if number != str(step) or kind == "on":
                continue
            if kind == "canvas":
                canvases.append(site["value"])
                continue
            values.setdefault(kind, []).append(site["value"])
            if gaussians is not None and name in gaussians.nodes:
                with suppress(NotImplementedError):
                    of_site = gaussians.nodes[name]["fn"].stddev
                    std.setdefault(kind, []).append(of_site)
    return Parse(
        torch.stack(probabilities),
        torch.stack(lives),
        torch.stack(canvases),
        {name: torch.stack(column) for name, column in values.items()},
        {name: torch.stack(column) for name, column in std.items()},
    )
