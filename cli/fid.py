"""The ``dood-pyro`` commands ``fid``, ``fid-samples``, ``fid-memorisers`` and ``train-features``.
`dood_pyro.registry` names them; `dood_pyro.tasks.fid` and `dood_pyro.features` do the work.

Fréchet distances between sets of pictures, and the network whose features are compared.
"""

from __future__ import annotations

import json
from pathlib import Path

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
@options.data_dir
def fid(
    first: str,
    second: str,
    features: str | None,
    part: str,
    limit: int | None,
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
    click.echo(json.dumps({"fid": distance, "features": features, "pictures": count}))


@click.command("fid-samples")
@click.argument("run")
@target_option
@click.option("--air", type=options.Name(), help="Run whose samples are measured beside RUN's.")
@features_option
@click.option(
    "--part",
    type=click.Choice(["train", "test"]),
    default="test",
    show_default=True,
    help="Part of the target to compare with.",
)
@limit_option
@click.option(
    "--seeds",
    type=options.Numbers(),
    default="0,1,2,3,4",
    show_default=True,
    help="Seeds of sampling, separated by commas; mean and deviation are over seeds.",
)
@options.record("File to add the numbers to, under the target's name.")
@options.trained_model
@options.data_dir
def fid_samples(
    run: str,
    target: str | None,
    air: str | None,
    features: str | None,
    part: str,
    limit: int,
    seeds: tuple[int, ...],
    record: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Measure how far RUN's samples are from a target.

    Prints the distance of the samples from the target's test pictures, beside that of the target's
    training pictures from its test pictures (the numbers of Fig. 6).
    """
    from dood_pyro import data
    from dood_pyro.features import load_features
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.fid import report

    opened, rival_run = open_run(run), None if air is None else open_run(air)
    made_by = opened.provenance(use.which)
    trained = opened.read_config()[0].train
    target = options.own_source(trained.source, use.trusted) if target is None else target
    name = data.name_of(target)
    features = name if features is None else features
    key = options.entry(
        name,
        *("part", "limit", "seeds", "which"),
        by=(made_by["source"], name),
        model=(made_by["model"], "dood"),
        trainable=(trained.trainable, "both"),
        features=(Path(features).stem, name),
    )
    refuse_another_run(record, key, made_by)
    network = load_features(features)
    model = use.load_model(run)[0]
    rival = None if air is None else use.load_model(air)[0]
    found = report(model, rival, target, network, limit, seeds, part, data_dir)
    found |= {"seeds": list(seeds), "run": made_by}
    if rival_run is not None:
        found["air_run"] = rival_run.provenance(use.which)
    update_object(record, {key: found})
    click.echo(json.dumps({key: found}, indent=2))


@click.command("fid-memorisers")
@click.argument("run")
@target_option
@features_option
@limit_option
@click.option(
    "--seeds",
    type=options.Numbers(),
    default="0,1,2,3,4",
    show_default=True,
    help="Seeds of splitting and noise, separated by commas; mean and deviation are over seeds.",
)
@options.record("File to add the numbers to, under memorisers and the target's name.")
@options.trained
@options.data_dir
def fid_memorisers(
    run: str,
    target: str | None,
    features: str | None,
    limit: int,
    seeds: tuple[int, ...],
    record: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Measure how far two copyists are from a target.

    The control of fid-samples: one copyist puts the training pictures under small affine maps, the
    other draws new tokens of their parses by RUN. Copying alone reaches distances as small as these.
    """
    from dood_pyro import data
    from dood_pyro.features import load_features
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.fid import memorisers

    opened = open_run(run)
    made_by = opened.provenance(use.which)
    trained = opened.read_config()[0].train
    target = options.own_source(trained.source, use.trusted) if target is None else target
    name = data.name_of(target)
    features = name if features is None else features
    key = options.entry(
        name,
        *("limit", "seeds", "guide", "which"),
        by=(made_by["source"], name),
        model=(made_by["model"], "dood"),
        trainable=(trained.trainable, "both"),
        features=(Path(features).stem, name),
    )
    refuse_another_run(record, key, made_by, under="memorisers")
    network = load_features(features)
    found = memorisers(use.load(run), target, network, limit, seeds, data_dir)
    found |= {"seeds": list(seeds), "run": made_by}
    update_object(record, {key: found}, under="memorisers")
    click.echo(json.dumps({key: found}, indent=2))


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
