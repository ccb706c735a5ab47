"""Effect of two choices of defaults, from results measured before and after the choices.
Run by hand; docs/results.md cites its findings.

    python experiments/earlier_settings.py

Reads earlier revisions' results from the repository's history (needs a full clone), and writes them,
beside today's, to experiments/results/earlier_settings.json:

    scale_learns       log p(x) of DooD's cells under `--scale-learns explored` and `drawn`; `drawn`
                       became the default after the first table had been seen
    omniglot_held_out  held-out ELBO of DooD on Omniglot under both, at equal steps
    native_resolution  held-out ELBO after 30 minutes without native resolution (β 3) and with native
                       resolution (β 5, changed at the same time)
"""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

from dood_pyro.errors import UserError, exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.tasks.rows import read_rows

HERE = Path(__file__).parent
RESULTS = HERE / "results"
OUT = RESULTS / "earlier_settings.json"
EXPLORED = "5653afa"
"""Last revision whose whole table was measured under `--scale-learns explored`."""
EXPLORED_SETTINGS = "1b54fd"
"""Prefix of the hash of that table's settings; the file also holds rows of other settings."""
SEED_1 = {"drawn_less_explored": 129, "steps": 2500, "note": "the runs were not kept"}
"""Result of the comparison on Omniglot with training seed 1, as recorded when it was made."""
NATIVE = "79eb234"
"""Revision that brought native resolution; its parent has the same runs without."""


def show(revision: str, path: str) -> str:
    """Return the text of a file in an earlier revision.

    Raises:
        UserError: this clone has no such revision.
    """
    command = ["git", "-C", str(HERE), "show", f"{revision}:{path}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"this clone lacks revision {revision}: git fetch --unshallow")
    return ran.stdout


def held_out(lines: str) -> list[dict[str, Any]]:
    """Held-out lines of a run's metrics."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [line for line in found if line["kind"] == "held-out"]


def scale_learns() -> dict[str, Any]:
    """log p(x) of DooD's cells under `--scale-learns explored` and `drawn`."""
    earlier = csv.DictReader(show(EXPLORED, "experiments/results/transfer.csv").splitlines())
    explored = {
        (row["source"], row["target"]): float(row["log_p"])
        for row in earlier
        if row["model"] == "dood" and row["config_sha256"].startswith(EXPLORED_SETTINGS)
    }
    return {
        f"{row['source']} on {row['target']}": {
            "explored": explored[row["source"], row["target"]],
            "drawn": float(row["log_p"]),
        }
        for row in read_rows(RESULTS / "transfer.csv")
        if row["model"] == "dood" and row["seed"] == "0"
    }


def omniglot_held_out() -> dict[str, Any]:
    """Held-out ELBO on Omniglot by step, where both settings were evaluated."""
    path = "experiments/runs/dood-omniglot-0/metrics.jsonl"
    explored = {line["step"]: line["elbo"] for line in held_out(show(EXPLORED, path))}
    drawn = held_out((HERE.parent / path).read_text())
    return {
        str(line["step"]): {"explored": explored[line["step"]], "drawn": line["elbo"]}
        for line in drawn
        if line["step"] in explored
    }


def native_resolution() -> dict[str, Any]:
    """Best held-out ELBO of each run without and with native resolution."""

    def best(revision: str, source: str) -> float:
        lines = held_out(show(revision, f"experiments/runs/dood-{source}-0/metrics.jsonl"))
        return float(max(line["elbo"] for line in lines))

    return {
        source: {"without": best(f"{NATIVE}~1", source), "with": best(NATIVE, source)}
        for source in ("mnist", "quickdraw")
    }


def main() -> None:
    """Read, write and print the results."""
    found = {
        "revisions": {"explored": EXPLORED, "native_resolution": NATIVE},
        "scale_learns": scale_learns(),
        "omniglot_held_out": omniglot_held_out(),
        "omniglot_held_out_of_seed_1": SEED_1,
        "native_resolution": native_resolution(),
    }
    write_atomically(OUT, (json.dumps(found, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
