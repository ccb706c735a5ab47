"""Cells of the transfer table, from the rows of evaluations.
Used by the table's text and figure, and by the page of results.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from dood_pyro import data
from dood_pyro.tasks.transfer.plan import Plan, TableRun, known_data, row_fits
from dood_pyro.tasks.transfer.published import Figure, Verdict, published, verdict


class Cell(NamedTuple):
    """One cell of the table of Fig. 4: a model, a source and a target."""

    mean: float
    """log p(x), stop variable sampled, averaged over seeds; nats per image."""
    spread: float | None
    """Standard deviation over seeds, nats per image; with one seed, the standard error over images."""
    seeds: int
    """Number of seeds."""
    seconds: float
    """Seconds of training up to the checkpoint that was measured, the minimum over seeds."""
    published: Figure | None
    """Published figure of the cell; None if there is none."""

    def standard_error(self) -> float | None:
        """Standard error of the mean: over seeds, or with one seed over images; None if not known."""
        return None if self.spread is None else self.spread / self.seeds**0.5

    def against_published(self) -> Verdict | None:
        """Verdict on the cell against its published figure; None if there is none."""
        if self.published is None:
            return None
        paper = self.published
        return verdict(self.mean, self.standard_error(), paper.mean, paper.standard_error())

    def against(self, other: Cell) -> Verdict:
        """Verdict on the cell against another cell."""
        return verdict(self.mean, self.standard_error(), other.mean, other.standard_error())


def cells(
    rows: list[dict[str, str]], plan: Plan
) -> tuple[dict[tuple[str, str, str], Cell], list[str]]:
    """Cells of the table by (model, source, target), and notes that say what was left out and why.

    Rows whose settings, format, data, number of samples or number of images are not the plan's are left
    out.
    """
    trained = {(t.model, data.name_of(t.source), t.seed) for t in plan.trainings}
    targets = set(map(data.name_of, plan.targets))
    present = known_data(plan)
    wanted: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    other: Counter[str] = Counter()
    for row in rows:
        training = TableRun(row["model"], row["source"], int(row["seed"]))
        if training not in trained or row["target"] not in targets:
            continue
        if row_fits(row, training, plan, present):
            wanted.setdefault((*training[:2], row["target"]), []).append(row)
        else:
            other[row["model"]] += 1
    notes = [
        f"left out {count} rows of {model}: of other settings, data, samples or images"
        for model, count in sorted(other.items())
    ]
    for key, found in list(wanted.items()):
        if len({row["seed"] for row in found}) < len(found):
            notes.append(
                f"left out {' on '.join(key[1:])} of {key[0]}: it has several rows of one seed, of "
                "different data, and which are meant cannot be told without them"
            )
            del wanted[key]
    order = dict.fromkeys(
        (training.model, data.name_of(training.source), data.name_of(target))
        for training in plan.trainings
        for target in plan.targets
    )
    return {key: cell_of(key, wanted[key]) for key in order if key in wanted}, notes


def cell_of(key: tuple[str, str, str], rows: list[dict[str, str]]) -> Cell:
    """Cell of (model, source, target), from one row per seed."""
    values = [float(row["log_p"]) for row in rows]
    mean = sum(values) / len(values)
    if len(values) > 1:
        spread = (sum((v - mean) ** 2 for v in values) / (len(values) - 1)) ** 0.5
    else:
        spread = float(rows[0]["log_p_se"]) if rows[0]["log_p_se"] else None
    seconds = min(float(row["seconds"] or 0) for row in rows)
    return Cell(mean, spread, len(values), seconds, published(*key))
