"""Pictures of fewer pixels than the canvas has are drawn on as few, wherever a program meets them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from dood_pyro import data, geometry, training
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.data import prepared
from dood_pyro.data.one_shot_runs import Trials
from dood_pyro.errors import UserError
from dood_pyro.guides import check_guide, make_guide
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.models.dood import DooD, StepValues
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer
from dood_pyro.registry import MODELS
from dood_pyro.rendering import canvas_from_ink
from dood_pyro.runs.budget import TrainingBudget
from dood_pyro.runs.run import Run, make_search_guide
from dood_pyro.tasks import evaluate as evaluation
from dood_pyro.tasks.compare import draw_reconstructions
from dood_pyro.tasks.complete import complete
from dood_pyro.tasks.fid import samples, shuffled_strokes
from dood_pyro.tasks.one_shot import Settings, classify
from tests.conftest import TINY, random_pictures

CPU = torch.device("cpu")
COARSE = 10
"""Pixels a side, of a canvas of 16."""


def prepare(path: Path, side: int, count: int = 60) -> Path:
    arrays = {}
    for part, number in (("train", count), ("test", 12)):
        pictures = (random_pictures(number, side, seed=number, sigma=0.2) * 255).byte().numpy()
        arrays |= {f"{part}_images": pictures, f"{part}_labels": np.arange(number) % 3}
    prepared.write(path, arrays)
    return path


@pytest.fixture
def coarse(tmp_path: Path) -> Path:
    """A source of pictures of few pixels."""
    return prepare(tmp_path / "coarse.npz", COARSE)


def test_ink_is_enlarged_as_pictures_are() -> None:
    ink = 3 * torch.rand(2, 3, 28, 28)
    found = canvas_from_ink(ink, 50)
    torch.testing.assert_close(found, resize(torch.tanh(ink), 50), atol=3e-6, rtol=0)
    torch.testing.assert_close(canvas_from_ink(ink[0, 0], 50), found[0, 0])
    assert torch.equal(canvas_from_ink(ink, 28), canvas_from_ink(ink))


def test_the_gradient_through_enlarging() -> None:
    ink = torch.rand(2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda ink: canvas_from_ink(ink, 7), (ink,))


@pytest.mark.parametrize(
    ("pixels", "drawn"), [(28, 28), (25, 25), (24, 50), (50, 50), (105, 50), (0, 50)]
)
def test_the_resolution_that_pictures_are_drawn_at(pixels: int, drawn: int) -> None:
    model = DooD(ModelConfig())
    assert model.ink_size == 50
    with model.at(pixels):
        assert model.ink_size == drawn
    assert model.ink_size == 50
    own = DooD(ModelConfig(native_resolution=False))
    own.expect(pixels)
    assert own.ink_size == 50


@pytest.mark.parametrize("program", MODELS)
def test_every_program_draws_at_few_pixels(program: str) -> None:
    config = dataclasses.replace(TINY, part_dims=7)
    torch.manual_seed(0)
    model, guide = RunConfig(program, config, TrainConfig("none", resolution=COARSE)).build()
    assert model.ink_size == COARSE
    images = resize(random_pictures(4, COARSE), 16)
    assert torch.isfinite(stop_marginal_terms(model, guide, images, 3).elbo()).all()
    with torch.no_grad(), pyro.poutine.trace() as tracer:
        canvas = model(count=3)
    assert tracer.trace.nodes["canvas_3"]["value"].shape == canvas.shape == (3, 16, 16)
    # What is enlarged lies in the few dimensions of enlarged pictures.
    assert torch.linalg.matrix_rank(canvas).max() <= COARSE


def test_a_picture_of_few_pixels_is_met_exactly() -> None:
    """Drawn with the very strokes that it was made of, at the resolution that it was made at."""
    torch.manual_seed(0)
    model = DooD(ModelConfig())
    layout = torch.tensor([[0.5, 0.1, -0.2, 0.3]])
    stroke, pen = torch.rand(1, 5, 2) - 0.5, torch.tensor([[-3.0, 2.0, 0.1, 0.2]])
    placed = geometry.apply_affine(stroke, geometry.affine_matrix(layout))
    small = canvas_from_ink(geometry.draw_strokes(placed, geometry.pen_profile(pen), 28))
    image = resize(small, 50)
    errors = []
    for resolution in (28, 50):
        with model.at(resolution):
            state = model.initial_state(1)
            values = StepValues(torch.ones(1), layout, stroke, pen)
            errors.append(
                float((model.draw(state, model.look(state), values).canvas - image).abs().sum())
            )
    assert errors[0] < 1e-3 < 1 < errors[1]


def trained(path: Path, source: Path, steps: int = 3, **settings: Any) -> Run:
    model = dataclasses.replace(TINY, **settings)
    config = RunConfig("dood", model, TrainConfig(str(source), batch_size=8, synthetic_ratio=1.0))
    run = Run.create(path, config, TrainingBudget(steps=steps), CPU)
    training.train(run, CPU, tensorboard=False)
    return run


def test_a_run_draws_at_its_sources_resolution_and_says_so(tmp_path: Path, coarse: Path) -> None:
    fine = prepare(tmp_path / "fine.npz", 20)
    runs = [trained(tmp_path / name, source) for name, source in (("a", coarse), ("b", fine))]
    configs = [run.read_config()[0] for run in runs]
    assert [config.train.resolution for config in configs] == [COARSE, 20]
    assert [run.load()[0].ink_size for run in runs] == [COARSE, 16]
    assert configs[0].settings_sha256() == configs[1].settings_sha256()
    plain = trained(tmp_path / "c", coarse, native_resolution=False)
    assert plain.load()[0].ink_size == 16
    assert plain.read_config()[0].settings_sha256() != configs[0].settings_sha256()


def test_practice_is_at_the_canvas_too(tmp_path: Path, coarse: Path) -> None:
    config = RunConfig(
        "dood", TINY, TrainConfig(str(coarse), synthetic_ratio=1.0, resolution=COARSE)
    )
    trainer = training.Trainer.from_config(config, CPU)
    seen = []
    ask = trainer.estimator.differentiable_loss

    def watched(model: Any, guide: Any, image: torch.Tensor) -> torch.Tensor:
        seen.append(model.ink_size)
        return ask(model, guide, image)

    trainer.estimator.differentiable_loss = watched  # type: ignore[method-assign]
    for _ in range(2):
        trainer.train_step(resize(random_pictures(4, COARSE), 16))
    # The doodles of a step come before its images.
    assert seen == [COARSE, COARSE, 16, COARSE]


def test_targets_are_measured_at_their_own_resolution(
    tmp_path: Path, coarse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = trained(tmp_path / "run", prepare(tmp_path / "fine.npz", 20))
    row = evaluation.evaluate(fine, str(coarse), particles=10)
    model, guide, _ = fine.load()
    model.expect(COARSE)
    images = Recognizer(*fine.load()).load_images(str(coarse), None)
    torch.manual_seed(0)
    same = evaluation._shard((model, guide), 0, images, 10)
    assert row["log_p"] == pytest.approx(float(same.bound.log_p.mean()), rel=1e-5)
    model.expect(0)
    other = evaluation._shard((model, guide), 0, images, 10)
    assert row["log_p"] != pytest.approx(float(other.bound.log_p.mean()), rel=1e-3)
    monkeypatch.setattr(evaluation, "WORTH_IT", 1)
    monkeypatch.setattr(evaluation, "SHARD", 6)
    by_two = evaluation.evaluate(fine, str(coarse), particles=10, jobs=2)
    alone = evaluation.evaluate(fine, str(coarse), particles=10, jobs=1)
    assert by_two["log_p"] == pytest.approx(alone["log_p"], rel=1e-5)


def test_pictures_of_several_sizes_are_parsed_at_their_own(tmp_path: Path, coarse: Path) -> None:
    dood = Recognizer(*trained(tmp_path / "run", coarse).load())
    with torch.no_grad():
        dood.guide.on_head[-1].bias.fill_(5.0)  # type: ignore[union-attr, operator, index]
    pictures = [random_pictures(1, side, sigma=0.2)[0] for side in (40, COARSE, 12, COARSE, 40)]
    together = dood.parse(pictures)
    for picture, found in zip(pictures, together, strict=True):
        torch.testing.assert_close(found.render(), dood.parse(picture).render(), atol=1e-5, rtol=0)
    assert dood.model.ink_size == COARSE
    prepared_pictures, sides = dood.prepare(pictures)
    assert sides == [40, COARSE, 12, COARSE, 40]
    plain = dood.drawings(prepared_pictures[1:2])[0]
    assert not torch.allclose(plain.render(), together[1].render(), atol=1e-4)


def test_models_are_compared_on_targets_of_several_resolutions(
    tmp_path: Path, coarse: Path
) -> None:
    dood = Recognizer(*trained(tmp_path / "run", coarse).load())
    fine = prepare(tmp_path / "fine.npz", 20)
    paths = draw_reconstructions([dood], [str(coarse), str(fine)], tmp_path / "sheet.png", 2)
    assert all(path.stat().st_size > 1000 for path in paths)


def test_all_tasks_take_a_model_of_few_pixels(tmp_path: Path, coarse: Path) -> None:
    dood = Recognizer(*trained(tmp_path / "run", coarse).load())
    with torch.no_grad():
        dood.guide.on_head[-1].bias.fill_(5.0)  # type: ignore[union-attr, operator, index]
        dood.model.on_head[-1].bias.fill_(5.0)  # type: ignore[union-attr, operator, index]
    images = dood.load_images(str(coarse), 4)
    for name in ("smc", "refined", "per-image"):
        guide = make_search_guide(name, dood.model, dood.guide)
        if hasattr(guide, "steps"):
            guide.steps = 2  # type: ignore[assignment]
        assert torch.isfinite(bound_of(dood.model, guide, images, 5).log_p).all()
    # A picture that is to be gone on with is met on the canvas's own pixels, and so are trials.
    assert complete(dood, images, each=2).given.shape == (4, 16, 16)
    trials = Trials(images, images, torch.arange(4))
    assert classify(dood, trials, Settings(parses=1, steps=3)).shape == (4, 4)
    assert dood.model.ink_size == COARSE
    for drawn in (samples(dood.model, 3, 0), shuffled_strokes(dood.model, 3, 0)):
        assert drawn.shape == (3, 50, 50)
        assert torch.linalg.matrix_rank(drawn, atol=1e-3).max() <= COARSE


def test_what_a_program_met_last_does_not_change_a_parse(tmp_path: Path, coarse: Path) -> None:
    dood = Recognizer(*trained(tmp_path / "run", coarse).load())
    images = random_pictures(3, 16)
    before = [found.json() for found in dood.drawings(images)]
    dood.load_images(str(prepare(tmp_path / "fine.npz", 20)), 2)
    assert [found.json() for found in dood.drawings(images)] == before


def test_a_guide_is_checked_on_pictures_of_few_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inky.py").write_text(
        """
