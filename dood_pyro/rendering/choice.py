"""Which renderer draws strokes: the fused kernels of `dood_pyro.rendering.fused`, or plain torch.
`dood_pyro.rendering.stroke_ink` asks it.

Fused kernels draw single-precision tensors on CUDA devices; torch draws everything else. One of them is
named by `use_renderer`, or by the environment variable DOOD_RENDERER.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from dood_pyro.errors import UserError

Renderer = Literal["auto", "torch", "triton"]
OLDEST_CARD = (7, 5)
"""Least compute capability that Triton compiles for."""
VARIABLE = "DOOD_RENDERER"

_chosen: list[Renderer] = []


def chosen_renderer() -> Renderer:
    """The renderer that was named last, by `use_renderer` or in the environment.

    Raises:
        UserError: the environment names none that there is.
    """
    if _chosen:
        return _chosen[-1]
    return _checked(os.environ.get(VARIABLE) or "auto", f"the environment variable {VARIABLE}")


@contextmanager
def use_renderer(renderer: Renderer) -> Iterator[None]:
    """Draw with one renderer: ``"triton"``, ``"torch"``, or ``"auto"`` for what suits the tensors.

    Raises:
        UserError: there is no such renderer.
    """
    _chosen.append(_checked(renderer, "use_renderer"))
    try:
        yield
    finally:
        _chosen.pop()


def _checked(name: str, where: str) -> Renderer:
    if name not in get_args(Renderer):
        raise UserError(
            f"{where} names the renderer {name!r}: it must be one of auto, torch, triton"
        )
    return name  # type: ignore[return-value]


def draws_fused(like: Tensor) -> bool:
    """Whether fused kernels draw strokes of this precision on this device.

    Raises:
        UserError: they were asked for by name and cannot.
    """
    renderer = chosen_renderer()
    if renderer == "torch" or like.dtype != torch.float32:
        return False
    if renderer == "auto" and not like.is_cuda:
        return False
    why_not = _why_not(str(like.device))
    if why_not and renderer == "triton":
        raise UserError(f"the renderer 'triton' cannot draw here: {why_not}")
    return not why_not


@lru_cache(maxsize=16)
def _why_not(device: str) -> str:
    """Why fused kernels cannot draw on a device; empty if they can. Said once where CUDA is used."""
    reason = ""
    try:
        from dood_pyro.rendering.fused import INTERPRETED
    except ImportError as error:
        reason = f"Triton is missing ({error}): pip install triton"
    else:
        is_cuda = torch.device(device).type == "cuda"
        if INTERPRETED:
            return ""
        if not is_cuda:
            reason = f"Triton compiles for CUDA devices, and the tensors are on {device}"
        elif torch.cuda.get_device_capability(device) < OLDEST_CARD:
            reason = f"Triton does not compile for {torch.cuda.get_device_name(device)}"
    if reason and torch.device(device).type == "cuda":
        warnings.warn(f"{reason}; strokes are drawn by torch, which is slower", stacklevel=2)
    return reason
