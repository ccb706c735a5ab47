"""Sources: prepared files whole, cut short and damaged; folders of pictures; the public originals."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dood_pyro import data
from dood_pyro.data import original, prepared, quickdraw
from dood_pyro.errors import UserError


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_load_resizes_and_shuffles(source: Path) -> None:
    dataset = data.load(str(source), "train", 50)
    assert dataset.images.shape == (60, 50, 50)
    assert dataset.images.dtype.itemsize == 1
    assert dataset.images.max() > 200
    few = dataset.shuffled(7)
    assert few.shape == (7, 50, 50)
    assert (dataset.shuffled(7) == few).all()
    batch = dataset.batch(7)
    assert batch.native_size == dataset.native_size == 20
    assert torch.equal(batch.pixels, few.float() / 255)


@pytest.mark.parametrize("keep", [0, 10, 200, 0.5, 0.95])
def test_a_file_cut_short_is_refused(source: Path, keep: float) -> None:
    content = source.read_bytes()
    source.write_bytes(content[: int(keep if keep > 1 or keep == 0 else keep * len(content))])
    with pytest.raises(UserError, match="damaged or not an"):
        data.load(str(source), "train", 20)


def test_a_flipped_byte_is_found(source: Path) -> None:
    content = bytearray(source.read_bytes())
    content[len(content) // 3] ^= 0xFF
    source.write_bytes(bytes(content))
    with pytest.raises(UserError, match="damaged"):
        data.load(str(source), "train", 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((3, 8, 8), complex)}, "must be numbers"),
        ({"train_images": np.zeros((3, 8), np.uint8)}, "the shape is"),
        ({"train_images": np.zeros((0, 8, 8), np.uint8)}, "not empty"),
        ({"train_images": np.zeros((3, 1, 8), np.uint8)}, "1×8 pixels"),
        ({"train_labels": np.zeros(2, np.int64)}, "one integer an image"),
    ],
)
def test_another_layout_is_refused(source: Path, change: dict[str, Any], message: str) -> None:
    arrays = prepared.read(source) | change
    np.savez(source, **arrays)
    with pytest.raises(UserError, match=message):
        data.load(str(source), "train", 20)


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(UserError, match="lacks"):
        data.load(str(tmp_path / "x.npz"), "train", 20)


def test_pickles_are_not_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged"):
        data.load(str(tmp_path / "x.npz"), "train", 20)


def test_unknown_source() -> None:
    with pytest.raises(UserError, match="neither one of mnist"):
        data.locate("minst")


def test_a_source_without_a_name_is_not_the_working_folder() -> None:
    with pytest.raises(UserError, match="no name"):
        data.load("", "train", 50)


def test_the_working_folder_is_called_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "signs" / "inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "signs")
    assert data.name_of(".") == data.name_of("inner/..") == "signs"
    assert data.name_of("..") == tmp_path.name
    assert data.name_of("elsewhere/marks.npz") == "marks"


def test_no_network_is_one_clear_error(tmp_path: Path, no_network: None) -> None:
    for name in ("mnist", "quickdraw"):
        with pytest.raises(UserError, match=f"cannot download {name}"):
            data.locate(name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_digits_are_real_and_prepared_once(tmp_path: Path) -> None:
    path = data.locate("digits", tmp_path)
    assert path == tmp_path / "digits.npz"
    stamp = path.stat().st_mtime_ns
    arrays = prepared.read(path)
    assert arrays["train_images"].shape == (1437, 8, 8) and len(arrays["test_images"]) == 360
    assert set(arrays["test_labels"]) == set(range(10))
    assert data.locate("digits", tmp_path).stat().st_mtime_ns == stamp


def test_a_folder_marked_read_only_is_left_alone(tmp_path: Path, own_cache: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    folder.chmod(0o555)
    path = data.locate("digits", folder)
    assert list(folder.iterdir()) == []
    assert own_cache in path.parents
    assert data.find("digits", folder) == path


def test_random_strokes_keep_their_true_strokes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dood_pyro.data import random_strokes
    from dood_pyro.rendering import canvas_from_ink, stroke_ink

    monkeypatch.setattr(random_strokes, "COUNTS", {"train": 30, "test": 10})
    arrays = random_strokes.prepare(tmp_path, tmp_path)
    prepared.check(arrays, "random-strokes")
    again = random_strokes.prepare(tmp_path, tmp_path)
    assert all((arrays[name] == again[name]).all() for name in arrays)
    strokes = int(arrays["test_strokes"][3])
    control = torch.from_numpy(arrays["test_control"][3, :strokes])
    sigma, darkness = (torch.tensor(arrays[f"test_{n}"][3]) for n in ("sigma", "darkness"))
    picture = canvas_from_ink(stroke_ink(control, sigma, darkness, 50).sum(0))
    assert np.abs(picture.numpy() * 255 - arrays["test_images"][3]).max() <= 0.51


def test_a_source_under_its_former_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    from dood_pyro.data import random_strokes

    monkeypatch.setattr(random_strokes, "COUNTS", {"train": 30, "test": 10})
    path = data.locate("doodles", tmp_path)
    assert path == data.locate("random-strokes", tmp_path) == tmp_path / "random-strokes.npz"
    assert data.load("doodles", "test", 50, tmp_path).images.shape == (10, 50, 50)


OWN_SOURCE = """
import numpy as np

