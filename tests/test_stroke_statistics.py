"""Statistics of strokes: known drawings, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dood_pyro import training
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.stroke_statistics import STATISTICS, of_strokes
from dood_pyro.tokens import Strokes
from tests.test_cli import call, refused


def line(start: tuple[float, float], end: tuple[float, float]) -> torch.Tensor:
    """Control points of a straight line."""
    share = torch.linspace(0, 1, 5)[:, None]
    return torch.tensor(start) * (1 - share) + torch.tensor(end) * share


def test_a_t_and_a_single_line() -> None:
    """A bar, from whose middle a stem goes down; and a line alone, with a stroke that is not drawn."""
    bar, stem = line((-0.5, -0.5), (0.5, -0.5)), line((0.0, -0.5), (0.0, 0.5))
    control = torch.stack([torch.stack([bar, stem]), torch.stack([stem, bar])])
    pen = torch.tensor([-3.0, 2.0, 0.1, 0.0]).expand(2, 2, 4).clone()
    pen[0, 1, 0] = -2.0
    pen[0, 1, 1] = 3.0
    found = of_strokes(Strokes(control, pen, torch.tensor([[1.0, 1.0], [1.0, 0.0]])), 50)
    assert set(found) == set(STATISTICS)

    def of(name: str) -> list[float]:
        return [round(float(number), 3) for number in found[name]]

    assert of("strokes") == [2, 1]
    assert of("width") == [0.05, 0.135, 0.05]
    assert of("width within") == [0.5] and of("darkness within") == [0.5]
    assert of("length") == [1, 1, 1] and of("turning") == [0, 0, 0]
    assert of("x") == pytest.approx([0.0, 0.0, 0.0], abs=0.03)
    assert of("y") == pytest.approx([-0.5, 0.0, 0.0], abs=0.03)
    assert of("first x") == [-0.5, 0] and of("first y") == [-0.5, -0.5]
    assert of("direction x") == [1, 0, 0] and of("direction y") == [0, 1, 1]
    assert of("extent") == [1, 1]
    # One of four ends, where the stem begins, lies in the bar's ink.
    assert of("ends that meet") == [0.25]
    assert of("travel") == [0.5]
    bar_in_stem, stem_in_bar = of("overlap")
    assert 0.1 < stem_in_bar < bar_in_stem < 0.6  # the stem's pen is the wider
    assert of("width taper") == pytest.approx([0.1] * 3)
    assert 0 < of("ink")[1] < of("ink")[0] < 0.2


def test_a_curve_turns_by_its_angle() -> None:
    """An arc of a quadratic curve, from right to down: a quarter turn."""
    control = torch.tensor([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5]])[None, None]
    pen = torch.tensor([-3.0, 2.0])[None, None]
    found = of_strokes(Strokes(control, pen, torch.ones(1, 1)), 50)
    assert float(found["turning"][0]) == pytest.approx(np.pi / 2, abs=0.1)
    assert "width taper" not in found and not len(found["travel"])


def test_command_lists_the_most_unlike_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dood_pyro.data import prepared
    from tests.conftest import random_pictures

    images = (random_pictures(40, 50) * 255).byte().numpy()
    arrays = {f"{part}_images": images for part in ("train", "test")}
    arrays |= {f"{part}_labels": np.zeros(40, dtype=np.int64) for part in ("train", "test")}
    prepared.write(tmp_path / "few.npz", arrays)
    runs = []
    for model in ("dood", "air"):
        settings = TrainConfig(str(tmp_path / "few.npz"), batch_size=8)
        config = RunConfig(model, ModelConfig(features=8, max_strokes=3), settings)
        run = Run.create(tmp_path / model, config, TrainingBudget(steps=1), torch.device("cpu"))
        training.resume(run, torch.device("cpu"), tensorboard=False)
        runs.append(run.path)
    file = tmp_path / "statistics.json"
    status, text, err = call(capsys, "statistics", runs[0], "--limit", 20, "--record", file)
    assert status == 0, err
    key = "few, max_strokes 3, limit 20"  # six strokes are usual
    entry = json.loads(file.read_text())[key]
    assert entry["drawings"] == 20 and entry["run"]["model"] == "dood"
    printed = [each.rsplit(None, 5)[0] for each in text.splitlines()[1:]]
    assert set(printed) == set(entry["table"]) and len(printed) > 15
    unlike = [entry["table"][name]["unlike"] for name in printed]
    assert unlike == sorted(unlike, reverse=True)
    status, text, _ = call(capsys, "statistics", runs[0], "--limit", 20, "--json")
    assert json.loads(text) == {key: entry}
    assert "draws no strokes" in refused(capsys, "statistics", runs[1])
