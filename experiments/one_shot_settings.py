"""Choice of the settings that score one-shot queries, on trials of Omniglot's background set.
Run by hand where defaults of `dood_pyro.tasks.one_shot` and its control are to be chosen.

    python experiments/one_shot_settings.py dood omniglot
    python experiments/one_shot_settings.py image

Measures the candidates below, each a change of the default, on the first trials of the background set
(`dood_pyro.data.one_shot_runs.background_trials`), and writes the accuracies and the choice to
experiments/results/one_shot_settings.json. Candidates that are there already are not measured again.
The models were trained on the background set's pictures: accuracies there serve the choice and are
not results. For the controls without a model, the best candidate is chosen, by any margin. For the
model, a candidate replaces the default only if better by two standard errors of the difference over
trials. The official runs play no part.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import dood_pyro
from dood_pyro import data
from dood_pyro.data.one_shot_runs import Trials, background_trials
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import read_object, update_object
from dood_pyro.recognition import open_run
from dood_pyro.tasks.one_shot import Settings, one_shot
from dood_pyro.tasks.one_shot_image import Fit, one_shot_image
from dood_pyro.tokens import TokenNoise

RESULTS = Path(__file__).parent / "results" / "one_shot_settings.json"
SIZE = 50
"""Size of the canvas, pixels per side."""


def scaled(noise: TokenNoise, factor: float) -> TokenNoise:
    """Noise with all standard deviations multiplied by ``factor``."""
    return TokenNoise(**{name: factor * value for name, value in vars(noise).items()})


def candidates(kind: str) -> dict[str, Settings]:
    """Candidate settings of a kind, by name of the change from the default."""
    base = Settings() if kind == "dood" else Settings(parses=1)
    wide, narrow = scaled(base.noise, 1.5), scaled(base.noise, 0.67)

    def changed(**changes: Any) -> Settings:
        return dataclasses.replace(base, **changes)

    if kind == "unfitted":
        return {
            f"blur of {sigma:g} pixels": changed(steps=0, blurs=(sigma,))
            for sigma in (0.7, 1.5, 3.0, 5.0, 8.0, 12.0)
        }
    common = {
        "default": base,
        "120 steps": changed(steps=120),
        "scale 0.25": changed(scale=0.25),
        "scale 1": changed(scale=1.0),
        "wider tokens": changed(noise=wide),
        "narrower tokens": changed(noise=narrow),
    }
    if kind == "elastic":
        for control in (0.03, 0.1, 0.15):
            bent = dataclasses.replace(base.noise, control=control)
            common[f"grid's deviation {control:g}"] = changed(noise=bent)
    if kind == "dood":
        common |= {"1 parse": changed(parses=1), "one blur": changed(blurs=(0.7,))}
        del common["120 steps"]  # slowest, and no gain for the elastic fit
    return common


def measure(
    kind: str, classify: Callable[[list[Trials], Settings], dict[str, Any]], runs: list[Trials]
) -> None:
    """Measure the candidates of a kind that have no accuracy yet, and choose one."""
    tried: dict[str, Any] = read_object(RESULTS).get(kind, {}).get("candidates", {})
    for name, settings in candidates(kind).items():
        if name in tried:
            continue
        began = time.perf_counter()
        found = classify(runs, settings)
        tried[name] = {
            "accuracy": found["accuracy"],
            "runs": found["runs"],
            "seconds": time.perf_counter() - began,
            "settings": dataclasses.asdict(settings),
        }
        print(f"{kind}, {name}: {100 * found['accuracy']:.1f} %", flush=True)
        update_object(RESULTS, {kind: {"chosen": choose(kind, tried), "candidates": tried}})
    update_object(RESULTS, {kind: {"chosen": choose(kind, tried), "candidates": tried}})
    print(f"{kind}: {choose(kind, tried)} is chosen", flush=True)


def choose(kind: str, tried: dict[str, Any]) -> str:
    """Name of the chosen candidate, the first where several are best."""
    best = max(tried, key=lambda each: tried[each]["accuracy"])
    if kind != "dood":
        return best
    pairs = zip(tried[best]["runs"], tried["default"]["runs"], strict=True)
    gains = [mine - default for mine, default in pairs]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("inf")
    return best if statistics.fmean(gains) > 2 * error else "default"


def main() -> None:
    """Read the arguments, measure and choose."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["dood", "image"])
    parser.add_argument("run", nargs="?", default="omniglot")
    parser.add_argument("--runs", type=int, default=8, help="Trials of 20.  [default: 8]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = background_trials(data.locate("omniglot"), SIZE, arguments.runs)
    if arguments.what == "image":
        fits: tuple[Fit, ...] = ("unfitted", "affine", "elastic")
        for fit in fits:
            measure(fit, lambda t, s, fit=fit: one_shot_image(t, fit, s), runs)  # type: ignore[misc]
        return
    dood = dood_pyro.load(open_run(arguments.run).path)
    measure("dood", lambda t, s: one_shot(dood, t, s), runs)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
