"""A parse goes no further than the drawings do, and says the same as the model drawing it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dood_pyro.checkpoints import RunConfig
from dood_pyro.config import TrainConfig
from dood_pyro.inference import parsing
from dood_pyro.inference.parsing import Parse, parse
from dood_pyro.programs import PROGRAMS
from tests.conftest import TINY, nudge


class Whole(nn.Module):
    """A guide that can only be run as a whole: what it says, the model draws."""

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, image: Tensor) -> None:
        self.guide(image)


def parsed(program: str, bias: float, images: Tensor) -> tuple[Parse, Parse]:
    """By steps, and as a whole."""
    torch.manual_seed(0)
    config = RunConfig(program, PROGRAMS[program].configure(TINY), TrainConfig("none"))
    model, guide = config.build()
    nudge(guide)
    with torch.no_grad():
        guide.on_head[-1].bias += bias  # type: ignore[index, union-attr]
    return parse(model, guide, images), parse(model, Whole(guide), images)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("bias", [-9.0, 0.0, 9.0])
def test_steps_and_the_whole_agree(program: str, bias: float, images: Tensor) -> None:
    steps, whole = parsed(program, bias, images)
    assert steps.alive.shape == whole.alive.shape == (TINY.max_strokes, len(images))
    torch.testing.assert_close(steps.alive, whole.alive)
    torch.testing.assert_close(steps.on_probability, whole.on_probability)
    torch.testing.assert_close(steps.canvas, whole.canvas)
    drawn = steps.alive > 0
    assert steps.values.keys() == whole.values.keys() and steps.std.keys() == whole.std.keys()
    for mine, theirs in ((steps.values, whole.values), (steps.std, whole.std)):
        for name in mine:
            torch.testing.assert_close(mine[name][drawn], theirs[name][drawn])


@pytest.mark.parametrize(("bias", "steps"), [(-9.0, 1), (9.0, TINY.max_strokes)])
def test_a_parse_ends_with_its_drawings(
    bias: float, steps: int, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = []
    collect = parsing._collect
    monkeypatch.setattr(
        parsing, "_collect", lambda *args: collected.append(collect(*args)) or collected[-1]
    )
    parsed("dood", bias, images)
    assert len(collected[0].alive) == steps
