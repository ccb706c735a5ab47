"""Benchmarks: the renderer, a training step, Pyro's overhead, memory, a parse, a transfer cell.
``make bench`` runs them.

    make bench            (or: python experiments/bench.py --out experiments/results/bench.json)

Everything is measured in one run; each time is a median of several. Between machines, compare ratios
rather than times. The training step has the default settings, with every refiner's gate open: batches
of 64 pictures, six strokes, pictures of native size 50×50, or 28×28 and enlarged (``…_28_…``). A batch
of random strokes comes with every eighth step; its time is spread over the eight.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Normal

from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.data import prepared
from dood_pyro.devices import hardware
from dood_pyro.estimators.base import Loss
from dood_pyro.estimators.stop_marginal import StopMarginalELBO
from dood_pyro.files import write_atomically
from dood_pyro.guides.amortised import AmortisedGuide
from dood_pyro.images import ImageBatch, Images, as_batch
from dood_pyro.inference.guide_parses import ModelAndGuide, in_double, parse
from dood_pyro.inference.importance import importance_bound
from dood_pyro.inference.stop_marginal import StopMarginalTerms, stop_log_probs
from dood_pyro.models.dood import DooD, StepValues
from dood_pyro.pictures import resize
from dood_pyro.recognition import Recognizer
from dood_pyro.rendering import canvas_from_ink, stroke_ink
from dood_pyro.rendering.reference import stroke_ink_per_pixel
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.facts import revision
from dood_pyro.run_folders.run import Run
from dood_pyro.schedules import Step
from dood_pyro.training.loop import resume
from dood_pyro.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results"
STROKES = 384
BATCH = 64


def seconds(work: Callable[[], Any], repeats: int, warm_up: int = 2) -> float:
    """Median time of ``work`` over ``repeats`` calls, seconds."""
    times = []
    for repeat in range(warm_up + repeats):
        began = time.perf_counter()
        work()
        if repeat >= warm_up:
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def pictures(count: int, size: int = 50) -> Tensor:
    """Pictures of two strokes each, with about as much ink as a digit."""
    generator = torch.Generator().manual_seed(0)
    control = torch.rand(count, 2, 5, 2, generator=generator) * 1.2 - 0.6
    ink = stroke_ink(control, torch.full((count, 2), 0.05), torch.full((count, 2), 3.0), size)
    return canvas_from_ink(ink.sum(1))


def renderer() -> dict[str, float]:
    """Forward and backward pass of 384 strokes of 100 points, beside the plain formula; seconds."""
    torch.manual_seed(0)
    strokes = (torch.rand(STROKES, 5, 2) - 0.5, torch.rand(STROKES) * 0.1 + 0.03)
    inputs = [t.requires_grad_() for t in (*strokes, torch.rand(STROKES) * 3)]
    grad = torch.randn(STROKES, 50, 50)

    def both(render: Callable[..., Tensor]) -> None:
        for tensor in inputs:
            tensor.grad = None
        render(*inputs, 50, points=100).backward(grad)

    fast = seconds(lambda: both(stroke_ink), 15)
    plain = seconds(lambda: both(stroke_ink_per_pixel), 3, warm_up=1)
    return {
        "renderer_seconds": fast,
        "renderer_plain_seconds": plain,
        "renderer_speedup": plain / fast,
    }


def plain_terms(model: DooD, guide: AmortisedGuide, image: Tensor) -> StopMarginalTerms:
    """`stop_marginal_terms` without Pyro: same networks, samples and densities, in plain torch."""
    state = model.initial_state(len(image))
    on = torch.ones(len(image))
    q_on, p_on, ratios, canvases = [], [], [], [state.canvas]
    for _ in range(model.config.max_strokes):
        inputs = model.step_inputs(state)
        residual = image - inputs.canvas
        features = guide.residual_encoder(residual.unsqueeze(-3))
        q_on.append(guide.q_on(features, inputs, state.alive))
        p_on.append(model.p_on(inputs))
        ratio = torch.zeros(len(image))

        def sample(q: Any, p: Any) -> Tensor:
            nonlocal ratio
            base: Any = q.base_dist
            base = Normal(base.loc, base.scale, validate_args=False)
            value = base.rsample()
            log_q = base.log_prob(value).flatten(1).sum(-1)
            ratio = ratio + p.log_prob(value) - log_q
            return value

        q_layout = guide.q_layout(features, inputs)
        layout = sample(q_layout, model.p_layout(inputs))
        q_stroke, q_pen = guide.q_stroke_and_pen(image, residual, layout, state, inputs)
        stroke = sample(q_stroke, model.p_stroke(inputs, layout))
        pen = sample(q_pen, model.p_pen(inputs, layout, stroke))
        state = model.draw(state, inputs, StepValues(on, layout, stroke, pen))
        ratios.append(ratio)
        canvases.append(state.canvas)
    scale = model.likelihood_scale()
    log_likelihood = torch.stack(
        [model.log_likelihood(image, canvas, scale) for canvas in canvases]
    )
    log_ratio = torch.stack(ratios).cumsum(0)
    return StopMarginalTerms(
        stop_log_probs(torch.stack(q_on)),
        stop_log_probs(torch.stack(p_on)),
        log_likelihood,
        torch.cat([torch.zeros_like(log_ratio[:1]), log_ratio]),
    )


class PlainElbo(StopMarginalELBO):
    """Training objective over `plain_terms`."""

    def loss(self, model: Any, guide: Any, images: Images, step: Step) -> Loss:
        terms = plain_terms(model, guide, as_batch(images).pixels)
        return -self.objective(terms).sum(), terms.averages()


LATE = 10_000
"""Step number past the start of training: every refiner's gate is open."""


