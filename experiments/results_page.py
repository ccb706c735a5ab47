"""Tables of docs/results.md and the README, made from the files of results, and what sentences claim.
Run by hand after new results; ``make verify`` and a test also check the page with it.

    python experiments/results_page.py            # writes the tables into the page and the README
    python experiments/results_page.py --check    # says what differs; status 1 where something does

A table stands between `<!-- NAME -->` and `<!-- end -->`. Sentences are written by hand; `claims` says
what must occur in them, from the same files, and `main_claims` which of that the README repeats.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.plots import source_title
from dood_pyro.registry import MODELS
from dood_pyro.tasks.calibrate import outside_of
from dood_pyro.tasks.rows import read_rows
from dood_pyro.tasks.transfer.cells import Cell, cell_of
from dood_pyro.tasks.transfer.published import DATASETS, other_data, published
from dood_pyro.tasks.transfer.report import as_text

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
README = HERE.parent / "README.md"
RESULTS = HERE / "results"
TRANSFORMER = "{}, model dood-transformer, trainable prior"
"""Key of what was measured of a prior trained alone over the run of the table, with pointers and a deep
chain."""
SHALLOW = TRANSFORMER + ", chain shallow"
"""Key of the same with a shallow chain, as the package's weights have it."""
PLAIN = TRANSFORMER + ", pointers False, chain shallow"
"""Key of the same without pointers, too."""
PRIORS = {
    "{}": "",
    PLAIN: "transformer prior",
    SHALLOW: "transformer prior with pointers",
    TRANSFORMER: "transformer prior with pointers and a deep chain",
}
"""Titles, by key: the paper's prior first."""
LONGER = "{}, trainable prior"
"""Key of the paper's prior, trained alone for as long as the best that remembers: the control."""
TWELVE = TRANSFORMER + ", max_strokes 12"
"""Key of the same with twelve strokes at most, over a run that has as many."""
USELESS = 0.1
"""Share of real pictures' own class, below which the classifier does not know every class."""
MOST_UNLIKE = 8
"""Statistics in the table."""


