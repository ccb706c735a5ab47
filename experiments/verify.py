"""Recompute a sample of the results from the kept runs, and compare the pages with their files.
``make verify`` runs it.

    make verify           (or: python experiments/verify.py)

Ten minutes on two cores: some of the transfer table's cells on a few images, some one-shot runs, a
Fréchet distance with its denominators and a control, the silhouettes, kept files' checksums, and every
table and claim of docs/results.md, with the README's copies, against their files. Each line prints the
kept value, the found value and the allowed difference; the exit status is 1 if any difference is
larger. `make restore-runs` brings back weights that the cells need.

A cell's first images are measured with the same random samples as in the whole cell. Their bounds are
kept in experiments/results/verify.json (``--keep`` writes the file anew); another processor or version
may move a bound by a quarter of its standard error over those images. The bounds must also fit the
table: within four standard errors, those of the images left out, of the whole cell's bound. Distances
vary with the seed of sampling; four of the kept standard deviations are allowed. A part whose data are
missing, or differ from the data of the kept results, is left out, with a message.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from results_files import RESULTS, SHALLOW, result, rows
from results_page import PAGE, README, problems

import dood_pyro
from dood_pyro import data
from dood_pyro.data.one_shot_runs import official_trials
from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.features import load_features
from dood_pyro.files import write_atomically
from dood_pyro.run_folders.run import Run
from dood_pyro.run_folders.tensors import SUMS
from dood_pyro.tasks.clusters import kmeans, vocabulary
from dood_pyro.tasks.evaluate import evaluate
from dood_pyro.tasks.one_shot import one_shot
from dood_pyro.tasks.one_shot_image import SETTINGS, one_shot_image
from dood_pyro.tasks.sample_quality import MEASURES, report

HERE = Path(__file__).parent
RUNS = HERE / "runs"
WEIGHTS = HERE.parent / "dood_pyro" / "weights"
KEPT = RESULTS / "verify.json"
ERRORS = 4.0
"""Allowed difference of a figure, in standard errors."""
ROUNDING = 0.25
"""Allowed difference by other rounding of the same samples, in standard errors."""

CELLS = (
    ("dood", "mnist", "mnist"),
    ("dood", "kmnist", "mnist"),
    ("dood", "omniglot", "quickdraw"),
    ("dood-no-guidance", "mnist", "omniglot"),
    ("dood-no-renderer", "mnist", "emnist"),
    ("dair", "emnist", "kmnist"),
    ("air", "mnist", "mnist"),
)
IMAGES = 64
ONE_SHOT_RUNS = 2
TRIALS = 20


class Finding(NamedTuple):
    """Figure of the results, kept and recomputed."""

    what: str
    kept: float
    found: float
    allowed: float
    """Allowed difference of ``kept`` and ``found``."""

    def holds(self) -> bool:
        """Whether ``kept`` and ``found`` agree."""
        return abs(self.found - self.kept) <= self.allowed

    def __str__(self) -> str:
        mark = "  " if self.holds() else "✗ "
        return (
            f"{mark}{self.what:<58} kept {self.kept:>10.4g}  found {self.found:>10.4g}  "
            f"may differ by {self.allowed:.3g}"
        )


def has_weights(model: str, source: str) -> bool:
    """Whether the weights of a run are in the tree; those of some are in the history alone."""
    return (RUNS / f"{model}-{source}-0" / "best.safetensors").exists()


def cells() -> Iterator[Finding]:
    """Bounds of some cells on the cells' first images, nats per image."""
    kept = result("verify")
    for model, source, target in CELLS:
        (row,) = (
            r
            for r in rows()
            if (r["model"], r["source"], r["target"], r["seed"]) == (model, source, target, "0")
        )
        if data.read(target, "test")[2] != row["data_sha256"]:
            print(f"  left out: {target} is not the data file that the table was measured on")
            continue
        if not has_weights(model, source):
            print(f"  left out: weights of {model} on {source} are not here: make restore-runs")
            continue
        found, cell = first_images(model, source, target), f"{model}, {source} on {target}"
        # Factor on the standard error: the first images are part of the whole cell.
        rest = math.sqrt(1 - IMAGES / int(row["images"]))
        for name in ("log_p", "log_p_summed"):
            error = found[f"{name}_se"]
            what = f"{cell}: {name}, first {IMAGES}"
            yield Finding(what, kept[cell][name], found[name], ROUNDING * error)
            what = f"{cell}: {name}, of the whole"
            yield Finding(what, float(row[name]), found[name], ERRORS * rest * error)


