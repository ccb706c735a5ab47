"""One training over several processes, as ``torchrun`` starts them: a `Team`.
The command line joins it; trainer and training loop work through it.

Each process takes its share of every batch. Gradients are averaged by torch's DistributedDataParallel
as they are computed, and noise is that of the whole batch (`dood_pyro.training.shared_noise`), so that
the same batch gives the same gradients in one process and in N, and a run may go on in either. The
first process alone writes, measures and speaks.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dood_pyro.devices import choose_device
from dood_pyro.errors import UserError
from dood_pyro.training.shared_noise import Share, SharedNoiseMessenger

Computed = TypeVar("Computed")
PATIENCE = datetime.timedelta(hours=1)
"""How long processes wait for each other; the others do while the first measures."""


class LostProcess(UserError):
    """Another process of the training has ended or cannot be reached."""


class Followed(Exception):
    """The first process ends the training, and says why."""


class Team:
    """This process and those that train with it; by itself, a process that trains alone."""

    def __init__(self, share: Share | None = None, control: Any = None) -> None:
        self.share = share or Share(0, 1)
        self.control = control
        """Process group of what is agreed upon; on CPUs, where nothing waits for a device."""

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.share.world == 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.share.rank == 0

    @contextlib.contextmanager
    def noise(self) -> Iterator[None]:
        """Inside, programs draw the whole batch's noise and keep that of this process's images."""
        with contextlib.nullcontext() if self.alone else SharedNoiseMessenger(self.share):
            yield

    def rows(self, batch_size: int) -> slice:
        """This process's rows of a batch.

        Raises:
            UserError: the batch cannot be shared evenly.
        """
        if batch_size % self.share.world:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared evenly by {self.share.world} "
                "processes; set --batch-size to a multiple"
            )
        return self.share.rows(batch_size)

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all processes.

        Raises:
            LostProcess: there are no longer all of them.
        """
        if self.alone:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        with self.together():
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=self.control)
        return shared.tolist()

    @contextlib.contextmanager
    def after_first(self) -> Iterator[None]:
        """The block is run by the first process, and then by the others.

        Raises:
            Followed: in the others, where the first has failed.
        """
        if self.first:
            done = False
            try:
                yield
                done = True
            finally:
                with contextlib.suppress(LostProcess) if not done else contextlib.nullcontext():
                    self.from_first(done)
        elif self.from_first():
            yield
        else:
            raise Followed

    def mean(self, values: Tensor) -> Tensor:
        """The mean of tensors on the device over all processes; the same in all."""
        if not self.alone:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.share.world
        return values

    def from_first(self, value: Any = None) -> Any:
        """What the first process hands to all."""
        if self.alone:
            return value
        box = [value]
        with self.together():
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Inside, what needs the others says so where they are gone."""
        try:
            yield
        except RuntimeError as error:
            # Lost connections come as errors of torch.distributed, or from gloo as plain ones.
            if self.alone or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            raise LostProcess(
                "another process of this training has ended or cannot be reached; the last "
                "checkpoint is whole: go on with --resume"
            ) from None


class SharedLoss:
    """Losses whose gradients are means over all processes (torch's DistributedDataParallel).

    Args:
        modules: those that hold the parameters.
    """

    def __init__(self, team: Team, modules: Sequence[nn.Module], device: torch.device) -> None:
        self.team, self.modules, self.device = team, modules, device
        self.parallel: nn.Module | None = None

    def connect(self) -> None:
        """Meet the other processes, which do the same, if there are any and that is still to be done:
        with all parameters that learn set to learn."""
        if self.team.alone or self.parallel is not None:
            return
        from torch.nn.parallel import DistributedDataParallel

        self.parallel = DistributedDataParallel(
            _Calls(nn.ModuleList(self.modules)),
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            # Baselines, and the model while the guide learns from random strokes.
            find_unused_parameters=True,
        )

    def __call__(self, compute: Callable[[], Computed]) -> Computed:
        """A loss of this process's images, and what else is to be known, computed from the modules."""
        if self.parallel is None:
            return compute()
        with self.team.noise():
            computed: Computed = self.parallel(compute)
        return computed


class _Calls(nn.Module):
    """A module that computes what it is handed, for DistributedDataParallel to see its parameters."""

    def __init__(self, parts: nn.ModuleList) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, compute: Callable[[], Computed]) -> Computed:
        return compute()


def started_together() -> bool:
    """Whether ``torchrun`` has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def joined(device_name: str) -> Iterator[tuple[Team, torch.device]]:
    """The team that ``torchrun`` has started this process in, and this process's device; by itself
    elsewhere.

    Raises:
        UserError: the device cannot be had, or the processes do not find each other.
    """
    device = choose_device(device_name)
    if not started_together():
        yield Team(), device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        if device.index >= torch.cuda.device_count():
            raise UserError(
                f"process {device.index} of this machine finds no GPU of its own; start as many as "
                f"there are: torchrun --nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        control = dist.new_group(backend="gloo", timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this training do not find each other: {str(error).splitlines()[0]}; "
            "start them by torchrun"
        ) from None
    try:
        yield Team(Share(dist.get_rank(), dist.get_world_size()), control), device
    finally:
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
