"""Stages of gpu_check.sh, which runs this file; each stage adds its findings to DIR/bench_gpu.json.

    experiments/gpu_check.sh --out DIR [--dry-run] [--minutes 8]

A stage that fails is recorded with its error, and the next stage begins. A stage without enough time
left is recorded as left out. The exit status is 1 if any stage failed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from torch import Tensor

from dood_pyro import data, recognition
from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.devices import hardware
from dood_pyro.errors import exit_on_user_error
from dood_pyro.files import write_atomically
from dood_pyro.images import ImageBatch
from dood_pyro.inference.guide_parses import in_double, parse
from dood_pyro.models.networks import ImageEncoder
from dood_pyro.rendering import Renderer, canvas_from_ink, stroke_ink, use_renderer
from dood_pyro.rendering.reference import stroke_ink_per_pixel
from dood_pyro.research import begin_training
from dood_pyro.run_folders.facts import revision
from dood_pyro.tasks.evaluate import evaluate
from dood_pyro.training.batches import Batches
from dood_pyro.training.trainer import Trainer

TREE = Path(__file__).resolve().parent.parent


class Check(NamedTuple):
    """Device, size and folders of a check, for all stages."""

    device: torch.device
    toy: bool
    out: Path
    """Folder of bench_gpu.json."""
    scratch: Path
    """Folder of files that are not kept."""

    def size(self, real: int, toy: int) -> int:
        """Return ``toy`` in a dry run, else ``real``."""
        return toy if self.toy else real

    def wait(self) -> None:
        """Wait for all work queued on the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeats: int) -> float:
        """Median time of ``work``, seconds, until the device is done."""
        times = []
        for repeat in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            if repeat:
                times.append(time.perf_counter() - began)
        return statistics.median(times)


def environment(check: Check) -> dict[str, Any]:
    """Device, and versions of torch, Pyro, CUDA and this package."""
    found: dict[str, Any] = {
        "device": hardware(check.device),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "cuda": torch.version.cuda,
        "revision": revision(),
        "dry_run": check.toy,
    }
    if check.device.type == "cuda":
        properties = torch.cuda.get_device_properties(check.device)
        found["memory_gib"] = properties.total_memory / 2**30
        found["capability"] = list(torch.cuda.get_device_capability(check.device))
    return found


def tests(check: Check) -> dict[str, Any]:
    """Run the tests that CUDA matters to."""
    command = [sys.executable, "-m", "pytest", "tests/test_cuda.py", "tests/rendering"]
    command += ["-o", "addopts=", "-p", "no:cacheprovider"]
    environ = os.environ | {"DOOD_TEST_DEVICE": check.device.type}
    ran = subprocess.run(
        command, cwd=TREE, env=environ, capture_output=True, text=True, check=False, timeout=120
    )
    print(ran.stdout[-4000:] + ran.stderr[-2000:], flush=True)
    if ran.returncode:
        raise RuntimeError(f"pytest ended with status {ran.returncode}: {ran.stdout[-1500:]}")
    return {"summary": ran.stdout.strip().splitlines()[-1]}


def renderer(check: Check) -> dict[str, Any]:
    """Forward and backward pass of 384 strokes × 128 points × 50² pixels: by the fused kernels, by the
    torch path, and by the plain formula."""
    strokes = check.size(384, 8)
    torch.manual_seed(0)
    inputs = [
        torch.rand(strokes, 5, 2, device=check.device) - 0.5,
        torch.rand(strokes, device=check.device) * 0.1 + 0.03,
        torch.rand(strokes, device=check.device) * 3,
    ]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    gradient = torch.randn(strokes, 50, 50, device=check.device)

    def both(render: Callable[..., Tensor]) -> None:
        for tensor in inputs:
            tensor.grad = None
        render(*inputs, 50, points=128).backward(gradient)

    found: dict[str, Any] = {"strokes": strokes}
    names: tuple[Renderer, ...] = ("triton", "torch") if check.device.type == "cuda" else ("torch",)
    for name in names:
        with use_renderer(name):
            found[f"{name}_ms"] = 1000 * check.seconds(lambda: both(stroke_ink), check.size(50, 2))
    return found | {
        "plain_formula_ms": 1000
        * check.seconds(lambda: both(stroke_ink_per_pixel), check.size(5, 1)),
    }


