"""Code of one's own that is not what it should be, or that tasks cannot use: a line that says so."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dood_pyro
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.registry import is_own_code
from dood_pyro.run_folders.run import Run
from tests.test_cli import TINY_OPTIONS, Out, call, refused

SMALL = {"model.canvas_size": 16, "model.max_strokes": 1, "train.batch_size": 4}
CODE = """
import dood_pyro


class NotAnEstimator:
    pass


def broken(folder, scratch):
    return 1 / 0


def not_arrays(folder, scratch):
    return {"train_images": None}


def nothing(folder, scratch):
    pass
"""
FAULTS = """
import pyro
import torch
from beside import MESSAGE
from torch import nn

import dood_pyro
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD


class GivesNothing(dood_pyro.Estimator):
    def loss(self, model, guide, images, step):
        return None


class GivesOnePerImage(StopMarginalELBO):
    def scheduled_loss(self, model, guide, images, *given):
        loss, terms = super().scheduled_loss(model, guide, images, *given)
        return loss.expand(len(images)), terms


class IsNotFinite(StopMarginalELBO):
    def scheduled_loss(self, *given):
        loss, terms = super().scheduled_loss(*given)
        return loss * float("nan"), terms


class WantsMore(dood_pyro.Estimator):
    def __init__(self, more):
        super().__init__()


class Raises(AmortisedGuide):
    def forward(self, images):
        raise ValueError(MESSAGE)


class ReturnsLess(AmortisedGuide):
    def forward(self, images):
        return dood_pyro.Trajectory(super().forward(images).states[:-1])


class KeepsTheModel(AmortisedGuide):
    def __init__(self, model, config):
        super().__init__(model, config)
        self.program = model


class OfUnknownSize(AmortisedGuide):
    def __init__(self, model, config):
        super().__init__(model, config)
        self.more = nn.LazyLinear(3)


class LooseParameter(AmortisedGuide):
    def forward(self, images):
        pyro.param("bias", torch.zeros(()))
        return super().forward(images)


class WithoutGuide(dood_pyro.DrawingModel):
    pass


class Other(DooD):
    pass


class Tied(AmortisedGuide):
    def __init__(self, model, config):
        super().__init__(model, config)
        self.alias = self.on_head


class CallsModule(AmortisedGuide):
    def forward(self, images):
        pyro.module("guide", self)
        return super().forward(images)


class Remembers(StopMarginalELBO):
    def __init__(self, *given):
        super().__init__(*given)
        self.baseline, self.calls = None, 0
        self.register_buffer("mean", None)

    def loss(self, model, guide, images, step):
        loss, terms = super().loss(model, guide, images, step)
        from later import ONE

        self.calls += ONE
        if self.mean is None:
            self.mean = self.baseline = torch.zeros(len(images))
        return [loss + (self.mean - self.baseline).sum(), terms]
