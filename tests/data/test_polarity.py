"""Arrays of one's own: which of ink and paper is bright, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dood_pyro import data
from dood_pyro.errors import UserError
from tests.conftest import random_pictures
from tests.test_cli import Out, refused


def saved(path: Path, **changes: Any) -> Path:
    """A source of 20 + 8 pictures with bright ink, changed."""
    arrays: dict[str, Any] = {}
    for part, count in (("train", 20), ("test", 8)):
        pictures = (random_pictures(count, 20, seed=count) * 255).byte().numpy()
        pictures[:, 5:8, 5:8] = 255  # none is blank
        arrays[f"{part}_images"] = pictures
        arrays[f"{part}_labels"] = np.arange(count) % 3
    np.savez_compressed(path, **(arrays | changes))
    return path


def test_dark_ink_is_read_as_its_negative(tmp_path: Path) -> None:
    bright = saved(tmp_path / "bright.npz")
    arrays = dict(np.load(bright))
    negatives = {name: 255 - a for name, a in arrays.items() if name.endswith("images")}
    dark = saved(tmp_path / "dark.npz", **negatives)
    for part in ("train", "test"):
        mine, theirs = (data.load(str(path), part, 20) for path in (bright, dark))
        assert np.array_equal(mine.images, theirs.images)
        assert mine.images.float().mean() < 100, "ink, of which there is less, is bright"
        assert mine.sha256 == theirs.sha256


def test_polarity_is_the_files_where_nearly_all_agree(tmp_path: Path) -> None:
    """Of both parts together: a small one does not contradict the other."""

    def read(train: np.ndarray, test: np.ndarray) -> list[np.ndarray]:
        path = saved(
            tmp_path / "x.npz",
            **{"train_images": train, "test_images": test},
            **{"train_labels": np.zeros(len(train), int), "test_labels": np.zeros(len(test), int)},
        )
        return [data.read(str(path), part)[0] for part in ("train", "test")]

    pictures = np.zeros((30, 9, 9), np.uint8)
    pictures[:, 4, 2:7] = 255
    pictures[0] = 255  # so thick a pen that it covers the border
    pictures[0, 0, 0] = 0
    for mine, theirs in zip(read(pictures, pictures[:4]), (pictures, pictures[:4]), strict=True):
        assert np.array_equal(mine, theirs)
    mixed = pictures.copy()
    mixed[::2] = 255 - mixed[::2]
    mixed[0] = pictures[1]
    found, _ = read(mixed, mixed[1:5])
    assert np.array_equal(found[1:], pictures[1:]), "of both kinds: each by its own border"


@pytest.mark.parametrize("shade", [0, 255, 90])
@pytest.mark.parametrize("part", ["train", "test"])
def test_blank_parts_are_refused(tmp_path: Path, shade: int, part: str, capsys: Out) -> None:
    path = saved(tmp_path / "x.npz")
    blank = np.full_like(np.load(path)[f"{part}_images"], shade)
    saved(path, **{f"{part}_images": blank})
    said = refused(capsys, "train", "--source", path, "--steps", 2, "--out", tmp_path / "run")
    assert "blank" in said and f"{part}_images" in said and not (tmp_path / "run").exists()


def test_test_pictures_of_another_size_are_refused(tmp_path: Path, capsys: Out) -> None:
    other = np.random.default_rng(0).integers(0, 256, (8, 12, 14), dtype=np.uint8)
    path = saved(tmp_path / "x.npz", test_images=other)
    said = refused(capsys, "train", "--source", path, "--steps", 2, "--out", tmp_path / "run")
    assert "12×14" in said and "20×20" in said


def test_built_in_sources_stay_as_they_are(tmp_path: Path) -> None:
    """What the package prepared has bright ink, however much of it."""
    white = np.full((20, 20, 20), 250, np.uint8)
    white[:, 10, 10] = 0
    saved(tmp_path / "mnist.npz", train_images=white)
    assert data.load("mnist", "train", 20, tmp_path).images.float().mean() > 200
    with pytest.raises(UserError, match="no source"):
        data.load(str(tmp_path / "nothing.npz"), "train", 20)
