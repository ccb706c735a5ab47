"""Types and tokens, new exemplars, and completions."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from dood_pyro import training
from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.inference.guide_parses import Parse, parse
from dood_pyro.recognition import Recognizer
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from dood_pyro.tasks.complete import complete
from dood_pyro.tasks.exemplars import exemplars
from dood_pyro.tokens import (
    Strokes,
    Token,
    TokenNoise,
    apply_token,
    sample_token,
    strokes_from_parse,
)
from tests.conftest import TINY, random_pictures
from tests.test_cli import TINY_OPTIONS, call, refused


def untrained(model: str) -> Recognizer:
    """A recognizer that draws every stroke."""
    torch.manual_seed(0)
    config = RunConfig(model, TINY, TrainConfig("none"))
    dood = Recognizer(*build(config), config)
    with torch.no_grad():
        dood.guide.on_head[-1].bias.fill_(20.0)  # type: ignore[index, union-attr]
    return dood


def some_strokes() -> Strokes:
    torch.manual_seed(0)
    control = torch.rand(3, 2, 5, 2) - 0.5
    pen = torch.tensor([-3.0, 2.0, 0.1, 0.0]).expand(3, 2, 4)
    return Strokes(control, pen, torch.tensor([[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))


def still(strokes: Strokes) -> Token:
    token = sample_token(strokes.control)
    return Token(*(torch.zeros_like(part) for part in token))


def test_the_strokes_of_a_parse_are_its_picture(images: Tensor) -> None:
    dood = untrained("dood")
    parsed = parse(dood.model, dood.guide, images)
    shown = strokes_from_parse(parsed).render(TINY.canvas_size)
    torch.testing.assert_close(shown, parsed.canvas[-1], atol=1e-5, rtol=0)


def test_a_token_without_noise_is_its_type() -> None:
    strokes = some_strokes()
    for token, noise in (
        (still(strokes), TokenNoise()),
        (sample_token(strokes.control), TokenNoise(0, 0, 0, 0, 0, 0)),
    ):
        written = apply_token(strokes, token, noise)
        torch.testing.assert_close(written.control, strokes.control)
        torch.testing.assert_close(written.pen, strokes.pen)


def test_tokens_move_as_they_say() -> None:
    strokes = some_strokes()
    noise = TokenNoise(control=0.0)
    token = still(strokes)
    shifted = apply_token(strokes, token._replace(affine=token.affine + torch.eye(6)[0]), noise)
    torch.testing.assert_close(
        shifted.control - strokes.control, torch.tensor([noise.shift, 0.0]).expand(3, 2, 5, 2)
    )
    turned = apply_token(strokes, token._replace(affine=token.affine + torch.eye(6)[2]), noise)
    # Distances stay as they are, directions turn by the angle.
    before, after = (s.control[0].flatten(0, 1).diff(dim=0) for s in (strokes, turned))
    torch.testing.assert_close(before.norm(dim=-1), after.norm(dim=-1))
    angle = torch.atan2(after[:, 1], after[:, 0]) - torch.atan2(before[:, 1], before[:, 0])
    torch.testing.assert_close(angle.sin(), torch.full_like(angle, math.sin(noise.rotation)))


def test_noise_must_make_sense() -> None:
    with pytest.raises(UserError, match="token noise control"):
        TokenNoise(control=-1)


@pytest.mark.parametrize("name", ["dood", "dood-no-renderer", "air"])
def test_exemplars_differ_and_resemble(name: str, images: Tensor) -> None:
    dood = untrained(name)
    parsed = parse(dood.model, dood.guide, images)
    inks = exemplars(dood, images, 4, seed=1, size=TINY.canvas_size)
    shape = (len(images), 4, TINY.max_strokes, TINY.canvas_size, TINY.canvas_size)
    assert inks.shape == shape and inks.min() >= 0
    pictures = torch.tanh(inks.sum(2))
    assert (pictures[:, 0] - pictures[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(
        exemplars(dood, images, 4, seed=1, size=TINY.canvas_size), inks, atol=1e-5, rtol=1e-5
    )
    none = TokenNoise(0, 0, 0, 0, 0, 0)
    if name == "dood":
        same = exemplars(dood, images, 1, none, size=TINY.canvas_size)
        torch.testing.assert_close(
            torch.tanh(same.sum(2))[:, 0], parsed.canvas[-1], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("name", ["dood", "dood-transformer"])
def test_completions_keep_what_is_given_and_add_to_it(
    name: str, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    dood = untrained(name)
    infer = dood.infer

    def of_several_numbers(pixels: Tensor) -> Parse:
        found = infer(pixels)
        found.alive[:] = 1
        found.alive[2:, 0] = found.alive[1:, 2] = 0
        return found

    monkeypatch.setattr(dood, "infer", of_several_numbers)
    found = complete(dood, images, each=3, seed=0)
    assert torch.equal(found.given, images)
    assert found.strokes.alive.shape == (len(images), 3, TINY.max_strokes)
    assert (found.strokes.alive[..., 0] == 1).all(), "one stroke at least"
    assert (found.strokes.alive.diff(dim=-1) <= 0).all(), "none after the end"
    first = complete(dood, images, each=2, strokes=1, seed=0)
    parsed = parse(dood.model, dood.guide, images)
    torch.testing.assert_close(first.given, parsed.canvas[0])
    with pytest.raises(UserError, match="no strokes"):
        complete(untrained("air"), images)


def test_commands(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=8))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=1), torch.device("cpu"))
    training.resume(run, torch.device("cpu"), tensorboard=False)
    for command in ("exemplars", "complete"):
        out = tmp_path / f"{command}.png"
        options = ("--target", source, "--count", 3, "--each", 2, "--out", out)
        status, text, err = call(capsys, command, run.path, *options)
        assert status == 0 and out.exists() and str(out) in text, err
    mine = tmp_path / "mine.png"
    Image.fromarray((random_pictures(1, 40)[0] * 255).byte().numpy()).save(mine)
    out = tmp_path / "of-mine.png"
    for command in ("exemplars", "complete"):
        status, text, err = call(
            capsys, command, run.path, "--image", mine, "--each", 2, "--out", out
        )
        assert status == 0 and str(out) in text, err
    refused(capsys, "complete", run.path, "--image", mine, "--target", source)
    refused(capsys, "complete", run.path)
    refused(capsys, "complete", run.path, "--image", mine, "--count", 3)
    refused(capsys, "exemplars", run.path, "--target", source, "--control-noise", "-3")
    refused(capsys, "complete", run.path, "--target", source, "--out", tmp_path / "x.gif")


def test_noise_of_curves_is_refused_for_models_that_draw_parts(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    begin = ("train", "--model", "dair", "--source", source, "--steps", 1, "--out", out)
    assert call(capsys, *begin, *TINY_OPTIONS)[0] == 0
    ask = ("exemplars", out, "--target", source, "--count", 1, "--out", tmp_path / "sheet.png")
    err = refused(capsys, *ask, "--pen-noise", 0.2)
    assert "--pen-noise is for models that draw curves; Difference-AIR draws parts" in err
    assert not (tmp_path / "sheet.png").exists()
    assert call(capsys, *ask, "--affine-noise", 0.5)[0] == 0
