"""Folders of pictures as sources.
Used by `dood_pyro.data` where a source is the path of a folder, and by the Fréchet distance.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from dood_pyro import pictures
from dood_pyro.data.given import SIZE, split, squares
from dood_pyro.data.prepared import Arrays
from dood_pyro.errors import UserError
from dood_pyro.files import refuse_special
from dood_pyro.progress import LossyStream, progress_bar

LESS_USUAL = (".avif", ".jfif", ".jp2", ".pbm", ".pgm", ".ppm")
SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp", *LESS_USUAL)
)
"""Suffixes of files that are taken as pictures."""


LEAST = 3
"""Pictures of a source: one to test, one held out and one to train on."""


def picture_files(folder: Path, least: int = LEAST) -> list[Path]:
    """Sorted paths of the pictures in a folder and its subfolders.

    Args:
        least: number of pictures required.

    Raises:
        UserError: there are fewer than ``least`` pictures.
    """
    named = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
    for file in named:
        refuse_special(file)
    files = [file for file in named if file.is_file()]
    if len(files) < least:
        raise UserError(
            f"{folder} holds {len(files)} picture{'s' * (len(files) != 1)}; {least} or more are needed "
            f"({', '.join(sorted(SUFFIXES))})"
        )
    return files


def fingerprint(folder: Path) -> str:
    """Hash of a folder's path and its pictures' names, sizes and times: changes when a picture is
    added, removed or written to."""
    lines = [
        f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}"
        for file in picture_files(folder)
    ]
    # A name may hold bytes that are no UTF-8.
    text = "\n".join([str(folder.resolve()), *lines]).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16]


def prepare(folder: Path, skip_bad: bool = False) -> Arrays:
    """Read every picture of a folder; a tenth of them, by a shuffle of seed 0, is for test.

    Labels number the subfolders by name, in order. Each picture's polarity is detected.

    Args:
        skip_bad: whether files that are no pictures are left out, and said.

    Raises:
        UserError: a file, named in the message, is not a picture, is blank or is too small; or too few
            pictures are left.
    """
    files = picture_files(folder)
    if skip_bad:
        files = [file for file in files if _is_sound(file)]
        if len(files) < LEAST:
            raise UserError(f"{folder} has {len(files)} sound pictures; {LEAST} or more are needed")
    names = sorted({str(file.parent.relative_to(folder)) for file in files})
    try:
        read = _read(folder, files, SIZE, blank=False)
    except UserError as error:
        raise UserError(f"{error}; --skip-bad leaves such files out") from None
    sides = {len(picture) for picture in read}
    size = sides.pop() if len(sides) == 1 else SIZE
    images = squares(read, size)
    labels = np.array([names.index(str(f.parent.relative_to(folder))) for f in files], np.int32)
    return {**split(images, labels), "label_names": np.asarray(names)}


def _is_sound(file: Path) -> bool:
    """Whether a file is a picture that can be used; if not, that is said."""
    try:
        pictures.read_picture(file)
    except UserError as error:
        print(f"dood-pyro: left out: {error}", file=LossyStream(sys.stderr), flush=True)
        return False
    return True


def read_all(folder: Path, size: int) -> UInt8[np.ndarray, "count size size"]:
    """Read every picture of a folder at ``size`` × ``size`` pixels, in order of paths.

    Blank pictures are allowed, because a model's samples may be blank. Each picture's polarity is
    detected.

    Raises:
        UserError: a file, named in the message, is not a picture or is too small.
    """
    read = _read(folder, picture_files(folder, least=2), size, blank=True)
    return squares(read, size)


def _read(folder: Path, files: list[Path], size: int, blank: bool) -> list[Tensor]:
    """Read pictures at no more than ``size`` pixels per side: larger ones are resized as they are read,
    because few of them might fit in memory."""
    read = []
    for file in progress_bar(iterable=files, desc=folder.name, unit="picture", leave=False):
        picture = pictures.read_picture(file, blank=blank)
        read.append(picture if len(picture) <= size else pictures.resize(picture, size))
    return read
