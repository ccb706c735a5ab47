"""Puts the weights of a run into the package, so that ``dood_pyro.load("omniglot")`` works at once.

    python experiments/package_weights.py runs/dood-omniglot-0 omniglot

Half precision: a drawing from them differs from the run's own by less than a printed pixel can show.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import dood_pyro
from dood_pyro.checkpoints import Run

WEIGHTS = Path(dood_pyro.__file__).parent / "weights"


def package(run: Run, name: str) -> Path:
    """Copies configuration, versions, metrics and the best weights; returns the folder."""
    config, until = run.read_config()
    tensors, notes = run.read_tensors("best.safetensors")
    folder = WEIGHTS / name
    folder.mkdir(parents=True, exist_ok=True)
    packaged = Run(folder)
    packaged.write_config(config, until)
    packaged.write_tensors("best.safetensors", {k: v.half() for k, v in tensors.items()}, notes)
    shutil.copyfile(run.path / "versions.json", folder / "versions.json")
    # The held-out lines alone: they say how long the weights were trained.
    lines = [line for line in run.read_metrics() if line["kind"] == "held-out"]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    print(package(Run(arguments.run), arguments.name))


if __name__ == "__main__":
    main()
