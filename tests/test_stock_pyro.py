"""Model and guide under Pyro's own inference: every objective trains; instances share nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    SVI,
    Importance,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from torch import Tensor, nn

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.guides.air import AIRGuide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.messengers import AllOnMessenger
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.models.air import AIR
from dood_pyro.models.dood import DooD
from dood_pyro.models.parameter_store import store_name
from dood_pyro.models.sites import is_on, on_site
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY

# Samples of scores, and of distributions that have no closed-form KL, are said to be noisy.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def empty_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def moved(programs: tuple[nn.Module, ...], step: Any) -> int:
    """How many parameters a training step moves."""
    parameters = [p for program in programs for p in program.parameters()]
    before = [p.detach().clone() for p in parameters]
    step()
    return sum(
        not torch.equal(old, new.detach()) for old, new in zip(before, parameters, strict=True)
    )


OBJECTIVES = {
    "Trace_ELBO": Trace_ELBO(),
    "Trace_ELBO, vectorised": Trace_ELBO(
        num_particles=3, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceGraph_ELBO": TraceGraph_ELBO(),
    "RenyiELBO": RenyiELBO(
        alpha=0.5, num_particles=2, vectorize_particles=True, max_plate_nesting=1
    ),
    "TraceEnum_ELBO": TraceEnum_ELBO(max_plate_nesting=1),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_svi_trains_model_and_guide(
    name: str, tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    """In one step nearly all weights move: all but baselines, and networks of strokes not drawn."""
    model, guide = tiny
    svi = SVI(model, guide, Adam({"lr": 1e-2}), OBJECTIVES[name])
    losses: list[float] = []
    for program in tiny:
        assert moved((program,), lambda: losses.append(svi.step(images))) > 20
    assert all(torch.isfinite(torch.tensor(losses)))


def test_svi_takes_images_of_a_native_size_and_other_models(images: Tensor) -> None:
    model = AIR(TINY)
    guide = AIRGuide(model)
    svi = SVI(model, guide, Adam({"lr": 1e-2}), TraceGraph_ELBO())
    assert moved((model, guide), lambda: svi.step(ImageBatch(images, 8))) > 20


def test_enumeration_and_the_marginal_bound_agree(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    """Both sum over on_1…on_K exactly; they differ in how strokes are sampled."""
    model, guide = tiny
    exact, repeats = TraceEnum_ELBO(max_plate_nesting=1), 60
    enumerating = config_enumerate(guide, "parallel")
    torch.manual_seed(0)
    with torch.no_grad(), pyro.validation_enabled(False):
        enumerated = torch.tensor([-exact.loss(model, enumerating, images) for _ in range(repeats)])
        summed = stop_marginal_terms(model, guide, images, repeats).elbo().sum(-1)
    error = (enumerated.var() / repeats + summed.var() / repeats).sqrt()
    assert abs(enumerated.mean() - summed.mean()) < 4 * error


def test_two_models_do_not_overwrite_each_other(images: Tensor) -> None:
    torch.manual_seed(0)
    first, second = DooD(TINY), DooD(TINY)
    assert store_name(first) != store_name(second)
    for model in (first, second):
        SVI(model, AmortisedGuide(model), Adam({"lr": 1e-2}), Trace_ELBO()).step(images)
    # What the first was trained to stays as it is while the second is trained.
    guide = AmortisedGuide(second)
    svi = SVI(second, guide, Adam({"lr": 1e-2}), Trace_ELBO())
    assert moved((first,), lambda: svi.step(images)) == 0


def test_nothing_but_svi_puts_parameters_into_the_store(images: Tensor) -> None:
    settings = TrainConfig("none", batch_size=4)
    trainer = Trainer.from_config(RunConfig("dood", TINY, settings), torch.device("cpu"))
    trainer.train_step(ImageBatch(images))
    Predictive(trainer.model, num_samples=2)(count=3)
    assert len(pyro.get_param_store()) == 0


def test_mean_field_without_the_discrete_variables(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    """`TraceMeanField_ELBO` refuses discrete variables, and says so; conditioned on them it works."""
    model, guide = tiny
    optimiser = Adam({"lr": 1e-2})
    with pytest.raises(NotImplementedError, match="reparameterized"):
        SVI(model, guide, optimiser, TraceMeanField_ELBO()).step(images)
    on = {on_site(t): torch.ones(len(images)) for t in range(1, TINY.max_strokes + 1)}
    conditioned = poutine.condition(model, data=on)
    hidden = poutine.block(AllOnMessenger()(guide), hide_fn=lambda site: is_on(site["name"]))
    svi = SVI(conditioned, hidden, optimiser, TraceMeanField_ELBO())
    assert moved((model, guide), lambda: svi.step(images)) > 50


def test_predictive_importance_condition_and_render(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    size = TINY.canvas_size
    for parallel in (False, True):
        prior = Predictive(model, num_samples=4, parallel=parallel)(count=3)
        assert prior["image"].shape == prior["canvas_3"].shape == (4, 3, size, size)
        posterior = Predictive(model, guide=guide, num_samples=4, parallel=parallel)(images)
        assert posterior["layout_2"].shape == (4, len(images), 4)
    log_p = Importance(model, guide, num_samples=5).run(images).get_log_normalizer()
    assert torch.isfinite(log_p)
    layout = torch.tensor([0.5, 0.1, -0.2, 0.3]).expand(3, 4)
    begun = poutine.condition(model, data={"layout_1": layout})
    trace: Any = poutine.trace(begun).get_trace(count=3)
    assert torch.equal(trace.nodes["layout_1"]["value"], layout)
    graph = pyro.render_model(model, model_args=(images,))
    assert all(name in graph.source for name in ("on_1", "stroke_3", "image"))


def test_an_automatic_guide_trains(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    model, _ = tiny
    on = {on_site(t): torch.ones(len(images)) for t in range(1, TINY.max_strokes + 1)}
    conditioned = poutine.condition(model, data=on)
    guide = AutoNormal(conditioned)
    svi = SVI(conditioned, guide, Adam({"lr": 3e-2}), TraceMeanField_ELBO())
    losses = [svi.step(images) for _ in range(60)]
    assert sum(losses[-10:]) < sum(losses[:10])
