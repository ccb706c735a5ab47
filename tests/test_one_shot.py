"""One-shot classification: trials as they are published, and scores that know the right answer."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.data import prepared
from dood_pyro.data.one_shot_runs import NAME, Trials, background_trials, official_trials
from dood_pyro.errors import UserError
from dood_pyro.recognition import Recognizer
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.one_shot import (
    Settings,
    Types,
    _draws_strokes,
    blur,
    classify,
    one_shot,
    scores,
    types_of,
)
from dood_pyro.tokens import Strokes, TokenNoise, apply_token, sample_token
from tests.conftest import TINY
from tests.test_cli import call, refused


def archive(path: Path, runs: int = 20, ways: int = 20) -> None:
    rng = np.random.default_rng(0)

    def png() -> bytes:
        buffer = io.BytesIO()
        ink = rng.random((105, 105)) < 0.1
        Image.fromarray(~ink).save(buffer, format="PNG")
        return buffer.getvalue()

    with zipfile.ZipFile(path, "w") as file:
        for run in range(1, runs + 1):
            name, order = f"run{run:02d}", rng.permutation(ways) + 1
            lines = []
            for item in range(1, ways + 1):
                file.writestr(f"{name}/test/item{item:02d}.png", png())
                file.writestr(f"{name}/training/class{item:02d}.png", png())
                pair = (
                    f"{name}/test/item{item:02d}.png {name}/training/class{order[item - 1]:02d}.png"
                )
                lines.append(pair)
            file.writestr(f"{name}/class_labels.txt", "\n".join(lines))


def test_official_trials(tmp_path: Path) -> None:
    archive(tmp_path / NAME)
    runs = official_trials(16, tmp_path)
    assert len(runs) == 20
    assert runs[0].support.shape == runs[0].queries.shape == (20, 16, 16)
    assert sorted(runs[0].answers.tolist()) == list(range(20))
    # Ink, a tenth of the pixels, is bright.
    assert runs[0].support.min() >= 0 and 0.05 < runs[0].support.mean() < 0.2


def test_damaged_or_missing_trials_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / NAME)
    content = (tmp_path / NAME).read_bytes()
    (tmp_path / NAME).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        official_trials(16, tmp_path)
    archive(tmp_path / NAME, runs=2)
    with pytest.raises(UserError, match="20 runs"):
        official_trials(16, tmp_path)
    (tmp_path / NAME).unlink()

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match="cannot download"):
        official_trials(16, tmp_path)


def test_background_trials_pair_drawings_of_one_character(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(6), 4)
    # Every character is a shade of its own.
    images = np.broadcast_to((labels * 40 + 10)[:, None, None], (24, 8, 8)).astype(np.uint8)
    arrays = {
        "train_images": images,
        "train_labels": labels.astype(np.int16),
        "test_images": images,
        "test_labels": labels.astype(np.int16),
        "train_characters": np.array([f"A/character{i:02d}" for i in range(6)]),
    }
    prepared.write(tmp_path / "omniglot.npz", arrays)
    for trials in background_trials(tmp_path / "omniglot.npz", 8, runs=3, ways=5):
        expected = trials.support[trials.answers]
        torch.testing.assert_close(trials.queries, expected)


def random_types(count: int) -> Types:
    torch.manual_seed(0)
    control = torch.rand(count, 1, 2, 4, 2) * 1.2 - 0.6
    pen = torch.tensor([-2.6, 2.0, 0.0, 0.0]).expand(count, 1, 2, 4)
    alive = torch.ones(count, 1, 2)
    return Types((control, pen, alive), _draws_strokes(64))


def test_tokens_are_recognised_as_their_types() -> None:
    """Pictures drawn by the token model itself score best under their own types."""
    types = random_types(6)
    strokes = Strokes(*types.latent)
    noise = TokenNoise(0.04, 0.08, 0.1, 0.1, 0.1, 0.05)
    torch.manual_seed(1)
    pictures = apply_token(strokes, sample_token(strokes.control), noise).render(32)[:, 0]
    settings = Settings(steps=30, noise=noise)
    found = scores(types, pictures, settings)
    assert found.shape == (6, 6)
    assert (found.argmax(-1) == torch.arange(6)).float().mean() > 0.8
    few = scores(types, pictures, Settings(steps=1, noise=noise))
    assert found.diagonal().mean() > few.diagonal().mean(), "fitting tokens helps"


@pytest.mark.parametrize("name", ["dood", "dood-no-renderer", "air"])
@pytest.mark.parametrize("two_way", [False, True])
def test_every_model_can_be_asked(name: str, two_way: bool, images: Tensor) -> None:
    torch.manual_seed(0)
    config = RunConfig(name, TINY, TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    trials = Trials(images[:3], images[:3].flip(0), torch.tensor([2, 1, 0]))
    settings = Settings(parses=2, steps=2, two_way=two_way)
    assert types_of(dood, images, settings).latent[-1].shape == (5, 2, TINY.max_strokes)
    assert classify(dood, trials, settings).shape == (3, 3)
    found = one_shot(dood, [trials, trials], settings)
    assert len(found["runs"]) == 2 and 0 <= found["accuracy"] <= 1
    assert found["interval"][0] <= found["accuracy"] <= found["interval"][1]
    assert one_shot(dood, [trials], settings)["interval"] is None


def test_command_keeps_different_measurements_apart(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive(tmp_path / NAME)
    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=1), torch.device("cpu"))
    training.resume(run, torch.device("cpu"), tensorboard=False)
    figures = tmp_path / "one_shot.json"
    command = ("one-shot", run.path, "--data-dir", tmp_path, "--runs", 1, "--record", figures)
    for more in ((), ("--two-way",), ("--parses", 2)):
        status, text, err = call(capsys, *command, "--steps", 1, *more)
        assert status == 0 and "accuracy" in text, err
    found = json.loads(figures.read_text())
    base = f"dood, source {source.stem}"
    usual = f"{base}, steps 1, runs 1"
    assert set(found) == {
        usual,
        f"{base}, steps 1, two_way True, runs 1",
        f"{base}, parses 2, steps 1, runs 1",
    }
    entry = found[usual]
    assert entry["interval"] is None and entry["run"]["steps"] == 1
    refused(capsys, *command, "--steps", 0)
    other = found | {usual: {"run": entry["run"] | {"seed": 1}}}
    figures.write_text(json.dumps(other))
    assert "another run" in refused(capsys, *command, "--steps", 1)
    assert json.loads(figures.read_text()) == other


def test_blur_keeps_the_sum_and_spreads_it() -> None:
    dot = torch.zeros(1, 21, 21)
    dot[0, 10, 10] = 1.0
    soft = blur(dot, 2.0)
    assert float(soft.sum()) == pytest.approx(1.0, abs=1e-3)
    offsets = (torch.arange(21) - 10.0).square()
    assert float((soft[0].sum(0) * offsets).sum()) == pytest.approx(4.0, rel=0.1)
    assert torch.equal(blur(dot, 0.0), dot)


def test_settings_must_make_sense() -> None:
    with pytest.raises(UserError, match="one-shot"):
        Settings(parses=0)
