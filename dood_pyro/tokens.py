"""Types and tokens (section 3.2): a parse is a character's type; a token is one way of writing it.

A token moves the type's control points by Gaussian noise and the whole drawing by a Gaussian affine
map. As in the paper, the standard deviations are not learned but set by eye: settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import drawing
from dood_pyro.errors import UserError
from dood_pyro.inference.parsing import Parse
from dood_pyro.rendering import canvas_from_ink


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

    def ink(self, size: int) -> Float[Tensor, "*batch strokes size size"]:
        """Of each stroke; none where it is not drawn."""
        ink = drawing.draw_strokes(self.control, drawing.pen_profile(self.pen), size)
        return self.alive[..., None, None] * ink

    def render(self, size: int) -> Float[Tensor, "*batch size size"]:
        """The pictures."""
        return canvas_from_ink(self.ink(size).sum(-3))


def strokes_of(parsed: Parse) -> Strokes:
    """The strokes of a parse by a model that draws curves: batch shape (images,)."""
    control = drawing.place(parsed.values["stroke"], drawing.affine_matrix(parsed.values["layout"]))
    return Strokes(
        control.movedim(0, 1), parsed.values["pen"].movedim(0, 1), parsed.alive.movedim(0, 1)
    )


class Token(NamedTuple):
    """What tells tokens from their types, in units of standard deviations: all standard Gaussian."""

    control: Float[Tensor, "*batch strokes controls 2"]
    affine: Float[Tensor, "*batch 6"]
    """Shift x, y; rotation; log scale x, y; shear."""
    log_width: Float[Tensor, "*batch"]

    def log_prob(self, alive: Float[Tensor, "*batch strokes"]) -> Float[Tensor, "*batch"]:
        """Standard normal log density, nats, strokes that are not drawn left out."""
        squares = (self.control.square().sum((-1, -2)) * alive).sum(-1)
        squares = squares + self.affine.square().sum(-1) + self.log_width.square()
        dims = alive.sum(-1) * self.control.shape[-2] * 2 + self.affine.shape[-1] + 1
        return -0.5 * (squares + dims * torch.log(torch.tensor(2 * torch.pi)))


def sample_token(strokes: Strokes) -> Token:
    """p(token): one for each drawing."""
    batch = strokes.alive.shape[:-1]
    return Token(
        torch.randn_like(strokes.control),
        strokes.pen.new_empty(*batch, 6).normal_(),
        strokes.pen.new_empty(batch).normal_(),
    )


def write(strokes: Strokes, token: Token, noise: TokenNoise) -> Strokes:
    """The strokes of a token of a type. Differentiable; batch dimensions broadcast.

    The affine map is about the middle of what is drawn.
    """
    control = strokes.control + noise.control * token.control
    alive = strokes.alive[..., None, None]
    corners = alive.sum((-3, -2), keepdim=True) * control.shape[-2]
    middle = (alive * control).sum((-3, -2), keepdim=True) / corners.clamp(min=1)
    shift = noise.shift * token.affine[..., :2]
    angle = noise.rotation * token.affine[..., 2]
    scale = (noise.log_scale * token.affine[..., 3:5]).exp()
    shear = noise.shear * token.affine[..., 5]
    x, y = (control - middle).unbind(-1)
    x, y = x * scale[..., 0, None, None], y * scale[..., 1, None, None]
    x = x + shear[..., None, None] * y
    cos, sin = angle.cos()[..., None, None], angle.sin()[..., None, None]
    turned = torch.stack([cos * x - sin * y, sin * x + cos * y], dim=-1)
    control = turned + middle + shift[..., None, None, :]
    width = strokes.pen[..., :1] + noise.log_width * token.log_width[..., None, None]
    pen = torch.cat([width, strokes.pen[..., 1:].expand(*width.shape[:-1], -1)], dim=-1)
    return Strokes(control, pen, strokes.alive.expand(control.shape[:-2]))
