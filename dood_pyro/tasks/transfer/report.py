"""Text of the transfer table: Markdown tables, notes and findings.
Used by ``dood-pyro transfer-table`` and by the page of results.
"""

from __future__ import annotations

from collections.abc import Iterator

from dood_pyro.registry import model_title
from dood_pyro.tasks.transfer.cells import Cell
from dood_pyro.tasks.transfer.plan import GAUSSIAN
from dood_pyro.tasks.transfer.published import SEEDS, SEEDS_OF_OTHERS, Verdict, published


def as_text(
    found: dict[tuple[str, str, str], Cell], other: dict[str, str] | None = None
) -> Iterator[str]:
    """Lines of one Markdown table per model, sources as rows and targets as columns, and of `notes`.

    A cell holds log p(x), nats per image, and in brackets the published figure; missing cells are
    empty.

    Args:
        other: sources and targets whose data are not the paper's, with how the data differ
            (`dood_pyro.tasks.transfer.published.other_data`).
    """
    marks = marks_of(other)

    def named(source: str) -> str:
        return source + marks.get(source, "")

    for model in dict.fromkeys(key[0] for key in found):
        mine = {key[1:]: cell for key, cell in found.items() if key[0] == model}
        targets = list(dict.fromkeys(target for _, target in mine))
        yield f"| {model_title(model)}: from ↓ on → | {' | '.join(map(named, targets))} |"
        yield "| --- |" + " ---: |" * len(targets)
        for source in dict.fromkeys(source for source, _ in mine):
            row = [_as_text(mine.get((source, target))) for target in targets]
            yield f"| {named(source)} | {' | '.join(row)} |"
        yield ""
    yield from notes(found, other)
    if found:
        yield ""


def marks_of(other: dict[str, str] | None) -> dict[str, str]:
    """Footnote marks of sources and targets whose data are not the paper's."""
    return dict(zip(other or {}, "†‡", strict=False))


def notes(
    found: dict[tuple[str, str, str], Cell], other: dict[str, str] | None = None
) -> Iterator[str]:
    """Notes below a table: seeds, errors, and data that are not the paper's."""
    if not found:
        return
    seeds = sorted({cell.seeds for cell in found.values()})
    spread = "the standard deviation over seeds"
    if seeds == [1]:
        spread = "the standard error over images of that seed, and says nothing of other seeds"
    elif 1 in seeds:
        spread += ", of cells of one seed the standard error over images"
    yield f"seeds per cell: {' or '.join(map(str, seeds))}; ± is {spread}"
    yield (
        "beside them the published figures; = a tie, < below: they differ by no more, or by more, than "
        "two standard errors, √(ours² + published std² / its seeds)"
    )
    assumed = [
        model
        for model, source, target in found
        if model not in SEEDS and published(model, source, target) is not None
    ]
    if assumed:
        titles = " and ".join(dict.fromkeys(map(model_title, assumed)))
        yield f"the number of published seeds of {titles} is not known, and taken for {SEEDS_OF_OTHERS}"
    for source, mark in marks_of(other).items():
        yield f"{mark} {(other or {})[source]}: rows and columns compare roughly"


SIGNS = {"above": "", "tie": "=", "below": "<", None: ""}
"""Sign of each `Verdict` beside a published figure."""


def _as_text(cell: Cell | None) -> str:
    """Text of a cell; empty if the cell is missing."""
    if cell is None:
        return ""
    spread = "" if cell.spread is None else f" ± {cell.spread:,.0f}"
    paper = ""
    if cell.published is not None:
        sign = SIGNS[cell.against_published()]
        paper = f" ({cell.published.mean:,.0f}){sign}"
    return f"{cell.mean:,.0f}{spread}{paper}".replace("-", "−")


