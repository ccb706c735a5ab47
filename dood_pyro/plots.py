"""Sheets of drawings, figures and their files: images, and each drawing after every stroke, strokes
coloured by order.
Used by every task that writes a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from dood_pyro.canvas_drawing import STROKE_COLOURS, CanvasDrawing
from dood_pyro.data import name_of
from dood_pyro.files import write_atomically
from dood_pyro.guides.base import Guide
from dood_pyro.images import Images, as_batch
from dood_pyro.inference.guide_parses import Parse, parse
from dood_pyro.models.base import DrawingModel
from dood_pyro.recognition import drawings_from_parse
from dood_pyro.rendering import canvas_from_ink, ink_from_canvas

CELL = 80
"""Pixels per side of one picture on a sheet."""
GAP = 4
"""Pixels between pictures on a sheet."""
LABEL = 13
"""Height of labels on a sheet, pixels."""


def canvas_inks(
    canvases: Float[Tensor, "steps size size"],
) -> Float[Tensor, "steps cell cell"]:
    """Ink that each step adds to a canvas, enlarged to `CELL` pixels per side: for models that draw no
    curves."""
    if not len(canvases):
        return torch.zeros(0, CELL, CELL)
    ink = ink_from_canvas(canvases.cpu())
    more = ink - torch.cat([torch.zeros_like(ink[:1]), ink[:-1]])
    enlarged = torch.nn.functional.interpolate(more[None], size=(CELL, CELL), mode="bilinear")
    return enlarged[0].clamp(min=0)


def step_inks(
    parsed: Parse, drawings: Sequence[CanvasDrawing]
) -> list[Float[Tensor, "strokes size size"]]:
    """Ink of each stroke of each drawing.

    Args:
        parsed: the parse; its canvases are used if there are no drawings.
        drawings: the parse's drawings; empty for models that draw no curves.
    """
    if drawings:
        return [drawing.inks(CELL) for drawing in drawings]
    counts = parsed.alive.sum(0).long().tolist()
    return [canvas_inks(parsed.canvas[:count, i]) for i, count in enumerate(counts)]


def colour_steps(
    inks: Float[Tensor, "strokes size size"], steps: int
) -> UInt8[np.ndarray, "steps size size 3"]:
    """Pictures of a drawing on white after 1…``steps`` strokes, each stroke in the colour of its order.

    Where strokes cross, their colours mix by their ink. After a drawing's last stroke its picture stays
    the same.
    """
    colours = torch.tensor([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in STROKE_COLOURS])
    size = inks.shape[-1]
    ink = torch.zeros(size, size)
    tint = torch.zeros(size, size, 3)
    pictures = [torch.full((size, size, 3), 255.0)]
    for index, more in enumerate(inks):
        ink = ink + more
        tint = tint + more[..., None] * (colours[index % len(colours)] / 255)
        opacity = canvas_from_ink(ink)[..., None]
        mixed = tint / ink[..., None].clamp(min=1e-6)
        pictures.append(255 * (1 - opacity + opacity * mixed))
    chosen = [pictures[min(step, len(inks))] for step in range(1, steps + 1)]
    return torch.stack(chosen).round().clamp(0, 255).byte().numpy()


def stepwise_sheet(
    images: Float[Tensor, "count size size"],
    inks: Sequence[Float[Tensor, "strokes cell cell"]],
    steps: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """Sheet with one column per drawing: the image on top, then the drawing after each of ``steps``
    strokes.

    Args:
        inks: ink of each stroke of each drawing (`step_inks`).
    """
    columns = []
    for image, strokes in zip(images, inks, strict=True):
        cells = [grey_cell(enlarge(image)), *colour_steps(strokes, steps)]
        columns.append(np.concatenate([_framed(cell) for cell in cells]))
    names = ["picture", *(f"{step} stroke{'s' * (step > 1)}" for step in range(1, steps + 1))]
    return labelled(np.concatenate(columns, axis=1), names)


def draw_steps(
    images: Images, parsed: Parse, curves: bool
) -> tuple[UInt8[np.ndarray, "height width 3"], list[CanvasDrawing]]:
    """Sheet of images and their drawings after every stroke, and the drawings as strokes.

    Args:
        curves: whether the model draws curves (`DrawingModel.draws_curves`). If not, the list is empty
            and the sheet shows the parse's canvases.
    """
    drawings = drawings_from_parse(parsed) if curves else []
    pixels = as_batch(images).pixels
    return stepwise_sheet(pixels, step_inks(parsed, drawings), len(parsed.alive)), drawings


def preview(
    model: DrawingModel[Any], guide: Guide, images: Images
) -> UInt8[Tensor, "3 height width"]:
    """Sheet of images and their drawings, channels first as TensorBoard takes pictures."""
    sheet, _ = draw_steps(images, parse(model, guide, images), model.draws_curves)
    return torch.from_numpy(sheet).permute(2, 0, 1)


def grid_sheet(
    cells: Sequence[UInt8[np.ndarray, "size size 3"]],
) -> UInt8[np.ndarray, "height width 3"]:
    """Sheet of pictures in rows, as square as possible."""
    across = max(1, int(np.ceil(len(cells) ** 0.5)))
    blank = np.full((CELL, CELL, 3), 255, dtype=np.uint8)
    full = [*cells, *[blank] * (-len(cells) % across)]
    return rows_sheet([full[i : i + across] for i in range(0, len(full), across)])


def rows_sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "size size 3"]]],
) -> UInt8[np.ndarray, "height width 3"]:
    """Sheet of pictures in rows of equal length."""
    return np.concatenate([np.concatenate([_framed(c) for c in row], axis=1) for row in rows])


def labelled(
    sheet: UInt8[np.ndarray, "height width 3"],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> UInt8[np.ndarray, "labelled_height labelled_width 3"]:
    """A sheet of pictures with names of its rows on the left, and of its first columns on top."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(LABEL)
    left = round(max(map(font.getlength, rows), default=-LABEL)) + LABEL
    top = 2 * LABEL if columns else 0
    page = Image.new("RGB", (sheet.shape[1] + left, sheet.shape[0] + top), "white")
    page.paste(Image.fromarray(sheet), (left, top))
    pen, side = ImageDraw.Draw(page), CELL + GAP
    for index, name in enumerate(rows):
        place = left - LABEL // 2, top + round((index + 0.5) * side)
        pen.text(place, name, "black", font, anchor="rm")
    for index, name in enumerate(columns):
        pen.text((left + index * side + GAP, LABEL), name, "black", font, anchor="lm")
    return np.array(page)


