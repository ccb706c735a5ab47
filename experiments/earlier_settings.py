"""What two choices of defaults were worth, from results of before they were made.

    python experiments/earlier_settings.py

Reads from the repository's history (a full clone) what earlier revisions measured, and writes it beside
today's figures to experiments/results/earlier_settings.json:

    scale_learns       log p(x) of DooD's cells under `--scale-learns explored` and `drawn`; the second
                       became the default after the first table had been seen
    omniglot_held_out  the held-out bound of DooD on Omniglot at equal steps under both
    native_resolution  the held-out bound after 30 minutes without native resolution (β 3) and with it
                       (β 5, changed at the same time)
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
"""The last revision whose whole table is of `--scale-learns explored`."""
EXPLORED_SETTINGS = "1b54fd"
"""How the hash of that table's settings begins; beside its rows are some of other settings."""
SEED_1 = {"drawn_less_explored": 129, "steps": 2500, "note": "the runs were not kept"}
"""What the same comparison gave with another seed, when it was made."""
NATIVE = "79eb234"
"""The revision that brought native resolution; the one before it has the same runs without."""


def show(revision: str, path: str) -> str:
    """A file of an earlier revision.

    Raises:
        UserError: this clone has no such revision.
    """
    command = ["git", "-C", str(HERE), "show", f"{revision}:{path}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise UserError(f"this clone lacks revision {revision}: git fetch --unshallow")
    return ran.stdout


def held_out(lines: str) -> list[dict[str, Any]]:
    """The held-out lines of a run's metrics."""
    found = [json.loads(line) for line in lines.splitlines()]
    return [line for line in found if line["kind"] == "held-out"]


def scale_learns() -> dict[str, Any]:
    """DooD's cells under both."""
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
    """The bound by step, where both were evaluated."""
    path = "experiments/runs/dood-omniglot-0/metrics.jsonl"
    explored = {line["step"]: line["elbo"] for line in held_out(show(EXPLORED, path))}
    drawn = held_out((HERE.parent / path).read_text())
    return {
        str(line["step"]): {"explored": explored[line["step"]], "drawn": line["elbo"]}
        for line in drawn
        if line["step"] in explored
    }


def native_resolution() -> dict[str, Any]:
    """The best bound of each run."""

    def best(revision: str, source: str) -> float:
        lines = held_out(show(revision, f"experiments/runs/dood-{source}-0/metrics.jsonl"))
        return float(max(line["elbo"] for line in lines))

    return {
        source: {"without": best(f"{NATIVE}~1", source), "with": best(NATIVE, source)}
        for source in ("mnist", "quickdraw")
    }


def main() -> None:
    """Reads, writes and prints."""
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
