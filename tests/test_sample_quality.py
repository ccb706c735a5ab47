"""Measures of samples: known sets of pictures, what samples are measured beside, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dood_pyro import features, training
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.recognition import Recognizer
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks import sample_quality
from dood_pyro.tasks.sample_quality import MEASURES, SURE, Judge, recognised_shares
from dood_pyro.tokens import TokenNoise, strokes_from_parse
from tests.conftest import random_pictures
from tests.test_cli import call, refused
from tests.test_fid import Pixels


def judge_of(real: torch.Tensor, labels: torch.Tensor, count: int) -> Judge:
    """A judge by the first 64 pixels: the first ``count`` pictures are the reference, the next are the
    training pictures."""
    known = Pixels()(real)
    parts = {"train": known, "test": known}
    classifier, fit = features.fit_classifier("dots", parts, dict.fromkeys(parts, labels))
    reference, trained_on, rest = known[:count], known[count : 2 * count], known[2 * count :]
    shares = recognised_shares(classifier(fit.unseen))
    return Judge(Pixels(), classifier, reference, trained_on, rest, shares)


def dots(count: int, where: float = 0.0, width: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of two classes, whose first 64 pixels are Gaussian around two means."""
    labels = torch.arange(count) % 2
    pictures = torch.zeros(count, 50, 50)
    first = width * torch.randn(count, 64) + where
    first[:, 0] += 12.0 * labels
    pictures.view(count, -1)[:, :64] = first
    return pictures, labels


def test_measures_of_known_sets() -> None:
    torch.manual_seed(0)
    judge = judge_of(*dots(1500), count=500)
    alike = judge.judge(dots(500)[0])
    assert abs(alike["kernel"]) < 0.1 * judge.judge(dots(500, where=0.5)[0])["kernel"]
    assert alike["precision"] > 0.6 and alike["recall"] > 0.6
    assert alike["recognised"] > 0.99 and alike["least_class"] > 0.8
    assert alike["nearest"] == pytest.approx(1.0, abs=0.05) and alike["copies"] < 0.12
    copies = judge.judge(dots(500)[0] * 0 + _pictures_of(judge.training))
    assert copies["copies"] == 1 and copies["nearest"] == 0
    narrow = judge.judge(dots(500, width=0.3)[0])
    assert narrow["precision"] > 0.95 and narrow["recall"] < 0.3
    wide = judge.judge(dots(500, width=2.0)[0])
    assert wide["precision"] < 0.05 and wide["nearest"] > 1.5
    pictures, labels = dots(1000)
    one_class = judge.judge(pictures[labels == 0])
    assert one_class["least_class"] == 0 and one_class["recall"] < 0.6


def test_a_class_that_real_pictures_are_seldom_recognised_as_does_not_count() -> None:
    torch.manual_seed(0)
    pictures, labels = dots(1500)
    judge = judge_of(pictures, labels, count=500)
    one_class = pictures[labels == 0]
    for share, least in ((0.3, 0.0), (0.2, pytest.approx(1.0 / 0.8))):  # of two, USUAL is a quarter
        judge.shares = torch.tensor([1 - share, share]).double()
        assert judge.judge(one_class)["least_class"] == least
    judge.shares = torch.zeros(2).double()  # no real picture is recognised
    assert judge.judge(one_class)["least_class"] == 0


def test_shares_of_what_is_recognised() -> None:
    unsure = (1 + SURE) / 2 - 0.2
    probabilities = torch.tensor([[0.95, 0.05], [0.92, 0.08], [0.05, 0.95], [1 - unsure, unsure]])
    shares = recognised_shares(probabilities)
    torch.testing.assert_close(shares, torch.tensor([2, 1]).double() / 3)
    assert recognised_shares(probabilities[3:]).tolist() == [0, 0]


def _pictures_of(known: torch.Tensor) -> torch.Tensor:
    """Pictures with given first pixels."""
    pictures = torch.zeros(len(known), 50, 50)
    pictures.view(len(known), -1)[:, :64] = known
    return pictures


def test_a_classifier_says_when_it_has_not_learned() -> None:
    torch.manual_seed(0)
    noise, labels = torch.randn(2000, 64), torch.randint(4, (2000,))
    parts, known = {"train": noise, "test": noise}, {"train": labels, "test": labels}
    with pytest.raises(UserError, match="too few to judge samples by"):
        features.fit_classifier("noise", parts, known)
    with pytest.raises(UserError, match="two classes"):
        features.fit_classifier("noise", parts, dict.fromkeys(known, labels * 0))


def test_a_test_part_of_other_classes_is_not_taken_for_the_same() -> None:
    """Omniglot's test alphabets have the numbers of some training alphabets."""
    torch.manual_seed(0)
    pictures, labels = dots(2000)
    known = Pixels()(pictures)
    parts = {"train": known, "test": known}
    fit = features.fit_classifier("dots", parts, {"train": labels, "test": labels})[1]
    assert fit.of == "test pictures" and fit.accuracy > 0.99
    swapped = {"train": labels, "test": 1 - labels}
    fit = features.fit_classifier("dots", parts, swapped)[1]
    assert fit.of == "held-out training pictures" and fit.accuracy > 0.99