"""
MODULES = ("own_parts", "dots", "faults", "beside", "later", "ends")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with modules of one's own: wrong ones, and the documentation's model of dots."""
    folder = tmp_path / "work"
    folder.mkdir()
    page = (Path(__file__).parent.parent / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"^```python\n(# dots\.py\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (folder / "dots.py").write_text(code)
    (folder / "own_parts.py").write_text(CODE)
    (folder / "faults.py").write_text(FAULTS)
    (folder / "beside.py").write_text('MESSAGE = "of\\nmine"')
    (folder / "ends.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(folder)
    yield folder
    for name in MODULES:
        sys.modules.pop(name, None)


def dots(source: Path, out: Path, capsys: Out) -> Path:
    """A run of one step with a model that draws neither curves nor parts."""
    words = ("--source", source, "--model", "dots:Dots", "--steps", 1, "--out", out)
    status, _, err = call(capsys, "train", *words, *TINY_OPTIONS)
    assert status == 0, err
    return out


@pytest.mark.parametrize("task", ["exemplars", "clusters", "one-shot"])
def test_tasks_that_need_strokes_say_so(
    task: str, source: Path, tmp_path: Path, capsys: Out
) -> None:
    run = dots(source, tmp_path / "run", capsys)
    words = {
        "exemplars": ("--target", source, "--out", "sheet.png"),
        "clusters": ("--target", source, "--limit", 3, "--out", "sheet.png"),
        "one-shot": (),
    }[task]
    said = refused(capsys, task, run, *words, "--trust", "dots:Dots")
    assert "neither curves" in said or "omniglot" in said, said


def test_guides_of_a_model_without_layouts_are_compared(
    source: Path, tmp_path: Path, capsys: Out
) -> None:
    run = dots(source, tmp_path / "run", capsys)
    words = ("--target", source, "--limit", 3, "--particles", 2, "--guides", "amortised")
    status, _, err = call(
        capsys, "compare-guides", run, *words, "--trust", "dots:Dots", "--out", "guides.png"
    )
    assert status == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--estimator", "own_parts:NotAnEstimator"), "must be a subclass of dood_pyro.Estimator"),
        (("--estimator", "elsewhere:Estimator"), "call from the folder that holds elsewhere.py"),
        (("--source", "own_parts:broken"), "cannot be prepared: ZeroDivisionError"),
        (("--source", "own_parts:not_arrays"), "own_parts:not_arrays"),
        (("--source", "own_parts:nothing"), "returns is a NoneType; it must be a dict of arrays"),
        (("--source", "elsewhere:prepare"), "or add that folder to PYTHONPATH"),
        (("--guide", "plain:Guide+smc"), "no guide 'plain:Guide+smc'"),
        (("--estimator", "faults:GivesNothing"), "and ElboTerms; not NoneType"),
        (
            ("--estimator", "faults:GivesOnePerImage"),
            "(a tensor of shape (4,) with a gradient, Elbo",
        ),
        (("--estimator", "faults:WantsMore"), "cannot make the estimator 'faults:WantsMore'"),
        (("--guide", "faults:Raises"), "on blank images: ValueError: of mine (faults.py, line "),
        (("--guide", "faults:ReturnsLess"), "Trajectory, which must have"),
        (("--guide", "faults:KeepsTheModel"), "has the model's weights among its own, as program."),
        (("--guide", "faults:OfUnknownSize"), "weight of unknown size, more.weight"),
        (("--guide", "faults:LooseParameter"), "has a pyro.param, bias, that is no weight"),
        (("--model", "faults:WithoutGuide"), "the model WithoutGuide has no guide of its own"),
        (
            ("--model", "ends:Model"),
            "model 'ends:Model': SystemExit: 3 (ends.py, line 1)",
        ),
    ],
)
def test_what_is_not_what_it_should_be(
    words: tuple[str, ...], said: str, source: Path, tmp_path: Path, capsys: Out
) -> None:
    given = ("--source", source) if "--source" not in words else ()
    out = tmp_path / "run"
    line = refused(capsys, "train", *given, *words, "--steps", 1, "--out", out, *TINY_OPTIONS)
    assert said in line and not out.exists()


def test_what_went_wrong_is_kept_for_python(source: Path) -> None:
    with pytest.raises(UserError, match="of mine") as raised:
        dood_pyro.train(str(source), guide="faults:Raises", steps=1, settings=SMALL, device="cpu")
    assert isinstance(raised.value.__cause__, ValueError)


def test_tied_weights_are_kept(source: Path, tmp_path: Path) -> None:
    """A run with them goes on; they are tied still, and have their averages."""
    given = {"guide": "faults:Tied", "device": "cpu", "out": tmp_path / "run"}
    run = dood_pyro.train(str(source), steps=2, settings=SMALL, **given)
    run = dood_pyro.resume(run, steps=4, device="cpu")
    guide: Any = dood_pyro.load(run, which="last").guide
    assert guide.alias[0].weight is guide.on_head[0].weight
    weights, state = (run.read_tensors(f"{each}.safetensors")[0] for each in ("last", "state"))
    name = "guide.on_head.0.weight"
    assert torch.equal(guide.on_head[0].weight, state[f"average.{name}"])
    assert torch.equal(weights[name], weights[name.replace("on_head", "alias")])
    assert not torch.equal(state[f"average.{name}"], state[f"weights.{name}"])


