"""Checks docs/results.md and the README against the files of results, and writes their tables.
Run by hand after new results; ``make verify`` and a test also check the pages with it.

    python experiments/results_page.py            # writes the tables into the page and the README
    python experiments/results_page.py --check    # says what differs; status 1 where something does

A table stands between `<!-- NAME -->` and `<!-- end -->`; `results_tables.py` makes it. Sentences are
written by hand; `claims` says what must occur in them, from the same files, and `main_claims` which of
that the README repeats.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import counts
import departures
import numpy as np
from results_files import (
    RESULTS,
    SHALLOW,
    cells,
    number,
    of_seeds,
    percent,
    quickdraw_row,
    result,
    rows,
)
from results_tables import README_TABLES, TABLES
from scipy.stats import t, ttest_rel

from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.plots import source_title
from dood_pyro.tasks.calibrate import outside_of
from dood_pyro.tasks.transfer.published import DATASETS, published

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
README = HERE.parent / "README.md"


# The sentences.


def claims() -> list[str]:
    """Phrases of docs/results.md with figures from the result files; white space does not matter."""
    parts = (
        *(main_claims, _claims_of_transfer, _claims_of_defaults, _claims_of_tasks),
        *(_claims_of_estimators, _claims_of_departures, _claims_of_costs, _claims_of_twelve),
        _claims_of_counts,
    )
    return [claim for part in parts for claim in part()]


def main_claims() -> list[str]:
    """Phrases that the README must contain, too."""
    found, shot = cells(), result("one_shot")
    dood = {key[1:]: cell for key, cell in found.items() if key[0] == "dood"}
    rival = {key[1:]: cell for key, cell in found.items() if key[0] == "dair"}
    verdicts = [cell.against_published() for cell in dood.values()]
    of_verdict = {v: verdicts.count(v) for v in ("above", "tie", "below")}
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
    papers_pixels = _log_p_of_departure("native resolution", "mnist")
    assert papers_pixels < own.published.mean
    return [
        f"MNIST on itself is at {number(own.mean)} ± {number(own.spread)} nats per image, where the "
        f"paper has {number(own.published.mean)} ± {number(own.published.std or 0)}",
        "on the paper's 50×50 pixels, after as long a training, MNIST on itself is at "
        f"{number(papers_pixels)}, below the paper",
        f"above the published DooD in {of_verdict['above']} of 25 cells, tied with it in "
        f"{of_verdict['tie']} and below it in {of_verdict['below']}",
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


def _log_p_of_departure(name: str, target: str) -> float:
    """log p(x) of a row of departures, trained on MNIST with seed 0."""
    entry = result("departures")[f"{name}, mnist, seed 0"]
    return float(entry["targets"][target]["log_p"])


def _claims_of_departures() -> list[str]:
    on_mnist = published("dood", "mnist", "mnist")
    assert on_mnist is not None
    without, paper = (
        {target: _log_p_of_departure(name, target) for target in DATASETS}
        for name in ("native resolution", "paper")
    )
    others = {target: published("dood", "mnist", target) for target in DATASETS[1:]}
    assert all(
        theirs is not None and without[name] > theirs.mean for name, theirs in others.items()
    )
    below = [name for name, theirs in others.items() if theirs and paper[name] < theirs.mean]
    steps = result("departures")["paper, mnist, seed 0"]["run"]["steps"]
    of_all = departures.steps_of("paper", "mnist")
    default = {target: _log_p_of_departure("default", target) for target in DATASETS}
    native, corrections, random_strokes, chained, taper, pen, stop, beta, scale = (
        {target: default[target] - _log_p_of_departure(name, target) for target in DATASETS}
        for name in (
            *("native resolution", "corrections", "random strokes"),
            *("chained control points", "taper", "latent pen", "stop marginalised"),
            *("beta on all KL", "scale from what is drawn"),
        )
    )
    assert min(chained.values()) > 0
    # How far apart two trainings may be that differ by their seeds alone, at 95 %.
    seeds = {target: of_seeds()["dood", "mnist", target] for target in DATASETS}
    chance = {
        target: t.ppf(0.975, len(values) - 1) * 2**0.5 * stdev(values)
        for target, values in seeds.items()
    }
    beyond = [
        [target for target in DATASETS if abs(gains[target]) > chance[target]]
        for gains in (native, corrections, random_strokes, taper, chained, pen, stop, beta, scale)
    ]
    assert beyond[:5] == [["mnist", "emnist"], list(DATASETS), ["emnist", "kmnist"], [], []]
    assert beyond[5:] == [list(DATASETS), ["mnist", "emnist", "omniglot"], ["mnist"], ["mnist"]]
    apart = [number(chance[target]) for target in DATASETS]
    of_corrections, of_strokes, of_pen, of_beta = (
        [gains[target] for target in DATASETS[1:]]
        for gains in (corrections, random_strokes, pen, beta)
    )
    return [
        f"may be {apart[0]} nats apart on MNIST, and {', '.join(apart[1:-1])} and {apart[-1]} on the "
        "others",
        f"which trained for {number(of_all)}",
        f"*Native resolution* is worth {number(native['mnist'])} on MNIST and "
        f"{number(native['emnist'])} on EMNIST, both beyond chance; without it KMNIST is "
        f"{number(-native['kmnist'])} higher, and QuickDraw and Omniglot are "
        f"{number(native['quickdraw'])} and {number(native['omniglot'])} lower",
        f"corrections are worth {number(corrections['mnist'])} on MNIST and "
        f"{number(min(of_corrections))} to {number(max(of_corrections))} elsewhere",
        f"The latent pen is worth {number(pen['mnist'])} on MNIST and {number(min(of_pen))} to "
        f"{number(max(of_pen))} elsewhere",
        f"Marginalising the stop variable is worth {number(stop['mnist'])} on MNIST, "
        f"{number(stop['emnist'])} on EMNIST and {number(stop['omniglot'])} on Omniglot, beyond "
        f"chance; without it KMNIST is {number(-stop['kmnist'])} and QuickDraw "
        f"{number(-stop['quickdraw'])} higher, which is not",
        f"MNIST is {number(-beta['mnist'])} higher, beyond chance; the others are "
        f"{number(max(of_beta))} lower to {number(-min(of_beta))} higher, which is not",
        f"is worth {number(scale['mnist'])} on MNIST, beyond chance; without it KMNIST is "
        f"{number(-scale['kmnist'])} and QuickDraw {number(-scale['quickdraw'])} higher, and EMNIST "
        f"and Omniglot are {number(scale['emnist'])} and {number(scale['omniglot'])} lower",
        f"is worth {number(taper['mnist'])} on MNIST, {number(taper['emnist'])} on EMNIST and "
        f"{number(taper['kmnist'])} on KMNIST; without it QuickDraw is "
        f"{number(-taper['quickdraw'])} and Omniglot {number(-taper['omniglot'])} higher",
        f"are worth {number(min(chained.values()))} to {number(max(chained.values()))} on all five",
        f"without them MNIST is {number(-random_strokes['mnist'])} higher, and the others are "
        f"{number(min(of_strokes))} to {number(max(of_strokes))} lower",
        f"is at {number(without['mnist'])}, {number(on_mnist.mean - without['mnist'])} below the "
        f"published {number(on_mnist.mean)}; on the other four datasets it is above",
        f"is at {number(paper['mnist'])} after {number(steps)} steps here: "
        f"{number(on_mnist.mean - paper['mnist'])} below its published figure on MNIST, and below it "
        f"on {' and '.join(map(source_title, below))}, too",
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
    shot = result("one_shot")
    paired = ttest_rel(shot["dood"]["runs"], shot["image"]["elastic"]["runs"])
    low, high = (100 * bound for bound in paired.confidence_interval())
    points = 100 * (shot["dood"]["accuracy"] - shot["image"]["elastic"]["accuracy"])
    return [
        f"above the bent support image by {points:.1f} points on the same 20 runs, 95 % interval "
        f"{low:.1f} to {high:.1f}",
        f"{_packaged()['ratio']:.2f} times as far from the test alphabets as training alphabets are",
        f"of the paper's prior {quality['omniglot']['ratio']:.2f} times",
        f"{clusters['dood-mnist-0']['silhouette']:.3f} as the sites sample them",
    ]


def _claims_of_counts() -> list[str]:
    found = result("counts")
    dood, dair, air = (
        mean(each["right"] for each in counts.of_model(found, model)) for model in counts.MODELS
    )
    most, of_most = counts.most_frequent(found)
    assert most == 1 and max(dair, air) < of_most < dood
    confused = np.sum([each["confusion"] for each in counts.of_model(found, "dood")], axis=0)
    too_many = np.triu(confused[:, 1:], 1).sum() / (confused.sum() - np.trace(confused[:, 1:]))
    ink = np.asarray(found[counts.INK]["confusion"])
    assert np.triu(ink[:, 1:], 1).sum() < 0.1 * (ink.sum() - np.trace(ink[:, 1:]))
    return [
        f"DooD is right of {percent(dood)}, Difference-AIR of {percent(dair)} and AIR of "
        f"{percent(air)}, "
        'the latter two less often than what says "one" of every picture',
        f"it gives {100 * too_many:.0f} % too many",
        f"A parse by ink counts {percent(found[counts.INK]['right'])} right",
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
