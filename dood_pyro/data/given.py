"""Pictures and labels as people have them, brought into the layout of `dood_pyro.data.prepared`.
`dood_pyro.make_source` makes sources of them; .npz files that are not the package's own are read so.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from dood_pyro import pictures
from dood_pyro.data import prepared
from dood_pyro.errors import UserError

SIZE = 105
"""Most pixels per side of pictures that differ in size."""
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img", "picture"), ("label", "labels", "fine_label")
"""Names of the columns of Hugging Face's datasets that are taken."""
FAINTEST = 128
"""Least brightest pixel of floats that run up to 255: of others it cannot be told what is white."""
TEST_SHARE = 10
"""One picture of so many is for test, where no test pictures are given."""


class Given(NamedTuple):
    """Pictures, and what is known of their classes."""

    images: UInt8[np.ndarray, "count height width"]
    labels: np.ndarray | None
    """A number or a name each."""
    names: list[str] | None
    """Names of the classes that the labels are numbers of."""


def make_source(
    path: str | Path,
    train: Any,
    labels: Any = None,
    test: Any = None,
    test_labels: Any = None,
) -> Path:
    """Make a source of pictures that are at hand: an .npz, whose path stands for it everywhere.

    Args:
        path: of the .npz; nothing may be there.
        train, test: pictures: an array or tensor (count, height, width), with 1, 3 or 4 channels
            first or last if it has channels, of bytes, bools, or floats up to 1 or to 255; a list of
            pictures as `Recognizer.parse` takes them; a torchvision dataset, or any other of pictures
            with labels; or a Hugging Face dataset with a column ``image``. Without ``test``, every
            tenth picture by a shuffle of seed 0.
        labels, test_labels: a whole number or a string for each picture; None for those of the
            dataset, or for none.

    Returns:
        ``path``.

    Raises:
        UserError: what is given is no pictures, or ``path`` cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise UserError(f"a source is written as .npz; {path} is not")
    if path.exists():
        raise UserError(f"{path} is there already; name another file")
    if test is None and test_labels is not None:
        raise UserError("test_labels are of test pictures, of which none are given: give test, too")
    parts = {"train": _given(train, labels, "train")}
    if test is not None:
        parts["test"] = _given(test, test_labels, "test")
    numbers, names = _numbered({part: found.labels for part, found in parts.items()})
    names = names or next((found.names for found in parts.values() if found.names), [])
    arrays: prepared.Arrays = {}
    for part, found in parts.items():
        count = len(found.images)
        arrays[f"{part}_images"] = found.images
        arrays[f"{part}_labels"] = numbers.get(part, np.zeros(count, np.int32))
    if test is None:
        arrays = split(arrays["train_images"], arrays["train_labels"])
    if names:
        arrays["label_names"] = np.asarray(names)
    prepared.write(path, arrays)
    return path


def split(images: np.ndarray, labels: np.ndarray) -> prepared.Arrays:
    """Arrays of a source of which a tenth, by a shuffle of seed 0, is for test."""
    order = np.random.default_rng(0).permutation(len(images))
    most = max(1, len(images) // TEST_SHARE)
    test, train = order[:most], order[most:]
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }


def as_bytes(images: np.ndarray, what: str) -> UInt8[np.ndarray, "count height width"]:
    """Grey pictures 0…255 of an array of pictures, in any form of `make_source`'s.

    Raises:
        UserError: it is no array of pictures.
    """
    if images.ndim not in (3, 4):
        raise UserError(
            f"{what} must be pictures (count, height, width), with channels first or last if in "
            f"colour; the shape is {images.shape}"
        )
    if images.dtype != bool and not np.issubdtype(images.dtype, np.number):
        raise UserError(f"{what} must be numbers, not {images.dtype} of shape {images.shape}")
    if np.iscomplexobj(images):
        raise UserError(f"{what} must be numbers, not {images.dtype} of shape {images.shape}")
    if not images.size:
        raise UserError(f"{what} must be not empty; the shape is {images.shape}")
    if images.ndim == 3 and images.dtype == np.uint8:
        return images
    unit = images * np.float32(1 / largest_of(images, what))
    grey = _without_channels(unit, what) if images.ndim == 4 else unit
    found: np.ndarray = np.round(grey * 255).clip(0, 255).astype(np.uint8)
    return found


def largest_of(images: np.ndarray, what: str) -> float:
    """The value that is white in an array of numbers.

    Raises:
        UserError: the numbers are no brightnesses.
    """
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{what} have pixels that are not finite numbers")
    floats = np.issubdtype(images.dtype, np.floating)
    for largest in (1.0, 255.0) if floats else (1.0, 255.0, 65535.0):
        if images.dtype == np.uint8 and largest == 1:
            continue
        if high <= largest:
            break
    if low < 0 or high > largest or (floats and largest == 255 and high < FAINTEST):
        raise UserError(
            f"{what} run from {low:g} to {high:g}: give bytes, bools, or floats up to 1 or to 255"
        )
    return largest


def _without_channels(unit: np.ndarray, what: str) -> np.ndarray:
    """Grey pictures, up to 1, of ones with channels."""
    if unit.shape[1] in pictures.CHANNELS_FIRST:
        unit = np.moveaxis(unit, 1, -1)
    channels = unit.shape[-1]
    if channels == 1:
        return unit[..., 0]
    if channels == 3:
        grey: np.ndarray = unit @ np.array([0.299, 0.587, 0.114], unit.dtype)
        return grey
    if channels == 4:
        return _of_list(list(unit)) / np.float32(255)
    raise UserError(f"{what} have {channels} channels: 1, 3 or 4 are known; shape {unit.shape}")


def _of_list(found: Sequence[Any]) -> UInt8[np.ndarray, "count height width"]:
    """Pictures of any kind and size; those that differ in size become squares."""
    if not len(found):
        raise UserError("there are no pictures")
    read = [pictures.read_picture(each) for each in found]
    sides = {len(picture) for picture in read}
    return squares(read, sides.pop() if len(sides) == 1 else min(SIZE, max(map(len, read))))


def squares(read: Sequence[Tensor], size: int) -> UInt8[np.ndarray, "count size size"]:
    """Brightness 0…255 of pictures in [0, 1], at one size."""
    resized = torch.stack([pictures.resize(picture, size) for picture in read])
    found: np.ndarray = (resized * 255).round().clamp(0, 255).byte().numpy()
    return found


def _given(images: Any, labels: Any, part: str) -> Given:
    what, names, theirs = f"the {part} pictures", None, None
    if hasattr(images, "column_names"):  # Hugging Face
        images, theirs, names = _columns(images, what)
        labels = theirs if labels is None else labels
    elif not isinstance(images, np.ndarray | Tensor) and _has_labels(images):
        names = [str(name) for name in getattr(images, "classes", [])] or None
        pairs = [images[index] for index in range(len(images))]
        images = [pair[0] for pair in pairs]
        theirs = [pair[1] for pair in pairs]
        labels = theirs if labels is None else labels
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = (images.float() if images.is_floating_point() else images).numpy()
    if isinstance(images, np.ndarray):
        found = as_bytes(images, what)
    elif isinstance(images, Sequence) and not isinstance(images, str | bytes):
        found = _of_list(images)
    else:
        raise UserError(f"{what} are no pictures: {type(images).__name__}")
    if labels is None:
        return Given(found, None, None)
    own = labels is theirs
    try:
        chosen = np.asarray(labels.tolist() if isinstance(labels, Tensor) else list(labels))
    except TypeError:
        raise UserError(
            f"the {part} labels are one {labels!r}: give one for each picture"
        ) from None
    if chosen.shape != found.shape[:1]:
        raise UserError(f"there are {len(found)} {part} pictures and {len(chosen)} labels")
    return Given(found, chosen, names if own else None)


def _has_labels(images: Any) -> bool:
    """Whether it is a dataset of pairs, as torchvision's: a picture and its class."""
    try:
        first = images[0]
    except (TypeError, IndexError, KeyError):
        return False
    return isinstance(first, tuple) and len(first) == 2


