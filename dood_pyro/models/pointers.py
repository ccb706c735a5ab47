"""Strokes that start and end where they meet others: a pointer mechanism for the stroke prior.
`dood_pyro.models.transformer` takes it in place of a plain chain, unless ``--no-pointers``.

A stroke's first control point, and its last, which the curve goes through, are drawn from the chain's
mixture or near a place at hand: one of some places along each earlier stroke and, for the last, the
stroke's own control points before it. Pointer networks (Vinyals et al. 2015) choose among their inputs
in this way; here each is the mean of a Gaussian whose width is learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.models.stroke_prior import Chain, Mixture

LAYOUT = 4
"""Numbers of a layout, which come first."""
ALONG = 9
"""Places along each earlier stroke, its start and its end among them."""
HIDDEN = 64
"""Hidden units for each place."""
MIN_STD = 0.01
"""Least standard deviation about a place, canvas units."""
INITIAL_STD = 0.1
ELSEWHERE = 4.0
"""Logit of no place, before training: about as much as that of all places together."""
ABSENT = -1e9
"""Logit of a place of a stroke that is yet to be drawn."""


class Places(NamedTuple):
    """Gaussians about places at hand, for one point of a stroke."""

    mean: Float[Tensor, "*batch places 2"]
    """In units of the chain's ranges, as are standard deviations."""
    std: Float[Tensor, "*batch places 2"]
    log_weight: Float[Tensor, "*batch places"]
    log_elsewhere: Float[Tensor, "*batch"]
    """Log-weight of the chain's own mixture."""

    def along(self, axis: int) -> Mixture:
        """The Gaussians' part of one coordinate."""
        return Mixture(self.mean[..., axis], self.std[..., axis], self.log_weight)


