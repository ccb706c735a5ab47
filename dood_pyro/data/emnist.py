"""EMNIST, balanced split: handwritten digits and letters, 47 classes, 28×28, from torchvision.
`dood_pyro.data` calls `prepare` for the source ``emnist``.
"""

from pathlib import Path

import numpy as np

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Return train and test of the balanced split, upright: the originals are stored transposed."""
    arrays = original.torchvision_arrays("EMNIST", "emnist", folder, scratch, split="balanced")
    for part in ("train", "test"):
        upright = arrays[f"{part}_images"].transpose(0, 2, 1)
        arrays[f"{part}_images"] = np.ascontiguousarray(upright)
    return arrays
