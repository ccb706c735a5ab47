"""Data sources by name or path, for training, tasks and commands: found, or prepared once, then loaded.

A source is looked for in the data folder (``--data-dir``, else ``DOOD_DATA``, else the platform's cache
folder), then in the cache folder. A source found in neither is prepared into the first of the two that
can be written to.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch
from jaxtyping import Integer, UInt8
from torch import Tensor

from dood_pyro.data import folder as picture_folder
from dood_pyro.data import prepared
from dood_pyro.errors import UserError, told, whole_number
from dood_pyro.files import named, refuse_special
from dood_pyro.images import ImageBatch
from dood_pyro.pictures import resize_bytes
from dood_pyro.registry import (
    SOURCES,
    canonical,
    did_you_mean,
    is_own_code,
    load_component,
)


@dataclass(frozen=True)
class ImageDataset:
    """One part, train or test, of a source, resized for a canvas."""

    source: str
    """Name or path of the source."""
    images: UInt8[Tensor, "count size size"]
    """Brightness, 0…255, ink bright; divide by 255 for [0, 1]."""
    labels: Integer[np.ndarray, "count"]
    """Class of each image."""
    sha256: str
    """Hash of the source's images and labels, both parts."""
    native_size: int
    """Pixels per side of the images before they were resized; 0 if they were not square."""

    def shuffled(self, limit: int | None = None) -> UInt8[Tensor, "count size size"]:
        """First ``limit`` images, 0…255, of the shuffle of seed 0 that all evaluations use.

        Raises:
            UserError: the limit is no whole number, or below 1.
        """
        if limit is not None:
            limit = whole_number("limit", limit)
        order = np.random.default_rng(0).permutation(len(self.images))
        return self.images[order[:limit].copy()]

    def batch(self, limit: int | None = None, device: torch.device | None = None) -> ImageBatch:
        """First ``limit`` images, in [0, 1], of the shuffle of seed 0 that all evaluations use."""
        return ImageBatch((self.shuffled(limit).float() / 255).to(device), self.native_size)


def name_of(source: str | Path) -> str:
    """Name of a source in tables and figures: its name, or its path's last part without a suffix."""
    source = canonical(str(source))
    return source.replace(":", "-") if is_own_code(source) else named(source).stem


def cache_folder() -> Path:
    """Cache folder of this package on this platform."""
    return Path(platformdirs.user_cache_dir("dood-pyro"))


def data_folder(chosen: str | Path | None = None) -> Path:
    """Data folder: ``chosen``, else the environment's ``DOOD_DATA``, else the cache folder.

    Raises:
        UserError: ``chosen`` or ``DOOD_DATA`` does not exist or is not a folder.
    """
    named = chosen or os.environ.get("DOOD_DATA")
    if not named:
        return cache_folder()
    path = Path(named).expanduser()
    if not path.is_dir():
        origin = "--data-dir" if chosen else "DOOD_DATA"
        raise UserError(f"{origin} names {path}, which is not a folder; create it or name another")
    return path


def find(name: str, data_dir: str | Path | None = None) -> Path | None:
    """Path of a built-in source's prepared file, or None."""
    for folder in (data_folder(data_dir), cache_folder()):
        refuse_special(folder / f"{name}.npz")
        if (folder / f"{name}.npz").is_file():
            return folder / f"{name}.npz"
    return None