def new_trainer(native_size: int = 0, **settings: Any) -> Trainer:
    """Trainer of the default settings, at step `LATE`."""
    config = RunConfig("dood", ModelConfig(), TrainConfig("bench", **settings))
    trainer = Trainer.from_config(config, torch.device("cpu"), native_size)
    trainer.step = LATE
    return trainer


def training_step(native_size: int) -> float:
    """Seconds per step, random strokes included, on images of ``native_size`` pixels per side."""
    images = ImageBatch(resize(pictures(BATCH, native_size), 50), native_size)
    trainer = new_trainer(native_size)
    period = round(1 / trainer.config.train.synthetic_ratio)

    def steps() -> None:
        for _ in range(period):
            trainer.train_step(images)

    return seconds(steps, 4, warm_up=1) / period


def training() -> dict[str, float]:
    """Times of training steps; without random strokes, through Pyro and in plain torch by turns."""
    images = ImageBatch(pictures(BATCH))
    trainer = new_trainer(synthetic_ratio=0.0)
    pyro_elbo, plain_elbo = StopMarginalELBO(4.0), PlainElbo(4.0)
    losses = []
    for elbo in (pyro_elbo, plain_elbo):
        torch.manual_seed(0)
        with torch.no_grad(), pyro.validation_enabled(False):
            losses.append(float(elbo.loss(trainer.model, trainer.guide, images, LATE)[0]))
    assert abs(losses[0] - losses[1]) < 1e-3 * abs(losses[0]), f"not the same arithmetic: {losses}"
    times: dict[str, list[float]] = {"pyro": [], "plain": []}
    for repeat in range(12):
        for name, elbo in (("pyro", pyro_elbo), ("plain", plain_elbo)):
            trainer.estimator = elbo
            began = time.perf_counter()
            trainer.train_step(images)
            if repeat >= 2:
                times[name].append(time.perf_counter() - began)
    through_pyro, plain = (statistics.median(times[name]) for name in ("pyro", "plain"))
    ratios = [a / b for a, b in zip(times["pyro"], times["plain"], strict=True)]
    return {
        "train_step_seconds": training_step(50),
        "train_step_28_seconds": training_step(28),
        "train_step_without_practice_seconds": through_pyro,
        "train_step_plain_seconds": plain,
        "pyro_overhead": statistics.median(ratios) - 1,
    }


