"""Simulation-based calibration (Talts et al. 2018): is a guide the model's posterior?
``dood-pyro calibrate`` runs it.

Drawings and their images are simulated from the model, and the guide is sampled for each image. If
the guide is the posterior, the rank of each true value among the guide's draws is uniform. A latent
variable of step t is ranked only in simulations that have a t-th stroke, among the draws that have
a t-th stroke: conditional on that stroke, the rank is uniform too. A simulation with too few such
draws is skipped. Skipping depends on the image alone, not on the true value, so it does not bias
the ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.guides.base import Guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.messengers import AllOnMessenger, bernoulli_logits
from dood_pyro.inference.stop_marginal import stop_log_probs
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.sites import (
    IMAGE,
    PARTICLES,
    is_on,
    latent_sites,
    on_site,
    parse_site,
    value_names,
)
from dood_pyro.plots import new_figure, save_figure

BINS = 20
"""Largest number of histogram bins."""
PER_BIN = 5
"""Least number of ranks per bin, from which the chi-squared distribution holds well."""
AT_ONCE = 3000
"""Drawings in memory at once."""
SPARE = 3
"""Draws made per draw that is ranked: some drawings stop before the step in question."""
LEVEL = 0.01
"""Significance level of the joint test of all quantities; Bonferroni: each quantity is tested at
`LEVEL` divided by their number."""
COUNT = "number of strokes"
"""The quantity that every simulation has."""
NARROW = "too narrow"
USUAL = (
    "So were both amortised guides that were measured, with 300 simulations: 39 % outside in 86 of 91 "
    "quantities for the weights that come with dood-pyro, and 57 % in 73 of 73 for half an hour on "
    "MNIST under the paper's prior."
)
"""What a guide that is too narrow may be compared with; of experiments/results/calibration.json."""


class Ranks(NamedTuple):
    """Ranks of one quantity's true values among the guide's draws."""

    name: str
    ranks: Int[np.ndarray, "simulations"]
    """Each in 0…draws."""
    draws: int
    """Number of draws that each true value is ranked among."""

    def histogram(self) -> Int[np.ndarray, "bins"]:
        """Number of ranks in each of at most `BINS` bins: fewer, where few ranks would fill them."""
        bins = self._bins()
        return np.bincount(bins[self.ranks], minlength=bins[-1] + 1)

    def expected(self) -> Float[np.ndarray, "bins"]:
        """Expected number of ranks in each bin if ranks are uniform."""
        share = np.bincount(self._bins()) / (self.draws + 1)
        return share * len(self.ranks)

    def outside(self, ranks: Int[np.ndarray, "some"]) -> float:
        """Share of ranks that lie outside the middle 90 % of the draws."""
        share = ranks / self.draws
        return float(((share < 0.05) | (share > 0.95)).mean())

    def _bins(self) -> Int[np.ndarray, "ranks"]:
        """Bin index of each rank 0…draws."""
        bins = min(BINS, self.draws + 1, max(2, len(self.ranks) // PER_BIN))
        return np.arange(self.draws + 1) * bins // (self.draws + 1)

    def p_value(self) -> float:
        """p-value of the chi-squared test that ranks are uniform."""
        from scipy.stats import chisquare

        return float(chisquare(self.histogram(), self.expected()).pvalue)


@torch.no_grad()
def calibrate(
    model: DrawingModel[Any],
    guide: Guide,
    simulations: int = 500,
    draws: int = 99,
    least: int = 100,
    progress: Callable[[float], None] | None = None,
    native_size: int = 0,
) -> list[Ranks]:
    """Rank the true values of simulations from the model among the guide's draws.

    Args:
        simulations: drawings sampled from the model.
        draws: draws from the guide per simulation; 99 makes bins of equal size.
        least: simulations that a quantity must be ranked in to be returned.
        progress: called with the simulations done since the last call; fractions while a guide
            searches.
        native_size: pixels per side of the simulated images (`dood_pyro.images.ImageBatch`).

    Returns:
        Ranks of every coordinate of every step's latent variables, and of the number of strokes (ties
        broken at random).

    Raises:
        UserError: the guide gives weighted particles, not draws, as sequential Monte Carlo does.
    """
    if not guide.has_density:
        raise UserError(
            f"a {type(guide).__name__} gives weighted particles, not draws of a guide; calibrate the "
            "guide that proposes them"
        )
    # Simulations are done in batches, so that the draws of a batch fit in memory.
    batch = max(1, AT_ONCE // (SPARE * draws))
    ranks: dict[str, list[Tensor]] = {}
    with pyro.validation_enabled(False):
        for first in range(0, simulations, batch):
            count = min(batch, simulations - first)
            drawn: Any = poutine.trace(model).get_trace(count=count, native_size=native_size)
            _collect(ranks, drawn, guide, native_size, draws, progress)
    found = [Ranks(name, torch.cat(parts).numpy(), draws) for name, parts in ranks.items()]
    return [each for each in found if len(each.ranks) >= least]


def _collect(
    ranks: dict[str, list[Tensor]],
    simulated: Any,
    guide: Guide,
    native_size: int,
    draws: int,
    progress: Callable[[float], None] | None,
) -> None:
    """Add one batch of simulations' ranks to ``ranks``, by quantity."""
    images = ImageBatch(simulated.nodes[IMAGE]["value"], native_size)
    count = len(images)
    posterior = guide.posterior(images, progress)
    made = SPARE * draws
    with pyro.plate(PARTICLES, made, dim=-2), AllOnMessenger():
        drawn: Any = poutine.trace(posterior).get_trace(images)
    steps = [
        site.step for name in drawn.stochastic_nodes if is_on(name) and (site := parse_site(name))
    ]
    logits = [bernoulli_logits(drawn.nodes[on_site(step)]).expand(made, count) for step in steps]
    log_stop = stop_log_probs(torch.stack(logits)).movedim(0, -1)
    stop = torch.distributions.Categorical(logits=log_stop).sample()
    true_on = torch.stack([simulated.nodes[on_site(step)]["value"] for step in steps])
    true_stop = sum(true_on.cumprod(0))
    for name, site in latent_sites(drawn.stochastic_nodes):
        value = simulated.nodes[name]["value"]
        truth = value.reshape(count, -1)
        guesses = drawn.nodes[name]["value"].expand(made, *value.shape)
        there = stop >= site.step
        first = there & (there.cumsum(0) <= draws)
        enough = (true_stop >= site.step) & (there.sum(0) >= draws)
        below = ((guesses.reshape(made, count, -1) < truth) & first[..., None]).sum(0)
        for place, label in enumerate(value_names(site.kind, truth.shape[-1])):
            column = below[enough, place].cpu()
            ranks.setdefault(f"{label} of stroke {site.step}", []).append(column)
    guessed = stop[:draws]
    ties = (guessed == true_stop).sum(0)
    random = torch.rand(count, device=images.device)
    rank = (guessed < true_stop).sum(0) + (random * (ties + 1)).long()
    ranks.setdefault(COUNT, []).append(rank.cpu())
    if progress is not None:
        progress((1 - guide.search_share) * count)


