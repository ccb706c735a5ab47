"""Ends of strokes near what is drawn already: densities, samples, gradients, who sees which places."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.models.pointers import ALONG, PointerChain, PointerNet
from dood_pyro.models.stroke_prior import ChainedNumbers
from tests.conftest import nudge

DEGREE, MEMORY, K = 2, 3, 3
NUMBERS = 4 + 2 * (DEGREE + 1) + 1


def chain(*depth: Any) -> PointerChain:
    torch.manual_seed(0)
    low = [*geometry.LAYOUT_LOW, *[-1.0] * 2, *[-0.8] * 2 * DEGREE, 0.0]
    high = [*geometry.LAYOUT_HIGH, *[1.0] * 2, *[0.8] * 2 * DEGREE, 1.0]
    made = PointerChain(low, high, MEMORY, DEGREE, K, *depth).double()
    nudge(made)
    return made


def strokes(*batch: int) -> Tensor:
    """Some strokes' numbers, with layouts that frame something."""
    numbers = 0.3 * torch.randn(*batch, NUMBERS, dtype=torch.float64)
    numbers[..., 0] = 0.5
    return numbers


def conditions(made: PointerChain, earlier: Tensor) -> Tensor:
    memory = torch.randn(*earlier.shape[:-2], earlier.shape[-2] + 1, MEMORY, dtype=torch.float64)
    return made.conditions(memory, earlier)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("first", [4, 4 + 2 * DEGREE])
