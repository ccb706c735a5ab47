"""log p(x) that the paper's authors published with their code (nats an image, 200 samples).

Rows are the training source, columns the target, in the order of `SOURCES`; means over 5 seeds for
DooD, 3 for Difference-AIR, at 500,000 steps of batch 64. Their test sets are whole ones.
"""

SOURCES = ("mnist", "emnist", "kmnist", "quickdraw", "omniglot")

PUBLISHED = {
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


def published(model: str, source: str, target: str) -> int | None:
    """The published figure of a cell, or None."""
    row = PUBLISHED.get(model, {}).get(source)
    return row[SOURCES.index(target)] if row is not None and target in SOURCES else None
