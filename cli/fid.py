"""The ``dood-pyro`` commands ``fid``, ``sample-quality`` and ``train-features``.
`dood_pyro.registry` names them; `dood_pyro.tasks.fid`, `dood_pyro.tasks.sample_quality` and
`dood_pyro.features` do the work.

Distances between sets of pictures, and the network whose features are compared.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from . import options

target_option = click.option(
    "--target",
    type=options.Name(),
    help="Source to compare with.  [default: the source of RUN]",
)
features_option = click.option(
    "--features",
    type=options.Name(),
    help="Feature network: that of a source, or a file of train-features.  [default: the target's]",
)
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=2500,
    show_default=True,
    metavar="N",
    help="Pictures per set, at most.",
)


@click.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--features",
    type=options.Name(),
    help="Feature network: that of a source, or a file of train-features.  [default: that of SECOND, "
    "else of omniglot]",
)
@click.option(
    "--part",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Part of a source; of a folder, all pictures are taken.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    metavar="N",
    help="Pictures per set, at most.  [default: the size of the smaller set]",
)
@options.as_json
@options.data_dir
def fid(
    first: str,
    second: str,
    features: str | None,
    part: str,
    limit: int | None,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Print the distance between two sets of pictures.

    The distance is the Fréchet distance of features; FIRST and SECOND are sources or folders.

    The distance depends on the number of pictures, which is the same for both sets and is printed.
    """
    from dood_pyro.features import kept_features, load_features
    from dood_pyro.tasks.fid import folder_or_source, frechet

    if features is None:
        features = second if second in kept_features() else "omniglot"
    network = load_features(features)
    sets = [folder_or_source(name, part, data_dir) for name in (first, second)]
    count = min(limit or len(sets[0]), *map(len, sets))
    distance = frechet(network, *(pictures[:count] for pictures in sets))
    text = f"Fréchet distance {distance:.2f}, of features of {features}, {count} pictures each"
    options.say({"fid": distance, "features": features, "pictures": count}, text, as_json)


@click.command("sample-quality")
@click.argument("run")
@target_option
@click.option("--rival", type=options.Name(), help="Run whose samples are measured beside RUN's.")
@features_option
@click.option(
    "--part",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Part of the target to compare with: train to choose settings, test to report.",
)
@limit_option
@click.option(
    "--seeds",
    type=options.Numbers(),
    default="0,1,2,3,4",
    show_default=True,
    help="Seeds of sampling and splitting, separated by commas; mean and deviation are over seeds.",
)
@options.record("File to add the numbers to, under the target's name.")
@options.as_json
@options.trained
@options.data_dir
def sample_quality(
    run: str,
    target: str | None,
    rival: str | None,
    features: str | None,
    part: str,
    limit: int,
    seeds: tuple[int, ...],
    record: Path | None,
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Measure how good RUN's samples are.

    Prints eight measures of the samples and of what stands beside them: real pictures, two memorisers,
    and samples whose strokes are shuffled. docs/results.md says what the measures are (the numbers of
    Fig. 6 are of the first).
    """
    from dood_pyro.features import load_features
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.progress import Bars
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.sample_quality import report

    rival_run = None if rival is None else open_run(rival)
    target, name, made_by, apart = options.measured(run, target, use)
    features = name if features is None else features
    apart["features"] = Path(features).stem, name
    key = options.entry(name, "part", "limit", "seeds", "guide", "which", **apart)
    refuse_another_run(record, key, made_by)
    network = load_features(features)
    dood = use.load(run)
    rival_model = None if rival is None else use.load_model(rival)[0]
    with Bars(unit="set", disable=as_json) as bars:
        progress = partial(bars.advance, name)
        found = report(dood, rival_model, target, network, limit, seeds, part, data_dir, progress)
    found |= {"seeds": list(seeds), "run": made_by}
    if rival_run is not None:
        found["rival_run"] = rival_run.provenance(use.which)
    update_object(record, {key: found})
    options.say({key: found}, _table(found), as_json)


def _table(found: dict[str, Any]) -> str:
    """The measures of all sets, and what they are to be read by."""
    from dood_pyro.tasks.sample_quality import MEASURES

    facts = found["classifier"]
    lines = [f"{'':<10}" + "".join(f"{measure:>12}" for measure in MEASURES)]
    for name, row in found["sets"].items():
        lines.append(f"{name:<10}" + "".join(f"{row[measure]:>12.3f}" for measure in MEASURES))
    lines.append(
        f"{found['pictures']} pictures a set; the classifier names {100 * facts['accuracy']:.1f} % of "
        f"{facts['of']} rightly, and {100 * facts['real']:.1f} % with confidence"
    )
    return "\n".join(lines)


@click.command("train-features")
@click.option("--source", required=True, help="Source whose labels are learned.")
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Number of gradient steps.",
)
@options.seed
@click.option(
    "--out", type=options.PathTo(), help="File of weights.  [default: SOURCE.safetensors]"
)
@options.data_dir
def train_features(
    source: str, steps: int, seed: int, out: Path | None, data_dir: Path | None
) -> None:
    """Train the network whose features are compared."""
    from dood_pyro import data, features
    from dood_pyro.files import check_output
    from dood_pyro.progress import progress_bar

    out = Path(f"{data.name_of(source)}.safetensors") if out is None else out
    check_output(out)
    data.locate(source, data_dir)  # before the bar: an error has a line of its own
    with progress_bar(total=steps, unit="step") as bar:

        def show(step: int, loss: float) -> None:
            bar.n = step
            bar.set_postfix_str(f"loss {loss:.3f}")

        network, accuracy = features.train_features(source, steps, seed, data_dir, show)
    features.save_features(network, out)
    click.echo(f"{out}: knows {100 * accuracy:.1f} % of held-out pictures")
