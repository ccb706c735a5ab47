"""The tables of docs/results.md and the README, each made from the files of results.
`results_page.py` writes them into the pages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import counts
import departures
import seeds
from results_files import (
    LONGER,
    PLAIN,
    SHALLOW,
    TRANSFORMER,
    TWELVE,
    cells,
    line_of,
    number,
    percent,
    quickdraw_row,
    result,
    rows,
    spread,
)

from dood_pyro.plots import source_title
from dood_pyro.tasks.transfer.published import DATASETS, other_data, published
from dood_pyro.tasks.transfer.report import as_text

PRIORS = {
    "{}": "",
    PLAIN: "transformer prior",
    SHALLOW: "transformer prior with pointers",
    TRANSFORMER: "transformer prior with pointers and a deep chain",
}
"""Titles, by key: the paper's prior first."""
USELESS = 0.1
"""Share of real pictures' own class, below which the classifier does not know every class."""
MOST_UNLIKE = 8
"""Statistics in the table."""


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
        ("longer", "dood", "mnist", None),
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
        lines.append(line_of(cols))
    return lines


def seeds_table() -> list[str]:
    """Cells over seeds of training."""
    return seeds.table()


def departures_table() -> list[str]:
    """Trainings with each departure from the paper taken back."""
    return departures.table()


def counts_table() -> list[str]:
    """How many strokes are counted of how many."""
    return counts.table()


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
        lines.append(line_of(columns))
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
    """The README's: the paper's prior, the best of the transformers, and training pictures."""
    found = result("sample_quality")
    lines = [
        "| | paper's prior | the same, trained as long | transformer prior | training pictures, "
        "moved | recognised: paper's prior | trained as long | transformer | real pictures |",
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
        lines.append(line_of(columns))
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
        lines.append(line_of(columns))
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
            lines.append(line_of([what, *cells.values()]))
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
        lines.append(line_of(columns))
    return lines


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
        lines.append(line_of(columns))
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
            lines.append(line_of(columns))
    return lines


TABLES: dict[str, Callable[[], list[str]]] = {
    "transfer": transfer_table,
    "own": own_table,
    "seeds": seeds_table,
    "departures": departures_table,
    "guides": guides_table,
    "one-shot": one_shot_table,
    "fid": fid_table,
    "quality": quality_table,
    "twelve strokes": twelve_table,
    "priors": priors_table,
    "statistics": statistics_table,
    "clusters": clusters_table,
    "counts": counts_table,
    "what holds back": holds_back_table,
}
README_TABLES = {"samples": samples_table}