def summary(found: Sequence[Ranks]) -> dict[str, Any]:
    """Outcome of the test of uniform ranks, jointly and for each quantity, as plain values."""
    level = LEVEL / max(1, len(found))
    quantities = {
        each.name: {
            "simulations": len(each.ranks),
            "p_value": each.p_value(),
            "mean_rank": float(each.ranks.mean() / each.draws),
            "outside": each.outside(each.ranks),
            "expected_outside": each.outside(np.arange(each.draws + 1)),
            "rejected": each.p_value() < level,
        }
        for each in found
    }
    rejected = sum(entry["rejected"] for entry in quantities.values())
    return {
        "quantities": len(found),
        "rejected": rejected,
        "calibrated": rejected == 0,
        "level": LEVEL,
        "by_quantity": quantities,
    }


def in_words(result: Mapping[str, Any]) -> str:
    """A sentence on `summary`'s outcome: whether the guide is the posterior, what is off most, and
    which way."""
    count, rejected = result["quantities"], result["rejected"]
    if not rejected and set(result["by_quantity"]) <= {COUNT}:
        return (
            "Nothing can be said of the guide's spread: too few simulations have strokes both in the "
            "drawing and in the guide's draws, and the number of strokes alone is not rejected."
        )
    if not rejected:
        return (
            f"Calibrated as far as this can tell: none of {count} quantities is rejected, so that the "
            "guide's spread may be read as uncertainty."
        )
    wrong = {name: each for name, each in result["by_quantity"].items() if each["rejected"]}
    outside = outside_of(result)
    right = float(np.mean([each["expected_outside"] for each in wrong.values()]))
    shift = float(np.mean([abs(each["mean_rank"] - 0.5) for each in wrong.values()]))
    name, worst = min(wrong.items(), key=lambda item: item[1]["p_value"])
    if outside > 1.2 * right:
        how = NARROW
    elif outside < 0.8 * right:
        how = "too wide"
    else:
        how = "about as wide as they should be, but in the wrong places"
    way = "higher" if worst["mean_rank"] > 0.5 else "lower"
    return (
        f"Not calibrated: {rejected} of {count} quantities are rejected. The guide's draws are "
        f"{how}: of these quantities, {outside:.0%} of the true values lie outside the middle of the "
        f"draws, where {right:.0%} would be right, and the mean rank is {shift:.2f} from the middle. "
        f"Worst is {name}: {worst['outside']:.0%} outside, the truth {way} than the draws on average."
        + (f" {USUAL}" if how == NARROW else "")
    )


def outside_of(result: Mapping[str, Any]) -> float:
    """Share of the true values outside the middle 90 % of the draws, mean of `summary`'s rejected
    quantities."""
    shares = [each["outside"] for each in result["by_quantity"].values() if each["rejected"]]
    return float(np.mean(shares))


def draw_ranks(found: Sequence[Ranks], out: Path, title: str) -> list[Path]:
    """Write rank histograms as PNG and PDF, those that fail the test in red; return the paths.

    The grey band holds a bin's count with probability 0.99 if ranks are uniform.

    Raises:
        UserError: the figure cannot be written.
    """
    from scipy.stats import binom

    across = 6
    down = -(-len(found) // across)
    figure = new_figure(1.5 * across, 1.05 * down + 0.5)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    level = LEVEL / max(1, len(found))
    for axes, each in zip(grid, found, strict=False):
        counts = each.histogram()
        wrong = each.p_value() < level
        axes.bar(range(len(counts)), counts, width=1, color="#d1495b" if wrong else "#1b6ca8")
        share = each.expected().mean() / len(each.ranks)
        low, high = binom.interval(0.99, len(each.ranks), share)
        axes.axhspan(low, high, color="black", alpha=0.15, lw=0)
        axes.set_title(each.name, fontsize=5.5, pad=2)
        axes.set_xticks([])
        axes.tick_params(labelsize=5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    figure.suptitle(title, fontsize=8)
    figure.tight_layout()
    return save_figure(figure, out)
