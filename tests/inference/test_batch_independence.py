"""What is found for a picture does not depend on the pictures beside it, nor on the threads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

import dood_pyro
from dood_pyro import geometry
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.guide_parses import Parse, in_double, parse
from dood_pyro.inference.messengers import CommonNoiseMessenger
from dood_pyro.inference.search.refined import RefinedGuide
from dood_pyro.models.distributions import CorrelatedPoints
from dood_pyro.models.dood import DooD
from dood_pyro.recognition import Recognizer
from dood_pyro.registry import SEARCH_GUIDES
from dood_pyro.rendering import canvas_from_ink, stroke_ink
from dood_pyro.run_folders.run import make_search_guide
from dood_pyro.tasks.sensitivity import LEAP, SHIFT, Sensitivity, sensitivity
from tests.conftest import TINY, nudge, random_pictures
from tests.inference.test_guide_parses import Mixed

PIXEL = 2 / 50
"""Canvas units."""


@pytest.fixture(scope="module")
def dood() -> Recognizer:
    return dood_pyro.load("omniglot")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def wild_strokes(count: int, size: int) -> list[Tensor]:
    """Pictures unlike the training data, of four wild strokes each."""
    generator = torch.Generator().manual_seed(3)
    control = torch.rand(count, 4, 5, 2, generator=generator) * 1.8 - 0.9
    sigma = 0.01 + 0.05 * torch.rand(count, 4, generator=generator)
    ink = stroke_ink(control, sigma, torch.full((count, 4), 3.0), size)
    return list(canvas_from_ink(ink.sum(1)))


def farthest(first: list[Any], second: list[Any]) -> float:
    """The largest displacement of a control point, pixels; infinity where counts differ."""
    most = 0.0
    for mine, theirs in zip(first, second, strict=True):
        if len(mine) != len(theirs):
            return math.inf
        for a, b in zip(mine.strokes, theirs.strokes, strict=True):
            most = max(most, float(np.abs(a.control - b.control).max()))
    return most


def test_pictures_parsed_alone_and_together(dood: Recognizer, two_threads: None) -> None:
    pictures = wild_strokes(12, 256)
    torch.set_num_threads(2)
    together = dood.parse(pictures, method="guide")
    assert sum(map(len, together)) > 30
    alone = [dood.parse(picture, method="guide") for picture in pictures]
    assert farthest(together, alone) < 1e-3
    shuffled = dood.parse(pictures[::-1] + pictures[:5], method="guide")
    assert farthest(together[::-1] + together[:5], shuffled) < 1e-3
    torch.set_num_threads(1)
    assert farthest(together, dood.parse(pictures, method="guide")) < 1e-3


def test_single_precision_would_not_do(dood: Recognizer) -> None:
    """Or all of this were for nothing."""
    images, _ = dood.prepare(wild_strokes(24, 256))
    found = []
    for model, guide in ((dood.model, dood.guide), in_double(dood.model, dood.guide)):
        together = parse(model, guide, images)
        alone = Parse.concatenated([parse(model, guide, one) for one in images.split(1)])
        apart = (_places(together) - _places(alone)).abs().amax((-1, -2)) * together.alive
        found.append(float(apart.max()) / PIXEL)
    assert found[1] < 1e-5
    if found[0] < 1e-3:
        pytest.skip("this machine's single precision happens to do")


def _places(parsed: Parse) -> Tensor:
    return geometry.apply_affine(
        parsed.values["stroke"], geometry.affine_matrix(parsed.values["layout"])
    )


@pytest.mark.parametrize("over", SEARCH_GUIDES)
def test_guides_that_search(over: str, tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, guide = tiny
    nudge(guide)
    searching: Any = make_search_guide(over, model, guide)
    if hasattr(searching, "steps"):
        searching.steps = 12
    pair = in_double(model, searching)
    images = random_pictures(5, TINY.canvas_size)
    together = parse(*pair, images)
    alone = Parse.concatenated([parse(*pair, one) for one in images.split(1)])
    assert torch.equal(together.alive, alone.alive)
    torch.testing.assert_close(together.canvas, alone.canvas, rtol=0, atol=1e-6)
    again = parse(*pair, images)
    assert torch.equal(again.canvas, together.canvas)


def test_a_guide_that_must_be_sampled(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    model, guide = tiny
    pair = in_double(model, Mixed(guide))
    together = parse(*pair, images)
    alone = Parse.concatenated([parse(*pair, one) for one in images.split(1)])
    torch.testing.assert_close(together.canvas, alone.canvas, rtol=0, atol=1e-6)


def test_weights_that_changed_are_copied_again(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    dood = Recognizer(model, guide, None)  # type: ignore[arg-type]
    before = dood.infer(images)
    assert dood.infer(images).canvas.dtype == images.dtype == torch.float32
    nudge(guide)
    after = dood.infer(images)
    assert not torch.equal(before.on_probability, after.on_probability)
    dood.guide = RefinedGuide(model, guide, steps=1, samples=2)
    refined = dood.infer(images)
    dood.guide.steps = 20  # type: ignore[assignment]
    assert not torch.equal(refined.on_probability, dood.infer(images).on_probability)
    dood.guide = guide
    expected = parse(model, guide, images)
    torch.testing.assert_close(after.on_probability, expected.on_probability, rtol=0, atol=1e-4)


def test_common_noise_keeps_each_images_distribution() -> None:
    mean = torch.arange(6.0)[:, None].expand(6, 2)
    tril = torch.tensor([[2.0, 0.0], [1.5, 0.5]]).expand(6, 2, 2)

    def program() -> None:
        with pyro.plate("images", 6, dim=-1):
            pyro.sample("plain", dist.Normal(mean, 3.0).to_event(1).mask(torch.ones(6) > 0))
            pyro.sample("together", CorrelatedPoints(mean[:, None], tril))
            pyro.sample("on", dist.Bernoulli(0.5 * torch.ones(6)))

    torch.manual_seed(0)
    drawn: dict[str, list[Tensor]] = {"plain": [], "together": []}
    for _ in range(4000):
        with CommonNoiseMessenger(groups=2):
            trace: Any = poutine.trace(program).get_trace()
        for name, values in drawn.items():
            values.append(trace.nodes[name]["value"].reshape(6, 2))
    for name, covariance in (("plain", 9 * torch.eye(2)), ("together", tril[0] @ tril[0].T)):
        values = torch.stack(drawn[name]) - mean
        # The three images of a group have the same noise, those of the other group another.
        torch.testing.assert_close(values[:, 0], values[:, 2])
        assert abs(float((values[:, 0, 0] * values[:, 3, 0]).mean())) < 0.06 * covariance[0, 0]
        for image in (0, 4):
            found = torch.cov(values[:, image].T)
            torch.testing.assert_close(found, covariance, rtol=0.1, atol=0.15)
            assert values[:, image].mean(0).abs().max() < 0.2


def test_growth_and_leaps_are_what_they_say() -> None:
    nan = math.nan
    moved = torch.tensor(
        [
            [1e-5, 2e-5, 3e-5, nan],
            [1e-4, 2e-5, nan, nan],
            [1e-3, 2e-5, nan, nan],
        ]
    )
    found = Sensitivity(moved, torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert found.growth(1.0) == pytest.approx(10) and found.growth(0.0) == pytest.approx(1)
    assert found.leaps() == 0.25, "a drawing whose number of strokes changed has leapt"
    leapt = Sensitivity(moved * LEAP / 5e-4, torch.zeros(4))
    assert leapt.leaps() == 0.25
    rows = found.by_stroke()
    assert [row["drawings"] for row in rows] == [3, 2, 2]
    assert rows[0]["median"] == pytest.approx(2e-5) and rows[2]["maximum"] == pytest.approx(1e-3)


def test_sensitivity_of_guides(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    """A guide that hardly sees the image is hardly moved; one that multiplies what it sees is."""
    model, guide = tiny
    with torch.no_grad():
        guide.on_head[-1].bias.fill_(9.0)  # type: ignore[union-attr, operator]
    calm = sensitivity(model, guide, images)
    assert calm.displacement.shape == (TINY.max_strokes, len(images))
    assert calm.leaps() == 0 and float(calm.displacement.nan_to_num().max()) < 100 * SHIFT
    with torch.no_grad():
        guide.residual_encoder.convolutions[0].weight.mul_(1e5)
    wild = sensitivity(model, guide, images)
    assert wild.by_stroke()[0]["maximum"] > 5 * calm.by_stroke()[0]["maximum"]
    assert sensitivity(model, RefinedGuide(model, guide, steps=2, samples=2), images).by_stroke()
