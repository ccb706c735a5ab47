"""Recognition of pen strokes: a trained run, loaded, parses pictures into drawings.
`dood_pyro.load` is its entry point, and most tasks take its `Recognizer`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dood_pyro import data, geometry
from dood_pyro.canvas_drawing import CanvasDrawing
from dood_pyro.config import RunConfig
from dood_pyro.devices import choose_device, refuse_other_numbers, running_programs
from dood_pyro.drawing import Drawing, Drawings
from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide
from dood_pyro.hub import fetch, is_on_hub
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.guide_parses import ModelAndGuide, Parse, in_double, parse
from dood_pyro.inference.ink.paper import Paper
from dood_pyro.inference.ink.parse_ink import MAX_STROKES, Joins
from dood_pyro.models.base import DrawingModel
from dood_pyro.parsing import BY_DEFAULT, InkOptions, parse_picture, parse_ways
from dood_pyro.pictures import (
    CHANNELS,
    CHANNELS_FIRST,
    Polarity,
    padded,
    read_grey,
    resize,
)
from dood_pyro.registry import canonical, code_name, code_names
from dood_pyro.rendering import peak_ink
from dood_pyro.run_folders.run import Run, make_search_guide
from dood_pyro.stroke import Stroke, visible_width
from dood_pyro.tokens import Strokes, TokenNoise, strokes_from_parse

if TYPE_CHECKING:
    from dood_pyro.tasks.rows import Row

Method = Literal["ink", "guide"]
"""What parses a picture: its own ink, on a canvas of its size, or the run's guide."""
BATCH = 64
"""Images parsed at once: larger batches gain nothing on a CPU."""


def trained_weights() -> list[str]:
    """Names of the runs that come with the package."""
    folder = resources.files("dood_pyro") / "weights"
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if (entry / "config.json").is_file())


def open_run(run: Run | str | os.PathLike[str]) -> Run:
    """Open the run folder at a path, the trained weights of that name that come with the package, or a
    run of the Hugging Face hub (``hf://user/repository``); a run is open already.

    Raises:
        UserError: there is neither a folder nor such weights, or the hub has none.
    """
    if isinstance(run, Run):
        return run
    if not isinstance(run, (str, os.PathLike)):
        raise UserError(
            f"name a run, by its folder or as a dood_pyro.Run, in place of a {type(run).__name__}"
            + "; what is loaded measures itself: evaluate(...)" * isinstance(run, Recognizer)
        )
    if str(run) == "":
        raise UserError("the run has no name: give a run folder's path or the name of weights")
    if is_on_hub(str(run)):
        return Run(fetch(str(run)))
    # A folder of the weights' name that is no run folder must not hide the weights.
    if str(run) in trained_weights() and not (Path(run) / "config.json").exists():
        return Run(Path(str(resources.files("dood_pyro") / "weights" / str(run))))
    if not Path(run).exists():
        raise UserError(
            f"{run} is neither a run folder nor one of the trained weights that come with "
            f"dood-pyro ({', '.join(trained_weights()) or 'none'})"
        )
    return Run(Path(run))


@running_programs()
def load(
    run: Run | str | os.PathLike[str],
    device: str | torch.device = "cpu",
    which: str = "best",
    guide: str | type | None = None,
    trusted: Sequence[str | type] = (),
) -> Recognizer:
    """Load a run to parse and draw with: by its folder, by the name of trained weights
    (``"omniglot"``), or from the Hugging Face hub (``"hf://user/repository"``).

    Args:
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        which: ``"best"`` or ``"last"`` checkpoint.
        guide: ``"refined"``, ``"smc"`` or ``"per-image"`` to parse by one of these search guides
            over the run's own guide: slower, and closer to the posterior. Or the name
            ``module:Class`` of a guide that is not built in and that the run was trained with, or its
            class: code that a run folder names runs only if its name is repeated here.
        trusted: other names ``module:Class`` of code that the run folder may run, or the classes.

    Raises:
        UserError: there is no such run, or the run is damaged or of another version.
    """
    refuse_other_numbers()
    chosen = choose_device(device)
    opened = open_run(run)
    if guide is not None:
        guide = code_name("guide", guide)
    names = code_names(trusted)
    model, recognition, config = opened.load(which, guide, names)
    native_size = opened.read_facts().native_size
    dood = Recognizer(model.to(chosen), recognition.to(chosen), config, native_size)
    dood.loaded = Loaded(opened, which, guide, names)
    return dood


