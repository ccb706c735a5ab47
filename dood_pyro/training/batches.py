"""Training batches by step number, and the images held out from them. Used by the training loop."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.training.processes import Team

HELD_OUT = 512
"""Images held out, at most."""


class BatchRows:
    """Rows of training batches by step number: epoch after epoch, each in its own order.

    The order follows from the seed and the step alone, so that there is no place to remember.

    Args:
        rows: all of them.
        device: where a step's rows are wanted.
        team: processes of which each has its rows of every batch.

    Raises:
        UserError: these cannot share a batch evenly.
    """

    def __init__(
        self, rows: np.ndarray, batch_size: int, seed: int, device: torch.device, team: Team
    ) -> None:
        self.rows, self.seed, self.device = rows, seed, device
        self.batch_size = min(batch_size, len(rows))
        self.mine = team.rows(self.batch_size)
        self.epoch = -1
        self.order = torch.empty(0, dtype=torch.long)

    def __getitem__(self, step: int) -> Tensor:
        """The rows of a step's batch, or this process's part of them."""
        epoch, place = divmod(step, len(self.rows) // self.batch_size)
        if epoch != self.epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.rows)
            self.order, self.epoch = torch.from_numpy(order).to(self.device), epoch
        return self.order[place * self.batch_size : (place + 1) * self.batch_size][self.mine]


class Batches:
    """Training batches of images by step number (`BatchRows`).

    Args:
        images: bytes, (count, size, size).
        rows: the rows of ``images`` to train on.
        native_size: pixels per side that the images came with.
        team: processes of which each has its rows of every batch.

    Raises:
        UserError: these cannot share a batch evenly.
    """

    def __init__(
        self,
        images: Tensor,
        rows: np.ndarray,
        batch_size: int,
        seed: int,
        device: torch.device,
        native_size: int = 0,
        team: Team | None = None,
    ) -> None:
        self.images = images.to(device)
        self.rows = BatchRows(rows, batch_size, seed, device, team or Team())
        self.native_size = native_size

    def __getitem__(self, step: int) -> ImageBatch:
        """The batch of a step, or this process's part of it; pixels in [0, 1]."""
        return ImageBatch(self.images[self.rows[step]].float() / 255, self.native_size)


def split_held_out(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of ``count`` images to train on, and the rows held out to choose the best checkpoint
    by: a tenth, up to `HELD_OUT`.

    Raises:
        UserError: there are too few.
    """
    if count < 2:
        raise UserError("a source needs at least two training images: one is held out")
    order = np.random.default_rng(0).permutation(count)
    held_out = min(HELD_OUT, max(1, count // 10))
    return order[held_out:], order[:held_out]
