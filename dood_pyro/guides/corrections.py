"""A second look at a proposed stroke: cross-sections of the image along it, and how it should move.

A regression from a glimpse places control points to within a pixel or so; at a likelihood of scale
0.01 what is left costs hundreds of nats. A `Correction` renders the proposal on the canvas so far,
samples the image and the error across the stroke at points along it, and a network turns these
sections into displacements along the stroke's own normals and tangents, a change of the pen, and
standard deviations. The unit of all lengths is the pen's visible width. Seen from the stroke, the
same error looks the same wherever and however the stroke lies and however thick it is, which is what
carries over to other drawings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import drawing
from dood_pyro.networks import concatenate
from dood_pyro.rendering import canvas_from_ink, curve_points

ALONG = 12
"""Sections along the stroke."""
BEYOND = 2
"""Sections beyond either end, so that a stroke sees whether it should go on."""
ACROSS = 9
"""Samples in a section."""
POINTS = 48
"""Curve points of a rendered proposal: it is looked at, not kept."""
OFFSETS = (0.0, 0.7, 1.5, 2.5, 4.0)
"""Where a section is sampled to either side, in visible widths of the pen."""
END_SPACING = 2.0
"""Between the sections beyond an end, in visible widths of the pen."""
PIXEL_BLUR = 0.025
"""Standard deviation, canvas units, of what the canvas's pixels and their interpolation add to a pen's
profile; coarser pixels add more."""


def blurred(sigma: Float[Tensor, "*batch"], coarser: float = 1.0) -> Float[Tensor, "*batch"]:
    """The visible width of a pen, the unit of all that a look measures: standard deviation of its
    profile and the pixels' blur together, canvas units.

    Args:
        coarser: how many times as large as the canvas's pixels are those that ink is put on.
    """
    return (sigma.square() + (coarser * PIXEL_BLUR) ** 2).sqrt()


class Taming:
    """Keeps a look from amplifying the gradient.

    A look makes y = x + f(x) of a proposal x, and of the gradient g of y g + Jᵀg, J being f's
    Jacobian. A look that mends errors takes J ≈ −1. Across thin pens, whose sections jump, it can be
    large instead, and over several looks the product explodes. Here Jᵀg is
    cut, drawing by drawing, to the norm of g: a look may cancel what it mends, not drown it.

    Args:
        event_dims: dimensions of x beyond its batch dimensions.
    """

    def __init__(self, event_dims: int) -> None:
        self.dims = tuple(range(-event_dims, 0))
        # No tensor of the graph is held here: its hooks lead here, and what refers to itself is
        # kept until Python's collector comes by, a whole graph of activations.
        self.norm: Tensor | None = None

    def proposal(self, x: Tensor) -> Tensor:
        """x, for the look."""
        seen = x.view_as(x)
        if seen.requires_grad:
            seen.register_hook(self._cut)
        return seen

    def corrected(self, y: Tensor) -> Tensor:
        """What the look made of x, for all that follows."""
        if y.requires_grad:
            y.register_hook(self._keep)
        return y

    def _norm(self, gradient: Tensor) -> Tensor:
        return torch.linalg.vector_norm(gradient, dim=self.dims, keepdim=True)

    def _keep(self, gradient: Tensor) -> None:
        self.norm = self._norm(gradient)

    def _cut(self, gradient: Tensor) -> Tensor:
        if self.norm is None:
            return gradient
        return gradient * (self.norm / self._norm(gradient).clamp(min=1e-12)).clamp(max=1.0)


class Frame(NamedTuple):
    """Where the glimpse of the proposed strokes lies."""

    matrix: Float[Tensor, "*batch 2 3"]
    """Of `drawing.affine_matrix`."""
    rotation: Float[Tensor, "*batch 2 2"]
    scale: Float[Tensor, "*batch 1"]

    @classmethod
    def of(cls, layout: Float[Tensor, "*batch 4"]) -> Frame:
        """The frame of a layout."""
        matrix = drawing.affine_matrix(layout)
        scale = layout[..., :1].clamp(min=drawing.LEAST_LAYOUT_SCALE)
        return cls(matrix, matrix[..., :2] / scale[..., None], scale)


class Maps(NamedTuple):
    """The pictures that a look goes by; batch dimensions broadcast."""

    image: Float[Tensor, "*batch size size"]
    residual: Float[Tensor, "*batch size size"]
    """The image less the canvas so far."""
    ink: Float[Tensor, "*batch ink_size ink_size"]
    """Of the canvas so far."""


class Correction(nn.Module):
    """One look. ``forward`` returns what to add to a proposal.

    The gradient passes through the look, rendering and sampling included. Cut off there, proposals
    and layouts would be blamed in full for errors that the correction mends, chase it, and training
    falls apart within a hundred steps.

    Args:
        controls: control points of a stroke.
        pen_values: dimensions of the pen.
        features: width of the hidden layers.
        reach: farthest that the look moves a control point along either direction, in visible
            widths of the pen.
    """

    def __init__(self, controls: int, pen_values: int, features: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.controls, self.pen_values = controls, pen_values
        samples = 2 * (ALONG + 2 * BEYOND) * ACROSS
        # One Δ normal, one Δ tangent, two Δ std a control point; mean and std of the pen.
        self.outputs = 4 * controls + 2 * pen_values
        self.network = nn.Sequential(
            nn.Linear(samples + 1 + pen_values, features),
            nn.ReLU(),
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, self.outputs),
        )
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.zero_()
            last.bias.zero_()
        # Curve positions, then velocities, at the sections; those beyond an end start from it.
        tables = curve_points(torch.eye(controls), ALONG)
        held = torch.arange(-BEYOND, ALONG + BEYOND).clamp(0, ALONG - 1)
        ends = torch.arange(1, BEYOND + 1) * END_SPACING
        for name, table in {
            "stations": torch.cat([table[held] for table in tables]),
            "beyond": torch.cat([-ends.flip(0), torch.zeros(ALONG), ends]),
            "offsets": torch.tensor([*(-x for x in OFFSETS[:0:-1]), *OFFSETS]),
            "anchors": BEYOND + torch.linspace(0, ALONG - 1, controls).round().long(),
            "turn": torch.tensor([-1.0, 1.0]),
        }.items():
            self.register_buffer(name, table, persistent=False)
        self.stations: Tensor
        self.beyond: Tensor
        self.offsets: Tensor
        self.anchors: Tensor
        self.turn: Tensor

    def forward(
        self,
        control: Float[Tensor, "*batch controls 2"],
        pen: Float[Tensor, "*batch pen_values"],
        frame: Frame,
        maps: Maps,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For a proposal: displacements of the control points in the glimpse's frame, and what to
        add to the raw values, before they are squashed or made positive, of their standard
        deviations, the pen, and its standard deviations."""
        profile = drawing.pen_profile(pen)
        coarser = maps.image.shape[-1] / maps.ink.shape[-1]
        width = blurred(profile.sigma, coarser)[..., None]
        before, after, normal, tangent = self._look(control, profile, width, frame, maps)
        # All that tells how the stroke lies and how thick it is has been taken out of what is seen;
        # left are the pen's share of the blur, and the unit of the standard deviations.
        share = profile.sigma[..., None] / width
        unit = width / frame.scale
        out = self.network(concatenate(before, after, share, unit.log(), pen[..., 1:]))
        moves, point_std, pen_mean, pen_std = out.split(
            [*2 * [2 * self.controls], *2 * [self.pen_values]], dim=-1
        )
        across, along = (self.reach * unit * torch.tanh(moves)).chunk(2, dim=-1)
        moves = across[..., None] * normal + along[..., None] * tangent
        point_std = point_std.unflatten(-1, (self.controls, 2))
        return moves, point_std, torch.tanh(pen_mean), pen_std

    def _look(
        self, control: Tensor, pen: drawing.Pen, width: Tensor, frame: Frame, maps: Maps
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is seen, section by section, of the residual and of the error after the proposal,
        (*batch, sections · across) each; and the normals and tangents of the curve where control
        points are moved, in the glimpse's frame, (*batch, controls, 2) each."""
        on_canvas = drawing.place(control, frame.matrix)
        size = maps.image.shape[-1]
        ink = drawing.draw_strokes(on_canvas, pen, maps.ink.shape[-1], POINTS)
        error = maps.image - canvas_from_ink(maps.ink + ink, size)
        sections = len(self.beyond)
        position, velocity = (self.stations @ on_canvas).split(sections, dim=-2)
        tangent = velocity * (velocity.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        position = position + (self.beyond * width)[..., None] * tangent
        across = (self.offsets * width)[..., None, :, None] * self._turned(tangent)[..., None, :]
        grid = position[..., None, :] + across
        batch = error.shape[:-2]
        grid = grid.expand(*batch, *grid.shape[-3:]).reshape(-1, *grid.shape[-3:])

        def seen(picture: Tensor) -> Tensor:
            flat = picture.expand(*batch, size, size).reshape(-1, 1, size, size)
            return F.grid_sample(flat, grid, align_corners=False).reshape(*batch, -1)

        # Back in the glimpse's frame: rotation undone, scale left out.
        here = tangent[..., self.anchors, :] @ frame.rotation
        return seen(maps.residual), seen(error), self._turned(here), here

    def _turned(self, directions: Tensor) -> Tensor:
        """Directions a quarter of a turn on: (x, y) to (−y, x)."""
        return directions.flip(-1) * self.turn
