"""Types and tokens (section 3.2): a parse is a character's type; a token is one way of writing it.

A token moves the type's control points by Gaussian noise and the whole drawing by a Gaussian affine
map. As in the paper, the standard deviations are not learned but set by eye: settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.errors import UserError
from dood_pyro.inference.parsing import Parse
from dood_pyro.models.networks import glimpse
from dood_pyro.rendering import CURVE_POINTS, canvas_from_ink


@dataclass(frozen=True)
class TokenNoise:
    """Standard deviations of what tells a token from its type."""

    control: float = 0.03
    """Of control points, canvas units."""
    shift: float = 0.05
    """Of the drawing's place, canvas units."""
    rotation: float = 0.08
    """Radians."""
    log_scale: float = 0.07
    """Of the logs of width and height."""
    shear: float = 0.08
    """Of the slant: x gains so much of y."""
    log_width: float = 0.05
    """Of the log of the pen's width."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < 10:
                raise UserError(f"token noise {name} must lie between 0 and 10; it is {value}")


class Strokes(NamedTuple):
    """Strokes of drawings on the canvas."""

    control: Float[Tensor, "*batch strokes controls 2"]
    """Canvas units."""
    pen: Float[Tensor, "*batch strokes values"]
    alive: Float[Tensor, "*batch strokes"]
    """1 where the stroke is drawn."""

    def ink(
        self, size: int, points: int = CURVE_POINTS
    ) -> Float[Tensor, "*batch strokes size size"]:
        """Of each stroke, drawn with so many points along it; none where it is not drawn."""
        ink = geometry.draw_strokes(self.control, geometry.pen_profile(self.pen), size, points)
        return self.alive[..., None, None] * ink

    def render(self, size: int, points: int = CURVE_POINTS) -> Float[Tensor, "*batch size size"]:
        """The pictures."""
        return canvas_from_ink(self.ink(size, points).sum(-3))


def strokes_from_parse(parsed: Parse) -> Strokes:
    """The strokes of a parse by a model that draws curves: batch shape (images,)."""
    control = geometry.apply_affine(
        parsed.values["stroke"], geometry.affine_matrix(parsed.values["layout"])
    )
    return Strokes(
        control.movedim(0, 1), parsed.values["pen"].movedim(0, 1), parsed.alive.movedim(0, 1)
    )


class Token(NamedTuple):
    """What tells tokens from their types, in units of standard deviations: all standard Gaussian."""

    control: Float[Tensor, "*batch strokes controls 2"]
    affine: Float[Tensor, "*batch 6"]
    """Shift x, y; rotation; log scale x, y; shear."""
    log_width: Float[Tensor, "*batch"]


def sample_token(of: Float[Tensor, "*batch strokes controls 2"], drawings: int = 3) -> Token:
    """p(token) for control points, or for part vectors (*batch, steps, dims).

    Args:
        of: what ``token.control`` is to be like.
        drawings: dimensions of ``of`` beyond ``*batch``; 2 for part vectors.
    """
    batch = of.shape[:-drawings]
    return Token(
        torch.randn_like(of), of.new_empty(*batch, 6).normal_(), of.new_empty(batch).normal_()
    )


def apply_token(strokes: Strokes, token: Token, noise: TokenNoise) -> Strokes:
    """The strokes of a token of a type. Differentiable; batch dimensions broadcast.

    The affine map is about the middle of what is drawn.
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
"""Standard deviation of the noise on the part vectors of models without curves, whose prior's is 1."""


def parts_from_parse(parsed: Parse) -> tuple[Tensor, Tensor, Tensor]:
    """What a model without curves draws with: part vectors (images, steps, dims), layouts (images,
    steps, 4), and which are drawn (images, steps)."""
    names = ("part",) if "part" in parsed.values else ("stroke", "pen")
    part = torch.cat([parsed.values[name].flatten(2) for name in names], dim=-1)
    return part.movedim(0, 1), parsed.values["layout"].movedim(0, 1), parsed.alive.movedim(0, 1)


def render_parts(
    decoder: Callable[[Tensor], Tensor],
    parts: tuple[Tensor, ...],
    token: Token,
    noise: TokenNoise,
    size: int,
) -> Float[Tensor, "*batch steps size size"]:
    """The ink of a token's parts: noise on part vectors, the affine map on the picture.

    ``token.control`` is of the shape of the part vectors, whatever they are.
    """
    part, layout, alive = parts
    patch = decoder(part + PART_NOISE * token.control)
    whole = affine_map(token, noise)[..., None, :, :]
    placing = geometry.compose_affine(whole, geometry.affine_matrix(layout))
    # A placing says where a point goes; a glimpse asks where to look, the other way round.
    return glimpse(patch, geometry.invert_affine(placing), size) * alive[..., None, None]


def affine_map(token: Token, noise: TokenNoise) -> Float[Tensor, "*batch 2 3"]:
    """A token's affine map about the canvas's middle: stretch, then slant, turn and shift."""
    x, y, turn, log_x, log_y, slant = token.affine.unbind(-1)
    cos, sin = (noise.rotation * turn).cos(), (noise.rotation * turn).sin()
    wide, high = (noise.log_scale * log_x).exp(), (noise.log_scale * log_y).exp()
    shear = noise.shear * slant
    rows = [
        *(cos * wide, (cos * shear - sin) * high, noise.shift * x),
        *(sin * wide, (sin * shear + cos) * high, noise.shift * y),
    ]
    return torch.stack(rows, dim=-1).unflatten(-1, (2, 3))
