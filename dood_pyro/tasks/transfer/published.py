"""log p(x) that the paper's authors published with their code (nats per image, 200 samples).
Used by the transfer table and by the page of results, for comparison.

Rows are training sources and columns targets, in the order of `DATASETS`. Means and standard deviations
are over seeds, after 500,000 steps of batch 64, on whole test sets.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

DATASETS = ("mnist", "emnist", "kmnist", "quickdraw", "omniglot")
"""The paper's sources and targets, in the order of the columns."""

SEEDS = {"dood": 5, "dair": 3}
"""Number of seeds of the published figures, by model."""
SEEDS_OF_OTHERS = 5
"""Number of seeds assumed for the ablations, for which none was published."""

MEANS = {
    "dood": {
        "mnist": (7094, 4414, -2859, -2532, 4808),
        "emnist": (6804, 6504, 1709, 3487, 6259),
        "kmnist": (6221, 5667, 4780, 4072, 5654),
        "quickdraw": (5940, 5465, 2809, 4859, 5566),
        "omniglot": (5309, 1684, -1959, -1994, 7386),
    },
    "dair": {
        "mnist": (7021, 2735, -6602, -5792, 3649),
        "emnist": (6668, 6549, 878, 2963, 5504),
        "kmnist": (6207, 5618, 4772, 3704, 5250),
        "quickdraw": (5472, 4809, 1153, 4498, 5141),
        "omniglot": (1425, -9511, -101900, -29747, -732),
    },
    "dood-no-guidance": {"mnist": (7053, 2806, -6344, -4411, 3879)},
    "dood-no-renderer": {"mnist": (6407, 1650, -6470, -4372, 4002)},
}
"""Means over seeds by model and source, nats per image."""

DEVIATIONS: dict[str, dict[str, tuple[int | None, ...]]] = {
    "dood": {
        "mnist": (58, 234, 492, 487, 198),
        "emnist": (5, 2, 166, 70, 41),
        "kmnist": (28, 30, 15, 22, 78),
        "quickdraw": (70, 76, 193, 90, 69),
        "omniglot": (135, 396, 356, 308, 7),
    },
    "dair": {
        "mnist": (17, 93, 166, 336, 117),
        "emnist": (20, 5, 82, 24, 43),
        "kmnist": (82, 72, 70, 82, 39),
        "quickdraw": (49, 66, 98, 57, 54),
        "omniglot": (214, 797, 5067, 1444, 159),
    },
    "dood-no-guidance": {"mnist": (196, 803, 1835, 1573, 512)},
    "dood-no-renderer": {"mnist": (119, None, 1930, 1279, 274)},
}
"""Standard deviations over seeds by model and source, nats per image; None where none was published."""

OTHER_DATA = {
    "emnist": (
        "99a47e2dd5e67a5501ef2fcf9f876075b53441c443ed84d6e6dc9bff5485f5b9",
        "another sample of EMNIST's 47 classes, from the test part of its bymerge split",
    ),
    "quickdraw": (None, "25 categories of Quick, Draw!, where the paper has all"),
}
"""Sources whose data are not the paper's: the data's hash (None: any) and how the data differ. Rows and
columns of these sources compare only roughly with the published figures."""


class Figure(NamedTuple):
    """A published log p(x)."""

    mean: float
    """Mean over seeds, nats per image."""
    std: float | None
    """Standard deviation over seeds, nats per image."""
    seeds: int
    """Number of seeds."""

    def standard_error(self) -> float:
        """Standard error of the mean over seeds; 0 where no standard deviation was published."""
        return (self.std or 0.0) / math.sqrt(self.seeds)


def published(model: str, source: str, target: str) -> Figure | None:
    """Published figure of a cell, or None."""
    if target not in DATASETS or source not in MEANS.get(model, {}):
        return None
    column = DATASETS.index(target)
    seeds = SEEDS.get(model, SEEDS_OF_OTHERS)
    return Figure(MEANS[model][source][column], DEVIATIONS[model][source][column], seeds)


Verdict = Literal["above", "tie", "below"]
"""Outcome of the comparison of two means."""


def verdict(mean: float, error: float | None, other: float, other_error: float | None) -> Verdict:
    """Compare two means by their standard errors: a tie unless they differ by more than two standard
    errors of the difference. An error of None counts as 0."""
    margin = 2 * math.hypot(error or 0.0, other_error or 0.0)
    if abs(mean - other) <= margin:
        return "tie"
    return "above" if mean > other else "below"


def other_data(rows: list[dict[str, str]]) -> dict[str, str]:
    """Sources and targets of rows whose data are not the paper's, with how the data differ."""
    found = {}
    for name, (sha256, note) in OTHER_DATA.items():
        for role, column in (("source", "train_data_sha256"), ("target", "data_sha256")):
            if any(row[role] == name and sha256 in (None, row[column]) for row in rows):
                found[name] = note
    return found
