"""Conditioning of a guide: displacements of its strokes under noise of 10⁻⁵ on the picture.
Used by the comparison of guides.

Every stroke is inferred from the residual that earlier strokes leave, so a stroke that moves also
moves the next one. A guide whose strokes leap under such noise is ill-conditioned: its strokes
reflect rounding and noise, however good its bound.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.devices import seeded
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.guide_parses import ModelAndGuide, Parse, in_double, parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.recognition import BATCH

SHIFT = 1e-5
"""Standard deviation of the noise on pictures in [0, 1]."""
LEAP = 0.04
"""Displacement beyond which a stroke leaps, canvas units: one pixel of 50."""


class Sensitivity(NamedTuple):
    """Displacements of strokes under noise of `SHIFT` on pictures."""

    displacement: Float[Tensor, "steps images"]
    """Largest displacement of a coordinate of a stroke's control points, canvas units (for models
    without curves, of the layout's values); NaN where either drawing has no such stroke."""
    recounted: Float[Tensor, "images"]
    """1 where the number of strokes changes, else 0."""

    def growth(self, share: float = 0.5) -> float | None:
        """Quantile over drawings of the factor by which displacements grow from one stroke to the next.

        A drawing's factor is the geometric mean over its strokes. Drawings with fewer than two moved
        strokes are left out; None if no drawing is left.

        Args:
            share: which quantile, from 0 to 1.
        """
        factors = []
        for column in self.displacement.unbind(1):
            moved = column[column > 0]
            if len(moved) > 1:
                factors.append((moved[-1] / moved[0]).log() / (len(moved) - 1))
        return float(torch.stack(factors).quantile(share).exp()) if factors else None

    def leaps(self) -> float:
        """Share of drawings with a stroke that moves farther than `LEAP`, or with another number of
        strokes."""
        far = (self.displacement > LEAP).any(0)
        return float((far | (self.recounted > 0)).double().mean())

    def by_stroke(self) -> list[dict[str, float]]:
        """Median, ninth decile and maximum of each stroke's displacements, canvas units, and the number
        of drawings that have the stroke."""
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
        """Growth (median and ninth decile), leaps and displacements by stroke, as plain values."""
        growth = {"growth": self.growth(), "growth_ninth_decile": self.growth(0.9)}
        return {**growth, "leaps": self.leaps(), "by_stroke": self.by_stroke()}


def sensitivity(
    model: DrawingModel[Any],
    guide: Guide,
    images: Images,
) -> Sensitivity:
    """Parse pictures twice in float64, as they are and under Gaussian noise of `SHIFT`; compare the
    strokes."""
    programs = in_double(model, guide)
    batch = as_batch(images)
    with seeded(0, batch.device):
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
    """Parse of all images, in batches of `BATCH`."""
    return Parse.concatenated([parse(*programs, part) for part in images.split(BATCH)])


def _places(parsed: Parse) -> Tensor:
    """Strokes' control points in canvas units; for models without curves, the layouts' values; for
    those without layouts, the values of all sites."""
    layout = parsed.values.get("layout")
    if layout is None:
        values = parsed.values.values()
        return torch.cat([value.reshape(*value.shape[:2], -1) for value in values], dim=-1)
    if "stroke" not in parsed.values:
        return layout
    return geometry.apply_affine(parsed.values["stroke"], geometry.affine_matrix(layout))
