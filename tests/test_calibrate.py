"""Simulation-based calibration: the posterior passes, others do not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from dood_pyro.config import ModelConfig
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.base import Guide
from dood_pyro.images import Images, as_batch
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.models.base import DrawingModel
from dood_pyro.models.dood import DooD
from dood_pyro.tasks.calibrate import Ranks, calibrate, draw_ranks, in_words, summary


class Shift(NamedTuple):
    ink: Tensor
    alive: Tensor

    @property
    def canvas(self) -> Tensor:
        """Ink does not saturate here."""
        return self.ink


class Shifts(DrawingModel[Shift]):
    """One stroke: ``layout_1`` ~ N(0, 1) in each of two coordinates is the two pixels, plus N(0, 1).
    The posterior is N(x / 2, 1 / 2)."""

    def __init__(self) -> None:
        super().__init__(ModelConfig(max_strokes=1, likelihood="gaussian"))

    def likelihood_scale(self) -> Tensor:
        return torch.tensor(1.0)

    def initial_state(self, count: int, native_size: int = 0) -> Shift:
        return Shift(torch.zeros(count, 1, 2), torch.ones(count))

    def step(self, t: int, state: Shift, after: Shift | None = None) -> Shift:
        sure = torch.full(state.alive.shape, 30.0)
        alive = pyro.sample(f"on_{t}", dist.Bernoulli(logits=sure))
        prior = dist.Normal(torch.zeros(*state.alive.shape, 2), 1.0).to_event(1)
        layout = pyro.sample(f"layout_{t}", prior)
        canvas = layout[..., None, :]
        pyro.deterministic(f"canvas_{t}", canvas, event_dim=2)
        return Shift(canvas, alive)


class ShiftsGuide(Guide):
    def __init__(self, share: float, std: float) -> None:
        super().__init__(Shifts())
        self.share, self.std = share, std

    def forward(self, images: Images) -> None:
        pixels = as_batch(images).pixels
        with pyro.plate("images", len(pixels), dim=-1):
            pyro.sample("on_1", dist.Bernoulli(logits=torch.full((len(pixels),), 30.0)))
            mean = self.share * pixels[:, 0]
            pyro.sample("layout_1", dist.Normal(mean, self.std).to_event(1))


def test_the_posterior_passes() -> None:
    torch.manual_seed(0)
    found = calibrate(Shifts(), ShiftsGuide(0.5, 0.5**0.5), simulations=1000)
    result = summary(found)
    assert result["calibrated"] and result["quantities"] == 3
    assert all(len(each.ranks) == 1000 for each in found)


@pytest.mark.parametrize(("share", "std"), [(0.5, 0.4), (0.5, 1.2), (0.0, 0.5**0.5)])
def test_a_wrong_guide_fails(share: float, std: float) -> None:
    """Too narrow, too broad, and one that does not see the image."""
    torch.manual_seed(0)
    result = summary(calibrate(Shifts(), ShiftsGuide(share, std), simulations=1000))
    assert not result["calibrated"] and result["rejected"] == 2


class OneNumber(Shifts):
    """``shift_1`` ~ N(0, 1), a site of a single number, is both pixels, plus N(0, 1) for each. The
    posterior is N((x + y) / 3, 1 / 3)."""

    def step(self, t: int, state: Shift, after: Shift | None = None) -> Shift:
        alive = pyro.sample(f"on_{t}", dist.Bernoulli(logits=torch.full(state.alive.shape, 30.0)))
        shift = pyro.sample(f"shift_{t}", dist.Normal(torch.zeros(state.alive.shape), 1.0))
        canvas = shift[..., None, None].expand(*shift.shape, 1, 2)
        pyro.deterministic(f"canvas_{t}", canvas, event_dim=2)
        return Shift(canvas, alive)


class OneNumbersGuide(ShiftsGuide):
    def forward(self, images: Images) -> None:
        pixels = as_batch(images).pixels
        with pyro.plate("images", len(pixels), dim=-1):
            pyro.sample("on_1", dist.Bernoulli(logits=torch.full((len(pixels),), 30.0)))
            pyro.sample("shift_1", dist.Normal(self.share * pixels.sum((-1, -2)), self.std))


def test_sites_of_a_single_number() -> None:
    torch.manual_seed(0)
    for share, right in ((1 / 3, True), (0.0, False)):
        guide = OneNumbersGuide(share, (1 / 3) ** 0.5)
        found = calibrate(OneNumber(), guide, simulations=1000)
        assert len(found) == 2 and summary(found)["calibrated"] is right


def test_a_guide_without_strokes_is_not_called_calibrated() -> None:
    only = Ranks("number of strokes", np.arange(20).repeat(3), 19)
    assert in_words(summary([only])).startswith("Nothing can be said")
    more = Ranks("layout scale of stroke 1", np.arange(20).repeat(3), 19)
    assert in_words(summary([only, more])).startswith("Calibrated as far as this can tell")


class Twice(DrawingModel[Shift]):
    """Two strokes; whether there is a second, and where, hangs on where the first lies. The picture
    says nothing, so that the posterior is the prior."""

    slope = 8.0

    def __init__(self) -> None:
        super().__init__(ModelConfig(max_strokes=2, likelihood="gaussian"))

    def likelihood_scale(self) -> Tensor:
        return torch.tensor(1.0)

    def initial_state(self, count: int, native_size: int = 0) -> Shift:
        # What is drawn so far stands where other models keep the canvas.
        return Shift(torch.zeros(count, 1, 1), torch.ones(count))

    def step(self, t: int, state: Shift, after: Shift | None = None) -> Shift:
        logits = 30.0 if t == 1 else self.slope * state.canvas[..., 0, 0]
        fn = dist.Bernoulli(logits=torch.zeros(state.alive.shape) + logits)
        alive = state.alive * pyro.sample(f"on_{t}", fn.mask(state.alive > 0))
        prior = dist.Normal(torch.zeros(*state.alive.shape, 1) + state.canvas[..., 0], 1.0)
        layout = pyro.sample(f"layout_{t}", prior.to_event(1).mask(alive > 0))
        canvas = layout[..., None, :] if t == 1 else state.canvas
        pyro.deterministic(f"canvas_{t}", canvas, event_dim=2)
        return Shift(canvas, alive)

    def forward(  # type: ignore[override]
        self, images: Images | None = None, count: int = 1, native_size: int = 0
    ) -> Tensor:
        count = count if images is None else len(as_batch(images))
        with pyro.plate("images", count, dim=-1):
            state = self.both_strokes(count)
            pyro.sample("image", dist.Normal(torch.zeros(count, 1, 1), 1.0).to_event(2))
        return state.canvas

    def both_strokes(self, count: int) -> Shift:
        """Both strokes."""
        state = self.initial_state(count)
        for t in (1, 2):
            state = self.step(t, state)
        return state


class OtherEnd(Twice):
    """Holds that there is a second stroke just where there is none."""

    slope = -8.0


class Prior(Guide):
    """A model's prior as a guide."""

    def forward(self, images: Images) -> None:
        count = len(as_batch(images))
        with pyro.plate("images", count, dim=-1):
            self.model.both_strokes(count)