def peak_memory(images: int = 60_000) -> float:
    """Largest resident size of a training process, GiB, on as many images as MNIST has."""
    few = (pictures(100, 28) * 255).byte().numpy()
    with tempfile.TemporaryDirectory() as folder:
        arrays: dict[str, np.ndarray] = {}
        for part, count in (("train", images), ("test", 100)):
            arrays[f"{part}_images"] = np.tile(few, (count // 100, 1, 1))
            arrays[f"{part}_labels"] = np.zeros(count, dtype=np.uint8)
        prepared.write(Path(folder) / "bench.npz", arrays)
        command = [sys.executable, __file__, "--train-in", folder]
        subprocess.run(command, check=True, capture_output=True)
    # Linux gives the largest child in KiB; this is the only child so far.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20


def train_in(folder: Path, steps: int = 25) -> None:
    """Train with every refiner's gate open from the first step, for `peak_memory` to measure."""
    at_once = dict.fromkeys(("gate_begin", "gate_full", "gate_stagger"), 0)
    settings = TrainConfig(str(folder / "bench.npz"), **at_once)  # type: ignore[arg-type]
    config = RunConfig("dood", ModelConfig(), settings)
    cpu = torch.device("cpu")
    resume(Run.create(folder / "run", config, TrainingBudget(steps=steps), cpu), cpu)


def untrained() -> tuple[RunConfig, ModelAndGuide]:
    """Configuration, and a model and guide with random weights that draw every stroke."""
    torch.manual_seed(0)
    config = RunConfig("dood", ModelConfig(), TrainConfig("bench"))
    model, guide = build(config)
    assert isinstance(guide, AmortisedGuide)
    with torch.no_grad():
        guide.on_head[-1].bias.fill_(10.0)  # type: ignore[operator]
    return config, (model.eval(), guide.eval())


def parsing() -> dict[str, float]:
    """Time of one parse, by its ink and by the guide, parses per second of the guide in bulk, in double
    precision, and time of a cell of the transfer table.

    The cell's time, 1,000 images with 200 samples each, is estimated from a fiftieth of the images.
    """
    config, model_and_guide = untrained()
    dood = Recognizer(*model_and_guide, config)
    many = pictures(256)
    some = many[:20]
    cell = seconds(lambda: importance_bound(dood.model, dood.guide, some, 200), 3, warm_up=1)
    return {
        "parse_ink_ms": 1000 * seconds(lambda: dood.parse(many[0]), 20),
        "parse_guide_ms": 1000 * seconds(lambda: dood.parse(many[0], method="guide"), 20),
        "parse_bulk_per_second": len(many) / seconds(lambda: dood.drawings(many), 5),
        "transfer_cell_seconds": cell * 1000 / len(some),
    }


def precision(repeats: int = 15) -> dict[str, float]:
    """Time of a parse in double precision, which parses use, relative to single precision.

    Medians of ratios, both measured by turns, for one picture and for a batch of 64.
    """
    _, single = untrained()
    double = in_double(*single)
    found = {}
    for name, images in (("one", pictures(1)), ("bulk", pictures(64))):
        ratios = []
        for _ in range(repeats):
            times = [seconds(partial(parse, *each, images), 1, 0) for each in (single, double)]
            ratios.append(times[1] / times[0])
        found[f"parse_{name}_double_to_single"] = statistics.median(ratios)
    return found


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "bench.json")
    parser.add_argument(
        "--precision", action="store_true", help="Measure only double against single precision."
    )
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_in:
        train_in(arguments.train_in)
        return
    out = arguments.out
    if arguments.precision:
        write(precision(), RESULTS / "precision.json" if out == RESULTS / "bench.json" else out)
        return
    # First: a child's peak includes what its parent held when the child began.
    figures: dict[str, Any] = {"peak_memory_gib": peak_memory()}
    figures |= training()
    figures |= parsing()
    figures |= renderer()
    figures |= precision()
    write(figures, out)


def write(figures: dict[str, Any], out: Path) -> None:
    """Print and write figures, with the hardware, torch version and revision of the measurement."""
    figures |= {
        "hardware": hardware(torch.device("cpu")),
        "torch": torch.__version__,
        "revision": revision(),
    }
    for name, value in figures.items():
        print(f"{name:<36} {value:.4g}" if isinstance(value, float) else f"{name:<36} {value}")
    write_atomically(out, (json.dumps(figures, indent=2) + "\n").encode())
    print(f"written to {out}")


if __name__ == "__main__":
    main()
