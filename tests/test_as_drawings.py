"""What a recogniser draws from Python: samples, completions and exemplars as drawings."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dood_pyro
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.drawing import Drawing, Drawings
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.recognition import Recognizer, drawings_from_strokes
from dood_pyro.run_folders.build import build
from dood_pyro.tasks.complete import complete
from tests.conftest import TINY


@pytest.fixture(scope="module")
def dood() -> Recognizer:
    return dood_pyro.load("omniglot")


def picture(width: int = 90, height: int = 60) -> np.ndarray:
    """A thick line from left to right, dark on white."""
    found = np.full((height, width), 255, np.uint8)
    found[height // 2 - 2 : height // 2 + 2, width // 6 : -width // 6] = 0
    return found


def test_samples_are_reproducible_drawings_of_the_canvas(dood: Recognizer) -> None:
    found = dood.sample(5, seed=3)
    assert isinstance(found, Drawings) and len(found) == 5 and isinstance(found[0], Drawing)
    assert found == dood.sample(5, seed=3) and found != dood.sample(5, seed=4)
    assert (found[0].width, found[0].height) == (50, 50)
    assert Drawings.from_json(json.dumps(found.json())) == found
    assert found._repr_html_().count("<svg") == 5


def test_completions_begin_with_what_was_there(dood: Recognizer) -> None:
    found = dood.complete(picture(), each=3)
    begun = dood.parse(picture(), method="ink")
    assert len(found) == 3
    for each in found:
        assert (each.width, each.height) == (90, 60) and each.given == len(begun)
        assert len(each) > each.given and each[0].same(begun[0])
    of_two = dood.complete([picture(), picture(60, 90)], each=2, strokes=1)
    assert [len(each) for each in of_two] == [2, 2]
    assert all(each.given == 1 for drawings in of_two for each in drawings)
    assert (of_two[1][0].width, of_two[1][0].height) == (60, 90)
    small = picture(
        28, 28
    )  # drawn by the guide on its own number of pixels, gone on with on the canvas
    went_on = complete(dood, ImageBatch(dood.prepare([small])[0]), 2, 1)
    (start,) = drawings_from_strokes(went_on.begun, 50)
    assert dood.complete(small, 2, strokes=1)[0][0].same(start.in_pixels(28, 28)[0])
    kept = Drawing.from_json(found[0].json())
    assert kept == found[0] and kept.given == found[0].given


def test_exemplars_are_near_the_picture(dood: Recognizer) -> None:
    found = dood.exemplars(picture(), each=4, seed=1)
    assert len(found) == 4 and found[0] != found[1]
    ink = picture() < 128
    for each in found:
        drawn = each.render() > 0.3
        assert (drawn & ink).sum() > 0.2 * ink.sum()
    assert found == dood.exemplars(picture(), each=4, seed=1)


def test_a_search_guide_refines(dood: Recognizer) -> None:
    refined = dood.refine(picture())
    assert isinstance(refined, Drawing) and refined.explained > 0.8
    with pytest.raises(UserError, match="search guide"):
        dood.refine(picture(), guide="magic")


def test_evaluate_is_of_the_loaded_run(dood: Recognizer, source: Path) -> None:
    row = dood.evaluate(str(source), particles=2, limit=3)
    assert row._repr_html_().startswith("<table>") and "log_p" in row._repr_html_()
    assert json.loads(json.dumps(row)) == row
    same = {"particles": 2, "limit": 3}
    assert row == dood_pyro.evaluate("omniglot", str(source), **same, device="cpu")
    made = Recognizer(dood.model, dood.guide, dood.config)
    with pytest.raises(UserError, match="load"):
        made.evaluate(str(source))


class Stream(io.BytesIO):
    """Read from its beginning to its end, once, as from a network."""

    def seekable(self) -> bool:
        return False

    def seek(self, offset: int, whence: int = 0) -> int:
        raise io.UnsupportedOperation("seek")


def test_streams_and_bytes_are_pictures(dood: Recognizer) -> None:
    png = io.BytesIO()
    Image.fromarray(picture()).save(png, "png")
    content = png.getvalue()
    for draw in (dood.complete, dood.exemplars, dood.parse):
        expected = draw(picture())
        for given in (content, bytearray(content), memoryview(content), Stream(content)):
            assert draw(given) == expected
        assert draw([Stream(content), content]) == draw([picture(), picture()])


@pytest.mark.parametrize("name", ["dood", "dood-no-guidance", "dood-transformer"])
def test_drawings_of_unequal_lengths_are_gone_on_with(name: str) -> None:
    torch.manual_seed(0)
    config = RunConfig(name, TINY, TrainConfig("none"))
    made = Recognizer(*build(config), config)
    pictures = ImageBatch(torch.rand(6, TINY.canvas_size, TINY.canvas_size))
    parsed = made.infer(pictures)
    alive = torch.tensor([[1.0] * 6, [1.0, 0.0] * 3, [0.0] * 6])[: TINY.max_strokes]
    unequal = parsed._replace(alive=alive)
    assert parsed.alive.shape == alive.shape
    made.infer = lambda images: unequal  # type: ignore[method-assign]
    for strokes in (None, 1, 2):
        assert len(complete(made, pictures, 2, strokes).given) == len(pictures)


def test_what_cannot_be_drawn_is_said(dood: Recognizer) -> None:
    for count in (0, -1, 100_000):
        with pytest.raises(UserError, match="1 to 1,000"):
            dood.sample(count)
    with pytest.raises(UserError, match="stroke"):
        dood.complete(picture(), strokes=0)
    with pytest.raises(UserError, match="temperature"):
        dood.sample(1, temperature=0)
    assert dood.complete([]) == [] and dood.exemplars([]) == []


def test_drawings_are_saved_and_none_is_overwritten(dood: Recognizer, tmp_path: Path) -> None:
    drawings = dood.sample(2)
    paths = drawings.save(tmp_path / "drawn", ".json")
    assert [Drawing.open(path) for path in paths] == list(drawings)
    with pytest.raises(UserError, match="there already"):
        drawings.save(tmp_path / "drawn", ".json")
    with pytest.raises(UserError, match="saved as one of"):
        drawings.save(tmp_path / "other", "png")
    with pytest.raises(UserError, match="seed"):
        dood.sample(1, seed=2**70)
    for wrong in ("{}", "3", "[{}]", "["):
        with pytest.raises(UserError):
            Drawings.from_json(wrong)
