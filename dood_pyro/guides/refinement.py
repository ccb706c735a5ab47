"""Stroke refiners: cross-sections of the image along a proposed stroke, and how it should move.
Used by the amortised guide on every stroke that it proposes.

A regression from a glimpse places control points to within a pixel or so; at a likelihood of scale
0.01 the remaining error costs hundreds of nats. A `StrokeRefiner` renders the proposal on the canvas so
far, samples the image and the error across the stroke at points along it, and a network turns these
sections into displacements along the stroke's own normals and tangents, a change of the pen, and
standard deviations. The unit of all lengths is the pen's visible width. In the stroke's own frame the
same error looks the same wherever and however the stroke lies and however thick it is, which is what
carries over to other drawings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.config import TrainConfig
from dood_pyro.models.networks import concatenate
from dood_pyro.rendering import canvas_from_ink, curve_points

FIRST_REACH = 4.0
REACH_DECAY = 0.6
"""Farthest that the first refiner may move a control point, in visible widths of the pen, and the
factor from one refiner to the next: the remaining error shrinks, and a late refiner that leaps
unsettles the earlier ones."""
ALONG = 12
"""Sections along the stroke."""
BEYOND = 2
"""Sections beyond either end, so that a stroke sees whether it should go on."""
ACROSS = 9
"""Samples in a section."""
POINTS = 48
"""Curve points of a rendered proposal, which is for inspection alone."""
OFFSETS = (0.0, 0.7, 1.5, 2.5, 4.0)
"""Offsets of a section's samples to either side, in visible widths of the pen."""
END_SPACING = 2.0
"""Distance between the sections beyond an end, in visible widths of the pen."""
PIXEL_BLUR = 0.025
"""Standard deviation, canvas units, that the canvas's pixels and their interpolation add to a pen's
profile; coarser pixels add more."""


def blurred(sigma: Float[Tensor, "*batch"], coarser: float = 1.0) -> Float[Tensor, "*batch"]:
    """Visible width of a pen, the refiners' unit of length: standard deviation of its profile and the
    pixels' blur together, canvas units.

    Args:
        coarser: how many times as large as the canvas's pixels are those that ink is put on.
    """
    return (sigma.square() + (coarser * PIXEL_BLUR) ** 2).sqrt()


class GradientNormCap:
    """Cap on the gradient that passes back through one refiner.

    A refiner makes y = x + f(x) of a proposal x, and of the gradient g at y the gradient g + Jᵀg at x,
    J being f's Jacobian. A refiner that mends errors takes J ≈ −1. Across thin pens, whose sections
    jump, J can be large instead, and over several refiners the product explodes. Here Jᵀg is cut,
    drawing by drawing, to the norm of g: so a refiner can cancel a gradient, and at most double it.

    Args:
        event_dims: dimensions of x beyond its batch dimensions.
    """

    def __init__(self, event_dims: int) -> None:
        self.dims = tuple(range(-event_dims, 0))
        # No tensor of the graph is held here: its hooks lead here, and what refers to itself is
        # kept until Python's collector comes by, a whole graph of activations.
        self.norm: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        """The proposal x as the refiner takes it."""
        seen = x.view_as(x)
        if seen.requires_grad:
            seen.register_hook(self._cut)
        return seen

    def after(self, y: Tensor) -> Tensor:
        """The refined y, for all that follows."""
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
    """Place of the proposed strokes' glimpse on the canvas."""

    matrix: Float[Tensor, "*batch 2 3"]
    """The layout's map to the canvas (`geometry.affine_matrix`)."""
    rotation: Float[Tensor, "*batch 2 2"]
    scale: Float[Tensor, "*batch 1"]

    @classmethod
    def from_layout(cls, layout: Float[Tensor, "*batch 4"]) -> Frame:
        """The frame of a layout."""
        matrix = geometry.affine_matrix(layout)
        scale = layout[..., :1].clamp(min=geometry.MIN_LAYOUT_SCALE)
        return cls(matrix, matrix[..., :2] / scale[..., None], scale)


class StrokeProposal(NamedTuple):
    """Parameters of a stroke's Gaussians, standard deviations before they are made positive."""

    points: Float[Tensor, "*batch controls 2"]
    """Means of the control points, in the glimpse's frame."""
    raw_point_std: Float[Tensor, "*batch controls 2"]
    pen: Float[Tensor, "*batch pen_values"]
    """Mean of the pen, or the pen itself where it is not latent."""
    raw_pen: Float[Tensor, "*batch pen_values"] | None
    """The pen's mean before it is squashed into its range; None where the pen is not latent."""
    raw_pen_std: Float[Tensor, "*batch pens"]


class RefinerInputs(NamedTuple):
    """Pictures that a refiner samples from; batch dimensions broadcast."""

    image: Float[Tensor, "*batch size size"]
    residual: Float[Tensor, "*batch size size"]
    """The image less the canvas so far."""
    ink: Float[Tensor, "*batch ink_size ink_size"]
    """Ink of the canvas so far."""


class RefinerSchedule(NamedTuple):
    """Training steps at which refiners' gates open, one after the other.

    While proposals are still far from the ink, a refiner and the network that proposes would chase each
    other: a gate opens once proposals lie near the ink.
    """

    begin: int
    """Steps after which the first gate begins to open."""
    full: int
    """Steps after which it is open."""
    stagger: int
    """Steps by which each further gate opens later."""

    @classmethod
    def from_config(cls, config: TrainConfig) -> RefinerSchedule:
        """The schedule of a training's settings."""
        return cls(config.gate_begin, config.gate_full, config.gate_stagger)

    def gate(self, refiner: int, step: int) -> float:
        """Opening of a refiner's gate, from 0 to 1, after ``step`` training steps."""
        since = step - self.begin - refiner * self.stagger
        share = since / (self.full - self.begin) if self.full > self.begin else float(since >= 0)
        return min(1.0, max(0.0, share))


