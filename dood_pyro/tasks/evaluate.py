"""How well a run explains a target: the importance-weighted bound and what goes with it."""

from __future__ import annotations

import csv
import io
import math
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from jaxtyping import Float

from dood_pyro import data
from dood_pyro.checkpoints import Run
from dood_pyro.devices import keep_freed_memory
from dood_pyro.errors import UserError
from dood_pyro.files import check_output, locked, read_bytes, write_atomically
from dood_pyro.guides.factors import ImageByImage
from dood_pyro.inference.importance import ImportanceBound, bound_of, search
from dood_pyro.inference.parsing import Programs, in_double, parse

COLUMNS = (
    "model",
    "guide",
    "source",
    "target",
    "seed",
    "particles",
    "images",
    "log_p",
    "log_p_se",
    "log_p_summed",
    "log_p_summed_se",
    "elbo",
    "mean_strokes",
    "mean_absolute_error",
    "effective_samples",
    "steps",
    "seconds",
    "hardware",
    "revision",
    "data_sha256",
    "train_data_sha256",
    "config_sha256",
    "format",
)
"""Of experiments/results/transfer.csv; nats an image, seconds of training. The hashes are of the
target's images, of the source's, and of all settings but the source and the seed."""
KEY = (
    *("model", "guide", "source", "target", "seed", "particles", "images"),
    *("data_sha256", "train_data_sha256", "config_sha256", "format"),
)
"""What makes two rows measurements of the same cell."""
INTEGERS = ("seed", "particles", "images", "steps", "format")
NUMBERS = ("log_p", "log_p_summed", "elbo", "mean_strokes", "mean_absolute_error")
MAY_LACK = ("log_p_se", "log_p_summed_se", "effective_samples", "seconds")
"""Columns of numbers, and those among them that may be empty."""


def mean_and_se(values: Float[torch.Tensor, "images"]) -> tuple[float, float | None]:
    """Mean over images and its standard error: of one image None, as it says nothing of the spread."""
    values = values.double()
    # 0 would be read as certainty, and NaN is no JSON.
    spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
    return float(values.mean()), spread


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
) -> dict[str, Any]:
    """Measures a run on the first ``limit`` test images of the target's shuffle of seed 0.

    Args:
        progress: called with images done since the last call, and images in all.
        jobs: processes that share the images, on a CPU. More than one need a main module that can be
            imported (``if __name__ == "__main__"``). The row is the same.

    Returns:
        A row with `COLUMNS` as keys; bounds in nats an image, ``_se`` their standard errors over
        images, ``mean_absolute_error`` that of the guide's best guess, in brightness a pixel.

    Raises:
        UserError: the run or the target cannot be read.
    """
    device = device or torch.device("cpu")
    if device.type == "cpu":
        keep_freed_memory()
    model, recognition, config = run.load(which, guide)
    made_by = run.provenance(which)  # now: the run may be in training
    model, recognition = model.to(device), recognition.to(device)
    drawings = data.load(target, "test", config.model.canvas_size, data_dir)
    images = model.meet(drawings, limit)

    def show(done: float) -> None:
        if progress is not None:
            progress(done, len(images))

    with pyro.validation_enabled(False), torch.random.fork_rng():
        measured = _measure(run, which, guide, (model, recognition), images, particles, jobs, show)
    bound, errors = measured.bound, measured.error

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
        "data_sha256": drawings.sha256,
    }
    return {column: row[column] for column in COLUMNS}


SHARD = 64
"""Images that share a seed, so that a row is the same however many processes measure it."""
WORTH_IT = 20_000
"""Images × particles from which on processes are worth their start."""


class _Measured(NamedTuple):
    """Of a shard, or of all images."""

    bound: ImportanceBound
    error: torch.Tensor
    """Mean absolute error of the best guess, by image."""


