"""Progress bars whose output may fail without stopping the work.
Used by commands and by the preparation of data sources.

A bar's output may go away: the terminal is closed, nobody reads the pipe any more, or the disk is
full. The work continues without the bar.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Self

from tqdm import tqdm


def redirect_to_devnull(stream: Any) -> None:
    """Redirect a stream that cannot be written, with its buffered output, to /dev/null.

    Python flushes the stream at exit, which would otherwise fail again.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


class LossyStream:
    """Stream that drops what cannot be written; a missing stream (``2>&-``) drops everything."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, or drop the text where the stream fails."""
        if self._stream is not None:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # ValueError: the stream is closed
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush the stream, or give up a stream that fails."""
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

    # tqdm compares streams by ==, to move a bar out of the way of a line printed on its stream.
    def __eq__(self, other: object) -> bool:
        return self._stream is getattr(other, "_stream", other)

    def __hash__(self) -> int:
        return id(self._stream)


_quiet = False


def be_quiet(quiet: bool = True) -> None:
    """Show no bars, and say nothing on the way: results and errors alone."""
    global _quiet
    _quiet = quiet


def progress_bar(**options: Any) -> tqdm:
    """Return a `tqdm` bar on standard error, with `tqdm`'s options."""
    options["disable"] = bool(options.get("disable")) or _quiet
    return tqdm(file=LossyStream(sys.stderr), **options)


def update_bar(bar: tqdm, done: float) -> None:
    """Advance a bar by ``done``, at most to its total: rounded parts may sum to slightly more."""
    left = float(bar.total or 0) - float(bar.n)
    bar.update(min(done, left))


class Bars:
    """Bars that are shown when their work reports for the first time, one by one, with the total that
    is known then. As a context, it closes them however the work ends.

    Args:
        options: of `progress_bar`.
    """

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._bars: dict[str, tqdm] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()

    def advance(self, name: str, done: float, total: int) -> None:
        """Advance the bar of that name by ``done`` of ``total``."""
        if name not in self._bars:
            self._bars[name] = progress_bar(total=total, desc=name, **self._options)
        update_bar(self._bars[name], done)


def print_across(bar: tqdm, text: str) -> None:
    """Print a line on standard output, above the bar; drop the line where nobody reads."""
    if not _quiet:
        bar.write(text, file=LossyStream(sys.stdout))


def above_bars() -> contextlib.AbstractContextManager[None]:
    """Within it, lines are printed above the bars that are shown."""
    return tqdm.external_write_mode()


def print_if_read(text: str) -> None:
    """Print a line on standard output, or drop it where nobody reads: for use after work is saved."""
    print(text, file=LossyStream(sys.stdout), flush=True)
