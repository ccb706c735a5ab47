"""Guides by name, anyone's own included, and what is said of one that does not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.devices import choose_device
from dood_pyro.errors import UserError
from dood_pyro.guides import Guide, check_guide, make_guide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.importance import importance_bound
from dood_pyro.models.dood import DooD
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from dood_pyro.training.loop import resume
from tests.conftest import TINY, random_pictures

OWN = """
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.guides.base import Guide


class Same(AmortisedGuide):
    pass


class Lacks(Guide):
    def __init__(self, model, config):
        super().__init__(model)

    def forward(self, images):
        count = len(images)
        with pyro.plate("images", count, dim=-1):
            pyro.sample("on_1", dist.Bernoulli(torch.full((count,), 0.5)))
            pyro.sample("stroke_1", dist.Normal(0.0, 1.0).expand([count, 4]).to_event(1))
            pyro.sample("extra", dist.Normal(torch.zeros(count), 1.0))


class Fails(Lacks):
    def forward(self, images):
        raise ValueError("what a pity")


class Needs(Guide):
    pass


class Module(nn.Module):
    def __init__(self, model, config):
        super().__init__()
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the working directory."""
    (tmp_path / "own_guides.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)


def test_built_in_guides_fit() -> None:
    model = DooD(TINY)
    guide = make_guide(TrainConfig("none"), model)
    assert isinstance(guide, AmortisedGuide)
    check_guide(model, guide)


@pytest.mark.parametrize(
    "name",
    ["none", "os:path", "os:getcwd", "json:JSONDecoder", "..:x", ":x", "x:", "torch.nn:Linear"],
)
def test_what_is_no_guide_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="guide"):
        make_guide(TrainConfig("none", guide=name), DooD(TINY))


@pytest.mark.usefixtures("own")
def test_faults_of_ones_own_guide_are_named() -> None:
    model = DooD(TINY)

    def guide(name: str) -> Guide:
        return make_guide(TrainConfig("none", guide=f"own_guides:{name}"), model)

    with pytest.raises(UserError) as error:
        check_guide(model, guide("Lacks"))
    for fault in ("lacks layout_1", "lacks on_3", "has extra, which", "has stroke_1 of shape"):
        assert fault in str(error.value)
    with pytest.raises(UserError, match="what a pity"):
        check_guide(model, guide("Fails"))
    with pytest.raises(UserError, match="cannot make the guide"):
        guide("Needs")
    with pytest.raises(UserError, match=r"must be a dood_pyro\.Guide"):
        guide("Module")


@pytest.mark.usefixtures("own")
def test_a_run_folder_runs_no_code_that_its_reader_did_not_name(
    tmp_path: Path, source: Path
) -> None:
    name = "own_guides:Same"
    config = RunConfig("dood", TINY, TrainConfig(str(source), batch_size=4, guide=name))
    run = Run.create(tmp_path / "run", config, TrainingBudget(steps=2), choose_device("cpu"))
    resume(run, choose_device("cpu"), tensorboard=False, trusted=[name])
    with pytest.raises(UserError, match=f"--guide {name}"):
        run.load()
    with pytest.raises(UserError, match="not 'amortised'"):
        run.load(guide="amortised")
    _, guide, _ = run.load(guide=name)
    assert type(guide).__name__ == "Same"


def test_the_documentations_guide_trains_and_is_short(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (text,) = (block for block in blocks if "class PlainGuide(" in block)
    body = text[text.index("class ") :].strip().splitlines()
    assert len(body) < 40
    (tmp_path / "plain.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    name = "plain:PlainGuide"
    for estimator in ("stop-marginal", "nvil"):
        settings = TrainConfig(str(source), batch_size=8, guide=name, estimator=estimator)
        config = RunConfig("dood", TINY, settings)
        check_guide(*build(config))
        run = Run.create(
            tmp_path / estimator, config, TrainingBudget(steps=30), choose_device("cpu")
        )
        resume(run, choose_device("cpu"), tensorboard=False, trusted=[name])
        model, guide, _ = run.load(guide=name)
        images = random_pictures(4, TINY.canvas_size)
        bound = importance_bound(model, guide, images, particles=5)
        assert torch.isfinite(bound.log_p).all()