def _measure(
    run: Run,
    which: str,
    guide: str | None,
    programs: Programs,
    images: torch.Tensor,
    particles: int,
    jobs: int,
    show: Callable[[float], None],
) -> _Measured:
    """Bounds and errors, by ``jobs`` processes: on small tensors threads wait for each other more
    than they help."""
    shards = images.split(SHARD)
    jobs = 1 if images.is_cuda else min(jobs, len(shards))
    if jobs == 1 or len(images) * particles < WORTH_IT:
        parts = [_shard(programs, *shard, particles, show) for shard in enumerate(shards)]
    else:
        context = torch.multiprocessing.get_context("spawn")
        done = context.Queue()
        start: tuple[Any, ...] = (str(run.path), which, guide, programs[0].ink_size, done)
        pool = ProcessPoolExecutor(jobs, context, _start_worker, start)
        try:
            futures = [
                pool.submit(_work, index, part.numpy(), particles)
                for index, part in enumerate(shards)
            ]
            while any(not future.done() for future in futures) or not done.empty():
                with suppress(queue.Empty):
                    show(done.get(timeout=0.2))
                if any(future.done() and future.exception() for future in futures):
                    break
            for future in futures:
                future.result()
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
        parts = [_Measured(ImportanceBound(*columns[:-1]), columns[-1]) for columns in found]
    bound = ImportanceBound.joined([part.bound for part in parts])
    return _Measured(bound, torch.cat([part.error for part in parts]))


def _shard(
    programs: Programs,
    index: int,
    images: torch.Tensor,
    particles: int,
    show: Callable[[float], None] | None = None,
) -> _Measured:
    torch.manual_seed(index)
    model, guide = programs
    factors = search(guide, images, show) if isinstance(guide, ImageByImage) else None
    bound = bound_of(model, guide, images, particles, show, factors)
    if factors is None:
        parsed = parse(*in_double(model, guide), images)
    else:  # a search has been: what it found is drawn
        parsed = parse(model, factors, images)
    guess = parsed.canvas[-1]
    return _Measured(bound, (guess - images).abs().mean((-1, -2)))


_worker: list[tuple[Programs, Callable[[float], None]]] = []
"""What a worker process has loaded, and what it tells its progress."""


def _start_worker(path: str, which: str, guide: str | None, ink_size: int, done: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself

    def outlive_nobody() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=outlive_nobody, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    pyro.enable_validation(False)
    model, recognition, _ = Run(path).load(which, guide)
    model.expect(ink_size)
    _worker.append(((model, recognition), done.put))


def _work(index: int, images: np.ndarray, particles: int) -> tuple[np.ndarray, ...]:
    # Arrays rather than tensors, which would travel by shared memory, of which containers have little.
    with torch.no_grad():
        programs, show = _worker[0]
        bound, error = _shard(programs, index, torch.from_numpy(images), particles, show)
    return tuple(values.numpy() for values in (*bound, error))


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table of evaluations.

    Raises:
        UserError: a line is malformed; it is named. Or the table cannot be written.
    """
    check_output(path)
    if not path.exists():
        return []
    try:
        lines = list(csv.reader(read_bytes(path).decode().splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table: {str(error).splitlines()[0]}") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(f"{path}, line 1: the columns are not {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS):
            raise UserError(
                f"{path}, line {number}: {len(line)} fields where {len(COLUMNS)} belong; "
                "the file is cut short or damaged: delete that line"
            )
        row = dict(zip(COLUMNS, line, strict=True))
        for column in (*INTEGERS, *NUMBERS, *MAY_LACK):
            if not row[column] and column in MAY_LACK:
                continue
            whole = column in INTEGERS
            try:
                sane = int(row[column]) >= 0 if whole else math.isfinite(float(row[column]))
            except ValueError:
                sane = False
            if not sane:
                what = "a whole number, 0 or more" if whole else "a finite number"
                raise UserError(
                    f"{path}, line {number}: {column} is {row[column]!r}, not {what}; the file is "
                    "damaged: delete that line"
                )
        rows.append(row)
    return rows


def record(path: Path, row: dict[str, Any]) -> None:
    """Puts a row into a table, in place of an earlier one of the same cell, unless that is of a
    longer training.

    Raises:
        UserError: the table is malformed or cannot be written.
    """
    text = {
        name: f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
        for name, value in row.items()
    }
    read_rows(path)  # says what is wrong with the path
    with locked(path.parent):
        _record(path, text)


def _record(path: Path, text: dict[str, str]) -> None:
    rows = read_rows(path)
    same = [old for old in rows if all(old[name] == text[name] for name in KEY)]
    if any(int(old["steps"]) > int(text["steps"]) for old in same):
        return
    rows = [old for old in rows if old not in same] + [text]
    rows.sort(key=lambda row: tuple(row[name] for name in KEY))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