def test_trying_a_step_changes_nothing(source: Path, tmp_path: Path) -> None:
    """An estimator may remember what it likes, in buffers that are not there at first, too; it may give
    a list, and import late what lies beside it."""
    Path("later.py").write_text("ONE = 1")
    given = {"estimator": "faults:Remembers", "device": "cpu", "out": tmp_path / "run"}
    training = dood_pyro.begin_training(str(source), steps=2, settings=SMALL, **given)
    estimator: Any = training.trainer.estimator
    assert estimator.calls == 0 and estimator.mean is None
    images = ImageBatch(training.dataset.images[:3].float() / 255)
    training.trainer.train_step(images)
    assert estimator.calls >= 1


def test_parameters_of_a_module_in_pyros_store(source: Path, tmp_path: Path) -> None:
    """As Pyro's tutorials have it, in one training after another: each has its own."""
    for name in ("one", "two"):
        given = {"guide": "faults:CallsModule", "device": "cpu", "out": tmp_path / name}
        run = dood_pyro.train(str(source), steps=2, settings=SMALL, **given)
        weights, _ = run.read_tensors("last.safetensors")
        state, _ = run.read_tensors("state.safetensors")
        trained = state["weights.guide.on_head.0.weight"]
        assert not torch.equal(trained, weights["guide.on_head.0.weight"])


def test_a_short_training_that_learns_nothing_fails(source: Path, tmp_path: Path) -> None:
    given = {"estimator": "faults:IsNotFinite", "device": "cpu", "out": tmp_path / "run"}
    with pytest.raises(UserError, match="diverged: 3 steps in a row had a non-finite loss"):
        dood_pyro.train(str(source), steps=3, settings=SMALL, **given)


def test_a_run_made_here_is_trusted_as_a_start(source: Path, tmp_path: Path) -> None:
    own = {"out": tmp_path / "run", "settings": SMALL, "device": "cpu"}
    run = dood_pyro.train(str(source), "faults:Other", steps=1, **own)
    more = {"steps": 1, "init_from": run, "out": tmp_path / "on", "device": "cpu"}
    assert dood_pyro.train(str(source), **more).read_config()[0].model_name == "faults:Other"


def test_all_that_is_not_trusted_is_named_at_once(source: Path, tmp_path: Path) -> None:
    given = {"guide": "faults:Tied", "device": "cpu", "out": tmp_path / "run"}
    run = dood_pyro.train(str(source), "faults:Other", steps=1, settings=SMALL, **given)
    assert type(dood_pyro.load(run).model).__name__ == "Other"  # this process was given both
    options = "--guide faults:Tied --trust faults:Other, or in Python guide='faults:Tied', trusted="
    with pytest.raises(UserError, match=re.escape(options)):
        dood_pyro.load(run.path)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("module:Class", True),
        ("package.module:function", True),
        ("module:Class+smc", False),
        ("http://host/path", False),
        ("C:/pictures", False),
        ("s3:bucket/key", False),
        (":Class", False),
        ("module:", False),
    ],
)
def test_which_names_are_code(name: str, own: bool) -> None:
    assert is_own_code(name) is own


def test_a_model_of_the_guides_name_is_not_trusted_by_it(
    source: Path, tmp_path: Path, capsys: Out
) -> None:
    """Where only the model is needed, too."""
    run = dots(source, tmp_path / "run", capsys)
    config = run / "config.json"
    text = config.read_text()
    config.write_text(re.sub(r'"guide": "amortised"', '"guide": "dots:Dots"', text))
    sys.modules.pop("dots")
    with pytest.raises(UserError, match="code of its own, dots:Dots"):
        Run(run).load_model()
    assert "--trust dots:Dots" in refused(capsys, "sample", run, "--out", "sheet.png")
    assert "dots" not in sys.modules
    assert Run(run).load_model(trusted=["dots:Dots"]).title == "Dots"


def test_public_names_exist() -> None:
    for name in dood_pyro.__all__:
        assert getattr(dood_pyro, name) is not None
