"""The generative program and its guide: sites, shapes, masks, what follows a stop."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

from dood_pyro import geometry
from dood_pyro.errors import UserError
from dood_pyro.estimators.nvil import NVIL
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.inference.messengers import AllOnMessenger
from dood_pyro.inference.traces import model_and_guide_traces, stroke_traces
from dood_pyro.models.ablations import DooDNoGuidance
from dood_pyro.models.base import Trajectory
from dood_pyro.models.dood import DooD, State, StepValues
from dood_pyro.models.networks import glimpse
from dood_pyro.rendering import canvas_from_ink, stroke_ink
from tests.conftest import TINY, nudge


def traces(model: nn.Module, guide: nn.Module, images: Tensor) -> tuple[Any, Any]:
    """Of model and guide, the model computing its states itself."""
    q = poutine.trace(guide).get_trace(images)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(images)
    p.compute_log_prob()
    q.compute_log_prob()
    return p, q


def test_model_and_guide_share_sites_and_shapes(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    p, q = traces(*tiny, images)
    latent = {f"{name}_{t}" for name in ("on", "layout", "stroke", "pen") for t in (1, 2, 3)}
    assert set(q.stochastic_nodes) - {"images"} == latent
    assert set(p.stochastic_nodes) - {"images"} == latent
    assert set(p.observation_nodes) == {"image", "canvas_1", "canvas_2", "canvas_3"}
    events = {"on": (), "layout": (4,), "stroke": (3, 2), "pen": (4,)}
    for name in latent:
        for trace in (p, q):
            fn = trace.nodes[name]["fn"]
            assert tuple(fn.event_shape) == events[name.split("_")[0]]
            assert tuple(fn.batch_shape) == (5,)
    assert p.nodes["image"]["value"].shape == (5, 16, 16)


def test_shared_pen_is_a_function_of_the_stroke_rnn(images: Tensor) -> None:
    torch.manual_seed(0)
    model = DooD(dataclasses.replace(TINY, pen="shared"))
    p, q = traces(model, AmortisedGuide(model), images)
    assert "pen_1" not in q.nodes
    # The RNN has not seen the image before the first stroke: one pen for all.
    pens = p.nodes["pen_1"]["value"]
    torch.testing.assert_close(pens, pens[:1].expand_as(pens))


def test_a_stopped_drawing_costs_nothing_more_and_stays_as_it_is(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    class StopAfterOne(AllOnMessenger):
        def _pyro_sample(self, msg: Any) -> None:
            super()._pyro_sample(msg)
            if msg["name"] in ("on_2", "on_3"):
                msg["value"] = torch.zeros_like(msg["value"])

    with StopAfterOne():
        p, q = traces(*tiny, images)
    for trace in (p, q):
        assert (trace.nodes["on_2"]["log_prob"] != 0).all()  # the 0 that stops is counted
        for name in ("on_3", "layout_2", "stroke_2", "pen_2", "layout_3", "stroke_3", "pen_3"):
            assert (trace.nodes[name]["log_prob"] == 0).all(), name
    canvases = [p.nodes[f"canvas_{t}"]["value"] for t in (1, 2, 3)]
    assert torch.equal(canvases[0], canvases[1]) and torch.equal(canvases[1], canvases[2])
    assert (canvases[0] > 0).any()


def test_a_dead_drawing_does_not_come_back(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    torch.manual_seed(3)
    _, guide = tiny
    for _ in range(20):
        q = poutine.trace(guide).get_trace(images)
        on = torch.stack([q.nodes[f"on_{t}"]["value"] for t in (1, 2, 3)])
        assert (on.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("pen", ["latent", "shared"])
@pytest.mark.parametrize("model_class", [DooD, DooDNoGuidance])
def test_states_that_are_handed_over_change_nothing(
    model_class: type[DooD], pen: Any, images: Tensor
) -> None:
    torch.manual_seed(0)
    model = model_class(dataclasses.replace(TINY, pen=pen))
    guide = AmortisedGuide(model)
    nudge(model)
    nudge(guide)
    torch.manual_seed(1)
    own, _ = traces(model, guide, images)
    torch.manual_seed(1)
    taken_over, q = model_and_guide_traces(model, guide, images)
    taken_over.compute_log_prob()
    for name, site in own.nodes.items():
        if site["type"] == "sample":
            torch.testing.assert_close(taken_over.nodes[name]["value"], site["value"])
            torch.testing.assert_close(taken_over.nodes[name]["log_prob"], site["log_prob"])
    trajectory = q.nodes["_RETURN"]["value"]
    assert isinstance(trajectory, Trajectory) and len(trajectory.states) == TINY.max_strokes + 1
    for t, state in enumerate(trajectory.states[1:], start=1):
        assert taken_over.nodes[f"canvas_{t}"]["value"] is state.canvas


@pytest.mark.parametrize("pen", ["latent", "shared"])
def test_nothing_is_encoded_or_rendered_twice(
    pen: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = DooD(dataclasses.replace(TINY, pen=pen))
    guide = AmortisedGuide(model)
    calls: list[str] = []

    def counted(name: str) -> None:
        method = getattr(DooD, name)
        monkeypatch.setattr(DooD, name, lambda *given: (calls.append(name), method(*given))[1])

    counted("step_inputs")
    counted("draw")
    once = ["step_inputs", "draw"] * TINY.max_strokes
    model_and_guide_traces(model, guide, images)
    assert calls == once
    for particles in (1, 3):
        calls.clear()
        stroke_traces(model, guide, images, particles)
        assert calls == once
    calls.clear()
    NVIL().loss(model, guide, images, 0)
    assert calls == once


def test_a_baseline_gives_one_number_per_drawing(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    for some in (images, images[:1]):
        NVIL().loss(model, guide, some, 0)[0].backward()
    guide.baseline[-1] = nn.Linear(TINY.features, 2)  # (images, 2) would broadcast
    with pytest.raises(UserError, match=r"baseline of on_\d must give one number per drawing"):
        NVIL().loss(model, guide, images, 0)


def test_prior_samples_come_from_the_same_program(tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, _ = tiny
    torch.manual_seed(0)
    trace = poutine.trace(model).get_trace(count=7)
    assert trace.nodes["image"]["value"].shape == (7, 16, 16)
    assert not trace.nodes["image"]["is_observed"]
    assert trace.nodes["_RETURN"]["value"].min() >= 0
    trace.compute_log_prob()
    assert torch.isfinite(trace.log_prob_sum())


def test_particles_are_a_leading_dimension(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    with pyro.plate("particles", 4, dim=-2):
        p, q = traces(*tiny, images)
    assert p.nodes["image"]["log_prob"].shape == (4, 5)
    assert q.nodes["stroke_2"]["value"].shape == (4, 5, 3, 2)


def test_two_models_do_not_share_weights(images: Tensor) -> None:
    """Pyro's global store would have the second overwrite the first."""
    torch.manual_seed(0)
    first, second = DooD(TINY), DooD(TINY)
    before = first.raw_scale.item()
    with torch.no_grad():
        second.raw_scale.fill_(5.0)
    second(images)
    first(images)
    assert first.raw_scale.item() == before


