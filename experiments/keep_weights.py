"""Keep a run's best weights without the state that resuming needs: a tenth of the size.
Run by hand, for the package's weights and the runs in experiments/runs.

    python experiments/keep_weights.py runs/dood-omniglot-0 dood_pyro/weights/omniglot
    python experiments/keep_weights.py runs/dair-mnist-0 experiments/runs/dair-mnist-0

``dood_pyro.load("omniglot")`` finds the first folder; ``make transfer-table`` takes the second in place
of a training. Weights are kept in half precision: drawings differ from the run's own by less than a
printed pixel can show. The checksums of the folder's files go into the SHA256SUMS beside the folder,
and are verified whenever a file is read (and by ``sha256sum --check SHA256SUMS``);

    python experiments/keep_weights.py --sums FOLDER...

only writes the checksums of folders that are kept already.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.run_folders.run import Run
from dood_pyro.run_folders.tensors import SUMS


def keep(run: Run, folder: Path) -> None:
    """Write configuration, versions, held-out metrics and best weights of a run to a folder."""
    config, budget = run.read_config()
    tensors, notes = run.read_tensors("best.safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    kept = Run(folder)
    kept.write_config(config, budget)
    kept.write_tensors("best.safetensors", {k: v.half() for k, v in tensors.items()}, notes)
    kept.write_facts(run.read_facts())
    # The last line, beside the held-out lines, says how long the weights were trained.
    lines = run.read_metrics()
    lines = [line for line in lines if line["kind"] == "held-out" or line is lines[-1]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    list_sums(folder)


def list_sums(folder: Path) -> None:
    """Write the checksums of a folder's files to `SUMS` beside the folder, replacing earlier ones."""
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
    """Read the arguments, and keep a run or write checksums."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN FOLDER")
    parser.add_argument("--sums", action="store_true", help="Only write the checksums of FOLDER...")
    arguments = parser.parse_args()
    if arguments.sums:
        for folder in arguments.run:
            list_sums(folder)
        return
    if len(arguments.run) != 2:
        parser.error("name a run and the folder to keep it in")
    run, folder = arguments.run
    keep(Run(run), folder)
    print(folder)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
