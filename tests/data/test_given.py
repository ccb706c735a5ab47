"""Pictures as people have them: every form gives the same source, and what is none is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dood_pyro
from dood_pyro import data
from dood_pyro.data import prepared
from dood_pyro.errors import UserError
from tests.conftest import random_pictures


@pytest.fixture
def pictures() -> np.ndarray:
    """Forty pictures of bytes, ink bright."""
    return (random_pictures(40, 24) * 255).round().byte().numpy()


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a source, in an order of their own, and their labels."""
    parts = [data.read(str(path), part)[:2] for part in ("train", "test")]
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort(images.reshape(len(images), -1).T)
    return images[order], labels[order]


def test_every_form_of_an_array_is_the_same_source(tmp_path: Path, pictures: np.ndarray) -> None:
    labels = np.arange(40) % 3
    floats = pictures / 255
    forms: dict[str, Any] = {
        "bytes": pictures,
        "floats": floats,
        "single": floats.astype(np.float32),
        "to255": pictures.astype(float),
        "first": floats[:, None],
        "last": pictures[..., None],
        "colour": np.repeat(pictures[:, None], 3, axis=1),
        "colour-last": np.repeat(floats[..., None], 3, axis=-1),
        "tensor": torch.from_numpy(pictures)[:, None],
        "deep": pictures.astype(np.uint16) * 257,
        "deep-colour": np.repeat(pictures[..., None].astype(np.uint16) * 257, 3, -1),
        "half": torch.from_numpy(floats).to(torch.bfloat16),
        "opaque": np.concatenate(
            [np.repeat(pictures[..., None], 3, -1), np.full((40, 24, 24, 1), 255, np.uint8)], -1
        ),
        "list": [Image.fromarray(each) for each in pictures],
    }
    reference = None
    for name, form in forms.items():
        found = read(dood_pyro.make_source(tmp_path / f"{name}.npz", form, labels))
        reference = reference or found
        assert np.abs(found[0].astype(int) - reference[0]).max() <= (2 if name == "half" else 1), (
            name
        )
        assert np.array_equal(found[1], reference[1]) or name in ("list", "opaque", "half"), name
        assert sorted(found[1]) == sorted(labels), name


def test_parts_and_names_of_labels(tmp_path: Path, pictures: np.ndarray) -> None:
    names = ["ba", "aa", "ca", "aa"] * 10
    path = dood_pyro.make_source(
        tmp_path / "two.npz", pictures[:30], names[:30], pictures[30:], names[30:]
    )
    arrays = prepared.read(path)
    assert arrays["label_names"].tolist() == ["aa", "ba", "ca"]
    assert arrays["train_labels"].tolist()[:4] == [1, 0, 2, 0]
    assert arrays["test_labels"].tolist()[:2] == [2, 0]
    assert len(arrays["train_images"]) == 30
    alone = prepared.read(dood_pyro.make_source(tmp_path / "one.npz", pictures))
    assert len(alone["test_images"]) == 4 and not alone["train_labels"].any()


def test_datasets_of_pairs_and_of_columns(tmp_path: Path, pictures: np.ndarray) -> None:
    class Pairs:  # as torchvision's
        classes = ("zero", "one")

        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index >= len(pictures):
                raise IndexError
            return Image.fromarray(pictures[index]), index % 2

    class Names:
        names = ("zero", "one")

    class Columns:  # as Hugging Face's
        column_names = ("image", "label")
        features = {"label": Names()}  # noqa: RUF012

        def __getitem__(self, column: str) -> list[Any]:
            if column == "image":
                return [Image.fromarray(each) for each in pictures]
            return [index % 2 for index in range(len(pictures))]

    found = [
        prepared.read(dood_pyro.make_source(tmp_path / f"{type(each).__name__}.npz", each))
        for each in (Pairs(), Columns())
    ]
    for name in found[0]:
        assert np.array_equal(found[0][name], found[1][name]), name
    assert found[0]["label_names"].tolist() == ["zero", "one"]


