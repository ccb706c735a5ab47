"""Keeps what a run has learned without what it needs to go on: a tenth of its size.

    python experiments/keep_weights.py runs/dood-omniglot-0 dood_pyro/weights/omniglot
    python experiments/keep_weights.py runs/dair-mnist-0 experiments/runs/dair-mnist-0

The first is what ``dood_pyro.load("omniglot")`` finds; the second what ``make transfer-table``
takes in place of a training. Half precision: a drawing from it differs from the run's own by
less than a printed pixel can show. The checksums of the folder's files go into the SHA256SUMS beside
the folder, which is verified whenever they are read (and by ``sha256sum --check SHA256SUMS``);

    python experiments/keep_weights.py --sums FOLDER...

lists folders that are kept already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.runs.run import Run
from dood_pyro.runs.tensors import SUMS


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
    list_sums(folder)


def list_sums(folder: Path) -> None:
    """Puts the checksums of a folder's files into the `SUMS` beside it, in place of earlier ones."""
    sums = folder.parent / SUMS
    old = sums.read_text().splitlines() if sums.exists() else []
    kept = [line for line in old if not line.split(maxsplit=1)[1].startswith(f"{folder.name}/")]
    mine = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {folder.name}/{file.name}"
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]
    lines = sorted([*kept, *mine], key=lambda line: line.split(maxsplit=1)[1])
    write_atomically(sums, "".join(f"{line}\n" for line in lines).encode())


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN FOLDER")
    parser.add_argument(
        "--sums", action="store_true", help="List the checksums of FOLDER... alone."
    )
    arguments = parser.parse_args()
    if arguments.sums:
        for folder in arguments.run:
            list_sums(folder)
        return
    if len(arguments.run) != 2:
        parser.error("name a run and the folder that it is to be kept in")
    run, folder = arguments.run
    keep(Run(run), folder)
    print(folder)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
