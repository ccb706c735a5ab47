"""The score function's two forms: normalised, as NVIL's algorithm has it, and as the gradient is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from dood_pyro.config import TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.estimators.nvil import NVIL
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD
from dood_pyro.registry import load_component
from dood_pyro.run_folders.run import Run
from tests.conftest import nudge
from tests.test_cli import Out, call, refused


def signals(normalise: bool, costs: list[Tensor], mask: Tensor) -> list[Tensor]:
    """What multiplies the score of ``on_1``, batch by batch."""
    estimator = NVIL(normalise=normalise, max_strokes=1)
    on = dist.Bernoulli(logits=torch.zeros(len(mask))).mask(mask > 0)
    site: dict[str, Any] = {"name": "on_1", "fn": on, "value": torch.ones(len(mask)), "infer": {}}
    return [estimator.elbo._signal(site, cost)[0] for cost in costs]


def test_unnormalised_signals_are_the_costs() -> None:
    torch.manual_seed(0)
    mask = (torch.rand(50) < 0.8).float()
    costs = [500 + 100 * torch.randn(50) for _ in range(3)]
    for signal, cost in zip(signals(False, costs, mask), costs, strict=True):
        assert torch.equal(signal, cost * mask)


def test_normalised_signals_are_centred_and_scaled_by_what_came_before() -> None:
    torch.manual_seed(0)
    mask = torch.ones(400)
    costs = [500 + 100 * torch.randn(400) for _ in range(60)]
    found = signals(True, costs, mask)
    late = torch.stack(found[20:])
    assert abs(float(late.mean())) < 0.1 and float(late.std()) == pytest.approx(1, abs=0.1)
    # No batch is measured by itself: a shift is seen in full before it is learned.
    shifted = signals(True, [*costs, costs[-1] + 300], mask)
    assert float(shifted[-1].mean()) == pytest.approx(3, abs=0.5)
    # Less than a nat is not blown up to one.
    small = signals(True, [0.01 * torch.randn(400) for _ in range(9)], mask)
    assert float(torch.stack(small).std()) < 0.02


def test_only_the_score_differs(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    """Weights that the score does not reach have the same gradient in both forms."""
    model, guide = tiny
    nudge(guide)
    found = []
    for normalise in (True, False):
        model.zero_grad()
        guide.zero_grad()
        torch.manual_seed(3)
        estimator = NVIL(beta=2.0, normalise=normalise)
        estimator.loss(model, guide, images, 0)[0].backward()
        grads = SimpleNamespace(
            stroke=guide.stroke_head[-1].weight.grad.clone(),  # type: ignore[union-attr, operator]
            stop=guide.on_head[-1].bias.grad.clone(),  # type: ignore[union-attr, operator]
        )
        found.append(grads)
    torch.testing.assert_close(found[0].stroke, found[1].stroke)
    assert abs(float(found[1].stop)) > 20 * abs(float(found[0].stop)) > 0


def test_either_can_be_asked_for(tmp_path: Path, source: Path, capsys: Out) -> None:
    small = ("--canvas-size", 16, "--batch-size", 4, "--max-strokes", 1, "--no-tensorboard")
    train = ("train", "--source", source, "--steps", 1, *small)
    for option, expected in ((), True), (("--no-normalise",), False), (("--normalise",), True):
        out = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        status, _, err = call(capsys, *train, "--estimator", "nvil", *option, "--out", out)
        assert status == 0, err
        config, _ = Run(out).read_config()
        assert config.train.normalise is expected
        estimator = load_component("estimator", config.train.estimator)
        made = estimator.from_config(config.train, 1)
        assert isinstance(made, NVIL) and made.elbo.normalise is expected
    said = refused(capsys, *train, "--no-normalise", "--out", tmp_path / "other")
    assert "--no-normalise" in said and "nvil" in said
    with pytest.raises(UserError):
        TrainConfig("none", normalise=False)
    # Runs of before keep their hash.
    assert TrainConfig("none").sha256() == TrainConfig("none", normalise=True).sha256()
