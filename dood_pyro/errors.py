"""The error that a user can mend."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the user asked for cannot be done; the message says what is wrong and what to do.

    The command line prints the message on one line and exits with status 1.
    """


class Interrupted(KeyboardInterrupt):
    """What was asked for was broken off by a signal, after all of it had been saved.

    Args:
        message: what to do to go on.
        number: the signal's; the exit status is 128 more, as shells have it.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Inside a script: such an error ends it with one line on standard error and status 1."""
    try:
        yield
    except UserError as error:
        sys.exit(f"{sys.argv[0]}: {' '.join(str(error).split())}")
