"""The ``dood-pyro evaluate`` command: how well a run explains a target.
`dood_pyro.registry` names the command, and `dood_pyro.tasks.evaluate` does the work.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from dood_pyro.errors import UserError

from . import options


@click.command()
@click.argument("run")
@click.option("--target", required=True, help="Source whose test images are explained, or a path.")
@options.particles()
@options.limit(1000)
@click.option("--csv", "table", type=options.PathTo(), help="Table that the row is added to.")
@options.as_json
@options.trained
@options.data_dir
def evaluate(
    run: str,
    target: str,
    particles: int,
    limit: int,
    table: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Measure how well RUN explains a target.

    Reports the importance-weighted log p(x), the ELBO, strokes per drawing and errors (section 3.1).
    """
    import torch

    from dood_pyro import data
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.evaluate import evaluate as measure
    from dood_pyro.tasks.rows import read_rows, record

    if table is not None and use.which != "best":
        raise UserError("a table holds best checkpoints only: leave out --which or --csv")
    if table is not None:
        read_rows(table)  # find a damaged table before the work, not after
    name = f"{options.run_name(run)} on {data.name_of(target)}"
    with options.image_bars(as_json) as bars:
        row = measure(
            open_run(run),
            target,
            particles,
            limit,
            device=use.torch_device(),
            data_dir=data_dir,
            which=use.which,
            guide=use.guide,
            progress=partial(bars.advance, name),
            jobs=torch.get_num_threads(),
            trusted=use.trusted,
        )
    if table is not None:
        record(table, row)  # before printing: standard output may be a closed pipe
    options.say(row, _table(row), as_json)


def _table(row: dict[str, Any]) -> str:
    def bound(name: str) -> str:
        error = row[f"{name}_se"]
        return f"{row[name]:.1f}" + ("" if error is None else f" ± {error:.1f}") + " nats"

    lines = [
        ("log p(x), stop variable sampled", bound("log_p")),
        ("log p(x), stop variable marginalised", bound("log_p_summed")),
        ("ELBO", f"{row['elbo']:.1f} nats"),
        ("strokes per drawing", f"{row['mean_strokes']:.2f}"),
        ("mean absolute error", f"{row['mean_absolute_error']:.4f} per pixel"),
        ("images", str(row["images"])),
    ]
    if row["effective_samples"] is not None:
        effective = f"{row['effective_samples']:.1f} of {row['particles']}"
        lines.insert(-1, ("effective samples", effective))
    return "\n".join(f"{name:<38} {value}" for name, value in lines)
