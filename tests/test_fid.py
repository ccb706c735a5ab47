"""Fréchet distances: known cases, and what samples are measured beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dood_pyro import features, training
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.recognition import Recognizer
from dood_pyro.runs.budget import TrainingBudget
from dood_pyro.runs.build import build, build_model
from dood_pyro.runs.run import Run
from dood_pyro.tasks import fid
from dood_pyro.tokens import TokenNoise, strokes_from_parse
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
        capsys, "fid", tmp_path / "pens.npz", tmp_path / "pens.npz", "--features", out
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


def test_canvases_of_other_sizes_are_compared_at_the_networks_size(source_50: Path) -> None:
    torch.manual_seed(0)
    config = RunConfig("dood", ModelConfig(features=8, canvas_size=32), TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    assert fid.samples(dood.model, 3, seed=0).shape == (3, 50, 50)
    assert fid.shuffled_strokes(dood.model, 3, seed=0).shape == (3, 50, 50)


def test_command_says_what_was_measured(
    source_50: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig("dood", ModelConfig(features=8), TrainConfig(str(source_50), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=1), torch.device("cpu"))
    training.resume(run, torch.device("cpu"), tensorboard=False)
    network, figures = tmp_path / "network.safetensors", tmp_path / "fid.json"
    features.save_features(features.FeatureNetwork(), network)
    options = ("--features", network, "--seeds", "0", "--record", figures)
    status, _, err = call(capsys, "fid-samples", run.path, "--air", run.path, *options)
    assert status == 0, err
    (key,) = json.loads(figures.read_text())
    assert key == "many, features network, seeds 0"
    entry = json.loads(figures.read_text())[key]
    assert entry["pictures"] == 80 and entry["run"] == entry["air_run"]
    assert entry["run"]["source"] == "many" and entry["run"]["steps"] == 1
    refused(capsys, "fid-samples", run.path, *options, "--seeds", 2**32)


def test_samples_are_measured_beside_real_pictures(source_50: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(features=8, max_strokes=2, layout_components=2, stroke_components=2)
    models = []
    for name in ("dood", "air"):
        models.append(build_model(RunConfig(name, config, TrainConfig("none"))))
    found = fid.report(models[0], models[1], str(source_50), Pixels(), count=500, seeds=(0, 1))
    assert found["pictures"] == 80
    assert found["ratio"] == pytest.approx(found["samples"] / found["real"])
    assert {"real", "samples", "halves", "air", "shuffled", "real_std"} < set(found)
    # This source's training pictures are its test pictures.
    assert max(found["real"], found["halves"]) < found["samples"]


def test_shuffling_strokes_keeps_their_number() -> None:
    torch.manual_seed(0)
    config = RunConfig("dood", ModelConfig(features=8, max_strokes=3), TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    mixed = fid.shuffled_strokes(dood.model, 60, seed=0)
    plain = fid.samples(dood.model, 60, seed=0)
    assert mixed.shape == plain.shape
    blank = [int((pictures.amax((-1, -2)) < 1e-6).sum()) for pictures in (mixed, plain)]
    # A stroke beside the canvas leaves its picture blank, and another one once it is exchanged.
    assert blank[1] > 10 and abs(blank[0] - blank[1]) <= 3
    assert not torch.equal(mixed, plain)


@pytest.fixture
def source_50(tmp_path: Path) -> Path:
    """A source of 160 test pictures."""
    from dood_pyro.data import prepared

    images = (random_pictures(160, 50) * 255).byte().numpy()
    labels = torch.zeros(160, dtype=torch.int64).numpy()
    arrays = {"train_images": images, "train_labels": labels}
    arrays |= {"test_images": images, "test_labels": labels}
    prepared.write(tmp_path / "many.npz", arrays)
    return tmp_path / "many.npz"


def test_memorisers_copy_what_they_have_seen(source_50: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(features=8, max_strokes=2, layout_components=2, stroke_components=2)
    run_config = RunConfig("dood", config, TrainConfig("none"))
    dood = Recognizer(*build(run_config), run_config)
    pictures = fid.pictures_of(str(source_50), "train")[:20]
    moved = fid.affinely_moved(pictures, TokenNoise(), seed=0)
    assert torch.equal(moved, fid.affinely_moved(pictures, TokenNoise(), seed=0))
    assert not torch.equal(moved, fid.affinely_moved(pictures, TokenNoise(), seed=1))
    still = fid.affinely_moved(pictures, TokenNoise(0, 0, 0, 0, 0, 0), seed=0)
    torch.testing.assert_close(still, pictures, atol=1e-4, rtol=0)
    # Small: the same pictures, nearer to themselves than to any other.
    apart = torch.cdist(moved.flatten(1), pictures.flatten(1))
    assert (apart.argmin(1) == torch.arange(20)).float().mean() > 0.7
    parsed = strokes_from_parse(dood.infer(pictures))
    plain = fid.rewritten(dood, pictures, TokenNoise(0, 0, 0, 0, 0, 0), seed=0)
    torch.testing.assert_close(plain, parsed.render(50), atol=1e-4, rtol=0)
    found = fid.memorisers(dood, str(source_50), Pixels(), count=500, seeds=(0, 1))
    assert found["pictures"] == 80
    for name in ("affine", "tokens"):
        assert found[f"{name}_ratio"] == pytest.approx(found[name] / found["real"])
        assert found[f"{name}_std"] >= 0


def test_memorisers_stand_beside_the_samples(
    source_50: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = TrainConfig(str(source_50), batch_size=8)
    run = Run.create(
        tmp_path / "run",
        RunConfig("dood", ModelConfig(features=8), settings),
        TrainingBudget(steps=1),
        torch.device("cpu"),
    )
    training.resume(run, torch.device("cpu"), tensorboard=False)
    network, figures = tmp_path / "network.safetensors", tmp_path / "fid.json"
    features.save_features(features.FeatureNetwork(), network)
    figures.write_text('{"memorisers": {"other": 1}, "many": 2}')
    options = ("--features", network, "--seeds", "0", "--record", figures)
    status, _, err = call(capsys, "fid-memorisers", run.path, *options)
    assert status == 0, err
    found = json.loads(figures.read_text())
    assert found["many"] == 2 and found["memorisers"]["other"] == 1
    entry = found["memorisers"]["many, features network, seeds 0"]
    assert {"affine", "tokens", "real", "affine_ratio", "tokens_ratio"} < set(entry)