class StrokeRefinement(nn.Module):
    """Several refiners in turn, each behind its gate.

    Args:
        controls, pen_values, features: as for `StrokeRefiner`.
        count: number of refiners.
        schedule: when their gates open in training.
    """

    def __init__(
        self, controls: int, pen_values: int, features: int, count: int, schedule: RefinerSchedule
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.refiners = nn.ModuleList(
            StrokeRefiner(controls, pen_values, features, FIRST_REACH * REACH_DECAY**refiner)
            for refiner in range(count)
        )
        self.register_buffer("gate", torch.ones(count))
        self.gate: Tensor
        """Opening of each refiner's gate, in [0, 1]; kept with the weights."""
        self._active: int | None = count

    def set_step(self, step: int) -> None:
        """Open the gates as far as they are after ``step`` training steps."""
        gates = [self.schedule.gate(refiner, step) for refiner in range(len(self.gate))]
        for refiner, gate in enumerate(gates):
            self.gate[refiner].fill_(gate)
        self._active = sum(gate > 0 for gate in gates)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._active = None

    def num_active(self) -> int:
        """Number of refiners to run: those whose gate is open at all. Known without waiting for the
        device, but once after weights were loaded."""
        if self._active is None:
            self._active = int((self.gate > 0).sum())
        return self._active

    def forward(
        self,
        proposal: StrokeProposal,
        frame: Frame,
        seen: RefinerInputs,
        pen_range: Callable[[Tensor], Tensor],
        cap_gradient: bool = True,
    ) -> StrokeProposal:
        """The proposal after all active refiners.

        Args:
            pen_range: squashes a pen's raw values into their range.
            cap_gradient: whether the gradient through each refiner is capped (`GradientNormCap`).
        """
        points, point_std, pen, raw_pen, pen_std = proposal
        for refiner, gate in zip(self.refiners[: self.num_active()], self.gate, strict=False):
            cap_points, cap_pen = GradientNormCap(2), GradientNormCap(1)
            given = points, pen
            if cap_gradient:
                given = cap_points.before(points), cap_pen.before(pen)
            moves, more_std, pen_move, more_pen_std = refiner(*given, frame, seen)
            points = cap_points.after(points + gate * moves)
            point_std = point_std + gate * more_std
            if raw_pen is not None:
                raw_pen = raw_pen + gate * pen_move
                pen = cap_pen.after(pen_range(raw_pen))
                pen_std = pen_std + gate * more_pen_std
        return StrokeProposal(points, point_std, pen, raw_pen, pen_std)


class StrokeRefiner(nn.Module):
    """One refinement step. ``forward`` returns what to add to a proposal.

    The gradient passes through it, rendering and sampling included. Cut off there, proposals and
    layouts would be blamed in full for errors that the refiner mends, chase it, and training falls
    apart within a hundred steps.

    Args:
        controls: control points of a stroke.
        pen_values: dimensions of the pen.
        features: width of the hidden layers.
        reach: farthest that a control point is moved along either direction, in visible widths of
            the pen.
    """

    def __init__(self, controls: int, pen_values: int, features: int, reach: float) -> None:
        super().__init__()
        self.reach = reach
        self.controls, self.pen_values = controls, pen_values
        samples = 2 * (ALONG + 2 * BEYOND) * ACROSS
        # Per control point Δ normal, Δ tangent and two Δ std; for the pen mean and std.
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
        seen: RefinerInputs,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For a proposal: displacements of the control points in the glimpse's frame, and what to
        add to the raw values, before they are squashed or made positive, of their standard
        deviations, the pen, and its standard deviations."""
        profile = geometry.pen_profile(pen)
        coarser = seen.image.shape[-1] / seen.ink.shape[-1]
        width = blurred(profile.sigma, coarser)[..., None]
        before, after, normal, tangent = self._sections(control, profile, width, frame, seen)
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

    def _sections(
        self, control: Tensor, pen: geometry.Pen, width: Tensor, frame: Frame, seen: RefinerInputs
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Samples, section by section, of the residual and of the error after the proposal,
        (*batch, sections · across) each; and the normals and tangents of the curve where control
        points are moved, in the glimpse's frame, (*batch, controls, 2) each."""
        on_canvas = geometry.apply_affine(control, frame.matrix)
        size = seen.image.shape[-1]
        ink = geometry.draw_strokes(on_canvas, pen, seen.ink.shape[-1], POINTS)
        error = seen.image - canvas_from_ink(seen.ink + ink, size)
        sections = len(self.beyond)
        position, velocity = (self.stations @ on_canvas).split(sections, dim=-2)
        tangent = velocity * (velocity.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
        position = position + (self.beyond * width)[..., None] * tangent
        across = (self.offsets * width)[..., None, :, None] * self._turned(tangent)[..., None, :]
        grid = position[..., None, :] + across
        batch = error.shape[:-2]
        grid = grid.expand(*batch, *grid.shape[-3:]).reshape(-1, *grid.shape[-3:])

        def sample(picture: Tensor) -> Tensor:
            flat = picture.expand(*batch, size, size).reshape(-1, 1, size, size)
            return F.grid_sample(flat, grid, align_corners=False).reshape(*batch, -1)

        # Back in the glimpse's frame: rotation undone, scale left out.
        here = tangent[..., self.anchors, :] @ frame.rotation
        return sample(seen.residual), sample(error), self._turned(here), here

    def _turned(self, directions: Tensor) -> Tensor:
        """Directions turned by 90°: (x, y) to (−y, x)."""
        return directions.flip(-1) * self.turn