def _columns(dataset: Any, what: str) -> tuple[list[Any], Any, list[str] | None]:
    """Pictures, labels and names of labels of a Hugging Face dataset."""
    if isinstance(dataset.column_names, dict):
        raise UserError(f"{what}: name one of the parts {', '.join(dataset.column_names)}")
    columns = list(dataset.column_names)
    image = next((name for name in IMAGE_COLUMNS if name in columns), None)
    if image is None:
        raise UserError(f"{what}: none of the columns {', '.join(columns)} is called image")
    label = next((name for name in LABEL_COLUMNS if name in columns), None)
    if label is None:
        return list(dataset[image]), None, None
    names = getattr(getattr(dataset, "features", {}).get(label), "names", None)
    return list(dataset[image]), list(dataset[label]), names


def _numbered(
    labels: dict[str, np.ndarray | None],
) -> tuple[dict[str, Integer[np.ndarray, "count"]], list[str]]:
    """Labels of each part as whole numbers, and the names that they stand for, if they had names.

    Raises:
        UserError: they are neither numbers nor names.
    """
    known = {part: each for part, each in labels.items() if each is not None}
    if not any(each.dtype.kind in "US" for each in known.values()):
        for part, each in known.items():
            if not np.issubdtype(each.dtype, np.integer):
                raise UserError(
                    f"the {part} labels are {each.dtype}: give whole numbers, or strings"
                )
        return {part: each.astype(np.int64) for part, each in known.items()}, []
    texts = {part: [_text(label) for label in each.tolist()] for part, each in known.items()}
    names = sorted({name for each in texts.values() for name in each})
    return {part: np.array(list(map(names.index, each))) for part, each in texts.items()}, names


def numbered_labels(labels: Iterable[tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Labels of a file's parts as whole numbers, whatever they were."""
    return _numbered(dict(labels))[0]


def _text(label: Any) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
