"""Fréchet distances: known cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dood_pyro import features
from dood_pyro.errors import UserError
from dood_pyro.tasks import fid
from tests.conftest import random_pictures
from tests.test_cli import call, refused


class Pixels(features.FeatureNetwork):
    """Features that are the first 64 pixels of a picture: their moments are known."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.reshape(len(pictures), -1)[:, : self.num_features]


def test_distance_of_gaussians_is_the_formula() -> None:
    """Of N(0, 1) and N(m, s²) in each dimension: m² + (1 − s)²."""
    torch.manual_seed(0)
    noise = torch.randn(2, 20_000, 50, 50)[..., :2, :].repeat(1, 1, 25, 1)
    found = fid.frechet(Pixels(), noise[0], 0.3 + 1.5 * noise[1])
    assert found == pytest.approx(64 * (0.3**2 + 0.5**2), rel=0.05)
    assert fid.frechet(Pixels(), noise[0], noise[1]) < 0.4


def test_too_few_pictures_are_refused() -> None:
    with pytest.raises(UserError, match="65 pictures"):
        fid.frechet(Pixels(), torch.rand(100, 50, 50), torch.rand(64, 50, 50))


def test_features_learn_classes_and_survive_the_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dood_pyro.data import prepared

    thin, thick = (random_pictures(80, 50, seed=1, sigma=s) for s in (0.04, 0.25))
    images = (torch.cat([thin, thick]) * 255).byte().numpy()
    labels = torch.arange(2).repeat_interleave(80).numpy()
    arrays = {"train_images": images, "train_labels": labels}
    arrays |= {"test_images": images, "test_labels": labels}
    prepared.write(tmp_path / "pens.npz", arrays)
    out = tmp_path / "pens.safetensors"
    source = ("--source", tmp_path / "pens.npz", "--steps", 64)
    status, text, err = call(capsys, "train-features", *source, "--out", out)
    assert status == 0 and out.exists(), err
    assert float(text.split("knows ")[1].split(" %")[0]) > 80
    network = features.load_features(out)
    assert fid.frechet(network, thin, thick) > 5 * fid.frechet(network, thin, thin.flip(-1))
    status, text, _ = call(
        capsys, "fid", tmp_path / "pens.npz", tmp_path / "pens.npz", "--features", out, "--json"
    )
    assert status == 0 and json.loads(text)["fid"] == pytest.approx(0.0, abs=1e-3)
    refused(capsys, "fid", tmp_path / "pens.npz", tmp_path / "pens.npz", "--features", "nothing")
    out.write_bytes(out.read_bytes()[:50])
    refused(capsys, "fid", tmp_path / "pens.npz", tmp_path / "pens.npz", "--features", out)


def test_all_pictures_of_a_folder_are_taken(tmp_path: Path) -> None:
    from PIL import Image

    pictures = (random_pictures(70, 50) * 255).byte().numpy()
    pictures[0] = 0  # a sample may be blank
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{index:03d}.png")
    found = fid.folder_or_source(str(tmp_path), "test")
    assert found.shape == (70, 50, 50)
    # 50 pixels stay 50 pixels: nothing is resampled.
    assert torch.equal(
        found.sum((-1, -2)).sort().values,
        (torch.from_numpy(pictures) / 255.0).sum((-1, -2)).sort().values,
    )
