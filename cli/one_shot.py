"""``dood-pyro one-shot``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command("one-shot")
@click.argument("run")
@click.option(
    "--runs",
    type=click.IntRange(1, 20),
    default=20,
    show_default=True,
    metavar="N",
    help="The first so many of the 20 runs.",
)
@click.option("--parses", type=click.IntRange(1, 1000), help="Types a support image.  [default: 3]")
@click.option(
    "--steps", type=click.IntRange(1, 10**6), help="Gradient steps a token.  [default: 60]"
)
@click.option("--two-way", is_flag=True, help="Also ask how the query explains the support image.")
@click.option(
    "--background",
    is_flag=True,
    help="Trials of the background set instead of the official ones: to choose settings by.",
)
@options.record("Put under dood or air, too, with whatever is not the default.")
@options.trained
@options.data_dir
def one_shot(
    run: str,
    runs: int,
    parses: int | None,
    steps: int | None,
    two_way: bool,
    background: bool,
    record: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Classifies characters from one example each.

    Omniglot's 20 runs of 20 ways (Table 1).
    """
    import dataclasses
    import time

    from tqdm import tqdm

    from dood_pyro import data
    from dood_pyro.data.one_shot_runs import background_trials, official_trials
    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.one_shot import Settings
    from dood_pyro.tasks.one_shot import one_shot as classify

    made_by = open_run(run).provenance(use.which)
    dood = use.load(run)
    given = {"parses": parses, "steps": steps, "two_way": two_way}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings, usual = dataclasses.replace(Settings(), **chosen), Settings()  # type: ignore[arg-type]
    # The paper has one AIR; which of the two it is stands in the entry.
    base = {"dair": "air", "air": "air, vanilla"}.get(made_by["model"], made_by["model"])
    of_settings = {name: (getattr(settings, name), getattr(usual, name)) for name in chosen}
    key = options.entry(
        base + ", background" * background,
        *("runs", "guide", "which"),
        source=(made_by["source"], "omniglot"),
        **of_settings,
    )
    refuse_another_run(record, key, made_by)
    if background:
        trials = background_trials(data.locate("omniglot", data_dir), dood.size, runs)
    else:
        trials = official_trials(dood.size, data_dir)[:runs]
    bar = tqdm(total=len(trials), unit="run")

    def show(accuracy: float) -> None:
        bar.set_postfix_str(f"{100 * accuracy:.0f} %")
        bar.update()

    began = time.perf_counter()
    found = classify(dood, trials, settings, show)
    bar.close()
    entry = {**found, "seconds": time.perf_counter() - began, "run": made_by}
    update_object(record, {key: {**entry, "settings": dataclasses.asdict(settings)}})
    for index, accuracy in enumerate(found["runs"], start=1):
        click.echo(f"run {index:02d}  {100 * accuracy:5.1f} %")
    between = ""
    if found["interval"] is not None:
        between = ", 95 % interval {:.1f} to {:.1f}".format(*(100 * b for b in found["interval"]))
    click.echo(f"accuracy {100 * found['accuracy']:.1f} %{between}")