def grey_cell(image: Float[Tensor, "size size"]) -> UInt8[np.ndarray, "size size 3"]:
    """Black on white bytes of a picture, ink bright in [0, 1]."""
    paper = (255 * (1 - image.cpu())).round().clamp(0, 255).byte().numpy()
    return np.repeat(paper[..., None], 3, axis=-1)


def enlarge(image: Float[Tensor, "size size"]) -> Float[Tensor, "cell cell"]:
    """Enlarge an image to `CELL` pixels per side by nearest neighbour: its pixels stay visible."""
    return torch.nn.functional.interpolate(image[None, None].cpu(), size=(CELL, CELL))[0, 0]


def _framed(cell: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "framed framed 3"]:
    """A picture in a light grey frame of `GAP` / 2 pixels."""
    framed = np.full((cell.shape[0] + GAP, cell.shape[1] + GAP, 3), 225, dtype=np.uint8)
    framed[GAP // 2 : -(GAP // 2), GAP // 2 : -(GAP // 2)] = cell
    return framed


TITLES = {
    "mnist": "MNIST",
    "emnist": "EMNIST",
    "kmnist": "KMNIST",
    "quickdraw": "QuickDraw",
    "omniglot": "Omniglot",
}
"""Titles of the paper's sources in figures."""


def source_title(source: str) -> str:
    """Title of a source in figures."""
    name = name_of(source)
    return TITLES.get(name, name)


def new_figure(width: float, height: float) -> Any:
    """Create a matplotlib figure, width and height in inches, that needs no display and no closing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, out: Path) -> list[Path]:
    """Write a matplotlib figure as PNG and as PDF, to ``out`` with these suffixes; return the paths.

    Raises:
        UserError: a file cannot be written.
    """
    import io

    paths = []
    for suffix in (".png", ".pdf"):
        buffer = io.BytesIO()
        # Without a date in the PDF, equal figures are equal files.
        metadata = {"CreationDate": None} if suffix == ".pdf" else None
        figure.savefig(buffer, format=suffix[1:], dpi=200, bbox_inches="tight", metadata=metadata)
        paths.append(out.with_suffix(suffix))
        write_atomically(paths[-1], buffer.getvalue())
    return paths


def save_png(
    path: Path, sheet: UInt8[np.ndarray, "height width 3"] | UInt8[np.ndarray, "height width"]
) -> None:
    """Write a sheet, in colours or grey, as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    write_atomically(path, buffer.getvalue())