class PointerNet(nn.Module):
    """Where one point of a stroke may lie, given what is drawn already.

    Args:
        given: size of the memory of strokes before.
        before: how many of the stroke's own numbers come before the point.
        own: how many of its own control points do.
        max_strokes: K.
    """

    def __init__(self, given: int, before: int, own: int, max_strokes: int) -> None:
        super().__init__()
        self.from_given = nn.Linear(given + before, HIDDEN)
        # A place on the canvas, in the layout's frame, and from the point before.
        self.from_place = nn.Linear(7, HIDDEN)
        self.of_stroke = nn.Parameter(torch.randn(max_strokes, 1, HIDDEN) * 0.1)
        self.of_step = nn.Parameter(torch.randn(ALONG, HIDDEN) * 0.1)
        self.of_own = nn.Parameter(torch.randn(own, HIDDEN) * 0.1)
        self.inner = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, 3)
        self.elsewhere = nn.Linear(HIDDEN, 1)
        nn.init.constant_(self.elsewhere.bias, ELSEWHERE)
        nn.init.constant_(self.out.bias[1:], math.log(math.expm1(INITIAL_STD)))

    def forward(
        self,
        given: Float[Tensor, "*batch given"],
        before: Float[Tensor, "*batch before"],
        relative: Float[Tensor, "*batch places 7"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (*batch, places) and standard deviations (*batch, places, 2), canvas units, of places,
        earlier strokes' first; and the logit (*batch, 1) of none."""
        asked = self.from_given(torch.cat([given, before], dim=-1))
        earlier = (relative.shape[-2] - len(self.of_own)) // ALONG
        # A drawing that goes on beyond K has strokes that are like its Kth.
        which = torch.arange(earlier, device=given.device).clamp(max=len(self.of_stroke) - 1)
        name = torch.cat([(self.of_stroke[which] + self.of_step).flatten(0, 1), self.of_own])
        x = F.gelu(asked[..., None, :] + self.from_place(relative) + name)
        logit, *std = self.out(x + F.gelu(self.inner(x))).unbind(-1)
        return logit, MIN_STD + F.softplus(torch.stack(std, dim=-1)), self.elsewhere(F.gelu(asked))


class PointerChain(Chain):
    """A stroke's numbers one after the other, of which the first and the last control point may lie
    near places at hand. What all are conditioned on has those after the memory (`conditions`).

    Args:
        low, high: range of each number: layout, start, steps between control points, pen.
        given: size of the memory of strokes before.
        degree: of the curves.
        max_strokes: K.
    """

    bernstein: Tensor

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        given: int,
        degree: int,
        max_strokes: int,
    ) -> None:
        super().__init__(low, high, given)
        self.memory = given
        self.first = LAYOUT
        self.last = LAYOUT + 2 * degree
        t = torch.linspace(0, 1, ALONG)[:, None]
        k = torch.arange(degree + 1)
        choose = torch.tensor([float(math.comb(degree, i)) for i in range(degree + 1)])
        bernstein = choose * t**k * (1 - t) ** (degree - k)
        self.register_buffer("bernstein", bernstein, persistent=False)
        self.start_near = PointerNet(given, self.first, 0, max_strokes)
        self.end_near = PointerNet(given, self.last, degree, max_strokes)

    def conditions(
        self,
        memory: Float[Tensor, "*batch steps memory"],
        strokes: Float[Tensor, "*batch before numbers"],
    ) -> Float[Tensor, "*batch steps given"]:
        """What each step is conditioned on: its memory, places along strokes, and which strokes lie
        before it; steps are one more than strokes."""
        *batch, steps, _ = memory.shape
        control = self._control(strokes[..., self.first : self.last + 2])
        places = (self.bernstein @ control).flatten(-3)[..., None, :].expand(*batch, steps, -1)
        before = memory.new_ones(steps, steps - 1).tril(-1).expand(*batch, -1, -1)
        return torch.cat([memory, places, before], dim=-1)

    def log_prob(
        self,
        given: Float[Tensor, "*batch given"],
        numbers: Float[Tensor, "*batch count"],
        which: slice = slice(None),
        temperature: float = 1.0,
    ) -> Float[Tensor, "*batch"]:
        scaled = self.scaled(numbers)
        begin, stop, _ = which.indices(scaled.shape[-1])
        chained = self.mixtures(given[..., : self.memory], scaled, which, temperature)
        log_p = chained.log_prob(scaled[..., which])
        total = log_p.sum(-1) - self.reach[which].log().sum()
        for first in (self.first, self.last):
            if first + 1 < begin or first >= stop:
                continue
            if first < begin or first + 2 > stop:
                raise ValueError(f"numbers {begin} to {stop - 1} have half of a point")
            places = self.places(given, scaled, first, temperature)
            near = places.log_weight
            for axis in range(2):
                near = near + places.along(axis).log_probs(scaled[..., first + axis])
            alone = log_p[..., first - begin : first - begin + 2].sum(-1)
            joint = torch.logaddexp(places.log_elsewhere + alone, near.logsumexp(-1))
            total = total + joint - alone
        return total

    def mixture(
        self, given: Tensor, scaled: Tensor, number: int, temperature: float = 1.0
    ) -> Mixture:
        memory = given[..., : self.memory]
        chained = super().mixture(memory, scaled, number, temperature)
        for first in (self.first, self.last):
            if number not in (first, first + 1):
                continue
            places = self.places(given, scaled, first, temperature)
            near = places.along(number - first)
            elsewhere = places.log_elsewhere
            log_weight = places.log_weight
            if number > first:  # which of all it is, the first coordinate has told in part
                x = scaled[..., first]
                log_weight = log_weight + places.along(0).log_probs(x)
                elsewhere = elsewhere + super().mixture(
                    memory, scaled, first, temperature
                ).log_prob(x)
            both = torch.cat([elsewhere[..., None] + chained.log_weight, log_weight], dim=-1)
            mean, std = (
                torch.cat(pair, dim=-1) for pair in zip(chained[:2], near[:2], strict=True)
            )
            return Mixture(mean, std, both.log_softmax(-1))
        return chained

    def places(self, given: Tensor, scaled: Tensor, first: int, temperature: float = 1.0) -> Places:
        """Places at hand for the point whose coordinates are numbers ``first`` and the next."""
        count = self._strokes_before(given)
        memory = given[..., : self.memory]
        at, before = given[..., self.memory :].split([count * ALONG * 2, count], dim=-1)
        at = at.unflatten(-1, (count * ALONG, 2))
        absent = (1 - before)[..., None].expand(*before.shape, ALONG).flatten(-2)
        numbers = scaled * self.reach + self.middle
        frame = geometry.affine_matrix(numbers[..., :LAYOUT])
        origin = frame[..., 2]
        net = self.start_near
        if first == self.last:
            net = self.end_near
            own = self._control(numbers[..., self.first : first])
            at = torch.cat([at, own.expand(*at.shape[:-2], -1, -1)], dim=-2)
            absent = F.pad(absent, (0, own.shape[-2]))
            origin = own[..., -1, :]
        offset = at - origin[..., None, :]
        in_frame = geometry.apply_affine(at, geometry.invert_affine(frame))
        relative = torch.cat([at, in_frame, offset, offset.norm(dim=-1, keepdim=True)], dim=-1)
        logit, std, elsewhere = net(memory, scaled[..., :first], relative)
        logits = torch.cat([logit + ABSENT * absent, elsewhere], dim=-1)
        log_weight = (logits / temperature).log_softmax(-1)
        # The start is a place on the canvas; the last number is a step from the control point before.
        mean = at if first == self.first else offset
        reach, middle = self.reach[first : first + 2], self.middle[first : first + 2]
        if temperature != 1:
            std = std * temperature**0.5
        return Places(
            (mean - middle) / reach, std / reach, log_weight[..., :-1], log_weight[..., -1]
        )

    def _strokes_before(self, given: Tensor) -> int:
        return (given.shape[-1] - self.memory) // (2 * ALONG + 1)

    def _control(self, numbers: Tensor) -> Float[Tensor, "*batch points 2"]:
        """Control points of a start and steps."""
        return numbers.unflatten(-1, (-1, 2)).cumsum(-2)
