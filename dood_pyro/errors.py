"""Errors that end a command with a message to the user.
Raised in the whole package; the command line and the scripts in ``experiments`` print the message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any


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


def whole_number(what: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """A caller's argument that is a whole number, numpy's included.

    Args:
        what: the argument's name.
        low, high: the least and the greatest that it may be.

    Raises:
        UserError: it is no whole number, or out of range.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        most = " or more" if high is None else f" to {high:,}"
        raise UserError(f"{what} is {value!r:.60}; it must be a whole number, {low}{most}")
    return int(value)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exit a script with one line on standard error and status 1 on a `UserError`."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{sys.argv[0]}: {' '.join(str(error).split())}")
