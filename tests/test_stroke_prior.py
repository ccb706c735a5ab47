"""The transformer prior: densities that are those of its samples, order, gradients, whole drawings."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine

from dood_pyro.models.sites import site_name
from dood_pyro.models.stroke_prior import Chain, ChainedNumbers, StrokeTransformer
from dood_pyro.models.transformer import ChainedPoints, DooDTransformer
from tests.conftest import TINY, nudge


def chain(count: int = 3, given: int = 4) -> Chain:
    torch.manual_seed(0)
    made = Chain([-1.0, 0.0, -2.0][:count], [1.0, 3.0, 0.0][:count], given).double()
    nudge(made)
    return made


def test_densities_integrate_to_one() -> None:
    made, given = chain(), torch.randn(4, dtype=torch.float64)
    grid = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    before = torch.tensor([0.3, 1.2, 0.0], dtype=torch.float64)
    for j in range(3):
        numbers = before.expand(len(grid), 3).clone()
        numbers[:, j] = grid
        log_p = made.log_prob(given.expand(len(grid), 4), numbers, slice(j, j + 1))
        assert torch.trapezoid(log_p.exp(), grid).item() == pytest.approx(1, abs=1e-3)


def test_samples_follow_the_density() -> None:
    made, given = chain(2), torch.randn(4, dtype=torch.float64)
    variable = ChainedNumbers(made, given.expand(40_000, 4), given.new_zeros(40_000, 0), (2,))
    drawn = variable.sample()
    # E of the density ratio of another distribution to this one is 1.
    other = torch.distributions.Normal(drawn.mean(0), 0.5 * drawn.std(0))
    ratio = (other.log_prob(drawn).sum(-1) - variable.log_prob(drawn)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=4 * ratio.std().item() / 200)


def test_gradients_of_samples_are_pathwise() -> None:
    made, given = chain(2), torch.randn(4, dtype=torch.float64)
    given = given.requires_grad_()

    def mean_of(at: torch.Tensor, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        n = 60_000
        return ChainedNumbers(made, at.expand(n, 4), at.new_zeros(n, 0), (2,)).rsample().mean(0)[1]

    (gradient,) = torch.autograd.grad(mean_of(given, 0), given)
    step = torch.zeros(4, dtype=torch.float64)
    step[1] = 0.2
    with torch.no_grad():
        ahead, behind = (mean_of(given + sign * step, 1) for sign in (1, -1))
    assert gradient[1].item() == pytest.approx(float(ahead - behind) / 0.4, abs=0.03)


def test_a_step_sees_the_strokes_before_it_alone() -> None:
    torch.manual_seed(0)
    net = StrokeTransformer([-1.0] * 5, [1.0] * 5, 4, 16).double()
    strokes = torch.randn(2, 3, 5, dtype=torch.float64)
    changed = strokes.clone()
    changed[:, 1] += 1
    one, other = net.memories(strokes), net.memories(changed)
    assert torch.allclose(one[:, :2], other[:, :2]) and not torch.allclose(one[:, 2:], other[:, 2:])
    assert torch.allclose(net.memories(strokes[:, :1]), one[:, :2])
    alive = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.float64)
    whole = torch.randn(2, 4, 5, dtype=torch.float64)
    unseen = whole.clone()
    unseen[0, 1:] = 9
    unseen[1, 2:] = 9
    assert torch.allclose(net.log_prob(whole, alive), net.log_prob(unseen, alive))


def test_points_have_the_density_of_their_places_on_the_canvas() -> None:
    torch.manual_seed(0)
    made = Chain([-1.0] * 6, [1.0] * 6, 4).double()
    frame = torch.tensor([[0.3, -0.4, 0.2], [0.4, 0.3, -0.1]], dtype=torch.float64)
    given = torch.randn(4, dtype=torch.float64)
    points = ChainedPoints(made, given, given[:0], (3, 2), frame)
    value = torch.randn(3, 2, dtype=torch.float64)
    assert torch.allclose(points.unflat(points.flat(value)), value)
    jacobian = torch.autograd.functional.jacobian(points.flat, value).reshape(6, 6)
    expected = made.log_prob(given, points.flat(value)) + torch.linalg.slogdet(jacobian)[1]
    assert points.log_prob(value).item() == pytest.approx(expected.item())
    assert points.sample().shape == (3, 2)
    assert points.support.event_dim == 2


def test_whole_drawings_have_the_density_of_the_programs_trace() -> None:
    torch.manual_seed(0)
    model = DooDTransformer(TINY).double()
    nudge(model)
    with torch.no_grad(), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(count=7)
        trace.compute_log_prob()
    steps = range(1, TINY.max_strokes + 1)

    def values(kind: str) -> torch.Tensor:
        return torch.stack([trace.nodes[site_name(kind, t)]["value"] for t in steps], dim=1)

    expected = sum(
        node["log_prob"]
        for name, node in trace.nodes.items()
        if name != "image" and "log_prob" in node
    )
    alive = values("on").cumprod(1)
    assert 0 < float(alive.mean()) < 1
    found = model.log_p_strokes(values("layout"), values("stroke"), values("pen"), alive)
    torch.testing.assert_close(found, expected)