class Loaded(NamedTuple):
    """A run, and the arguments of `load`."""

    run: Run
    which: str
    guide: str | None
    trusted: tuple[str, ...]


class _InDouble(NamedTuple):
    """Copies of model and guide in float64, and what they were made of."""

    tensors: list[Tensor]
    versions: list[tuple[int, int]]
    programs: ModelAndGuide


class Recognizer:
    """A trained model and guide: to parse pictures with, and to draw.

    Attributes:
        loaded: what `load` made it of; None where it was made otherwise.
        model, guide: the Pyro programs.
        config: configuration that model and guide were built and trained with.
        native_size: pixels per side of the training images before they were resized; 0 if not known.
    """

    def __init__(
        self, model: DrawingModel[Any], guide: Guide, config: RunConfig, native_size: int = 0
    ) -> None:
        self.model, self.guide, self.config = model, guide, config
        self.native_size = native_size
        self.loaded: Loaded | None = None
        self._double: _InDouble | None = None

    def __repr__(self) -> str:
        source = data.name_of(canonical(self.config.train.source))
        return f"Recognizer({self.config.model_name} trained on {source})"

    @property
    def prefers_guide(self) -> bool:
        """Whether pictures are parsed by the run's guide unless told: one was named to `load`, it
        searches, or the model draws no curves."""
        named = self.loaded is not None and self.loaded.guide is not None
        return named or self.guide.searches or not self.model.draws_curves

    @property
    def size(self) -> int:
        """Pixels per side of the canvas."""
        return self.config.model.canvas_size

    @property
    def device(self) -> torch.device:
        """Device of the model's weights."""
        return self.model.device

    def load_images(
        self, source: str, count: int | None, part: str = "test", data_dir: str | Path | None = None
    ) -> ImageBatch:
        """Load the first ``count`` images of a source's shuffle of seed 0, on the model's device.

        Raises:
            UserError: the source cannot be had.
        """
        return data.load(source, part, self.size, data_dir).batch(count, self.device)

    def prepare(
        self, pictures: Sequence[Any], polarity: Polarity = "auto"
    ) -> tuple[Float[Tensor, "count size size"], list[tuple[int, int]]]:
        """Read pictures and resize them to the canvas, each with its brightest ink at 1.

        Returns:
            The pictures, in [0, 1], and the width and height that each had, pixels.

        Raises:
            UserError: as for `parse`.
        """
        resized, sizes = [], []
        for picture in pictures:  # one after the other: scans are large, canvases are not
            read = read_grey(picture, polarity)
            resized.append(resize(padded(read), self.size))
            sizes.append((read.shape[1], read.shape[0]))
        stack = torch.stack(resized).clamp(0, 1)
        peak = stack.amax((-1, -2), keepdim=True)
        return stack / peak.clamp(min=1e-6), sizes

    @running_programs()
    def infer(self, images: Images) -> Parse:
        """Compute the guide's modes for images (`inference.guide_parses.parse`), in double precision,
        so that an image's parse does not depend on the other images of the batch.

        Raises:
            UserError: they are not of the canvas's size, or hold numbers that are not finite.
        """
        refuse_other_numbers()
        batch = self.model.batch(images)
        if not bool(batch.pixels.isfinite().all()):
            raise UserError("the images hold numbers that are not finite; make them 0 to 1")
        return parse(*self._in_double(), batch)

    def _in_double(self) -> ModelAndGuide:
        """Copies of model and guide in float64, made again if model, guide or their weights changed."""
        if self.guide.searches:
            # A search guide's model and guide are not submodules, so changes of their weights would go
            # unnoticed; beside a search, the time of a copy is negligible.
            return in_double(self.model, self.guide)
        tensors = [
            tensor
            for module in (self.model, self.guide)
            for tensor in module.state_dict(keep_vars=True).values()
        ]
        # The tensors themselves are kept: an address or id alone may come back for another one.
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]
        kept = self._double
        if (
            kept is None
            or len(kept.tensors) != len(tensors)
            or any(a is not b for a, b in zip(kept.tensors, tensors, strict=True))
            or kept.versions != versions
        ):
            kept = _InDouble(tensors, versions, in_double(self.model, self.guide))
            self._double = kept
        return kept.programs

    def parse(
        self,
        images: Any,
        polarity: Polarity = "auto",
        method: Method | None = None,
        paper: Paper = "auto",
        joins: Joins = "learned",
        max_strokes: int = MAX_STROKES,
    ) -> Any:
        """Parse one picture, or many, into strokes in the picture's own pixels.

        By ``method="ink"``, proposals come from the ink itself, on a canvas of the picture's size, with
        as many strokes as the ink has; `dood_pyro.inference.ink.parse_ink` says what is maximised. The
        trained model and guide have no part in it. By ``method="guide"``, the run's own guide
        parses the picture on the model's canvas, with at most as many strokes as the model draws: what
        every research command does.

        Args:
            images: one picture (path, PIL image, numpy array or tensor: (height, width) or with 1,
                3 or 4 channels first or last), or many: a list of pictures, an array of four
                dimensions, or an array of three dimensions whose first and last cannot be channels.
                (To parse three grey pictures, give a list.) For the guide, pictures are padded to a
                square; one with fewer pixels per side than the canvas, down to half as many, is drawn
                on its own number of pixels (`models.base.DrawingModel.ink_size`).
            polarity: ``"bright-ink"``, ``"dark-ink"`` or ``"auto"``: as what lies on the paper is.
            method: ``"ink"`` or ``"guide"``; None for the guide if the run was loaded with one, or
                draws no curves, and for the ink otherwise.
            paper: of ``"ink"``: ``"flat"`` for paper of one colour, from which nothing is taken away.
            joins: of ``"ink"``: ``"angles"`` for nothing learned.
            max_strokes: of ``"ink"``: most strokes; the longest are kept.

        Returns:
            A `Drawing` for one picture, a list of drawings for many.

        Raises:
            UserError: an entry is not a picture, or is blank, too small or too large; or the guide is
                to parse, and the model draws no curves, or what is of ``"ink"`` is given.
        """
        if method not in (None, "ink", "guide"):
            raise UserError(f"a picture is parsed by 'ink' or 'guide', not {method!r}")
        many, pictures = as_pictures(images)
        if not pictures:
            return []
        options = InkOptions(polarity, paper, joins, max_strokes)
        if method == "guide" or (method is None and self.prefers_guide):
            for name, given, usual in zip(options._fields, options, BY_DEFAULT, strict=True):
                if name != "polarity" and given != usual:
                    raise UserError(f"{name} is of method 'ink', and the guide parses here")
            found = self._parse_by_guide(pictures, polarity)
        else:
            found = [parse_picture(picture, options) for picture in pictures]
        return found if many else found[0]

    def parses(self, picture: Any, count: int = 5, polarity: Polarity = "auto") -> list[Drawing]:
        """Up to ``count`` different parses of one picture by its ink, each with its ``log_density``,
        highest first.

        Raises:
            UserError: as for `parse`, or ``count`` is below 1.
        """
        return parse_ways(picture, count, InkOptions(polarity))

    @running_programs()
    def refine(self, images: Any, polarity: Polarity = "auto", guide: str = "refined") -> Any:
        """Parse by the run's own guide and a search guide over it: slower, and closer to the posterior.

        Args:
            images: as for `parse`, with what it returns.
            guide: ``"refined"``, ``"smc"`` or ``"per-image"``.

        Raises:
            UserError: as for `parse`, or there is no such search guide.
        """
        over = make_search_guide(guide, self.model, self.guide).eval()
        searching = Recognizer(self.model, over, self.config, self.native_size)
        return searching.parse(images, polarity, "guide")

    def evaluate(self, target: str, **options: Any) -> Row:
        """Measure how well the run explains a target; see `dood_pyro.evaluate` for options and row.

        Raises:
            UserError: as there, or this was not made by `load`.
        """
        from dood_pyro.tasks.evaluate import evaluate

        if self.loaded is None:
            raise UserError(
                "only what dood_pyro.load made can be evaluated: save the run and load it"
            )
        run, which, guide, trusted = self.loaded
        as_loaded = {"which": which, "guide": guide, "trusted": trusted, "device": self.device}
        return evaluate(run, target, **{**as_loaded, **options})

    @running_programs()
    def sample(self, count: int = 1, seed: int = 0, temperature: float = 1.0) -> Drawings:
        """Drawings sampled from the prior (Fig. 6), the same ones for a seed, in pixels of the canvas.

        Args:
            temperature: below 1 for what is likelier (`inference.guide_parses.sample_prior`).

        Raises:
            UserError: a value is out of range, or the model draws no curves.
        """
        from dood_pyro.tasks.as_drawings import samples

        refuse_other_numbers()
        return samples(self, count, seed, temperature)

    @running_programs()
    def complete(
        self,
        images: Any,
        each: int = 6,
        strokes: int | None = None,
        seed: int = 0,
        polarity: Polarity = "auto",
    ) -> Any:
        """Ways in which the prior goes on with drawings that were begun (Fig. 8).

        Args:
            images: one picture, or many, as for `parse`.
            each: continuations of each picture.
            strokes: number of first strokes of a picture's parse by the guide to go on from; None for
                the whole picture, of which the drawings then have the strokes of its ink.

        Returns:
            `Drawings` in the picture's own pixels for one picture, a list of them for many. The first
            ``drawing.given`` strokes of each are what was there.

        Raises:
            UserError: as for `parse`, a value is out of range, or the model draws no curves.
        """
        from dood_pyro.tasks.as_drawings import completions

        return completions(self, images, each, strokes, seed, polarity)

    @running_programs()
    def exemplars(
        self,
        images: Any,
        each: int = 6,
        noise: TokenNoise | None = None,
        seed: int = 0,
        polarity: Polarity = "auto",
    ) -> Any:
        """New exemplars of characters: tokens of the type that the guide's parse is (Fig. 7).

        Args:
            images: one picture, or many, as for `parse`.
            each: exemplars of each picture.
            noise: how far tokens are from their type; default `TokenNoise`.

        Returns:
            `Drawings` in the picture's own pixels for one picture, a list of them for many.

        Raises:
            UserError: as for `parse`, a value is out of range, or the model draws no curves.
        """
        from dood_pyro.tasks.as_drawings import new_exemplars

        return new_exemplars(self, images, each, noise, seed, polarity)

    def _parse_by_guide(self, pictures: Sequence[Any], polarity: Polarity) -> list[Drawing]:
        prepared, sides = self.prepare(pictures, polarity)
        found: dict[int, Drawing] = {}
        ink_sizes = [self.model.ink_size(max(frame)) for frame in sides]
        for ink_size in set(ink_sizes):  # a batch is drawn at one ink size
            rows = [row for row, each in enumerate(ink_sizes) if each == ink_size]
            drawings = self.drawings(ImageBatch(prepared[rows], ink_size))
            for row, drawing in zip(rows, drawings, strict=True):
                explained = explained_share(prepared[row], drawing)
                found[row] = drawing.in_pixels(*sides[row], explained)
        return [found[row] for row in range(len(sides))]

    def drawings(self, images: Images) -> list[CanvasDrawing]:
        """Parse images at the canvas's size, in [0, 1], ink bright, into drawings.

        Raises:
            UserError: the model draws no curves.
        """
        found: list[CanvasDrawing] = []
        if not self.model.draws_curves:
            raise UserError(
                f"a {self.config.model_name} model draws no pen strokes; its reconstructions are "
                "shown by dood-pyro reconstruct"
            )
        for batch in as_batch(images).split(BATCH):
            found += drawings_from_parse(self.infer(batch.to(self.device)))
        return found


