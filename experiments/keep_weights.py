"""Keeps what a run has learned without what it needs to go on: a tenth of its size.

    python experiments/keep_weights.py runs/dood-omniglot-0 dood_pyro/weights/omniglot
    python experiments/keep_weights.py runs/dair-mnist-0 experiments/runs/dair-mnist-0

The first is what ``dood_pyro.load("omniglot")`` finds; the second what ``make transfer-table``
takes in place of a training. Half precision: a drawing from it differs from the run's own by
less than a printed pixel can show.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from dood_pyro.checkpoints import Run
from dood_pyro.errors import told_in_a_line


def keep(run: Run, folder: Path) -> None:
    """Writes configuration, versions, held-out metrics and the best weights of a run."""
    config, until = run.read_config()
    tensors, notes = run.read_tensors("best.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    kept = Run(folder)
    kept.write_config(config, until)
    kept.write_tensors("best.safetensors", {k: v.half() for k, v in tensors.items()}, notes)
    shutil.copyfile(run.path / "versions.json", folder / "versions.json")
    # The held-out lines, and the last: they say how long the weights were trained.
    lines = run.read_metrics()
    lines = [line for line in lines if line["kind"] == "held-out" or line is lines[-1]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    keep(Run(arguments.run), arguments.folder)
    print(arguments.folder)


if __name__ == "__main__":
    with told_in_a_line():
        main()
