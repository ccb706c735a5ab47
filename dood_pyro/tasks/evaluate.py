"""Importance-weighted bound on a target's log p(x) under a run, with ELBO, strokes and error.
Used by ``dood-pyro evaluate``, which the transfer table calls, and by `dood_pyro.evaluate`.
"""

from __future__ import annotations

import os
import queue
import sys
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float

from dood_pyro import data
from dood_pyro.devices import (
    choose_device,
    keep_freed_memory,
    refuse_other_numbers,
    running_programs,
    seeded,
)
from dood_pyro.errors import UserError, whole_number
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import ModelAndGuide, in_double, parse
from dood_pyro.inference.importance import ImportanceBound, bound_of
from dood_pyro.inference.search.base import SearchGuide
from dood_pyro.recognition import open_run
from dood_pyro.registry import code_name, code_names, is_own_code
from dood_pyro.run_folders.run import Run, parse_guide_name
from dood_pyro.tasks.rows import COLUMNS, Row
from dood_pyro.worker_pool import CONTEXT, WorkerPool

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

SHARD = 64
"""Images that share a seed, so that a row does not depend on the number of processes."""
WORTH_IT = 20_000
"""Images × particles from which several processes are worth the time to start them."""


def mean_and_se(values: Float[torch.Tensor, "images"]) -> tuple[float, float | None]:
    """Mean over images and its standard error; for one image the error is None."""
    values = values.double()
    # One image says nothing of the spread: 0 would be read as certainty, and JSON has no NaN.
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
    return float(values.mean()), spread


class LoadArguments(NamedTuple):
    """A run's path and the arguments of `Run.load`."""

    path: str
    which: str = "best"
    guide: str | None = None
    trusted: tuple[str, ...] = ()


