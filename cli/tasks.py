"""The ``dood-pyro`` commands ``exemplars`` and ``complete``: Omniglot's drawing tasks (section 3.2).
`dood_pyro.registry` names them; the tasks of the same names do the work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.images import ImageBatch
    from dood_pyro.recognition import Recognizer


class Pictures(NamedTuple):
    """Pictures that a task starts from: the first test images of a source, or files."""

    target: str | None
    files: tuple[str, ...]
    first: int
    data_dir: Path | None

    def load(self, dood: Recognizer) -> ImageBatch:
        """Load the pictures as a model takes them."""
        from dood_pyro.images import ImageBatch

        if self.target is None:
            # Files may differ in size, so the canvas's size stands for their native size.
            return ImageBatch(dood.prepare(self.files)[0].to(dood.device))
        return dood.load_images(self.target, self.first, data_dir=self.data_dir)

    def png(self, run: str, what: str, out: Path | None) -> Path:
        """Return the figure's path: ``out``, or a name made of run, task and pictures."""
        from dood_pyro.data import name_of

        name = name_of(self.files[0] if self.target is None else self.target)
        return out or Path(f"{options.run_name(run)}-{what}-{name}.png")


def pictures(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for the pictures that a task starts from, passed together as ``start``."""

    @functools.wraps(command)
    def collected(
        target: str | None,
        image: tuple[str, ...],
        count: int | None,
        data_dir: Path | None,
        **given: Any,
    ) -> None:
        if (target is None) == (not image):
            raise click.UsageError("name either a --target, or one or more --image")
        if image and count is not None:
            raise click.UsageError("--count is for images of a --target: leave it out")
        command(start=Pictures(target, image, count or 8, data_dir), **given)

    for option in (
        options.data_dir,
        click.option(
            "--count",
            type=click.IntRange(1, 100),
            metavar="N",
            help="Number of the target's images.  [default: 8]",
        ),
        click.option("--image", multiple=True, help="A picture of your own; may be repeated."),
        click.option("--target", help="Source whose first test images are taken."),
    ):
        collected = option(collected)
    return collected


each = click.option(
    "--each",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="N",
    help="New drawings per picture.",
)
out_png = click.option("--out", type=options.Png(), help="PNG.")


@click.command()
@click.argument("run")
@pictures
@each
@click.option(
    "--control-noise",
    type=float,
    default=0.03,
    show_default=True,
    help="Standard deviation of control points, canvas units.",
)
@click.option(
    "--affine-noise",
    type=float,
    default=1.0,
    show_default=True,
    help="Factor on the default deviations of shift, rotation, scale and shear.",
)
@click.option(
    "--pen-noise",
    type=float,
    default=0.05,
    show_default=True,
    help="Standard deviation of the log of the pen's width.",
)
@options.seed
@out_png
@options.trained
def exemplars(
    run: str,
    start: Pictures,
    each: int,
    control_noise: float,
    affine_noise: float,
    pen_noise: float,
    seed: int,
    out: Path | None,
    use: options.Use,
) -> None:
    """Write new exemplars of characters.

    Each character's parse is the type; the exemplars are tokens of that type (Fig. 7).
    """
    from dood_pyro.plots import save_png
    from dood_pyro.tasks.exemplars import draw_exemplars
    from dood_pyro.tokens import TokenNoise

    default = TokenNoise()
    affine = ("shift", "rotation", "log_scale", "shear")
    noise = TokenNoise(
        control=control_noise,
        log_width=pen_noise,
        **{name: affine_noise * getattr(default, name) for name in affine},
    )
    dood = use.load(run)
    if not dood.model.draws_curves:
        for name in ("control_noise", "pen_noise"):
            if options.typed(click.get_current_context(), name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} is for models that draw curves; {dood.model.title} "
                    "draws parts, whose noise is fixed"
                )
    out = start.png(run, "exemplars", out)
    save_png(out, draw_exemplars(dood, start.load(dood), each, noise, seed))
    click.echo(out)


@click.command()
@click.argument("run")
@pictures
@each
@click.option(
    "--strokes",
    type=click.IntRange(min=0),
    help="Number of strokes of the parse to continue from; 0: continue from the whole picture, taken "
    "as a partial drawing.  [default: 1 for a target, 0 for an image]",
)
@options.seed
@out_png
@options.trained
def complete(
    run: str,
    start: Pictures,
    each: int,
    strokes: int | None,
    seed: int,
    out: Path | None,
    use: options.Use,
) -> None:
    """Continue drawings that were begun, in many ways.

    The continuations are in another colour (Fig. 8).
    """
    from dood_pyro.plots import save_png
    from dood_pyro.tasks.complete import draw_completions

    if strokes is None:
        strokes = 0 if start.target is None else 1
    dood = use.load(run)
    out = start.png(run, "completions", out)
    save_png(out, draw_completions(dood, start.load(dood), each, strokes or None, seed))
    click.echo(out)
