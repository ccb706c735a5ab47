"""MNIST: handwritten digits, 28×28, from torchvision.
`dood_pyro.data` calls `prepare` for the source ``mnist``.
"""

from pathlib import Path

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Return train and test as published; ``folder``/MNIST/raw is used if it exists."""
    return original.torchvision_arrays("MNIST", "mnist", folder, scratch)
