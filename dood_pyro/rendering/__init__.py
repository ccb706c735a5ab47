"""Differentiable rendering of strokes (section 2.1), for models, guides, drawings and tasks."""

from dood_pyro.rendering.boxes import ink_on_boxes
from dood_pyro.rendering.choice import Renderer, use_renderer
from dood_pyro.rendering.compositing import MAX_BRIGHTNESS, canvas_from_ink, ink_from_canvas
from dood_pyro.rendering.strokes import (
    CURVE_POINTS,
    bernstein,
    curve_points,
    peak_ink,
    stroke_ink,
)

__all__ = [
    "CURVE_POINTS",
    "MAX_BRIGHTNESS",
    "Renderer",
    "bernstein",
    "canvas_from_ink",
    "curve_points",
    "ink_from_canvas",
    "ink_on_boxes",
    "peak_ink",
    "stroke_ink",
    "use_renderer",
]
