"""Facts about a run, as opposed to its settings: hashes of what it learned from, and versions.
Run folders keep them in facts.json.
"""

from __future__ import annotations

import dataclasses
import platform
import subprocess
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dood_pyro.devices import hardware
from dood_pyro.errors import UserError

PACKAGES = ("dood-pyro", "torch", "pyro-ppl", "numpy", "safetensors", "torchvision")
"""Packages whose versions a run notes."""


@dataclass(frozen=True)
class RunFacts:
    """Facts about a run."""

    data_sha256: str = ""
    """Hash of the source's images and labels, so that a run goes on with the data it began with; ""
    before it has seen them."""
    native_size: int = 0
    """Pixels per side of the source's images as they came; 0: not known, or not square."""
    initial_sha256: str = ""
    """Hash of the weights that training started from; "" for random ones."""
    versions: dict[str, str] = field(default_factory=dict)
    """Packages, Python, hardware and revision that the run was started with."""

    def to_json(self) -> dict[str, Any]:
        """The facts as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, what: str) -> RunFacts:
        """The facts that `to_json` wrote.

        Raises:
            UserError: they are malformed; ``what`` says whose.
        """
        kinds: dict[str, type] = {
            "data_sha256": str,
            "native_size": int,
            "initial_sha256": str,
            "versions": dict,
        }
        sound = isinstance(values, dict) and set(values) <= set(kinds)
        if not sound or any(not isinstance(value, kinds[n]) for n, value in values.items()):
            raise UserError(f"{what} is damaged: it does not hold a run's facts")
        return cls(**values)


def versions_here(device: torch.device) -> dict[str, str]:
    """Versions of packages and Python, hardware and revision, as they are now."""
    found = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    found |= {"python": platform.python_version(), "revision": revision()}
    found["hardware"] = hardware(device)
    return found


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def revision() -> str:
    """Commit that the package was imported from, or its version where there is no repository."""
    here = Path(__file__).resolve().parent.parent
    version = _version("dood-pyro") or "unknown"
    if not (here.parent / ".git").exists():
        return version
    try:
        git = subprocess.run(
            [
                "git",
                "-C",
                str(here),
                "describe",
                "--always",
                "--abbrev=12",
                "--dirty",
                "--exclude=*",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return version
    return git.stdout.strip() or version
