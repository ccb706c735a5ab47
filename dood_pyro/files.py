"""Files that are replaced in one move, so that a reader sees the old one or the new one; and what is
said of those that cannot be read or written."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dood_pyro.errors import UserError


def unreadable(path: str | Path, error: BaseException, advice: str = "") -> UserError:
    """The error to raise where reading a file raised ``error``: what is wrong and what to do.

    Args:
        advice: what to do where the file is damaged.
    """
    if isinstance(error, FileNotFoundError):
        return UserError(f"there is no {path}")
    if isinstance(error, IsADirectoryError):
        return UserError(f"{path} is a folder, not a file")
    if isinstance(error, PermissionError):
        return UserError(f"{path} cannot be read: {error.strerror}; permit it, and call again")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return UserError(f"the name {str(path)[:60]}… is too long for a file; choose a shorter one")
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ESTALE):
        return UserError(f"{path} cannot be read: {error.strerror}; look after the disk")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path} is damaged ({reason}){advice}")


def unwritable(path: str | Path, error: OSError) -> UserError:
    """The error to raise where writing a file raised ``error``: what is wrong and what to do."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"the name {str(path)[:60]}… is too long for a file; choose a shorter one")
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return UserError(f"cannot write {path}: {reason}; free some space, and call again")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        folder = Path(path).parent
        return UserError(f"cannot write {path}: the folder {folder} is not there, or no longer")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return UserError(f"cannot write {path}: {reason}; permit it, and call again")
    return UserError(f"cannot write {path}: {reason}")


def refuse_special(path: str | Path) -> None:
    """Called before a file is opened to be read.

    Raises:
        UserError: it is a pipe, a device or a socket, on which reading might wait for ever. What is
            not there, or cannot be looked at, is for whoever opens it to say.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(
            f"{path} is a pipe or a device, not a file; write what it gives to a file, and name that"
        )


def read_bytes(path: Path, advice: str = "") -> bytes:
    """A file's content.

    Raises:
        UserError: it cannot be read (`unreadable`, `refuse_special`).
    """
    refuse_special(path)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(path, error, advice) from None


@contextmanager
def replacing(path: Path, verify: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """A file to write to (or, by its ``name``, to have written to) that takes its place at ``path``
    once it is whole and on the disk.

    Args:
        verify: called with the path of the new file before it takes its place; what it raises leaves
            the old one there.

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
            if verify is not None:
                verify(Path(temporary))
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the folder may be gone
                os.unlink(temporary)
            raise
    except OSError as error:
        raise unwritable(path, error) from None


def named(path: str | Path) -> Path:
    """The same path with a last part that is a name: of ``.`` and ``..``, the whole path."""
    path = Path(path)
    return path if path.name not in ("", "..") else path.resolve()


def check_output(path: Path) -> None:
    """Called before long work whose result goes to ``path``.

    Raises:
        UserError: no file can be put there.
    """
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}; create it")
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe, not a file; name another")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} cannot be written to; permit it, or name another folder")


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Inside, no other process is inside for the same folder, or file, which is made if need be. Where
    the file system knows no locks, nothing is kept out.

    Args:
        wait: for another process to come out.

    Raises:
        BlockingIOError: another process is inside and is not waited for.
    """
    # O_NONBLOCK: whatever lies there by that name is not waited for.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if path.is_dir() else os.O_CREAT)
    descriptor = os.open(path, flags, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise
        yield
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Puts ``content`` at ``path`` whole or not at all.

    Raises:
        UserError: as for `replacing`.
    """
    with replacing(path) as file:
        file.write(content)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no file.

    Called before long work whose result goes there, too, so that what is wrong is found out first.

    Raises:
        UserError: it holds something else, or cannot be written (`check_output`).
    """
    check_output(path)
    if not path.exists():
        return {}
    content = read_bytes(path)
    try:
        known = json.loads(content)
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict):
        raise UserError(f"{path} is damaged: it is not a JSON object; move it away")
    return known


def refuse_another_run(
    path: Path | None, key: str, run: dict[str, Any], under: str | None = None
) -> None:
    """Called before a measurement is made that is to go under ``key`` of the JSON object in a file.

    Args:
        path: None where it is not to be kept.
        run: which run it is of, as the entry is to say under ``"run"`` (`Run.provenance`).
        under: as for `update_object`.

    Raises:
        UserError: what is there is of another run.
    """
    if path is None:
        return
    known = _entries(path, read_object(path), under).get(key)
    theirs = known.get("run", {}) if isinstance(known, dict) else {}
    identity = ("model", "source", "seed", "train_data_sha256", "config_sha256")
    if any(name in theirs and theirs[name] != run[name] for name in identity):
        raise UserError(
            f"{path} has {key!r} of another run, or one of other settings; name another file, or take "
            "that entry out"
        )


def _entries(path: Path, content: dict[str, Any], under: str | None) -> dict[str, Any]:
    """The object itself, or the one under a key of it."""
    found = content if under is None else content.setdefault(under, {})
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: its {under!r} is not a JSON object; take it out")
    return found


def update_object(path: Path | None, entries: dict[str, Any], under: str | None = None) -> None:
    """Puts entries into the JSON object in a file, beside those of other keys; None: nowhere.

    Args:
        under: a key of that object, whose value is the object that they go into.

    Raises:
        UserError: the file holds something else, or the disk does not take it.
    """
    if path is None:
        return
    read_object(path)  # says what is wrong with the path
    with locked(path.parent):
        content = read_object(path)
        place = _entries(path, content, under)
        place |= entries
        write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
