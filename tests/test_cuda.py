"""What must hold on a GPU: the renderer, its gradient and parses as on a CPU; bounds, training steps
and trainings that are gone on with.

Left out where there is no GPU. With DOOD_TEST_DEVICE=cpu they run on a CPU, which shows that the tests
themselves hold; `experiments/gpu_check.sh --dry-run` does that.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import in_double, parse
from dood_pyro.inference.importance import bound_of
from dood_pyro.registry import MODELS, SEARCH_GUIDES
from dood_pyro.rendering import canvas_from_ink, stroke_ink
from dood_pyro.rendering.reference import stroke_ink_per_pixel
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import make_search_guide
from dood_pyro.training.loop import Training, resume
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY, nudge, random_pictures

NAME = os.environ.get("DOOD_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
DEVICE = torch.device(NAME or "cpu")
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not NAME, reason="there is no GPU; DOOD_TEST_DEVICE=cpu runs it")


def model_and_guide(name: str, device: torch.device) -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    model, guide = build(RunConfig(name, TINY, TrainConfig("none")))
    nudge(guide)
    return model.to(device).eval(), guide.to(device).eval()


@pytest.mark.parametrize("points", [1, 33, 128])
def test_the_renderer_and_its_gradient(points: int) -> None:
    torch.manual_seed(0)
    strokes = (torch.rand(7, 5, 2) - 0.5, torch.rand(7) * 0.1 + 0.03, torch.rand(7) * 3)
    found = []
    for render, device, dtype in (
        (stroke_ink, DEVICE, torch.float32),
        (stroke_ink_per_pixel, CPU, torch.float64),
    ):
        inputs = [tensor.to(device, dtype, copy=True).requires_grad_() for tensor in strokes]
        ink = render(*inputs, 29, points=points)
        canvas_from_ink(ink.sum(0)).square().sum().backward()
        found.append([ink.detach(), *(tensor.grad for tensor in inputs)])
    for mine, theirs in zip(*found, strict=True):
        assert mine is not None and theirs is not None
        torch.testing.assert_close(mine.cpu().double(), theirs, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("name", MODELS)
def test_parses_are_those_of_a_cpu(name: str) -> None:
    images = random_pictures(5, TINY.canvas_size)
    here, there = (
        parse(*in_double(*model_and_guide(name, device)), images.to(device))
        for device in (DEVICE, CPU)
    )
    assert torch.equal(here.alive.cpu(), there.alive)
    torch.testing.assert_close(here.canvas.cpu(), there.canvas, rtol=0, atol=1e-5)
    alive = there.alive > 0
    for kind, value in there.values.items():
        torch.testing.assert_close(here.values[kind].cpu()[alive], value[alive], rtol=0, atol=1e-4)


@pytest.mark.parametrize("over", SEARCH_GUIDES)
def test_guides_that_search(over: str) -> None:
    model, guide = model_and_guide("dood", DEVICE)
    searching: Any = make_search_guide(over, model, guide)
    if hasattr(searching, "steps"):
        searching.steps = 3
    images = random_pictures(3, TINY.canvas_size).to(DEVICE)
    bound = bound_of(model, searching, images, particles=4)
    assert bound.log_p.device.type == DEVICE.type and bool(torch.isfinite(bound.log_p).all())


@pytest.mark.parametrize("estimator", ["stop-marginal", "nvil", "iwae", "rws"])
def test_a_training_step(estimator: Any) -> None:
    settings = TrainConfig(
        "none",
        batch_size=4,
        estimator=estimator,
        particles=2 if estimator in ("iwae", "rws") else 1,
    )
    trainer = Trainer.from_config(RunConfig("dood", TINY, settings), DEVICE)
    before = {name: weight.detach().clone() for name, weight in trainer.parameters.items()}
    images = ImageBatch(random_pictures(4, TINY.canvas_size).to(DEVICE))
    for _ in range(9):  # a batch of random strokes is among them
        terms, _ = trainer.train_step(images)
    assert bool(torch.isfinite(terms.elbo)) and int(trainer.skipped) == 0
    moved = [not torch.equal(trainer.parameters[name], weight) for name, weight in before.items()]
    assert sum(moved) > len(before) / 2


def test_a_training_that_is_gone_on_with(tmp_path: Path, source: Path) -> None:
    def trained(name: str, *ends: int) -> dict[str, Tensor]:
        run = None
        for steps in ends:
            budget = TrainingBudget(steps=steps)
            if run is None:
                config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=4))
                run = Training.begin(tmp_path / name, config, budget, DEVICE).run
            resume(run, DEVICE, tensorboard=False, budget=budget)
        assert run is not None
        return run.read_tensors("last.safetensors")[0]

    whole, halves = trained("whole", 6), trained("halves", 3, 6)
    for name, weight in whole.items():
        torch.testing.assert_close(halves[name], weight, rtol=1e-3, atol=1e-4)