def source(check: Check, name: str) -> str:
    """Name of the source if its data are here, else of a source that needs no data."""
    if not check.toy and data.find(name) is not None:
        return name
    return "digits" if check.toy else "random-strokes"


def training(check: Check, name: str) -> dict[str, Any]:
    """Train for 90 seconds: steps per second, held-out ELBO, memory; then log p(x) of test images by
    importance-weighted bounds."""
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(check.device)
    chosen = source(check, name)
    small = {"model.features": 32, "model.canvas_size": 28, "train.batch_size": 8}

    def show(trainer: Trainer, line: dict[str, Any]) -> None:
        if line["kind"] == "held-out":
            print(f"    step {line['step']}: held-out ELBO {line['elbo']}", flush=True)

    begun = begin_training(
        chosen,
        "dood",
        seconds=float(check.size(90, 2)),
        out=check.scratch / f"run-{name}",
        settings=small if check.toy else None,
        device=check.device.type,
    )
    run, trainer = begun.run, begun.train(show, tensorboard=False)
    lines = run.read_metrics()
    found: dict[str, Any] = {
        "source": chosen,
        "steps": trainer.step,
        "seconds": trainer.seconds,
        "steps_per_second": trainer.step / trainer.seconds,
        "held_out": [
            {key: line[key] for key in ("step", "seconds", "elbo", "strokes")}
            for line in lines
            if line["kind"] == "held-out"
        ],
        "skipped": int(trainer.skipped),
    }
    if check.device.type == "cuda":
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated(check.device) / 2**30
    print(f"    {json.dumps(found)[:1000]}", flush=True)
    began = time.perf_counter()
    row = evaluate(run, chosen, check.size(200, 2), check.size(1000, 4), check.device)
    check.wait()
    found["evaluation_seconds"] = time.perf_counter() - began
    names = ("particles", "images", "log_p", "log_p_se", "log_p_summed", "elbo", "mean_strokes")
    return found | {name: row[name] for name in names}


def _encoders(trainer: Trainer) -> list[ImageEncoder]:
    modules = [*trainer.model.modules(), *trainer.guide.modules()]
    return [module for module in modules if isinstance(module, ImageEncoder)]


def encode_in_bf16(trainer: Trainer) -> None:
    """Let encoders compute in bfloat16."""
    for encoder in _encoders(trainer):
        setattr(encoder, "forward", partial(_in_bf16, encoder.forward))  # noqa: B010


def _in_bf16(forward: Callable[..., Tensor], images: Tensor, *others: Any) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16):
        return forward(images, *others).float()


def put_channels_last(trainer: Trainer) -> None:
    """Lay out the encoders' convolutions with channels last."""
    for encoder in _encoders(trainer):
        encoder.to(memory_format=torch.channels_last)


def compile_networks(trainer: Trainer) -> None:
    """Compile encoders and perceptrons."""
    modules = [*trainer.model.modules(), *trainer.guide.modules()]
    for module in modules:
        if isinstance(module, ImageEncoder | torch.nn.Sequential):
            module.compile(dynamic=False)


class Variant(NamedTuple):
    """A way to run training steps."""

    graph: bool = True
    """Whether steps are captured as CUDA graphs, where there is CUDA."""
    batch: int = 64
    change: Callable[[Trainer], None] = lambda trainer: None


VARIANTS = {
    "operations": Variant(graph=False),
    "graph": Variant(),
    "graph, batch 128": Variant(batch=128),
    "graph, batch 256": Variant(batch=256),
    "graph, encoders in bf16": Variant(change=encode_in_bf16),
    "graph, channels last": Variant(change=put_channels_last),
    "graph, compiled networks": Variant(change=compile_networks),
}


