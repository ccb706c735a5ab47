"""The renderer as two fused Triton kernels, forward and backward.
`dood_pyro.rendering.strokes` uses it for single-precision tensors on CUDA devices.

Each program walks one stroke's points and keeps in registers what the torch path keeps in tables of
points × pixels: the points' positions, speeds and pens, from the control points; the two Gaussian
tables, a tile of pixels at a time; and their product. The backward pass computes all of it anew and
returns the gradients of each stroke's parameters, a few dozen numbers, from each block of points; the
blocks are added up after it, always in the same order.

Without a GPU the kernels run in Triton's interpreter, if TRITON_INTERPRET=1 was set before this module
was first imported.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.compiler import ASTSource

from dood_pyro.rendering.strokes import (
    LOG2_E,
    MIN_EXPONENT,
    MIN_SPEED,
    _along,
    _midpoint_tables,
    pixel_centres,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, on any device's tensors."""
POINT_BLOCK = 32
"""Points that a program walks at a time."""
TILES = (16, 32, 64)
"""Sides of a program's tile of pixels; the smallest that holds the picture, or the largest."""
WARPS = {16: 2, 32: 4, 64: 8}
"""Warps of a program, by the side of its tile."""


@triton.jit
def _walk(
    control, tables, along, sigma, darkness, taper, points, stroke, at, live,
    CONTROLS: tl.constexpr, TAPERS: tl.constexpr, MIN_SPEED: tl.constexpr,
):  # fmt: skip
    """Position, velocity, speed, sigma, darkness before it is clamped, and u of a block of points."""
    x = tl.zeros_like(live) * 0.0
    y, velocity_x, velocity_y = x, x, x
    inside = live > 0
    for k in tl.static_range(CONTROLS):
        value = tl.load(tables + at * CONTROLS + k, mask=inside, other=0.0)
        slope = tl.load(tables + (points + at) * CONTROLS + k, mask=inside, other=0.0)
        control_x = tl.load(control + (stroke * CONTROLS + k) * 2)
        control_y = tl.load(control + (stroke * CONTROLS + k) * 2 + 1)
        x += value * control_x
        y += value * control_y
        velocity_x += slope * control_x
        velocity_y += slope * control_y
    speed = tl.sqrt(velocity_x * velocity_x + velocity_y * velocity_y + MIN_SPEED * MIN_SPEED)
    own_sigma = tl.load(sigma + stroke) + 0.0 * x
    own_darkness = tl.load(darkness + stroke) + 0.0 * x
    u = tl.load(along + 2 * at + 1, mask=inside, other=0.0)
    if TAPERS:
        own_sigma = own_sigma * tl.exp(tl.load(taper + 2 * stroke) * u)
        own_darkness = own_darkness + tl.load(taper + 2 * stroke + 1) * u
    return x, y, velocity_x, velocity_y, speed, own_sigma, own_darkness, u


@triton.jit
def _table(position, sigma, pixels, RATE: tl.constexpr, LEAST: tl.constexpr):
    """Gaussian table (points × pixels), and how far pixels lie from points."""
    away = pixels[None, :] - position[:, None]
    exponent = away * (RATE / sigma)[:, None]
    return tl.exp2(tl.maximum(-exponent * exponent, LEAST)), away


@triton.jit
def _forward(
    control, tables, along, sigma, darkness, taper, axes, ink, axes_stride, size, points,
    CONTROLS: tl.constexpr, TAPERS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    MIN_SPEED: tl.constexpr, RATE: tl.constexpr, LEAST: tl.constexpr, ROOT: tl.constexpr,
):  # fmt: skip
    """Ink of one stroke on one tile."""
    stroke = tl.program_id(0)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    row = tl.program_id(2) * TILE + tl.arange(0, TILE)
    pixels_x = tl.load(axes + stroke * axes_stride + column, mask=column < size, other=0.0)
    pixels_y = tl.load(axes + stroke * axes_stride + size + row, mask=row < size, other=0.0)
    found = tl.zeros((TILE, TILE), dtype=tl.float32)
    for first in range(0, points, BLOCK):
        at = first + tl.arange(0, BLOCK)
        live = (at < points).to(tl.float32)
        x, y, _vx, _vy, speed, own_sigma, own_darkness, _u = _walk(
            control, tables, along, sigma, darkness, taper, points, stroke, at, live,
            CONTROLS, TAPERS, MIN_SPEED,
        )  # fmt: skip
        weight = live * tl.maximum(own_darkness, 0.0) * speed / (points * ROOT * own_sigma)
        table_x, _ = _table(x, own_sigma, pixels_x, RATE, LEAST)
        table_y, _ = _table(y, own_sigma, pixels_y, RATE, LEAST)
        weighted = tl.trans(table_y * weight[:, None])
        found += tl.dot(weighted, table_x, input_precision="ieee")
    place = stroke * size * size + row[:, None] * size + column[None, :]
    tl.store(ink + place, found, mask=(row < size)[:, None] & (column < size)[None, :])


