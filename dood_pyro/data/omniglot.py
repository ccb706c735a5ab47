"""Omniglot: characters of 50 alphabets, 105×105, from torchvision.
`dood_pyro.data` calls `prepare` for the source ``omniglot``.

The background set is ``train``, the evaluation set ``test``: their alphabets differ.
"""

from pathlib import Path

import numpy as np

from dood_pyro.data import original
from dood_pyro.data.prepared import Arrays


def prepare(folder: Path, scratch: Path) -> Arrays:
    """Return both sets, colours inverted to bright ink, with character names and drawers' numbers."""
    datasets = original.torchvision_datasets()
    arrays: Arrays = {}
    for part in ("train", "test"):
        with original.download_errors("omniglot"):
            data = datasets.Omniglot(str(scratch), background=part == "train", download=True)
        images, labels, drawers = [], [], []
        for index in range(len(data)):
            image, label = data[index]
            images.append(255 - np.asarray(image.convert("L"), dtype=np.uint8))
            labels.append(label)
            # Files are named character_drawer.png.
            file_name, _ = data._flat_character_images[index]
            drawers.append(int(Path(file_name).stem.split("_")[1]))
        names = [name.replace("\\", "/") for name in data._characters]
        arrays[f"{part}_images"] = np.stack(images)
        arrays[f"{part}_labels"] = np.asarray(labels, dtype=np.int16)
        arrays[f"{part}_drawers"] = np.asarray(drawers, dtype=np.uint8)
        arrays[f"{part}_characters"] = np.asarray(names)
    return arrays
