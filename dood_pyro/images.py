"""Images as programs take them, with the number of pixels that they came with.
Models, guides, inference, training and tasks take an `ImageBatch`.

An image of fewer pixels than the canvas has was enlarged, and shows it: along its edges lies a pattern
that no pen leaves, which costs hundreds of nats. It belongs to how the image was made, not to the
drawing. Programs therefore draw on as few pixels and enlarge the result in the same way, so that
p(image | drawing) is conditional on the images' native size, which travels with their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images at the canvas's size, and the size that they came in."""

    pixels: Float[Tensor, "images size size"]
    """Brightness in [0, 1], ink bright on black."""
    native_size: int = 0
    """Pixels per side before they were resized to the canvas; 0 where it is unknown or they were not
    square, which stands for the canvas's own size."""

    @classmethod
    def concatenated(cls, parts: Sequence[ImageBatch]) -> ImageBatch:
        """Batches of one native size as one."""
        sizes = {part.native_size for part in parts}
        if len(sizes) > 1:
            raise ValueError(f"batches of different native sizes cannot be joined: {sorted(sizes)}")
        (native_size,) = sizes
        return cls(torch.cat([part.pixels for part in parts]), native_size)

    def __len__(self) -> int:
        return self.pixels.shape[-3]

    def __getitem__(self, rows: Any) -> ImageBatch:
        """The images of a slice, mask, list or index tensor, of the same native size; of a number, a
        batch of that one."""
        if np.ndim(rows) == 0 and not isinstance(rows, slice) and rows is not Ellipsis:
            rows = [int(rows)]
        return ImageBatch(self.pixels[rows], self.native_size)

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    def split(self, count: int) -> list[ImageBatch]:
        """Batches of ``count`` images; the last may be shorter."""
        return [ImageBatch(part, self.native_size) for part in self.pixels.split(count)]

    def repeat(self, copies: int) -> ImageBatch:
        """``copies`` of the batch, one after the other."""
        return ImageBatch(self.pixels.repeat(copies, 1, 1), self.native_size)

    def to(self, target: Any) -> ImageBatch:
        """The batch on another device or in another precision."""
        return ImageBatch(self.pixels.to(target), self.native_size)


Images = Tensor | ImageBatch
"""Images for a program: a batch, or a tensor (images, size, size) at the canvas's own size."""


def as_batch(images: Images) -> ImageBatch:
    """Images as a batch; a plain tensor came at the canvas's own size."""
    return images if isinstance(images, ImageBatch) else ImageBatch(images)
