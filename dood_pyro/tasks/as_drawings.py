"""What priors draw, as `Drawing`s in pictures' own pixels: samples, completions and new exemplars.
`dood_pyro.Recognizer` and the page to draw on take them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dood_pyro.drawing import Drawing, Drawings
from dood_pyro.errors import UserError, whole_number
from dood_pyro.images import ImageBatch
from dood_pyro.pictures import Polarity
from dood_pyro.recognition import (
    Recognizer,
    as_pictures,
    drawings_from_parse,
    drawings_from_strokes,
)
from dood_pyro.tasks.complete import complete
from dood_pyro.tasks.exemplars import tokens
from dood_pyro.tasks.generate import generate
from dood_pyro.tokens import Strokes, TokenNoise

Sides = list[tuple[int, int]]
"""Width and height of each picture, pixels."""
MOST = 1000
"""Drawings that are made at once."""


def samples(dood: Recognizer, count: int, seed: int, temperature: float) -> Drawings:
    """As for `Recognizer.sample`."""
    _check(dood, count, seed)
    parsed = generate(dood.model, count, seed, dood.native_size, temperature)
    size = dood.size
    return Drawings(each.in_pixels(size, size) for each in drawings_from_parse(parsed))


def completions(
    dood: Recognizer, images: Any, each: int, strokes: int | None, seed: int, polarity: Polarity
) -> Any:
    """As for `Recognizer.complete`."""
    _check(dood, each, seed)
    if strokes is not None:
        strokes = whole_number("strokes", strokes)

    def draw(
        pictures: Sequence[Any], prepared: ImageBatch, sides: Sides
    ) -> list[tuple[Drawing, Strokes]]:
        found = complete(dood, prepared, each, strokes, seed)
        if strokes is None:
            firsts = dood.parse(list(pictures), polarity, "ink")
        else:  # those that the prior goes on from
            begun = drawings_from_strokes(found.begun, dood.size)
            firsts = [own.in_pixels(*side) for own, side in zip(begun, sides, strict=True)]
        return [(first, _row(found.strokes, row)) for row, first in enumerate(firsts)]

    return _of_pictures(dood, images, polarity, draw)


def new_exemplars(
    dood: Recognizer,
    images: Any,
    each: int,
    noise: TokenNoise | None,
    seed: int,
    polarity: Polarity,
) -> Any:
    """As for `Recognizer.exemplars`."""
    _check(dood, each, seed)

    def draw(
        pictures: Sequence[Any], prepared: ImageBatch, sides: Sides
    ) -> list[tuple[Drawing, Strokes]]:
        drawn = tokens(dood, prepared, each, noise, seed)
        return [(Drawing((), *frame), _row(drawn, row)) for row, frame in enumerate(sides)]

    return _of_pictures(dood, images, polarity, draw)


def _check(dood: Recognizer, count: int, seed: int) -> None:
    whole_number("seed", seed, 0, 2**63 - 1)
    whole_number("the number of drawings", count, 1, MOST)
    if not dood.model.draws_curves:
        raise UserError(
            f"a {dood.config.model_name} model draws no pen strokes; dood-pyro sample and complete "
            "show its pictures"
        )


def _row(strokes: Strokes, row: int) -> Strokes:
    return Strokes(*(part[row] for part in strokes))


def _of_pictures(
    dood: Recognizer,
    images: Any,
    polarity: Polarity,
    draw: Callable[[Sequence[Any], ImageBatch, Sides], list[tuple[Drawing, Strokes]]],
) -> Any:
    """`Drawings` of a picture, or a list of them of many.

    Args:
        draw: function of pictures, of the same as the model takes them, and of the width and height of
            each, to what was there of each and the strokes that follow, (each,), on the canvas.
    """
    many, pictures = as_pictures(images)
    if not pictures:
        return []
    prepared, sides = dood.prepare(pictures, polarity)
    found = []
    for given, added in draw(pictures, ImageBatch(prepared.to(dood.device)), sides):
        width, height = given.width, given.height
        found.append(
            Drawings(
                Drawing(
                    [*given.strokes, *more.in_pixels(width, height).strokes],
                    width,
                    height,
                    given=len(given),
                )
                for more in drawings_from_strokes(added, dood.size)
            )
        )
    return found if many else found[0]
