"""The ``dood-pyro`` commands ``compare-guides`` and ``calibrate``: quality and cost of guides.
`dood_pyro.registry` names them; the tasks of the same names do the work.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from dood_pyro.registry import SEARCH_GUIDES
from dood_pyro.tables import columns

from . import options


@click.command("compare-guides")
@click.argument("run")
@click.option("--target", required=True, help="Source whose test images are explained, or a path.")
@click.option(
    "--guides",
    type=options.Names(),
    help="Guides, separated by commas: the run's own, "
    f"{', '.join(SEARCH_GUIDES)}, or folders of runs trained over RUN's model with train "
    "--init-from RUN --trainable guide.  [default: the run's own, smc, refined]",
)
@options.particles()
@options.limit(50)
@options.figure("guides-TARGET")
@options.record("File to add the rows to.")
@options.as_json
@options.trained_guides
@options.data_dir
def compare_guides(
    run: str,
    target: str,
    guides: tuple[str, ...] | None,
    particles: int,
    limit: int,
    out: Path | None,
    record: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Compare guides over RUN's model.

    Reports bounds, gaps, errors and time, as a table and a figure. Growth and leaps are measured on
    pictures with added noise of 1e-5. Growth is the factor by which a stroke is displaced more than
    the stroke before (median and ninth decile over drawings). Leaps is the share of drawings in which
    a stroke moves by a pixel or the number of strokes changes; a guide with many leaps is
    ill-conditioned.
    """
    from dood_pyro import data
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.compare_guides import compare_guides as compare
    from dood_pyro.tasks.compare_guides import draw_guides

    opened = open_run(run)
    out = options.figure_path(out, [run], "guides", data.name_of(target))
    made_by = opened.provenance(use.which)
    key = options.entry(
        f"{made_by['model']}, {made_by['source']}, on {data.name_of(target)}",
        *("guides", "particles", "limit", "guide", "which"),
    )
    refuse_another_run(record, key, made_by)
    with options.image_bars(as_json) as bars:
        rows = compare(
            opened,
            target,
            guides,
            particles,
            limit,
            device=use.torch_device(),
            data_dir=data_dir,
            which=use.which,
            guide=use.guide,
            progress=bars.advance,
            trusted=use.trusted,
        )
    settings = {"particles": particles, "images": rows[0]["images"], "run": made_by}
    update_object(record, {key: {**settings, "guides": rows}})
    options.say(rows, _table(rows), as_json, draw_guides(rows, target, out))


def _table(rows: list[dict[str, Any]]) -> str:
    bounds = ("guide", "log p(x)", "±", "ELBO", "gap", "effective")
    lines: list[list[str]] = [[*bounds, "error", "strokes", "ms", "growth", "leaps"]]
    for row in rows:
        error, effective, growth, most = (
            "" if row[name] is None else f"{row[name]:.1f}"
            for name in ("log_p_se", "effective_samples", "growth", "growth_ninth_decile")
        )
        guess = f"{row['mean_absolute_error']:.4f}", f"{row['strokes']:.2f}"
        of_bounds = f"{row['log_p']:.1f}", error, f"{row['elbo']:.1f}", f"{row['gap']:.1f}"
        both = f"{growth}, {most}" if growth else ""
        times = f"{row['milliseconds']:.1f}", both, f"{100 * row['leaps']:.0f} %"
        lines.append([row["guide"], *of_bounds, effective, *guess, *times])
    return columns(lines)


@click.command()
@click.argument("run")
@click.option(
    "--simulations",
    type=click.IntRange(20, 10**6),
    default=500,
    show_default=True,
    metavar="N",
    help="Number of drawings sampled from the model and parsed by the guide.",
)
@click.option(
    "--draws",
    type=click.IntRange(9, 10**6),
    default=99,
    show_default=True,
    help="Samples from the guide per drawing.",
)
@options.seed
@options.figure("calibration")
@options.record("File to add the test's result to.")
@options.as_json
@options.trained
def calibrate(
    run: str,
    simulations: int,
    draws: int,
    seed: int,
    out: Path | None,
    record: Path | None,
    as_json: bool,
    use: options.Use,
) -> None:
    """Check RUN's guide by simulation.

    Simulation-based calibration: is the guide the posterior for drawings sampled from RUN's model?
    """
    import torch

    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.progress import progress_bar, update_bar
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.calibrate import calibrate as measure
    from dood_pyro.tasks.calibrate import draw_ranks, in_words, summary

    opened = open_run(run)
    out = options.figure_path(out, [run], "calibration")
    made_by = opened.provenance(use.which)
    model, recognition, config = opened.load(use.which, use.guide, use.trusted)
    native_size = opened.read_facts().native_size
    guide = use.guide or config.train.guide
    base = f"{made_by['model']}, {made_by['source']}, {guide}"
    key = options.entry(base, "simulations", "draws", "seed", "which")
    refuse_another_run(record, key, made_by)
    chosen = use.torch_device()
    torch.manual_seed(seed)
    least = min(100, simulations // 2)
    model_and_guide = model.to(chosen), recognition.to(chosen)
    with progress_bar(
        total=simulations, unit="drawing", bar_format=options.WHOLE_IMAGES, disable=as_json
    ) as bar:
        show = partial(update_bar, bar)
        found = measure(*model_and_guide, simulations, draws, least, show, native_size)
    result: dict[str, Any] = {
        "simulations": simulations,
        "draws": draws,
        "guide": guide,
        "run": made_by,
    }
    result |= summary(found)
    update_object(record, {key: result})
    lines = [["", "p", "mean rank", "outside 90 %", ""]]
    for name, entry in result["by_quantity"].items():
        mark = "rejected" if entry["rejected"] else ""
        numbers = f"{entry['p_value']:.3g}", f"{entry['mean_rank']:.2f}", f"{entry['outside']:.0%}"
        lines.append([name, *numbers, mark])
    verdict = "calibrated" if result["calibrated"] else "not calibrated"
    title = f"{options.run_name(run)}, {guide}: {verdict}; band: 99 % of uniform ranks"
    text = columns(lines) + "\n" + in_words(result)
    options.say(result, text, as_json, draw_ranks(found, out, title))
