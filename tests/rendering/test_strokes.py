"""The renderer against its formula, finite differences, and what ink should do."""

import math

import pytest
import torch

from dood_pyro.geometry import draw_strokes, pen_profile
from dood_pyro.rendering import (
    CURVE_POINTS,
    canvas_from_ink,
    ink_from_canvas,
    peak_ink,
    stroke_ink,
)
from dood_pyro.rendering.reference import stroke_ink_per_pixel


def random_strokes(
    *batch: int, dtype: torch.dtype = torch.float64, degree: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    control = torch.randn(*batch, degree + 1, 2, dtype=dtype) * 0.5
    sigma = 0.03 + 0.1 * torch.rand(batch, dtype=dtype)
    return control, sigma, 0.2 + 3 * torch.rand(batch, dtype=dtype)


@pytest.mark.parametrize("degree", [0, 1, 2, 4, 7])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_equals_the_formula(degree: int, batch: tuple[int, ...]) -> None:
    strokes = random_strokes(*batch, degree=degree)
    fast, plain = stroke_ink(*strokes, 23), stroke_ink_per_pixel(*strokes, 23)
    assert fast.shape == (*batch, 23, 23)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_tapering_pen_equals_the_formula(batch: tuple[int, ...]) -> None:
    strokes = random_strokes(*batch)
    taper = torch.randn(*batch, 2, dtype=torch.float64)
    fast = stroke_ink(*strokes, 23, taper=taper)
    plain = stroke_ink_per_pixel(*strokes, 23, taper=taper)
    assert fast.shape == (*batch, 23, 23)
    torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)
    none = stroke_ink(*strokes, 23, taper=torch.zeros_like(taper))
    torch.testing.assert_close(none, stroke_ink(*strokes, 23))


def test_a_tapering_pen_widens_and_darkens_towards_the_end() -> None:
    control = torch.tensor([[-0.8, 0.0], [0.8, 0.0]])
    taper = torch.tensor([math.log(2), 0.5])
    ink = stroke_ink(control, torch.tensor(0.04), torch.tensor(1.0), 401, taper=taper)
    for x, u in ((-0.4, -0.5), (0.0, 0.0), (0.4, 0.5)):
        column = ink[:, round((x + 1) * 200.5 - 0.5)]
        assert column.max() == pytest.approx(1 + 0.5 * u, abs=0.02)
        width = float((column > column.max() / 2).sum()) * 2 / 401
        assert width == pytest.approx(2.355 * 0.04 * 2**u, rel=0.06)


def test_single_precision_is_enough() -> None:
    strokes = random_strokes(16)
    singles = [tensor.float() for tensor in strokes]
    error = (stroke_ink(*singles, 50).double() - stroke_ink_per_pixel(*strokes, 50)).abs().max()
    assert error < 1e-4


def test_gradients() -> None:
    inputs = [tensor.requires_grad_() for tensor in random_strokes(2, 2)]
    assert torch.autograd.gradcheck(lambda *s: stroke_ink(*s, 7, points=9), inputs)
    taper = (0.3 * torch.randn(2, 2, 2, dtype=torch.float64)).requires_grad_()
    tapered = [*inputs, taper]
    assert torch.autograd.gradcheck(
        lambda c, s, d, t: stroke_ink(c, s, d, 7, points=9, taper=t), tapered
    )


def test_a_pen_without_ink_can_come_back() -> None:
    control, sigma, _ = random_strokes(3)
    for taper in (None, torch.zeros(3, 2, dtype=torch.float64)):
        darkness = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        stroke_ink(control, sigma, darkness, 8, taper=taper).sum().backward()
        assert darkness.grad is not None and (darkness.grad > 0).all()


