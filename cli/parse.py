"""The ``dood-pyro parse`` command: pictures into pen strokes.
`dood_pyro.registry` names it; `dood_pyro.parsing` and `dood_pyro.recognition` do the work.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from dood_pyro.errors import UserError
from dood_pyro.files import check_output, write_atomically
from dood_pyro.fonts import check_font, write_ufo
from dood_pyro.progress import above_bars

from . import options

if TYPE_CHECKING:
    from dood_pyro.drawing import Drawing
    from dood_pyro.parsing import InkOptions
    from dood_pyro.pictures import Polarity

BATCH = 256
"""Number of pictures that the run's guide parses at once."""
SEARCHED = 8
"""Number of pictures parsed at once by a guide that searches: at seconds per picture, small batches
show progress."""
FORMATS = ("svg", "json", "npz", "ndjson", "gif")
PLOTTER_SIZE = "100mm"
"""Width of a plotter's drawing unless told."""
EXPLAINED = 0.95
"""Share of ink below which it is said how much the strokes explain."""
NO_INK = "there is no ink that stands out from the paper"


class Formats(click.ParamType):
    """Formats, separated by commas."""

    name = "formats"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        given = (each.strip().lstrip(".").lower() for each in str(value).split(","))
        found = tuple(dict.fromkeys(given))
        for each in found:
            if each not in FORMATS:
                self.fail(f"{each!r} is none of {', '.join(FORMATS)}", param, ctx)
        return found


class Writing(NamedTuple):
    """Where and how drawings are written."""

    folder: Path
    formats: tuple[str, ...]
    size: str | None
    background: str | None
    plotter: bool = False
    nothing: str = NO_INK
    """What is said of a drawing without strokes."""


class Page(NamedTuple):
    """A picture to parse."""

    path: Path
    page: int
    name: str
    """Name of the files written, without a suffix."""
    of_several: bool = False
    """Whether its file has several pages, all of which are parsed."""


