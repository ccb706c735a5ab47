"""Drawings written for others and read back: SVG, JSON, stroke-3, ndjson, GIF, and the command."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import resvg_py
import svgpathtools
from dood_pyro.cli.main import main
from PIL import Image

from dood_pyro.drawing import Drawing, Drawings, PenStroke
from dood_pyro.drawing_files import simplified
from dood_pyro.errors import UserError
from dood_pyro.parsing import parse_picture
from dood_pyro.rendering.round_pen import draw_with_pen


def a_drawing() -> Drawing:
    curve = np.array(
        [[[10.0, 20], [40, 10], [60, 90], [90, 30]], [[90, 30], [100, 9], [110, 40], [120, 50]]]
    )
    line = np.array([[[20.0, 60], [40, 60], [60, 60], [80, 60.5]]])
    return Drawing(
        [PenStroke(curve, 4.0, 0.6, 0.9), PenStroke(line, 2.5, 0.4, 0.75, "#1a33cc")], 160, 80, 0.97
    )


def test_json_comes_back() -> None:
    drawing = a_drawing()
    assert Drawing.from_json(json.loads(json.dumps(drawing.json()))) == drawing
    assert Drawing.from_json(json.dumps(drawing.json())) == drawing
    assert drawing.json()["units"].startswith("pixels")
    for wrong in ("{", "[]", {}, {"width": 3, "height": 2, "strokes": [{"control": [[1, 2]]}]}):
        with pytest.raises(UserError, match="no drawing"):
            Drawing.from_json(wrong)


def test_svg_comes_back() -> None:
    for options in ({}, {"size": "210mm", "background": None}, {"seconds_per_stroke": 0.5}):
        assert Drawing.from_svg(a_drawing().svg(**options)) == a_drawing()  # type: ignore[arg-type]
    for wrong in ("<svg", "<svg xmlns='http://www.w3.org/2000/svg'/>", "nothing"):
        with pytest.raises(UserError, match="not written by dood-pyro"):
            Drawing.from_svg(wrong)


def test_svg_is_what_a_parser_of_svg_reads() -> None:
    drawing = a_drawing()
    paths, attributes, frame = svgpathtools.svgstr2paths(
        drawing.svg("210mm", background=None), return_svg_attributes=True
    )
    assert len(paths) == 2 and frame["viewBox"] == "0 0 160 80"
    assert (frame["width"], frame["height"]) == ("210mm", "105mm")
    for path, attribute, stroke in zip(paths, attributes, drawing, strict=True):
        assert path.iscontinuous() and float(attribute["stroke-width"]) == stroke.width
        ends = [path.start.real, path.start.imag], [path.end.real, path.end.imag]
        assert np.allclose(ends, [stroke.control[0, 0], stroke.control[-1, -1]], atol=1e-3)
    # Black ink is as dark as it is; a colour is as light as the picture has it.
    assert attributes[0]["stroke-opacity"] == "0.6" and "stroke-opacity" not in attributes[1]
    ordered = drawing.svg(colours=["red", "blue"])
    assert 'stroke-opacity="0.6"' in ordered and 'stroke-opacity="0.4"' in ordered


def test_svg_is_rasterised_to_what_render_gives() -> None:
    """By resvg, which knows nothing of this package."""
    drawing = a_drawing()
    png = resvg_py.svg_to_bytes(svg_string=drawing.svg())
    grey = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("L")) / 255
    ink = np.zeros((80, 160))
    for stroke in drawing:  # the second stroke is blue
        drawn = draw_with_pen([stroke.points(0.25)], (80, 160), stroke.width) * stroke.opacity
        blue = stroke.colour != "#000000"
        ink = 1 - (1 - ink) * (1 - drawn * (1 - 0.2264 if blue else 1))
    assert np.abs((1 - grey) - ink).mean() < 0.003


def test_what_was_given_comes_back_from_svg() -> None:
    drawing = Drawing(a_drawing().strokes, 160, 80, given=1)
    assert Drawing.from_svg(drawing.svg()).given == 1


def test_files_have_the_permissions_that_new_files_get(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        a_drawing().save(tmp_path / "a.svg")
        assert (tmp_path / "a.svg").stat().st_mode & 0o777 == 0o640
        (tmp_path / "a.svg").chmod(0o600)
        a_drawing().save(tmp_path / "a.svg")
        assert (tmp_path / "a.svg").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_a_lone_dot_is_a_dot_for_quickdraw() -> None:
    dot = PenStroke(np.full((1, 4, 2), 30.0) + np.arange(4)[:, None] * 1e-4, 5.0)
    (x, y), *_ = Drawing([dot], 60, 60).quickdraw()["drawing"]
    assert set(x) == set(y) == {0}


def test_impossible_times_and_distances_are_refused() -> None:
    drawing = a_drawing()
    for call in (
        lambda: drawing.stroke3(0),
        lambda: drawing.polylines(-1),
        lambda: drawing.gif(seconds=float("nan")),
        lambda: drawing.svg(seconds_per_stroke=float("nan")),
    ):
        with pytest.raises(UserError, match=r"not (0|-1|nan)"):
            call()


def test_a_part_of_drawings_shows_itself_too() -> None:
    drawings = Drawings([a_drawing()] * 3)
    assert isinstance(drawings[:2], Drawings) and len(drawings[:2]) == 2
    assert isinstance(drawings[0], Drawing)


def test_svg_sizes() -> None:
    drawing = a_drawing()
    assert 'width="160" height="80"' in drawing.svg()
    assert 'width="320" height="160"' in drawing.svg(320)
    assert "<rect" not in drawing.svg(background=None)
    for wrong in (0, -3, "3 apples", "", float("nan")):
        with pytest.raises(UserError, match="positive length"):
            drawing.svg(wrong)
    assert drawing._repr_svg_() == drawing.svg()


def test_stroke3_adds_up() -> None:
    rows = a_drawing().stroke3()
    assert rows[:, 2].sum() == 2
    points = rows[:, :2].cumsum(0)
    assert np.allclose(points[0], [10, 20], atol=1e-4)
    assert np.allclose(points[-1], [80, 60.5], atol=1e-3)


def test_quickdraw_records() -> None:
    record = a_drawing().quickdraw("thing")
    assert record["word"] == "thing" and len(record["drawing"]) == 2
    values = np.concatenate([np.array(each).ravel() for each in record["drawing"]])
    assert values.min() == 0 and values.max() == 255
    assert len(record["drawing"][1][0]) == 2


def test_simplified_lines_are_near() -> None:
    line = np.stack([np.linspace(0, 100, 300), 10 * np.sin(np.linspace(0, 9, 300))], -1)
    few = simplified(line, 0.5)
    assert len(few) < 30
    back = np.interp(line[:, 0], few[:, 0], few[:, 1])
    assert np.abs(back - line[:, 1]).max() < 0.6


def test_gif_ends_with_the_drawing() -> None:
    drawing = a_drawing()
    image = Image.open(io.BytesIO(drawing.gif(side=320)))
    assert image.size == (320, 160) and image.n_frames > 10  # type: ignore[attr-defined]
    image.seek(image.n_frames - 1)  # type: ignore[attr-defined]
    shown = 1 - np.asarray(image.convert("L")) / 255
    assert np.abs(shown - drawing.render(2.0)).mean() < 0.02


def test_render_is_the_pens() -> None:
    drawing = a_drawing()
    expected = np.maximum(
        0.6 * draw_with_pen([drawing[0].points(0.5)], (80, 160), 4.0),
        0.4 * draw_with_pen([drawing[1].points(0.5)], (80, 160), 2.5),
    )
    assert np.abs(drawing.render() - expected).max() < 1e-6
    assert drawing.render(0.5).shape == (40, 80)
    with pytest.raises(UserError, match="rendered at up to"):
        drawing.render(1000)


def test_files_by_suffix(tmp_path: Path) -> None:
    drawing = a_drawing()
    assert [path.name for path in drawing.save(tmp_path / "a")] == ["a.svg", "a.json"]
    assert Drawing.open(tmp_path / "a.json") == Drawing.open(tmp_path / "a.svg") == drawing
    drawing.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        assert np.array_equal(arrays["stroke3"], drawing.stroke3())
    drawing.save(tmp_path / "word.ndjson")
    assert json.loads((tmp_path / "word.ndjson").read_text())["word"] == "word"
    drawing.save(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"from \.json and \.svg"):
        Drawing.open(tmp_path / "a.gif")
    with pytest.raises(UserError, match=r"none\.json"):
        Drawing.open(tmp_path / "none.json")
    with pytest.raises(UserError, match="name"):
        drawing.save("")


def picture(path: Path, shift: float = 0.0) -> None:
    line = np.array([[20.0, 30 + shift], [80, 60]])
    array = 255 * (1 - draw_with_pen([line], (90, 100), 4.0))
    Image.fromarray(array.astype(np.uint8)).save(path)


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as status:
        main(["parse", *map(str, arguments)])
    return int(status.value.code or 0)


@pytest.mark.parametrize("jobs", [1, 2])
def test_folders_with_a_broken_file(
    jobs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    for index in range(3):
        picture(folder / f"{index}.png", 3.0 * index)
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:100])
    (folder / "notes.txt").write_text("no picture")
    out = tmp_path / "strokes"
    assert run(folder, "--out-dir", out, "--jobs", jobs) == 1
    said = capsys.readouterr()
    assert "broken.png" in said.err and "1 of 4 pictures" in said.err
    assert "Traceback" not in said.err
    assert said.out.count("1 stroke") == 3
    assert len(list(out.iterdir())) == 6
    alone = tmp_path / "alone"
    assert run(folder / "1.png", "--out-dir", alone) == 0
    assert (alone / "1.json").read_bytes() == (out / "1.json").read_bytes()


def test_pages_and_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = []
    for index in range(3):
        picture(tmp_path / "x.png", 5.0 * index)
        frames.append(Image.open(tmp_path / "x.png").convert("L").copy())
    frames[0].save(tmp_path / "many.tiff", save_all=True, append_images=frames[1:])
    out = tmp_path / "out"
    assert run(tmp_path / "many.tiff", "--out-dir", out, "--formats", "svg") == 0
    assert "3 pages" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["many.svg"]
    assert run(tmp_path / "many.tiff", "--out-dir", out, "--pages", "all", "--formats", "json") == 0
    assert {path.name for path in out.glob("*.json")} == {f"many-00{i}.json" for i in (1, 2, 3)}
    starts = [Drawing.open(out / f"many-00{i}.json")[0].control[0, 0, 1] for i in (1, 2, 3)]
    assert np.allclose(starts, [30, 35, 40], atol=0.5)
    capsys.readouterr()
    assert run(tmp_path / "many.tiff", "--out-dir", out, "--method", "guide") == 0
    assert "3 pages; the first is parsed (the guide" in capsys.readouterr().err


def test_options_reach_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "x.png")
    out = ("--out-dir", tmp_path)
    assert run(tmp_path / "x.png", *out, "--size", "50mm", "--background", "none") == 0
    text = (tmp_path / "x.svg").read_text()
    assert 'width="50mm" height="45mm"' in text and "<rect" not in text
    assert run(tmp_path / "x.png", *out, "--method", "guide") == 0
    assert Drawing.open(tmp_path / "x.json").width == 100
    capsys.readouterr()
    for arguments, said in (
        (("--size", "big"), "positive length"),
        (("--formats", "png"), "none of"),
        (("--method", "guide", "--max-strokes", 3), "--max-strokes"),
        (("--method", "guide", "--jobs", 2), "--jobs"),
    ):
        assert run(tmp_path / "x.png", *out, *arguments) != 0
        assert said in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty") != 0
    assert "no pictures" in capsys.readouterr().err


def test_a_parse_does_not_depend_on_threads(tmp_path: Path) -> None:
    picture(tmp_path / "x.png")
    found = []
    for threads in ("1", "2"):
        code = (
            "import json; from dood_pyro.parsing import parse_picture; "
            f"print(json.dumps(parse_picture({str(tmp_path / 'x.png')!r}).json()))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(Drawing.from_json(done.stdout))
    for a, b in zip(*found, strict=True):
        assert np.abs(a.control - b.control).max() < 1e-3


def test_names_that_would_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture is never written over, nor one picture's files by another's."""
    picture(tmp_path / "x.png")
    Image.open(tmp_path / "x.png").save(tmp_path / "x.gif")
    before = (tmp_path / "x.gif").read_bytes()
    assert run(tmp_path / "x.gif", "--out-dir", tmp_path, "--formats", "gif") != 0
    assert "another folder" in capsys.readouterr().err
    assert (tmp_path / "x.gif").read_bytes() == before
    frame = Image.open(tmp_path / "x.png")
    frame.save(tmp_path / "m.tif", save_all=True, append_images=[frame])
    frame.save(tmp_path / "m-001.png")
    both = (tmp_path / "m.tif", tmp_path / "m-001.png", "--pages", "all")
    assert run(*both, "--out-dir", tmp_path / "out") != 0
    assert "called m-001" in capsys.readouterr().err


