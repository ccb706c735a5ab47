"""Pictures of all usual forms as square grey tensors, bright ink on black.
Used by recognition and by data sources.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.files import refuse_special, unreadable

Polarity = Literal["auto", "bright-ink", "dark-ink"]

MIN_SIDE = 4
"""Smallest height or width of a picture, pixels; anything smaller is no drawing."""
MAX_PIXELS = 64_000_000
"""Most pixels of a picture; a larger picture is refused before it is unpacked."""
MAX_SIDE = 8192
"""Longest side of a picture, pixels: padded to a square, a long strip becomes a large picture."""
CHANNELS_FIRST = (1, 3, 4)
"""Sizes of a first dimension of channels: grey, colours, colours with alpha. A first dimension of two
is not grey with alpha but two pictures."""
CHANNELS = (1, 2, 3, 4)
"""Sizes of a last dimension of channels: grey, grey with alpha, colours, colours with alpha."""
CONVERT = {
    ".pdf": "turn its pages into PNG, with pdftoppm -png for one",
    ".svg": "it has its strokes already; or turn it into PNG, with rsvg-convert for one",
    ".heic": "turn it into PNG or JPEG, with heif-convert for one",
    ".heif": "turn it into PNG or JPEG, with heif-convert for one",
}
"""What to do with files that people take for pictures of pixels, by suffix."""
MIN_CONTRAST = 0.05
"""Contrast below which a picture is blank: brightest minus darkest pixel, in [0, 1]."""


def read_picture(
    picture: Any, polarity: Polarity = "auto", blank: bool = False
) -> Float[Tensor, "side side"]:
    """Return one picture as `read_grey` does, padded to a square."""
    return padded(read_grey(picture, polarity, blank))


def read_grey(
    picture: Any, polarity: Polarity = "auto", blank: bool = False
) -> Float[Tensor, "height width"]:
    """Return one picture: grey, in [0, 1], bright ink on black.

    Args:
        picture: a path; the bytes of a file, or a binary file that is open; a PIL image; a numpy array
            or tensor (height, width), or with 1, 3 or 4 channels first or last, integers in their
            type's range or floats in [0, 1]. A picture with an alpha channel is laid on white, or on
            black where it is white itself; of two channels, last, the second is alpha. An image with an
            EXIF orientation is turned as viewers turn it.
        polarity: ``"bright-ink"`` (on dark), ``"dark-ink"`` (on bright paper), or ``"auto"``: the
            brightness of most of the border is that of the paper.
        blank: whether the picture may be blank.

    Raises:
        UserError: ``picture`` is not a picture, or is blank, too small, too large or not finite.
    """
    if polarity not in ("auto", "bright-ink", "dark-ink"):
        raise UserError(f"polarity must be 'auto', 'bright-ink' or 'dark-ink', not {polarity!r}")
    name = str(picture) if isinstance(picture, str | Path) else "the picture"
    grey = _grey(picture, name)
    height, width = grey.shape
    _check_sides(name, width, height)
    if not bool(torch.isfinite(grey).all()):
        raise UserError(f"{name} has pixels that are not finite numbers")
    low, high = float(grey.min()), float(grey.max())
    if not blank and high - low < MIN_CONTRAST:
        raise UserError(
            f"{name} is blank: its pixels run from {low:.3g} to {high:.3g}, where black is 0 and the "
            "white of its kind of pixels is 1 (a mask is given as bools, or as floats)"
        )
    border = torch.cat([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if polarity == "dark-ink" or (polarity == "auto" and float(border.median()) > 0.5):
        grey = 1 - grey
    return grey


def padded(picture: Float[Tensor, "height width"]) -> Float[Tensor, "side side"]:
    """A picture with as much black on both sides as makes it a square."""
    height, width = picture.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(picture, (left, side - width - left, top, side - height - top))


def resize(pictures: Tensor, size: int) -> Tensor:
    """Resize pictures (*batch, height, width) to floats (*batch, size, size); bilinear, antialiased."""
    flat = pictures.reshape(-1, 1, *pictures.shape[-2:]).float()
    small = F.interpolate(flat, size=(size, size), mode="bilinear", antialias=True)
    return small.reshape(*pictures.shape[:-2], size, size)


def resize_bytes(
    pictures: UInt8[np.ndarray, "count height width"], size: int
) -> UInt8[Tensor, "count size size"]:
    """Resize many pictures held as bytes, as `resize` does, 1024 at a time."""
    out = torch.empty(len(pictures), size, size, dtype=torch.uint8)
    for start in range(0, len(pictures), 1024):
        part = torch.from_numpy(np.ascontiguousarray(pictures[start : start + 1024]))
        out[start : start + 1024] = resize(part, size).round().clamp(0, 255).to(torch.uint8)
    return out


class Colours(NamedTuple):
    """A picture as it is, neither grey nor square."""

    pixels: Float[np.ndarray, "height width channels"]
    """In [0, 1]; one channel, or red, green and blue."""
    alpha: Float[np.ndarray, "height width"] | None
    """Opacity, in [0, 1]; None where all is opaque."""


def read_colours(picture: Any, page: int = 0) -> Colours:
    """Return one picture in its own frame and colours.

    Args:
        picture: as for `read_grey`.
        page: page or frame of a file that has several.

    Raises:
        UserError: as for `read_grey`, save for blank pictures.
    """
    name = str(picture) if isinstance(picture, str | Path) else "the picture"
    array = _read(picture, name, lambda image, name: _array_from_pil(image, name, page))
    array = array[..., None] if array.ndim == 2 else array
    _check_sides(name, array.shape[1], array.shape[0])
    if not np.isfinite(array).all():
        raise UserError(f"{name} has pixels that are not finite numbers")
    if array.shape[-1] in (2, 4):
        return Colours(array[..., :-1], array[..., -1])
    return Colours(array, None)


def _check_sides(name: str, width: int, height: int) -> None:
    if min(height, width) < MIN_SIDE:
        raise UserError(
            f"{name} is {width}×{height} pixels; a drawing needs at least {MIN_SIDE} per side"
        )
    if max(height, width) > MAX_SIDE:
        raise UserError(
            f"{name} is {width}×{height} pixels; scale it to {MAX_SIDE} per side or less"
        )


def _grey(picture: Any, name: str) -> Tensor:
    found = _read(picture, name, _grey_from_pil)
    return found if isinstance(found, Tensor) else _grey_of(found)


def _read(picture: Any, name: str, from_pil: Callable[[Any, str], Any]) -> Any:
    """What ``from_pil`` makes of an image, or an array in [0, 1] of one given as numbers."""
    if isinstance(picture, str | Path):
        return _from_file(Path(picture), from_pil)
    if isinstance(picture, bytes | bytearray | memoryview):
        picture = io.BytesIO(picture)
    if hasattr(picture, "read"):
        return _opened(picture, name, from_pil)
    if isinstance(picture, Tensor):
        try:
            plain = picture.detach().resolve_conj().resolve_neg().cpu()
            # float(): numpy has no bfloat16.
            array = (plain.float() if plain.is_floating_point() else plain).numpy()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"{name} is no plain tensor of numbers: {str(error).splitlines()[0]}"
            ) from None
        return _scaled(array, name)
    if isinstance(picture, np.ndarray):
        return _scaled(picture, name)
    from PIL import Image

    if isinstance(picture, Image.Image):
        try:
            return from_pil(picture, name)
        except (OSError, SyntaxError, ValueError) as error:  # PIL reads lazily
            raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None
    raise UserError(
        f"cannot read a picture from {type(picture).__name__}; "
        "give a path, a file's bytes, a PIL image, a numpy array or a tensor"
    )


def _from_file(path: Path, from_pil: Callable[[Any, str], Any]) -> Any:
    if path.parts[:1] in (("http:",), ("https:",)):
        raise UserError(f"{path} is an address; fetch the picture, and give its path")
    refuse_special(path)
    return _opened(path, str(path), from_pil)


def _opened(file: Path | IO[bytes], name: str, from_pil: Callable[[Any, str], Any]) -> Any:
    """What ``from_pil`` makes of a file of an image."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # PIL warns of pictures that are large but allowed; `_turned` checks their size.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return from_pil(image, name)
    except FileNotFoundError:
        raise UserError(f"there is no picture {name}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder, not a picture") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has more than {MAX_PIXELS:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        if advice := CONVERT.get(Path(name).suffix.lower()):
            raise UserError(f"{name} is no picture of pixels: {advice}") from None
        raise UserError(f"{name} is not a picture that can be read (PNG, JPEG, …)") from None
    except UserError:
        raise
    except (
        Exception
    ) as error:  # PIL's readers raise whatever a damaged file makes them stumble over
        raise unreadable(name, error) from None


def _turned(image: Any, name: str) -> Any:
    """An image as viewers turn it."""
    from PIL import ImageOps

    if image.width * image.height > MAX_PIXELS:
        raise UserError(f"{name} has more than {MAX_PIXELS:,} pixels; scale it down")
    return ImageOps.exif_transpose(image)


def _is_deep(image: Any) -> bool:
    """Whether an image has more than 8 bits."""
    return image.mode.startswith("I") or image.mode == "F"


def _array_from_pil(image: Any, name: str, page: int) -> np.ndarray:
    pages = int(getattr(image, "n_frames", 1))
    if not 0 <= page < pages:
        raise UserError(f"{name} has {pages} pages; there is no page {page + 1}")
    if page:
        image.seek(page)
    image = _turned(image, name)
    if _is_deep(image):
        return _scaled(np.asarray(image), name, deep=True)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("LA", "L") else "RGBA")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("L" if image.mode in ("1",) else "RGB")
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[-1] >= 3 and _colourless(array):
        array = array[..., [0, *range(3, array.shape[-1])]]
    return array.astype(np.float32) / 255


