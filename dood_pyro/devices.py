"""Devices: choice, names, parallel jobs, seeds and memory.
Used by commands, training, tasks and searches.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import threading
from collections.abc import Iterator

import pyro
import torch
from torch import Tensor

from dood_pyro.errors import UserError

ONE_THREAD, ONE_TRAINING = threading.RLock(), threading.RLock()
"""Held by the thread whose programs run, and by the one that trains."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Parameters of ``mallopt``, from glibc's malloc.h."""


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """Return the device called ``name``; ``"auto"`` is a GPU where there is one.

    Raises:
        UserError: this machine has no such device.
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
        raise UserError("torch finds no CUDA GPU here; use the device cpu")
    return device


def hardware(device: torch.device) -> str:
    """Description of a device: the GPU's name, or the number of CPU threads and the architecture."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} CPU threads, {platform.machine()}"


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parallel_jobs(name: str) -> tuple[int, tuple[str, ...]]:
    """Number of processes to run at once on a device, and the GPUs to assign to them in turn.

    One process per GPU, or one for every two CPU cores.
    """
    if choose_device(name).type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = torch.cuda.device_count()
        gpus = visible.split(",")[:count] if visible else [str(i) for i in range(count)]
        return len(gpus), tuple(gpus)
    return max(1, cores() // 2), ()


def _renew_locks() -> None:
    """Locks of a forked process, in which no other thread goes on to release them."""
    global ONE_THREAD, ONE_TRAINING
    ONE_THREAD, ONE_TRAINING = threading.RLock(), threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


@contextlib.contextmanager
def one_training() -> Iterator[None]:
    """Let no other thread train: between the steps of a training others run programs, but torch's
    random numbers are one training's."""
    with ONE_TRAINING:
        yield


@contextlib.contextmanager
def running_programs(learn: bool = False) -> Iterator[None]:
    """Surroundings in which programs compute what they should, whatever the caller's are: one thread at
    a time, for Pyro's handlers and torch's random numbers are those of all; with a parameter store of
    their own; without autocast and inference mode.

    Args:
        learn: whether gradients are wanted even where the caller wants none.
    """
    gradients = learn or torch.is_grad_enabled()
    with (
        ONE_THREAD,
        pyro.get_param_store().scope(),
        torch.inference_mode(False),  # which enables gradients
        torch.set_grad_enabled(gradients),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


def refuse_other_numbers() -> None:
    """Raise where a caller has made new tensors other than float32, which weights on disk are.

    Raises:
        UserError: so it is.
    """
    if torch.get_default_dtype() != torch.float32:
        raise UserError(
            f"torch's default is {torch.get_default_dtype()}, and models compute in float32; first "
            "torch.set_default_dtype(torch.float32)"
        )


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's random numbers inside the block; restore the generators' states afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """States of torch's generators that computations on a device draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Set torch's generators to what `random_state` gave; one without a state stays as it is."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for later allocations.

    A training step or a bound on a CPU allocates the same blocks again and again. Returned to the
    system each time, their pages are zeroed and mapped anew: a tenth of the time on two cores.
    Applies to the whole process; does nothing where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value that glibc accepts
    mallopt(M_TRIM_THRESHOLD, 1 << 30)
    mallopt(M_ARENA_MAX, 1)  # one arena: the backward pass's own thread reuses this thread's memory