def prepare(folder, scratch):
    images = np.zeros((12, 20, 20), np.uint8)
    images[:, 5:15, 8:12] = 200 + np.arange(12, dtype=np.uint8)[:, None, None]
    labels = np.arange(12) % 3
    return {f"{part}_{name}": array for part in ("train", "test")
            for name, array in (("images", images), ("labels", labels))}
"""


def test_a_source_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function, in a module of the working directory: called once, and again once it changes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_source.py").write_text(OWN_SOURCE)
    monkeypatch.delitem(sys.modules, "own_source", raising=False)
    try:
        dataset = data.load("own_source:prepare", "train", 20)
        assert dataset.images.shape == (12, 20, 20) and dataset.native_size == 20
        path = data.locate("own_source:prepare")
        assert data.locate("own_source:prepare") == path
        (tmp_path / "own_source.py").write_text(OWN_SOURCE.replace("200", "150"))
        assert data.locate("own_source:prepare") != path
        with pytest.raises(UserError, match="cannot load the source 'own_source:nothing'"):
            data.locate("own_source:nothing")
        with pytest.raises(UserError, match="cannot load the source 'nowhere:prepare'"):
            data.locate("nowhere:prepare")
    finally:
        sys.modules.pop("own_source", None)


@pytest.mark.parametrize("words", [["-c", None], ["-"]])
def test_a_source_that_was_typed_is_prepared_by_each_process(
    words: list[str | None], tmp_path: Path
) -> None:
    """It stands in no file by which another function of its name could be told from it."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    greatest = "from dood_pyro import data; print(data.read('__main__:prepare', 'train')[0].max())"
    for ink in (200, 150):
        program = f"{OWN_SOURCE.replace('200', str(ink))}\n{greatest}"
        done = subprocess.run(
            [sys.executable, *(word or program for word in words)],
            input=program,
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0 and done.stdout == f"{ink + 11}\n", done.stderr
    assert not list(tmp_path.rglob("*.npz"))


def test_writing_is_all_or_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = prepared.read(source)

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    folder = tmp_path / "out"
    with pytest.raises(UserError, match="No space left"):
        prepared.write(folder / "x.npz", arrays)
    assert list(folder.iterdir()) == []


def picture(path: Path, seed: int, mode: str = "L") -> None:
    generator = np.random.default_rng(seed)
    array = np.full((30, 24), 255, np.uint8)
    row = int(generator.integers(5, 20))
    array[row : row + 3, 4:20] = 10
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).convert(mode).save(path)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for index in range(10):
            picture(
                tmp_path / "pictures" / label / f"{index}.png", index, "RGBA" if index % 2 else "L"
            )
    dataset = data.load(str(tmp_path / "pictures"), "train", 50)
    assert dataset.images.shape == (18, 50, 50)
    assert set(dataset.labels.tolist()) == {0, 1}
    # Dark ink on white comes out bright on black, and a tall picture is padded, not squeezed.
    assert dataset.images[:, 0].float().mean() < 5 and dataset.images.float().mean() > 5
    first = data.locate(str(tmp_path / "pictures"))
    picture(tmp_path / "pictures" / "a" / "more.jpg", 99)
    assert data.locate(str(tmp_path / "pictures")) != first