def _colourless(array: np.ndarray) -> bool:
    """Whether red, green and blue are alike everywhere."""
    red, green, blue = (array[..., channel] for channel in range(3))
    return bool((red == green).all() and (red == blue).all())


def _grey_from_pil(image: Any, name: str) -> Tensor:
    from PIL import Image

    image = _turned(image, name)
    if _is_deep(image):
        return _grey_of(_scaled(np.asarray(image), name, deep=True))
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")

        def on(paper: float) -> Tensor:
            ground = Image.new("RGBA", rgba.size, "white" if paper else "black")
            return _brightness(Image.alpha_composite(ground, rgba))

        return _on_paper(on)
    return _brightness(image)


def _brightness(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 255)


def _on_paper(on: Callable[[float], Tensor]) -> Tensor:
    """What is laid ``on`` white (1); where that leaves nothing, on black (0)."""
    on_white = on(1.0)
    return on_white if float(on_white.max() - on_white.min()) >= MIN_CONTRAST else on(0.0)


def _scaled(array: np.ndarray, name: str, deep: bool = False) -> np.ndarray:
    """Numbers of a picture as floats in [0, 1], channels last."""
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS_FIRST:
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in CHANNELS):
        raise UserError(
            f"{name} has shape {array.shape}; a picture is (height, width), with 1, 3 or 4 channels "
            "first or last"
        )
    if array.dtype == bool:
        array = array.astype(np.float32)
    elif np.issubdtype(array.dtype, np.integer):
        most = np.iinfo(array.dtype).max
        if array.dtype.itemsize > 2 or array.dtype == np.int16:
            # Wide integers hold 8- or 16-bit pictures.
            few = array.size and array.max() <= 255 and not deep
            most = 255 if few else min(most, 65535)
        if deep and most == 65535 and array.size:
            # What a camera or scanner gives has 10, 12 or 14 bits in the room of 16.
            fits = (each for each in (1023, 4095, 16383) if array.max() <= each)
            most = next(fits, most)
        if array.size and (array.min() < 0 or array.max() > most):
            raise UserError(f"{name} has pixels outside 0…{most}")
        array = array.astype(np.float32) / most
    elif np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float32)
        low, high = float(np.nanmin(array, initial=0)), float(np.nanmax(array, initial=0))
        if deep and 1 < high <= 65535:
            most = 255 if high <= 255 else 65535
            array, low, high = array / most, low / most, high / most
        if low < -1e-3 or high > 1 + 1e-3:
            raise UserError(
                f"{name} has floating-point pixels from {low:g} to {high:g}; they must lie in [0, 1]"
            )
    else:
        raise UserError(f"{name} has pixels of type {array.dtype}; use integers or floats")
    return array


def _grey_of(array: np.ndarray) -> Tensor:
    """Brightness of an array with channels, on white."""
    grey = torch.from_numpy(array)
    if grey.ndim == 2:
        return grey
    if grey.shape[-1] in (2, 4):
        colours, alpha = grey[..., :-1], grey[..., -1:]
        grey = _on_paper(lambda paper: colours * alpha + paper * (1 - alpha))
    if grey.shape[-1] == 3:
        # ITU-R 601 luma, as in PIL.
        return grey @ torch.tensor([0.299, 0.587, 0.114])
    return grey[..., 0]
