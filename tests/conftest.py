"""What many tests share: a tiny model and guide, a tiny source, and a cache folder of their own."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dood_pyro.config import ModelConfig
from dood_pyro.data import prepared
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.models.dood import DooD
from dood_pyro.rendering import canvas_from_ink, stroke_ink

FUSED_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Where the fused renderer is tested: without a GPU by Triton's interpreter, which must be asked for
before the kernels are imported."""
if FUSED_DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"

TINY = ModelConfig(
    canvas_size=16,
    max_strokes=3,
    degree=2,
    layout_components=3,
    stroke_components=2,
    glimpse_size=8,
    features=8,
    pointers=True,
    chain="deep",
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keeps what tests prepare away from the user's cache."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture
def tiny() -> tuple[DooD, AmortisedGuide]:
    """A small model and guide, the same in every test."""
    torch.manual_seed(0)
    model = DooD(TINY)
    return model, AmortisedGuide(model)


@pytest.fixture
def images() -> Tensor:
    """Five pictures of one or two strokes, for the tiny model's canvas."""
    return random_pictures(5, TINY.canvas_size)


def random_pictures(count: int, size: int, seed: int = 1, sigma: float = 0.12) -> Tensor:
    """Pictures of one or two random strokes each, of one pen: (count, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    control = torch.rand(count, 2, 3, 2, generator=generator) * 1.4 - 0.7
    darkness = torch.tensor([2.0, 1.5]).expand(count, 2) * torch.rand(
        count, 2, generator=generator
    ).round().clamp(min=torch.tensor([1.0, 0.0]))
    ink = stroke_ink(control, torch.full((count, 2), sigma), darkness, size)
    return canvas_from_ink(ink.sum(1))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A prepared source of 60 + 12 small pictures, as a path."""
    arrays = {}
    for part, count in (("train", 60), ("test", 12)):
        pictures = (random_pictures(count, 20, seed=count) * 255).byte().numpy()
        arrays[f"{part}_images"] = pictures
        arrays[f"{part}_labels"] = np.arange(count) % 3
    path = tmp_path / "strokes.npz"
    prepared.write(path, arrays)
    return path


def nudge(module: nn.Module, amount: float = 0.3, seed: int = 2) -> None:
    """Moves every weight at random, so that no test holds only where weights are small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(
                amount * noise / max(1, parameter.shape[-1] if parameter.ndim else 1) ** 0.5
            )
