"""The table of generative programs: DooD, its ablations, and its rivals (section 3.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dood_pyro.baselines.air import AIR
from dood_pyro.config import ModelConfig
from dood_pyro.model import DooD
from dood_pyro.stepwise import Program


@dataclass(frozen=True)
class Entry:
    """A program that can be trained."""

    make: Callable[[ModelConfig], Program[Any]]
    title: str
    """As tables and figures call it; the paper's name where it has one."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What its configuration has that the default one has not."""

    def configure(self, config: ModelConfig) -> ModelConfig:
        """``config`` with this program's settings put in."""
        return dataclasses.replace(config, **self.settings)


PROGRAMS = {
    "dood": Entry(DooD, "DooD"),
    "dood-no-renderer": Entry(DooD, "DooD−δR", {"renderer": "network"}),
    "dood-no-guidance": Entry(DooD, "DooD−EG", {"guidance": False}),
    "dood-independent-prior": Entry(DooD, "DooD, independent prior", {"prior": "independent"}),
    "dair": Entry(AIR, "Difference-AIR", {"prior": "independent"}),
    "air": Entry(AIR, "AIR", {"prior": "independent", "guidance": False}),
}
"""By the name that ``--model`` takes."""
