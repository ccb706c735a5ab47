"""Every figure and table of the paper, from kept runs. ``make figures`` and ``make tables`` run it.

    make figures          (or: python experiments/paper.py figures)
    make tables           (or: python experiments/paper.py tables)

Each part below is one ``dood-pyro`` command. A part whose runs are missing is left out, with a message.
Runs are sought in experiments/runs; --runs-dir names another folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from dood_pyro.tasks.transfer.published import DATASETS

HERE = Path(__file__).parent
KEPT = HERE / "results"
FIVE = ",".join(DATASETS)
PAPERS_PRIOR = "dood-omniglot-90m|dood-omniglot"
OMNIGLOT = f"dood-transformer-omniglot|{PAPERS_PRIOR}"
"""Run for the tasks of section 3.2: the weights that come with the package, if they are there."""
ON_MNIST = ("dood", "dair", "air", "dood-no-renderer", "dood-no-guidance")


class Part(NamedTuple):
    """Figure or table: the runs that it needs, and the command that makes it."""

    what: str
    runs: tuple[str, ...]
    """Names of the runs, as ``model-source``; of names joined by ``|``, the first run that is there."""
    command: str
    """Command line. {0}, {1}… stand for the runs, {all} for all runs, {runs} for the folder of runs,
    {out} and {results} for the folders of new figures and numbers, {kept} for that of kept numbers."""
    every: bool = True
    """Whether the part needs every run; otherwise the runs that are there suffice."""


def _drawn_with(source: str) -> str:
    return OMNIGLOT if source == "omniglot" else f"dood-{source}"


def figures() -> list[Part]:
    """Parts of Fig. 1 to 8, and of the figures beyond the paper."""
    on_mnist = tuple(f"{model}-mnist" for model in ON_MNIST)
    parts = [
        Part(
            "Fig. 1, drawings stroke by stroke",
            (OMNIGLOT,),
            "reconstruct {0} --target omniglot --no-svg --out {out}/reconstructions.png",
        ),
        Part(
            "Fig. 2, one drawing taken apart",
            ("dood-mnist",),
            "anatomy {0} --target mnist --index 3 --out {out}/anatomy.png",
        ),
        Part(
            "Fig. 3a, models side by side",
            on_mnist,
            f"compare {{all}} --targets {FIVE} --count 3 --out {{out}}/compare.png",
            every=False,
        ),
        Part(
            "Fig. 3b to d, strokes by target",
            on_mnist,
            f"stroke-counts {{all}} --targets {FIVE} --limit 500 --out {{out}}/stroke-counts.png",
            every=False,
        ),
        Part(
            "Fig. 4, who explains whose drawings",
            ("dood-mnist",),
            "transfer-table --no-fill --runs-dir {runs} --table {kept}/transfer.csv "
            "--out {out}/transfer.png",
        ),
        Part(
            "Fig. 5, clusters of strokes; the paper's AIR is Difference-AIR",
            ("dood-mnist", "dair-mnist", "air-mnist", "dood-mnist-90m"),
            "clusters {all} --out {out}/clusters.png --record {results}/clusters.json",
            every=False,
        ),
        Part(
            "guides, quality against time",
            ("dood-mnist",),
            "compare-guides {0} --target omniglot --out {out}/guides.png",
        ),
        Part(
            "calibration of the guide",
            ("dood-mnist",),
            "calibrate {0} --out {out}/calibration.png",
        ),
    ]
    for source in DATASETS:
        command = f"sample {{0}} --out {{out}}/samples-{source}.png"
        prior = "a transformer prior" if source == "omniglot" else "the paper's prior"
        what = f"Fig. 6, samples of {prior}: {source}"
        parts.append(Part(what, (_drawn_with(source),), command))
    for source in ("omniglot", "quickdraw"):
        for model, kept in (("dood", _drawn_with(source)), ("dair", f"dair-{source}")):
            run, name = (kept,), f"exemplars-{model}-{source}.png"
            command = f"exemplars {{0}} --target {source} --out {{out}}/{name}"
            parts.append(Part(f"Fig. 7, new exemplars: {model}, {source}", run, command))
        command = f"complete {{0}} --target {source} --out {{out}}/completions-{source}.png"
        parts.append(Part(f"Fig. 8, completions: {source}", (_drawn_with(source),), command))
    return parts


def tables() -> list[Part]:
    """Parts of the numbers of section 3, and of the comparison of guides."""
    parts = [
        Part(
            "Fig. 4, the table's cells and findings",
            ("dood-mnist",),
            "transfer-table --no-train --runs-dir {runs} --table {results}/transfer.csv "
            "--out {out}/transfer.png",
        ),
        Part(
            "Table 1, one-shot classification",  # of the recognition that the package has, too
            (PAPERS_PRIOR,),
            "one-shot {0} --record {results}/one_shot.json",
        ),
        Part(
            "Table 1, one-shot classification by Difference-AIR",
            ("dair-omniglot",),
            "one-shot {0} --record {results}/one_shot.json",
        ),
        Part(
            "Table 1, the control without a model",
            (),
            "one-shot image --record {results}/one_shot.json",
        ),
    ]
    for source in DATASETS:
        command = "sample-quality {0} --rival {1} --record {results}/sample_quality.json"
        dood = PAPERS_PRIOR if source == "omniglot" else f"dood-{source}"
        parts.append(Part(f"quality of samples: {source}", (dood, f"dair-{source}"), command))
        command = "statistics {0} --record {results}/statistics.json"
        parts.append(Part(f"what samples are unlike data in: {source}", (dood,), command))
    for task, results in (("sample-quality", "sample_quality"), ("statistics", "statistics")):
        command = f"{task} {{0}} --record {{results}}/{results}.json"
        what = f"{task} of the package's prior: omniglot"
        parts.append(Part(what, ("dood-transformer-omniglot",), command))
    for target in DATASETS[1:]:
        command = (
            f"compare-guides {{0}} --target {target} --record {{results}}/guides.json "
            f"--out {{out}}/guides-{target}.png"
        )
        parts.append(Part(f"guides out of distribution: {target}", ("dood-mnist",), command))
    return parts


def make(parts: list[Part], runs: Path, out: Path, results: Path) -> int:
    """Run the commands; return the number of parts that are missing."""
    missing = 0
    for part in parts:
        found = [_first(name, runs) for name in part.runs]
        there = [str(folder) for folder, is_there in found if is_there]
        if len(there) < (len(found) if part.every else 1):
            lacking = ", ".join(str(folder) for folder, is_there in found if not is_there)
            print(f"left out  {part.what}: there is no {lacking}; make restore-runs", flush=True)
            missing += 1
            continue
        print(f"making    {part.what}", flush=True)
        words: list[str] = []
        for word in part.command.split():
            if word == "{all}":
                words += there
            else:
                words.append(word.format(*there, runs=runs, out=out, results=results, kept=KEPT))
        command = [sys.executable, "-m", "dood_pyro.cli", *words]
        if subprocess.run(command, check=False).returncode:
            missing += 1
    return missing


def _first(names: str, runs: Path) -> tuple[Path, bool]:
    """Folder of the first run that is there, else of the last run; and whether a run is there."""
    folders = [runs / f"{name}-0" for name in names.split("|")]
    there = (folder for folder in folders if (folder / "best.safetensors").exists())
    folder = next(there, None)
    return (folders[-1], False) if folder is None else (folder, True)


def main() -> None:
    """Read the arguments, and make the figures or tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["figures", "tables"])
    parser.add_argument("--runs-dir", type=Path, default=HERE / "runs")
    parser.add_argument(
        "--out",
        type=Path,
        help="Folder for figures and numbers.  [default: experiments/figures; numbers, "
        "experiments/results]",
    )
    arguments = parser.parse_args()
    drawn = arguments.what == "figures"
    out = arguments.out or HERE / ("figures" if drawn else "results")
    out.mkdir(parents=True, exist_ok=True)
    results = arguments.out or KEPT
    missing = make(figures() if drawn else tables(), arguments.runs_dir, out, results)
    print(f"{out}: {missing} parts are missing" if missing else f"{out}: all there")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