@triton.jit
def _backward(
    control, tables, along, sigma, darkness, taper, axes, grad, out, axes_stride, size, points,
    blocks, CONTROLS: tl.constexpr, TAPERS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    MIN_SPEED: tl.constexpr, RATE: tl.constexpr, LEAST: tl.constexpr, ROOT: tl.constexpr,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """Gradients of one stroke's parameters from one block of its points: those of the control points,
    (controls, 2), then of sigma, darkness and the two tapers."""
    stroke, block = tl.program_id(0), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    live = (at < points).to(tl.float32)
    x, y, velocity_x, velocity_y, speed, own_sigma, raw_darkness, u = _walk(
        control, tables, along, sigma, darkness, taper, points, stroke, at, live,
        CONTROLS, TAPERS, MIN_SPEED,
    )  # fmt: skip
    mass, from_x, from_y, spread = live * 0.0, live * 0.0, live * 0.0, live * 0.0
    for top in range(0, size, TILE):
        row = top + tl.arange(0, TILE)
        pixels_y = tl.load(axes + stroke * axes_stride + size + row, mask=row < size, other=0.0)
        table_y, away_y = _table(y, own_sigma, pixels_y, RATE, LEAST)
        for left in range(0, size, TILE):
            column = left + tl.arange(0, TILE)
            pixels_x = tl.load(axes + stroke * axes_stride + column, mask=column < size, other=0.0)
            table_x, away_x = _table(x, own_sigma, pixels_x, RATE, LEAST)
            place = stroke * size * size + row[:, None] * size + column[None, :]
            inside = (row < size)[:, None] & (column < size)[None, :]
            given = tl.load(grad + place, mask=inside, other=0.0)
            along_x = tl.dot(table_y, given, input_precision="ieee") * table_x
            along_y = tl.dot(table_x, tl.trans(given), input_precision="ieee") * table_y
            mass += tl.sum(along_x, 1)
            from_x += tl.sum(along_x * away_x, 1)
            from_y += tl.sum(along_y * away_y, 1)
            spread += tl.sum(along_x * away_x * away_x, 1)
            spread += tl.sum(along_y * away_y * away_y, 1)
    normaliser = 1.0 / (points * ROOT * own_sigma)
    weight = live * tl.maximum(raw_darkness, 0.0) * speed * normaliser
    scaled = weight / (own_sigma * own_sigma)
    log_sigma = scaled * spread - weight * mass
    # Darkness is clamped at 0: no gradient where it would be below.
    of_darkness = tl.where(raw_darkness < 0.0, 0.0, live * mass * speed * normaliser)
    of_velocity = mass * weight / (speed * speed)
    target = out + (stroke * blocks + block) * WIDTH
    for k in tl.static_range(CONTROLS):
        value = tl.load(tables + at * CONTROLS + k, mask=live > 0, other=0.0)
        slope = tl.load(tables + (points + at) * CONTROLS + k, mask=live > 0, other=0.0)
        to_x = value * from_x * scaled + slope * velocity_x * of_velocity
        to_y = value * from_y * scaled + slope * velocity_y * of_velocity
        tl.store(target + 2 * k, tl.sum(to_x, 0))
        tl.store(target + 2 * k + 1, tl.sum(to_y, 0))
    tl.store(target + 2 * CONTROLS, tl.sum(log_sigma, 0) / tl.load(sigma + stroke))
    tl.store(target + 2 * CONTROLS + 1, tl.sum(of_darkness, 0))
    tl.store(target + 2 * CONTROLS + 2, tl.sum(log_sigma * u, 0))
    tl.store(target + 2 * CONTROLS + 3, tl.sum(of_darkness * u, 0))


def _constants(controls: int, tapers: bool, tile: int) -> dict[str, Any]:
    return {
        "CONTROLS": controls,
        "TAPERS": tapers,
        "TILE": tile,
        "BLOCK": POINT_BLOCK,
        "MIN_SPEED": MIN_SPEED,
        "RATE": math.sqrt(0.5 * LOG2_E),
        "LEAST": MIN_EXPONENT * LOG2_E,
        "ROOT": math.sqrt(2 * math.pi),
        "num_warps": WARPS[tile],
    }


def compiled(target: Any, tile: int, controls: int) -> list[Any]:
    """Both kernels, compiled for a card that need not be here: whether they fit it.

    Args:
        target: a ``triton.backends.compiler.GPUTarget``.
        controls: control points of a stroke.
    """
    constants = _constants(controls, True, tile)
    options = {"num_warps": constants.pop("num_warps")}
    found = []
    for kernel, more in ((_forward, {}), (_backward, {"WIDTH": 2 * controls + 4})):
        fixed = {**constants, **more}
        names: list[str] = kernel.arg_names
        numbers = ("axes_stride", "size", "points", "blocks")
        signature = {
            name: "constexpr" if name in fixed else "i32" if name in numbers else "*fp32"
            for name in names
        }
        places = {(names.index(name),): value for name, value in fixed.items()}
        source = ASTSource(fn=kernel, signature=signature, constexprs=places)
        found.append(triton.compile(source, target=target, options=options))
    return found


class _Launch(NamedTuple):
    """What both kernels are called with."""

    tensors: tuple[Tensor, ...]
    axes_stride: int
    tile: int
    constants: dict[str, Any]


def _launch(
    control: Tensor, sigma: Tensor, darkness: Tensor, taper: Tensor | None, size: int, points: int,
    axes: Tensor | None,
) -> _Launch:  # fmt: skip
    controls = control.shape[-2]
    pixels = pixel_centres(size, control.dtype, control.device)
    shared = torch.stack([pixels, pixels]) if axes is None else axes.contiguous()
    tensors = (
        control.contiguous(),
        _midpoint_tables(controls - 1, points, control.dtype, control.device),
        _along(points, control.dtype, control.device),
        sigma.contiguous(),
        darkness.contiguous(),
        sigma if taper is None else taper.contiguous(),  # not read where nothing tapers
        shared,
    )
    tile = next((tile for tile in TILES if tile >= size), TILES[-1])
    constants = _constants(controls, taper is not None, tile)
    return _Launch(tensors, 0 if axes is None else 2 * size, tile, constants)


class FusedStrokeInk(torch.autograd.Function):
    """`dood_pyro.rendering.stroke_ink` of strokes without batch dimensions but their own."""

    @staticmethod
    def forward(
        ctx: Any,
        control: Tensor,
        sigma: Tensor,
        darkness: Tensor,
        taper: Tensor | None,
        size: int,
        points: int,
        axes: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(control, sigma, darkness, taper, axes)
        ctx.size, ctx.points = size, points
        ink = control.new_empty(len(control), size, size)
        if len(control):
            tensors, stride, tile, constants = _launch(
                control, sigma, darkness, taper, size, points, axes
            )
            tiles = triton.cdiv(size, tile)
            _forward[len(control), tiles, tiles](*tensors, ink, stride, size, points, **constants)
        return ink

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        control, sigma, darkness, taper, axes = ctx.saved_tensors
        controls, strokes = control.shape[-2], len(control)
        width, blocks = 2 * controls + 4, triton.cdiv(ctx.points, POINT_BLOCK)
        parts = control.new_zeros(strokes, blocks, width)
        if strokes:
            tensors, stride, _, constants = _launch(
                control, sigma, darkness, taper, ctx.size, ctx.points, axes
            )
            _backward[strokes, blocks](
                *tensors, grads[0].contiguous(), parts, stride, ctx.size, ctx.points, blocks,
                WIDTH=width, **constants,
            )  # fmt: skip
        found = parts.sum(1)
        to_control = found[:, : 2 * controls].reshape(control.shape)
        to_taper = None if taper is None else found[:, -2:]
        return to_control, found[:, -4], found[:, -3], to_taper, None, None, None
