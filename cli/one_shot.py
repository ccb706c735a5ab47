"""The ``dood-pyro one-shot`` command: classification of characters from one example each.
`dood_pyro.registry` names it; `dood_pyro.tasks.one_shot` and its control without a model,
`one_shot_image`, do the work.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dood_pyro.errors import UserError

from . import options

if TYPE_CHECKING:
    from dood_pyro.data.one_shot_runs import Trials
    from dood_pyro.tasks.one_shot import Settings
    from dood_pyro.tasks.one_shot_image import Fit

Show = Callable[[float], None]
"""Progress callback, called with each run's accuracy."""


@click.command("one-shot")
@click.argument("run")
@click.option(
    "--runs",
    type=click.IntRange(1, 20),
    default=20,
    show_default=True,
    metavar="N",
    help="Number of runs: the first of the 20.",
)
@click.option(
    "--parses", type=click.IntRange(1, 1000), help="Types per support image.  [default: 3]"
)
@click.option(
    "--steps", type=click.IntRange(1, 10**6), help="Gradient steps per token.  [default: 60]"
)
@click.option(
    "--two-way", is_flag=True, help="Also score how well the query explains the support image."
)
@click.option(
    "--background",
    is_flag=True,
    help="Take trials of the background set, for choosing settings, not the official trials.",
)
@options.record(
    "File to add the result to, under the model's name, or image, and changed settings."
)
@options.as_json
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
    as_json: bool,
    use: options.Use,
    data_dir: Path | None,
) -> None:
    """Classify characters from one example each.

    Omniglot's 20 runs of 20 ways (Table 1). RUN may be the word image: the control without a model,
    which compares the support image itself with the query, unfitted, fitted by an affine map, and
    bent. (A folder called image is ./image.)
    """
    import dataclasses

    from dood_pyro.files import refuse_another_run, update_object
    from dood_pyro.recognition import open_run
    from dood_pyro.tasks.one_shot import Settings
    from dood_pyro.tasks.one_shot import one_shot as classify
    from dood_pyro.tokens import require_types

    if run == CONTROL:
        _control(runs, background, record, as_json, data_dir)
        return
    made_by = open_run(run).provenance(use.which)
    dood = use.load(run)
    require_types(dood.model)
    given = {"parses": parses, "steps": steps, "two_way": two_way}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings, usual = dataclasses.replace(Settings(), **chosen), Settings()  # type: ignore[arg-type]
    # The paper's AIR is Difference-AIR; the original AIR's entry is marked as vanilla.
    base = {"dair": "air", "air": "air, vanilla"}.get(made_by["model"], made_by["model"])
    of_settings = {name: (getattr(settings, name), getattr(usual, name)) for name in chosen}
    key = options.entry(
        base + ", background" * background,
        *("runs", "guide", "which"),
        source=(made_by["source"], "omniglot"),
        **of_settings,
    )
    refuse_another_run(record, key, made_by)
    trials = _trials(runs, background, dood.size, data_dir)
    found = _measured(
        lambda show: classify(dood, trials, settings, show), len(trials), settings, as_json
    )
    update_object(record, {key: {**found, "run": made_by}})
    lines = [f"run {i:02d}  {100 * each:5.1f} %" for i, each in enumerate(found["runs"], start=1)]
    options.say(found, "\n".join([*lines, f"accuracy {_accuracy(found)}"]), as_json)


CONTROL = "image"
"""Word in place of a run for the control: the support image itself is fitted to the query."""


def _control(
    runs: int, background: bool, record: Path | None, as_json: bool, data_dir: Path | None
) -> None:
    from dood_pyro.config import ModelConfig
    from dood_pyro.files import update_object
    from dood_pyro.tasks.one_shot_image import SETTINGS, one_shot_image

    context = click.get_current_context()
    for name in ("parses", "steps", "two_way", "guide", "which", "trusted", "device"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = "--" + name.replace("_", "-")
            raise UserError(f"{option} is for a model; {CONTROL} has none: leave it out")
    trials = _trials(runs, background, ModelConfig.canvas_size, data_dir)
    entries: dict[str, dict[str, Any]] = {}
    for fit, settings in SETTINGS.items():

        def classify(show: Show, fit: Fit = fit) -> dict[str, Any]:
            return one_shot_image(trials, fit, show=show)

        entries[fit] = _measured(classify, len(trials), settings, as_json)
    update_object(record, {options.entry(CONTROL + ", background" * background, "runs"): entries})
    lines = [f"{name:<9} accuracy {_accuracy(entry)}" for name, entry in entries.items()]
    options.say(entries, "\n".join(lines), as_json)


def _trials(runs: int, background: bool, size: int, data_dir: Path | None) -> list[Trials]:
    from dood_pyro import data
    from dood_pyro.data.one_shot_runs import background_trials, official_trials

    if background:
        return background_trials(data.locate("omniglot", data_dir), size, runs)
    return official_trials(size, data_dir)[:runs]


def _measured(
    classify: Callable[[Show], dict[str, Any]], runs: int, settings: Settings, as_json: bool
) -> dict[str, Any]:
    """Classify behind a progress bar; return the accuracies with their settings and seconds taken."""
    import dataclasses
    import time

    from dood_pyro.progress import progress_bar

    began = time.perf_counter()
    with progress_bar(total=runs, unit="run", disable=as_json) as bar:

        def show(accuracy: float) -> None:
            bar.set_postfix_str(f"{100 * accuracy:.0f} %")
            bar.update()

        found = classify(show)
    seconds = time.perf_counter() - began
    return {**found, "seconds": seconds, "settings": dataclasses.asdict(settings)}


def _accuracy(found: dict[str, Any]) -> str:
    between = ""
    if found["interval"] is not None:
        between = ", 95 % interval {:.1f} to {:.1f}".format(*(100 * b for b in found["interval"]))
    return f"{100 * found['accuracy']:.1f} %{between}"