def test_second_derivatives_are_refused() -> None:
    control, sigma, darkness = random_strokes(2)
    ink = stroke_ink(control.requires_grad_(), sigma, darkness, 8)
    (slope,) = torch.autograd.grad(canvas_from_ink(ink).sum(), control, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        slope.sum().backward()


def test_what_is_drawn_in_inference_mode_leaves_gradients_whole() -> None:
    """Tables that are kept for the next call are not inference tensors."""
    pen = torch.tensor([[-3.0, 2.0, 0.1, 0.1]], dtype=torch.float64)

    def draw() -> torch.Tensor:
        control = torch.rand(1, 4, 2, dtype=torch.float64)
        return draw_strokes(control, pen_profile(pen), 11, points=13)

    with torch.inference_mode():
        draw()
    pen.requires_grad_()
    draw().sum().backward()
    assert pen.grad is not None


def test_gradients_broadcast() -> None:
    control, _, _ = random_strokes(4)
    sigma = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    darkness = torch.ones(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, d: stroke_ink(control, s, d, 6, 8), (sigma, darkness))


@pytest.mark.parametrize("length", [0.4, 0.8, 1.6])
def test_ink_inside_a_straight_stroke_is_its_darkness(length: float) -> None:
    sigma = 0.05
    control = torch.tensor([[-length / 2, 0.0], [length / 2, 0.0]], dtype=torch.float64)
    ink = stroke_ink(control, torch.tensor(sigma).double(), torch.tensor(2.5).double(), 401)
    assert ink[200, 200] == pytest.approx(2.5, rel=1e-3)


def test_a_stroke_without_length_is_a_dot_with_a_finite_gradient() -> None:
    control = torch.full((5, 2), 0.1, requires_grad=True)
    ink = stroke_ink(control, torch.tensor(0.05), torch.tensor(3.0), 50)
    ink.sum().backward()
    assert ink.max() > 0.1
    assert control.grad is not None and torch.isfinite(control.grad).all()


@pytest.mark.parametrize(
    ("control", "thinnest"),
    [
        ([[-1.2, 0], [-0.6, 0], [0, 0], [0.6, 0], [1.2, 0]], 0.015),
        ([[-1.2, 1.2], [-1.2, -1.2], [0, -1.2], [1.2, -1.2], [1.2, 1.2]], 0.02),
        ([[-1.2, -1.2], [1.2, -1.2], [1.2, 1.2], [1.2, 1.2], [-1.2, 1.2]], 0.03),
    ],
    ids=["straight", "arch", "three sides of a square"],
)
def test_no_beads_along_the_longest_curves(control: list[list[float]], thinnest: float) -> None:
    """Strokes that fill the widest frame look as if their points were twenty times as many."""
    stroke = torch.tensor(control, dtype=torch.float64)
    pen = torch.tensor([thinnest, 1.0], dtype=torch.float64)
    ink = stroke_ink(stroke, *pen, 501)
    dense = stroke_ink(stroke, *pen, 501, points=20 * CURVE_POINTS)
    assert (ink - dense).abs().max() < 0.05


@pytest.mark.parametrize("length", [0.0, 0.05, 0.1, 0.4, 1.2])
@pytest.mark.parametrize("taper", [None, torch.tensor([0.4, 0.8], dtype=torch.float64)])
def test_peak_ink_is_what_the_picture_shows(length: float, taper: torch.Tensor | None) -> None:
    control = torch.tensor([[-length / 2, 0.0], [0.0, 0.0], [length / 2, 0.0]], dtype=torch.float64)
    pen = torch.tensor([0.05, 2.0], dtype=torch.float64)
    shown = stroke_ink(control, *pen, 401, taper=taper).max()
    peak = float(peak_ink(control, *pen, taper=taper))
    # At its ends a tapering pen is a little darker than at the points that are measured.
    tolerance = 2e-2 if taper is None else 5e-2
    assert peak == pytest.approx(float(shown), rel=tolerance, abs=2e-3)


def test_far_strokes_leave_nothing() -> None:
    control = torch.full((5, 2), 9.0)
    assert stroke_ink(control, torch.tensor(0.1), torch.tensor(3.0), 20).max() < 1e-12


def test_ink_and_canvas_are_inverse() -> None:
    canvas = torch.linspace(0, 0.999, 50).reshape(5, 10)
    torch.testing.assert_close(canvas_from_ink(ink_from_canvas(canvas)), canvas)
    assert torch.isfinite(ink_from_canvas(torch.ones(2, 2))).all()
