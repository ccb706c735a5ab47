"""Where to compute, and what that is called."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

import torch

from dood_pyro.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; ``"auto"`` is a GPU where there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"there is no device {name!r}; use auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"dood-pyro does not compute on {name}; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    return device


def hardware(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_jobs(name: str) -> tuple[int, tuple[str, ...]]:
    """How many processes a device of that name can take at once, and the GPUs for them to take turns
    with: one a GPU, or one for every two cores."""
    if choose_device(name).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        gpus = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
        return len(gpus), tuple(gpus)
    return max(1, cores() // 2), ()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, what is drawn at random follows from ``seed``; afterwards as if nothing had been."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def keep_freed_memory() -> None:
    """Has the C library keep what is freed for what is allocated next, instead of giving it back.

    A training step or a bound on a CPU allocates the same blocks again and again; given back each
    time, their pages are zeroed and mapped anew, a tenth of the time on two cores. For the whole
    process; where the library is not glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
    mallopt(M_TRIM_THRESHOLD, 1 << 30)
    mallopt(M_ARENA_MAX, 1)  # the backward pass has a thread of its own: it takes what is left here
