"""What the page asks for, computed: values for JSON from values of JSON.
`dood_pyro.page.server` carries them.

A request names a run by its folder's name alone, and an answer never holds a path of the machine.
"""

from __future__ import annotations

import base64
import binascii
import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from dood_pyro.devices import seeded
from dood_pyro.drawing import Drawing
from dood_pyro.drawing_files import WRITERS
from dood_pyro.errors import UserError
from dood_pyro.inference.ink.parse_ink import MAX_STROKES
from dood_pyro.pictures import MAX_SIDE
from dood_pyro.recognition import Method, Recognizer, load, open_run, trained_weights
from dood_pyro.registry import load_component
from dood_pyro.run_folders.run import Run

MOST_PICTURES = 20
"""Examples that one drawing is compared with."""
MOST_DRAWINGS = 24
"""Drawings of one answer."""
KINDS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Kinds of pictures that are read: those of browsers."""
FARTHEST = 4
"""Farthest that control points of a drawing to be saved lie from it, in units of its longer side."""
LONGEST = 2000
"""Most curves of a drawing to be saved."""
LOADED = 3
"""Runs that are kept loaded."""
FORMATS = {
    "svg": "image/svg+xml",
    "json": "application/json",
    "gif": "image/gif",
    "npz": "application/octet-stream",
}
"""Kinds of files, by suffix, with their media types."""


class Answers:
    """Answers to a page's requests.

    Args:
        folder: of the runs that the menu has, beside the weights that come with the package.
    """

    def __init__(self, folder: Path = Path("runs")) -> None:
        self.folder = folder
        self._loaded: OrderedDict[str, Recognizer] = OrderedDict()
        # Of what is loaded; and a request's programs follow each other.
        self._programs = threading.Lock()
        self.tasks: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "runs": lambda given: {"runs": self.runs()},
            "parse": self.parse,
            "complete": self.complete,
            "exemplars": self.exemplars,
            "samples": self.samples,
            "rank": self.rank,
            "steps": self.steps,
        }

    # Runs.

    def _found(self) -> dict[str, Run]:
        """Runs by name: those that come with the package, then those that lie in the runs' folder."""
        found = {name: open_run(name) for name in trained_weights()}
        paths = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        for path in paths:
            if path.name not in found and (path / "best.safetensors").is_file():
                found[path.name] = Run(path)
        return found

    def runs(self) -> list[dict[str, str]]:
        """Names and descriptions of the runs that draw strokes."""
        known = []
        for name, run in self._found().items():
            try:
                config = run.trusted_config()
            except UserError:
                continue
            if load_component("model", config.model_name).draws_curves:
                known.append({"name": name, "model": config.model_name})
        return known

    def _dood(self, given: Mapping[str, Any]) -> Recognizer:
        """The run that a request names; called with `_programs` held."""
        name, runs = _text(given, "run"), self._found()
        if name not in runs:
            raise UserError(f"there is no run {name!r}: choose one of the menu")
        path = runs[name].path
        # A run that trains on has other weights later.
        key = f"{name} {(path / 'best.safetensors').stat().st_mtime_ns}"
        if key not in self._loaded:
            try:
                self._loaded[key] = load(runs[name])
            except UserError as error:
                raise UserError(str(error).replace(str(path), name)) from None
        self._loaded.move_to_end(key)
        while len(self._loaded) > LOADED:
            self._loaded.popitem(last=False)
        return self._loaded[key]

    # Tasks.

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Strokes of a picture, by its ink or by a run's guide."""
        picture = _picture(given.get("picture"))
        method = _text(given, "method", "ink")
        if method not in get_args(Method):
            raise UserError("a picture is parsed by 'ink' or 'guide'")
        if method == "ink":
            from dood_pyro.parsing import InkOptions, parse_picture

            most = _number(given, "max_strokes", MAX_STROKES, 1, MAX_STROKES)
            return {"drawing": parse_picture(picture, InkOptions(max_strokes=int(most))).json()}
        with self._programs:
            return {"drawing": self._dood(given).parse(picture, method="guide").json()}

    def complete(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Ways in which the prior goes on with a picture."""
        picture, (count, seed) = _picture(given.get("picture")), _count_and_seed(given)
        with self._programs:
            return {"drawings": self._dood(given).complete(picture, count, seed=seed).json()}

    def exemplars(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """New exemplars of a picture's character."""
        picture, (count, seed) = _picture(given.get("picture")), _count_and_seed(given)
        with self._programs:
            return {"drawings": self._dood(given).exemplars(picture, count, seed=seed).json()}

    def samples(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Samples of a run's prior."""
        count, seed = _count_and_seed(given)
        temperature = _number(given, "temperature", 1.0, 0.05, 2.0)
        with self._programs:
            return {"drawings": self._dood(given).sample(count, seed, temperature).json()}

    def rank(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Which examples a picture is like: their numbers, likeliest first, and how many nats each is
        behind the first."""
        from dood_pyro.tasks.one_shot import Settings, scores, types_of

        examples = given.get("examples")
        if not isinstance(examples, list) or not 2 <= len(examples) <= MOST_PICTURES:
            raise UserError(f"give 2 to {MOST_PICTURES} examples to choose from")
        pictures = [_picture(each) for each in [*examples, given.get("picture")]]
        with self._programs:
            dood = self._dood(given)
            prepared, _ = dood.prepare(pictures)
            settings = Settings(parses=2, steps=30)
            with seeded(0, dood.device):
                types = types_of(dood, prepared[:-1].to(dood.device), settings)
                found = scores(types, prepared[-1:].to(dood.device), settings)[0]
        order = found.argsort(descending=True)
        behind = (found[order[0]] - found[order]).tolist()
        return {"order": order.tolist(), "behind": [round(each, 1) for each in behind]}

    def steps(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the guide sees and does, step by step (Fig. 2)."""
        from dood_pyro.images import ImageBatch
        from dood_pyro.rendering import curve_points
        from dood_pyro.tasks.anatomy import steps_of

        picture = _picture(given.get("picture"))
        with self._programs:
            dood = self._dood(given)
            prepared, (side,) = dood.prepare([picture])
            ink_size = dood.model.ink_size(max(side))  # as a parse has it
            found = steps_of(dood, ImageBatch(prepared.to(dood.device), ink_size))
        return {
            "steps": [
                {
                    "on": round(step.on, 3),
                    "residual": _png(step.residual),
                    "frame": None if step.frame is None else step.frame.tolist(),
                    "glimpse": None if step.glimpse is None else _png(step.glimpse),
                    "stroke": None
                    if step.stroke is None
                    else curve_points(step.stroke, 32)[0].tolist(),
                    "canvas": None if step.canvas is None else _png(step.canvas),
                }
                for step in found
            ]
        }


def file_of(given: Mapping[str, Any]) -> tuple[bytes, str, str]:
    """A drawing as a file: contents, media type and suffix.

    Raises:
        UserError: it is no drawing, or there is no such format.
    """
    suffix = _text(given, "format")
    if suffix not in FORMATS:
        raise UserError(f"a drawing is saved as {', '.join(FORMATS)}")
    values = given.get("drawing")
    drawing = Drawing.from_json(values if isinstance(values, Mapping) else {})
    side = max(drawing.width, drawing.height)
    curves = [curve for stroke in drawing for curve in stroke.control]
    if side > MAX_SIDE or len(curves) > LONGEST:
        raise UserError(
            f"a drawing of more than {LONGEST} curves or {MAX_SIDE} pixels is not saved"
        )
    if any(abs(curve).max() > FARTHEST * side for curve in curves):
        raise UserError("a control point lies too far from the drawing")
    if suffix == "svg":
        content = drawing.svg(background=None).encode()
    else:
        content = WRITERS[f".{suffix}"](drawing, "drawing")
    return content, FORMATS[suffix], suffix


def _text(given: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = given.get(name, default)
    if not isinstance(value, str):
        raise UserError(f"the request lacks its {name}")
    return value


def _number(
    given: Mapping[str, Any], name: str, default: float, least: float, most: float
) -> float:
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{name} is a number")
    if not least <= value <= most:
        raise UserError(f"{name} lies between {least:g} and {most:g}")
    return float(value)


def _count_and_seed(given: Mapping[str, Any]) -> tuple[int, int]:
    count = int(_number(given, "count", 6, 1, MOST_DRAWINGS))
    return count, int(_number(given, "seed", 0, 0, 2**31))


def _picture(data: Any) -> Any:
    """PIL image of a data URL, as browsers make them.

    Raises:
        UserError: it is none.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(data, str) or not data.startswith("data:image/") or "," not in data:
        raise UserError("the request lacks its picture")
    try:
        raw = base64.b64decode(data.partition(",")[2], validate=True)
        image = Image.open(io.BytesIO(raw), formats=KINDS)
        if max(image.size) > MAX_SIDE:
            raise UserError(f"the picture has more than {MAX_SIDE} pixels a side")
        image.load()
    except (binascii.Error, UnidentifiedImageError, OSError, ValueError, SyntaxError):
        raise UserError("the picture cannot be read") from None
    except Image.DecompressionBombError:
        raise UserError("the picture is too large") from None
    return image


def _png(picture: Tensor) -> str:
    """Data URL of a picture from −1 (red) through 0 (white) to 1 (black)."""
    from PIL import Image

    values = picture.detach().cpu().clamp(-1, 1)
    rest = 1 - values.abs()
    red = torch.where(values < 0, 1 + 0.25 * values, rest)
    pixels = (torch.stack([red, rest, rest], dim=-1) * 255).round().byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
