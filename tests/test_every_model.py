"""Every model of the registry: its sites, bounds, gradients, and what ablations may not see."""

from __future__ import annotations

import dataclasses
import gc
from typing import Any

import click
import pyro
import pytest
import torch
from dood_pyro.cli.train import train
from pyro import poutine
from torch import Tensor

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.estimators.nvil import NVIL
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.guides import check_guide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import parse
from dood_pyro.inference.importance import importance_bound
from dood_pyro.inference.smc import smc
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.inference.traces import stroke_traces
from dood_pyro.models.distributions import AutoregressivePoints
from dood_pyro.models.sites import on_site
from dood_pyro.plots import preview
from dood_pyro.registry import MODELS
from dood_pyro.run_folders.build import build
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY


def made(model_name: str, **settings: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = dataclasses.replace(TINY, part_dims=7, **settings)
    pair = build(RunConfig(model_name, config, TrainConfig("none")))
    with torch.no_grad():
        for module in pair:
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return pair


every_model = pytest.mark.parametrize("model_name", MODELS)


@every_model
@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
def test_guide_fits_and_bounds_are_bounds(model_name: str, likelihood: str, images: Tensor) -> None:
    model, guide = made(model_name, likelihood=likelihood)
    check_guide(model, guide)
    bound = importance_bound(model, guide, images, particles=50)
    assert torch.isfinite(torch.stack(list(bound))).all()
    assert (bound.log_p_summed > bound.elbo).all() and (bound.log_p > bound.elbo - 20).all()
    single = stop_marginal_terms(model, guide, images).elbo()
    assert single.shape == (len(images),) and torch.isfinite(single).all()


@every_model
def test_the_priors_own_parameters_are_the_priors_alone(model_name: str, images: Tensor) -> None:
    """Moving them changes log p of the sites, and neither what a guide draws nor what that is worth;
    moving any other of the model's changes more than that."""
    model, guide = made(model_name)

    def traced() -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(1)
        q = poutine.trace(guide).get_trace(images)
        p = poutine.trace(poutine.replay(model, trace=q)).get_trace(images)
        q.compute_log_prob()
        p.compute_log_prob()
        latent = [p.nodes[name]["log_prob"] for name in q.stochastic_nodes if name in p.nodes]
        others = [site["value"] for site in p.nodes.values() if site.get("value") is not None]
        others += [q.nodes[name]["log_prob"] for name in q.stochastic_nodes]
        return latent, [*others, p.nodes["image"]["log_prob"]]

    own = {id(parameter) for parameter in model.prior_parameters()}
    named = dict(model.named_parameters())
    assert own <= {id(parameter) for parameter in named.values()}
    with torch.no_grad():
        before = traced()
        kept = {name: parameter.clone() for name, parameter in named.items()}
        for parameter in model.prior_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        after = traced()
        assert any((a != b).any() for a, b in zip(before[0], after[0], strict=True))
        for a, b in zip(before[1], after[1], strict=True):
            torch.testing.assert_close(a, b)
        for name, parameter in named.items():
            parameter.copy_(kept[name])
        rest = [p for p in named.values() if id(p) not in own and p.ndim != 0]
        for parameter in rest:
            parameter.add_(0.1 * torch.randn_like(parameter))
        moved = traced()
        assert any((a != b).any() for a, b in zip(before[1], moved[1], strict=True))


@every_model
@pytest.mark.parametrize("estimator", ["stop-marginal", "nvil"])
def test_every_weight_learns(model_name: str, estimator: str, images: Tensor) -> None:
    model, guide = made(model_name)
    with torch.no_grad():
        guide.on_head[-1].bias += 2  # with one stroke per drawing the RNNs' memory would go unused
    elbo = StopMarginalELBO(explore_always=0.2) if estimator == "stop-marginal" else NVIL()
    elbo.loss(model, guide, images, 0)[0].backward()
    named = {
        f"{kind}.{name}": p
        for kind, module in (("model", model), ("guide", guide))
        for name, p in module.named_parameters()
    }
    idle = {n for n, p in named.items() if p.grad is None or not p.grad.abs().max() > 0}
    idle = {name for name in idle if estimator == "nvil" or not name.startswith("guide.baseline")}
    # An independent prior is given nothing, so what its heads would be given goes unused, as do
    # encoders without guidance.
    unseen = {"dood-no-guidance", "dood-independent-prior"}
    if model_name in unseen:
        parts = (
            *("canvas_encoder", "glimpse_encoder", "_head.condition.weight"),
            *("_head.layers.0.weight", "_head.0.weight"),
        )
        idle = {
            name
            for name in idle
            if not (name.startswith("model.") and any(p in name for p in parts))
        }
    if model_name == "dood-no-guidance":  # the first input to its RNNs is zero
        assert not idle - {"model.layout_rnn.weight_ih", "model.stroke_rnn.weight_ih"}
    else:
        assert not idle


@every_model
def test_likelihood_agrees_with_its_density(model_name: str, images: Tensor) -> None:
    for likelihood in ("laplace", "gaussian"):
        model, _ = made(model_name, likelihood=likelihood)
        canvas, scale = torch.rand_like(images), model.likelihood_scale()
        density = model.likelihood(canvas, scale).log_prob(images).sum((-1, -2))
        torch.testing.assert_close(model.log_likelihood(images, canvas, scale), density)


def second_step(model_name: str, images: Tensor, change: bool) -> dict[str, Tensor]:
    """Parameters of the second step's conditionals, the first step's values being fixed; with
    ``change``, the canvas in between is another one."""
    model, guide = made(model_name)

    draw = model.draw

    def other(*args: Any) -> Any:
        state = draw(*args)
        if change:
            state = state._replace(canvas=state.canvas.flip(-1) * 0.5 + 0.3)
        return state

    model.draw = other
    torch.manual_seed(1)
    found = {}
    trace = poutine.trace(guide).get_trace(images)
    replayed = poutine.trace(poutine.replay(model, trace=trace)).get_trace(images)
    for kind, sites in (("q", trace), ("p", replayed)):
        for name, site in sites.nodes.items():
            if site["type"] == "sample" and name.endswith("_2"):
                fn = site["fn"]
                while hasattr(fn, "base_dist"):
                    fn = fn.base_dist
                if isinstance(fn, AutoregressivePoints):
                    fn = fn.conditionals(torch.zeros_like(site["value"]))
                for attribute in ("logits", "loc", "scale", "locs", "coord_scale"):
                    if isinstance(getattr(fn, attribute, None), Tensor):
                        found[f"{kind}.{name}.{attribute}"] = getattr(fn, attribute)
    return found


@every_model
def test_only_execution_guidance_sees_the_canvas(model_name: str, images: Tensor) -> None:
    before, after = (second_step(model_name, images, change) for change in (False, True))
    moved = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-6)}
    if model_name in ("dood-no-guidance", "air"):
        assert not moved
    else:
        assert {"q.on_2.logits", "q.layout_2.loc"} <= moved
        prior = {name for name in moved if name.startswith("p.")}
        assert bool(prior) == (model_name in ("dood", "dood-no-renderer"))