def drawings_from_parse(parsed: Parse) -> list[CanvasDrawing]:
    """One `CanvasDrawing` per image of a parse by a model that draws curves."""
    scale = parsed.values["layout"][..., 0].clamp(min=geometry.MIN_LAYOUT_SCALE)
    std = parsed.std.get("stroke", torch.zeros_like(parsed.values["stroke"]))
    spread = std.square().mean((-1, -2)).sqrt() * scale
    confidence = parsed.on_probability.cumprod(0)
    return drawings_from_strokes(
        strokes_from_parse(parsed), parsed.canvas.shape[-1], confidence.T, spread.T
    )


def drawings_from_strokes(
    strokes: Strokes,
    size: int,
    confidence: Float[Tensor, "drawings strokes"] | None = None,
    uncertainty: Float[Tensor, "drawings strokes"] | None = None,
) -> list[CanvasDrawing]:
    """One `CanvasDrawing` for each of several drawings' strokes, (drawings,).

    Args:
        size: pixels per side of the canvas.
        confidence, uncertainty: of the strokes (`Stroke`); None for certain ones.
    """
    control, pen_values, alive = (part.cpu() for part in strokes)
    pen = geometry.pen_profile(pen_values)
    taper = torch.zeros_like(pen_values[..., :2]) if pen.taper is None else pen.taper
    peak = torch.tanh(peak_ink(control, pen.sigma, pen.darkness, taper=pen.taper))
    confidence = torch.ones_like(alive) if confidence is None else confidence.cpu()
    uncertainty = torch.zeros_like(alive) if uncertainty is None else uncertainty.cpu()
    drawings = []
    for row, lives in enumerate(alive.cumprod(-1).sum(-1).int().tolist()):
        found = [
            Stroke(
                control=control[row, t],
                width=visible_width(float(pen.sigma[row, t]), float(peak[row, t])),
                brightness=float(peak[row, t]),
                sigma=float(pen.sigma[row, t]),
                darkness=float(pen.darkness[row, t]),
                width_taper=float(taper[row, t, 0]),
                darkness_taper=float(taper[row, t, 1]),
                confidence=float(confidence[row, t]),
                uncertainty=float(uncertainty[row, t]),
            )
            for t in range(lives)
        ]
        drawings.append(CanvasDrawing(found, size))
    return drawings


