"""The ``dood-pyro`` commands ``compare``, ``stroke-counts``, ``clusters`` and ``anatomy``: figures.
`dood_pyro.registry` names them; modules of `dood_pyro.tasks` draw the figures.
"""

from __future__ import annotations

from pathlib import Path

import click

from dood_pyro.errors import UserError
from dood_pyro.tables import columns

from . import options

runs = click.argument("runs", nargs=-1, required=True)
five_targets = click.option(
    "--targets",
    type=options.Names(),
    help="Targets, separated by commas.  [default: the paper's five datasets]",
)


@click.command()
@runs
@five_targets
@options.count(50, 4, "Images per target")
@options.figure("compare")
@options.trained
@options.data_dir
def compare(
    runs: tuple[str, ...],
    targets: tuple[str, ...] | None,
    count: int,
    out: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Draw test images by several RUNS, side by side.

    Each image, and the drawing of each run after every stroke (Fig. 3a).
    """
    from dood_pyro.tasks.compare import draw_reconstructions
    from dood_pyro.tasks.transfer.published import DATASETS

    out = options.figure_path(out, runs, "compare")
    models = use.load_all(runs)
    for path in draw_reconstructions(models, targets or DATASETS, out, count, data_dir):
        click.echo(path)


@click.command("stroke-counts")
@runs
@five_targets
@options.limit(1000)
@options.figure("stroke-counts")
@options.as_json
@options.trained
@options.data_dir
def stroke_counts(
    runs: tuple[str, ...],
    targets: tuple[str, ...] | None,
    limit: int,
    out: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Count the strokes that RUNS take, by target.

    Draws histograms (Fig. 3b to d), and prints the counts.
    """
    from dood_pyro.tasks.compare import draw_stroke_counts
    from dood_pyro.tasks.transfer.published import DATASETS

    out = options.figure_path(out, runs, "stroke-counts")
    models = use.load_all(runs)
    paths, counts = draw_stroke_counts(models, targets or DATASETS, out, limit, data_dir)
    several = max(len(row) for by_target in counts.values() for row in by_target.values())
    lines = [["drawings of … strokes", *map(str, range(several))]]
    for name, by_target in counts.items():
        for target, row in by_target.items():
            cells = [*map(str, row), *[""] * (several - len(row))]
            lines.append([f"{name} on {target}", *cells])
    options.say(counts, columns(lines), as_json, paths)


@click.command()
@runs
@click.option(
    "--target", default="mnist", show_default=True, help="Source whose test images are parsed."
)
@options.limit(1000)
@options.figure("clusters-TARGET")
@options.record("File to add the silhouettes to, under the runs' names.")
@options.as_json
@options.trained
@options.data_dir
def clusters(
    runs: tuple[str, ...],
    target: str,
    limit: int,
    out: Path | None,
    record: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Cluster the strokes, or parts, of several RUNS.

    Draws members of the clusters (Fig. 5), and prints the clusters' silhouettes.
    """
    from dood_pyro import data
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.clusters import draw_clusters
    from dood_pyro.tasks.compare import distinct

    out = options.figure_path(out, runs, "clusters", data.name_of(target))
    made_by = [open_run(name).provenance(use.which) for name in runs]
    on = data.name_of(target), "mnist"
    keys = [
        options.entry(name, "limit", "guide", "which", on=on)
        for name in distinct([options.run_name(run) for run in runs])
    ]
    for key, run in zip(keys, made_by, strict=True):
        refuse_another_run(record, key, run)
    models = use.load_all(runs)
    paths, found = draw_clusters(models, target, out, limit, data_dir)
    scores = {
        key: {**score, "run": run} for key, score, run in zip(keys, found, made_by, strict=True)
    }
    update_object(record, scores)
    lines = [["", "silhouette", "strokes"]]
    for key, score in scores.items():
        lines.append([key, f"{score['silhouette']:.3f}", str(score["strokes"])])
    options.say(scores, columns(lines), as_json, paths)


@click.command()
@click.argument("run")
@click.option("--target", required=True, help="Source whose test images are taken.")
@click.option(
    "--index",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Index of the image, from 0, in the shuffle of seed 0.",
)
@options.figure("anatomy-TARGET")
@options.trained
@options.data_dir
def anatomy(
    run: str,
    target: str,
    index: int,
    out: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Take one drawing by RUN apart, step by step.

    Draws layout, glimpse, stroke, residual and canvas at each step (Fig. 2).
    """
    from dood_pyro import data
    from dood_pyro.tasks.anatomy import draw_anatomy

    out = options.figure_path(out, [run], "anatomy", data.name_of(target))
    dood = use.load(run)
    images = dood.load_images(target, index + 1, data_dir=data_dir)
    if index >= len(images):
        raise UserError(f"{target} has {len(images)} test images; --index must be less")
    for path in draw_anatomy(dood, images[index : index + 1], out):
        click.echo(path)
