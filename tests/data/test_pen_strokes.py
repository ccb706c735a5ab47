"""True pen strokes as their files hold them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from dood_pyro.data.pen_strokes import OMNIGLOT, fit_to_square, load_pen_drawings
from dood_pyro.errors import UserError


def test_arrays_of_points_are_taken_apart(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "strokes_quickdraw.npz",
        points=np.arange(20).reshape(10, 2),
        stroke_lengths=[3, 2, 5],
        drawing_lengths=[2, 1],
        labels=[1, 0],
        label_names=["cat", "house"],
    )
    first, second = load_pen_drawings("quickdraw", tmp_path)
    assert [len(stroke) for stroke in first.strokes] == [3, 2] and first.group == "house"
    assert second.group == "cat" and second.strokes[0].tolist()[0] == [10, 11]


def test_files_of_points_are_read(tmp_path: Path) -> None:
    for name in OMNIGLOT:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            text = "START\n1.0,-2.0,0\n3.0,-4.0,5\nBREAK\n5.0,-6.0,9\nBREAK\n"
            archive.writestr("set/Greek/character01/0001_01.txt", text)
            archive.writestr("__MACOSX/set/Greek/character01/._0001_01.txt", "junk")
    first, _ = load_pen_drawings("omniglot", tmp_path)
    assert [stroke.tolist() for stroke in first.strokes] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert first.group == "set/Greek/character01"


def test_missing_strokes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks strokes_kanjivg\.npz"):
        load_pen_drawings("kanjivg", tmp_path)
    with pytest.raises(UserError, match="no pen strokes 'runes'"):
        load_pen_drawings("runes", tmp_path)


def test_fitting_keeps_the_aspect() -> None:
    wide = [np.array([[0.0, 0], [40, 0]]), np.array([[10.0, -5], [10, 5]])]
    fitted = np.concatenate(fit_to_square(wide, 256, 0.1))
    assert np.allclose(fitted.min(0), [25.6, 128 - 25.6]), fitted
    assert np.allclose(fitted.max(0), [230.4, 128 + 25.6])
