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
"""Standard deviation, canvas units, of what pixels and their interpolation add to a pen's profile."""


def blurred(sigma: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The visible width of a pen, the unit of all that a look measures: standard deviation of its
    profile and the pixels' blur together, canvas units."""
    return (sigma.square() + PIXEL_BLUR**2).sqrt()


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

    def __init__(self, controls: int, pen_values: int, features: int, reach: float = 4.0) -> None:
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
        ends = torch.arange(1, BEYOND + 1) * END_SPACING
        self.register_buffer("ends", ends, persistent=False)
        self.ends: Tensor
        offsets = torch.tensor([*(-x for x in OFFSETS[:0:-1]), *OFFSETS])
        self.register_buffer("offsets", offsets, persistent=False)
        self.offsets: Tensor

    def forward(
        self,
        control: Float[Tensor, "*batch controls 2"],
        pen: Float[Tensor, "*batch pen_values"],
        layout: Float[Tensor, "*batch 4"],
        before: Float[Tensor, "*batch 2 size size"],
        ink: Float[Tensor, "*batch size size"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For a proposal on the canvas of ``ink``, ``before`` being the residual and the canvas
        before it: displacements of the control points in the glimpse's frame, and what to add to the
        raw values, before they are squashed or made positive, of their standard deviations, the pen,
        and its standard deviations."""
        profile = drawing.pen_profile(pen)
        width = blurred(profile.sigma)[..., None]
        seen, normal, tangent = self._look(control, profile, width, layout, before, ink)
        scale = layout[..., :1].clamp(min=drawing.LEAST_LAYOUT_SCALE)
        # All that tells how the stroke lies and how thick it is has been taken out of what is seen;
        # left are the pen's share of the blur, and the unit of the standard deviations.
        share = profile.sigma[..., None] / width
        out = self.network(concatenate(seen, share, (width / scale).log(), pen[..., 1:]))
        across, along, point_std, pen_mean, pen_std = out.split(
            [*2 * [self.controls], 2 * self.controls, *2 * [self.pen_values]], dim=-1
        )

        def displacement(raw: Tensor) -> Tensor:
            return (self.reach * width * torch.tanh(raw) / scale)[..., None]

        moves = displacement(across) * normal + displacement(along) * tangent
        point_std = point_std.unflatten(-1, (self.controls, 2))
        return moves, point_std, torch.tanh(pen_mean), pen_std

    def _look(
        self,
        control: Tensor,
        pen: drawing.Pen,
        width: Tensor,
        layout: Tensor,
        before: Tensor,
        ink: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = ink.shape[-1]
        matrix = drawing.affine_matrix(layout)
        on_canvas = drawing.place(control, matrix)
        pen_ink = drawing.draw_strokes(on_canvas, pen, size, POINTS)
        after = canvas_from_ink(ink + pen_ink)
        batch = torch.broadcast_shapes(after.shape[:-2], before.shape[:-3])
        position, velocity = curve_points(on_canvas, ALONG)
        tangent = F.normalize(velocity, dim=-1, eps=1e-3)
        reach = (self.ends * width)[..., None]
        first = position[..., :1, :] - reach.flip(-2) * tangent[..., :1, :]
        last = position[..., -1:, :] + reach * tangent[..., -1:, :]
        position = torch.cat([first, position, last], dim=-2)
        ends = [tangent[..., :1, :]] * BEYOND, [tangent[..., -1:, :]] * BEYOND
        direction = torch.cat([*ends[0], tangent, *ends[1]], dim=-2)
        across = torch.stack([-direction[..., 1], direction[..., 0]], dim=-1)
        offsets = (self.offsets * width)[..., None, :, None]
        grid = position[..., None, :] + offsets * across[..., None, :]
        grid = grid.expand(*batch, *grid.shape[-3:]).reshape(-1, *grid.shape[-3:])

        def sections(maps: Tensor) -> Tensor:
            channels = maps.shape[-3:]
            flat = maps.expand(*batch, *channels).reshape(-1, *channels)
            return F.grid_sample(flat, grid, align_corners=False).reshape(*batch, channels[0], -1)

        residual, canvas = sections(before).unbind(-2)
        # Sampling is linear, so the error can be put together here, where there is less of it.
        error = residual + canvas - sections(after.unsqueeze(-3)).squeeze(-2)
        seen = concatenate(residual, error)
        # Directions at the anchors, back in the glimpse's frame: rotation undone, scale left out.
        anchors = torch.linspace(0, ALONG - 1, self.controls, device=control.device).round().long()
        cos, sin = layout[..., 3].cos()[..., None], layout[..., 3].sin()[..., None]
        there = tangent[..., anchors, :]
        here = torch.stack(
            [cos * there[..., 0] + sin * there[..., 1], cos * there[..., 1] - sin * there[..., 0]],
            dim=-1,
        )
        normal = torch.stack([-here[..., 1], here[..., 0]], dim=-1)
        return seen, normal, here
