"""What a refiner sees of a proposed stroke, and in which directions it moves it."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dood_pyro import geometry
from dood_pyro.guides.refinement import (
    ACROSS,
    ALONG,
    BEYOND,
    OFFSETS,
    Frame,
    GradientNormCap,
    RefinerInputs,
    StrokeRefiner,
    blurred,
)
from dood_pyro.rendering import canvas_from_ink, curve_points

SIZE = 50
PEN = torch.tensor([[-3.0, 2.0, 0.2, -0.3]])


def proposal() -> tuple[Tensor, Tensor]:
    """A stroke in its frame, and a turned, shrunken layout."""
    control = torch.tensor([[[-0.8, -0.3], [-0.4, 0.3], [0.0, 0.1], [0.4, -0.2], [0.8, 0.4]]])
    return control, torch.tensor([[0.6, 0.1, -0.2, 0.7]])


def drawn(control: Tensor, layout: Tensor) -> Tensor:
    on_canvas = geometry.apply_affine(control, geometry.affine_matrix(layout))
    return canvas_from_ink(geometry.draw_strokes(on_canvas, geometry.pen_profile(PEN), SIZE))


def on_blank(image: Tensor) -> RefinerInputs:
    """What a refiner is given of an image of which nothing is drawn yet."""
    return RefinerInputs(image, image, torch.zeros_like(image))


def inspect(
    refiner: StrokeRefiner,
    control: Tensor,
    layout: Tensor,
    inputs: RefinerInputs,
    pen: Tensor = PEN,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is seen before and after, and normals and tangents."""
    profile = geometry.pen_profile(pen)
    width = blurred(profile.sigma)[..., None]
    return refiner._sections(control, profile, width, Frame.from_layout(layout), inputs)


def by_section(seen: Tensor) -> Tensor:
    """What is seen of one picture: (sections, across)."""
    return seen.reshape(ALONG + 2 * BEYOND, ACROSS)


def test_a_perfect_proposal_leaves_no_error() -> None:
    control, layout = proposal()
    refiner = StrokeRefiner(5, 4, 16, reach=4.0)
    seen = inspect(refiner, control, layout, on_blank(drawn(control, layout)))
    before, after = map(by_section, seen[:2])
    assert before[BEYOND:-BEYOND, ACROSS // 2].min() > 0.8, "ink under the stroke itself"
    assert before[0].max() < 0.3, "none well beyond its end"
    assert before[BEYOND:-BEYOND, 0].mean() < 0.1, "none well to its side"
    assert after.abs().max() < 0.05


def test_a_displaced_proposal_sees_its_error_on_the_right_side() -> None:
    """Moved along its own normal by a pen's width, it finds the ink a width the other way."""
    control, layout = proposal()
    refiner = StrokeRefiner(5, 4, 16, reach=4.0)
    image = drawn(control, layout)
    normal = inspect(refiner, control, layout, on_blank(image))[2]
    width = blurred(geometry.pen_profile(PEN).sigma)
    shift = width / layout[0, 0] * normal.mean(1, keepdim=True)
    seen = inspect(refiner, control + shift, layout, on_blank(image))
    before, after = map(by_section, seen[:2])
    middle = slice(BEYOND + 2, -BEYOND - 2)
    offsets = torch.tensor([*(-x for x in OFFSETS[:0:-1]), *OFFSETS])
    profile = before[middle].clamp(min=0).mean(0)
    # By the trapezium rule: the samples are not evenly spaced.
    centre = torch.trapezoid(profile * offsets, offsets) / torch.trapezoid(profile, offsets)
    assert -1.4 < centre < -0.6
    assert after[middle, ACROSS // 2 - 2].mean() > 0.1 and after[middle, -3].mean() < 0


def test_directions_are_those_of_the_curve_in_its_frame() -> None:
    control, layout = proposal()
    inputs = on_blank(torch.zeros(1, SIZE, SIZE))
    *_, normal, tangent = inspect(StrokeRefiner(5, 4, 16, reach=4.0), control, layout, inputs)
    _, velocity = curve_points(control, ALONG)
    stations = torch.linspace(0, ALONG - 1, 5).round().long()
    torch.testing.assert_close(tangent, F.normalize(velocity[:, stations], dim=-1))
    assert (normal * tangent).sum(-1).abs().max() < 1e-6


def test_an_untrained_refiner_changes_nothing() -> None:
    control, layout = proposal()
    image = torch.rand(1, SIZE, SIZE)
    for change in StrokeRefiner(5, 4, 16, reach=4.0)(
        control, PEN, Frame.from_layout(layout), on_blank(image)
    ):
        assert change.abs().max() == 0


def test_gradients_pass_through_what_a_refiner_sees() -> None:
    """Finite differences of what is seen, in the control points, the pen and the layout."""
    torch.manual_seed(0)
    refiner = StrokeRefiner(5, 4, 16, reach=4.0).double()
    control, layout = (t.double() for t in proposal())
    image = drawn(*proposal()).double()
    inputs = [t.clone().requires_grad_() for t in (control, PEN.double(), layout)]
    weights = torch.randn(2 * (ALONG + 2 * BEYOND) * ACROSS, dtype=torch.float64)

    def seen(control: Tensor, pen: Tensor, layout: Tensor) -> Tensor:
        before, after, *_ = inspect(refiner, control, layout, on_blank(image), pen=pen)
        return torch.cat([before, after], dim=-1) @ weights

    # Bilinear sampling has kinks at pixel borders: small steps, and a tolerance.
    assert torch.autograd.gradcheck(seen, inputs, eps=1e-8, atol=2e-3, rtol=2e-3)


def test_a_pen_twice_as_thick_looks_the_same_from_twice_as_far() -> None:
    """All lengths doubled, pixels too, a proposal beside its ink sees the same sections."""
    control, _ = proposal()
    shift = torch.tensor([0.0, 0.06])
    seen = []
    for zoom, size in ((1.0, 400), (2.0, 200)):
        layout = torch.tensor([[0.4 * zoom, 0.0, 0.0, 0.3]])
        pen = PEN + torch.tensor([math.log(zoom), 0.0, 0.0, 0.0])
        profile = geometry.pen_profile(pen)
        matrix = geometry.affine_matrix(layout)
        placed = geometry.apply_affine(control, matrix)
        image = canvas_from_ink(geometry.draw_strokes(placed, profile, size))
        width = profile.sigma[..., None]
        inputs = on_blank(image)
        refiner = StrokeRefiner(5, 4, 16, reach=4.0)
        found = refiner._sections(
            control + shift, profile, width, Frame.from_layout(layout), inputs
        )
        seen.append(torch.cat(found[:2], dim=-1))
    assert (seen[0] - seen[1]).abs().max() < 0.03
    assert seen[0].abs().max() > 0.5


@pytest.mark.parametrize("slope", [-0.5, 3.0])
def test_the_cap_lets_a_refiner_cancel_a_gradient_but_not_amplify_it(slope: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 2, requires_grad=True)
    gradient = torch.randn(4, 5, 2)
    cap = GradientNormCap(2)
    y = cap.after(x + slope * cap.before(x))
    y.backward(gradient)
    expected = gradient * (1 + min(slope, 1.0))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
