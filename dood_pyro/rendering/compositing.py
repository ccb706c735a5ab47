"""How strokes combine (section 2.1, Compositing module): ink adds up, then saturates.

Addition makes the order of strokes irrelevant; saturation keeps crossings from growing
brighter than the pen and edges sharp.
"""

import torch
from jaxtyping import Float
from torch import Tensor

WHITEST = 1.0 - 1e-3
"""A pixel at 1 would need infinite ink; pictures are taken to be at most this bright."""


def canvas_from_ink(
    ink: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """The picture, in [0, 1), that an amount of ink ≥ 0 leaves: tanh(ink)."""
    return torch.tanh(ink)


def ink_from_canvas(
    canvas: Float[Tensor, "*batch height width"],
) -> Float[Tensor, "*batch height width"]:
    """The ink that would have left ``canvas``, a picture in [0, 1]; inverse of `canvas_from_ink`."""
    return torch.atanh(canvas.clamp(0.0, WHITEST))