def steps(check: Check) -> dict[str, Any]:
    """Training steps a second of the default configuration, random drawings included: operation by
    operation, as CUDA graphs, and then with one other setting at a time."""
    found: dict[str, Any] = {}
    for name, variant in VARIANTS.items():
        try:
            found[name] = _steps_of(check, variant)
        except Exception as error:  # what cannot be had is no reason to lose what can
            found[name] = {"failed": f"{type(error).__name__}: {error}"[:500]}
        print(f"    {name}: {json.dumps(found[name])}", flush=True)
    return found


def _steps_of(check: Check, variant: Variant) -> dict[str, Any]:
    cuda = check.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(check.device)
    batch = variant.batch // check.size(1, 16)
    model = ModelConfig(features=32, canvas_size=28) if check.toy else ModelConfig()
    config = RunConfig("dood", model, TrainConfig("steps", batch_size=batch))
    trainer = Trainer.from_config(config, check.device, native_size=28)
    variant.change(trainer)
    size = model.canvas_size
    pictures = torch.randint(256, (4 * batch, size, size), dtype=torch.uint8)
    batches = Batches(pictures, np.arange(len(pictures)), batch, 0, check.device, 28)
    trainer.step = 10_000  # every refiner's gate is open
    if variant.graph:
        trainer.capture_steps()

    def take(count: int) -> None:
        for _ in range(count):
            trainer.train_step(batches[trainer.step])
        check.wait()

    take(check.size(40, 2))  # all kinds of steps are captured, or compiled
    count = check.size(80, 2)
    began = time.perf_counter()
    take(count)
    took = time.perf_counter() - began
    found = {"steps_per_second": count / took, "images_per_second": count * batch / took}
    if cuda:
        found["peak_memory_gib"] = torch.cuda.max_memory_allocated(check.device) / 2**30
        found["captured"] = len(trainer.graphs.captured) if trainer.graphs is not None else 0
    return found


def parsing(check: Check) -> dict[str, Any]:
    """Parses per second by the packaged weights, by batch size and precision.

    Also the largest difference between control points from the device and from the CPU.
    """
    dood = recognition.load("omniglot", check.device)
    count = check.size(2048, 16)
    generator = torch.Generator().manual_seed(0)
    control = torch.rand(count, 3, 5, 2, generator=generator) * 1.2 - 0.6
    ink = stroke_ink(control, torch.full((count, 3), 0.04), torch.full((count, 3), 3.0), dood.size)
    images = canvas_from_ink(ink.sum(1)).to(check.device)
    double = in_double(dood.model, dood.guide)
    found: dict[str, Any] = {"pictures": count}
    for kind, model_and_guide in (("float32", (dood.model, dood.guide)), ("float64", double)):
        for batch in (1, 64, 512, count):
            part = images[: min(batch, count)]
            took = check.seconds(partial(parse, *model_and_guide, part), check.size(5, 1))
            found[f"{kind}_batch_{len(part)}_per_second"] = len(part) / took
    on_cpu = recognition.load("omniglot").infer(images[:16].cpu())
    here = dood.infer(images[:16])
    both = (here.alive.cpu() > 0) & (on_cpu.alive > 0)
    apart = (here.values["stroke"].cpu() - on_cpu.values["stroke"]).abs().amax((-1, -2))
    found["largest_difference_from_cpu"] = float((apart * both).max())
    found["stroke_counts_alike"] = bool((here.alive.cpu() == on_cpu.alive).all())
    return found


