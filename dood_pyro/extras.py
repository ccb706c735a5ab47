"""Packages that not everyone needs, and the extra of dood-pyro that brings each.
Code that imports one does so inside `extra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dood_pyro.errors import UserError


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Inside, a package that cannot be found is said to come with an extra.

    Raises:
        UserError: it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "dood_pyro":
            raise
        raise UserError(f"this needs {missing}: pip install 'dood-pyro[{name}]'") from None
