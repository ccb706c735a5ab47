"""Restore the weights of kept runs that no figure needs, from the repository's history.
``make restore-runs`` runs it.

    make restore-runs        (or: python experiments/restore_runs.py)

`experiments/runs` holds settings, facts and metrics of all kept runs, and the weights of the runs that
`make figures` needs. The other weights are in an earlier revision (of a full clone). Restored weights
are verified against SHA256SUMS whenever they are read; Git ignores them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.files import write_atomically

HERE = Path(__file__).parent
REVISION = "6d4cad7"
"""Last revision that holds the weights of all kept runs."""
WEIGHTS = "best.safetensors"
MOVED = {"dood-omniglot-90m-0": "dood_pyro/weights/omniglot"}
"""Where that revision holds a run's folder, if not in experiments/runs: it was the package's then."""


def restore(folder: Path) -> None:
    """Write a run's weights into its folder.

    Raises:
        UserError: this clone lacks the revision, or the revision lacks the run.
    """
    place = MOVED.get(folder.name, f"experiments/runs/{folder.name}")
    path = f"{REVISION}:{place}/{WEIGHTS}"
    ran = subprocess.run(["git", "-C", str(HERE), "show", path], capture_output=True, check=False)
    if ran.returncode:
        raise UserError(f"this clone lacks revision {REVISION}: git fetch --unshallow")
    write_atomically(folder / WEIGHTS, ran.stdout)


def main() -> None:
    """Restore all weights that are missing."""
    folders = sorted(each for each in (HERE / "runs").iterdir() if each.is_dir())
    for folder in folders:
        if not (folder / WEIGHTS).exists():
            restore(folder)
            print(folder / WEIGHTS)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
