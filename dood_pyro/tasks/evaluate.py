"""How well a run explains a target: the importance-weighted bound and what goes with it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import nn

from dood_pyro import data
from dood_pyro.checkpoints import FORMAT, Run
from dood_pyro.devices import hardware
from dood_pyro.errors import UserError
from dood_pyro.files import write_atomically
from dood_pyro.inference.importance import ImportanceBound, bound_of
from dood_pyro.inference.parsing import parse

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
    "config_sha256",
    "format",
)
"""Of experiments/results/transfer.csv; nats an image, seconds of training. The hashes are of the
target's images, and of all settings but the source and the seed."""
KEY = (
    *("model", "guide", "source", "target", "seed", "particles", "images"),
    *("data_sha256", "config_sha256", "format"),
)
"""What makes two rows measurements of the same cell."""

Programs = tuple[nn.Module, nn.Module]
"""Model and guide."""


def evaluate(
    run: Run,
    target: str,
    particles: int = 200,
    limit: int | None = 1000,
    device: torch.device | None = None,
    data_dir: str | Path | None = None,
    which: str = "best",
    guide: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures a run on the first ``limit`` test images of the target's shuffle of seed 0.

    Args:
        progress: called with images done since the last call, and images in all.

    Returns:
        A row with `COLUMNS` as keys; bounds in nats an image, ``_se`` their standard errors over
        images, ``mean_absolute_error`` that of the guide's best guess, in brightness a pixel.

    Raises:
        UserError: the run or the target cannot be read.
    """
    device = device or torch.device("cpu")
    model, recognition, config = run.load(which, guide)
    model, recognition = model.to(device), recognition.to(device)
    versions = run.versions()
    drawings = data.load(target, "test", config.model.canvas_size, data_dir)
    images = (drawings.shuffled(limit).float() / 255).to(device)
    _, notes = run.read_tensors(f"{which}.safetensors")
    step = int(notes.get("step", 0))
    trained = [line for line in run.read_metrics() if line["step"] <= step]

    def show(done: int) -> None:
        if progress is not None:
            progress(done, len(images))

    with pyro.validation_enabled(False), torch.random.fork_rng():
        bound = _bounds(run, which, guide, (model, recognition), images, particles, show)
        errors = torch.cat(
            [
                (parse(model, recognition, part).canvas[-1] - part).abs().mean((-1, -2))
                for part in images.split(64)
            ]
        )

    def mean_and_se(values: torch.Tensor) -> tuple[float, float | None]:
        values = values.double()
        # One image says nothing of the spread; 0 would be read as certainty, NaN is no JSON.
        spread = float(values.std()) / len(values) ** 0.5 if len(values) > 1 else None
        return float(values.mean()), spread

    log_p, log_p_summed = mean_and_se(bound.log_p), mean_and_se(bound.log_p_summed)
    values = (
        config.program,
        guide or config.train.guide,
        _source_name(config.train.source),
        _source_name(target),
        config.train.seed,
        particles,
        len(images),
        *log_p,
        *log_p_summed,
        float(bound.elbo.mean()),
        float(bound.strokes.mean()),
        float(errors.mean()),
        float(bound.effective_samples.mean()),
        step,
        trained[-1]["seconds"] if trained else None,
        versions.get("hardware", hardware(device)),
        versions.get("revision", ""),
        drawings.sha256,
        config.settings_sha256(),
        FORMAT,
    )
    return dict(zip(COLUMNS, values, strict=True))


SHARD = 64
"""Images that share a seed, so that bounds are the same however many processes find them."""
WORTH_IT = 20_000
"""Images × particles from which on processes are worth their start."""


def _bounds(
    run: Run,
    which: str,
    guide: str | None,
    programs: Programs,
    images: torch.Tensor,
    particles: int,
    show: Callable[[int], None],
) -> ImportanceBound:
    """`bound_of` by a process for each thread that torch would use: on small tensors threads wait
    for each other more than they help."""
    shards = list(enumerate(images.split(SHARD)))
    jobs = 1 if images.is_cuda else min(torch.get_num_threads(), len(shards))
    parts: list[ImportanceBound] = []
    if jobs == 1 or len(images) * particles < WORTH_IT:
        for shard in shards:
            parts.append(_bound(programs, shard, particles, show))
    else:
        start: tuple[Any, ...] = (str(run.path), which, guide)
        context = torch.multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, _start_worker, start) as pool:
            futures = [pool.submit(_work, index, part.numpy(), particles) for index, part in shards]
            for future in as_completed(futures):
                show(len(future.result().log_p))
            parts = [ImportanceBound(*map(torch.from_numpy, future.result())) for future in futures]
    return ImportanceBound(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _bound(
    programs: Programs,
    shard: tuple[int, torch.Tensor],
    particles: int,
    show: Callable[[int], None] | None = None,
) -> ImportanceBound:
    index, images = shard
    torch.manual_seed(index)
    return bound_of(*programs, images, particles, show)


_worker: list[Programs] = []
"""What a worker process has loaded."""


def _start_worker(path: str, which: str, guide: str | None) -> None:
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    model, recognition, _ = Run(path).load(which, guide)
    _worker.append((model, recognition))


def _work(index: int, images: np.ndarray, particles: int) -> ImportanceBound:
    # Arrays rather than tensors, which would travel by shared memory, of which containers have little.
    found = _bound(_worker[0], (index, torch.from_numpy(images)), particles)
    return ImportanceBound(*(values.numpy() for values in found))  # type: ignore[arg-type]


def _source_name(source: str) -> str:
    """A built-in source's name, or the last part of a path without its suffix."""
    return Path(source).stem


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a table of evaluations.

    Raises:
        UserError: a line is malformed; it is named.
    """
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for the table {path.name}; create it")
    if not path.exists():
        return []
    try:
        lines = list(csv.reader(path.read_text().splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
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
        rows.append(dict(zip(COLUMNS, line, strict=True)))
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
