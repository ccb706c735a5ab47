"""All that computes does so on the device that it is given: by one that is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.recognition import Recognizer
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.tasks.anatomy import steps_of
from dood_pyro.tasks.calibrate import calibrate
from dood_pyro.tasks.evaluate import evaluate
from dood_pyro.tasks.sensitivity import sensitivity
from dood_pyro.tasks.stroke_statistics import statistics
from dood_pyro.training.loop import Training
from tests.conftest import TINY
from tests.other_device import other_device


def test_the_device_computes_and_refuses_tensors_of_the_cpu() -> None:
    with other_device() as device:
        x = torch.tensor([1.0, 2.0, 3.0], device=device).requires_grad_()
        (x * x).sum().backward()
        assert x.grad is not None and x.grad.device == device
        torch.testing.assert_close(x.grad.cpu(), torch.tensor([2.0, 4.0, 6.0]))
        assert (x + 1).sum().item() == 9
        with pytest.raises(RuntimeError, match="two devices"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError):
            x.detach().numpy()


@pytest.mark.parametrize(
    ("model_name", "settings"),
    [
        ("dood", {"guide": "full-covariance", "estimator": "iwae", "particles": 2}),
        ("dood-transformer", {"prior_share": 0.5}),
        ("dair", {"estimator": "rws", "particles": 2}),
        ("air", {}),
    ],
)
def test_training_and_bounds(
    model_name: str, settings: dict[str, Any], tmp_path: Path, source: Path
) -> None:
    config = RunConfig(model_name, TINY, TrainConfig(str(source), batch_size=4, **settings))
    with other_device() as device:
        begun = Training.begin(tmp_path / "run", config, TrainingBudget(steps=4), device)
        trainer = begun.train(tensorboard=False)
        assert trainer.step == 4 and int(trainer.skipped) == 0
        assert trainer.model.device == device
        for guide in (None, "smc"):
            row = evaluate(begun.run, config.train.source, 3, 2, device, guide=guide)
            assert np.isfinite(row["log_p"])


def test_what_a_model_draws(tmp_path: Path, source: Path) -> None:
    config = RunConfig("dood-transformer", TINY, TrainConfig(str(source), batch_size=4))
    picture = np.zeros((20, 20), np.uint8)
    picture[4:15, 8:11] = 255
    with other_device() as device:
        begun = Training.begin(tmp_path / "run", config, TrainingBudget(steps=1), device)
        model, guide = begun.trainer.model.eval(), begun.trainer.guide.eval()
        dood = Recognizer(model, guide, config)
        assert len(dood.parse(picture)) == 1
        dood.parse(picture, method="guide")
        for found in (dood.sample(3), dood.complete(picture), dood.exemplars(picture)):
            assert len(found)
        assert len(dood.parses(picture, 3))
        assert len(dood.drawings(begun.dataset.images[:5].float() / 255)) == 5
        images = begun.dataset.batch(4, device)
        assert steps_of(dood, images)
        sensitivity(model, guide, images)
        assert calibrate(model, guide, simulations=10, draws=9, least=1)
        assert statistics(dood, config.train.source, count=8)["table"]
