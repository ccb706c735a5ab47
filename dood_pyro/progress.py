"""Progress bars that no display can bring down.

What a bar is written to may go away: a terminal that is closed, a pipe that nobody reads any more, a
disk that is full. The work behind the bar goes on without it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from tqdm import tqdm


def redirect_to_devnull(stream: Any) -> None:
    """What a stream that cannot be written to still holds, and all that is written to it later, goes
    nowhere, lest it fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


class LossyStream:
    """A stream that drops what cannot be written. A missing one (``2>&-``) takes nothing."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes text, or drops it."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # ValueError: it has been closed
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flushes, or does not."""
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        redirect_to_devnull(self._stream)
        self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    # tqdm tells by == whether a line is printed across a bar, which then makes way.
    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return id(self._stream)


def progress_bar(**options: Any) -> tqdm:
    """A `tqdm` bar on standard error, with its options."""
    return tqdm(file=LossyStream(sys.stderr), **options)


def update_bar(bar: tqdm, done: float) -> None:
    """Moves a bar on; parts of a whole add up to a little more than it, and are cut off there."""
    left = float(bar.total or 0) - float(bar.n)
    bar.update(min(done, left))


def print_across(bar: tqdm, text: str) -> None:
    """Prints a line on standard output, where a bar may stand, if anyone is there to read it."""
    bar.write(text, file=LossyStream(sys.stdout))


def print_if_read(text: str) -> None:
    """Prints a line on standard output, if anyone is there to read it: after work that is saved."""
    print(text, file=LossyStream(sys.stdout), flush=True)
