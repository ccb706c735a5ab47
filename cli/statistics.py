"""The ``dood-pyro statistics`` command: what is unlike data in a run's samples.
`dood_pyro.registry` names it, and `dood_pyro.tasks.stroke_statistics` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options


@click.command()
@click.argument("run")
@click.option(
    "--target",
    type=options.Name(),
    help="Source of the real pictures.  [default: the source of RUN]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=2500,
    show_default=True,
    metavar="N",
    help="Drawings of each kind, at most.",
)
@options.seed
@options.record("File to add the numbers to, under the target's name.")
@options.as_json
@options.trained
@options.data_dir
def statistics(
    run: str,
    target: str | None,
    limit: int,
    seed: int,
    record: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Compare strokes of RUN's samples with strokes of real pictures.

    Real pictures are parsed by samples of RUN's guide. Prints means of each statistic, and how far the
    distribution over samples is from that over training pictures, in standard deviations of the latter,
    beside the same for test pictures: the most unlike first.
    """
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.tasks.stroke_statistics import statistics as measure

    target, name, made_by, apart = options.measured(run, target, use)
    key = options.entry(name, "limit", "seed", "guide", "which", **apart)
    refuse_another_run(record, key, made_by)
    found = measure(use.load(run), target, limit, seed, data_dir)
    found |= {"seed": seed, "run": made_by}
    update_object(record, {key: found})
    options.say({key: found}, _table(found["table"]), as_json)


def _table(table: dict[str, dict[str, Any]]) -> str:
    columns = ("samples", "train", "test", "unlike", "floor")
    lines = [f"{'':<16}" + "".join(f"{column:>9}" for column in columns)]
    for name, row in table.items():
        lines.append(f"{name:<16}" + "".join(f"{row[column]:>9.3f}" for column in columns))
    return "\n".join(lines)
