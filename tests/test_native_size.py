"""Images of fewer pixels than the canvas has are drawn on as few, wherever a model is given them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from PIL import Image

from dood_pyro import data, geometry
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.data import prepared
from dood_pyro.data.one_shot_runs import Trials
from dood_pyro.errors import UserError
from dood_pyro.guides import check_guide, make_guide
from dood_pyro.images import ImageBatch, as_batch
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.models.dood import DooD, StepValues
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer, load
from dood_pyro.registry import MODELS
from dood_pyro.rendering import canvas_from_ink
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.formats import RENAMED_IN_4, USUAL_IN_3, current_settings
from dood_pyro.run_folders.run import Run, make_search_guide
from dood_pyro.tasks import evaluate as evaluation
from dood_pyro.tasks.compare import draw_reconstructions
from dood_pyro.tasks.complete import complete
from dood_pyro.tasks.one_shot import Settings, classify
from dood_pyro.tasks.sample_quality import samples, shuffled_strokes
from dood_pyro.training import Trainer, resume
from tests.conftest import TINY, random_pictures

CPU = torch.device("cpu")
COARSE = 10
"""Pixels per side, of a canvas of 16."""


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
    ("native_size", "drawn"), [(28, 28), (25, 25), (24, 50), (50, 50), (105, 50), (0, 50)]
)
def test_the_size_that_images_are_drawn_at(native_size: int, drawn: int) -> None:
    model = DooD(ModelConfig())
    assert model.ink_size(native_size) == drawn
    assert model.initial_state(2, native_size).ink.shape == (2, drawn, drawn)
    assert model.initial_state(2).ink.shape == model.initial_state(2).canvas.shape == (2, 50, 50)
    own = DooD(ModelConfig(native_resolution=False))
    assert own.ink_size(native_size) == 50


def test_a_batch_keeps_its_native_size() -> None:
    images = ImageBatch(torch.rand(5, 16, 16), COARSE)
    parts = [*images.split(2), images[1:3], images[torch.tensor([0, 4])], images[torch.ones(5) > 0]]
    parts += [images.repeat(2), images.to(torch.float64), as_batch(images)]
    assert [len(part) for part in parts] == [2, 2, 1, 2, 2, 5, 10, 5, 5]
    assert {part.native_size for part in parts} == {COARSE}
    assert torch.equal(ImageBatch.concatenated(images.split(2)).pixels, images.pixels)
    assert torch.equal(images.repeat(2).pixels[5:], images.pixels)
    assert as_batch(images.pixels).native_size == 0
    with pytest.raises(ValueError):
        ImageBatch.concatenated([images, ImageBatch(images.pixels)])


@pytest.mark.parametrize("model_name", MODELS)
def test_every_model_draws_at_few_pixels(model_name: str) -> None:
    config = dataclasses.replace(TINY, part_dims=7)
    torch.manual_seed(0)
    model, guide = build(RunConfig(model_name, config, TrainConfig("none")))
    assert model.ink_size(COARSE) == COARSE
    images = ImageBatch(resize(random_pictures(4, COARSE), 16), COARSE)
    assert torch.isfinite(stop_marginal_terms(model, guide, images, 3).elbo()).all()
    with torch.no_grad(), pyro.poutine.trace() as tracer:
        canvas = model(count=3, native_size=COARSE)
    assert tracer.trace.nodes["canvas_3"]["value"].shape == canvas.shape == (3, 16, 16)
    # What is enlarged lies in the few dimensions of enlarged pictures.
    assert torch.linalg.matrix_rank(canvas).max() <= COARSE


def test_an_image_of_few_pixels_is_drawn_exactly() -> None:
    """With the very strokes that it was made of, at the size that it was made at."""
    torch.manual_seed(0)
    model = DooD(ModelConfig())
    layout = torch.tensor([[0.5, 0.1, -0.2, 0.3]])
    stroke, pen = torch.rand(1, 5, 2) - 0.5, torch.tensor([[-3.0, 2.0, 0.1, 0.2]])
    placed = geometry.apply_affine(stroke, geometry.affine_matrix(layout))
    small = canvas_from_ink(geometry.draw_strokes(placed, geometry.pen_profile(pen), 28))
    image = resize(small, 50)
    errors = []
    for native_size in (28, 50):
        state = model.initial_state(1, native_size)
        values = StepValues(torch.ones(1), layout, stroke, pen)
        drawn = model.draw(state, model.step_inputs(state), values)
        errors.append(float((drawn.canvas - image).abs().sum()))
    assert errors[0] < 1e-3 < 1 < errors[1]


def trained(path: Path, source: Path, steps: int = 3, **settings: Any) -> Run:
    model = dataclasses.replace(TINY, **settings)
    config = RunConfig("dood", model, TrainConfig(str(source), batch_size=8, synthetic_ratio=1.0))
    run = Run.create(path, config, TrainingBudget(steps=steps), CPU)
    resume(run, CPU, tensorboard=False)
    return run


def test_a_run_knows_its_sources_native_size(tmp_path: Path, coarse: Path) -> None:
    fine = prepare(tmp_path / "fine.npz", 20)
    runs = [trained(tmp_path / name, source) for name, source in (("a", coarse), ("b", fine))]
    recognizers = [load(run.path) for run in runs]
    assert [run.read_facts().native_size for run in runs] == [COARSE, 20]
    assert [dood.native_size for dood in recognizers] == [COARSE, 20]
    assert [dood.model.ink_size(dood.native_size) for dood in recognizers] == [COARSE, 16]
    # A fact about the data, not a setting: such runs compare.
    assert runs[0].settings_sha256() == runs[1].settings_sha256()
    plain = trained(tmp_path / "c", coarse, native_resolution=False)
    assert plain.load()[0].ink_size(COARSE) == 16
    assert plain.settings_sha256() != runs[0].settings_sha256()


def test_random_strokes_come_at_the_canvas_too(coarse: Path) -> None:
    config = RunConfig("dood", TINY, TrainConfig(str(coarse), synthetic_ratio=1.0))
    trainer = Trainer.from_config(config, CPU, native_size=COARSE)
    seen = []
    loss = trainer.estimator.loss

    def watched(model: Any, guide: Any, images: ImageBatch, step: int) -> Any:
        seen.append(model.ink_size(images.native_size))
        return loss(model, guide, images, step)

    trainer.estimator.loss = watched  # type: ignore[method-assign, assignment]
    for _ in range(2):
        trainer.train_step(ImageBatch(resize(random_pictures(4, COARSE), 16), COARSE))
    # The random strokes of a step come before its images.
    assert seen == [COARSE, COARSE, 16, COARSE]


def test_targets_are_measured_at_their_own_size(
    tmp_path: Path, coarse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = trained(tmp_path / "run", prepare(tmp_path / "fine.npz", 20))
    row = evaluation.evaluate(fine, str(coarse), particles=10)
    model, guide, _ = fine.load()
    images = Recognizer(*fine.load()).load_images(str(coarse), None)
    assert images.native_size == COARSE
    torch.manual_seed(0)
    same = evaluation._shard((model, guide), 0, images, 10)
    assert row["log_p"] == pytest.approx(float(same.bound.log_p.mean()), rel=1e-5)
    other = evaluation._shard((model, guide), 0, ImageBatch(images.pixels), 10)
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
    together = dood.parse(pictures, method="guide")
    for picture, found in zip(pictures, together, strict=True):
        alone = dood.parse(picture, method="guide")
        assert np.abs(found.render() - alone.render()).max() < 1e-4
    prepared_pictures, frames = dood.prepare(pictures)
    assert frames == [(side, side) for side in (40, COARSE, 12, COARSE, 40)]
    own = dood.drawings(ImageBatch(prepared_pictures[1:2], COARSE))[0].in_pixels(COARSE, COARSE)
    assert np.abs(own.render() - together[1].render()).max() < 1e-4
    plain = dood.drawings(prepared_pictures[1:2])[0].in_pixels(COARSE, COARSE)
    assert np.abs(plain.render() - together[1].render()).max() > 1e-4


def test_models_are_compared_on_targets_of_several_sizes(tmp_path: Path, coarse: Path) -> None:
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
    # A picture that is to be gone on with is drawn on the canvas's own pixels, and so are trials.
    assert complete(dood, images, each=2).given.shape == (4, 16, 16)
    trials = Trials(images.pixels, images.pixels, torch.arange(4))
    assert classify(dood, trials, Settings(parses=1, steps=3)).shape == (4, 4)
    for make in (samples, shuffled_strokes):
        drawn = make(dood.model, 3, 0, COARSE)
        assert drawn.shape == (3, 50, 50)
        assert torch.linalg.matrix_rank(drawn, atol=1e-3).max() <= COARSE


def test_what_was_parsed_last_does_not_change_a_parse(tmp_path: Path, coarse: Path) -> None:
    dood = Recognizer(*trained(tmp_path / "run", coarse).load())
    images = random_pictures(3, 16)
    before = [found.json() for found in dood.drawings(images)]
    dood.drawings(dood.load_images(str(coarse), 2))
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


@pytest.mark.parametrize(
    ("sides", "native_size"), [((28, 28), 28), ((28, 30), 105), ((300,) * 2, 105)]
)
def test_folders_keep_a_size_that_all_their_pictures_have(
    tmp_path: Path, sides: tuple[int, int], native_size: int
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    arrays = []
    for index, side in enumerate((*sides, *sides)):
        array = (random_pictures(1, side, seed=index)[0] * 255).byte().numpy()
        array[0, 0] = 255  # a border that is ink in part
        arrays.append(array)
        Image.fromarray(array).save(folder / f"{index}.png")
    dataset = data.load(str(folder), "train", 50)
    assert dataset.native_size == dataset.batch().native_size == native_size
    if native_size == 28:
        own = data.load(str(folder), "train", 28).images.numpy()
        assert all(any(np.array_equal(found, array) for array in arrays) for found in own)


def test_runs_of_before_draw_as_they_did() -> None:
    model, train = ModelConfig().to_json(), TrainConfig("none").to_json()
    del model["native_resolution"], train["init_from"]
    former = {now: before for before, now in RENAMED_IN_4.items()}
    values = {
        "format": 3,
        "program": "dood",
        "model": {**model, **USUAL_IN_3},
        "train": {former.get(name, name): value for name, value in train.items()},
        "until": {"steps": 1, "seconds": None},
    }
    values["train"]["data_sha256"] = ""
    old = RunConfig.from_json(current_settings(values, "the run"))
    assert not old.model.native_resolution
    assert DooD(old.model).ink_size(28) == 50