def explained_share(picture: Float[Tensor, "size size"], drawing: CanvasDrawing) -> float:
    """Share of a picture's ink that a drawing leaves too."""
    total = float(picture.sum())
    both = torch.minimum(picture.cpu(), drawing.render(picture.shape[-1]))
    return float(both.sum()) / max(total, 1e-6)


def as_pictures(images: Any) -> tuple[bool, list[Any]]:
    """Whether ``images``, as `Recognizer.parse` takes them, are many, and the pictures."""
    many = _is_many(images)
    return many, [_content(each) for each in (images if many else [images])]


def _content(picture: Any) -> Any:
    """A picture, of an open file its content: pictures are read more than once, streams cannot be."""
    if not hasattr(picture, "read"):
        return picture
    try:
        content = picture.read()
    except (OSError, ValueError):  # as who reads the picture will say
        return picture
    return content if isinstance(content, bytes) else picture


def _is_many(images: Any) -> bool:
    """Whether ``images``, as `Recognizer.parse` takes them, are many pictures rather than one."""
    if isinstance(images, Tensor | np.ndarray):
        if images.ndim != 3:
            return images.ndim == 4
        return images.shape[0] not in CHANNELS_FIRST and images.shape[-1] not in CHANNELS
    return isinstance(images, Sequence) and not isinstance(
        images, str | bytes | bytearray | memoryview
    )
