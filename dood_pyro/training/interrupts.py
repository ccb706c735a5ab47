"""Signals that wait for the end of a training step. Used by the training loop."""

from __future__ import annotations

import signal
import threading
from typing import Any

from dood_pyro.training.processes import LostProcess


class DeferredInterrupt:
    """A context in which Ctrl-C waits for the end of a step, so that what is saved is a whole step; a
    second one does not. SIGTERM waits, too, however often it comes.

    Half a step, its random numbers drawn and its weights not yet moved, could not be gone on from.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        """The signal that came."""

    def __enter__(self) -> DeferredInterrupt:
        self.before: dict[signal.Signals, Any] = {}
        # Python delivers signals to its main thread alone.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: Any) -> None:
        # A terminal's Ctrl-C may come twice over: from it, and as SIGTERM from the parent.
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for number, before in self.before.items():
            if number == signal.SIGTERM and isinstance(error, LostProcess):
                # torchrun ends those that are left: not before this one has said why it ends.
                signal.signal(number, signal.SIG_IGN)
            elif before is not None:  # else set by other than Python, and not to be had again
                signal.signal(number, before)
