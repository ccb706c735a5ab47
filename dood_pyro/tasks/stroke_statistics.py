"""Statistics of strokes and of how they go together: sampled drawings beside parses of real pictures.
The command ``statistics`` measures them.

What a prior has not learned shows here by name. Real pictures are parsed by samples of the guide: the
prior is fitted to these, and not to the guide's modes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro.devices import seeded
from dood_pyro.errors import UserError
from dood_pyro.inference.guide_parses import sample_parse
from dood_pyro.recognition import Recognizer
from dood_pyro.rendering import canvas_from_ink, curve_points
from dood_pyro.tasks.generate import in_batches
from dood_pyro.tokens import Strokes, strokes_from_parse

BATCH = 256
POINTS = 24
"""Points along a stroke."""
MEETS = 2.0
"""An end meets another stroke within so many of that stroke's standard deviations: in its ink."""

STATISTICS = {
    "strokes": "strokes of a drawing",
    "ink": "mean brightness of a picture",
    "width": "pen's standard deviation, canvas units",
    "width within": "standard deviation of its log within a drawing",
    "darkness": "ink in a stroke's middle",
    "darkness within": "its standard deviation within a drawing",
    "width taper": "half of what the log of the width gains along a stroke",
    "darkness taper": "half of what the darkness gains along a stroke",
    "x": "a stroke's middle, canvas units",
    "y": "a stroke's middle, canvas units, down",
    "first x": "where the first stroke starts, canvas units",
    "first y": "where the first stroke starts, canvas units, down",
    "length": "of a stroke, canvas units",
    "turning": "angle that a stroke turns by, radians",
    "direction x": "cosine of the direction from a stroke's start to its end",
    "direction y": "its sine",
    "extent": "larger side of a drawing's box, canvas units",
    "ends that meet": "share of a drawing's ends in another stroke's ink",
    "overlap": "share of a stroke's points in another stroke's ink",
    "travel": "from a stroke's end to the next one's start, canvas units",
}
"""Each with what it is. Those of a drawing are one number a drawing, the others one a stroke."""


