"""Tensors on disk: safetensors files, with checksums that are verified whenever they are read.
Used by run folders, checkpoints and feature networks.

A file notes the checksum of all its content. Older files without one may be listed in a file
``SHA256SUMS`` of a folder above, in the form of the command ``sha256sum``.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load as unpack
from safetensors.torch import save_file
from torch import Tensor, nn

from dood_pyro.errors import UserError
from dood_pyro.files import read_bytes, replacing, unreadable

N = TypeVar("N", int, float)

SUMS = "SHA256SUMS"
"""Checksums of files that do not hold their own, a line each: the sum, two spaces, the path from the
folder that this file is in."""


def verify_listed(path: Path, content: bytes) -> None:
    """Verify a file's content where a `SUMS` of its folder, or of the folder above, lists it.

    Raises:
        UserError: the content has changed.
    """
    path = path.resolve()
    for folder in (path.parent, path.parent.parent):
        sums = folder / SUMS
        if not sums.is_file():
            continue
        lines = (line.split(maxsplit=1) for line in sums.read_text(errors="replace").splitlines())
        listed = {words[1]: words[0] for words in lines if len(words) == 2}
        expected = listed.get(path.relative_to(folder).as_posix())
        if expected is not None and expected != hashlib.sha256(content).hexdigest():
            raise UserError(
                f"{path} is damaged: its checksum is not the one in {sums}; take it from where it "
                "came from once more"
            )


CHECKSUM = "sha256"
"""Note of a file of tensors: the checksum of all its content."""
CHECKED = "checksum"
"""Note that a checksum is there."""


def write_tensors(
    path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, with a checksum among its notes. The old file at ``path`` stays until
    the new one has been read back.

    Raises:
        UserError: the disk does not take it, or does not give it back as it was.
    """
    packed = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    known: set[int] = set()
    for key, tensor in packed.items():  # tied weights, which the format has no way to share
        place = tensor.untyped_storage().data_ptr()
        packed[key] = tensor.clone() if place in known else tensor
        known.add(place)
    notes = dict(notes or {})
    notes |= {CHECKSUM: _checksum(packed, notes), CHECKED: CHECKSUM}

    def verify(written: Path) -> None:
        try:
            read_tensors(written)
        except UserError:
            raise UserError(
                f"{path} was not written as it should have been: what the disk gives back is another; "
                "look after the disk. The last checkpoint is still there"
            ) from None

    with replacing(path, verify) as file:
        try:
            save_file(packed, file.name, metadata=notes)
        except safetensors.SafetensorError as error:
            # It tells of the system's errors in words alone.
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error)) from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file's tensors and notes.

    Raises:
        UserError: it is missing or damaged, or its checksum tells that it has been changed.
    """
    content = read_bytes(path)
    try:
        tensors = unpack(content)
        # The header, of as many bytes as the first eight say. Read from the file a second time, it
        # could be that of a newer one.
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (safetensors.SafetensorError, ValueError) as error:
        raise unreadable(path, error) from None
    notes: dict[str, str] = header.get("__metadata__") or {}
    # Two notes: a file in which the name of one was damaged would pass for a file without any.
    expected, checked = notes.pop(CHECKSUM, None), notes.pop(CHECKED, None)
    if expected is None and checked is None:
        verify_listed(path, content)
    elif checked != CHECKSUM or expected != _checksum(tensors, notes):
        raise UserError(
            f"{path} is damaged: its checksum is not that of what is in it; go back to another "
            "checkpoint or copy"
        )
    return tensors, notes


def _checksum(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """SHA-256 of notes and tensors: names, types, shapes and numbers."""
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def number_in(values: Any, name: str, kind: type[N], what: str = "") -> N:
    """Number ≥ 0 under a name, in the notes of a file of tensors or in a line of metrics; 0 where the
    name is missing.


    Raises:
        UserError: the value is no such number; ``what`` names the file.
    """
    try:
        number = kind(values.get(name, 0))
        if number >= 0:  # not so of NaN
            return number
    except (AttributeError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{what} is damaged: its {name} is not a number of 0 or more")


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of the model, or of the guide, under their own names."""
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def load_tensors(module: nn.Module, tensors: dict[str, Tensor], what: str) -> None:
    """Copy tensors into a module's parameters and buffers.

    Raises:
        UserError: names, shapes or kinds of numbers differ, or a number is not finite; ``what`` names
            the file.
    """
    own = module.state_dict()
    differ = [
        name
        for name in {**own, **tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if differ:
        more = f" and {len(differ) - 1} more do" if len(differ) > 1 else " does"
        raise UserError(f"{what} holds the weights of something else: {differ[0]}{more} not fit")
    for name, tensor in tensors.items():
        # Kept weights are in half precision.
        both_float = tensor.is_floating_point() and own[name].is_floating_point()
        if tensor.dtype != own[name].dtype and not both_float:
            raise UserError(
                f"{what} is damaged: {name} is of {tensor.dtype}, and should be of {own[name].dtype}"
            )
    refuse_not_finite(tensors, what)
    module.load_state_dict(tensors)


def refuse_not_finite(tensors: dict[str, Tensor], what: str) -> None:
    """Raise `UserError` naming the first tensor that holds NaN or infinity, and ``what``."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise UserError(
                f"{what} holds numbers that are not finite, in {name}: its training diverged, or it is "
                "damaged"
            )
