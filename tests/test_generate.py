"""Drawings from the prior, and drawings being drawn."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyro
import pytest
import torch
from PIL import Image

from dood_pyro import training
from dood_pyro.canvas_drawing import CanvasDrawing
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.data.folder import read_all
from dood_pyro.recognition import Recognizer, drawings_from_parse
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from dood_pyro.stroke import beginning
from dood_pyro.tasks import generate
from tests.conftest import TINY, nudge
from tests.test_cli import call, refused
from tests.test_drawing import SVG, stroke


def untrained(model: str) -> Recognizer:
    torch.manual_seed(0)
    config = RunConfig(model, TINY, TrainConfig("none"))
    return Recognizer(*build(config), config)


def test_samples_follow_the_prior_and_the_seed() -> None:
    dood = untrained("dood")
    first, again, other = (generate.generate(dood.model, 200, seed) for seed in (0, 0, 1))
    torch.testing.assert_close(first.canvas, again.canvas)
    assert not torch.equal(first.canvas, other.canvas)
    assert first.canvas.shape == (TINY.max_strokes, 200, TINY.canvas_size, TINY.canvas_size)
    # The frequency of a first stroke is its probability.
    assert float(first.alive[0].mean()) == pytest.approx(
        float(first.on_probability[0, 0]), abs=0.12
    )
    drawings = drawings_from_parse(first)
    assert [len(d) for d in drawings] == first.alive.sum(0).long().tolist()
    longest = max(range(200), key=lambda i: len(drawings[i]))
    shown = drawings[longest].render()
    assert (shown - first.canvas[-1, longest]).abs().max() < 0.02


@pytest.mark.parametrize("name", ["dood", "air"])
def test_sample_command(
    name: str, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig(name, TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=1), torch.device("cpu"))
    training.resume(run, torch.device("cpu"), tensorboard=False)
    out = tmp_path / "samples.png"
    status, text, err = call(capsys, "sample", run.path, "--count", 5, "--out", out)
    assert status == 0 and str(out) in text, err
    assert Image.open(out).size == (3 * 84, 2 * 84)
    sampled = read_all(tmp_path / "samples", TINY.canvas_size)
    assert sampled.shape == (5, TINY.canvas_size, TINY.canvas_size)
    if name == "dood":
        assert len(json.loads((tmp_path / "samples" / "004.json").read_text())) == 3
        assert getattr(Image.open(out.with_suffix(".gif")), "n_frames", 1) >= 1
        ElementTree.parse(tmp_path / "samples" / "004-drawn.svg")
    (tmp_path / "samples" / "mine.png").write_bytes(b"")
    assert call(capsys, "sample", run.path, "--count", 2, "--seed", 1, "--out", out)[0] == 0
    left = {path.name[:3] for path in (tmp_path / "samples").iterdir()}
    assert left == {"000", "001", "min"}  # none of the sample before


def test_the_beginning_of_a_stroke_is_where_it_begins() -> None:
    whole = stroke(width_taper=0.4)._replace(darkness_taper=0.5)
    half = beginning(whole, 0.5)
    torch.testing.assert_close(beginning(whole, 1.0).control, whole.control)
    picture, part = (CanvasDrawing([each], 50).render() for each in (whole, half))
    assert ((part > 0.3) & (picture < 0.25)).sum() == 0, "no ink where the whole has none"
    rest = CanvasDrawing([half, whole], 50).render_steps()
    assert 0.2 < float(rest[1].sum() / picture.sum()) < 0.8


def test_the_beginning_of_a_faint_stroke_is_no_darker_than_the_stroke() -> None:
    """One whose pen leaves ink at its start alone."""
    faint = stroke(sigma=0.05)._replace(darkness=0.2, darkness_taper=-1.5)
    whole = CanvasDrawing([faint], 50).render()
    for share in (0.2, 0.5, 0.8):
        begun = CanvasDrawing([beginning(faint, share)], 50).render()
        assert (begun - whole).max() < 0.02
    turned = faint._replace(darkness_taper=1.5)
    half = CanvasDrawing([beginning(turned, 0.5)], 50).render()
    assert (half - CanvasDrawing([turned], 50).render()).max() < 0.02


def test_an_animation_ends_with_the_whole() -> None:
    drawings = [CanvasDrawing([stroke(), stroke(sigma=0.03)], 50), CanvasDrawing([stroke()], 50)]
    film = Image.open(io.BytesIO(generate.animation(drawings)))
    assert getattr(film, "n_frames", 1) == 2 * generate.FRAMES_A_STROKE + 1
    document = ElementTree.fromstring(drawings[0].svg(seconds_per_stroke=1.0))
    begins = [a.get("begin") for a in document.iter(f"{SVG}animate")]
    assert begins == ["0.000s", "1.000s"]
    assert len(list(document.iter(f"{SVG}set"))) == 2


@pytest.mark.parametrize("model", ["dood", "dood-transformer", "air"])
def test_cold_samples_vary_less_and_hot_ones_more(model: str) -> None:
    dood = untrained(model)
    nudge(dood.model, 0.1)
    spreads, kinds = [], []
    for temperature in (0.1, 1.0, 4.0):
        drawn = generate.generate(dood.model, 400, 0, 0, temperature)
        spreads.append([float(value[0].std(0).mean()) for value in drawn.values.values()])
        kinds = list(drawn.values)
    for cold, usual, hot, kind in zip(*spreads, kinds, strict=True):
        assert cold < usual < hot, kind
    # At nearly 0 each stop is the likelier one.
    frozen = generate.generate(dood.model, 100, 0, 0, 1e-4)
    assert len(frozen.alive[0].unique()) == 1


def test_temperatures_are_powers_of_densities() -> None:
    from torch.distributions import Bernoulli, Normal

    from dood_pyro.inference.messengers import _at_temperature

    value = torch.randn(50)
    normal = Normal(torch.tensor(0.3), torch.tensor(0.7))
    cooled = _at_temperature(pyro.distributions.Normal(0.3, 0.7), 0.4)
    unnormalised = normal.log_prob(value) / 0.4
    shift = cooled.log_prob(value) - unnormalised
    torch.testing.assert_close(shift, shift[:1].expand(50), atol=1e-4, rtol=1e-4)
    on = torch.tensor([0.0, 1.0])
    cooled = _at_temperature(pyro.distributions.Bernoulli(logits=torch.tensor(0.8)), 0.4)
    torch.testing.assert_close(
        cooled.log_prob(on), Bernoulli(logits=torch.tensor(2.0)).log_prob(on)
    )


def test_a_temperature_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for temperature in ("0", "-1", "nan", "inf", "1e9"):
        out = tmp_path / "samples.png"
        words = ("sample", "omniglot", "--count", 4, "--out", out, "--temperature", temperature)
        assert "temperature must be more than 0" in refused(capsys, *words)
        assert not any(tmp_path.iterdir())
