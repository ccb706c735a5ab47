"""The refined guide: better bounds than where it starts, for any model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pyro.distributions import Normal
from torch import Tensor

from dood_pyro.guides import check_guide
from dood_pyro.guides.air import AIRGuide
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import in_double, parse
from dood_pyro.inference.importance import bound_of
from dood_pyro.inference.search.refined import RefinedGuide, _Climb
from dood_pyro.inference.stop_marginal import stop_marginal_terms
from dood_pyro.models.air import DifferenceAIR
from dood_pyro.models.dood import DooD
from tests.conftest import TINY


def test_refining_raises_the_bound_of_every_image(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    refined = RefinedGuide(model, guide)
    check_guide(model, refined)
    torch.manual_seed(0)
    before = bound_of(model, guide, images, particles=20)
    after = bound_of(model, refined, images, particles=20)
    assert (after.elbo > before.elbo + 10).all()
    # Two pictures are best left blank by this model: they gain nothing but noise.
    assert (after.log_p > before.log_p - 1).all()
    assert (after.log_p > before.log_p + 20).sum() >= len(images) - 2
    assert (after.log_p_summed > before.log_p_summed - 1).all()
    assert (after.log_p_summed > before.log_p_summed + 20).sum() >= len(images) - 2
    error = [
        (parse(model, each, images).canvas[-1] - images).abs().mean() for each in (guide, refined)
    ]
    assert error[1] < error[0]


def test_a_layout_that_the_guide_leaves_free_is_held(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strokes answer to it in the guide, and not in what is refined: free, it would ruin them."""
    model, guide = tiny
    q_layout = guide.q_layout

    def free(*arguments: Any) -> Any:
        narrow = q_layout(*arguments)
        return Normal(
            narrow.mean, narrow.stddev.clone().index_fill(-1, torch.tensor(3), 4.5)
        ).to_event(1)

    monkeypatch.setattr(guide, "q_layout", free)
    torch.manual_seed(0)
    started = RefinedGuide(model, guide, steps=0).start(ImageBatch(images))
    for name, factor in started.items():
        assert factor.log_std is None or bool((factor.log_std.exp() < 1.0).all()), name
    refined = bound_of(model, RefinedGuide(model, guide, steps=30), images, particles=20)
    assert (refined.log_p > bound_of(model, guide, images, particles=20).log_p - 1).all()


def test_without_a_step_it_is_the_guide_at_its_modes(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    parsed = [
        parse(model, each, images)
        for each in (guide, RefinedGuide(model, guide, steps=0, samples=0))
    ]
    torch.testing.assert_close(parsed[0].on_probability[0], parsed[1].on_probability[0])
    alive = parsed[0].alive > 0
    for name, values in parsed[0].values.items():
        torch.testing.assert_close(values[alive], parsed[1].values[name][alive])


def test_there_may_be_a_plate_around_it(tiny: tuple[DooD, AmortisedGuide], images: Tensor) -> None:
    model, guide = tiny
    terms = stop_marginal_terms(model, RefinedGuide(model, guide, steps=1), images, particles=3)
    assert terms.log_q.shape == (TINY.max_strokes + 1, 3, len(images))


def test_no_weights_learn_and_none_are_its_own(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor
) -> None:
    model, guide = tiny
    refined = RefinedGuide(model, guide, steps=2)
    refined.posterior(images)
    assert not list(refined.parameters())
    assert all(p.grad is None for module in tiny for p in module.parameters())


def test_it_refines_any_models_guide(images: Tensor) -> None:
    torch.manual_seed(0)
    model = DifferenceAIR(TINY)
    guide = AIRGuide(model)
    bounds = [
        bound_of(model, each, images, particles=10).elbo.mean()
        for each in (guide, RefinedGuide(model, guide, steps=30))
    ]
    assert bounds[1] > bounds[0]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_parts_of_the_gradient_add_up_to_the_whole(
    tiny: tuple[DooD, AmortisedGuide], images: Tensor, groups: int
) -> None:
    """Where standard deviations vanish, chance is left only in what the stop variable learns from."""
    model, guide = in_double(*tiny)
    batch = ImageBatch(images[:4]).to(torch.float64)
    start = RefinedGuide(model, guide, samples=0).start(batch)
    still = {
        name: factor
        if factor.log_std is None
        else factor._replace(log_std=torch.full_like(factor.log_std, -12.0))
        for name, factor in start.items()
    }
    climb = _Climb(model, batch, still, groups)
    whole = climb.whole(1)
    parts = climb.likelihood(climb.prior(2))
    for leaf, one, other in zip(climb.leaves, whole, parts, strict=True):
        if leaf is climb.stacks["on"].move:
            torch.testing.assert_close(other, one, rtol=0.1, atol=1.0)
            continue
        scale = float(one.abs().max())
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3 * scale)
