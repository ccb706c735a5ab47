"""Partial completion (section 3.2, Fig. 8): possible continuations of a partial drawing.
``dood-pyro complete`` draws them.

The guide parses the partial picture, which gives the states of the RNNs. The canvas so far is set
to the partial picture itself, and the prior draws the remaining strokes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float, UInt8
from pyro import poutine
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.images import Images, as_batch
from dood_pyro.inference.guide_parses import Parse
from dood_pyro.models.dood import DooD, State, StepValues
from dood_pyro.models.sites import IMAGES, on_site, site_name
from dood_pyro.plots import CELL, grey_cell, labelled, rows_sheet
from dood_pyro.recognition import Recognizer
from dood_pyro.rendering import canvas_from_ink, ink_from_canvas
from dood_pyro.tokens import Strokes, strokes_from_parse

NEW_COLOUR = (0xD1, 0x49, 0x5B)
"""RGB colour of the strokes that the prior adds."""


class Completions(NamedTuple):
    """Continuations of partial drawings."""

    given: Float[Tensor, "images size size"]
    """The partial pictures."""
    begun: Strokes
    """Strokes of the guide's parse that are gone on from: batch shape (images,)."""
    strokes: Strokes
    """Strokes that the prior adds: batch shape (images, each)."""


def complete(
    dood: Recognizer,
    images: Images,
    each: int = 8,
    strokes: int | None = None,
    seed: int = 0,
) -> Completions:
    """Sample continuations of images, of at least one stroke.

    Args:
        each: continuations per image.
        strokes: number of first strokes of an image's parse to continue from; None continues from the
            image itself.

    Raises:
        UserError: the model draws no curves.
    """
    model = dood.model
    if not isinstance(model, DooD) or not model.draws_curves:
        raise UserError(f"a {dood.config.model_name} model has no strokes to go on with")
    # On the canvas's own pixels: only there does a picture determine its ink.
    pixels = as_batch(images).pixels
    with torch.no_grad():
        parsed = dood.infer(pixels)
        steps = parsed.alive.shape[0] if strokes is None else min(strokes, parsed.alive.shape[0])
        counts = parsed.alive[:steps].sum(0).long()
        groups = [torch.arange(len(pixels), device=pixels.device)]
        if model.remembers_strokes:  # drawings of unequal numbers of strokes have no state together
            groups = [torch.nonzero(counts == count)[:, 0] for count in counts.unique()]
        parts = []
        for rows in groups:
            few = parsed.rows(rows)
            begun = int(counts[rows[0]]) if model.remembers_strokes else steps
            parts.append(_continued(model, pixels[rows], few, begun, strokes is None, each, seed))
        place = torch.cat(groups).argsort()
        given, added = zip(*parts, strict=True)
        every = Strokes(*(torch.cat(column)[place] for column in zip(*added, strict=True)))
        first = Strokes(*(part[:, :steps] for part in strokes_from_parse(parsed)))
        return Completions(torch.cat(given)[place], first, every)


def _continued(
    model: DooD,
    pixels: Tensor,
    parsed: Parse,
    steps: int,
    from_pictures: bool,
    each: int,
    seed: int,
) -> tuple[Tensor, Strokes]:
    """The partial pictures, and strokes that follow, (images, each), by the pictures' parses.

    Args:
        steps: number of first strokes that are continued from.
        from_pictures: whether the canvas is the picture; else, what these strokes leave.
    """

    def repeat(values: Tensor) -> Tensor:
        return values.repeat_interleave(each, dim=0)

    count = len(pixels) * each
    state = model.initial_state(count)
    for t in range(steps):
        values = {name: repeat(value[t]) for name, value in parsed.values.items()}
        inputs = model.step_inputs(state)
        lives = repeat(parsed.alive[t]) > 0
        drawn = model.draw(state, inputs, StepValues(repeat(parsed.alive[t]), **values))
        if not lives.all():  # a drawing that stopped earlier keeps its last state
            drawn = type(state)(
                *(
                    torch.where(lives.reshape(-1, *[1] * (new.dim() - 1)), new, old)
                    for new, old in zip(drawn, state, strict=True)
                )
            )
        state = drawn
    given = pixels if from_pictures else state.canvas[::each]
    canvas = repeat(given)
    state = state._replace(
        ink=ink_from_canvas(canvas), canvas=canvas, alive=torch.ones_like(state.alive)
    )
    more = model.config.max_strokes
    with seeded(seed, pixels.device), pyro.validation_enabled(False):
        first = pyro.condition(_go_on, data={on_site(1): torch.ones(count).to(canvas)})
        trace = poutine.trace(first).get_trace(model, state, more)
    nodes: Any = trace.nodes

    def value(kind: str, t: int) -> Tensor:
        drawn: Tensor = nodes[site_name(kind, t)]["value"]
        return drawn

    alive = torch.stack([nodes[on_site(t)]["value"] for t in range(1, more + 1)]).cumprod(0)
    control = [
        geometry.apply_affine(value("stroke", t), geometry.affine_matrix(value("layout", t)))
        for t in range(1, more + 1)
    ]
    pens = [value("pen", t) for t in range(1, more + 1)]
    parts = (torch.stack(control, 1), torch.stack(pens, 1), alive.movedim(0, 1))
    return given, Strokes(*(p.unflatten(0, (len(pixels), each)) for p in parts))


def _go_on(model: DooD, state: State, more: int) -> None:
    """Sample ``more`` further steps from the prior: a Pyro program."""
    with pyro.plate(IMAGES, state.alive.shape[-1], dim=-1):
        for t in pyro.markov(range(1, more + 1)):
            state = model.step(t, state)


def draw_completions(
    dood: Recognizer,
    images: Images,
    each: int = 8,
    strokes: int | None = 1,
    seed: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """Sheet with one row per image: the image, the part given, and its continuations with new strokes
    in `NEW_COLOUR`.

    Args:
        each, strokes: as for `complete`.

    Raises:
        UserError: the model draws no curves.
    """
    found = complete(dood, images, each, strokes, seed)
    inks = found.strokes.ink(CELL).sum(-3).cpu()
    rows = []
    for image, given, mine in zip(as_batch(images).pixels, found.given, inks, strict=True):
        large = [
            torch.nn.functional.interpolate(
                picture[None, None].cpu(), size=(CELL, CELL), mode="bilinear"
            )[0, 0]
            for picture in (image, given)
        ]
        row = [grey_cell(picture) for picture in large]
        for ink in mine:
            paper = 255.0 * (1 - large[1])[..., None].expand(CELL, CELL, 3)
            opacity = canvas_from_ink(ink)[..., None]
            mixed = (1 - opacity) * paper + opacity * torch.tensor(NEW_COLOUR).float()
            row.append(mixed.round().clamp(0, 255).byte().numpy())
        rows.append(row)
    return labelled(rows_sheet(rows), columns=("picture", "given", "ways to go on"))
