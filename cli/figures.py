"""``dood-pyro compare``, ``stroke-counts``, ``clusters`` and ``anatomy``: figures of runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from dood_pyro.errors import UserError

from . import options

runs = click.argument("runs", nargs=-1, required=True)
five_targets = click.option(
    "--targets", type=options.Names(), help="By comma.  [default: the paper's five datasets]"
)
limit = click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True)


@click.command()
@runs
@five_targets
@click.option("--count", type=click.IntRange(1, 50), default=4, show_default=True)
@options.figure("compare.png")
@options.trained
@options.data_dir
def compare(
    runs: tuple[str, ...],
    targets: tuple[str, ...] | None,
    count: int,
    out: Path,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Draws test images stroke by stroke by several RUNS (Fig. 3a)."""
    from dood_pyro.tasks.compare import draw_reconstructions
    from dood_pyro.tasks.published import SOURCES

    models = [use.load(name) for name in runs]
    for path in draw_reconstructions(models, targets or SOURCES, out, count, data_dir):
        click.echo(path)


@click.command("stroke-counts")
@runs
@five_targets
@limit
@options.figure("stroke-counts.png")
@options.trained
@options.data_dir
def stroke_counts(
    runs: tuple[str, ...],
    targets: tuple[str, ...] | None,
    limit: int,
    out: Path,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Draws how many strokes several RUNS take, by target (Fig. 3b to d), and prints the counts."""
    from dood_pyro.tasks.compare import draw_stroke_counts
    from dood_pyro.tasks.published import SOURCES

    models = [use.load(name) for name in runs]
    paths, counts = draw_stroke_counts(models, targets or SOURCES, out, limit, data_dir)
    click.echo(json.dumps(counts))
    for path in paths:
        click.echo(path)


@click.command()
@runs
@click.option("--target", default="mnist", show_default=True, help="Source whose test images.")
@limit
@options.figure("clusters.png")
@options.record("Put silhouettes here, too, under the programs' names.")
@options.trained
@options.data_dir
def clusters(
    runs: tuple[str, ...],
    target: str,
    limit: int,
    out: Path,
    figures: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Clusters the strokes, or parts, of several RUNS (Fig. 5) and prints silhouettes."""
    from dood_pyro import data
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.clusters import draw_clusters
    from dood_pyro.tasks.compare import distinct

    made_by = [open_run(name).provenance(use.which) for name in runs]
    apart = ("on", data.name_of(target), "mnist"), ("which", use.which, "best")
    keys = [options.entry(name, *apart) for name in distinct([run["model"] for run in made_by])]
    for key, run in zip(keys, made_by, strict=True):
        refuse_another_run(figures, key, run)
    models = [use.load(name) for name in runs]
    paths, found = draw_clusters(models, target, out, limit, data_dir)
    scores = {
        key: {**score, "run": run} for key, score, run in zip(keys, found, made_by, strict=True)
    }
    update_object(figures, scores)
    click.echo(json.dumps(scores, indent=2))
    for path in paths:
        click.echo(path)


@click.command()
@click.argument("run")
@click.option("--target", required=True, help="Source whose test images are taken.")
@click.option(
    "--image", type=click.IntRange(min=0), default=0, show_default=True, help="Which of them."
)
@options.figure("anatomy.png")
@options.trained
@options.data_dir
def anatomy(
    run: str,
    target: str,
    image: int,
    out: Path,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Takes one drawing by RUN apart, step by step (Fig. 2)."""
    from dood_pyro.tasks.anatomy import draw_anatomy

    dood = use.load(run)
    images = dood.meet(target, image + 1, data_dir=data_dir)
    if image >= len(images):
        raise UserError(f"{target} has {len(images)} test images: --image must be less")
    for path in draw_anatomy(dood, images[image], out):
        click.echo(path)
