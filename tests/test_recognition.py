"""Parsing from Python: every form of input, what comes out, and that it is the same each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from dood_pyro.cli.main import main
from PIL import Image

import dood_pyro
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.drawing import Drawing
from dood_pyro.errors import UserError
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.guide_parses import parse
from dood_pyro.models.dood import DooD
from dood_pyro.recognition import Recognizer, trained_weights
from tests.conftest import TINY, random_pictures


@pytest.fixture
def dood() -> Recognizer:
    """A tiny model that draws, trained on nothing."""
    torch.manual_seed(0)
    model = DooD(TINY)
    guide = AmortisedGuide(model)
    with torch.no_grad():
        guide.on_head[-1].bias.fill_(1.0)  # type: ignore[union-attr, operator, index]
    return Recognizer(model.eval(), guide.eval(), RunConfig("dood", TINY, TrainConfig("none")))


def test_one_and_many(dood: Recognizer, tmp_path: Path) -> None:
    array = (random_pictures(5, 30) * 255).byte().numpy()
    Image.fromarray(array[0]).save(tmp_path / "a.png")
    one = dood.parse(tmp_path / "a.png", method="guide")
    assert isinstance(one, Drawing)
    for many in (array, torch.from_numpy(array), list(array), [str(tmp_path / "a.png")] * 5):
        drawings = dood.parse(many, method="guide")
        assert len(drawings) == 5 and all(isinstance(d, Drawing) for d in drawings)
        assert drawings[0] == one
    assert dood.parse([]) == []
    assert isinstance(dood.parse(np.repeat(array[0][..., None], 3, -1), method="guide"), Drawing)
    assert len(dood.parse(array[:, None], method="guide")) == 5


def test_a_parse_is_deterministic_and_ignores_size_and_polarity(dood: Recognizer) -> None:
    picture = random_pictures(1, 64)[0]
    for method in ("guide", "ink"):
        first, again = dood.parse(picture, method=method), dood.parse(picture, method=method)
        assert first == again
        inverted = dood.parse(1 - picture, method=method)
        assert np.abs(inverted.render() - first.render()).max() < 0.02
        assert len(first) == len(inverted)


def test_strokes_say_what_they_are(dood: Recognizer) -> None:
    picture = dood.drawings(random_pictures(1, TINY.canvas_size))[0]
    assert len(picture) >= 1
    for stroke in picture.strokes:
        assert stroke.control.shape == (3, 2)
        assert 0 < stroke.confidence <= 1
        assert stroke.width > 0 and stroke.sigma > 0 and stroke.uncertainty > 0


def test_the_drawing_renders_to_the_models_canvas(dood: Recognizer) -> None:
    images = random_pictures(4, TINY.canvas_size)
    parsed = parse(dood.model, dood.guide, images)
    for index, found in enumerate(dood.drawings(images)):
        last = parsed.canvas[-1, index]
        assert len(found) == int(parsed.alive[:, index].sum())
        torch.testing.assert_close(found.render(), last, atol=2e-3, rtol=0)


def test_bad_pictures_are_refused(dood: Recognizer) -> None:
    with pytest.raises(UserError, match="blank"):
        dood.parse(np.zeros((20, 20)))


def test_images_that_are_none_are_refused(dood: Recognizer) -> None:
    images = torch.zeros(2, dood.size, dood.size)
    images[1, 3, 4] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        dood.infer(images)
    with pytest.raises(UserError, match="do not fit a canvas"):
        dood.infer(images[:, 1:])


@pytest.mark.parametrize("given", [{"paper": "flat"}, {"joins": "angles"}, {"max_strokes": 1}])
def test_the_guide_takes_nothing_that_is_of_the_ink(
    dood: Recognizer, given: dict[str, object]
) -> None:
    picture = random_pictures(1, 50)[0]
    with pytest.raises(UserError, match=f"{next(iter(given))} is of method 'ink'"):
        dood.parse(picture, method="guide", **given)  # type: ignore[arg-type]


def test_unknown_weights() -> None:
    with pytest.raises(UserError, match="neither a run folder"):
        dood_pyro.load("nothing")


@pytest.mark.parametrize("name", trained_weights())
def test_trained_weights_draw(name: str) -> None:
    """The weights that come with the package redraw pictures that they have never seen."""
    dood = dood_pyro.load(name)
    images = random_pictures(32, dood.size, seed=9, sigma=0.03)
    drawings = dood.drawings(images)
    assert all(1 <= len(d) <= 6 for d in drawings)
    redrawn = torch.stack([d.render() for d in drawings])
    assert (redrawn - images).abs().mean() < 0.25 * images.mean()


def test_command_writes_strokes_of_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One's own pictures, whatever their sizes, to an SVG and a JSON each."""
    files = []
    for name, side in (("a.png", 60), ("b.jpg", 30)):
        array = (255 * (1 - random_pictures(1, side, seed=side, sigma=0.06)[0])).byte().numpy()
        Image.fromarray(array).save(tmp_path / name)
        files.append(str(tmp_path / name))
    out = tmp_path / "strokes"
    with pytest.raises(SystemExit) as status:
        main(["parse", *files, "--out", str(out)])
    assert status.value.code == 0
    assert {path.name for path in out.iterdir()} == {"a.svg", "a.json", "b.svg", "b.json"}
    assert (out / "a.svg").read_text().startswith("<svg")
    strokes = json.loads((out / "b.json").read_text())["strokes"]
    assert f"{files[1]}: {len(strokes)} stroke" in capsys.readouterr().out
    (tmp_path / "taken" / "b.json").mkdir(parents=True)
    for arguments, said in (
        ([*files, str(tmp_path / "other" / "a.png")], "called a.png"),
        ([str(tmp_path / "none.png")], "none.png"),
        ([files[0], "--out", files[1]], "is a file"),
        ([*files, "--out", str(tmp_path / "taken")], "b.json is a folder"),
    ):
        with pytest.raises(SystemExit) as status:
            main(["parse", *arguments])
        assert status.value.code and said in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["b.json"]  # before any work