import torch
from dood_pyro.guides.amortised import AmortisedGuide

class Inky(AmortisedGuide):
    def step(self, t, state, image):
        image - torch.tanh(state.ink)
        return super().step(t, state, image)
"""
    )
    monkeypatch.chdir(tmp_path)
    model = DooD(TINY)
    guide = make_guide(TrainConfig("none", guide="inky:Inky"), model)
    with pytest.raises(UserError, match="fails on blank images"):
        check_guide(model, guide)
    assert model.ink_size == 16


@pytest.mark.parametrize(
    ("sides", "resolution"), [((28, 28), 28), ((28, 30), 105), ((300,) * 2, 105)]
)
def test_folders_keep_a_size_that_all_their_pictures_have(
    tmp_path: Path, sides: tuple[int, int], resolution: int
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    arrays = []
    for index, side in enumerate((*sides, *sides)):
        array = (random_pictures(1, side, seed=index)[0] * 255).byte().numpy()
        array[0, 0] = 255  # a border that is ink in part
        arrays.append(array)
        Image.fromarray(array).save(folder / f"{index}.png")
    drawings = data.load(str(folder), "train", 50)
    assert drawings.resolution == resolution
    if resolution == 28:
        own = data.load(str(folder), "train", 28).images.numpy()
        assert all(any(np.array_equal(found, array) for array in arrays) for found in own)


def test_runs_of_before_draw_as_they_did() -> None:
    values = ModelConfig().to_json()
    del values["native_resolution"]
    old = ModelConfig.from_json(values)
    assert not old.native_resolution
    model = DooD(old)
    model.expect(28)
    assert model.ink_size == 50
