"""Pictures by means of blocks, and back: how slow surfaces are found and taken away.
`dood_pyro.inference.ink.paper` and `dood_pyro.inference.ink.sheet` look at paper so.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Picture = Float[np.ndarray, "height width"]


def shrunk(picture: Picture, side: int) -> Picture:
    """A picture by means of blocks, its longer side about ``side`` pixels."""
    block = max(1, max(picture.shape) // side)
    if block == 1:
        return picture.astype(float)
    height, width = (-(-each // block) for each in picture.shape)
    padded = np.pad(
        picture,
        ((0, height * block - picture.shape[0]), (0, width * block - picture.shape[1])),
        mode="edge",
    )
    return padded.reshape(height, block, width, block).mean((1, 3), dtype=float)


def enlarged(picture: Picture, shape: tuple[int, ...]) -> Picture:
    """A picture by linear interpolation at pixel centres."""
    rows, columns = (
        ((np.arange(n) + 0.5) * small / n - 0.5).clip(0, small - 1)
        for n, small in zip(shape, picture.shape, strict=True)
    )
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[:, None], columns - left
    below = np.minimum(top + 1, picture.shape[0] - 1)
    beside = np.minimum(left + 1, picture.shape[1] - 1)
    upper = picture[top][:, left] * (1 - right) + picture[top][:, beside] * right
    lower = picture[below][:, left] * (1 - right) + picture[below][:, beside] * right
    return (upper * (1 - down) + lower * down).astype(np.float32)
