"""Drawings as pictures, SVG and JSON; layouts as affine maps."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

from dood_pyro import geometry
from dood_pyro.canvas_drawing import PIECES, CanvasDrawing
from dood_pyro.drawing import Drawing
from dood_pyro.errors import UserError
from dood_pyro.models.networks import glimpse
from dood_pyro.rendering import bernstein
from dood_pyro.stroke import Stroke, visible_width


def stroke(darkness: float = 3.0, sigma: float = 0.05, width_taper: float = 0.0) -> Stroke:
    control = torch.tensor([[-0.5, -0.5], [0.5, -0.9], [-0.9, 0.2], [0.1, 0.9], [0.6, 0.4]])
    brightness = math.tanh(darkness)
    width = visible_width(sigma, brightness)
    return Stroke(control, width, brightness, sigma, darkness, width_taper, 0.0, 0.9, 0.01)


def test_affine_matrix_scales_turns_and_shifts() -> None:
    matrix = geometry.affine_matrix(torch.tensor([0.5, 0.2, -0.1, math.pi / 2]))
    placed = geometry.apply_affine(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), matrix)
    torch.testing.assert_close(placed, torch.tensor([[0.2, 0.4], [-0.3, -0.1]]))


def test_the_inverted_map_leads_back() -> None:
    matrix = geometry.affine_matrix(torch.tensor([[0.5, 0.2, -0.1, 0.7], [0.9, -0.6, 0.3, -0.4]]))
    points = torch.rand(2, 6, 2) * 2 - 1
    there = geometry.apply_affine(points, matrix)
    torch.testing.assert_close(geometry.apply_affine(there, geometry.invert_affine(matrix)), points)


def test_a_patch_that_is_placed_is_what_a_glimpse_there_shows() -> None:
    """The spatial transformer puts a part where the same layout's glimpse shows it."""
    matrix = geometry.affine_matrix(torch.tensor([0.5, 0.2, -0.1, 0.7]))
    axis = torch.linspace(-1, 1, 24)
    patch = (-8 * ((axis - 0.2) ** 2 + (axis[:, None] + 0.3) ** 2)).exp()
    canvas = glimpse(patch, geometry.invert_affine(matrix), 200)
    assert (glimpse(canvas, matrix, 24) - patch).abs().max() < 0.03


def test_scale_never_vanishes() -> None:
    assert geometry.affine_matrix(torch.tensor([-3.0, 0, 0, 0]))[0, 0] == geometry.MIN_LAYOUT_SCALE


def test_render_at_any_size() -> None:
    picture = CanvasDrawing([stroke()], 50)
    assert picture.render().shape == (50, 50)
    assert picture.render(200).shape == (200, 200)
    assert picture.render().max() <= 1 and picture.render().min() >= 0
    pooled = torch.nn.functional.avg_pool2d(picture.render(200)[None], 4)[0]
    assert (pooled - picture.render()).abs().max() < 0.06
    assert picture.render_steps().shape == (2, 50, 50)
    assert CanvasDrawing([], 50).render().abs().max() == 0
    for size in (0, -3, 2.5, "50", 10**7):
        with pytest.raises(UserError, match="rendered at 1 to 16,384 pixels"):
            picture.render(size)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="size must be a positive length"):
        picture.svg(0)
    assert 'stroke="red"' in picture.svg(colours="red")


def test_visible_width_is_where_the_picture_halves() -> None:
    for darkness in (0.3, 1.0, 4.0):
        sigma = 0.05
        line = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
        made = Stroke(line, 0.0, 0.0, sigma, darkness, 0.0, 0.0, 1.0, 0.0)
        column = CanvasDrawing([made], 2001).render()[:, 1000]
        measured = int((column > column.max() / 2).sum()) * 2 / 2001
        expected = visible_width(sigma, float(column.max()))
        assert expected == pytest.approx(measured, abs=0.004)
    assert visible_width(0.05, 0.0) == 0


def test_json_can_be_dumped_and_names_its_units() -> None:
    values = json.loads(json.dumps(CanvasDrawing([stroke()], 50).json()))
    assert "canvas units" in values["units"]
    first = values["strokes"][0]
    assert len(first["control"]) == 5 and first["confidence"] == 0.9
    assert set(first) == set(Stroke._fields)


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("taper", [0.0, 0.4])
def test_svg_is_the_curve(taper: float) -> None:
    """One path for each stroke, which lies on the Bézier curve of degree four."""
    one = stroke(width_taper=taper)
    document = ElementTree.fromstring(CanvasDrawing([one], 50).svg(size=400, colours=["#123456"]))
    (path,) = document.iter(f"{SVG}path")
    assert path.get("stroke") == "#123456"
    assert (document.get("width"), document.get("viewBox")) == ("400", "0 0 50 50")
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", path.get("d") or "")]
    points = torch.tensor(numbers).view(-1, 2)
    pieces = [points[i : i + 4] for i in range(0, len(points) - 1, 3)]
    assert len(pieces) == PIECES
    assert float(path.get("stroke-width") or 0) == pytest.approx(one.width * 25, rel=0.01)
    t = torch.linspace(0, 1, 50)
    drawn = torch.cat([bernstein(3, t) @ piece for piece in pieces])
    true = (bernstein(4, torch.linspace(0, 1, 2000)) @ one.control + 1) * 25
    assert torch.cdist(drawn, true).min(-1).values.max() < 0.06


def test_an_empty_drawing_is_a_blank_svg() -> None:
    document = ElementTree.fromstring(CanvasDrawing([], 50).svg())
    assert list(document.iter(f"{SVG}path")) == []


def test_a_drawing_is_not_saved_as_what_it_is_not(tmp_path: Path) -> None:
    drawing = Drawing([], 50, 50)
    with pytest.raises(UserError, match=r"x\.pdf: a drawing is saved as \.svg or"):
        drawing.save(tmp_path / "x.pdf")
    assert list(tmp_path.iterdir()) == []
    names = [path.name for path in drawing.save(tmp_path / "version.2")]
    assert names == ["version.2.svg", "version.2.json"]
