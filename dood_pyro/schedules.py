"""Numbers that change from training step to training step, as floats or on the device.
The trainer and the estimators compute their schedules by it.

A step that is captured as a CUDA graph reads its number, and all that follows from it, on the device;
other steps know it as an int.
"""

from __future__ import annotations

from torch import Tensor

Step = int | float | Tensor
"""A step's number, or what follows from it: a number, or a scalar tensor on the device."""


def at_most(value: Step, limit: float) -> Step:
    """The lesser of two numbers."""
    return value.clamp(max=limit) if isinstance(value, Tensor) else min(limit, value)


def at_least(value: Step, limit: float) -> Step:
    """The greater of two numbers."""
    return value.clamp(min=limit) if isinstance(value, Tensor) else max(limit, value)


def falling(step: Step, steps: int) -> Step:
    """1 − step / steps, and 0 from there on; 0 where there are no steps."""
    return at_least(1 - step / steps, 0.0) if steps else 0.0