def test_a_points_density_integrates_to_one(first: int, temperature: float) -> None:
    made = chain()
    given = conditions(made, strokes(2))[-1]
    stroke = strokes()
    grid = torch.linspace(-6, 6, 401, dtype=torch.float64)
    numbers, which = stroke.expand(len(grid), NUMBERS).clone(), slice(first, first + 2)
    numbers[:, first + 1] = grid
    along_x = []
    with torch.no_grad():
        for x in grid:
            numbers[:, first] = x
            log_p = made.log_prob(given.expand(len(grid), -1), numbers, which, temperature)
            along_x.append(torch.trapezoid(log_p.exp(), grid))
    total = torch.trapezoid(torch.stack(along_x), grid)
    assert total.item() == pytest.approx(1, abs=5e-3)
    # One coordinate after the other, as they are sampled.
    scaled = made.scaled(stroke)
    log_p = made.log_prob(given, stroke, which, temperature)
    one, two = (made.mixture(given, scaled, first + axis, temperature) for axis in range(2))
    in_turn = one.log_prob(scaled[first]) + two.log_prob(scaled[first + 1])
    in_turn = in_turn - made.reach[first : first + 2].log().sum()
    assert in_turn.item() == pytest.approx(log_p.item(), rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_follow_the_density(temperature: float) -> None:
    made = chain()
    with torch.no_grad():  # most ends lie near places
        for net in (made.start_near, made.end_near):
            net.elsewhere.bias.fill_(2.0)
    given = conditions(made, strokes(2))[-1].expand(10_000, -1)
    before = strokes()[:4].expand(10_000, 4)
    variable = ChainedNumbers(made, given, before, (2 * (DEGREE + 1),)).at_temperature(temperature)
    drawn = variable.sample()
    # E of the density ratio of another distribution to this one is 1.
    other = torch.distributions.MultivariateNormal(drawn.mean(0), 0.3 * torch.cov(drawn.T))
    ratio = (other.log_prob(drawn) - variable.log_prob(drawn)).exp()
    assert ratio.mean().item() == pytest.approx(1, abs=4 * ratio.std().item() / 100)


def test_gradients_of_samples_are_pathwise() -> None:
    """Of the mean end, as strokes before move: against differences, both over the same seeds."""
    made = chain()
    earlier = strokes(2)
    before, direction = strokes()[:4], torch.randn(2, NUMBERS, dtype=torch.float64)
    memory = torch.randn(3, MEMORY, dtype=torch.float64)

    def mean_end(shift: Tensor, seed: int) -> Tensor:
        given = made.conditions(memory, earlier + shift * direction)[-1]
        torch.manual_seed(seed)
        n = 4_000
        variable = ChainedNumbers(made, given.expand(n, -1), before.expand(n, 4), (6,))
        return variable.rsample().mean(0)[4]

    gradients, differences = [], []
    for seed in range(8):
        at = torch.zeros((), dtype=torch.float64, requires_grad=True)
        gradients.append(torch.autograd.grad(mean_end(at, seed), at)[0])
        with torch.no_grad():
            ahead, behind = (mean_end(torch.full_like(at, shift), seed) for shift in (0.1, -0.1))
        differences.append((ahead - behind) / 0.2)
    one, other = torch.stack(gradients), torch.stack(differences)
    error = ((one.var() + other.var()) / len(one)).sqrt().item()
    assert abs(one.mean().item()) > 10 * one.std().item() / len(one) ** 0.5
    assert one.mean().item() == pytest.approx(other.mean().item(), abs=4 * error)


def test_places_lie_on_the_curves_of_strokes_before() -> None:
    made = chain()
    earlier = strokes(2)
    given = conditions(made, earlier)
    assert given.shape == (3, MEMORY + 2 * (2 * ALONG + 1))
    found = given[2, MEMORY : MEMORY + 4 * ALONG].reshape(2, ALONG, 2)
    control = earlier[:, 4:-1].unflatten(-1, (-1, 2)).cumsum(-2)
    assert torch.allclose(found[:, 0], control[:, 0])
    assert torch.allclose(found[:, -1], control[:, -1])
    middle = control[:, 0] / 4 + control[:, 1] / 2 + control[:, 2] / 4
    assert torch.allclose(found[:, ALONG // 2], middle)


def test_a_step_sees_places_of_strokes_before_it_alone() -> None:
    made, stroke = chain(), strokes()
    earlier = strokes(2)
    changed = earlier.clone()
    changed[1] += 1
    memory = torch.randn(3, MEMORY, dtype=torch.float64)
    one, other = (made.conditions(memory, each) for each in (earlier, changed))
    numbers = stroke.expand(3, NUMBERS)
    same = made.log_prob(one, numbers) == made.log_prob(other, numbers)
    assert same.tolist() == [True, True, False]
    # With strokes to come among the places, or without.
    alone = made.conditions(memory[:2], earlier[:1])
    assert torch.allclose(made.log_prob(alone, numbers[:2]), made.log_prob(one, numbers)[:2])
    first = made.conditions(memory[:1], earlier[:0])
    assert torch.allclose(made.log_prob(first, numbers[:1]), made.log_prob(one, numbers)[:1])


def certain(net: PointerNet) -> None:
    """Places alike, and nothing beside them."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.elsewhere.bias.fill_(-50.0)
        net.out.bias[1:] = -50.0


def test_a_place_that_is_certain_is_where_the_stroke_starts() -> None:
    made, stroke = chain(), strokes()
    certain(made.start_near)
    given = conditions(made, strokes(1))[-1].expand(900, -1)
    drawn = ChainedNumbers(made, given, stroke[:4].expand(900, 4), (6,)).sample()
    places = given[0, MEMORY : MEMORY + 2 * ALONG].reshape(ALONG, 2)
    distance = (drawn[:, None, :2] - places).norm(dim=-1)
    nearest = distance.min(-1)
    assert nearest.values.max() < 0.06
    counts = nearest.indices.bincount(minlength=ALONG)
    assert (counts - 100).abs().max() < 50
    log_p = made.log_prob(given[0], stroke.where(torch.arange(NUMBERS) != 4, 5.0), slice(4, 6))
    assert -math.inf < log_p.item() < -40


@pytest.mark.parametrize("before", [0, 1])
def test_a_place_that_is_certain_is_where_the_stroke_ends(before: int) -> None:
    """Along strokes before, or at a control point before the last."""
    made, stroke = chain(), strokes()
    certain(made.end_near)
    given = conditions(made, strokes(before))[-1].expand(600, -1)
    drawn = ChainedNumbers(made, given, stroke[:4].expand(600, 4), (6,)).sample()
    control = drawn.unflatten(-1, (-1, 2)).cumsum(-2)
    along = given[:, MEMORY : MEMORY + 2 * ALONG * before].unflatten(-1, (-1, 2))
    places = torch.cat([along, control[:, :-1]], dim=1)
    nearest = (control[:, -1:] - places).norm(dim=-1).min(-1)
    assert nearest.values.max() < 0.06
    counts = nearest.indices.bincount(minlength=places.shape[1])
    assert (counts > 300 / places.shape[1]).all()


@pytest.mark.parametrize("depth", [(), (2, True)])
def test_numbers_and_conditions_broadcast(depth: Any) -> None:
    made = chain(*depth)
    given, numbers = conditions(made, strokes(4, 2))[:, -1], strokes(5, 1)
    found = made.log_prob(given, numbers)
    assert found.shape == (5, 4)
    assert torch.allclose(found, made.log_prob(given.expand(5, 4, -1), numbers.expand(5, 4, -1)))
    variable = ChainedNumbers(made, given, strokes(4)[:, :4], (6,))
    assert variable.log_prob(variable.sample((5,))).shape == (5, 4)


@pytest.mark.parametrize("depth", [(), (2, True)])
def test_what_is_yet_to_be_drawn_may_be_anything(depth: Any) -> None:
    made, numbers = chain(*depth), strokes(3)
    earlier, memory = strokes(2), torch.randn(3, MEMORY, dtype=torch.float64)
    expected = made.log_prob(made.conditions(memory, earlier), numbers)[:2]
    earlier[1] = torch.nan
    found = made.log_prob(made.conditions(memory, earlier), numbers)
    assert torch.equal(found[:2], expected) and found[2].isnan()


def test_half_a_point_is_no_variable() -> None:
    made = chain()
    given, stroke = conditions(made, strokes(1))[-1], strokes()
    with pytest.raises(ValueError, match="numbers 4 to 4 have half of a point"):
        made.log_prob(given, stroke, slice(4, 5))


def test_a_drawing_goes_on_beyond_k_with_what_was_learned() -> None:
    made = chain()
    whole = conditions(made, strokes(K - 1))
    made.log_prob(whole, strokes(K)).sum().backward()
    beyond = conditions(made, strokes(2, K + 2))[:, -1]
    for net in (made.start_near, made.end_near):
        learned = net.of_stroke.grad
        assert learned is not None
        net.of_stroke.grad = None
        log_p = made.log_prob(beyond, strokes(2))
        assert torch.isfinite(log_p).all()
        log_p.sum().backward()
        used = net.of_stroke.grad.abs().sum((1, 2)) > 0
        assert used.any() and (learned.abs().sum((1, 2))[used] > 0).all()
