"""``dood-pyro one-shot``."""

from __future__ import annotations

from pathlib import Path

import click

from . import options


@click.command("one-shot")
@click.argument("run")
@click.option("--runs", type=click.IntRange(1, 20), default=20, show_default=True)
@click.option("--parses", type=click.IntRange(min=1), help="Types a support image.  [default: 3]")
@click.option("--steps", type=click.IntRange(min=1), help="Gradient steps a token.  [default: 60]")
@click.option("--two-way", is_flag=True, help="Also ask how the query explains the support image.")
@click.option(
    "--background",
    is_flag=True,
    help="Trials of the background set instead of the official ones: to choose settings by.",
)
@click.option(
    "--json", "figures", type=click.Path(path_type=Path), help="Put under dood or air, too."
)
@options.trained
@options.data_dir
def one_shot(
    run: str,
    runs: int,
    parses: int | None,
    steps: int | None,
    two_way: bool,
    background: bool,
    figures: Path | None,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Classifies Omniglot's characters from one example each: 20 runs of 20 ways (Table 1)."""
    import dataclasses

    from tqdm import tqdm

    from dood_pyro import data
    from dood_pyro.data.one_shot_runs import background_trials, official_trials
    from dood_pyro.files import read_object, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.one_shot import Settings
    from dood_pyro.tasks.one_shot import one_shot as classify

    if figures is not None:
        read_object(figures)
    dood = use.load(run)
    given = {"parses": parses, "steps": steps, "two_way": two_way}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = dataclasses.replace(Settings(), **chosen)  # type: ignore[arg-type]
    if background:
        trials = background_trials(data.locate("omniglot", data_dir), dood.size, runs)
    else:
        trials = official_trials(dood.size, data_dir)[:runs]
    bar = tqdm(total=len(trials), unit="run")

    def show(accuracy: float) -> None:
        bar.set_postfix_str(f"{100 * accuracy:.0f} %")
        bar.update()

    found = classify(dood, trials, settings, show)
    bar.close()
    for index, accuracy in enumerate(found["runs"], start=1):
        click.echo(f"run {index:02d}  {100 * accuracy:5.1f} %")
    low, high = (100 * bound for bound in found["interval"])
    click.echo(f"accuracy {100 * found['accuracy']:.1f} %, 95 % interval {low:.1f} to {high:.1f}")
    if figures is not None:
        # The paper has one AIR; which of the two it is stands in the entry.
        key = "air" if dood.config.program in ("air", "dair") else dood.config.program
        key += ", background" if background else ""
        key += f", {use.guide}" if use.guide else ""
        about: dict[str, object] = {
            "program": dood.config.program,
            "settings": dataclasses.asdict(settings),
        }
        about["trained_seconds"] = open_run(run).progress()[1]
        update_object(figures, {key: {**about, **found}})
