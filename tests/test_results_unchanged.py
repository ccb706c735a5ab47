"""Bounds of kept runs and short trainings come out as they always have.

``unchanged.json`` holds the numbers of the code before it was taken apart for version 0.2; those of the
refined guide are of when it began to hold the prior's part of its gradient, and those of ``omniglot``
of when the package's weights got another prior (before, they were ``dood-omniglot-90m-0``). On the same
processor and versions they are the same to the last bit. Others round differently, which a search or
six training steps amplify: the tolerances are for that. A change that moves a number by more changes
results, and every figure in experiments/results with it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dood_pyro.cli.main import main

from dood_pyro.config import ModelConfig, TrainConfig
from dood_pyro.recognition import open_run
from dood_pyro.registry import load_component
from dood_pyro.research import train
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.evaluate import evaluate

HERE = Path(__file__).parent
KEPT = json.loads((HERE / "unchanged.json").read_text())
RUNS = HERE.parent / "experiments" / "runs"

SMALL = {
    "model.canvas_size": 28,
    "model.max_strokes": 3,
    "model.degree": 3,
    "model.layout_components": 4,
    "model.stroke_components": 4,
    "train.batch_size": 8,
}
PAPER = {
    "train.estimator": "nvil",
    "train.normalise": False,
    "train.num_refiners": 0,
    "model.pen": "shared",
    "model.control_points": "independent",
    "model.taper": False,
    "model.native_resolution": False,
}
TRAININGS: dict[str, tuple[str, dict[str, object]]] = {
    "dood": ("dood", {}),
    "dood-no-renderer": ("dood-no-renderer", {}),
    "dood-no-guidance": ("dood-no-guidance", {}),
    "dood-independent-prior": ("dood-independent-prior", {}),
    "dair, gaussian": ("dair", {"model.likelihood": "gaussian"}),
    "air": ("air", {}),
    "nvil": ("dood", {"train.estimator": "nvil"}),
    "the paper's program": ("dood", PAPER),
    "sleep, then synthetic": ("dood", {"train.sleep_steps": 2, "train.synthetic_ratio": 0.5}),
}
OVER_THE_FIRST: dict[str, dict[str, object]] = {
    "iwae over the first": {
        "train.estimator": "iwae",
        "train.trainable": "guide",
        "train.particles": 2,
    },
    "rws over the first": {"train.estimator": "rws", "train.particles": 2},
    "prior over the first": {"train.trainable": "prior"},
    "full covariance over the first": {
        "train.guide": "full-covariance",
        "train.trainable": "guide",
    },
}


def last_held_out(run: Run) -> dict[str, float]:
    """The last held-out line of a run's metrics."""
    lines = [line for line in run.read_metrics() if line["kind"] == "held-out"]
    return lines[-1]


@pytest.mark.parametrize("name", KEPT["bounds"])
def test_bounds_of_kept_runs(name: str) -> None:
    """On the first eight test images of `digits`, of which everyone has the same."""
    run_name, guide = name.split(", ")
    run = open_run(run_name if run_name == "omniglot" else RUNS / run_name)
    if not (run.path / "best.safetensors").exists():
        pytest.skip(f"the weights of {run_name} are in the repository's history: make restore-runs")
    searched = guide != "amortised"
    row = evaluate(
        run, "digits", limit=2 if searched else 8, particles=5, guide=guide if searched else None
    )
    for column, kept in KEPT["bounds"][name].items():
        assert row[column] == pytest.approx(kept, rel=2e-2 if searched else 2e-3), column


@pytest.mark.parametrize("name", TRAININGS)
def test_short_trainings(name: str, tmp_path: Path) -> None:
    model, settings = TRAININGS[name]
    without = load_component("model", model).settings_without_effect
    small = {each: value for each, value in SMALL.items() if each.split(".")[1] not in without}
    run = train("digits", model, steps=6, out=tmp_path / "run", settings={**small, **settings})
    found = last_held_out(run)
    for column, kept in KEPT["trainings"][name].items():
        assert found[column] == pytest.approx(kept, rel=1e-3, abs=1e-3), column


def test_short_trainings_from_weights(tmp_path: Path) -> None:
    first = train("digits", "dood", steps=6, out=tmp_path / "first", settings=SMALL)
    for name, settings in OVER_THE_FIRST.items():
        run = train(
            "digits",
            steps=6,
            out=tmp_path / name,
            init_from=first.path,
            settings={"train.batch_size": 8, **settings},
        )
        found = last_held_out(run)
        for column, kept in KEPT["trainings"][name].items():
            assert found[column] == pytest.approx(kept, rel=1e-3, abs=1e-3), (name, column)


def test_the_command_line_trains_as_python_does(tmp_path: Path) -> None:
    """By former names of options, which run folders' owners still have in their scripts."""
    options = ["--steps", "6", "--batch-size", "8", "--canvas-size", "28", "--max-strokes", "3"]
    options += ["--degree", "3", "--layout-components", "4", "--stroke-components", "4"]
    options += ["--dream-steps", "2", "--practice", "0.5", "--no-tensorboard"]
    run = Run(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--source", "digits", "--model", "dood", "--out", str(run.path), *options])
    assert ended.value.code in (0, None)
    kept = KEPT["trainings"]["sleep, then synthetic"]
    assert last_held_out(run)["elbo"] == pytest.approx(kept["elbo"], rel=1e-3)


def test_defaults_are_what_results_were_measured_with() -> None:
    """Whoever changes a default changes what the tables are of (CONTRIBUTING.md)."""
    hashes = {ModelConfig().sha256(), TrainConfig().sha256(without=("source", "seed", "init_from"))}
    for name in ("dood-mnist-0", "dood-omniglot-0"):
        config, _ = Run(RUNS / name).read_config()
        assert {
            config.model.sha256(),
            config.train.sha256(without=("source", "seed", "init_from")),
        } == hashes
