"""Brings back the weights of kept runs that no figure needs, from the repository's history.

    make restore-runs        (or: python experiments/restore_runs.py)

`experiments/runs` holds settings, facts and metrics of all kept runs, and the weights of those that
`make figures` draws the paper's figures with. The others' weights stand in an earlier revision (a full
clone has it); once back, they are verified against SHA256SUMS whenever they are read. Git ignores them.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.files import write_atomically

HERE = Path(__file__).parent
REVISION = "6d4cad7"
"""The last revision that holds the weights of all kept runs."""
WEIGHTS = "best.safetensors"


def restore(folder: Path) -> None:
    """Put a run's weights back.

    Raises:
        UserError: this clone has no such revision, or it has no such run.
    """
    path = f"{REVISION}:experiments/runs/{folder.name}/{WEIGHTS}"
    ran = subprocess.run(["git", "-C", str(HERE), "show", path], capture_output=True, check=False)
    if ran.returncode:
        raise UserError(f"this clone lacks revision {REVISION}: git fetch --unshallow")
    write_atomically(folder / WEIGHTS, ran.stdout)


def main() -> None:
    """Restores what is missing."""
    folders = sorted(each for each in (HERE / "runs").iterdir() if each.is_dir())
    for folder in folders:
        if not (folder / WEIGHTS).exists():
            restore(folder)
            print(folder / WEIGHTS)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
