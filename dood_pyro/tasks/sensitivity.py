"""How far a guide's strokes move when its picture hardly does: a property of the guide.

Every stroke is inferred from what those before it have left, so that what moves one moves the next.
A guide whose answer leaps when its input moves by 10⁻⁵ is ill-conditioned: its strokes tell of
rounding and noise, whatever its bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.devices import seeded
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch, Images
from dood_pyro.inference.parsing import ModelAndGuide, Parse, in_double, parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.recognition import BATCH

SHIFT = 1e-5
"""Standard deviation of the noise that pictures in [0, 1] are moved by."""
LEAP = 0.04
"""Canvas units, one pixel of 50: a drawing leaps where a stroke of it moves farther."""


class Sensitivity(NamedTuple):
    """Displacements of strokes for pictures moved by `SHIFT`."""

    displacement: Float[Tensor, "steps images"]
    """The farthest that a stroke's control points move, canvas units (of parts: the layout's values);
    NaN where either drawing has no such stroke."""
    recounted: Float[Tensor, "images"]
    """1 where the number of strokes changes."""

    def growth(self, share: float = 0.5) -> float | None:
        """By what factor a displacement grows from one stroke to the next, each drawing's geometric
        mean: the quantile of ``share`` over drawings of two strokes and more; None without any."""
        factors = []
        for column in self.displacement.unbind(1):
            moved = column[column > 0]
            if len(moved) > 1:
                factors.append((moved[-1] / moved[0]).log() / (len(moved) - 1))
        return float(torch.stack(factors).quantile(share).exp()) if factors else None

    def leaps(self) -> float:
        """The share of drawings of which a stroke moves farther than `LEAP`, or is one too many."""
        far = (self.displacement > LEAP).any(0)
        return float((far | (self.recounted > 0)).double().mean())

    def by_stroke(self) -> list[dict[str, float]]:
        """Median, ninth decile and maximum of the displacements, canvas units, stroke by stroke, and
        the number of drawings that have it."""
        rows = []
        for row in self.displacement:
            moved = row[~row.isnan()]
            if len(moved):
                rows.append(
                    {
                        "drawings": len(moved),
                        "median": float(moved.median()),
                        "ninth_decile": float(moved.quantile(0.9)),
                        "maximum": float(moved.max()),
                    }
                )
        return rows

    def summary(self) -> dict[str, Any]:
        """All of these as plain values."""
        growth = {"growth": self.growth(), "growth_ninth_decile": self.growth(0.9)}
        return {**growth, "leaps": self.leaps(), "by_stroke": self.by_stroke()}


def sensitivity(
    model: DrawingModel[Any],
    guide: Guide,
    images: Images,
    seed: int = 0,
) -> Sensitivity:
    """Parses pictures twice, as they are and moved by Gaussian noise of `SHIFT`, in float64."""
    programs = in_double(model, guide)
    batch = ImageBatch.of(images)
    with seeded(seed, batch.device):
        noise = torch.randn_like(batch.pixels, dtype=torch.float64)
    moved = batch.pixels.double() + SHIFT * noise
    first, second = (
        _parsed(programs, ImageBatch(pixels, batch.native_size))
        for pixels in (batch.pixels.double(), moved)
    )
    both = (first.alive > 0) & (second.alive > 0)
    farthest = (_places(first) - _places(second)).abs().flatten(2).amax(-1)
    return Sensitivity(
        torch.where(both, farthest, torch.nan).cpu(),
        (first.alive != second.alive).any(0).double().cpu(),
    )


def _parsed(programs: ModelAndGuide, images: ImageBatch) -> Parse:
    return Parse.concatenated([parse(*programs, part) for part in images.split(BATCH)])


def _places(parsed: Parse) -> Tensor:
    """Where strokes lie on the canvas."""
    layout = parsed.values["layout"]
    if "stroke" not in parsed.values:
        return layout
    return geometry.apply_affine(parsed.values["stroke"], geometry.affine_matrix(layout))
