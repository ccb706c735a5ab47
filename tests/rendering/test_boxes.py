"""Strokes on their own boxes: the canvas's picture and gradients, on canvases of any shape and size."""

from __future__ import annotations

import pytest
import torch

from dood_pyro.rendering import ink_on_boxes, stroke_ink
from dood_pyro.rendering.boxes import SIDES, UNIT, boxes


def strokes(count: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Strokes on 50×50 pixels, some of them leaving the canvas: control points, σ, darkness, taper."""
    generator = torch.Generator().manual_seed(0)
    start = 50 * torch.rand(count, 1, 2, generator=generator, dtype=dtype)
    control = start + 12 * torch.randn(count, 5, 2, generator=generator, dtype=dtype)
    sigma = 0.5 + torch.rand(count, generator=generator, dtype=dtype)
    darkness = 0.5 + torch.rand(count, generator=generator, dtype=dtype)
    taper = 0.3 * torch.randn(count, 2, generator=generator, dtype=dtype)
    return control, sigma, darkness, taper


@pytest.mark.parametrize("tapered", [False, True])
def test_boxes_add_up_to_the_canvas(tapered: bool) -> None:
    control, sigma, darkness, taper = strokes(12)
    chosen = taper if tapered else None
    found = ink_on_boxes(control, sigma, darkness, 50, 50, taper=chosen)
    units = (control / UNIT - 1, sigma / UNIT, darkness, 50)
    expected = stroke_ink(*units, taper=chosen).sum(0)
    assert found.shape == (50, 50)
    assert (found - expected).abs().max() < 12 * 1.5 * 3.4e-4  # e⁻⁸ of the darkest, each


def test_a_wide_canvas_is_a_part_of_a_larger_one() -> None:
    control, sigma, darkness, _ = strokes(12)
    whole = ink_on_boxes(control, sigma, darkness, 64, 80)
    part = ink_on_boxes(control, sigma, darkness, 33, 57)
    torch.testing.assert_close(part, whole[:33, :57])


@pytest.mark.parametrize("tapered", [False, True])
def test_gradients_are_those_of_finite_differences(tapered: bool) -> None:
    control, sigma, darkness, taper = (each.requires_grad_() for each in strokes(3))
    inputs = (control, sigma, darkness) + ((taper,) if tapered else ())

    def draw(*values: torch.Tensor) -> torch.Tensor:
        tapers = values[3] if tapered else None
        return torch.tanh(ink_on_boxes(*values[:3], 21, 27, points=24, taper=tapers))

    assert torch.autograd.gradcheck(draw, inputs, eps=1e-6, atol=1e-5)


def test_boxes_hold_their_strokes() -> None:
    control, sigma, _, _ = strokes(40)
    corners, sides = boxes(control, sigma)
    assert set(sides.tolist()) <= set(SIDES)
    t = torch.linspace(0, 1, 400, dtype=torch.float64)[:, None, None]
    from dood_pyro.rendering import bernstein

    curve = torch.einsum("pc,scd->psd", bernstein(4, t[:, 0, 0]), control)
    assert (curve - 3.9 * sigma[:, None] >= corners).all()
    assert (curve + 3.9 * sigma[:, None] <= corners + sides[:, None]).all()


def test_a_large_canvas_is_what_a_small_one_is_around_the_strokes() -> None:
    """On 4096×4096 pixels, where every stroke on every pixel would take 13 GB."""
    control, sigma, darkness, _ = strokes(200, torch.float32)
    ink = ink_on_boxes(control + 3000, sigma, darkness, 4096, 4096)
    near = ink_on_boxes(control + 100, sigma, darkness, 400, 400)
    torch.testing.assert_close(ink[2900:3200, 2900:3200], near[:300, :300], atol=2e-3, rtol=0)
    assert float(ink[:2800].abs().max()) == 0


def test_a_dot_is_as_dark_as_on_the_models_canvas() -> None:
    dot = torch.full((1, 5, 2), 1000.0)
    sigma, darkness = torch.tensor([1.5]), torch.tensor([2.0])
    large = ink_on_boxes(dot, sigma, darkness, 2000, 2000).max()
    small = stroke_ink(torch.zeros(1, 5, 2), sigma / UNIT, darkness, 50).max()
    assert float(large) == pytest.approx(float(small), rel=0.05)
