"""Training steps that can be captured as CUDA graphs: that nothing is read back from the device or
comes from the host, that a number on the device does what a Python number does, and when what is
captured."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dood_pyro.config import ModelConfig, RunConfig, TrainConfig
from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import ElboTerms
from dood_pyro.registry import ESTIMATORS, MODELS
from dood_pyro.training import cuda_graphs
from dood_pyro.training.cuda_graphs import WARM_UP, CudaGraphs
from dood_pyro.training.trainer import Trainer
from tests.conftest import TINY

CPU = torch.device("cpu")


TWO_STROKES = dataclasses.replace(TINY, max_strokes=2)
"""As many as there are kinds: the first follows nothing, and others a stroke. Fake tensors are slow."""


def trainer_of(model: str, estimator: Any, sizes: ModelConfig = TINY, **settings: Any) -> Trainer:
    given: dict[str, Any] = {"batch_size": 4, "estimator": estimator}
    if estimator in ("iwae", "rws"):
        given["particles"] = 2
    if estimator != "nvil":
        given["synthetic_ratio"] = 1.0
    return Trainer.from_config(
        RunConfig(model, sizes, TrainConfig("none", **(given | settings))), CPU, native_size=16
    )


class NoWait(TorchDispatchMode):
    """Refuses what waits for a device, or copies to it from the host's memory."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "_local_scalar_dense" in name:
            raise AssertionError("a value is read back")
        # Pyro's plate makes an empty tensor to learn the default device by; it stays on the CPU.
        if "lift_fresh" in name and not any(
            "subsample_messenger" in frame.filename for frame in traceback.extract_stack()
        ):
            raise AssertionError("a tensor is made of Python numbers")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("steps", [0, 9000])
def test_a_step_waits_for_nothing(model: str, estimator: str, steps: int) -> None:
    trainer = trainer_of(model, estimator, TWO_STROKES)
    assert trainer.estimator.capturable
    images = ImageBatch(torch.rand(4, 16, 16), 16)
    trainer.step = steps  # without refiners and exploring; with all and without
    for _ in range(2):  # tables are made, which must not be fake ones, and Adam's moments
        trainer.train_step(images)
    # Pyro's tensors that know where they come from are no fake tensors: NVIL runs on real ones.
    fake = (
        contextlib.nullcontext()
        if estimator == "nvil"
        else FakeTensorMode(allow_non_fake_inputs=True)
    )
    with fake:
        images = ImageBatch(torch.rand(4, 16, 16), 16)
        number = torch.zeros((), dtype=torch.float64)
        with NoWait():
            trainer.operations(images, number, trainer.plan())


def test_so_does_one_of_the_sleep_phase() -> None:
    trainer = trainer_of("dood", "stop-marginal", sleep_steps=5)
    images = ImageBatch(torch.rand(4, 16, 16), 16)
    trainer.train_step(images)
    assert trainer.plan().asleep
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = ImageBatch(torch.rand(4, 16, 16), 16)
        number = torch.zeros((), dtype=torch.float64)
        with NoWait():
            trainer.operations(images, number, trainer.plan())


def test_what_waits_is_seen() -> None:
    with NoWait(), pytest.raises(AssertionError, match="read back"):
        torch.ones(()).item()
    with NoWait(), pytest.raises(AssertionError, match="Python numbers"):
        torch.tensor([1.0])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_number_on_the_device_does_what_a_python_number_does(estimator: str) -> None:
    """Learning rate, exploration, bounds on stops and averages follow from it."""
    short = {"gate_begin": 1, "gate_full": 3, "gate_stagger": 1, "warm_up": 4, "decay_steps": 5}
    held = {"hold_steps": 6} if estimator == "nvil" else {"explore_steps": 6}
    trainers = [trainer_of("dood", estimator, **short, **held) for _ in range(2)]
    torch.manual_seed(1)
    batches = [ImageBatch(torch.rand(4, 16, 16), 16) for _ in range(9)]
    for trainer, on_device in zip(trainers, (False, True), strict=True):
        torch.manual_seed(2)
        for step, images in enumerate(batches):
            trainer.guide.set_step(step)
            number: Any = torch.tensor(step, dtype=torch.float64) if on_device else step
            trainer.operations(images, number, trainer.plan())
            trainer.step += 1
    one, other = trainers
    for name, weight in one.parameters.items():
        torch.testing.assert_close(other.parameters[name], weight, rtol=1e-4, atol=1e-5)
    for name, average in one.averages.items():
        torch.testing.assert_close(other.averages[name], average, rtol=1e-4, atol=1e-5)


class Recorder:
    """In place of CUDA: what is recorded is run again by ``replay``, on the tensors it was given."""

    def __init__(self) -> None:
        self.recording = False
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    made: list[Recorder] = []

    class Stream:
        def __init__(self, device: Any) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

    def graph_of() -> Recorder:
        made.append(Recorder())
        return made[-1]

    @contextlib.contextmanager
    def recording(graph: Recorder, **_: Any) -> Iterator[None]:
        graph.recording = True
        try:
            yield
        finally:
            graph.recording = False

    cuda = cuda_graphs.torch.cuda
    monkeypatch.setattr(cuda, "Stream", Stream)
    monkeypatch.setattr(cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(cuda, "current_stream", lambda device: Stream(device))
    monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(cuda, "CUDAGraph", graph_of)
    monkeypatch.setattr(cuda, "graph", recording)
    return made


def outcome(images: ImageBatch, number: Tensor, plan: Any) -> Any:
    return ElboTerms(*(images.pixels.sum() + number for _ in ElboTerms._fields)), number.clone()


def test_each_kind_of_step_is_captured_once(no_cuda: list[Recorder]) -> None:
    calls: list[Any] = []

    def operations(images: ImageBatch, number: Tensor, plan: Any) -> Any:
        calls.append((plan, len(images)))
        return outcome(images, number, plan)

    graphs = CudaGraphs(operations, CPU)
    for step in range(8):
        graphs.step(ImageBatch(torch.ones(4, 2, 2), 0), step, "one")
    assert calls == [("one", 4)] * (WARM_UP + 1) and no_cuda[0].replays == 8 - WARM_UP
    graphs.step(ImageBatch(torch.ones(3, 2, 2), 0), 8, "one")  # a short batch, by operations
    graphs.step(ImageBatch(torch.ones(4, 2, 2), 0), 9, "two")
    assert calls[-2:] == [("one", 3), ("two", 4)] and len(no_cuda) == 1
    graphs.step(ImageBatch(torch.full((4, 2, 2), 3.0), 0), 10, "one")
    assert float(graphs.clock) == 10
    (captured,) = graphs.captured.values()
    assert float(captured.images.pixels.sum()) == 48


def test_what_cannot_be_captured_is_run_all_the_same(no_cuda: list[Recorder]) -> None:
    def operations(images: ImageBatch, number: Tensor, plan: Any) -> Any:
        if no_cuda and no_cuda[-1].recording:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return outcome(images, number, plan)

    graphs = CudaGraphs(operations, CPU)
    with pytest.warns(UserWarning, match="not permitted when stream is capturing.*slower") as said:
        found = [graphs.step(ImageBatch(torch.ones(1, 2, 2), 0), s, "one") for s in range(5)]
    assert len(said) == 1 and [float(norm) for _, norm in found] == [0, 1, 2, 3, 4]
    assert len(no_cuda) == 1 and no_cuda[0].replays == 0
