"""Prints the oldest versions that setup.cfg allows, for pip: ``make test-oldest`` installs them."""

from __future__ import annotations

import configparser
from pathlib import Path


def oldest(requirements: str) -> list[str]:
    """Each requirement ``name>=version`` as ``name==version``."""
    return [line.replace(">=", "==") for line in requirements.split() if ">=" in line]


if __name__ == "__main__":
    parser = configparser.ConfigParser()
    parser.read(Path(__file__).parent.parent / "setup.cfg")
    print("\n".join(oldest(parser["options"]["install_requires"])))
