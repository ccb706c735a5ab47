"""Prepared sources on disk: one compressed .npz file each, checked when read, written in one move.
`dood_pyro.data` reads and writes them, and every source's ``prepare`` returns their arrays.

Layout: ``train_images`` and ``test_images``, uint8 (count, height, width), ink bright (255) on black,
upright, at native resolution; ``train_labels`` and ``test_labels``, integers (count,); and any further
arrays of the source (names of labels, drawers, true strokes).
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from dood_pyro.errors import UserError
from dood_pyro.files import refuse_special, replacing, unreadable, unwritable
from dood_pyro.pictures import MIN_CONTRAST

Arrays = dict[str, np.ndarray]
"""Arrays of a source by name, in the module's layout."""

PARTS = ("train", "test")


def check(arrays: Arrays, what: str, parts: Sequence[str] = PARTS) -> None:
    """Check that arrays are a source in the module's layout.

    Args:
        what: name of the arrays in the message.

    Raises:
        UserError: an array is missing, or has another type or shape.
    """
    if not isinstance(arrays, Mapping):
        raise UserError(f"{what} is a {type(arrays).__name__}; it must be a dict of arrays by name")
    for part in parts:
        images, labels = arrays.get(f"{part}_images"), arrays.get(f"{part}_labels")
        if images is None or labels is None:
            raise UserError(
                f"{what} lacks {part}_images or {part}_labels; it must have "
                "train_images, train_labels, test_images and test_labels"
            )
        if images.dtype != np.uint8 or images.ndim != 3 or min(images.shape) < 1:
            raise UserError(
                f"{what}: {part}_images must be uint8 of shape (count, height, width), not empty; "
                f"it is {images.dtype} of shape {images.shape}"
            )
        if min(images.shape[1:]) < 2:
            raise UserError(f"{what}: {part}_images are {images.shape[1]}×{images.shape[2]} pixels")
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(
                f"{what}: {part}_labels must be one integer an image; they are {labels.dtype} of "
                f"shape {labels.shape} for {images.shape[0]} images"
            )


DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    NotImplementedError,
    MemoryError,
    AssertionError,
    zipfile.BadZipFile,
    zlib.error,
)
"""Exceptions that reading a damaged or foreign file can raise."""
ADVICE = "; a built-in source's file is prepared again once it is deleted"
"""End of a message about a damaged file."""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the archive at ``path``; exceptions raised while it is read become a `UserError`."""
    refuse_special(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            yield archive
    except (FileNotFoundError, PermissionError) as error:
        raise unreadable(path, error) from None
    except DAMAGED as error:
        raise UserError(
            f"{path} is damaged or not an .npz file ({_reason(error)}){ADVICE}"
        ) from None


def read(path: Path) -> Arrays:
    """Read and check all arrays of a prepared file.

    Raises:
        UserError: the file cannot be read, is cut short or damaged, or has another layout.
    """
    with _opened(path) as archive:
        arrays = {name: archive[name] for name in archive.files}
    check(arrays, str(path))
    return arrays


def read_part(path: Path, part: str, foreign: bool = False) -> tuple[np.ndarray, np.ndarray, str]:
    """Read images and labels of one part, and the hash of both parts' images and labels.

    The hash does not depend on the file's compression. One part at a time is in memory.

    Args:
        foreign: whether the file is not one of this package's own: if so, the polarity of its
            pictures is detected (`dark_ink`), and a blank part is refused.

    Raises:
        UserError: as for `read`; or test images have another size than training images.
    """
    digest = hashlib.sha256()
    kept: list[np.ndarray] = []
    sizes: list[tuple[int, ...]] = []
    dark = _which_have_dark_ink(path) if foreign else {}
    for each in PARTS:
        images, labels = _part(path, each, foreign)
        sizes.append(images.shape[1:])
        if foreign:
            images = np.where(dark[each][:, None, None], 255 - images, images)
        for plain in (images, labels.astype(np.int64)):
            digest.update(f"{each} {plain.shape}".encode())
            digest.update(np.ascontiguousarray(plain).data)
        if each == part:
            kept = [images, labels]
    if sizes[0] != sizes[1]:
        training, test = (f"{height}×{width}" for height, width in sizes)
        raise UserError(
            f"{path}: test_images are of {test} pixels, train_images of {training}; resize them alike"
        )
    return kept[0], kept[1], digest.hexdigest()


def _part(path: Path, part: str, foreign: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read and check images and labels of one part, as stored; of a foreign file, as the layout has
    them (`dood_pyro.data.given`)."""
    from dood_pyro.data.given import as_bytes, numbered_labels

    names = (f"{part}_images", f"{part}_labels")
    all_labels = tuple(f"{each}_labels" for each in PARTS)
    with _opened(path) as archive:
        wanted = {*names, *all_labels} if foreign else names
        arrays = {name: archive[name] for name in wanted if name in archive.files}
    if foreign and arrays.keys() >= {*names}:
        arrays[names[0]] = as_bytes(arrays[names[0]], f"{path}: {names[0]}")
        numbered = numbered_labels((name, arrays[name]) for name in all_labels if name in arrays)
        arrays |= numbered
    check(arrays, str(path), (part,))
    return arrays[names[0]], arrays[names[1]]


