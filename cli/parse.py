"""``dood-pyro parse``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.pictures import Polarity

BATCH = 256
"""Pictures in memory at once."""
SEARCHED = 8
"""The same for a guide that searches, which takes seconds a picture: one sees that it goes on."""


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=options.PathTo())
@click.option(
    "--run",
    default="omniglot",
    show_default=True,
    help="Run folder, or name of trained weights that come with the package.",
)
@click.option(
    "--out",
    type=options.PathTo(),
    default=Path("."),
    show_default=True,
    help="Folder that the files go to, named after the pictures.",
)
@click.option(
    "--polarity",
    type=click.Choice(["auto", "bright-ink", "dark-ink"]),
    default="auto",
    show_default=True,
    help="Of the pictures; auto goes by their borders.",
)
@options.trained
def parse(
    pictures: tuple[Path, ...], run: str, out: Path, polarity: Polarity, use: options.Use
) -> None:
    """Turns PICTURES into pen strokes.

    Pictures of any size; an SVG and a JSON each.
    """
    stem, count = Counter(path.stem for path in pictures).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} pictures are called {stem}; parse them into different folders")
    from dood_pyro.files import unwritable

    dood = use.load(run)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out {out} is a file; name a folder") from None
    except OSError as error:
        raise unwritable(out, error) from None
    together = SEARCHED if use.guide else BATCH
    for first in range(0, len(pictures), together):
        batch = pictures[first : first + together]
        for path, drawing in zip(batch, dood.parse(list(batch), polarity), strict=True):
            drawing.save(out / path.stem)
            click.echo(f"{path}: {len(drawing)} strokes, {out / path.stem}.svg and .json")