@torch.no_grad()
def of_strokes(strokes: Strokes, size: int) -> dict[str, Float[np.ndarray, "numbers"]]:
    """All numbers of each statistic, over drawings or over strokes.

    Args:
        strokes: drawings, batch shape (drawings,).
        size: pixels per side of the pictures.
    """
    drawn = strokes.alive > 0
    count = drawn.sum(-1)
    several = count > 1
    curve, _ = curve_points(strokes.control, POINTS - 2)
    points = torch.cat([strokes.control[..., :1, :], curve, strokes.control[..., -1:, :]], dim=-2)
    steps = points[..., 1:, :] - points[..., :-1, :]
    directions = torch.atan2(steps[..., 1], steps[..., 0])
    turns = directions[..., 1:] - directions[..., :-1]
    turns = torch.remainder(turns + torch.pi, 2 * torch.pi) - torch.pi
    across = torch.nn.functional.normalize(points[..., -1, :] - points[..., 0, :], dim=-1)
    middle, (log_width, darkness) = points[..., POINTS // 2, :], strokes.pen[..., :2].unbind(-1)
    inside = _in_others_ink(points, log_width.exp(), drawn)
    ends = inside[..., [0, -1]].float().mean(-1)
    follow = drawn[:, 1:]
    travel = (strokes.control[:, 1:, 0] - strokes.control[:, :-1, -1]).norm(dim=-1)
    some = count > 0
    found = {
        "strokes": count.float(),
        "ink": canvas_from_ink(strokes.ink(size).sum(-3)).mean((-2, -1)),
        "width": log_width.exp()[drawn],
        "width within": _spread(log_width, drawn)[several],
        "darkness": darkness[drawn],
        "darkness within": _spread(darkness, drawn)[several],
        "x": middle[..., 0][drawn],
        "y": middle[..., 1][drawn],
        "first x": points[some, 0, 0, 0],
        "first y": points[some, 0, 0, 1],
        "length": steps.norm(dim=-1).sum(-1)[drawn],
        "turning": turns.abs().sum(-1)[drawn],
        "direction x": across[..., 0][drawn],
        "direction y": across[..., 1][drawn],
        "extent": _extent(points, drawn)[some],
        "ends that meet": (ends * drawn).sum(-1)[several] / count[several],
        "overlap": inside.float().mean(-1)[drawn & several[:, None]],
        "travel": travel[follow],
    }
    if strokes.pen.shape[-1] > 2:
        found["width taper"] = strokes.pen[..., 2][drawn]
        found["darkness taper"] = strokes.pen[..., 3][drawn]
    return {name: found[name].double().cpu().numpy() for name in STATISTICS if name in found}


def _spread(values: Tensor, drawn: Tensor) -> Float[Tensor, "drawings"]:
    """Standard deviation over a drawing's strokes."""
    count = drawn.sum(-1).clamp(min=1)
    mean = (values * drawn).sum(-1) / count
    return (((values - mean[:, None]) ** 2 * drawn).sum(-1) / count).sqrt()


def _extent(points: Tensor, drawn: Tensor) -> Float[Tensor, "drawings"]:
    """Larger side of a drawing's box."""
    here = drawn[..., None, None]
    low = points.masked_fill(~here, torch.inf).amin((1, 2))
    high = points.masked_fill(~here, -torch.inf).amax((1, 2))
    return (high - low).amax(-1)


def _in_others_ink(points: Tensor, width: Tensor, drawn: Tensor) -> Tensor:
    """Whether points of strokes lie in the ink of another stroke of their drawing: (drawings, strokes,
    points)."""
    strokes = points.shape[1]
    inside = torch.zeros(points.shape[:-1], dtype=torch.bool, device=points.device)
    for other in range(strokes):
        gap = torch.cdist(points.flatten(1, 2), points[:, other]).amin(-1)
        near = gap.unflatten(1, (strokes, -1)) < MEETS * width[:, other, None, None]
        near &= drawn[:, other, None, None]
        near[:, other] = False
        inside |= near
    return inside


class Compared(NamedTuple):
    """Sampled drawings, and samples of the guide for pictures of both parts of a source."""

    samples: Strokes
    train: Strokes
    test: Strokes


def draw_and_parse(
    dood: Recognizer, target: str, count: int, seed: int, data_dir: str | Path | None = None
) -> Compared:
    """``count`` drawings of each kind, or as many as the smaller part has.

    Raises:
        UserError: the target cannot be had, or the model draws no curves.
    """
    if not dood.model.draws_curves:
        raise UserError(
            f"a {dood.config.model_name} model draws no strokes whose statistics there are"
        )
    parts = [dood.load_images(target, count, part, data_dir) for part in ("train", "test")]
    count, native_size = min(count, *map(len, parts)), parts[0].native_size
    parts = [each[:count] for each in parts]
    sampled = map(strokes_from_parse, in_batches(dood.model, count, seed, native_size))

    def parsed(part: int) -> Iterator[Strokes]:
        with seeded(seed, dood.device):
            for images in parts[part].split(BATCH):
                yield strokes_from_parse(sample_parse(dood.model, dood.guide, images))

    return Compared(*(_together(each) for each in (sampled, parsed(0), parsed(1))))


def _together(parts: Iterator[Strokes]) -> Strokes:
    return Strokes(*(torch.cat(column) for column in zip(*parts, strict=True)))


def statistics(
    dood: Recognizer,
    target: str,
    count: int = 2500,
    seed: int = 0,
    data_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Statistics of a model's samples beside those of real pictures' parses, most unlike first.

    Returns:
        ``drawings``, how many of each kind; ``table``, by name of the statistic: ``samples``, ``train``
        and ``test``, means; ``unlike``, the Wasserstein distance of the samples' distribution from that
        of the training pictures' parses, in standard deviations of the latter; ``floor``, that of the
        test pictures' parses.

    Raises:
        UserError: the target cannot be had, or the model draws no curves.
    """
    from scipy.stats import wasserstein_distance

    drawings = draw_and_parse(dood, target, count, seed, data_dir)
    samples, train, test = (of_strokes(each, dood.size) for each in drawings)
    table: dict[str, dict[str, float]] = {}
    for name in train:
        numbers = [each[name] for each in (samples, train, test)]
        if not all(len(each) for each in numbers):
            continue  # no drawing has two strokes
        unit = max(float(train[name].std()), 1e-6)
        means = (float(each.mean()) for each in numbers)
        table[name] = dict(zip(("samples", "train", "test"), means, strict=True))
        table[name]["unlike"] = float(wasserstein_distance(numbers[0], numbers[1])) / unit
        table[name]["floor"] = float(wasserstein_distance(numbers[2], numbers[1])) / unit
    ordered = sorted(table, key=lambda name: -table[name]["unlike"])
    return {"drawings": len(drawings.samples.alive), "table": {n: table[n] for n in ordered}}
