"""Errors that end a command with a message to the user.
Raised in the whole package; the command line and the scripts in ``experiments`` print the message.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent
LIBRARIES = {"torch", "torchvision", "pyro", "numpy", "scipy", "sklearn", "skimage", "jaxtyping"}
"""Folders of packages whose lines tell a user nothing."""
LONGEST = 400
"""Characters, about, that are told of an exception's message."""


class UserError(Exception):
    """Error that the user can fix; the message says what is wrong and what to do.

    The command line prints the message on one line and exits with status 1.
    """


class Interrupted(KeyboardInterrupt):
    """Interruption by a signal, raised after all work had been saved.

    Args:
        message: what to do to continue.
        number: number of the signal; the exit status is 128 more, as in shells.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, numpy's included, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole_number(what: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """A caller's argument that is a whole number, numpy's included.

    Args:
        what: the argument's name.
        low, high: the least and the greatest that it may be.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    if not is_whole(value) or value < low or (high is not None and value > high):
        most = " or more" if high is None else f" to {high:,}"
        raise UserError(f"{what} is {value!r:.60}; it must be a whole number, {low}{most}")
    return int(value)


def told(error: BaseException) -> str:
    """What is to be said of an exception that anyone's code has raised: its message on one line, and
    the last line of that code that it came by, if it came by any."""
    message = " ".join(str(error).partition("Trace Shapes:")[0].split())  # of Pyro's, tables follow
    if len(message) > LONGEST:
        message = f"{message[:LONGEST]}…"
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = [
        f"{Path(frame.filename).name}, line {frame.lineno}"
        for frame in frames
        if not _is_library(frame.filename)
    ]
    if where:
        return f"{kind}: {message} ({where[-1]})" if message else f"{kind} ({where[-1]})"
    return kind if not message else f"{kind}: {message}" if kind == "KeyError" else message


def _is_library(file: str) -> bool:
    path = Path(file)
    if path.is_relative_to(PACKAGE) or file.startswith("<frozen"):
        return True
    if "site-packages" in path.parts:  # where code of one's own may be installed, too
        return path.parts[path.parts.index("site-packages") + 1] in LIBRARIES
    return path.is_relative_to(Path(traceback.__file__).parent)  # Python's own


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exit a script with one line on standard error and status 1 on a `UserError`."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{sys.argv[0]}: {' '.join(str(error).split())}")