def test_glimpse_and_stroke_cover_the_same_pixels() -> None:
    """A stroke drawn in the frame of a layout, seen through that layout, is where it was drawn."""
    layout = torch.tensor([0.5, 0.2, -0.3, 0.6])
    matrix = geometry.affine_matrix(layout)
    control = torch.tensor([[-0.8, -0.5], [0.0, 0.9], [0.7, -0.2]])
    sigma, darkness = torch.tensor(0.06), torch.tensor(2.0)
    canvas = canvas_from_ink(
        stroke_ink(geometry.apply_affine(control, matrix), sigma, darkness, 200)
    )
    seen = glimpse(canvas, matrix, 100)
    drawn = canvas_from_ink(stroke_ink(control, sigma / 0.5, darkness, 100))
    assert (seen - drawn).abs().max() < 0.03


def test_the_likelihood_scale_has_a_floor(tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, _ = tiny
    with torch.no_grad():
        model.raw_scale.fill_(-100.0)
    assert float(model.likelihood_scale().detach()) == pytest.approx(0.01)


def test_log_likelihood_is_the_likelihoods_density(tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, _ = tiny
    image, canvas = torch.rand(3, 20, 20), torch.rand(2, 3, 20, 20)
    scale = model.likelihood_scale()
    density = model.likelihood(canvas, scale).log_prob(image).sum((-1, -2))
    torch.testing.assert_close(model.log_likelihood(image, canvas, scale), density)


def test_no_gradient_through_the_canvas_where_it_conditions(
    tiny: tuple[DooD, AmortisedGuide],
) -> None:
    """Encoders, RNNs and on_t see a detached canvas; ``detach=False`` lets gradients pass."""
    for detach in (True, False):
        torch.manual_seed(0)
        model = DooD(TINY, detach=detach)
        nudge(model)
        state = model.initial_state(2)
        control = torch.zeros(2, 3, 2).uniform_(-0.5, 0.5).requires_grad_()
        layout = torch.tensor([0.8, 0.0, 0.0, 0.0]).expand(2, 4)
        pen = torch.tensor([-2.0, 2.0, 0.1, 0.2]).expand(2, 4)
        drawn = model.draw(
            state, model.step_inputs(state), StepValues(torch.ones(2), layout, control, pen)
        )
        blind = drawn._replace(previous=torch.zeros_like(drawn.previous))
        on = model.p_on(model.step_inputs(blind)).sum()
        (gradient,) = torch.autograd.grad(on, control, allow_unused=True)
        assert (gradient is None) if detach else (gradient is not None and gradient.abs().max() > 0)


def test_mixture_prior_equals_pyros_mixture(tiny: tuple[DooD, AmortisedGuide]) -> None:
    model, _ = tiny
    nudge(model)
    prior = model.p_layout(model.step_inputs(model.initial_state(2)))
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=prior.component_logits),
        dist.Normal(prior.locs, prior.coord_scale).to_event(1),
    )
    value = prior.sample()
    torch.testing.assert_close(prior.log_prob(value), mixture.log_prob(value))


def test_the_first_steps_inputs_are_the_same_computed_once_for_all(
    tiny: tuple[DooD, AmortisedGuide],
) -> None:
    model, _ = tiny
    nudge(model)
    state = model.initial_state(3)
    found = []
    for each in (state, State(*(field.contiguous() for field in state))):
        inputs = model.step_inputs(each)
        assert inputs.features.shape[0] == inputs.layout_rnn.shape[0] == 3
        model.zero_grad()
        (inputs.stroke_rnn * torch.arange(3.0)[:, None]).sum().backward()
        found.append(
            (*inputs, *(model.stroke_rnn.weight_ih.grad, model.canvas_encoder.project.bias.grad))
        )
    torch.testing.assert_close(found[0], found[1])
    assert not model.canvas_encoder.project.bias.grad.eq(0).all()