def test_torchvision_s_own_datasets_are_taken(tmp_path: Path) -> None:
    from torchvision.datasets import FakeData

    path = dood_pyro.make_source(tmp_path / "fake.npz", FakeData(12, (3, 20, 20), 4))
    assert sum(len(data.read(str(path), part)[0]) for part in ("train", "test")) == 12


def test_files_of_other_forms_are_read(tmp_path: Path, pictures: np.ndarray) -> None:
    arrays = {
        "train_images": pictures[:30, None] / 255,
        "test_images": pictures[30:, None] / 255,
        "train_labels": np.array(["b", "a"] * 15),
        "test_labels": np.array(["a"] * 10),
    }
    np.savez(tmp_path / "floats.npz", **arrays)
    images, labels, _ = data.read(str(tmp_path / "floats.npz"), "train")
    assert np.array_equal(images, pictures[:30]) and labels.tolist()[:2] == [1, 0]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((3, 4)), None, "shape"),
        (np.zeros((3, 5, 5, 7)), None, "channels"),
        (np.full((3, 5, 5), np.nan), None, "finite"),
        (np.full((3, 5, 5), -1.0), None, "run from -1"),
        (np.full((3, 5, 5), 1e6), None, "run from 1e"),
        (np.full((3, 5, 5, 3), -5), None, "run from -5"),
        (np.linspace(0, 16, 75).reshape(3, 5, 5), None, "run from 0 to 16"),
        (np.zeros((3, 5, 5), np.uint8), 3, "one for each picture"),
        (np.zeros((3, 5, 5), complex), None, "numbers"),
        (np.zeros((0, 5, 5)), None, "numbers|empty"),
        (np.zeros((3, 5, 5), np.uint8), [1, 2], "3 train pictures and 2 labels"),
        (np.zeros((3, 5, 5), np.uint8), [0.5, 1.0, 2.0], "whole numbers"),
        ("picture", None, "no pictures"),
        ([], None, "no pictures"),
        (7, None, "no pictures"),
    ],
)
def test_what_is_none_is_said(tmp_path: Path, images: Any, labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        dood_pyro.make_source(tmp_path / "x.npz", images, labels)
    assert not list(tmp_path.glob("*.npz"))


def test_labels_of_no_pictures_are_refused(tmp_path: Path, pictures: np.ndarray) -> None:
    with pytest.raises(UserError, match="test_labels"):
        dood_pyro.make_source(tmp_path / "x.npz", pictures, test_labels=[1] * len(pictures))
    assert not (tmp_path / "x.npz").exists()


def test_nothing_is_overwritten(tmp_path: Path, pictures: np.ndarray) -> None:
    dood_pyro.make_source(tmp_path / "x.npz", pictures)
    with pytest.raises(UserError, match="there already"):
        dood_pyro.make_source(tmp_path / "x.npz", pictures)
    with pytest.raises(UserError, match="npz"):
        dood_pyro.make_source(tmp_path / "x.png", pictures)


def test_bad_files_of_a_folder_are_left_out_when_asked(
    tmp_path: Path, pictures: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for index, each in enumerate(pictures[:6]):
        Image.fromarray(each).save(folder / f"{index}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(UserError, match=r"broken\.png.*--skip-bad"):
        data.locate(str(folder))
    path = data.locate(str(folder), skip_bad=True)
    said = capsys.readouterr().err
    assert "left out" in said and "broken.png" in said
    assert data.locate(str(folder)) == path  # from now on
    assert len(data.read(str(folder), "train")[0]) == 5


def test_masks_are_taken_as_they_are(tmp_path: Path, pictures: np.ndarray) -> None:
    masks = pictures > 127
    forms = {
        "bools": masks,
        "ints": masks.astype(int),
        "colour": np.repeat(masks[..., None], 3, -1),
    }
    for name, form in forms.items():
        images, _ = read(dood_pyro.make_source(tmp_path / f"{name}.npz", form))
        assert set(np.unique(images)) == {0, 255}, name
