"""Downloads of the public originals into a scratch folder, with one clear error if a download fails.
Used by the sources that are downloaded.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from tqdm import tqdm

from dood_pyro.errors import UserError
from dood_pyro.progress import LossyStream


def torchvision_datasets() -> ModuleType:
    """Import and return ``torchvision.datasets``, on use only: the import takes seconds.

    Raises:
        UserError: torchvision does not match the torch that is installed.
    """
    try:
        from torchvision import datasets
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"torchvision cannot be imported ({str(error).splitlines()[0]}); install a torch and a "
            "torchvision that belong together: pip install --force-reinstall torch torchvision"
        ) from None
    module: ModuleType = datasets
    return module


@contextlib.contextmanager
def download_errors(source: str, file: str = "") -> Iterator[None]:
    """Turn the exceptions of a failed download into a `UserError` that says what to do.

    Args:
        file: name of a file that may be put into the data folder instead; default: the source's
            prepared file.
    """
    try:
        yield
    except (
        urllib.error.URLError,
        ConnectionError,
        TimeoutError,
        http.client.HTTPException,
        RuntimeError,  # torchvision's: every mirror failed, or a checksum did
    ) as error:
        reason = getattr(error, "reason", None) or str(error).strip() or type(error).__name__
        reason = " ".join(str(reason).split()).rstrip(":;")
        raise UserError(
            f"cannot download {source}: {reason}; connect to the network, or put "
            f"{file or f'a prepared {source}.npz'} into the data folder (DOOD_DATA or --data-dir)"
        ) from None


def borrow_raw(folder: Path, scratch: Path, name: str) -> None:
    """Copy the originals that ``folder`` already holds in torchvision's layout to ``scratch``.

    Originals are read from a copy because unpacking writes beside them.
    """
    raw = folder / name / "raw"
    if raw.is_dir():
        (scratch / name / "raw").mkdir(parents=True)
        for file in raw.glob("*.gz"):
            shutil.copyfile(file, scratch / name / "raw" / file.name)


def torchvision_arrays(
    class_name: str, source: str, folder: Path, scratch: Path, **options: str
) -> dict[str, np.ndarray]:
    """Load train and test arrays of one of torchvision's MNIST-like classes.

    Args:
        class_name: the class's name in ``torchvision.datasets``.
        source: name of the source, for error messages.
        folder: folder that may hold the originals already (`borrow_raw`).
        options: further arguments of the class.

    Raises:
        UserError: the download fails.
    """
    dataset = getattr(torchvision_datasets(), class_name)
    borrow_raw(folder, scratch, class_name)
    arrays = {}
    # A display that cannot be written to must not end the download through torchvision's own bar.
    display = contextlib.redirect_stderr(LossyStream(sys.stderr))
    with download_errors(source), display:
        for part in ("train", "test"):
            data = dataset(str(scratch), train=part == "train", download=True, **options)
            arrays[f"{part}_images"] = data.data.numpy()
            arrays[f"{part}_labels"] = data.targets.numpy().astype(np.uint8)
    return arrays


def first_rows(url: str, rows: int, source: str, progress: tqdm | None = None) -> np.ndarray:
    """Download the first ``rows`` rows of a remote .npy file of uint8 rows, without the rest.

    Args:
        source: name of the source, for error messages.
        progress: bar that counts bytes.

    Raises:
        UserError: there is no network, or the file is cut short or not a .npy file of uint8 rows.
    """
    with download_errors(source), urllib.request.urlopen(url, timeout=60) as response:
        try:
            version = np.lib.format.read_magic(response)
            reader = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = reader(response)
        except (ValueError, AttributeError):
            raise UserError(f"{url} is not a numpy file") from None
        if dtype != np.uint8 or fortran or len(shape) != 2:
            raise UserError(f"{url} holds {dtype} of shape {shape}, not rows of bytes")
        wanted, buffer = min(rows, shape[0]) * shape[1], io.BytesIO()
        while buffer.tell() < wanted:
            chunk = response.read(min(1 << 20, wanted - buffer.tell()))
            if not chunk:
                raise UserError(f"{url} ended early; try again")
            buffer.write(chunk)
            if progress is not None:
                progress.update(len(chunk))
    return np.frombuffer(buffer.getbuffer(), np.uint8).reshape(-1, shape[1]).copy()