@pytest.mark.parametrize("kind", ["text", "empty", "blank"])
def test_a_bad_picture_in_a_folder_is_named(tmp_path: Path, kind: str) -> None:
    for index in range(4):
        picture(tmp_path / f"{index}.png", index)
    bad = tmp_path / "bad.png"
    if kind == "blank":
        Image.new("L", (20, 20), 255).save(bad)
    else:
        bad.write_text("not a picture" if kind == "text" else "")
    with pytest.raises(UserError, match=r"bad\.png"):
        data.locate(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 0 pictures"):
        data.locate(str(tmp_path))


def idx(array: np.ndarray) -> bytes:
    """An array in the format of MNIST's originals."""
    header = struct.pack(">BBBB", 0, 0, 8, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return gzip.compress(header + array.tobytes())


def test_torchvision_reads_originals_that_lie_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    """As torchvision lays them out, checksums and all; nothing is written beside them."""
    import hashlib

    mnist = original.torchvision_datasets().MNIST
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    resources = []
    for name, _ in mnist.resources:
        count = 12 if name.startswith("train") else 5
        shape = (count, 28, 28) if "images" in name else (count,)
        content = idx(generator.integers(0, 10, shape).astype(np.uint8))
        (raw / name).write_bytes(content)
        resources.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(mnist, "resources", resources)
    arrays = prepared.read(data.locate("mnist", tmp_path))
    assert arrays["train_images"].shape == (12, 28, 28) and len(arrays["test_labels"]) == 5
    assert sorted(path.name for path in raw.iterdir()) == sorted(name for name, _ in resources)


@pytest.mark.slow
@pytest.mark.skipif("DOOD_DATA" not in os.environ, reason="needs MNIST's originals in DOOD_DATA")
def test_mnist_from_its_originals_equals_the_prepared_file(tmp_path: Path) -> None:
    folder = Path(os.environ["DOOD_DATA"])
    if not (folder / "MNIST" / "raw").is_dir() or not (folder / "mnist.npz").is_file():
        pytest.skip("no originals there")
    (tmp_path / "MNIST").symlink_to(folder / "MNIST")
    ours, theirs = (
        prepared.read(data.locate("mnist", tmp_path)),
        prepared.read(folder / "mnist.npz"),
    )
    for name in ours:
        assert (ours[name] == theirs[name]).all()


def test_quickdraw_takes_the_first_rows_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickdraw, "CATEGORIES", {"alarm_clock": 10, "bee": 5})
    asked = []

    class Response(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and 0 < size <= 1 << 20, "read more than was wanted"
            return super().read(size)

    def serve(url: str, timeout: float) -> Response:
        asked.append(url)
        buffer = io.BytesIO()
        np.save(buffer, np.full((1000, 784), len(asked), np.uint8))
        return Response(buffer.getvalue())

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    arrays = prepared.read(data.locate("quickdraw", tmp_path))
    assert asked[0].endswith("/alarm%20clock.npy")
    assert arrays["train_images"].shape == (12, 28, 28)
    assert arrays["test_labels"].tolist() == [0, 0, 1]
    assert list(arrays["label_names"]) == ["alarm_clock", "bee"]


def test_a_download_that_ends_early_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((5000, 784), np.uint8))
    cut = buffer.getvalue()[:10_000]
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(cut))
    with pytest.raises(UserError, match="ended early"):
        data.locate("quickdraw", tmp_path)
    assert list(tmp_path.glob("*quickdraw*")) == []


def test_data_folder_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--data-dir names"):
        data.data_folder(tmp_path / "nowhere")
    monkeypatch.setenv("DOOD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="DOOD_DATA names"):
        data.data_folder()
