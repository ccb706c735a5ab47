"""Strokes that start and end where they meet others: a pointer mechanism for the stroke prior.
`dood_pyro.models.transformer` takes it in place of a plain chain, unless ``--no-pointers``.

A stroke's first control point, and its last, which the curve goes through, are drawn from the chain's
mixture or near a place at hand: one of some places along each earlier stroke and, for the last, the
stroke's own control points before it. (A first stroke with a chain of its own has none of this.)
Pointer networks (Vinyals et al. 2015) choose among their inputs in this way; here each is the mean of a
Gaussian whose width is learned.
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
from dood_pyro.rendering import bernstein

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
"""Logit of no place, before training: of the weight it has half where five strokes lie before."""
ABSENT = -1e9
"""Logit of a place of a stroke that is yet to be drawn."""


class Places(NamedTuple):
    """Gaussians for the two numbers of one point of a stroke, each about a place at hand."""

    mean: Float[Tensor, "*batch places 2"]
    """In units of the numbers' ranges, as are standard deviations; of the last control point, whose
    numbers are a step, steps from the control point before to the places."""
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
        features: size of the memory of strokes before.
        before: how many of the stroke's own numbers come before the point.
        own: how many of its own control points do.
        max_strokes: K.
    """

    def __init__(self, features: int, before: int, own: int, max_strokes: int) -> None:
        super().__init__()
        self.from_given = nn.Linear(features + before, HIDDEN)
        self.from_place = nn.Linear(7, HIDDEN)
        most = max(max_strokes - 1, 1)  # before the last of K
        self.of_stroke = nn.Parameter(torch.randn(most, 1, HIDDEN) * 0.1)
        self.of_step = nn.Parameter(torch.randn(ALONG, HIDDEN) * 0.1)
        self.own = own
        self.of_own = nn.Parameter(torch.randn(own, HIDDEN) * 0.1) if own else None
        self.inner = nn.Linear(HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, 3)
        self.elsewhere = nn.Linear(HIDDEN, 1)
        nn.init.constant_(self.elsewhere.bias, ELSEWHERE)
        nn.init.constant_(self.out.bias[1:], math.log(math.expm1(INITIAL_STD)))

    def forward(
        self,
        memory: Float[Tensor, "*batch features"],
        before: Float[Tensor, "*batch before"],
        seen: Float[Tensor, "*batch places 7"],
    ) -> tuple[
        Float[Tensor, "*batch places"], Float[Tensor, "*batch places 2"], Float[Tensor, "*batch 1"]
    ]:
        """Logits and standard deviations, canvas units, of places; and the logit of none.

        Args:
            before: the stroke's own numbers before the point, in units of their ranges.
            seen: places along earlier strokes, then own control points: on the canvas (x, y), in the
                layout's frame (x, y), and from the point before (x, y, distance), canvas units.
        """
        asked = self.from_given(torch.cat([memory, before], dim=-1))
        earlier = (seen.shape[-2] - self.own) // ALONG
        # Where a drawing goes on beyond K, further strokes are like the last that training knows.
        which = torch.arange(earlier, device=memory.device).clamp(max=len(self.of_stroke) - 1)
        name = (self.of_stroke[which] + self.of_step).flatten(0, 1)
        if self.of_own is not None:
            name = torch.cat([name, self.of_own])
        x = F.gelu(asked[..., None, :] + self.from_place(seen) + name)
        logit, *std = self.out(x + F.gelu(self.inner(x))).unbind(-1)
        return logit, MIN_STD + F.softplus(torch.stack(std, dim=-1)), self.elsewhere(F.gelu(asked))


