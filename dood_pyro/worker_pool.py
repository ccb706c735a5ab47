"""Pools of worker processes that leave Ctrl-C to the process that started them, and end with it.
``dood-pyro parse`` spreads pictures over one, ``dood-pyro evaluate`` shards of images.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
CONTEXT = multiprocessing.get_context("spawn")
"""Spawned: a forked process may hang in torch's threads."""


class WorkerPool(ProcessPoolExecutor):
    """Processes with one torch thread each; those at work are ended where its block ends by an error.

    Args:
        jobs: how many processes.
        start: called in each process before its first piece of work, with ``arguments``.
    """

    def __init__(
        self, jobs: int, start: Callable[..., None] | None = None, *arguments: Any
    ) -> None:
        super().__init__(jobs, CONTEXT, _start, (start, arguments))
        self.jobs = jobs
        self.workers: set[BaseProcess] = set()

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:  # which starts a process while there are too few
        if len(self.workers) == self.jobs:
            return super().submit(fn, *args, **kwargs)
        others = multiprocessing.active_children()
        with _interrupts_held():
            future = super().submit(fn, *args, **kwargs)
        self.workers.update(set(multiprocessing.active_children()) - set(others))
        return future

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            for process in self.workers:
                process.terminate()
        self.shutdown(cancel_futures=kind is not None)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Deliver an interrupt after the block; processes started inside never receive one.

    Without it, a Ctrl-C while they import torch ends each in a traceback on the user's terminal.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """Set up a worker process."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    if start is not None:
        start(*arguments)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