@every_model
def test_particles_have_the_programs_density(model_name: str, images: Tensor) -> None:
    """Also of a model that remembers its strokes: particles carry all of them along."""
    model, guide = (module.double() for module in made(model_name))
    images = images.double()
    found = smc(model, guide, images, particles=3)
    steps = range(1, TINY.max_strokes + 1)
    for particle in range(3):
        values = {on_site(t): torch.ones(len(images)).double() for t in steps}
        for drawn in found.strokes[-1]:
            values |= {name: proposed.value[particle] for name, proposed in drawn.items()}
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(images)
        trace.compute_log_prob()
        density = sum(trace.nodes[name]["log_prob"] for name in (*values, "image"))
        torch.testing.assert_close(found.log_joint[-1, particle], density)


@every_model
def test_prior_draws_and_parses_are_pictures(model_name: str, images: Tensor) -> None:
    model, guide = made(model_name)
    with torch.no_grad(), pyro.validation_enabled(True):
        drawn = model(count=3)
    assert drawn.shape == (3, TINY.canvas_size, TINY.canvas_size)
    assert drawn.min() >= 0 and drawn.max() <= 1
    parsed = parse(model, guide, images)
    assert parsed.canvas.shape == (TINY.max_strokes, *images.shape)
    assert {"layout"} < set(parsed.values)
    sheet = preview(model, guide, images)
    assert sheet.shape[0] == 3 and sheet.dtype == torch.uint8


def test_an_independent_prior_is_the_same_at_every_step(images: Tensor) -> None:
    model, _ = made("dood-independent-prior")
    with torch.no_grad():
        trace = poutine.trace(model).get_trace(images)
    for site in ("layout", "pen", "stroke"):
        first, last = (trace.nodes[f"{site}_{t}"]["fn"] for t in (1, 3))
        while hasattr(first, "base_dist"):
            first, last = first.base_dist, last.base_dist
        if isinstance(first, AutoregressivePoints):
            points = torch.zeros(first.event_shape)
            first, last = (fn.conditionals(points) for fn in (first, last))
        torch.testing.assert_close(*torch.broadcast_tensors(first.locs, last.locs))


@every_model
@pytest.mark.parametrize("estimator", ["stop-marginal", "nvil"])
def test_a_step_leaves_no_tensors_to_the_garbage_collector(
    model_name: str, estimator: Any, images: Tensor
) -> None:
    """A cycle through a hook would keep a whole graph of activations until Python collects."""
    settings = TrainConfig(
        "none", estimator=estimator, synthetic_ratio=0 if estimator == "nvil" else 1
    )
    config = RunConfig(model_name, TINY, settings)
    trainer = Trainer.from_config(config, torch.device("cpu"))
    batch = ImageBatch(images)
    trainer.step = 10_000  # every refiner's gate is open
    trainer.train_step(batch)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        trainer.train_step(batch)
        gc.collect()
        kept = [thing for thing in gc.garbage if isinstance(thing, Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept


def test_the_command_line_takes_every_model() -> None:
    """By the registry's names, which its help lists."""
    (option,) = (o for o in train.params if isinstance(o, click.Option) and o.name == "model__name")
    for name in MODELS:
        assert option.type.convert(name, option, None) == name
        assert name in (option.help or "")
    with pytest.raises(click.BadParameter, match="there is no model"):
        option.type.convert("no-such-model", option, None)


@every_model
@pytest.mark.parametrize("native_size", [0, 28])
def test_canvases_drawn_at_once_are_the_programs(
    model_name: str, native_size: int, images: Tensor
) -> None:
    model, guide = made(model_name)
    if not model.draws_at_once:
        with pytest.raises(NotImplementedError):
            model.canvases({})
        return
    batch = ImageBatch(images, native_size)
    p_trace, q_trace = stroke_traces(model, guide, batch)
    steps = range(1, TINY.max_strokes + 1)
    values = {
        kind: torch.stack([q_trace.nodes[f"{kind}_{t}"]["value"] for t in steps])
        for kind in ("layout", "stroke", "pen")
    }
    drawn = model.canvases(values, native_size)
    assert not drawn[0].any()
    for t in steps:
        torch.testing.assert_close(drawn[t], p_trace.nodes[f"canvas_{t}"]["value"])
