"""One-shot classification trials of the Omniglot authors: 20 runs of 20 ways within an alphabet.
Used by the one-shot tasks and their command.

The original is a zip archive of pictures, black ink on white; ``runNN/class_labels.txt`` pairs test
with training items.
"""

from __future__ import annotations

import io
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dood_pyro.data import cache_folder, data_folder, original, prepared
from dood_pyro.errors import UserError
from dood_pyro.files import unreadable, write_atomically
from dood_pyro.pictures import resize

NAME = "omniglot_one_shot_runs.zip"
URL = (
    "https://github.com/brendenlake/omniglot/raw/master/python/one-shot-classification/all_runs.zip"
)
RUNS = 20
WAYS = 20


class Trials(NamedTuple):
    """One run: one support image per class, queries, and each query's class."""

    support: Float[Tensor, "ways size size"]
    """Support image of each class, in [0, 1], ink bright."""
    queries: Float[Tensor, "queries size size"]
    """Query images, in [0, 1], ink bright."""
    answers: Int[Tensor, "queries"]
    """Class of each query: its row of ``support``."""


def official_trials(size: int, data_dir: str | Path | None = None) -> list[Trials]:
    """Read the 20 official runs at ``size`` × ``size`` pixels; download them if they are not in the
    data folder.

    Raises:
        UserError: the archive cannot be downloaded, or is damaged.
    """
    path = _locate(data_dir)
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if n.endswith("class_labels.txt"))
            runs = [_read(archive, name, size) for name in names]
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, ValueError, RuntimeError) as error:
        raise unreadable(path, error, "; delete it to have it fetched again") from None
    if len(runs) != RUNS or any(len(r.queries) != WAYS or len(r.support) != WAYS for r in runs):
        raise UserError(f"{path} does not hold {RUNS} runs of {WAYS} + {WAYS} images; delete it")
    return runs


def _locate(data_dir: str | Path | None) -> Path:
    """Path of the archive, downloaded to the cache folder if it is missing."""
    for folder in (data_folder(data_dir), cache_folder()):
        if (folder / NAME).is_file():
            return folder / NAME
    path = cache_folder() / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        original.download_errors("the one-shot trials", NAME),
        urllib.request.urlopen(URL, timeout=60) as response,
    ):
        content = response.read()
    write_atomically(path, content)
    return path


def _read(archive: zipfile.ZipFile, labels: str, size: int) -> Trials:
    """The run whose ``class_labels.txt`` is the archive's member ``labels``."""
    from PIL import Image

    def picture(name: str) -> Tensor:
        with Image.open(io.BytesIO(archive.read(name))) as image:
            ink = 255 - np.asarray(image.convert("L"), dtype=np.uint8)
        return torch.from_numpy(ink)

    pairs = [line.split() for line in archive.read(labels).decode().splitlines() if line.strip()]
    prefix = labels.rpartition("run")[0]
    classes = sorted({support for _, support in pairs})
    support = torch.stack([picture(prefix + name) for name in classes])
    queries = torch.stack([picture(prefix + name) for name, _ in pairs])
    answers = torch.tensor([classes.index(name) for _, name in pairs])
    return Trials(resize(support, size) / 255, resize(queries, size) / 255, answers)


def background_trials(
    path: Path, size: int, runs: int, seed: int = 0, ways: int = WAYS
) -> list[Trials]:
    """Sample trials like the official ones from the background set, to choose settings by.

    Args:
        path: Omniglot's prepared file.
        runs: number of runs.
        ways: classes per run, characters of one alphabet.

    Raises:
        UserError: the file is damaged or does not name characters.
    """
    arrays = prepared.read(path)
    if "train_characters" not in arrays:
        raise UserError(f"{path} does not name its characters; delete it to have it prepared again")
    labels = arrays["train_labels"].astype(int)
    alphabets: dict[str, list[int]] = {}
    for label, name in enumerate(arrays["train_characters"]):
        alphabets.setdefault(str(name).split("/")[0], []).append(label)
    large = [members for members in alphabets.values() if len(members) >= ways]
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(runs):
        chosen = rng.permutation(large[rng.integers(len(large))])[:ways]
        pairs = np.array([rng.permutation(np.flatnonzero(labels == c))[:2] for c in chosen])
        pictures = resize(torch.from_numpy(arrays["train_images"][pairs]), size) / 255
        order = torch.from_numpy(rng.permutation(ways))
        made.append(Trials(pictures[:, 0], pictures[order, 1], order))
    return made
