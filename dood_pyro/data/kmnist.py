"""KMNIST: cursive Japanese characters, 28×28, from torchvision.
`dood_pyro.data` calls `prepare` for the source ``kmnist``.
"""

from pathlib import Path

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Return train and test as published; ``folder``/KMNIST/raw is used if it exists."""
    return original.torchvision_arrays("KMNIST", "kmnist", folder, scratch)
