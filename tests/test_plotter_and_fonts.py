"""Drawings for those who make things of them: pen plotters, and single-line fonts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from dood_pyro.cli.main import main
from PIL import Image, ImageDraw

from dood_pyro.drawing import Drawing, PenStroke
from dood_pyro.errors import UserError
from dood_pyro.fonts import glyph_name, write_ufo
from dood_pyro.plotter import least_travel, travel, with_dots_filled


def line(x1: float, y1: float, x2: float, y2: float, colour: str = "#000000") -> PenStroke:
    ends = np.array([[x1, y1], [x2, y2]])
    points = ends[0] + np.linspace(0, 1, 4)[:, None] * (ends[1] - ends[0])
    return PenStroke(points[None], 2.0, colour=colour)


def scattered(count: int, seed: int = 0) -> list[PenStroke]:
    random = np.random.default_rng(seed)
    return [line(*random.uniform(0, 100, 4)) for _ in range(count)]


def undirected(strokes: list[PenStroke]) -> list[tuple[tuple[float, ...], ...]]:
    ends = [(stroke.control[0, 0], stroke.control[-1, -1]) for stroke in strokes]
    return sorted(tuple(sorted(tuple(end.tolist()) for end in pair)) for pair in ends)


def test_travel_is_spared_and_every_stroke_is_drawn() -> None:
    for seed in range(3):
        strokes = scattered(60, seed)
        sorted_ = least_travel(strokes)
        assert undirected(sorted_) == undirected(strokes)
        assert travel(sorted_) < 0.25 * travel(strokes)
    assert least_travel([]) == []


def test_few_strokes_are_in_the_very_best_order() -> None:
    from itertools import permutations, product

    for seed in range(5):
        strokes = scattered(4, seed)
        best = min(
            travel(
                [
                    each._replace(control=each.control[::-1, ::-1]) if turn else each
                    for each, turn in zip(order, turns, strict=True)
                ]
            )
            for order in permutations(strokes)
            for turns in product((False, True), repeat=len(strokes))
        )
        assert travel(least_travel(strokes)) <= 1.15 * best


def test_a_turned_stroke_is_the_same_curve() -> None:
    curve = PenStroke(np.array([[[90.0, 90], [60, 20], [30, 80], [0, 1]]]), 1.0)
    (turned,) = least_travel([curve])
    assert np.allclose(turned.points(0.5)[::-1], curve.points(0.5))


def test_vpype_reads_it_in_millimetres_by_layers(tmp_path: Path) -> None:
    import vpype

    strokes = [line(20, 10, 180, 10), line(20, 90, 180, 90, "#d00000"), line(180, 20, 20, 20)]
    path = tmp_path / "plot.svg"
    path.write_text(Drawing(strokes, 200, 100).plotter_svg("150mm"))
    document = vpype.read_multilayer_svg(str(path), 0.1)
    pixels = 96 / 25.4  # vpype's unit
    assert np.allclose(document.page_size, (150 * pixels, 75 * pixels))
    assert [len(document.layers[layer]) for layer in sorted(document.layers)] == [2, 1]
    left, top, right, bottom = document.bounds()
    assert np.allclose(np.array([left, top, right, bottom]) / pixels, [15, 7.5, 135, 67.5])


def test_dots_are_filled_by_the_plotters_one_pen() -> None:
    point = np.tile([50.0, 40.0], (1, 4, 1))
    dots = [PenStroke(point, width, colour="#ff0000") for width in (20.0, 2.5)]
    lines = [line(0, 0, 100, 80)]
    _, spiral, touch = with_dots_filled([*lines, *dots])
    assert touch.same(dots[1]) and spiral.width == 2 and spiral.colour == "#ff0000"
    drawn = Drawing([spiral], 100, 80).render(4)
    dot = Drawing([dots[0]], 100, 80).render(4)
    assert np.abs(drawn - dot).sum() < 0.01 * dot.sum()
    assert [each.same(one) for each, one in zip(with_dots_filled(dots), dots, strict=True)] == [
        True
    ] * 2


def test_the_command_writes_for_a_plotter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = Image.new("L", (120, 60), 255)
    for y in (10, 30, 50):
        ImageDraw.Draw(picture).line((10, y, 110, y), fill=0, width=3)
    picture.save("lines.png")
    with pytest.raises(SystemExit) as stopped:
        main(["parse", "lines.png", "--plotter", "--size", "21cm", "--formats", "svg"])
    assert not stopped.value.code, capsys.readouterr().err
    text = Path("lines.svg").read_text()
    assert 'width="210mm" height="105mm"' in text and text.count("<path") == 3
    assert "<rect" not in text
    starts = [float(x) for x in re.findall(r'd="M(\S+)', text)]
    assert abs(starts[1] - starts[0]) > 100  # there and back
    for words in ("--size 100%", "--background white --plotter --size 5", "--formats json"):
        with pytest.raises(SystemExit) as stopped:
            main(["parse", "lines.png", "--plotter", *words.split()])
        assert stopped.value.code == 1 and capsys.readouterr().err.count("\n") == 1


def test_a_font_has_a_glyph_for_each_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ufoLib2 import Font

    monkeypatch.chdir(tmp_path)
    Path("glyphs").mkdir()
    for name, ends in (
        ("L", (20, 10, 20, 80)),
        ("uni00E4", (10, 50, 60, 50)),
        ("star", (5, 5, 70, 70)),
    ):
        picture = Image.new("L", (80, 100), 255)
        ImageDraw.Draw(picture).line(ends, fill=0, width=4)
        picture.save(f"glyphs/{name}.png")
    words = ["parse", "glyphs", "--out-dir", "out", "--font", "hand.ufo"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert not stopped.value.code and "hand.ufo: 3 glyphs" in capsys.readouterr().out
    font = Font.open("hand.ufo")
    assert set(font.keys()) == {"L", "adieresis", "star"}
    assert font["L"].unicodes == [ord("L")] and font["star"].unicodes == []
    assert font["L"].width == 800
    (contour,) = font["L"].contours
    assert contour.open and {point.type for point in contour} <= {"move", "curve", None}
    ys = sorted(point.y for point in (contour[0], contour[-1]))
    assert abs(ys[0] - 0) < 30 and abs(ys[1] - 700) < 30  # from the pixel 80 up to the pixel 10
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1 and "there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\x07", "lat\udce9"])
def test_a_glyph_has_a_name_that_can_be_written(name: str, tmp_path: Path) -> None:
    line = PenStroke(np.array([[[10.0, 10], [20, 20], [30, 30], [40, 40]]]), 2.0)
    with pytest.raises(UserError, match="rename that picture"):
        write_ufo({name: Drawing([line], 50, 50)}, tmp_path / "a.ufo")
    assert not list(tmp_path.iterdir())
    assert glyph_name("uni0041") == "A" and glyph_name("u1F600") == "u1F600"


def test_a_font_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ufoLib2

    line = PenStroke(np.array([[[10.0, 10], [20, 20], [30, 30], [40, 40]]]), 2.0)

    def cut_short(self: ufoLib2.Font, path: Path) -> None:
        path.mkdir()
        (path / "fontinfo.plist").write_text("<")
        raise OSError(27, "File too large")

    with monkeypatch.context() as patched:
        patched.setattr(ufoLib2.Font, "save", cut_short)
        with pytest.raises(UserError, match="File too large"):
            write_ufo({"A": Drawing([line], 50, 50)}, tmp_path / "a.ufo")
    assert not list(tmp_path.iterdir())
    write_ufo({"A": Drawing([line], 50, 50)}, tmp_path / "a.ufo")
    assert len(ufoLib2.Font.open(tmp_path / "a.ufo")) == 1


def test_sizes_without_a_unit_are_refused() -> None:
    for size in ("210", "0mm", "10px", "mm", ""):
        with pytest.raises(UserError, match="210mm"):
            Drawing([], 10, 10).plotter_svg(size)