def test_pictures_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """x.png and x.bmp of a folder are two drawings; x.png of two folders would be one file."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    picture(folder / "x.png")
    picture(folder / "y.png", 5.0)
    frame = Image.open(folder / "y.png")
    frame.save(folder / "x.bmp")
    for method in ("ink", "guide"):
        to = out / method
        assert run(folder, "--out-dir", to, "--formats", "json", "--method", method) == 0
        assert {path.name for path in to.iterdir()} == {"x.png.json", "x.bmp.json", "y.json"}
    drawn = out / "ink" / "x.bmp.json"
    assert Drawing.open(drawn)[0].control[0, 0, 1] == pytest.approx(35, abs=0.5)
    other = tmp_path / "other"
    other.mkdir()
    picture(other / "x.png")
    capsys.readouterr()
    assert run(folder / "x.png", other / "x.png", "--out-dir", out) != 0
    assert "called x.png" in capsys.readouterr().err
    glyphs = ("--font", tmp_path / "f.ufo")
    assert run(folder, "--out-dir", out, *glyphs) != 0
    assert "2 pictures are called x;" in capsys.readouterr().err


def test_a_picture_named_as_anothers_drawing(tmp_path: Path) -> None:
    """The drawing of x.png is x.png beside an x.bmp; that of x.png.bmp is then another."""
    for name in ("x.png", "x.bmp", "x.png.bmp", "y.png"):
        picture(tmp_path / name)
    assert run(tmp_path, "--out-dir", tmp_path / "out", "--formats", "json") == 0
    drawn = {path.name for path in (tmp_path / "out").iterdir()}
    assert drawn == {"x.png.json", "x.bmp.json", "x.png.bmp.json", "y.json"}


def test_a_blank_page_does_not_end_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "x.png")
    frame = Image.open(tmp_path / "x.png")
    pages = [Image.new("L", frame.size, 255), frame]
    frame.save(tmp_path / "m.tif", save_all=True, append_images=pages)
    out = tmp_path / "out"
    assert run(tmp_path / "m.tif", "--pages", "all", "--out-dir", out, "--formats", "svg") != 0
    said = capsys.readouterr().err
    assert "page 2" in said and "1 of 3 pictures" in said
    assert {path.name for path in out.iterdir()} == {"m-001.svg", "m-003.svg"}


def test_colours_cannot_break_the_document() -> None:
    drawing = a_drawing()
    for colour in ("a&b", '#fff" onload="x', "<script>", "whte", ""):
        for given in ({"colours": colour}, {"background": colour}):
            with pytest.raises(UserError, match="is no colour"):
                drawing.svg(**given)  # type: ignore[arg-type]
    for colour in ("hsl(120, 50%, 50%)", "rgb(1, 2, 3)", "none", "#abc"):
        document = ElementTree.fromstring(drawing.svg(colours=colour, background=colour))
        assert [each.get("fill") for each in document if each.tag.endswith("rect")] == [colour]
    values = drawing.json()
    for wrong in (
        {"width": float("inf")},
        {"height": 0},
        {"strokes": [{**values["strokes"][0], "colour": '"/><script>'}]},
        {"strokes": [{**values["strokes"][0], "width": -1}]},
        {"strokes": [{**values["strokes"][0], "width": 9e5}]},
        {"strokes": [{**values["strokes"][0], "darkness": float("nan")}, values["strokes"][1]]},
        {"strokes": [{**values["strokes"][0], "confidence": 5}]},
        {"explained": float("nan")},
        {"given": 3},
        {"given": -1},
        {"log_density": "abc"},
        {"log_density": float("inf")},
    ):
        with pytest.raises(UserError, match="no drawing"):
            Drawing.from_json({**values, **wrong})


def test_options_of_the_other_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "x.png")
    for options, said in (
        (("--method", "guide", "--paper", "flat"), "--paper"),
        (("--method", "ink", "--run", "omniglot"), "--run"),
    ):
        assert run(tmp_path / "x.png", "--out-dir", tmp_path, *options) != 0
        assert said in capsys.readouterr().err


def test_folders_with_pictures_of_other_kinds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    picture(folder / "a.png", 0.0)
    for name, kind in (("b.jp2", "JPEG2000"), ("c.jfif", "JPEG")):
        Image.open(folder / "a.png").convert("RGB").save(folder / name, kind)
    for name in ("d.pdf", "e.svg", "f.txt"):
        (folder / name).write_text("nothing")
    assert run(folder, "--out-dir", tmp_path / "found", "--formats", "svg") == 0
    found = sorted(path.name for path in (tmp_path / "found").iterdir())
    assert found == ["a.svg", "b.svg", "c.svg"]
    said = capsys.readouterr().err
    assert "d.pdf is left out: turn its pages into PNG" in said
    assert "e.svg" not in said and "f.txt" not in said


def test_names_that_are_no_folder_and_no_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture(tmp_path / "a.png", 0.0)
    assert run(tmp_path / "a.png", "--out", tmp_path / "a.svg") == 1
    assert "names a folder" in capsys.readouterr().err and not (tmp_path / "a.svg").exists()
    with pytest.raises(UserError, match="an address; fetch the picture"):
        parse_picture("https://example.com/a.png")
