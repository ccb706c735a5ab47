"""Held-out ELBO against training time, from the metrics of runs.
Run by hand; docs/results.md shows its figure.

    python experiments/elbo_against_time.py runs/dood-mnist-0 runs/dood-omniglot-0
    python experiments/elbo_against_time.py     # draws what the table has

Adds the runs' held-out lines to experiments/results/elbo_against_time.csv (a run's new lines replace
its old ones) and draws the whole table beside it.
"""

from __future__ import annotations

import argparse
import csv
import io
from pathlib import Path

from cycler import cycler
from matplotlib import colormaps

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.plots import new_figure, save_figure
from dood_pyro.run_folders.run import Run

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "elbo_against_time.csv"
COLUMNS = (
    "run",
    "source",
    "estimator",
    "hardware",
    "revision",
    "step",
    "seconds",
    "elbo",
    "strokes",
)


def lines_of(run: Run) -> list[dict[str, str]]:
    """Held-out lines of a run, as rows of the table."""
    config, _ = run.read_config()
    versions = run.read_facts().versions
    return [
        {
            "run": run.path.name,
            "source": Path(config.train.source).stem,
            "estimator": config.train.estimator,
            "hardware": versions["hardware"],
            "revision": versions["revision"],
            "step": str(line["step"]),
            "seconds": f"{line['seconds']:.0f}",
            "elbo": f"{line['elbo']:.1f}",
            "strokes": f"{line['strokes']:.2f}",
        }
        for line in run.read_metrics()
        if line["kind"] == "held-out" and line["elbo"] is not None
    ]


def draw(rows: list[dict[str, str]], path: Path) -> None:
    """Draw one curve per run, minutes against nats per image."""
    figure = new_figure(7.5, 4)
    axes = figure.subplots()
    axes.set_prop_cycle(cycler(linestyle=["-", "--"]) * cycler(color=colormaps["tab10"].colors))  # type: ignore[attr-defined]
    for name in dict.fromkeys(row["run"] for row in rows):
        mine = [row for row in rows if row["run"] == name]
        minutes = [float(row["seconds"]) / 60 for row in mine]
        axes.plot(minutes, [float(row["elbo"]) for row in mine], marker=".", label=name)
    axes.set(
        xlabel="minutes of training", ylabel="held-out ELBO, nats per image", ylim=(2000, None)
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def main() -> None:
    """Read the arguments, and update the table and the figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="*")
    runs = [Run(path) for path in parser.parse_args().runs]
    new = [row for run in runs for row in lines_of(run)]
    old: list[dict[str, str]] = []
    if TABLE.exists():
        with open(TABLE, newline="") as file:
            old = list(csv.DictReader(file))
    replaced = {row["run"] for row in new}
    rows = [row for row in old if row["run"] not in replaced] + new
    RESULTS.mkdir(exist_ok=True)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(TABLE, table.getvalue().encode())
    draw(rows, TABLE.with_suffix(".png"))
    print(f"{TABLE} and {TABLE.with_suffix('.png')}")


if __name__ == "__main__":
    with exit_on_user_error():
        main()
