"""KMNIST: cursive Japanese characters, 28×28, from torchvision."""

from pathlib import Path

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Train and test as published; uses ``folder``/KMNIST/raw where it is there."""
    return original.torchvision_arrays("KMNIST", "kmnist", folder, scratch)
