"""Types and tokens (section 3.2): a parse is a character's type, a token one way of writing the type.
Used by the tasks of section 3.2.

A token moves the type's control points by Gaussian noise and the whole drawing by a Gaussian affine
map. As in the paper, the standard deviations are settings chosen by eye, not learned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.errors import UserError
from dood_pyro.inference.guide_parses import Parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.networks import glimpse
from dood_pyro.rendering import CURVE_POINTS, canvas_from_ink


@dataclass(frozen=True)
class TokenNoise:
    """Standard deviations of a token's deviations from its type.

    Raises:
        UserError: a value is negative, or 10 or more.
    """

    control: float = 0.03
    """Standard deviation of control points, canvas units."""
    shift: float = 0.05
    """Standard deviation of the drawing's position, canvas units."""
    rotation: float = 0.08
    """Standard deviation of the drawing's rotation, radians."""
    log_scale: float = 0.07
    """Standard deviation of the logs of the drawing's width and height."""
    shear: float = 0.08
    """Standard deviation of the drawing's slant: the shear times y is added to x."""
    log_width: float = 0.05
    """Standard deviation of the log of the pen's width."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < 10:
                raise UserError(f"token noise {name} must lie between 0 and 10; it is {value}")


class Strokes(NamedTuple):
    """Strokes of drawings on the canvas."""

    control: Float[Tensor, "*batch strokes controls 2"]
    """Control points, canvas units."""
    pen: Float[Tensor, "*batch strokes values"]
    """Pen values (`dood_pyro.geometry.pen_profile`)."""
    alive: Float[Tensor, "*batch strokes"]
    """1 where the stroke is drawn, else 0."""

    def ink(
        self, size: int, points: int = CURVE_POINTS
    ) -> Float[Tensor, "*batch strokes size size"]:
        """Ink of each stroke; 0 where the stroke is not drawn.

        Args:
            size: pixels per side.
            points: points along each stroke's curve.
        """
        ink = geometry.draw_strokes(self.control, geometry.pen_profile(self.pen), size, points)
        return self.alive[..., None, None] * ink

    def render(self, size: int, points: int = CURVE_POINTS) -> Float[Tensor, "*batch size size"]:
        """Pictures of the drawings, in [0, 1); arguments as for `ink`."""
        return canvas_from_ink(self.ink(size, points).sum(-3))


def strokes_from_parse(parsed: Parse) -> Strokes:
    """Strokes of a parse by a model that draws curves: batch shape (images,)."""
    control = geometry.apply_affine(
        parsed.values["stroke"], geometry.affine_matrix(parsed.values["layout"])
    )
    return Strokes(
        control.movedim(0, 1), parsed.values["pen"].movedim(0, 1), parsed.alive.movedim(0, 1)
    )


class Token(NamedTuple):
    """Deviations of tokens from their types, in units of the standard deviations of `TokenNoise`:
    all are standard Gaussian."""

    control: Float[Tensor, "*batch strokes controls 2"]
    """Displacements of control points, or noise on part vectors."""
    affine: Float[Tensor, "*batch 6"]
    """Affine map of the drawing: shift x, y; rotation; log scale x, y; shear."""
    log_width: Float[Tensor, "*batch"]
    """Deviation of the log of the pen's width."""


def sample_token(of: Float[Tensor, "*batch strokes controls 2"], drawings: int = 3) -> Token:
    """Sample tokens from p(token).

    Args:
        of: tensor whose shape, type and device ``token.control`` takes: control points, or part vectors
            (*batch, steps, dims).
        drawings: dimensions of ``of`` beyond ``*batch``; 2 for part vectors.
    """
    batch = of.shape[:-drawings]
    return Token(
        torch.randn_like(of), of.new_empty(*batch, 6).normal_(), of.new_empty(batch).normal_()
    )


def apply_token(strokes: Strokes, token: Token, noise: TokenNoise) -> Strokes:
    """Strokes of a token of a type. Differentiable; batch dimensions broadcast.

    The affine map is about the mean of the drawn strokes' control points.

    Args:
        strokes: the type.
    """
    control = strokes.control + noise.control * token.control
    alive = strokes.alive[..., None, None]
    corners = alive.sum((-3, -2), keepdim=True) * control.shape[-2]
    middle = (alive * control).sum((-3, -2), keepdim=True) / corners.clamp(min=1)
    matrix = affine_map(token, noise)[..., None, :, :]
    control = geometry.apply_affine(control - middle, matrix) + middle
    width = strokes.pen[..., :1] + noise.log_width * token.log_width[..., None, None]
    pen = torch.cat([width, strokes.pen[..., 1:].expand(*width.shape[:-1], -1)], dim=-1)
    return Strokes(control, pen, strokes.alive.expand(control.shape[:-2]))


PART_NOISE = 0.3
"""Standard deviation of the noise on part vectors of models without curves; the prior's is 1."""


def require_types(model: DrawingModel[Any]) -> None:
    """Check that a model's drawings are types that tokens can be made of.

    Raises:
        UserError: the model draws neither curves nor parts.
    """
    if not model.draws_curves and not model.part_sites:
        raise UserError(
            f"{model.title} draws neither curves (draws_curves) nor parts (part_sites), which is what "
            "tokens are made of"
        )


def parts_from_parse(model: DrawingModel[Any], parsed: Parse) -> tuple[Tensor, Tensor, Tensor]:
    """Part vectors (images, steps, dims), layouts (images, steps, 4) and ``alive`` (images, steps) of a
    parse by a model whose parts a network draws.

    Raises:
        UserError: the model draws neither curves nor parts.
    """
    require_types(model)
    values = [parsed.values[name] for name in model.part_sites]
    part = torch.cat([value.reshape(*value.shape[:2], -1) for value in values], dim=-1)
    return part.movedim(0, 1), parsed.values["layout"].movedim(0, 1), parsed.alive.movedim(0, 1)


def render_parts(
    part_ink: Callable[[Tensor], Tensor],
    parts: tuple[Tensor, ...],
    token: Token,
    noise: TokenNoise,
    size: int,
) -> Float[Tensor, "*batch steps size size"]:
    """Ink of a token's parts: noise is added to part vectors, and the affine map moves the picture.

    Args:
        part_ink: function from part vectors to ink in the part's frame (`DrawingModel.part_ink`).
        parts: part vectors, layouts and ``alive`` (`parts_from_parse`).
        token: its ``control`` has the shape of the part vectors.
        size: pixels per side.
    """
    part, layout, alive = parts
    patch = part_ink(part + PART_NOISE * token.control)
    whole = affine_map(token, noise)[..., None, :, :]
    placing = geometry.compose_affine(whole, geometry.affine_matrix(layout))
    # The placing maps a part's frame to the canvas; a glimpse needs the inverse.
    return glimpse(patch, geometry.invert_affine(placing), size) * alive[..., None, None]


def affine_map(token: Token, noise: TokenNoise) -> Float[Tensor, "*batch 2 3"]:
    """Affine map of a token about the canvas's middle: scale, then shear, rotate and shift."""
    x, y, turn, log_x, log_y, slant = token.affine.unbind(-1)
    cos, sin = (noise.rotation * turn).cos(), (noise.rotation * turn).sin()
    wide, high = (noise.log_scale * log_x).exp(), (noise.log_scale * log_y).exp()
    shear = noise.shear * slant
    rows = [
        *(cos * wide, (cos * shear - sin) * high, noise.shift * x),
        *(sin * wide, (sin * shear + cos) * high, noise.shift * y),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))
