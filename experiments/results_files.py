"""The files of results: how they are read, their keys, and how their numbers are written.
`results_tables.py`, `results_page.py`, `seeds.py` and `verify.py` use it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dood_pyro.registry import MODELS
from dood_pyro.tasks.rows import read_rows
from dood_pyro.tasks.transfer.cells import Cell, cell_of
from dood_pyro.tasks.transfer.published import DATASETS

RESULTS = Path(__file__).parent / "results"
TRANSFORMER = "{}, model dood-transformer, trainable prior"
"""Key of what was measured of a prior trained alone over the run of the table, with pointers and a deep
chain."""
SHALLOW = TRANSFORMER + ", chain shallow"
"""Key of the same with a shallow chain, as the package's weights have it."""
PLAIN = TRANSFORMER + ", pointers False, chain shallow"
"""Key of the same without pointers, too."""
LONGER = "{}, trainable prior"
"""Key of the paper's prior, trained alone for as long as the best that remembers: the control."""
TWELVE = TRANSFORMER + ", max_strokes 12"
"""Key of the same with twelve strokes at most, over a run that has as many."""


def number(value: float, digits: int = 0) -> str:
    """Write a number with separators and a minus sign."""
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """Write a share in per cent."""
    return f"{100 * value:.1f} %"


def spread(entry: dict[str, Any], name: str, digits: int = 2) -> str:
    """A mean and its standard deviation."""
    return f"{entry[name]:.{digits}f} ± {entry[f'{name}_std']:.{digits}f}"


def line_of(columns: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(columns)} |"


def result(name: str) -> Any:
    """A JSON file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def rows(name: str = "transfer") -> list[dict[str, str]]:
    """A CSV file of results."""
    return read_rows(RESULTS / f"{name}.csv")


def cells() -> dict[tuple[str, str, str], Cell]:
    """All cells of the transfer table."""
    found: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows():
        found.setdefault((row["model"], row["source"], row["target"]), []).append(row)
    return {
        key: cell_of(key, found[key])
        for model in MODELS
        for source in DATASETS
        for target in DATASETS
        if (key := (model, source, target)) in found
    }


def of_seeds() -> dict[tuple[str, str, str], list[float]]:
    """log p(x) of each seed of training, by model, source and target."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows("seeds"):
        where = row["model"], row["source"], row["target"]
        found.setdefault(where, []).append(float(row["log_p"]))
    return found


def quickdraw_row(table: str) -> dict[str, str]:
    """DooD's row of QuickDraw on itself in a CSV file of results."""
    cell = ("dood", "quickdraw", "quickdraw")
    (row,) = (r for r in rows(table) if (r["model"], r["source"], r["target"]) == cell)
    return row
