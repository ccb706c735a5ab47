"""Noise of a batch that several processes share: each draws that of the whole batch, and keeps its own
images' rows. Trainings over several processes use it (`dood_pyro.training.processes`).

One process and N, started from one random state, then draw the same numbers for the same images, and
are in one random state afterwards. Noise is a small part of a step; networks and renderer, which are
nearly all of it, see a process's own images alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from dood_pyro.errors import UserError
from dood_pyro.models.sites import IMAGES

COUNTED = (
    *("normal", "uniform", "exponential", "bernoulli", "multinomial"),
    *("rand", "randn", "rand_like", "randn_like"),
)
"""Operations that draw as many random numbers for each element whatever its parameters, which those of
gamma variables, for one, do not."""


class Share(NamedTuple):
    """A process's part of each batch."""

    rank: int
    """Number of the process, from 0."""
    world: int
    """Number of processes."""

    def rows(self, count: int) -> slice:
        """Which of ``count`` images, a multiple of ``world``, are this process's."""
        mine = count // self.world
        return slice(self.rank * mine, (self.rank + 1) * mine)


class SharedNoiseMessenger(Messenger):
    """Inside, latent sites in the plate of images are sampled with the whole batch's noise.

    Sites outside that plate are the same for all images, and so in all processes.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["done"] or message["is_observed"] or message["value"] is not None:
            return
        dims = [frame.dim for frame in message["cond_indep_stack"] if frame.name == IMAGES]
        if not dims:
            return
        batch = tuple(message["fn"].batch_shape)
        with _WholeBatch(self.share, batch, len(batch) + dims[0]):
            message["value"] = message["fn"](*message["args"], **message["kwargs"])
        message["done"] = True


class _WholeBatch(TorchDispatchMode):
    """Inside, whatever draws random numbers draws those of all processes' images.

    Args:
        batch: shape that tensors of this process's images begin with.
        axis: of it that images lie along.
    """

    def __init__(self, share: Share, batch: Sequence[int], axis: int) -> None:
        super().__init__()
        self.share, self.batch, self.axis = share, tuple(batch), axis

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name not in COUNTED:
            raise UserError(
                f"several processes cannot share what torch's {name} draws, as it draws as many "
                "random numbers as it needs; train in one process, without torchrun"
            )
        if isinstance(args[0], Tensor):
            whole = func(*tree_map_only(Tensor, self._whole, args), **kwargs)
            mine = self._mine(whole)
            # An operation in place fills its first argument.
            return args[0].copy_(mine) if func._schema.is_mutable else mine
        sizes = list(args[0])
        self._check(sizes)
        sizes[self.axis] *= self.share.world
        return self._mine(func(sizes, *args[1:], **kwargs))

    def _check(self, shape: Sequence[int]) -> None:
        if tuple(shape[: len(self.batch)]) != self.batch:
            raise RuntimeError(
                f"random numbers of shape {tuple(shape)} do not begin with the images' {self.batch}; "
                "how several processes would share them is not known"
            )

    def _whole(self, tensor: Tensor) -> Tensor:
        """A tensor of the whole batch's shape: other processes' parameters are not at hand, and what
        is drawn by them is not kept."""
        return self._apart(tensor, lambda each: torch.cat([each] * self.share.world, self.axis))

    def _mine(self, tensor: Tensor) -> Tensor:
        """This process's rows of such a tensor."""
        return self._apart(
            tensor,
            lambda each: each.chunk(self.share.world, self.axis)[self.share.rank],
            world=self.share.world,
        )

    def _apart(self, tensor: Tensor, act: Any, world: int = 1) -> Tensor:
        """Act on a tensor with its batch's dimensions apart, as some operations have them as one."""
        batch = list(self.batch)
        batch[self.axis] *= world
        if list(tensor.shape[: len(batch)]) == batch:
            apart: Tensor = act(tensor)
            return apart
        if tensor.shape[:1] != (math.prod(batch),):
            self._check(tensor.shape)
        together: Tensor = act(tensor.unflatten(0, batch)).flatten(0, len(batch) - 1)
        return together