class PointerChain(Chain):
    """A stroke's numbers one after the other, of which the first and the last control point may lie
    near places at hand. What all are conditioned on has those after the memory (`conditions`).

    Args:
        low, high: range of each number: layout, start, steps between control points, pen.
        features: size of the memory of strokes before.
        degree: of the curves.
        max_strokes: K.
        layers, modulated: as for `Chain`.
    """

    along: Tensor
    """From control points to places along the curve."""

    def __init__(
        self,
        low: Sequence[float],
        high: Sequence[float],
        features: int,
        degree: int,
        max_strokes: int,
        layers: int = 1,
        modulated: bool = False,
    ) -> None:
        super().__init__(low, high, features, layers, modulated)
        self.features = features
        self.start_at = LAYOUT
        self.end_at = LAYOUT + 2 * degree
        along = bernstein(degree, torch.linspace(0, 1, ALONG))
        self.register_buffer("along", along, persistent=False)
        self.start_near = PointerNet(features, self.start_at, 0, max_strokes)
        self.end_near = PointerNet(features, self.end_at, degree, max_strokes)

    def conditions(
        self,
        memory: Float[Tensor, "*batch steps features"],
        strokes: Float[Tensor, "*batch before numbers"],
    ) -> Float[Tensor, "*batch steps given"]:
        """What each step is conditioned on: its memory, places along strokes, and which strokes lie
        before it; steps are one more than strokes."""
        *batch, steps, _ = memory.shape
        control = self._control(strokes[..., self.start_at : self.end_at + 2])
        places = (self.along @ control).flatten(-3)[..., None, :].expand(*batch, steps, -1)
        before = memory.new_ones(steps, steps - 1).tril(-1).expand(*batch, -1, -1)
        return torch.cat([memory, places, before], dim=-1)

    def scaled_log_prob(
        self, given: Tensor, scaled: Tensor, which: slice, temperature: float
    ) -> Float[Tensor, "*batch"]:
        begin, stop, _ = which.indices(scaled.shape[-1])
        chained = self.mixtures(given[..., : self.features], scaled, which, temperature)
        log_p = chained.log_prob(scaled[..., which])
        terms, done = [], begin
        for first in (self.start_at, self.end_at):
            if first + 1 < begin or first >= stop:
                continue
            if first < begin or first + 2 > stop:
                raise ValueError(f"numbers {begin} to {stop - 1} have half of a point")
            terms.append(log_p[..., done - begin : first - begin].sum(-1))
            done = first + 2
            places = self.places(given, scaled, first, temperature)
            near = places.log_weight
            for axis in range(2):
                near = near + places.along(axis).log_probs(scaled[..., first + axis])
            alone = log_p[..., first - begin : first - begin + 2].sum(-1)
            terms.append(torch.logaddexp(places.log_elsewhere + alone, near.logsumexp(-1)))
        terms.append(log_p[..., done - begin :].sum(-1))
        return torch.stack(terms).sum(0)

    def mixture(
        self, given: Tensor, scaled: Tensor, number: int, temperature: float = 1.0
    ) -> Mixture:
        memory = given[..., : self.features]
        chained = super().mixture(memory, scaled, number, temperature)
        for first in (self.start_at, self.end_at):
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
        """Places at hand for the point whose coordinates are numbers ``first`` and the next.

        Args:
            given: of `conditions`, (*batch, given).
            scaled: the stroke's numbers in units of their ranges, (*batch, numbers), of which those
                before ``first`` count.
        """
        batch = torch.broadcast_shapes(given.shape[:-1], scaled.shape[:-1])
        given, scaled = given.expand(*batch, -1), scaled.expand(*batch, -1)
        count = (given.shape[-1] - self.features) // (2 * ALONG + 1)
        memory, at, before = given.split([self.features, count * ALONG * 2, count], dim=-1)
        absent = (before == 0)[..., None].expand(*before.shape, ALONG).flatten(-2)
        # What is yet to be drawn may be anything, and must not be seen.
        at = at.unflatten(-1, (count * ALONG, 2)).masked_fill(absent[..., None], 0.0)
        numbers = scaled * self.reach + self.middle
        frame = geometry.affine_matrix(numbers[..., :LAYOUT])
        origin = frame[..., 2]
        net = self.start_near
        if first == self.end_at:
            net = self.end_near
            own = self._control(numbers[..., self.start_at : first])
            at = torch.cat([at, own], dim=-2)
            absent = F.pad(absent, (0, own.shape[-2]))
            origin = own[..., -1, :]
        offset = at - origin[..., None, :]
        in_frame = geometry.apply_affine(at, geometry.invert_affine(frame))
        seen = torch.cat([at, in_frame, offset, offset.norm(dim=-1, keepdim=True)], dim=-1)
        logit, std, elsewhere = net(memory, scaled[..., :first], seen)
        logits = torch.cat([logit.masked_fill(absent, ABSENT), elsewhere], dim=-1)
        log_weight = (logits / temperature).log_softmax(-1)
        # The start is a place on the canvas, the end a step from the control point before.
        mean = at if first == self.start_at else offset
        reach, middle = self.reach[first : first + 2], self.middle[first : first + 2]
        if temperature != 1:
            std = std * temperature**0.5
        return Places(
            (mean - middle) / reach, std / reach, log_weight[..., :-1], log_weight[..., -1]
        )

    def _control(self, numbers: Tensor) -> Float[Tensor, "*batch points 2"]:
        """Control points of a start and steps."""
        return numbers.unflatten(-1, (-1, 2)).cumsum(-2)
