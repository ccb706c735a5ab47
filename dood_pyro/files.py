"""Files that are replaced in one move, so that a reader sees the old one or the new one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from dood_pyro.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to (or, by its ``name``, to have written to) that takes its place at ``path``
    once it is whole and on the disk.

    Raises:
        UserError: the disk does not take it; what was at ``path`` is still there.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.close(descriptor)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or permit it, and "
            "call again"
        ) from None


def write_atomically(path: Path, content: bytes) -> None:
    """Puts ``content`` at ``path`` whole or not at all.

    Raises:
        UserError: as for `replacing`.
    """
    with replacing(path) as file:
        file.write(content)
