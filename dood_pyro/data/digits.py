"""Handwritten digits, 8×8, that come with scikit-learn: real data without a download.
`dood_pyro.data` calls `prepare` for the source ``digits``.
"""

from pathlib import Path

import numpy as np

from dood_pyro.data.prepared import Arrays
from dood_pyro.extras import extra

TEST_COUNT = 360
"""Number of test images."""


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Return 1,797 digits, a fifth of them, by a shuffle of seed 0, for test."""
    with extra("train"):
        from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[TEST_COUNT:], order[:TEST_COUNT]
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