def findings(found: dict[tuple[str, str, str], Cell]) -> Iterator[str]:
    """Findings of the table, one per line: training times, diagonals, sources ranked by transfer, and
    `comparisons`."""
    for model in dict.fromkeys(key[0] for key in found):
        mine = {key[1:]: cell.mean for key, cell in found.items() if key[0] == model}
        sources = list(dict.fromkeys(source for source, _ in mine))
        targets = list(dict.fromkeys(target for _, target in mine))
        title = model_title(model)
        yield f"{title}: trained for {minutes(found, model)} minutes, up to the best checkpoint"
        if len(sources) < 2:
            continue
        lacking = sum((s, t) not in mine for s in sources for t in targets)
        if lacking:
            yield f"{title}: {lacking} cells are missing: nothing is said about its diagonal and rows"
            continue
        best = {t: max(sources, key=lambda s: mine[s, t]) for t in targets if t in sources}
        not_own = [f"{t} ({s})" for t, s in best.items() if s != t]
        if best:
            said = "in every column" if not not_own else "except in " + ", ".join(not_own)
            yield f"{title}: the diagonal is the column's highest {said}"
        averages = {
            s: sum(mine[s, t] for t in targets if t != s) / max(1, len(targets) - (s in targets))
            for s in sources
        }
        order = sorted(sources, key=lambda s: averages[s])
        ranked = ", ".join(f"{s} {averages[s]:.0f}" for s in order)
        yield f"{title}: rows by their mean off the diagonal, lowest first: {ranked}"
    gaussian = sorted({f"{model_title(m)} on {s}" for m, s, _ in found if (m, s) in GAUSSIAN})
    if gaussian:
        yield f"under a Gaussian likelihood, all others under a Laplace: {', '.join(gaussian)}"
    yield from comparisons(found)


def comparisons(found: dict[tuple[str, str, str], Cell]) -> Iterator[str]:
    """Comparisons by number of cells: DooD with Difference-AIR, with its own published figures and with
    those of Difference-AIR; Difference-AIR with its own published figures."""
    dood = {key[1:]: cell for key, cell in found.items() if key[0] == "dood"}
    dair = {key[1:]: cell for key, cell in found.items() if key[0] == "dair"}
    both = {where: cell.against(dair[where]) for where, cell in dood.items() if where in dair}
    for diagonal in (False, True):
        chosen = {where: v for where, v in both.items() if (where[0] == where[1]) is diagonal}
        side = "on" if diagonal else "off"
        yield from _count(f"DooD against Difference-AIR of equal time {side} the diagonal", chosen)
    of_rival = {
        where: cell._replace(published=published("dair", *where)) for where, cell in dood.items()
    }
    for title, mine in (
        ("DooD against its published figures", dood),
        ("DooD against the published Difference-AIR", of_rival),
        ("Difference-AIR against its published figures", dair),
    ):
        outcomes = {where: cell.against_published() for where, cell in mine.items()}
        yield from _count(title, {where: v for where, v in outcomes.items() if v is not None})


def _count(what: str, verdicts: dict[tuple[str, str], Verdict]) -> Iterator[str]:
    """A line that counts verdicts; ties and cells below are named if they are at most six."""
    if not verdicts:
        return
    parts = []
    for kind in ("above", "tie", "below"):
        which = [" → ".join(where) for where, outcome in verdicts.items() if outcome == kind]
        if which or kind == "above":
            few = kind != "above" and len(which) <= 6
            word = "ties" if kind == "tie" and len(which) != 1 else kind
            parts.append(f"{len(which)} {word}" + (f" ({', '.join(which)})" if few else ""))
    yield f"{what}, {len(verdicts)} cells: {', '.join(parts)}"


def minutes(found: dict[tuple[str, str, str], Cell], model: str) -> str:
    """Minutes of training of a model's cells: one number, or "MIN to MAX"."""
    times = [cell.seconds / 60 for key, cell in found.items() if key[0] == model]
    return " to ".join(dict.fromkeys(f"{time:.0f}" for time in (min(times), max(times))))
