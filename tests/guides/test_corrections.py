"""What a correction sees of a proposed stroke, and in which directions it moves it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dood_pyro import drawing
from dood_pyro.guides.corrections import ACROSS, ALONG, BEYOND, SPACING, Correction, Taming
from dood_pyro.rendering import canvas_from_ink, curve_points

SIZE = 50
PEN = torch.tensor([[-3.0, 2.0, 0.2, -0.3]])


def proposal() -> tuple[Tensor, Tensor]:
    """A stroke in its frame, and a turned, shrunken layout."""
    control = torch.tensor([[[-0.8, -0.3], [-0.4, 0.3], [0.0, 0.1], [0.4, -0.2], [0.8, 0.4]]])
    return control, torch.tensor([[0.6, 0.1, -0.2, 0.7]])


def drawn(control: Tensor, layout: Tensor) -> Tensor:
    on_canvas = drawing.place(control, drawing.affine_matrix(layout))
    return canvas_from_ink(drawing.draw_strokes(on_canvas, drawing.pen_profile(PEN), SIZE))


def on_blank(image: Tensor) -> tuple[Tensor, Tensor]:
    """What a correction is given of an image of which nothing is drawn yet: residual and canvas,
    and the ink."""
    blank = torch.zeros_like(image)
    return torch.stack([image, blank], dim=-3), blank


def sections(seen: Tensor) -> tuple[Tensor, Tensor]:
    """What the residual and the error after the proposal look like: (stations, across) each."""
    before, after = seen.reshape(2, ALONG + 2 * BEYOND, ACROSS)
    return before, after


def test_a_perfect_proposal_leaves_no_error() -> None:
    control, layout = proposal()
    correction = Correction(5, 4, 16)
    seen, _, _ = correction._look(control, PEN, layout, *on_blank(drawn(control, layout)))
    before, after = sections(seen)
    assert before[BEYOND:-BEYOND, ACROSS // 2].min() > 0.8, "ink under the stroke itself"
    assert before[0].max() < 0.3, "none well beyond its end"
    assert after.abs().max() < 0.05


def test_a_displaced_proposal_sees_its_error_on_the_right_side() -> None:
    """Moved along its own normal by two samples, it finds the ink two samples the other way."""
    control, layout = proposal()
    correction = Correction(5, 4, 16)
    image = drawn(control, layout)
    _, normal, _ = correction._look(control, PEN, layout, *on_blank(image))
    shift = 2 * SPACING / layout[0, 0] * normal.mean(1, keepdim=True)
    seen, _, _ = correction._look(control + shift, PEN, layout, *on_blank(image))
    before, after = sections(seen)
    middle = slice(BEYOND + 2, -BEYOND - 2)
    offsets = torch.arange(ACROSS).float() - ACROSS // 2
    weights = before[middle].clamp(min=0)
    centre = (weights * offsets).sum() / weights.sum()
    assert -2.6 < centre < -1.4
    assert after[middle, ACROSS // 2 - 2].mean() > 0.1 and after[middle, -2].mean() < 0


def test_directions_are_those_of_the_curve_in_its_frame() -> None:
    control, layout = proposal()
    _, normal, tangent = Correction(5, 4, 16)._look(
        control, PEN, layout, *on_blank(torch.zeros(1, SIZE, SIZE))
    )
    _, velocity = curve_points(control, ALONG)
    stations = torch.linspace(0, ALONG - 1, 5).round().long()
    torch.testing.assert_close(tangent, F.normalize(velocity[:, stations], dim=-1))
    assert (normal * tangent).sum(-1).abs().max() < 1e-6


def test_an_untrained_correction_changes_nothing() -> None:
    control, layout = proposal()
    image = torch.rand(1, SIZE, SIZE)
    for change in Correction(5, 4, 16)(control, PEN, layout, *on_blank(image)):
        assert change.abs().max() == 0


def test_gradients_pass_through_the_look() -> None:
    """Finite differences of what is seen, in the control points, the pen and the layout."""
    torch.manual_seed(0)
    correction = Correction(5, 4, 16).double()
    control, layout = (t.double() for t in proposal())
    image = drawn(*proposal()).double()
    inputs = [t.clone().requires_grad_() for t in (control, PEN.double(), layout)]
    weights = torch.randn(2 * (ALONG + 2 * BEYOND) * ACROSS, dtype=torch.float64)

    def look(control: Tensor, pen: Tensor, layout: Tensor) -> Tensor:
        return correction._look(control, pen, layout, *on_blank(image))[0] @ weights

    # Bilinear sampling has kinks at pixel borders: small steps, and a tolerance.
    assert torch.autograd.gradcheck(look, inputs, eps=1e-8, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("slope", [-0.5, 3.0])
def test_taming_lets_a_look_cancel_a_gradient_but_not_amplify_it(slope: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 5, 2, requires_grad=True)
    gradient = torch.randn(4, 5, 2)
    looking = Taming(2)
    y = looking.corrected(x + slope * looking.proposal(x))
    y.backward(gradient)
    expected = gradient * (1 + min(slope, 1.0))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected)