ALIKE = 0.9
"""Share of a file's pictures of one polarity from which all of them are taken to have that polarity."""


def _which_have_dark_ink(path: Path) -> dict[str, Bool[np.ndarray, "count"]]:
    """Whether each picture of a file has dark ink, by part.

    If nearly all pictures of both parts (`ALIKE`) have one polarity, all are taken to have it;
    otherwise each picture has its own.

    Raises:
        UserError: a part is blank.
    """
    found = {}
    for part in PARTS:
        images, _ = _part(path, part, foreign=True)
        flat = images.reshape(len(images), -1)
        if bool((flat.max(1).astype(int) - flat.min(1) < MIN_CONTRAST * 255).all()):
            raise UserError(f"{path}, {part}_images, is blank: there is no ink in its pictures")
        found[part] = dark_ink(images)
    share = float(np.concatenate(list(found.values())).mean())
    if min(share, 1 - share) <= 1 - ALIKE:
        found = {part: np.full_like(dark, share > 0.5) for part, dark in found.items()}
    return found


def dark_ink(images: UInt8[np.ndarray, "count height width"]) -> Bool[np.ndarray, "count"]:
    """Whether each picture has dark ink on light paper: the border's median brightness is taken for
    paper (`dood_pyro.pictures.read_picture`)."""
    edges = (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1])
    light: np.ndarray = np.median(np.concatenate(edges, axis=1), axis=1) > 127.5
    return light


def counts(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of a prepared file's images, by part, read from the headers alone.

    Raises:
        UserError: as for `read`.
    """
    shapes = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for part in PARTS:
                with archive.open(f"{part}_images.npy") as member:
                    version = np.lib.format.read_magic(member)
                    assert version == (1, 0)
                    shapes[part] = np.lib.format.read_array_header_1_0(member)[0]
    except PermissionError as error:
        raise unreadable(path, error) from None
    except DAMAGED as error:
        raise UserError(f"{path} is damaged ({_reason(error)}){ADVICE}") from None
    if any(len(shape) != 3 for shape in shapes.values()):
        raise UserError(f"{path} holds images of other than three dimensions{ADVICE}")
    return shapes


def write(path: Path, arrays: Arrays) -> None:
    """Write a prepared file so that ``path`` is either whole or does not exist.

    Raises:
        UserError: the arrays do not fit the layout, or the file cannot be written.
    """
    check(arrays, path.name)
    if objects := [name for name, array in arrays.items() if array.dtype == object]:
        raise UserError(f"{path.name}: {objects[0]} holds objects, not numbers or strings")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from None
    with replacing(path) as file:
        # numpy 2.1 has no allow_pickle.
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _reason(error: BaseException) -> str:
    """First line of an exception's message."""
    if "pickle" in str(error):  # numpy's message advises how to run code that the file may hold
        return "it holds other than arrays of numbers"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