def test_canvases_of_other_sizes_are_compared_at_the_networks_size() -> None:
    torch.manual_seed(0)
    config = RunConfig("dood", ModelConfig(features=8, canvas_size=32), TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    assert sample_quality.samples(dood.model, 3, seed=0).shape == (3, 50, 50)
    assert sample_quality.shuffled_strokes(dood.model, 3, seed=0).shape == (3, 50, 50)


def test_shuffling_strokes_keeps_their_number() -> None:
    torch.manual_seed(0)
    config = RunConfig("dood", ModelConfig(features=8, max_strokes=3), TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    mixed = sample_quality.shuffled_strokes(dood.model, 60, seed=0)
    plain = sample_quality.samples(dood.model, 60, seed=0)
    assert mixed.shape == plain.shape
    blank = [int((pictures.amax((-1, -2)) < 1e-6).sum()) for pictures in (mixed, plain)]
    # A stroke beside the canvas leaves its picture blank, and another one once it is exchanged.
    assert blank[1] > 10 and abs(blank[0] - blank[1]) <= 3
    assert not torch.equal(mixed, plain)


def test_memorisers_copy_what_they_have_seen() -> None:
    torch.manual_seed(0)
    config = ModelConfig(features=8, max_strokes=2, layout_components=2, stroke_components=2)
    run_config = RunConfig("dood", config, TrainConfig("none"))
    dood = Recognizer(*build(run_config), run_config)
    pictures = random_pictures(20, 50)
    moved = sample_quality.affinely_moved(pictures, TokenNoise(), seed=0)
    assert torch.equal(moved, sample_quality.affinely_moved(pictures, TokenNoise(), seed=0))
    assert not torch.equal(moved, sample_quality.affinely_moved(pictures, TokenNoise(), seed=1))
    still = sample_quality.affinely_moved(pictures, TokenNoise(0, 0, 0, 0, 0, 0), seed=0)
    torch.testing.assert_close(still, pictures, atol=1e-4, rtol=0)
    # Small: the same pictures, nearer to themselves than to any other.
    apart = torch.cdist(moved.flatten(1), pictures.flatten(1))
    assert (apart.argmin(1) == torch.arange(20)).float().mean() > 0.7
    parsed = strokes_from_parse(dood.infer(pictures))
    plain = sample_quality.rewritten(dood, pictures, TokenNoise(0, 0, 0, 0, 0, 0), seed=0)
    torch.testing.assert_close(plain, parsed.render(50), atol=1e-4, rtol=0)


@pytest.fixture
def source_50(tmp_path: Path) -> Path:
    """A source of 160 test pictures of two kinds, whose first rows tell them apart."""
    from dood_pyro.data import prepared

    pictures = random_pictures(160, 50)
    labels = torch.arange(160) % 2
    pictures[labels == 1, :2, :8] = 1.0
    images = (pictures * 255).byte().numpy()
    arrays = {"train_images": images, "train_labels": labels.numpy()}
    arrays |= {"test_images": images, "test_labels": labels.numpy()}
    prepared.write(tmp_path / "many.npz", arrays)
    return tmp_path / "many.npz"


def test_samples_are_measured_beside_real_pictures(source_50: Path) -> None:
    torch.manual_seed(0)
    config = ModelConfig(features=8, max_strokes=2, layout_components=2, stroke_components=2)
    dood, air = (
        Recognizer(*build(each), each)
        for each in (RunConfig(name, config, TrainConfig("none")) for name in ("dood", "air"))
    )
    steps: list[tuple[float, int]] = []
    found = sample_quality.report(
        dood,
        air.model,
        str(source_50),
        Pixels(),
        count=500,
        seeds=(0, 1),
        progress=lambda *done: steps.append(done),
    )
    sets = found["sets"]
    names = ["samples", "other", "halves", "moved", "rewritten", "shuffled", "rival"]
    assert list(sets) == names and steps == [(1, 14)] * 14
    for measures in sets.values():
        assert set(measures) == {*MEASURES, *(f"{name}_std" for name in MEASURES)}
    assert found["pictures"] == 80 and found["classifier"]["accuracy"] > 0.9
    distance = sets["samples"]["frechet"]
    assert found["ratio"] == pytest.approx(distance / sets["other"]["frechet"])
    assert found["ratio_halves"] == pytest.approx(distance / sets["halves"]["frechet"])
    # This source's training pictures are its test pictures.
    assert max(sets["other"]["frechet"], sets["halves"]["frechet"]) < distance
    assert sets["other"]["nearest_std"] >= 0


def test_command_says_what_was_measured(
    source_50: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = RunConfig("dood", ModelConfig(features=8), TrainConfig(str(source_50), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=1), torch.device("cpu"))
    training.resume(run, torch.device("cpu"), tensorboard=False)
    network, figures = tmp_path / "network.safetensors", tmp_path / "quality.json"
    features.save_features(features.FeatureNetwork(), network)
    options = ("--features", network, "--seeds", "0", "--record", figures)
    monkeypatch.setattr(features, "load_features", lambda name: Pixels())
    status, text, err = call(capsys, "sample-quality", run.path, "--rival", run.path, *options)
    assert status == 0, err
    assert "frechet" in text and "rewritten" in text and "80 pictures a set" in text
    (key,) = json.loads(figures.read_text())
    assert key == "many, features network, seeds 0"
    entry = json.loads(figures.read_text())[key]
    assert entry["pictures"] == 80 and entry["run"] == entry["rival_run"]
    assert entry["run"]["source"] == "many" and entry["run"]["steps"] == 1
    status, text, err = call(capsys, "sample-quality", run.path, *options, "--json")
    assert status == 0 and set(json.loads(text)) == {key}
    refused(capsys, "sample-quality", run.path, *options, "--seeds", 2**32)
