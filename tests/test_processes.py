"""One training over several processes: the gradients and noise of one process, a run that goes on over
more or fewer, and processes that die."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from dood_pyro.config import RunConfig, TrainConfig
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.models.sites import IMAGES, PARTICLES
from dood_pyro.registry import ESTIMATORS, MODELS
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.run import Run
from dood_pyro.training.batches import Batches
from dood_pyro.training.interrupts import DeferredInterrupt
from dood_pyro.training.loop import Training
from dood_pyro.training.processes import LostProcess, Team
from dood_pyro.training.shared_noise import Share, SharedNoiseMessenger
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY

CPU = torch.device("cpu")
IMAGES_PER_BATCH = 4
Case = tuple[str, str, dict[str, Any]]
CASES: list[Case] = [
    *((model, "stop-marginal", {}) for model in MODELS),
    *(("dood", name, {}) for name in ESTIMATORS if name not in ("nvil", "stop-marginal")),
    ("dood", "stop-marginal", {"sleep_steps": 5}),
    (
        "dood",
        "stop-marginal",
        {"trainable": "prior", "init_from": "a run", "synthetic_ratio": 0.0},
    ),
]


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def stepped(case: Case, team: Team) -> dict[str, Tensor]:
    """Gradients that two steps of a training hand to its optimiser, what it reports, and the random
    state after them."""
    model, estimator, settings = case
    given: dict[str, Any] = {"batch_size": IMAGES_PER_BATCH, "synthetic_ratio": 0.5, **settings}
    if estimator in ("iwae", "rws"):
        given["particles"] = 2
    config = RunConfig(model, TINY, TrainConfig("none", estimator=estimator, **given))
    trainer = Trainer.from_config(config, CPU, native_size=16, team=team)
    torch.manual_seed(3)
    pixels = torch.rand(IMAGES_PER_BATCH, 16, 16)
    found: dict[str, Tensor] = {}
    take_step = trainer.optimiser.step

    def step(*rates: Any, **skip: Any) -> None:
        for name, parameter in trainer.parameters.items():
            if parameter.grad is not None:
                found[f"{trainer.step}.{name}"] = parameter.grad.clone()
        take_step(*rates, **skip)

    trainer.optimiser.step = step  # type: ignore[method-assign]
    for _ in range(2):
        terms, norm = trainer.train_step(ImageBatch(pixels[team.rows(len(pixels))], 16))
        found[f"{trainer.step}.reported"] = torch.stack([*terms, norm])
    found["random state"] = torch.get_rng_state()
    return found


def of_two(rank: int, store: str, out: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"file://{store}", rank=rank, world_size=2, timeout=timedelta(minutes=3)
    )
    team = Team(Share(rank, 2), torch.distributed.new_group(backend="gloo"))
    with double_precision():
        found = [stepped(case, team) for case in CASES]
    torch.save(found, f"{out}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found_by_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    store, out = str(folder / "store"), str(folder / "found")
    torch.multiprocessing.spawn(of_two, (store, out), nprocs=2)
    return [torch.load(f"{out}.{rank}") for rank in (0, 1)]


@pytest.mark.parametrize("index", range(len(CASES)))
def test_two_processes_have_the_gradients_of_one(
    index: int, found_by_two: list[list[dict[str, Tensor]]]
) -> None:
    with double_precision():
        alone = stepped(CASES[index], Team())
    assert len(alone) > 20
    for found in (each[index] for each in found_by_two):
        assert found.keys() == alone.keys()
        assert torch.equal(found.pop("random state"), alone["random state"])
        for name, value in found.items():
            scale = 1 + float(alone[name].abs().max())
            assert float((value - alone[name]).abs().max()) < 1e-10 * scale, name


@pytest.mark.parametrize("particles", [1, 3])
def test_rows_of_noise_are_those_of_one_process(particles: int) -> None:
    mean = torch.linspace(-1, 1, 6)[:, None].expand(6, 2)

    def program(rows: slice) -> dict[str, Tensor]:
        mine = mean[rows]
        with contextlib.ExitStack() as stack:
            if particles > 1:
                stack.enter_context(pyro.plate(PARTICLES, particles, dim=-2))
            stack.enter_context(pyro.plate(IMAGES, len(mine), dim=-1))
            logits = mine[:, 0]
            return {
                "normal": pyro.sample("a", dist.Normal(mine, 1.0).to_event(1)),
                "bernoulli": pyro.sample("b", dist.Bernoulli(logits=logits)),
                "categorical": pyro.sample("c", dist.Categorical(logits=mine.exp() + mine)),
                "exponential": pyro.sample("d", dist.Exponential(mine[:, 0].exp())),
            }

    torch.manual_seed(0)
    whole = program(slice(None))
    for rank in range(3):
        share = Share(rank, 3)
        torch.manual_seed(0)
        with SharedNoiseMessenger(share):
            own = program(share.rows(6))
        for name, value in own.items():
            axis = value.ndim - 1 - (name == "normal")
            expected = whole[name].narrow(axis, 2 * rank, 2)
            torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=f"{name} {rank}")


def test_noise_whose_amount_differs_is_refused() -> None:
    with (
        SharedNoiseMessenger(Share(0, 2)),
        pyro.plate(IMAGES, 3, dim=-1),
        pytest.raises(UserError, match=r"cannot share what torch.s .*gamma"),
    ):
        pyro.sample("a", dist.Gamma(torch.ones(3), 2.0))


def test_batches_are_shared_out_in_order() -> None:
    pictures = torch.arange(24, dtype=torch.uint8)[:, None, None].expand(24, 2, 2)
    rows = torch.arange(24).numpy()
    one = Batches(pictures, rows, 6, 0, CPU)
    parts = [Batches(pictures, rows, 6, 0, CPU, team=Team(Share(rank, 3))) for rank in range(3)]
    for step in (0, 3, 5):
        together = torch.cat([part[step].pixels for part in parts])
        assert torch.equal(together, one[step].pixels)
    with pytest.raises(UserError, match="6 images cannot be shared evenly by 4"):
        Batches(pictures, rows, 6, 0, CPU, team=Team(Share(0, 4)))


def test_few_images_that_cannot_be_shared_are_refused_before_a_run_folder(
    source: Path, tmp_path: Path
) -> None:
    train = TrainConfig(source=str(source), batch_size=64)
    config, run = RunConfig("dood", TINY, train), tmp_path / "run"
    with pytest.raises(UserError, match="a batch of 54 images cannot be shared evenly by 4"):
        Training.begin(run, config, TrainingBudget(steps=1), CPU, team=Team(Share(0, 4)))
    assert not run.exists()


def options(source: Path, run: Path, *more: object) -> list[str]:
    begin = ["--source", source, "--out", run, "--canvas-size", 16, "--max-strokes", 2]
    return [*map(str, begin), *("--batch-size", "4", "--device", "cpu"), *map(str, more)]


def command(*words: object, processes: int = 1) -> list[str]:
    """A command in one process, or in several."""
    many = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    start = [sys.executable, "-m", *(many if processes > 1 else []), "dood_pyro.cli"]
    return [*start, *map(str, words)]


def called(*words: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*words, processes=processes), capture_output=True, text=True, timeout=180
    )


@pytest.mark.slow
def test_a_run_goes_on_over_two_processes_and_back(source: Path, tmp_path: Path) -> None:
    one, both = tmp_path / "one", tmp_path / "both"
    # With a share for the prior alone, a raised end would move where that begins.
    begin = "--model", "dood", "--steps"
    assert called("train", *options(source, one, *begin, 6)).returncode == 0
    assert called("train", *options(source, both, *begin, 2)).returncode == 0
    found = called("train", "--resume", both, "--steps", 4, "--device", "cpu", processes=2)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("run: ") == 1
    assert called("train", "--resume", both, "--steps", 6, "--device", "cpu").returncode == 0
    (tensors, notes), (others, theirs) = (
        Run(path).read_tensors("state.safetensors") for path in (one, both)
    )
    assert notes["step"] == theirs["step"] == "6"
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (("--batch-size", 5), "a batch of 5 images cannot be shared evenly by 2 processes"),
        (("--estimator", "nvil"), "learns from whole batches"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    source: Path, tmp_path: Path, wanted: tuple[object, ...], said: str
) -> None:
    run = tmp_path / "run"
    found = called("train", *options(source, run, "--steps", 2, *wanted), processes=2)
    assert found.returncode != 0
    lines = [line for line in found.stderr.splitlines() if line.startswith("dood-pyro: ")]
    assert len(lines) == 1 and said in lines[0]
    assert not run.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("who", "number"), [(0, signal.SIGKILL), (1, signal.SIGKILL)])
def test_a_process_that_dies_ends_all(
    source: Path, tmp_path: Path, who: int, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    words = options(source, run, "--steps", 100_000)
    with subprocess.Popen(
        command("train", *words, processes=2), stderr=subprocess.PIPE, text=True
    ) as started:
        deadline = time.monotonic() + 120
        while not any(line["kind"] == "train" for line in metrics_of(run)):
            assert time.monotonic() < deadline and started.poll() is None
            time.sleep(0.2)
        os.kill(workers_of(started.pid)[who], number)
        _, said = started.communicate(timeout=120)
    assert started.returncode != 0
    assert "dood-pyro: another process of this training has ended" in said
    resumed = called("train", "--resume", run, "--steps", 1, "--device", "cpu")
    assert resumed.returncode == 0 or "not lower" in resumed.stderr, resumed.stderr
    assert Run(run).read_tensors("state.safetensors")[0]


def test_what_was_lost_is_said_before_torchrun_ends_the_rest() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(UserError), DeferredInterrupt():
            raise UserError("of another kind")
        assert signal.getsignal(signal.SIGTERM) is before
        with pytest.raises(LostProcess), DeferredInterrupt():
            raise LostProcess("another process is gone")
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return list(Run(run).read_metrics()) if (run / "metrics.jsonl").exists() else []


def workers_of(parent: int) -> list[int]:
    """The processes that ``torchrun`` has started, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == parent:
                environment = (folder / "environ").read_bytes().decode().split("\0")
                (rank,) = [each[5:] for each in environment if each.startswith("RANK=")]
                found[int(rank)] = int(folder.name)
    return [found[rank] for rank in sorted(found)]