@click.command()
@click.argument("pictures", nargs=-1, required=True, type=options.PathTo())
@click.option(
    "--out-dir",
    "--out",
    "out",
    type=options.PathTo(),
    default=Path("."),
    show_default=True,
    help="Folder for the files, which are named after the pictures: x.svg of x.png; x.png.svg and "
    "x.jpg.svg where there is an x.jpg, too.",
)
@click.option(
    "--formats",
    type=Formats(),
    default="svg,json",
    show_default=True,
    help=f"Of {', '.join(FORMATS)} (npz: stroke-3; ndjson: as Quick, Draw! has it).",
)
@click.option(
    "--size",
    type=options.Name(),
    help="Width of the SVG, as 210mm; by default the picture's pixels.",
)
@click.option(
    "--background",
    default="white",
    show_default=True,
    help="Colour of the SVG's paper, or none.",
)
@click.option(
    "--plotter",
    is_flag=True,
    help="Write the SVG for a pen plotter: millimetres (--size, else 100mm wide), one path a stroke, a "
    "layer a colour, no paper, sorted to spare travel.",
)
@click.option(
    "--font",
    type=options.PathTo(),
    metavar="NAME.ufo",
    help="Also write a single-line font, a glyph for each picture, which is named after its character: "
    "A.png, uni00E4.png.",
)
@click.option(
    "--polarity",
    type=click.Choice(["auto", "bright-ink", "dark-ink"]),
    default="auto",
    show_default=True,
    help="Whether ink is brighter or darker than its paper; auto judges.",
)
@click.option(
    "--paper",
    type=click.Choice(["auto", "flat"]),
    default="auto",
    show_default=True,
    help="flat: the paper has one colour, and all else is ink: light, frames, rules and specks too.",
)
@click.option(
    "--joins",
    type=click.Choice(["learned", "angles"]),
    default="learned",
    show_default=True,
    help="What says which lines are one stroke: networks that learned it, or angles alone.",
)
@click.option("--max-strokes", type=click.IntRange(min=1), help="Most strokes of a picture.")
@click.option(
    "--pages",
    type=click.Choice(["first", "all"]),
    default="first",
    show_default=True,
    help="Pages or frames of a file that has several.",
)
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option(
    "--method",
    type=click.Choice(["ink", "guide"]),
    help="ink: from the picture's own ink, at any size. guide: the run's guide alone, in one pass over "
    "a small canvas. By default ink, and guide where --run or --guide is given.",
)
@click.option(
    "--run",
    type=options.Name(),
    help="Run folder, or name of trained weights that come with the package, for --method guide.",
)
@options.trained
def parse(
    pictures: tuple[Path, ...],
    out: Path,
    formats: tuple[str, ...],
    size: str | None,
    background: str,
    plotter: bool,
    font: Path | None,
    polarity: Polarity,
    paper: Any,
    joins: Any,
    max_strokes: int | None,
    pages: str,
    jobs: int,
    method: str | None,
    run: str | None,
    use: options.Use,
) -> None:
    """Turn PICTURES, or the pictures in folders, into pen strokes.

    Pictures may have up to 8192 pixels a side and 64 million in all.
    """
    from dood_pyro.files import unwritable
    from dood_pyro.parsing import InkOptions

    by_guide = method == "guide" or (method is None and (run is not None or use.guide is not None))
    if by_guide:
        for name, given in (
            ("--max-strokes", max_strokes is not None),
            ("--paper", paper != "auto"),
            ("--joins", joins != "learned"),
            ("--pages", pages != "first"),
            ("--jobs", jobs != 1),
        ):
            if given:
                raise UserError(f"{name} belongs to --method ink, and this parse is by the guide")
    elif run is not None or use.guide is not None:
        raise UserError("--run and --guide belong to --method guide; --method ink uses neither")
    else:
        for name, is_given in (
            ("--device", use.device != "auto"),
            ("--which", use.which != "best"),
            ("--trust", bool(use.trusted)),
        ):
            if is_given:
                raise UserError(f"{name} belongs to --method guide; --method ink runs no model")
    found = expanded(pictures)
    if out.suffix.lower().removeprefix(".") in FORMATS and not out.is_dir():
        raise UserError(
            f"--out-dir names a folder for the files, and {out} is named like one of them"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UserError(f"--out-dir {out} is a file; name a folder") from None
    except OSError as error:
        raise unwritable(out, error) from None
    if plotter and background != "white":
        raise UserError("--plotter writes no paper: leave --background out")
    for name, is_given in (
        ("--plotter", plotter),
        ("--size", size is not None),
        ("--background", background != "white"),
    ):
        if is_given and "svg" not in formats:
            raise UserError(f"{name} is about the SVG: have svg among --formats")
    paper_colour = None if background == "none" else background
    nothing = "the guide draws nothing" if by_guide else NO_INK
    writing = Writing(out, formats, size, paper_colour, plotter, nothing)
    _check_document(writing)
    chosen = InkOptions(polarity, paper, joins)
    if max_strokes is not None:
        chosen = chosen._replace(max_strokes=max_strokes)
    others = "the guide parses first pages" if by_guide else "--pages all for all"
    names = {path: path.stem for path in found} if font is not None else file_names(found)
    work = list(_pages(found, names, pages, others))
    check_names(work, found, writing)
    for page in work:
        for suffix in formats:
            check_output(out / f"{page.name}.{suffix}")
    if font is not None:
        check_font(font, [page.name for page in work])
    single = len(work) == 1
    if by_guide:
        results = _by_guide(work, run or "omniglot", polarity, writing, use)
    else:
        results = _by_ink(work, chosen, writing, jobs)
    failed = count = 0
    glyphs: dict[str, Drawing] = {}
    for said, wrong, drawing in results:
        count += 1
        if wrong is None:
            with above_bars():
                click.echo(said)
            if font is not None and drawing is not None:
                glyphs[work[count - 1].name] = drawing
        elif single:
            raise UserError(wrong)
        else:
            failed += 1
            with above_bars():
                click.echo(f"dood-pyro: {wrong}", err=True)
    if font is not None and glyphs:
        write_ufo(glyphs, font)
        click.echo(f"{font}: {len(glyphs)} glyph{'s' * (len(glyphs) != 1)}")
    if failed:
        raise UserError(f"{failed} of {count} pictures could not be parsed; the others are written")


def _check_document(writing: Writing) -> None:
    """Refuse what no drawing can be written with, before any is parsed.

    Raises:
        UserError: the size or the background cannot be.
    """
    from dood_pyro.drawing import Drawing

    blank = Drawing([], 1, 1)
    if writing.plotter:
        blank.plotter_svg(writing.size or PLOTTER_SIZE)
    else:
        blank.svg(writing.size, background=writing.background)


def expanded(given: Iterable[Path]) -> list[Path]:
    """Files named, and the pictures in folders named, in order.

    Raises:
        UserError: a folder has no pictures.
    """
    from dood_pyro.data.folder import SUFFIXES
    from dood_pyro.pictures import CONVERT

    found: list[Path] = []
    for path in given:
        if path.is_dir():
            every = sorted(path.iterdir())
            for each in every:
                suffix = each.suffix.lower()
                if suffix in CONVERT and suffix != ".svg":  # which lies where parses were written
                    click.echo(f"dood-pyro: {each} is left out: {CONVERT[suffix]}", err=True)
            inside = [
                each
                for each in every
                if each.suffix.lower() in SUFFIXES
                # macOS puts ._NAME beside what it copies; a folder may be called NAME.png
                and not each.name.startswith("._")
                and not each.is_dir()
            ]
            if not inside:
                raise UserError(
                    f"there are no pictures ({', '.join(sorted(SUFFIXES))}) in the folder {path}"
                )
            found += inside
        else:
            found.append(path)
    return found


def file_names(files: Iterable[Path]) -> dict[Path, str]:
    """Name of each picture's drawing: the picture's without its ending, where no other has the same."""
    names = {path: path.stem for path in files}
    while True:  # x.png, x.jpg and x.png.png: a whole name may be what another's was shortened to
        count = Counter(names.values())
        shared = [path for path, name in names.items() if count[name] > 1 and name != path.name]
        if not shared:
            return names
        names |= {path: path.name for path in shared}


def check_names(work: list[Page], files: list[Path], writing: Writing) -> None:
    """Refuse names by which one picture's files would overwrite another's, or a picture itself.

    Raises:
        UserError: there are such names.
    """
    name, count = Counter(page.name for page in work).most_common(1)[0]
    if count > 1:
        raise UserError(f"{count} pictures are called {name}; parse them into different folders")
    given = {path.resolve() for path in files}
    for page in work:
        for suffix in writing.formats:
            path = writing.folder / f"{page.name}.{suffix}"
            if path.resolve() in given:
                raise UserError(
                    f"{path} is a picture to parse; write to another folder by --out-dir"
                )


class Result(NamedTuple):
    """What came of a picture."""

    said: str
    wrong: str | None
    drawing: Drawing | None


def _pages(
    files: Iterable[Path], names: dict[Path, str], pages: str, others: str
) -> Iterator[Page]:
    for path in files:
        count = _page_count(path)
        if count > 1 and pages == "all":
            for page in range(count):
                yield Page(path, page, f"{names[path]}-{page + 1:03d}", of_several=True)
            continue
        if count > 1:
            click.echo(
                f"dood-pyro: {path} has {count} pages; the first is parsed ({others})",
                err=True,
            )
        yield Page(path, 0, names[path])


def _page_count(path: Path) -> int:
    from PIL import Image

    from dood_pyro.files import refuse_special

    try:
        refuse_special(path)
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            # A phone's second picture is a preview, or the first once more.
            return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception:  # whatever is wrong with it is said when it is read
        return 1


def _by_ink(
    pages: Iterable[Page], chosen: InkOptions, writing: Writing, jobs: int
) -> Iterator[Result]:
    from dood_pyro.progress import progress_bar

    work = [(page, chosen, writing) for page in pages]
    jobs = min(jobs, len(work))
    if jobs <= 1:
        for each in progress_bar(iterable=work, desc="parse", unit="picture", leave=False):
            yield _parsed(each)
        return
    from concurrent.futures.process import BrokenProcessPool

    from dood_pyro.worker_pool import WorkerPool

    try:
        with WorkerPool(jobs) as pool:
            results = pool.map(_parsed, work)
            yield from progress_bar(
                iterable=results, total=len(work), desc="parse", unit="picture", leave=False
            )
    except BrokenProcessPool:
        raise UserError(
            "a process that parsed died, perhaps for lack of memory; what was said to be written is; "
            "parse the rest with fewer --jobs"
        ) from None


def _parsed(work: tuple[Page, InkOptions, Writing]) -> Result:
    """Parse a picture and write its files. In its own process: mistakes come back as text."""
    from dood_pyro.parsing import parse_picture

    page, chosen, writing = work
    try:
        drawing = parse_picture(page.path, chosen, page.page)
        return Result(_written(page, drawing, writing), None, drawing)
    except UserError as error:
        at = f"page {page.page + 1}: " if page.of_several else ""
        return Result("", at + str(error), None)
    except MemoryError:
        wrong = f"{page.path} needs more memory than there is; scale it down"
        return Result("", wrong, None)


def _written(page: Page, drawing: Drawing, writing: Writing) -> str:
    """Write a drawing's files; return what is said of it."""
    stem = writing.folder / page.name
    for suffix in writing.formats:
        if suffix == "svg" and writing.plotter:
            text = drawing.plotter_svg(writing.size or PLOTTER_SIZE)
            write_atomically(Path(f"{stem}.svg"), text.encode())
        else:
            drawing.save(f"{stem}.{suffix}", size=writing.size, background=writing.background)
    endings = " and ".join(
        ", ".join(f".{each}" for each in part)
        for part in (writing.formats[1:-1], writing.formats[-1:])
        if part
    )
    files = f"{stem}.{writing.formats[0]}"
    if len(writing.formats) > 1:
        files += f"{', ' if len(writing.formats) > 2 else ' and '}{endings}"
    notes = (
        (writing.nothing, not len(drawing)),
        (f"strokes explain {drawing.explained:.0%} of the ink", drawing.explained < EXPLAINED),
        ("--max-strokes left out the smaller strokes", drawing.limited),
    )
    for note in (text for text, holds in notes if holds):
        with above_bars():
            click.echo(f"dood-pyro: {page.path}: {note}", err=True)
    return f"{page.path}: {len(drawing)} stroke{'s' * (len(drawing) != 1)}, {files}"


def _by_guide(
    pages: list[Page], run: str, polarity: Polarity, writing: Writing, use: options.Use
) -> Iterator[Result]:
    dood = use.load(run)
    together = SEARCHED if use.guide else BATCH
    for first in range(0, len(pages), together):
        batch = pages[first : first + together]
        try:
            drawings = dood.parse([page.path for page in batch], polarity, method="guide")
        except UserError:  # one by one, to say which
            drawings = []
            for page in batch:
                try:
                    drawings.append(dood.parse(page.path, polarity, method="guide"))
                except UserError as error:
                    drawings.append(error)
        for page, drawing in zip(batch, drawings, strict=True):
            if isinstance(drawing, UserError):
                yield Result("", str(drawing), None)
            else:
                yield Result(_written(page, drawing, writing), None, drawing)