def profile(check: Check) -> dict[str, Any]:
    """Profile of a training step: kernels, launches and waits."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    model = ModelConfig(features=32, canvas_size=28) if check.toy else ModelConfig()
    settings = TrainConfig("profile", synthetic_ratio=0.0, batch_size=check.size(64, 8))
    trainer = Trainer.from_config(RunConfig("dood", model, settings), check.device)
    trainer.step = 10_000  # every refiner's gate is open
    pixels = torch.rand(check.size(64, 8), model.canvas_size, model.canvas_size)
    images = ImageBatch(pixels.to(check.device))
    steps = check.size(5, 1)
    for _ in range(2):
        trainer.train_step(images)
    check.wait()
    activities = [ProfilerActivity.CPU]
    cuda = check.device.type == "cuda"
    if cuda:
        activities.append(ProfilerActivity.CUDA)
    with profiled(activities=activities) as recorded:
        for _ in range(steps):
            trainer.train_step(images)
        check.wait()
    events = list(recorded.key_averages())
    counts = {event.key: event.count / steps for event in events}
    by = "self_device_time_total" if cuda else "self_cpu_time_total"
    if cuda:  # kernels alone: their time counts once more in the operators that call them
        events = [e for e in events if e.device_type.name == "CUDA" and not e.is_user_annotation]
    top = sorted(events, key=lambda event: getattr(event, by), reverse=True)[:25]
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense")
    return {
        "step_ms": 1000 * check.seconds(lambda: trainer.train_step(images), check.size(20, 2)),
        "device_ms_a_step": sum(getattr(event, by) for event in events) / steps / 1000,
        "launches_a_step": counts.get("cudaLaunchKernel", 0) + counts.get("cuLaunchKernelEx", 0),
        "waits_a_step": {name: counts[name] for name in waits if name in counts},
        "top": [
            {
                "name": event.key[:100],
                "ms_a_step": getattr(event, by) / steps / 1000,
                "calls_a_step": event.count / steps,
            }
            for event in top
        ],
    }


class Stage(NamedTuple):
    """Part of the check, and the seconds that it needs at least."""

    name: str
    work: Callable[[Check], dict[str, Any]]
    needs: float


STAGES = (
    Stage("environment", environment, 0),
    Stage("tests", tests, 20),
    Stage("renderer", renderer, 5),
    Stage("steps", steps, 60),
    Stage("training_mnist", lambda check: training(check, "mnist"), 110),
    Stage("training_omniglot", lambda check: training(check, "omniglot"), 110),
    Stage("parsing", parsing, 15),
    Stage("profile", profile, 15),
)


def run_stages(check: Check, deadline: float) -> dict[str, Any]:
    """Run every stage in turn; return the findings, which are written to disk after each stage."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        left = deadline - time.monotonic()
        began = time.perf_counter()
        if left < (0 if check.toy else stage.needs):
            found[stage.name] = {"left_out": f"{left:.0f} s were left"}
        else:
            print(f"{stage.name} …", flush=True)
            try:
                found[stage.name] = stage.work(check)
            except Exception as error:  # an error of any kind must not stop the other stages
                traceback.print_exc()
                found[stage.name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            found[stage.name]["took_seconds"] = round(time.perf_counter() - began, 2)
        print(f"{stage.name}: {json.dumps(found[stage.name])[:1500]}", flush=True)
        path = check.out / "bench_gpu.json"
        write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
    return found


def main() -> None:
    """Read the arguments, run the stages and exit with their status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="Folder for bench_gpu.json.")
    parser.add_argument("--dry-run", action="store_true", help="Run at toy size on a CPU.")
    parser.add_argument("--minutes", type=float, default=8.0, help="Time limit.  [default: 8]")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 60 * arguments.minutes
    if not arguments.dry_run and not torch.cuda.is_available():
        sys.exit("gpu_check: torch finds no CUDA GPU here; --dry-run needs none")
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cpu" if arguments.dry_run else "cuda")
    with tempfile.TemporaryDirectory() as scratch:
        check = Check(device, arguments.dry_run, arguments.out, Path(scratch))
        found = run_stages(check, deadline)
    failed = [name for name, entry in found.items() if "error" in entry]
    verdict = f"failed: {', '.join(failed)}" if failed else "all passed"
    print(f"{arguments.out / 'bench_gpu.json'}: {verdict}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    with exit_on_user_error():
        main()