def first_images(model: str, source: str, target: str) -> dict[str, float]:
    """Bounds of a cell on the first images, nats per image, and standard errors over images."""
    run = Run(RUNS / f"{model}-{source}-0")
    row = evaluate(run, target, limit=IMAGES, jobs=torch.get_num_threads())
    names = ("log_p", "log_p_se", "log_p_summed", "log_p_summed_se")
    return {name: row[name] for name in names}


def keep() -> None:
    """Write the bounds of the cells' first images to verify.json."""
    found = {f"{m}, {s} on {t}": first_images(m, s, t) for m, s, t in CELLS}
    write_atomically(KEPT, (json.dumps(found, indent=2) + "\n").encode())


def one_shot_runs() -> Iterator[Finding]:
    """Accuracies of the first official runs, by the packaged weights and by the controls."""
    kept = result("one_shot")
    dood = dood_pyro.load("omniglot")
    trials = official_trials(dood.size)[:ONE_SHOT_RUNS]
    found = one_shot(dood, trials)["runs"]
    for index, accuracy in enumerate(found):
        what = f"one-shot, DooD, run {index + 1:02d}"
        # On another processor or version, rounding may decide a trial.
        yield Finding(what, kept["dood"]["runs"][index], accuracy, 1.01 / TRIALS)
    for fit in SETTINGS:
        for index, accuracy in enumerate(one_shot_image(trials, fit)["runs"]):
            what = f"one-shot, image, {fit}, run {index + 1:02d}"
            yield Finding(what, kept["image"][fit]["runs"][index], accuracy, 1.01 / TRIALS)


def distances() -> Iterator[Finding]:
    """Measures of samples on Omniglot, and of what stands beside them, for one seed."""
    kept = result("sample_quality")[SHALLOW.format("omniglot")]["sets"]
    network = load_features("omniglot")
    found = report(dood_pyro.load("omniglot"), None, "omniglot", network, seeds=(0,))["sets"]
    for name, mine in found.items():
        for measure in MEASURES:
            theirs, allowed = kept[name][measure], ERRORS * kept[name][f"{measure}_std"]
            # On another processor or version, rounding may decide where a picture belongs.
            yield Finding(
                f"{measure}, Omniglot: {name}", theirs, mine[measure], allowed + 0.002 * abs(theirs)
            )


def silhouettes() -> Iterator[Finding]:
    """Silhouettes at k = 8, for one seed of k-means."""
    from sklearn.metrics import silhouette_score

    kept = result("clusters")
    for name in ("dood-mnist-0", "dair-mnist-0"):
        words = vocabulary(dood_pyro.load(RUNS / name), "mnist")
        sets = {"": words.features}
        if words.re_oriented is not None:
            sets[", re-oriented"] = words.re_oriented
        for kind, features in sets.items():
            entry = kept[name]["re_oriented"] if kind else kept[name]
            score = silhouette_score(features, kmeans(features), sample_size=5000, random_state=0)
            allowed = ERRORS * entry["by_k"]["8"]["std"] + 0.005
            what = f"silhouette, {name}{kind}"
            yield Finding(what, entry["silhouette"], float(score), allowed)


def checksums() -> Iterator[Finding]:
    """Number of kept files whose checksum has changed, by folder."""
    for folder in (RUNS, WEIGHTS):
        command = ["sha256sum", "--check", "--quiet", "--ignore-missing", SUMS]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        print(ran.stdout, end="")
        changed = len(ran.stdout.splitlines()) if ran.returncode else 0
        yield Finding(f"changed files in {os.path.relpath(folder)}", 0, changed, 0)


def results_page() -> Iterator[Finding]:
    """Number of tables and claims that differ from their files."""
    found = problems(PAGE.read_text(), README.read_text())
    for line in found:
        print(line)
    yield Finding(
        f"docs/results.md against {os.path.relpath(RESULTS)}: differences", 0, len(found), 0
    )


PARTS = {
    "results-page": results_page,
    "checksums": checksums,
    "silhouettes": silhouettes,
    "distances": distances,
    "one-shot": one_shot_runs,
    "cells": cells,
}


def main() -> None:
    """Read the arguments, recompute and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="Recompute this part alone; may be repeated."
    )
    parser.add_argument("--keep", action="store_true", help="Write verify.json anew.")
    arguments = parser.parse_args()
    if arguments.keep:
        keep()
        return
    began, off, count = time.perf_counter(), 0, 0
    for name in arguments.only or PARTS:
        try:
            for finding in PARTS[name]():
                print(finding, flush=True)
                off += not finding.holds()
                count += 1
        except UserError as error:  # missing data
            print(f"  left out: {name}: {' '.join(str(error).split())}", flush=True)
    minutes = (time.perf_counter() - began) / 60
    print(f"{count - off} of {count} hold, in {minutes:.1f} minutes")
    sys.exit(1 if off else 0)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
