"""Atomic replacement of files, locks, and errors for files that cannot be read or written.
Used wherever the package reads or writes run folders, prepared sources, figures or records.

A reader of a replaced file sees the old content or the new content, never a part.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dood_pyro.errors import UserError


def unreadable(path: str | Path, error: BaseException, advice: str = "") -> UserError:
    """Return the error to raise where reading a file raised ``error``.

    The message says what is wrong and what to do.

    Args:
        advice: text that ends the message where the file is damaged: what to do.
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
    """Return the error to raise where writing a file raised ``error``.

    The message says what is wrong and what to do.
    """
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
    """Refuse a path that is neither a file nor a folder; call before opening the path to read.

    Raises:
        UserError: the path is a pipe, a device or a socket, where reading might wait for ever. A
            path that is missing, or has no readable status, passes: opening it reports why.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(
            f"{path} is a pipe or a device, not a file; save its content to a file, and name that file"
        )


def read_bytes(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        UserError: the file cannot be read (`unreadable`, `refuse_special`).
    """
    refuse_special(path)
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


@contextmanager
def replacing(path: Path, verify: Callable[[Path], None] | None = None) -> Iterator[IO[bytes]]:
    """Yield a new file that replaces ``path`` once the new file is complete and on the disk.

    The caller writes to the file, or passes its ``name`` to whatever writes.

    Args:
        verify: called with the new file's path before the replacement; an exception from ``verify``
            leaves the old file in place.

    Raises:
        UserError: the disk does not take the new file; the old one is still at ``path``.
    """
    try:
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}"
        # The system applies the umask; to ask for it, it would have to be changed for all threads.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            with suppress(OSError):  # no old file
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if verify is not None:
                verify(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):  # the folder may have been removed
                os.unlink(temporary)
            raise
    except OSError as error:
        raise unwritable(path, error) from None


def named(path: str | Path) -> Path:
    """Return a path whose last part is a name: ``.`` and ``..`` are resolved to the whole path."""
    path = Path(path)
    return path if path.name not in ("", "..") else path.resolve()


def check_output(path: Path) -> None:
    """Refuse a path that cannot be written; call before long work whose result goes to ``path``.

    Raises:
        UserError: no file can be written at ``path``.
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
    """Hold an exclusive lock on a folder, or on a file that is created if missing.

    Where the file system has no locks, other processes are not kept out.

    Args:
        wait: whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: another process holds the lock, and ``wait`` is false.
    """
    # O_NONBLOCK: opening must not wait, even where a pipe has that name.
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
    """Write ``content`` to ``path``, all of it or nothing.

    Raises:
        UserError: as for `replacing`.
    """
    with replacing(path) as file:
        file.write(content)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, or an empty object where there is no file.

    Also called before long work whose result goes to ``path``, to find errors first.

    Raises:
        UserError: the file holds something else, or cannot be written (`check_output`).
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


def remove_numbered_from(folder: Path, first: int) -> None:
    """Remove the files that a command of more drawings has left in a folder: 012.svg, 012-drawn.svg and
    the like, from number ``first`` on."""
    for path in folder.iterdir():
        match = re.fullmatch(r"(\d{3,})(-drawn)?\.(png|svg|json)", path.name)
        if match and int(match[1]) >= first:
            path.unlink()


def refuse_another_run(path: Path | None, key: str, run: dict[str, Any]) -> None:
    """Refuse to replace another run's entry; call before a measurement that goes under ``key``.

    Args:
        path: file with the JSON object; None where the measurement is not kept.
        run: identity of the measured run, kept in the entry under ``"run"`` (`Run.provenance`).

    Raises:
        UserError: the entry under ``key`` belongs to another run.
    """
    if path is None:
        return
    known = read_object(path).get(key)
    theirs = known.get("run", {}) if isinstance(known, dict) else {}
    identity = ("model", "source", "seed", "train_data_sha256", "config_sha256")
    if any(name in theirs and theirs[name] != run[name] for name in identity):
        raise UserError(
            f"{path} has {key!r} of another run, or of other settings; name another file, or remove "
            "that entry"
        )


def update_object(path: Path | None, entries: dict[str, Any]) -> None:
    """Add entries to the JSON object in a file; entries under other keys stay.

    Args:
        path: None to write nothing.

    Raises:
        UserError: the file holds something else, or cannot be written.
    """
    if path is None:
        return
    read_object(path)  # reports a bad path before its folder is locked
    with locked(path.parent):
        content = read_object(path) | entries
        write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