def locate(source: str, data_dir: str | Path | None = None, skip_bad: bool = False) -> Path:
    """Path of a source's prepared file; the file is prepared first if it is missing.

    Args:
        source: a built-in name, the path of a folder of pictures or of an .npz file, or
            ``module:function``, a user's own function with the signature of the built-in sources'
            ``prepare``.
        skip_bad: whether files of a folder that are no pictures are left out, from now on.

    Raises:
        UserError: there is no such source, or its file cannot be prepared or written.
    """
    if not source:
        raise UserError("a source has no name: give a built-in one or a path")
    source = canonical(source)
    if source in SOURCES:
        return find(source, data_dir) or _prepare(source, data_dir)
    path = Path(source).expanduser()
    refuse_special(path)
    if path.is_file() and path.suffix == ".npz":
        return path
    if path.is_dir():
        target = cache_folder() / "folders" / f"{picture_folder.fingerprint(path)}.npz"
        if not target.is_file():
            prepared.write(target, picture_folder.prepare(path, skip_bad))
        return target
    if is_own_code(source):
        return _prepare_own(source)
    meant = did_you_mean("source", source)
    raise UserError(
        f"there is no source {source!r}: {f'{meant} It' if meant else 'it'} is neither"
        f" one of {', '.join(SOURCES)}, nor the path of a folder of pictures or of an .npz "
        "file, nor your own module:function"
    )


def read(
    source: str, part: str, data_dir: str | Path | None = None
) -> tuple[UInt8[np.ndarray, "count height width"], Integer[np.ndarray, "count"], str]:
    """Read one part's images, at native size and ink bright, and labels; and the hash of both parts.

    Raises:
        UserError: as for `locate`, or the file is damaged.
    """
    path = locate(source, data_dir)
    return prepared.read_part(path, part, foreign=canonical(source) not in SOURCES)


def load(source: str, part: str, size: int, data_dir: str | Path | None = None) -> ImageDataset:
    """Load one part, ``"train"`` or ``"test"``, of a source at ``size`` × ``size`` pixels.

    Raises:
        UserError: as for `locate`, or the file is damaged.
    """
    images, labels, sha256 = read(source, part, data_dir)
    height, width = images.shape[1:]
    native_size = height if height == width else 0
    return ImageDataset(source, resize_bytes(images, size), labels, sha256, native_size)


def _writable(folder: Path) -> bool:
    """Whether files may be put into a folder, which need not exist yet; a folder marked read-only
    is left alone even by root."""
    while not folder.exists():
        folder = folder.parent
    marked = folder.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)
    return bool(marked) and os.access(folder, os.W_OK)


def _prepare(name: str, data_dir: str | Path | None) -> Path:
    """Prepare a built-in source; return its file's path."""
    folder = data_folder(data_dir)
    target = folder if _writable(folder) else cache_folder()
    return _write_prepared(name, folder, target / f"{name}.npz")


def _prepare_own(name: str) -> Path:
    """Path of a user's own source's prepared file; prepared again when the source's module changes, and
    by each process where it stands in a notebook, or was typed."""
    prepare: Callable[[Path, Path], prepared.Arrays] = load_component("source", name)
    file = Path(getattr(sys.modules[prepare.__module__], "__file__", None) or "")
    if file.is_file():
        fingerprint = hashlib.sha256(name.encode() + file.read_bytes()).hexdigest()[:16]
        target = cache_folder() / "sources" / f"{fingerprint}.npz"
    else:
        target = _scratch_file(prepare)
    return target if target.is_file() else _write_prepared(name, data_folder(), target)


@functools.cache
def _scratch_file(prepare: Callable[[Path, Path], prepared.Arrays]) -> Path:
    """Path of a file for what a function prepares, which ends with this process."""
    folder = tempfile.mkdtemp(prefix="dood-pyro-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "source.npz"


def _write_prepared(name: str, folder: Path, path: Path) -> Path:
    """Prepare a source into a file, which appears in one move; return the path."""
    prepare = load_component("source", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as scratch:
            arrays = prepare(folder, Path(scratch))
        if is_own_code(name):
            prepared.check(arrays, f"what {name} returns")
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot prepare {name} in {path.parent}: {reason}") from None
    except Exception as error:
        if not is_own_code(name) or isinstance(error, UserError):
            raise
        raise UserError(f"the source {name} cannot be prepared: {told(error)}") from error
    prepared.write(path, arrays)
    return path