def number(value: float, digits: int = 0) -> str:
    """Write a number with separators and a minus sign."""
    return f"{value:,.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """Write a share in per cent."""
    return f"{100 * value:.1f} %"


def spread(entry: dict[str, Any], name: str, digits: int = 2) -> str:
    """A mean and its standard deviation."""
    return f"{entry[name]:.{digits}f} ± {entry[f'{name}_std']:.{digits}f}"


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


# The tables.


def transfer_table() -> list[str]:
    """Rows of the transfer table: held-out bounds, trained on one source, tested on another."""
    return list(as_text(cells(), other_data(rows())))


def own_table() -> list[str]:
    """The runs on their own source's test part."""
    lines = [
        "| trained and tested on | training | log p(x) | stop variable marginalised | ELBO | strokes | "
        "paper |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    quality = result("sample_quality")
    run_of = {key: quality[key.format("omniglot")]["run"] for key in (PLAIN, SHALLOW)}
    priors = {
        run_of[PLAIN]["config_sha256"]: "of a transformer prior alone",
        run_of[SHALLOW]["config_sha256"]: "of a transformer prior alone, with pointers",
    }
    chosen = [
        ("transfer", "dood", "mnist", None),
        ("transfer", "dood", "omniglot", None),
        ("longer", "dood", "omniglot", None),
        *(("longer", "dood-transformer", "omniglot", settings) for settings in priors),
    ]
    for table, model, source, settings in chosen:
        (row,) = (
            row
            for row in rows(table)
            if (row["model"], row["source"], row["target"]) == (model, source, source)
            and settings in (None, row["config_sha256"])
        )
        paper = published("dood", source, source)
        assert paper is not None
        what = source_title(source) + (" (test alphabets are new)" if source == "omniglot" else "")
        trained = f"{float(row['seconds']) / 60:.0f} minutes, {number(float(row['steps']))} steps"
        if settings is not None:
            trained = f"the same, then {trained} {priors[settings]}"
        elif table == "longer":
            trained += ", `--scale-learns explored`"
        log_p = f"**{number(float(row['log_p']))} ± {number(float(row['log_p_se']))}**"
        values = [number(float(row[name])) for name in ("log_p_summed", "elbo")]
        strokes = f"{float(row['mean_strokes']):.2f}"
        published_as = f"{number(paper.mean)} ± {number(paper.std or 0)}"
        cols = [what, trained, log_p, *values, strokes, published_as]
        lines.append(f"| {' | '.join(cols)} |")
    return lines


def of_seeds() -> dict[tuple[str, str, str], list[float]]:
    """log p(x) of each seed of training, by model, source and target."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows("seeds"):
        where = row["model"], row["source"], row["target"]
        found.setdefault(where, []).append(float(row["log_p"]))
    return found


def seeds_table() -> list[str]:
    """Cells over seeds of training."""
    from seeds import table  # which writes numbers as this file does

    return table()


def guides_table() -> list[str]:
    """Guides over the MNIST-trained model, on other drawings."""
    found = result("guides")
    targets = DATASETS[1:]
    entries = {t: found[f"dood, mnist, on {t}"] for t in targets}
    names = [row["guide"] for row in entries["emnist"]["guides"]]
    lines = [
        f"| guide | {' | '.join(source_title(t) for t in targets)} |",
        "| --- |" + " --- |" * len(targets),
    ]
    best = {t: max(row["log_p"] for row in entries[t]["guides"]) for t in targets}
    for name in names:
        texts = []
        for target in targets:
            (row,) = (r for r in entries[target]["guides"] if r["guide"] == name)
            text = f"{number(row['log_p'])} ± {number(row['log_p_se'])}"
            text = f"**{text}**" if row["log_p"] == best[target] else text
            error = f"{row['mean_absolute_error']:.3f}".lstrip("0")
            leap = f"{row['growth']:.1f}, {100 * row['leaps']:.0f} %"
            texts.append(f"{text} ({error}; {leap})")
        lines.append(f"| `{name}` | {' | '.join(texts)} |")
    return lines


def one_shot_table() -> list[str]:
    """Rows of the table of one-shot classification, 20 ways."""
    found = result("one_shot")
    image = found["image"]
    entries = [
        ("DooD, 90 minutes on Omniglot", found["dood"]),
        ("no model: the support image, bent by a 6×6 grid", image["elastic"]),
        ("Difference-AIR, 30 minutes on Omniglot", found["air"]),
        ("no model: the support image under an affine map", image["affine"]),
        ("no model: the support image as it is", image["unfitted"]),
    ]
    lines = ["| what is fitted to the query | accuracy | 95 % interval, over 20 runs |"]
    lines.append("| --- | --- | --- |")
    for what, entry in entries:
        low, high = (percent(bound) for bound in entry["interval"])
        lines.append(f"| {what} | {percent(entry['accuracy'])} | {low} to {high} |")
    lines.append("| paper: DooD, AIR | 73.5 %, 14.5 % | |")
    return lines


def fid_table() -> list[str]:
    """Fréchet distances of samples, with both denominators and the controls."""
    found = result("sample_quality")
    lines = [
        "| | samples | training pictures | other half of the test pictures | samples / training | "
        "samples / halves | training pictures, moved | training pictures, parsed and rewritten | "
        "Difference-AIR | strokes shuffled |",
        "|" + " --- |" * 10,
    ]
    for source, title in _of_priors(found):
        entry, sets = found[source], found[source]["sets"]
        of = {name: spread(each, "frechet", 2) for name, each in sets.items()}
        moved, rewritten = (
            f"{of[name]} ({sets[name]['frechet'] / sets['other']['frechet']:.2f})"
            for name in ("moved", "rewritten")
        )
        columns = [
            *(title, of["samples"], of["other"], of["halves"]),
            *(f"**{entry['ratio']:.2f}**", f"{entry['ratio_halves']:.0f}"),
            *(moved, rewritten, of.get("rival", ""), of["shuffled"]),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def _of_priors(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Keys of entries, source by source, with their titles."""
    titles = []
    for source in DATASETS:
        priors = _priors_of(source, found)
        if (longer := LONGER.format(source)) in found:
            priors[longer] = "paper's prior, as long alone"
        titles += [
            (key, ", ".join(filter(None, (source_title(source), title))))
            for key, title in priors.items()
        ]
    return titles


def _priors_of(source: str, found: dict[str, Any]) -> dict[str, str]:
    """Titles of the priors that there are entries of, by key."""
    return {
        key.format(source): title for key, title in PRIORS.items() if key.format(source) in found
    }


def samples_table() -> list[str]:
    """The README's: the paper's prior, the best of those that remember, and training pictures."""
    found = result("sample_quality")
    lines = [
        "| | paper's prior | for as long alone | a prior that remembers | training pictures, moved | "
        "recognised: paper's | as long | remembers | real |",
        "|" + " --- |" * 9,
    ]
    for source in DATASETS:
        entries = [found[key] for key in _priors_of(source, found)]
        before, now = entries[0], min(entries[1:], key=lambda entry: entry["ratio"])
        compared = before, found.get(LONGER.format(source)), now
        sets, known = before["sets"], before["classifier"]
        named = [each and each["sets"]["samples"]["recognised"] for each in compared]
        columns = [
            source_title(source),
            *(f"{entry['ratio']:.2f}" if entry else "" for entry in compared),
            f"{sets['moved']['frechet'] / sets['other']['frechet']:.2f}",
            *("" if each is None else f"{100 * each:.0f} %" for each in (*named, known["real"])),
        ]
        if known["of"] != "test pictures":  # the classifier knows other characters
            columns[-4:] = [""] * 4
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def priors_table() -> list[str]:
    """The priors of each source: how long they learned, and how good their samples are."""
    found, statistics = result("sample_quality"), result("statistics")
    lines = [
        "| | steps alone | samples / training | recognised | of real pictures | ends that meet | of "
        "parses |",
        "|" + " --- |" * 7,
    ]
    for key, title in _of_priors(found):
        entry, known = found[key], found[key]["classifier"]
        ends = statistics.get(key, {}).get("table", {}).get("ends that meet")
        told = known["of"] == "test pictures"
        columns = [
            title,
            "–" if key in DATASETS else number(entry["run"]["steps"]),
            f"{entry['ratio']:.2f}",
            f"{100 * entry['sets']['samples']['recognised']:.0f} %" if told else "",
            f"{100 * known['real']:.0f} %" if told else "",
            *((f"{ends['samples']:.2f}", f"{ends['train']:.2f}") if ends else ("", "")),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def quality_table() -> list[str]:
    """Other measures of samples, beside those of real pictures."""
    found = result("sample_quality")
    lines = [
        "| | kernel distance × 1,000 | precision | recall | recognised | least class | nearest | "
        "copies |",
        "|" + " --- |" * 8,
    ]
    measures = ("kernel", "precision", "recall", "recognised", "least_class", "nearest", "copies")
    for key, title in _of_priors(found):
        sets = found[key]["sets"]
        names = {"samples": title}
        if key in DATASETS:
            names |= {"rival": "– Difference-AIR", "moved": "– training pictures, moved"}
            names |= {"halves": "– real pictures"}
        known = found[key]["classifier"]
        for name, what in names.items():
            cells = {
                m: spread(sets[name], m, 1 if m == "kernel" else 2) if m in sets[name] else "–"
                for m in measures
            }
            if sets["halves"].get("least_class", 0.0) < USELESS:
                cells["least_class"] = "–"
            if name == "halves" and known["of"] != "test pictures":
                cells["recognised"] = f"{known['real']:.2f} of {known['of']}"
            lines.append(f"| {' | '.join([what, *cells.values()])} |")
    return lines


def statistics_table() -> list[str]:
    """What MNIST's samples are most unlike data in, by the paper's prior and by the transformer."""
    found = result("statistics")
    paper, other = (found[key]["table"] for key in ("mnist", TRANSFORMER.format("mnist")))
    lines = [
        "| | real | paper's prior | transformer | unlike, paper's | unlike, transformer | unlike, test "
        "pictures |",
        "|" + " --- |" * 7,
    ]
    ordered = sorted(paper, key=lambda name: -paper[name]["unlike"])
    for name in ordered[:MOST_UNLIKE]:
        numbers = (paper[name]["train"], paper[name]["samples"], other[name]["samples"])
        unlike = (paper[name]["unlike"], other[name]["unlike"], paper[name]["floor"])
        columns = [name, *(f"{value:.2f}" for value in (*numbers, *unlike))]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def quickdraw_row(table: str) -> dict[str, str]:
    """DooD's row of QuickDraw on itself in a CSV file of results."""
    cell = ("dood", "quickdraw", "quickdraw")
    (row,) = (r for r in rows(table) if (r["model"], r["source"], r["target"]) == cell)
    return row


def twelve_table() -> list[str]:
    """QuickDraw with six strokes at most, and with twelve."""
    quality, statistics = result("sample_quality"), result("statistics")
    columns = []
    for strokes, table, key in (("six", "transfer", TRANSFORMER), ("twelve", "twelve", TWELVE)):
        row = quickdraw_row(table)
        entry, counted = quality[key.format("quickdraw")], statistics[key.format("quickdraw")]
        samples, other = (entry["sets"][name] for name in ("samples", "other"))
        run, means = entry["run"], counted["table"]
        columns.append(
            {
                "most strokes": strokes,
                "steps in 30 minutes": number(float(row["steps"])),
                "log p(x)": f"{number(float(row['log_p']))} ± {number(float(row['log_p_se']))}",
                "strokes inferred": f"{float(row['mean_strokes']):.2f}",
                "mean absolute error per pixel": f"{float(row['mean_absolute_error']):.4f}",
                "the prior's minutes, steps": f"{run['seconds'] / 60:.0f}, {number(run['steps'])}",
                "training pictures, parsed and rewritten / training pictures": (
                    f"{entry['sets']['rewritten']['frechet'] / other['frechet']:.2f}"
                ),
                "samples / training pictures": f"{entry['ratio']:.2f}",
                "kernel distance × 1,000": spread(samples, "kernel", 1),
                "recognised": spread(samples, "recognised"),
                "strokes, of samples and of parses": (
                    f"{means['strokes']['samples']:.2f}, {means['strokes']['train']:.2f}"
                ),
                "ends that meet, likewise": (
                    f"{means['ends that meet']['samples']:.2f}, {means['ends that meet']['train']:.2f}"
                ),
            }
        )
    lines = [f"| {what} | {columns[0][what]} | {columns[1][what]} |" for what in columns[0]]
    return [lines[0], "| --- | --- | --- |", *lines[1:]]


def clusters_table() -> list[str]:
    """Silhouettes of k = 8."""
    found = result("clusters")
    titles = {
        "dood-mnist-0": "DooD, 30 minutes",
        "dood-mnist-90m-0": "DooD, 90 minutes, `--scale-learns explored`",
        "dair-mnist-0": "Difference-AIR (the paper's AIR), 30 minutes",
        "air-mnist-0": "vanilla AIR, 30 minutes",
    }
    lines = [
        "| trained on MNIST | as the sites sample them | every stroke re-oriented | points along the "
        "strokes, re-oriented | paper |",
        "| --- | --- | --- | --- | --- |",
    ]
    paper = {"dood-mnist-0": "0.21", "dair-mnist-0": "0.11"}
    for name, title in titles.items():
        entry = found[name]
        others = [
            f"{entry[kind]['silhouette']:.3f}" if kind in entry else ""
            for kind in ("re_oriented", "along_curves")
        ]
        columns = [title, f"{entry['silhouette']:.3f}", *others, paper.get(name, "")]
        lines.append(f"| {' | '.join(columns)} |")
    return lines


def holds_back_table() -> list[str]:
    """Rows of the table of what limits a run on other sources than its own."""
    found = result("what_holds_back")
    lines = [
        "| | log p(x), 10 samples | twelve strokes | the target's own scale | a search per image | "
        "thinnest third of pens | thickest third |",
        "|" + " --- |" * 7,
    ]
    for source in ("mnist", "kmnist", "omniglot"):
        targets = found[f"dood-{source}-0"]["targets"]
        for target in ("emnist", "kmnist", "mnist", "omniglot", "quickdraw"):
            entry = targets[target]
            gains = [
                f"{entry[name]:+,.0f}".replace("-", "−")
                for name in ("strokes", "scale", "searched")
            ]
            thirds = [number(entry[name]) for name in ("thin", "thick")]
            columns = [
                f"{source_title(source)} on {source_title(target)}",
                number(entry["log_p"]),
                *gains,
                *thirds,
            ]
            lines.append(f"| {' | '.join(columns)} |")
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "transfer": transfer_table,
    "own": own_table,
    "seeds": seeds_table,
    "guides": guides_table,
    "one-shot": one_shot_table,
    "fid": fid_table,
    "quality": quality_table,
    "twelve strokes": twelve_table,
    "priors": priors_table,
    "statistics": statistics_table,
    "clusters": clusters_table,
    "what holds back": holds_back_table,
}
README_TABLES = {"samples": samples_table}


# The sentences.


def claims() -> list[str]:
    """Phrases of docs/results.md with figures from the result files; white space does not matter."""
    parts = (
        *(main_claims, _claims_of_transfer, _claims_of_defaults, _claims_of_tasks),
        *(_claims_of_estimators, _claims_of_costs, _claims_of_twelve),
    )
    return [claim for part in parts for claim in part()]


def main_claims() -> list[str]:
    """Phrases that the README must contain, too."""
    found, shot = cells(), result("one_shot")
    dood = {key[1:]: cell for key, cell in found.items() if key[0] == "dood"}
    rival = {key[1:]: cell for key, cell in found.items() if key[0] == "dair"}
    verdicts = [cell.against_published() for cell in dood.values()]
    counts = {v: verdicts.count(v) for v in ("above", "tie", "below")}
    above = sum(dood[where].against(cell) == "above" for where, cell in rival.items())
    under = sum(cell.against_published() == "below" for cell in rival.values())
    own = dood["mnist", "mnist"]
    assert own.published is not None and own.spread is not None
    learns = result("earlier_settings")["scale_learns"]
    papers = {name: published("dood", *name.split(" on ")) for name in learns}
    before, now = (
        sum(learns[name][setting] > paper.mean for name, paper in papers.items() if paper)
        for setting in ("explored", "drawn")
    )
    low, high = (f"{100 * bound:.1f}" for bound in shot["dood"]["interval"])
    of_mnist = {target: of_seeds()["dood", "mnist", target] for target in DATASETS}
    on_mnist, *elsewhere = (stdev(values) for values in of_mnist.values())
    return [
        f"MNIST on itself is at {number(own.mean)} ± {number(own.spread)} nats per image, where the "
        f"paper has {number(own.published.mean)} ± {number(own.published.std or 0)}",
        f"above the published DooD in {counts['above']} of 25 cells, tied with it in "
        f"{counts['tie']} and below it in {counts['below']}",
        f"from {before} to {now} cells above the published means",
        f"{len(of_mnist['mnist'])} seeds of DooD, whose standard deviation is {number(on_mnist)} nats "
        f"on MNIST and up to {number(max(elsewhere))} elsewhere",
        f"above Difference-AIR in {above} of 25 cells",
        f"below its own published figure in {under} of 25 cells",
        f"DooD has {percent(shot['dood']['accuracy'])}, 95 % interval {low} to {high}",
        f"{shot['dood']['accuracy'] * 100 - 73.5:.1f} points above the paper",
        f"{100 * (shot['image']['elastic']['accuracy'] - 0.735):.1f} of them without any model",
        f"{_packaged()['ratio_halves']:.0f} times as far as one half of the test alphabets from the "
        "other",
    ]


def _packaged() -> dict[str, Any]:
    """What was measured of samples of the package's weights."""
    return result("sample_quality")[SHALLOW.format("omniglot")]


def _claims_of_transfer() -> list[str]:
    found, lines = cells(), []
    for pair in (("omniglot", "omniglot"), ("kmnist", "kmnist")):
        cell = found["dood", *pair]
        assert cell.published is not None
        lines.append(
            f"{source_title(pair[0])} on itself (+{number(cell.mean - cell.published.mean)})"
        )
    rival = {key[1:]: cell for key, cell in found.items() if key[0] == "dair"}
    dood = {key[1:]: cell for key, cell in found.items() if key[0] == "dood"}
    gaps = [
        cell.published.mean - cell.mean
        for (source, target), cell in rival.items()
        if source == target != "omniglot" and cell.published is not None
    ]
    theirs = {where: published("dair", *where) for where in dood}
    against = [
        cell._replace(published=theirs[where]).against_published() for where, cell in dood.items()
    ]
    higher = sum(cell.mean > theirs[where].mean for where, cell in dood.items() if theirs[where])  # type: ignore[union-attr]
    lines += [
        f"by {number(min(gaps))} to {number(max(gaps))} nats on the four diagonals",
        f"higher in {higher} of 25 cells, by more than two standard errors in {against.count('above')}",
    ]
    kmnist = found["dood", "kmnist", "mnist"]
    assert kmnist.published is not None and kmnist.spread is not None
    (longer,) = (r for r in rows("longer") if (r["source"], r["target"]) == ("kmnist", "mnist"))
    lines += [
        f"{number(kmnist.mean)} ± {number(kmnist.spread)} where the paper has "
        f"{number(kmnist.published.mean)}",
        f"{number(float(longer['log_p']))} ± {number(float(longer['log_p_se']))}",
    ]
    back = result("what_holds_back")["dood-kmnist-0"]["targets"]["mnist"]
    lines.append(
        f"they would gain {number(back['scale'])} nats, with more strokes "
        f"{number(back['strokes'])}, by a search per image {number(back['searched'])}"
    )
    return lines


def _claims_of_defaults() -> list[str]:
    earlier = result("earlier_settings")
    learns, native = earlier["scale_learns"], earlier["native_resolution"]
    gained = sum(pair["drawn"] > pair["explored"] for pair in learns.values())
    lines = [f"higher in {gained} of 25 cells"]
    for name in ("mnist on kmnist", "mnist on quickdraw"):
        cost = number(learns[name]["explored"] - learns[name]["drawn"])
        lines.append(f"{cost} nats on {source_title(name.split()[-1])}")
    held = earlier["omniglot_held_out"]["3500"]
    lines.append(f"{number(held['explored'] - held['drawn'])} nats lower after 3,500 steps")
    found, margins = cells(), []
    for source in ("mnist", "quickdraw"):
        cell = found["dood", source, source]
        assert cell.published is not None
        change = f"from {number(native[source]['without'])} to {number(native[source]['with'])}"
        lines.append(f"{change} on {source_title(source)}")
        margins.append(number(cell.mean - cell.published.mean))
    lines.append(f"the margins over the paper are {margins[0]} nats and {margins[1]} nats")
    return lines


def _claims_of_tasks() -> list[str]:
    quality, clusters = result("sample_quality"), result("clusters")
    return [
        f"{_packaged()['ratio']:.2f} times as far from the test alphabets as training alphabets are",
        f"of the paper's prior {quality['omniglot']['ratio']:.2f} times",
        f"{clusters['dood-mnist-0']['silhouette']:.3f} as the sites sample them",
    ]


def _claims_of_twelve() -> list[str]:
    """Phrase on what more strokes bring."""
    six, twelve = (float(quickdraw_row(table)["log_p"]) for table in ("transfer", "twelve"))
    return [f"Log p(x) is higher by {number(twelve - six)} nats"]


def calibration_claims() -> list[str]:
    """Figures of ``dood-pyro calibrate``'s last sentence, and of docs/guides.md."""
    found = result("calibration")
    lines: list[str] = []
    for key in ("dood-transformer, omniglot", "dood, mnist"):
        entry = found[f"{key}, amortised, simulations 300"]
        counted = f"{entry['rejected']} of {entry['quantities']}"
        lines += [f"{100 * outside_of(entry):.0f} %", counted]
    return lines


def _claims_of_estimators() -> list[str]:
    """Phrases on the marginalised stop variable and the score function in equal time."""
    with open(RESULTS / "elbo_against_time.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    by_run = {
        name: [line for line in lines if line["run"] == name]
        for name in ("dood-mnist-unpractised-0", "nvil-mnist-unpractised-0")
    }
    exact, score = by_run.values()
    half_hour = max(
        (line for line in exact if float(line["seconds"]) < 1830), key=lambda r: int(r["step"])
    )
    passed = next(line for line in exact if float(line["elbo"]) > float(score[-1]["elbo"]))
    return [
        f"the held-out bound is {number(float(half_hour['elbo']))} nats, where the score function's is "
        f"{number(float(score[-1]['elbo']))}, and marginalisation had passed that after "
        f"{float(passed['seconds']) / 60:.0f} minutes with {number(float(passed['elbo']))}"
    ]


def _claims_of_costs() -> list[str]:
    bench, precision = result("bench"), result("precision")
    return [
        f"a training step at batch 64 {bench['train_step_without_practice_seconds']:.2f} s",
        f"its share of random strokes {bench['train_step_seconds']:.2f} s, and "
        f"{bench['train_step_28_seconds']:.2f} s where pictures came in 28×28 pixels",
        f"{bench['renderer_speedup']:.0f} times faster than the formula evaluated pixel by pixel",
        f"{bench['peak_memory_gib']:.2f} GiB at its peak",
        f"parsing a picture of two strokes on 50×50 pixels {bench['parse_ink_ms']:.0f} ms by its ink, "
        f"and {bench['parse_guide_ms']:.0f} ms by the guide, which parses "
        f"{bench['parse_bulk_per_second']:.0f} a second in bulk",
        f"{precision['parse_one_double_to_single']:.1f} times as long for one picture, and "
        f"{precision['parse_bulk_double_to_single']:.1f} times in bulk",
        f"1,000 images by 200 samples, {bench['transfer_cell_seconds']:.0f} s",
    ]


# The pages.


def with_tables(page: Path, text: str) -> str:
    """A page's text with its tables as the files have them."""
    for name, make in (README_TABLES if page == README else TABLES).items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        body = "\n".join(make()).strip() + "\n"
        text, places = block.subn(lambda found, body=body: f"{found[1]}{body}{found[2]}", text)  # type: ignore[misc]
        if places != 1:
            raise SystemExit(
                f"{page} has {places} places for the table {name}, and should have one"
            )
    return text


def plain(text: str) -> str:
    """Without emphasis, and with single spaces, as sentences are compared."""
    return " ".join(text.replace("*", "").split())


def says(text: str, claim: str) -> bool:
    """Whether a claim occurs, and not as a part of another number."""
    return bool(re.search(rf"(?<![\d,.−]){re.escape(plain(claim))}(?!\d|[,.]\d)", plain(text)))


def problems(page: str, readme: str) -> list[str]:
    """Differences between docs/results.md, the README and the result files, a line each."""
    found = [f"not in docs/results.md: {each}" for each in claims() if not says(page, each)]
    found += [f"not in README.md: {each}" for each in main_claims() if not says(readme, each)]
    for path, text in ((PAGE, page), (README, readme)):
        if with_tables(path, text) != text:
            where, command = path.relative_to(HERE.parent), "python experiments/results_page.py"
            found.append(f"a table of {where} differs from its file: {command} writes it anew")
    return found


def main() -> None:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if not arguments.check:
        for page in (PAGE, README):
            write_atomically(page, with_tables(page, page.read_text()).encode())
    found = problems(PAGE.read_text(), README.read_text())
    for line in found:
        print(line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
