"""The control of one-shot classification: pictures themselves, moved and bent."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.data.one_shot_runs import NAME, Trials
from dood_pyro.rendering import canvas_from_ink, stroke_ink
from dood_pyro.tasks.one_shot import Settings
from dood_pyro.tasks.one_shot_image import GRID, SETTINGS, Fit, image_types, one_shot_image
from dood_pyro.tokens import Token, TokenNoise, affine_map
from tests.test_cli import Out, call, refused
from tests.test_one_shot import archive


def strokes(count: int, size: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Control points (count, 5, 2) of one stroke each, and their pictures."""
    generator = torch.Generator().manual_seed(seed)
    control = torch.rand(count, 5, 2, generator=generator) - 0.5
    return control, picture(control, size)


def picture(control: Tensor, size: int = 50) -> Tensor:
    count = len(control)
    return canvas_from_ink(
        stroke_ink(control, torch.full((count,), 0.05), torch.full((count,), 3.0), size)
    )


def token(count: int, fit: Fit, affine: Tensor | None = None) -> Token:
    points = GRID**2 if fit == "elastic" else 0
    moved = torch.zeros(count, 1, 6) if affine is None else affine
    return Token(torch.zeros(count, 1, 1, points, 2), moved, torch.zeros(count, 1))


@pytest.mark.parametrize("fit", ["affine", "elastic"])
def test_without_a_move_a_picture_stays(fit: Fit) -> None:
    _, pictures = strokes(4)
    types = image_types(pictures, fit)
    drawn = types.draw(types.latent, token(4, fit), TokenNoise(), 50)
    torch.testing.assert_close(drawn[:, 0], pictures, atol=1e-5, rtol=0)


def test_the_affine_map_is_that_of_strokes() -> None:
    """A picture moved is the picture of the moved stroke, about the middle of its ink."""
    control, pictures = strokes(4)
    torch.manual_seed(0)
    noise = TokenNoise(0.06, 0.1, 0.15, 0.1, 0.15, 0.0)
    moves = torch.randn(4, 1, 6)
    types = image_types(pictures, "affine")
    drawn = types.draw(types.latent, token(4, "affine", moves), noise, 50)[:, 0]
    centres = (torch.arange(50) * 2 + 1) / 50 - 1
    weight = pictures / pictures.sum((-1, -2), keepdim=True)
    middle = torch.stack([(weight.sum(1) * centres).sum(-1), (weight.sum(2) * centres).sum(-1)], -1)
    matrix = affine_map(token(4, "affine", moves), noise)[:, 0]
    moved = geometry.apply_affine(control - middle[:, None], matrix) + middle[:, None]
    expected = picture(moved)
    # The pen of a moved picture is stretched with it.
    assert (drawn - expected).abs().mean() < 0.25 * (pictures - expected).abs().mean()


def test_fits_find_what_was_moved_and_bent() -> None:
    """Each control knows the characters that it can reach, and the next one more."""
    torch.manual_seed(1)
    control, support = strokes(8)
    bent = control + 0.07 * torch.randn_like(control)
    angle = torch.tensor(0.35)
    turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    order = torch.randperm(8)
    trials = Trials(support, picture((bent @ turn.T + 0.15)[order]), order)
    moved = Trials(support, picture((control @ turn.T + 0.15)[order]), order)

    def accuracy(trials: Trials, fit: Fit) -> float:
        settings = dataclasses.replace(SETTINGS[fit], steps=40)
        return float(one_shot_image([trials], fit, settings)["accuracy"])

    assert accuracy(moved, "affine") >= 0.8 > accuracy(moved, "unfitted")
    assert accuracy(trials, "elastic") >= 0.8 > accuracy(trials, "unfitted")
    same = Trials(support, support[order], order)
    assert one_shot_image([same], "unfitted")["accuracy"] == 1


def test_settings_are_those_that_were_chosen() -> None:
    path = Path(__file__).parent.parent / "experiments" / "results" / "one_shot_settings.json"
    chosen = json.loads(path.read_text())
    for fit, settings in SETTINGS.items():
        entry = chosen[fit]["candidates"][chosen[fit]["chosen"]]
        assert json.loads(json.dumps(dataclasses.asdict(settings))) == entry["settings"]
    assert chosen["dood"]["chosen"] == "default"
    default = json.loads(json.dumps(dataclasses.asdict(Settings())))
    assert chosen["dood"]["candidates"]["default"]["settings"] == default


def test_a_blank_support_image_is_no_error() -> None:
    trials = Trials(torch.zeros(2, 50, 50), torch.zeros(2, 50, 50), torch.tensor([0, 1]))
    for fit in SETTINGS:
        settings = dataclasses.replace(SETTINGS[fit], steps=1)
        assert 0 <= one_shot_image([trials], fit, settings)["accuracy"] <= 1


def test_command(tmp_path: Path, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    archive(tmp_path / NAME)
    for fit, settings in SETTINGS.items():
        monkeypatch.setitem(
            SETTINGS, fit, dataclasses.replace(settings, steps=min(1, settings.steps))
        )
    figures = tmp_path / "one_shot.json"
    figures.write_text('{"dood": {"accuracy": 0.5}}')
    command = ("one-shot", "image", "--data-dir", tmp_path, "--record", figures)
    status, text, err = call(capsys, *command, "--runs", 1)
    assert status == 0 and text.count("accuracy") == 3, err
    found = json.loads(figures.read_text())
    assert found["dood"] == {"accuracy": 0.5} and set(found["image, runs 1"]) == set(SETTINGS)
    entry = found["image, runs 1"]["elastic"]
    assert len(entry["runs"]) == 1 and entry["settings"]["blurs"] == [3.0, 1.5, 0.7]
    given = [("--which", "last"), ("--parses", 2), ("--two-way",), ("--guide", "smc")]
    for option in (*given, ("--device", "cpu"), ("--steps", 3), ("--trust", "a:B")):
        assert "leave it out" in refused(capsys, *command, *option)
