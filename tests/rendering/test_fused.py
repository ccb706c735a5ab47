"""The fused kernels: against the formula and the torch path, by Triton's interpreter where there is no
GPU; compiled for cards that are not here; and what is said where they cannot draw."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import triton
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.rendering import choice, ink_on_boxes, stroke_ink, use_renderer
from dood_pyro.rendering.reference import stroke_ink_per_pixel
from tests.conftest import FUSED_DEVICE

Drawn = tuple[Tensor, list[Tensor]]


def strokes(batch: tuple[int, ...], degree: int, tapers: bool) -> dict[str, Tensor]:
    torch.manual_seed(degree)
    found = {
        "control": 0.6 * torch.randn(*batch, degree + 1, 2),
        "sigma": 0.03 + 0.1 * torch.rand(batch),
        "darkness": 3 * torch.rand(batch),
    }
    if tapers:
        found["taper"] = torch.randn(*batch, 2)  # some pens run dry on the way
    return found


def drawn(render: Any, given: dict[str, Tensor], to: Any, **settings: Any) -> Drawn:
    """Ink, and the gradients of a weighed sum of it, in float64 on the CPU."""
    inputs = {name: each.to(to).requires_grad_() for name, each in given.items()}
    ink = render(**inputs, **settings)
    torch.manual_seed(1)
    weight = torch.randn(ink.shape, dtype=torch.float64).to(ink)
    gradients = torch.autograd.grad((weight * ink).sum(), list(inputs.values()))
    return ink.detach().cpu().double(), [each.cpu().double() for each in gradients]


def same(one: Drawn, other: Drawn) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(one[1], other[1], strict=True):
        scale = float(theirs.abs().sum()) / max(1, theirs.numel())
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize(
    ("batch", "degree", "size", "points", "tapers"),
    [
        ((3,), 4, 50, 128, True),
        ((2, 2), 3, 29, 40, True),
        ((2,), 1, 16, 1, False),
        ((1,), 0, 33, 33, True),
        ((2,), 6, 70, 37, False),
        ((), 2, 7, 64, True),
        ((0,), 3, 20, 32, True),
    ],
)
def test_ink_and_gradients_are_the_formulas(
    batch: tuple[int, ...], degree: int, size: int, points: int, tapers: bool
) -> None:
    given = strokes(batch, degree, tapers)
    with use_renderer("triton"):
        fused = drawn(stroke_ink, given, torch.device(FUSED_DEVICE), size=size, points=points)
    same(fused, drawn(stroke_ink_per_pixel, given, torch.float64, size=size, points=points))
    with use_renderer("torch"):
        same(fused, drawn(stroke_ink, given, torch.float64, size=size, points=points))


def test_boxes_are_drawn_by_it() -> None:
    given = strokes((3,), 3, True)
    given["control"] = 40 + 12 * given["control"]
    given["sigma"] = 20 * given["sigma"]
    frame = {"height": 60, "width": 90, "points": 48}
    with use_renderer("triton"):
        fused = drawn(ink_on_boxes, given, torch.device(FUSED_DEVICE), **frame)
    same(fused, drawn(ink_on_boxes, given, torch.float64, **frame))


def test_what_has_double_precision_is_drawn_by_torch() -> None:
    given = {name: each.double() for name, each in strokes((2,), 3, True).items()}
    with use_renderer("triton"):
        by_name = stroke_ink(**given, size=20)
    assert (by_name == stroke_ink(**given, size=20)).all()


def test_second_derivatives_are_refused() -> None:
    given = strokes((2,), 3, False)
    control = given["control"].to(FUSED_DEVICE).requires_grad_()
    with use_renderer("triton"):
        ink = stroke_ink(control, *(given[n].to(FUSED_DEVICE) for n in ("sigma", "darkness")), 20)
    (slope,) = torch.autograd.grad(ink.square().sum(), control, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


COMPILE = """
from triton.backends.compiler import GPUTarget
from dood_pyro.rendering.fused import TILES, compiled
for capability in (80, 90):
    for tile in TILES:
        for kernel in compiled(GPUTarget("cuda", capability, 32), tile, controls=5):
            assert kernel.asm["cubin"] and kernel.metadata.shared < 65536, kernel.metadata
print("compiled")
"""


@pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3),
    reason="this Triton compiles for a card that is there alone",
)
def test_the_kernels_compile_for_cards_that_are_not_here() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "compiled\n", done.stderr


def test_a_renderer_is_named() -> None:
    with pytest.raises(UserError, match="'opengl'"), use_renderer("opengl"):  # type: ignore[arg-type]
        pass
    with use_renderer("torch"):
        assert choice.chosen_renderer() == "torch"
        with use_renderer("triton"):
            assert choice.chosen_renderer() == "triton"
        assert choice.chosen_renderer() == "torch"


def test_the_environment_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "torch")
    assert choice.chosen_renderer() == "torch"
    monkeypatch.setenv(choice.VARIABLE, "cuda")
    with pytest.raises(UserError, match=r"DOOD_RENDERER.*'cuda'.*auto, torch, triton"):
        choice.chosen_renderer()


@pytest.fixture
def forgotten() -> Any:
    choice._why_not.cache_clear()
    yield
    choice._why_not.cache_clear()


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setitem(sys.modules, "dood_pyro.rendering.fused", None)
    given = strokes((2,), 3, False)
    with use_renderer("triton"), pytest.raises(UserError, match="Triton is missing"):
        stroke_ink(**given, size=20)
    with pytest.warns(UserWarning, match="Triton is missing.*drawn by torch"):
        assert choice._why_not("cuda:0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert choice._why_not("cuda:0")


def test_a_card_that_is_too_old(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setattr("dood_pyro.rendering.fused.INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    with pytest.warns(UserWarning, match="GTX 1080; strokes are drawn by torch"):
        assert choice._why_not("cuda:0")


def test_a_cpu_is_no_card(monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    monkeypatch.setattr("dood_pyro.rendering.fused.INTERPRETED", False)
    given = strokes((2,), 3, False)
    with use_renderer("triton"), pytest.raises(UserError, match="the tensors are on cpu"):
        stroke_ink(**given, size=20)
