"""A parse goes no further than the drawings do, and says the same as the model drawing it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.guides import check_guide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.base import Guide, SequentialGuide
from dood_pyro.images import ImageBatch, Images
from dood_pyro.inference import guide_parses
from dood_pyro.inference.guide_parses import Parse, parse
from dood_pyro.models.dood import DooD, State
from dood_pyro.recognition import drawings_from_parse
from dood_pyro.registry import MODELS
from dood_pyro.run_folders.build import build
from tests.conftest import TINY, nudge


class Whole(Guide):
    """A guide that can only be run as a whole: what it says, the model draws."""

    def __init__(self, guide: Guide) -> None:
        super().__init__(guide.model)
        self.guide = guide

    def forward(self, images: Images) -> None:
        self.guide(images)


def parsed(
    model_name: str, bias: float, images: Tensor, settings: ModelConfig = TINY
) -> tuple[Parse, Parse]:
    """By steps, and as a whole."""
    torch.manual_seed(0)
    config = RunConfig(model_name, settings, TrainConfig("none"))
    model, guide = build(config)
    nudge(guide)
    with torch.no_grad():
        guide.on_head[-1].bias += bias  # type: ignore[index, union-attr]
    return parse(model, guide, images), parse(model, Whole(guide), images)


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("bias", [-9.0, 0.0, 9.0])
def test_steps_and_the_whole_agree(model_name: str, bias: float, images: Tensor) -> None:
    steps, whole = parsed(model_name, bias, images)
    assert steps.alive.shape == whole.alive.shape == (TINY.max_strokes, len(images))
    torch.testing.assert_close(steps.alive, whole.alive)
    torch.testing.assert_close(steps.on_probability, whole.on_probability)
    torch.testing.assert_close(steps.canvas, whole.canvas)
    drawn = steps.alive > 0
    assert steps.values.keys() == whole.values.keys() and steps.std.keys() == whole.std.keys()
    for mine, theirs in ((steps.values, whole.values), (steps.std, whole.std)):
        for name in mine:
            torch.testing.assert_close(mine[name][drawn], theirs[name][drawn])


def test_a_pen_that_only_the_model_knows(images: Tensor) -> None:
    found = parsed("dood", 9.0, images, dataclasses.replace(TINY, pen="shared"))
    for each in found:
        assert len(drawings_from_parse(each)) == len(images)


class Carrying(SequentialGuide[tuple[State]]):
    """Carries the model's state within another, and does not say so."""

    def initial_state(self, images: ImageBatch) -> tuple[State]:
        return (self.model.initial_state(len(images), images.native_size),)

    def step(self, t: int, state: tuple[State], image: Tensor) -> tuple[State]:
        return (self.model.step(t, state[0]),)


def test_a_guide_that_hides_the_models_state_is_refused() -> None:
    model = DooD(TINY)
    with pytest.raises(UserError, match="model_state"):
        check_guide(model, Carrying(model))


@pytest.mark.parametrize(("bias", "steps"), [(-9.0, 1), (9.0, TINY.max_strokes)])
def test_a_parse_ends_with_its_drawings(
    bias: float, steps: int, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = []
    collect = guide_parses._collect
    monkeypatch.setattr(
        guide_parses, "_collect", lambda *args: collected.append(collect(*args)) or collected[-1]
    )
    parsed("dood", bias, images)
    assert len(collected[0].alive) == steps


class Mixed(Guide):
    """A guide one of whose sites has neither mean nor standard deviation."""

    def __init__(self, guide: Guide) -> None:
        super().__init__(guide.model)
        self.guide = guide

    def forward(self, images: Images) -> None:
        with Mix():
            self.guide(images)


class Mix(Messenger):
    """Puts mixtures of one component in the place of ``layout_t``'s Gaussians."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"].startswith("layout_"):
            masked = msg["fn"]
            normal = masked.base_dist.base_dist
            mixture = dist.MixtureOfDiagNormals(
                normal.loc[..., None, :], normal.scale[..., None, :], normal.loc[..., :1] * 0
            )
            msg["fn"] = mixture.mask(masked._mask)


def test_what_has_no_mean_is_sampled_and_has_no_deviation(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    nudge(guide)
    whole = parse(model, guide, images)
    mixed = parse(model, Mixed(guide), images)
    assert whole.std.keys() - mixed.std.keys() == {"layout"}
    assert not torch.equal(whole.values["layout"][0], mixed.values["layout"][0])
    for name, again in parse(model, Mixed(guide), images).values.items():
        assert torch.equal(mixed.values[name], again)