def test_the_posterior_of_later_strokes_passes() -> None:
    torch.manual_seed(1)  # of a hundred seeds one is rejected
    found = calibrate(Twice(), Prior(Twice()), simulations=2000)
    assert summary(found)["calibrated"]
    assert {"layout scale of stroke 1", "layout scale of stroke 2"} < {each.name for each in found}
    assert not summary(calibrate(Twice(), Prior(OtherEnd()), simulations=2000))["calibrated"]


def test_too_narrow_a_guide_shows_in_the_histogram() -> None:
    torch.manual_seed(0)
    found = calibrate(Shifts(), ShiftsGuide(0.5, 0.4), simulations=1000)
    counts = found[0].histogram()
    assert counts[0] > 2 * counts[10] and counts[-1] > 2 * counts[10]


def test_of_the_real_models(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor, tmp_path: Path
) -> None:
    model, guide = tiny
    torch.manual_seed(0)
    with torch.no_grad():
        for head in (model.on_head, guide.on_head):
            head[-1].bias.fill_(2.0)
    for each in (guide, RefinedGuide(model, guide, steps=2)):
        found = calibrate(model, each, simulations=60, draws=19, least=20)
        names = {ranks.name for ranks in found}
        assert {
            "number of strokes",
            "layout scale of stroke 1",
            "pen darkness of stroke 2",
        } <= names
        assert all((ranks.ranks >= 0).all() and (ranks.ranks <= 19).all() for ranks in found)
        assert not summary(found)["calibrated"]
    paths = draw_ranks(found, tmp_path / "ranks.png", "tiny")
    assert [path.suffix for path in paths] == [".png", ".pdf"]


def test_few_ranks_fill_few_bins() -> None:
    """The chi-squared distribution does not hold for bins of hardly any."""
    rng = np.random.default_rng(0)
    for count, bins in ((10, 2), (50, 10), (100, 20), (1000, 20)):
        drawn = [Ranks("all", rng.integers(0, 100, count), 99) for _ in range(2000)]
        assert {len(each.histogram()) for each in drawn} == {bins}
        level = 0.01
        assert np.mean([each.p_value() < level for each in drawn]) < 2 * level


def test_uniform_ranks_pass_however_many_there_are() -> None:
    for draws in (9, 19, 99, 100, 16):
        ranks = Ranks("all", np.arange(draws + 1).repeat(3), draws)
        np.testing.assert_allclose(ranks.histogram(), ranks.expected())
        assert ranks.p_value() > 0.99
