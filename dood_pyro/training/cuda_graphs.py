"""Training steps captured as CUDA graphs, and replayed. The trainer uses it on CUDA devices.

A step is thousands of small kernels: launched one by one, they keep a fast card waiting for Python. A
step that reads nothing back and takes what changes from tensors on the device (`trainer.operations`) is
recorded once for each of its plans and batch shapes, and from then on launched as a whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dood_pyro.images import ImageBatch
from dood_pyro.inference.stop_marginal import ElboTerms

WARM_UP = 2
"""Steps of a kind that are run operation by operation before one is captured: what is allocated, tabled
or compiled once must be there."""

Outcome = tuple[ElboTerms, Tensor]
Operations = Callable[[ImageBatch, Any, Any], Outcome]


class _Captured(NamedTuple):
    graph: Any
    images: ImageBatch
    """The graph's inputs, into which each replay's batch is copied."""
    outcome: Outcome
    """The graph's outputs."""


class CudaGraphs:
    """Captured steps, one of each kind.

    Args:
        operations: a step: of a batch, its number on the device, and its plan.
        device: a CUDA device.
    """

    def __init__(self, operations: Operations, device: torch.device) -> None:
        self.operations, self.device = operations, device
        # Double precision: step numbers are exact, and so are the schedules that follow from them.
        self.clock = torch.zeros((), dtype=torch.float64, device=device)
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()
        self.seen: dict[Hashable, int] = {}
        self.captured: dict[Hashable, _Captured] = {}
        self.refused = False

    def step(self, images: ImageBatch, number: int, plan: Hashable) -> Outcome:
        """Run a step: by replay, if one of its kind was captured.

        Args:
            number: of the step.
            plan: hashable; steps of one plan and batch shape are of one kind.
        """
        self.clock.fill_(float(number))
        kind = (plan, tuple(images.pixels.shape), images.native_size)
        if kind not in self.captured and not self.refused:
            self.seen[kind] = self.seen.get(kind, 0) + 1
            if self.seen[kind] > WARM_UP:
                self._capture(kind, images, plan)
        if kind not in self.captured:
            return self._by_operations(images, plan)
        captured = self.captured[kind]
        captured.images.pixels.copy_(images.pixels)
        captured.graph.replay()
        terms, norm = captured.outcome
        return ElboTerms(*(term.clone() for term in terms)), norm.clone()

    def _by_operations(self, images: ImageBatch, plan: Hashable) -> Outcome:
        """Operation by operation, on the stream that captures."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            outcome = self.operations(images, self.clock, plan)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return outcome

    def _capture(self, kind: Hashable, images: ImageBatch, plan: Hashable) -> None:
        """Record a step, which does not run it. What cannot be recorded is said, and run as before."""
        fixed = ImageBatch(images.pixels.clone(), images.native_size)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                outcome = self.operations(fixed, self.clock, plan)
        except RuntimeError as error:
            self.refused = True
            why = str(error).splitlines()[0]
            warnings.warn(
                f"a training step could not be captured as a CUDA graph ({why}); "
                "steps are run operation by operation, which is slower",
                stacklevel=2,
            )
            return
        self.captured[kind] = _Captured(graph, fixed, outcome)