def evaluate(
    run: Run | str | os.PathLike[str],
    target: str,
    particles: int = 200,
    limit: int | None = 1000,
    device: str | torch.device = "cpu",
    data_dir: str | Path | None = None,
    which: str = "best",
    guide: str | type | None = None,
    progress: Callable[[float, int], None] | None = None,
    jobs: int = 1,
    trusted: Sequence[str | type] = (),
) -> Row:
    """Measure a run on the first ``limit`` test images of the target's shuffle of seed 0.

    Args:
        run: a run, its folder, or the name of weights that come with the package.
        which, guide, trusted, device: as for `dood_pyro.load`.
        progress: called with images done since the last call, and images in all.
        jobs: processes that share the images, on a CPU; the row does not depend on their number. More
            than one need a main module that can be imported (``if __name__ == "__main__"``).

    Returns:
        A row with `rows.COLUMNS` as keys: bounds in nats per image (``log_p_summed`` has the stop
        variable marginalised), ``_se`` their standard errors over images, ``mean_absolute_error`` of
        the guide's modes in brightness per pixel.

    Raises:
        UserError: the run or the target cannot be read, or there is nothing to measure.
    """
    refuse_other_numbers()
    jobs, particles = whole_number("jobs", jobs), whole_number("particles", particles)
    run = open_run(run)
    if isinstance(device, str):
        device = choose_device(device)
    if device.type == "cpu":
        keep_freed_memory()
    if guide is not None:
        guide = code_name("guide", guide)
    names = (*code_names(trusted), *run.trusted)  # worker processes know the run by its folder
    arguments = LoadArguments(str(run.path), which, guide, names)
    with running_programs():
        model, recognition, config = run.load(which, guide, names)
    made_by = run.provenance(which)  # read at once: the run may be in training
    model, recognition = model.to(device), recognition.to(device)
    dataset = data.load(target, "test", config.model.canvas_size, data_dir)
    images = dataset.batch(limit, device)

    def show(done: float) -> None:
        if progress is not None:
            progress(done, len(images))

    if _only_here(config.own_code()):
        jobs = 1
    bound, errors = _measure(arguments, (model, recognition), images, particles, jobs, show)

    (log_p, log_p_se), (summed, summed_se) = map(mean_and_se, (bound.log_p, bound.log_p_summed))
    row = {
        **made_by,
        "guide": _guide_name(guide, config.train.guide),
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
    return Row({column: row[column] for column in COLUMNS})


def _only_here(names: Sequence[str]) -> bool:
    """Whether other processes cannot be started, or not import what is defined in a notebook."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    if file is None:  # a notebook or a prompt
        return any(name.startswith("__main__:") for name in names)
    return not Path(file).exists()  # a program that came by standard input


def _guide_name(named: str | None, own: str) -> str:
    """Name of a guide in a row, which is one for every way to name it: the run's own, or the search
    guide over it, before which stands the run's own if that is not built in."""
    _, over = parse_guide_name(named)
    if over is None:
        return own
    return f"{own}+{over}" if is_own_code(own) else over


class _Measured(NamedTuple):
    """Bounds and errors of images: a shard, or all of them."""

    bound: ImportanceBound
    error: Float[torch.Tensor, "images"]
    """Mean absolute error of the guide's modes, brightness per pixel."""


def _measure(
    arguments: LoadArguments,
    programs: ModelAndGuide,
    images: ImageBatch,
    particles: int,
    jobs: int,
    show: Callable[[float], None],
) -> _Measured:
    """Compute bounds and errors in ``jobs`` processes: on small tensors, threads spend more time on
    waiting for each other than they save."""
    shards = images.split(SHARD)
    jobs = 1 if images.device.type == "cuda" else min(jobs, len(shards))
    if jobs == 1 or len(images) * particles < WORTH_IT:
        parts = [_shard(programs, *shard, particles, show) for shard in enumerate(shards)]
    else:
        parts = _by_processes(arguments, programs, shards, particles, jobs, show)
    bound = ImportanceBound.concatenated([part.bound for part in parts])
    return _Measured(bound, torch.cat([part.error for part in parts]))


def _shard(
    programs: ModelAndGuide,
    index: int,
    images: ImageBatch,
    particles: int,
    show: Callable[[float], None] | None = None,
) -> _Measured:
    """Compute bounds and errors of one shard, seeded by its index."""
    model, guide = programs
    with running_programs(), seeded(index, images.device), pyro.validation_enabled(False):
        posterior = guide.posterior(images, show)
        bound = bound_of(model, guide, images, particles, show, posterior)
        if guide.searches:  # reuse the posterior that the search has found
            parsed = parse(model, posterior, images)
        else:
            parsed = parse(*in_double(model, guide), images)
    return _Measured(bound, (parsed.canvas[-1] - images.pixels).abs().mean((-1, -2)))


# Worker processes.


def _by_processes(
    arguments: LoadArguments,
    programs: ModelAndGuide,
    shards: list[ImageBatch],
    particles: int,
    jobs: int,
    show: Callable[[float], None],
) -> list[_Measured]:
    """Compute the shards' bounds and errors in worker processes."""
    # The weights, too: a run in training may have saved others by the time a worker reads its files.
    # By a file: a process that dies as it starts would leave the parent writing them to nobody.
    weights = {
        f"{index}/{name}": value.numpy()
        for index, program in enumerate(_with_weights(programs))
        for name, value in program.state_dict().items()
    }
    done: Queue[float] = CONTEXT.Queue()
    try:
        with (
            TemporaryDirectory(prefix="dood-pyro-") as folder,
            WorkerPool(jobs, _start_worker, arguments, Path(folder) / "weights.npz", done) as pool,
        ):
            np.savez(Path(folder) / "weights.npz", **weights)
            futures = [
                # Arrays rather than tensors, which would travel by shared memory, of which containers
                # have little.
                pool.submit(_work, index, s.pixels.numpy(), s.native_size, particles)
                for index, s in enumerate(shards)
            ]
            while any(not future.done() for future in futures) or not done.empty():
                with suppress(queue.Empty):
                    show(done.get(timeout=0.2))
                if any(future.done() and future.exception() for future in futures):
                    break
            found = [list(map(torch.from_numpy, future.result())) for future in futures]
    except BrokenProcessPool:
        raise UserError(
            "a process that measured died, perhaps for lack of memory, or because a script that "
            'measures by several has no if __name__ == "__main__"; let one measure: '
            "OMP_NUM_THREADS=1, in Python jobs=1"
        ) from None
    return [_Measured(ImportanceBound(*columns[:-1]), columns[-1]) for columns in found]


def _with_weights(programs: ModelAndGuide) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The model, and the guide or, of a guide that searches, the trained one under it."""
    model, guide = programs
    return model, guide.guide if isinstance(guide, SearchGuide) else guide


_programs: ModelAndGuide
"""A worker's model and guide."""
_done: Queue[float]
"""Shares of its shards that a worker has measured, for the parent's bar."""


def _start_worker(
    arguments: LoadArguments,
    weights: Path,
    done: Queue[float],
) -> None:
    """Load what a worker process measures with.

    Args:
        weights: file of those of model and guide.
    """
    global _programs, _done
    _done = done
    keep_freed_memory()
    pyro.enable_validation(False)
    model, guide, _ = Run(arguments.path).load(*arguments[1:])
    _programs = model, guide
    with np.load(weights) as arrays:
        for index, program in enumerate(_with_weights(_programs)):
            program.load_state_dict(
                {name: torch.from_numpy(arrays[f"{index}/{name}"]) for name in program.state_dict()}
            )


def _work(
    index: int,
    pixels: np.ndarray,
    native_size: int,
    particles: int,
) -> tuple[np.ndarray, ...]:
    """Measure one shard in a worker; return the fields of `_Measured` as arrays, the error last."""
    images = ImageBatch(torch.from_numpy(pixels), native_size)
    with torch.no_grad():
        bound, error = _shard(_programs, index, images, particles, _done.put)
    return tuple(values.numpy() for values in (*bound, error))
