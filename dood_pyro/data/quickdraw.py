"""Quick, Draw!: Google's doodles, 28×28, from the public numpy bitmaps (CC BY 4.0).
`dood_pyro.data` calls `prepare` for the source ``quickdraw``.

The first drawings of 25 of the 345 categories, with the numbers in `CATEGORIES`; a fifth of each
category is for test.
"""

from pathlib import Path

import numpy as np

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays
from dood_pyro.progress import progress_bar

CATEGORIES = {
    "airplane": 3999,
    "alarm_clock": 3999,
    "apple": 3000,
    "banana": 3999,
    "bee": 1000,
    "bird": 3999,
    "book": 3999,
    "boomerang": 1000,
    "bowtie": 5000,
    "car": 1000,
    "clock": 1000,
    "diamond": 3000,
    "dog": 3999,
    "donut": 1000,
    "eye": 3000,
    "fish": 3000,
    "frog": 1000,
    "headphones": 1000,
    "horse": 1000,
    "house": 3999,
    "house_plant": 1000,
    "lollipop": 5000,
    "rainbow": 5000,
    "tractor": 1000,
    "tree": 1000,
}
"""Number of drawings of each category, train and test together."""

URL = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/{category}.npy"


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Download the first drawings of each category, 48 MB in all."""
    parts: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    total = sum(CATEGORIES.values()) * 28 * 28
    with progress_bar(total=total, unit="B", unit_scale=True, desc="quickdraw") as progress:
        for label, (category, count) in enumerate(CATEGORIES.items()):
            url = URL.format(category=category.replace("_", "%20"))
            rows = original.first_rows(url, count, "quickdraw", progress).reshape(-1, 28, 28)
            split = len(rows) - round(len(rows) / 5)
            for part, images in (("train", rows[:split]), ("test", rows[split:])):
                parts[part].append(images)
                labels[part] += [label] * len(images)
    arrays: Arrays = {"label_names": np.asarray(list(CATEGORIES))}
    for part in parts:
        arrays[f"{part}_images"] = np.concatenate(parts[part])
        arrays[f"{part}_labels"] = np.asarray(labels[part], dtype=np.uint8)
    return arrays
