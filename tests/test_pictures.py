"""Pictures of any of the usual forms, and those that are none."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dood_pyro import pictures
from dood_pyro.errors import UserError
from dood_pyro.pictures import read_picture, resize


def stroke(dtype: Any = np.uint8, most: float = 255) -> np.ndarray:
    """Bright ink on black, 20 high and 12 wide."""
    array = np.zeros((20, 12), dtype)
    array[8:11, 2:10] = most
    return array


EXPECTED = torch.nn.functional.pad(torch.from_numpy(stroke(np.float32, 1.0)), (4, 4))


@pytest.mark.parametrize(
    "picture",
    [
        stroke(),
        stroke(np.uint16, 65535),
        stroke(np.float64, 1.0),
        stroke() > 0,
        torch.from_numpy(stroke()),
        stroke(np.int64),
        stroke(np.int16),
        torch.from_numpy(stroke(np.float32, 1.0)).bfloat16(),
        torch.from_numpy(stroke(np.float32, 1.0))[None].repeat(3, 1, 1),
        np.repeat(stroke()[..., None], 3, -1),
        stroke()[None],
        Image.fromarray(stroke()),
        Image.fromarray(stroke()).convert("RGB"),
        Image.fromarray(stroke()).convert("1"),
        Image.fromarray(stroke()).convert("P"),
        Image.fromarray(stroke(np.uint16, 65535)),
        Image.fromarray(stroke(np.float32, 1.0)),
    ],
    ids=lambda p: f"{type(p).__name__} {p.mode if isinstance(p, Image.Image) else p.dtype}",
)
@pytest.mark.parametrize("inverted", [False, True])
def test_every_form_and_polarity_gives_the_same_square(picture: Any, inverted: bool) -> None:
    if inverted:
        if isinstance(picture, Image.Image):
            if picture.mode in ("F", "I;16", "P", "1"):
                pytest.skip("PIL does not invert this mode")
            picture = Image.eval(picture, lambda value: 255 - value)
        elif picture.dtype in (np.dtype(bool), torch.bool):
            picture = ~picture
        else:
            integral = picture.dtype in (np.uint8, np.int16, np.int64, torch.uint8)
            most = 255 if integral else 65535 if picture.dtype == np.uint16 else 1
            picture = most - picture
    square = read_picture(picture)
    assert square.shape == (20, 20)
    torch.testing.assert_close(square, EXPECTED, atol=2e-3, rtol=0)


def test_transparent_paper_is_white(tmp_path: Path) -> None:
    rgba = np.zeros((20, 12, 4), np.uint8)
    rgba[8:11, 2:10, 3] = 255  # black ink, transparent elsewhere
    Image.fromarray(rgba).save(tmp_path / "x.png")
    for picture in (tmp_path / "x.png", str(tmp_path / "x.png"), rgba, Image.fromarray(rgba)):
        torch.testing.assert_close(read_picture(picture), EXPECTED, atol=2e-3, rtol=0)


def test_grey_with_alpha_as_an_array() -> None:
    image = Image.merge("LA", (Image.new("L", (12, 20)), Image.fromarray(stroke())))
    for picture in (image, np.asarray(image)):  # black ink, transparent elsewhere
        torch.testing.assert_close(read_picture(picture), EXPECTED, atol=2e-3, rtol=0)


def test_white_ink_on_nothing() -> None:
    ink = Image.fromarray(stroke())
    rgba = Image.merge("RGBA", (Image.new("L", (12, 20), 255),) * 3 + (ink,))
    for picture in (rgba, np.asarray(rgba)):
        torch.testing.assert_close(read_picture(picture), EXPECTED, atol=2e-3, rtol=0)
    with pytest.raises(UserError, match="blank"):
        read_picture(np.full((20, 12, 4), 255, np.uint8))


def test_files_are_turned_as_viewers_turn_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter of a turn clockwise
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(stroke())))
    lying.save(tmp_path / "x.png", exif=exif)
    torch.testing.assert_close(read_picture(tmp_path / "x.png"), EXPECTED, atol=2e-3, rtol=0)


def test_a_picture_that_turns_out_cut_short_when_it_is_looked_at(tmp_path: Path) -> None:
    Image.effect_noise((90, 90), 50).save(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes((tmp_path / "x.png").read_bytes()[:2000])
    with Image.open(tmp_path / "y.png") as image, pytest.raises(UserError, match="cannot be read"):
        read_picture(image)


def test_16_bit_files(tmp_path: Path) -> None:
    Image.fromarray(stroke(np.uint16, 65535)).save(tmp_path / "x.png")
    torch.testing.assert_close(read_picture(tmp_path / "x.png"), EXPECTED, atol=2e-3, rtol=0)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_16_bit_files_of_fewer(bits: int, tmp_path: Path) -> None:
    Image.fromarray(stroke(np.uint16, 2**bits - 1)).save(tmp_path / "x.tif")
    torch.testing.assert_close(read_picture(tmp_path / "x.tif"), EXPECTED, atol=2e-3, rtol=0)


def test_polarity_can_be_said(tmp_path: Path) -> None:
    bright = stroke()
    assert read_picture(bright, "dark-ink").mean() > 0.5
    assert read_picture(255 - bright, "bright-ink").mean() > 0.5
    with pytest.raises(UserError, match="polarity"):
        read_picture(bright, "inverted")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((20, 20), np.uint8), "blank"),
        (np.full((20, 20), 255, np.uint8), "blank"),
        (np.zeros((1, 20), np.uint8), "20×1 pixels"),
        (np.zeros((20, 1), np.uint8), "1×20 pixels"),
        (np.zeros((0, 0), np.uint8), "0×0 pixels"),
        (np.eye(4, 9000), "scale it to"),
        (np.eye(9, dtype=np.int64) * -3, "outside"),
        (np.zeros((5, 5, 5), np.uint8), "has shape"),
        (np.eye(20, dtype=np.uint8), "blank: its pixels run from 0 to 0.00392"),
        (torch.eye(20).to_sparse(), "plain tensor"),
        (Image.fromarray(np.eye(20, dtype=np.float32) * 1e6), "1e\\+06"),
        (np.zeros(5), "has shape"),
        (np.full((9, 9), np.nan), "not finite"),
        (np.eye(9) * 300.0, "must lie in"),
        (np.array([["a"]]), "pixels of type"),
        (object(), "cannot read a picture"),
        ("nowhere.png", "there is no picture"),
        (Path("/"), "is a folder"),
    ],
)
def test_what_is_no_drawing_is_refused(picture: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_picture(picture)


def test_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90)).astype(np.uint8)).save(path)
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:30], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.png"):
            read_picture(path)


def test_bytes_and_open_files(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(stroke()).save(path)
    expected, content = read_picture(path), path.read_bytes()
    with open(path, "rb") as file, tempfile.SpooledTemporaryFile() as sent:
        sent.write(content)
        sent.seek(0)
        for given in (content, bytearray(content), io.BytesIO(content), file, sent):
            assert torch.equal(read_picture(given), expected)
    for wrong in (b"", b"hello", content[:60], io.StringIO("hello")):
        with pytest.raises(UserError, match=r"^the picture .*(read|damaged)"):
            read_picture(wrong)


def test_huge_pictures_are_refused_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    Image.fromarray(stroke()).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="scale it down"):
        read_picture(tmp_path / "x.png")


def test_resize_keeps_the_mean() -> None:
    torch.manual_seed(0)
    fine = torch.rand(3, 100, 100)
    small = resize(fine, 50)
    assert small.shape == (3, 50, 50)
    torch.testing.assert_close(small.mean((1, 2)), fine.mean((1, 2)), atol=2e-3, rtol=0)
