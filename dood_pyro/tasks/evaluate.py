"""How well a run explains a target: the importance-weighted bound and what goes with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float

from dood_pyro import data
from dood_pyro.devices import keep_freed_memory
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.inference.importance import ImportanceBound, bound_of
from dood_pyro.inference.parsing import ModelAndGuide, in_double, parse
from dood_pyro.runs.run import Run
from dood_pyro.tasks.rows import COLUMNS

SHARD = 64
"""Images that share a seed, so that a row is the same however many processes measure it."""
WORTH_IT = 20_000
"""Images × particles from which on processes are worth their start."""


def mean_and_se(values: Float[torch.Tensor, "images"]) -> tuple[float, float | None]:
    """Mean over images and its standard error: of one image None, as it says nothing of the spread."""
    values = values.double()
    # 0 would be read as certainty, and NaN is no JSON.
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
    return float(values.mean()), spread


class LoadArguments(NamedTuple):
    """How a run's programs are loaded: arguments of `Run.load`."""

    path: str
    which: str = "best"
    guide: str | None = None
    trusted: tuple[str, ...] = ()


def evaluate(
    run: Run,
    target: str,
    particles: int = 200,
    limit: int | None = 1000,
    device: torch.device | None = None,
    data_dir: str | Path | None = None,
    which: str = "best",
    guide: str | None = None,
    progress: Callable[[float, int], None] | None = None,
    jobs: int = 1,
    trusted: Sequence[str] = (),
) -> dict[str, Any]:
    """Measures a run on the first ``limit`` test images of the target's shuffle of seed 0.

    Args:
        guide, trusted: as for `Run.load`.
        progress: called with images done since the last call, and images in all.
        jobs: processes that share the images, on a CPU. More than one need a main module that can be
            imported (``if __name__ == "__main__"``). The row is the same.

    Returns:
        A row with `rows.COLUMNS` as keys; bounds in nats per image, ``_se`` their standard errors over
        images, ``mean_absolute_error`` that of the guide's best guess, in brightness per pixel.

    Raises:
        UserError: the run or the target cannot be read.
    """
    device = device or torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    arguments = LoadArguments(str(run.path), which, guide, tuple(trusted))
    model, recognition, config = run.load(which, guide, trusted)
    made_by = run.provenance(which)  # now: the run may be in training
    model, recognition = model.to(device), recognition.to(device)
    dataset = data.load(target, "test", config.model.canvas_size, data_dir)
    images = dataset.batch(limit, device)

    def show(done: float) -> None:
        if progress is not None:
            progress(done, len(images))

    with pyro.validation_enabled(False), torch.random.fork_rng():
        programs = model, recognition
        bound, errors = _measure(arguments, programs, images, particles, jobs, show)

    (log_p, log_p_se), (summed, summed_se) = map(mean_and_se, (bound.log_p, bound.log_p_summed))
    row = {
        **made_by,
        "guide": guide or config.train.guide,
        "target": data.name_of(target),
        "particles": particles,
        "images": len(images),
        "log_p": log_p,
        "log_p_se": log_p_se,
        "log_p_summed": summed,
        "log_p_summed_se": summed_se,
        "elbo": float(bound.elbo.mean()),
        "mean_strokes": float(bound.strokes.mean()),
        "mean_absolute_error": float(errors.mean()),
        "effective_samples": bound.mean_effective_samples(),
        "data_sha256": dataset.sha256,
    }
    return {column: row[column] for column in COLUMNS}


class _Measured(NamedTuple):
    """Bounds and errors of a shard, or of all images."""

    bound: ImportanceBound
    error: Float[torch.Tensor, "images"]
    """Mean absolute error of the best guess."""


def _measure(
    arguments: LoadArguments,
    programs: ModelAndGuide,
    images: ImageBatch,
    particles: int,
    jobs: int,
    show: Callable[[float], None],
) -> _Measured:
    """Bounds and errors, by ``jobs`` processes: on small tensors threads wait for each other more
    than they help."""
    shards = images.split(SHARD)
    jobs = 1 if images.device.type == "cuda" else min(jobs, len(shards))
    if jobs == 1 or len(images) * particles < WORTH_IT:
        parts = [_shard(programs, *shard, particles, show) for shard in enumerate(shards)]
    else:
        parts = _by_processes(arguments, shards, particles, jobs, show)
    bound = ImportanceBound.concatenated([part.bound for part in parts])
    return _Measured(bound, torch.cat([part.error for part in parts]))


def _shard(
    programs: ModelAndGuide,
    index: int,
    images: ImageBatch,
    particles: int,
    show: Callable[[float], None] | None = None,
) -> _Measured:
    torch.manual_seed(index)
    model, guide = programs
    posterior = guide.posterior(images, show)
    bound = bound_of(model, guide, images, particles, show, posterior)
    if guide.search_share:  # a search has been: what it found is drawn
        parsed = parse(model, posterior, images)
    else:
        parsed = parse(*in_double(model, guide), images)
    return _Measured(bound, (parsed.canvas[-1] - images.pixels).abs().mean((-1, -2)))


# Worker processes.


def _by_processes(
    arguments: LoadArguments,
    shards: list[ImageBatch],
    particles: int,
    jobs: int,
    show: Callable[[float], None],
) -> list[_Measured]:
    context = torch.multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, _start_worker)
    try:
        futures = [
            # Arrays rather than tensors, which would travel by shared memory, of which containers
            # have little.
            pool.submit(_work, arguments, index, s.pixels.numpy(), s.native_size, particles)
            for index, s in enumerate(shards)
        ]
        for future in as_completed(futures):
            show(len(future.result()[-1]))
    except BrokenProcessPool:
        raise UserError(
            "a process that measured died, for want of memory perhaps; free some, or let one "
            "process do it: OMP_NUM_THREADS=1"
        ) from None
    except BaseException:
        for process in torch.multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    found = [list(map(torch.from_numpy, future.result())) for future in futures]
    return [_Measured(ImportanceBound(*columns[:-1]), columns[-1]) for columns in found]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself

    def exit_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    pyro.enable_validation(False)


@lru_cache(maxsize=1)
def _programs(arguments: LoadArguments) -> ModelAndGuide:
    """A worker's model and guide: loaded once."""
    run = Run(arguments.path)
    model, guide, _ = run.load(arguments.which, arguments.guide, arguments.trusted)
    return model, guide


def _work(
    arguments: LoadArguments, index: int, pixels: np.ndarray, native_size: int, particles: int
) -> tuple[np.ndarray, ...]:
    images = ImageBatch(torch.from_numpy(pixels), native_size)
    with torch.no_grad():
        bound, error = _shard(_programs(arguments), index, images, particles)
    return tuple(values.numpy() for values in (*bound, error))
