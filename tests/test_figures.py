"""Figures of several models: what they show, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.recognition import Recognizer, load
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks import clusters, compare
from tests.conftest import TINY
from tests.test_cli import call, refused

MODELS = ("dood", "dood-no-renderer", "air")


@pytest.fixture
def runs(tmp_path: Path, source: Path) -> list[Run]:
    """Runs of a few steps: their pictures are bad ones, but they draw."""
    made = []
    for name in MODELS:
        config = RunConfig(name, TINY, TrainConfig(source=str(source), batch_size=8))
        run = Run.create(tmp_path / name, config, TrainingBudget(steps=2), torch.device("cpu"))
        training.resume(run, torch.device("cpu"), tensorboard=False)
        made.append(run)
    return made


def always_on(dood: Recognizer) -> Recognizer:
    with torch.no_grad():
        dood.guide.on_head[-1].bias.fill_(20.0)  # type: ignore[index, union-attr]
    return dood


def test_stroke_counts_count_every_drawing(runs: list[Run], source: Path) -> None:
    dood = load(runs[0].path)
    found = compare.stroke_counts(always_on(dood), str(source), limit=6)
    assert found.tolist() == [0, 0, 0, 6]


def test_figures_are_drawn(
    runs: list[Run], source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [run.path for run in runs]
    for command in ("compare", "stroke-counts"):
        out = tmp_path / f"{command}.png"
        status, text, _ = call(capsys, command, *names, "--targets", source, "--out", out)
        assert status == 0 and str(out) in text
        assert out.read_bytes().startswith(b"\x89PNG")
        assert out.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    refused(capsys, "compare", names[0], "--targets", source, "--out", tmp_path / "figure.gif")
    refused(capsys, "compare", tmp_path / "nothing", "--targets", source)


def test_vocabularies_are_strokes_or_parts(runs: list[Run], source: Path) -> None:
    for run, dims in zip(runs, (6, 6 + 4, TINY.part_dims), strict=True):
        found = clusters.vocabulary(always_on(load(run.path)), str(source), limit=8)
        assert found.features.shape == (8 * TINY.max_strokes, dims)
        assert found.pictures.shape == (8 * TINY.max_strokes, TINY.glimpse_size, TINY.glimpse_size)
        assert found.pictures.min() >= 0 and found.pictures.max() <= 1


def test_strokes_are_clustered_whichever_way_they_run() -> None:
    control = torch.randn(50, 5, 2, generator=torch.Generator().manual_seed(0))
    turned = clusters.one_way(control)
    assert ((turned[:, -1] - turned[:, 0]).sum(-1) >= 0).all()
    torch.testing.assert_close(clusters.one_way(control.flip(-2)), turned)
    same = (turned == control).flatten(1).all(1)
    back = (turned == control.flip(-2)).flatten(1).all(1)
    assert (same | back).all() and same.any() and back.any()


def test_clusters_need_strokes(runs: list[Run], source: Path) -> None:
    dood = load(runs[0].path)
    with torch.no_grad():
        dood.guide.on_head[-1].bias.fill_(-20.0)  # type: ignore[index, union-attr]
    with pytest.raises(UserError, match="too few to cluster"):
        clusters.vocabulary(dood, str(source), limit=8)


def test_silhouettes_tell_clusters_from_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 4))
    apart = noise + 20 * rng.integers(0, 8, size=400)[:, None]
    good, bad = (clusters.silhouettes(x, (4, 8), range(2)) for x in (apart, noise))
    assert good["silhouette"] > 0.7 > 0.3 > bad["silhouette"]
    assert set(good["by_k"]) == {"4", "8"} and good["strokes"] == 400


def test_clusters_are_drawn(
    runs: list[Run],
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dood_pyro.recognition.load", lambda *a: always_on(load(*a)))
    out, figures = tmp_path / "clusters.png", tmp_path / "clusters.json"
    names = [runs[0].path, runs[2].path]
    status, _, err = call(
        capsys, "clusters", *names, "--target", source, "--out", out, "--record", figures
    )
    assert status == 0, err
    assert out.exists() and out.with_suffix(".pdf").exists()
    scores = json.loads(figures.read_text())
    dood, air = (scores[f"{name.name}, on {source.stem}"] for name in names)
    if dood["run"]["model"] != "dood":
        dood, air = air, dood
    assert len(scores) == 2 and -1 <= air["silhouette"] <= 1 and dood["run"]["model"] == "dood"
    for other in ("re_oriented", "along_curves"):
        assert -1 <= dood[other]["silhouette"] <= 1 and other not in air
