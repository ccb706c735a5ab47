"""Drawing out of Distribution (DooD, NeurIPS 2022) as a Pyro program.

>>> import dood_pyro
>>> dood = dood_pyro.load("omniglot")        # trained weights, or a run folder
>>> drawing = dood.parse("character.png")    # strokes out of pixels
>>> drawing.svg(), drawing.json(), drawing.render(200)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dood_pyro.config import ModelConfig, TrainConfig
    from dood_pyro.drawing import Drawing
    from dood_pyro.errors import UserError
    from dood_pyro.models.dood import DooD
    from dood_pyro.recognition import Recognizer, load

_PUBLIC = {
    "Recognizer": "recognition",
    "DooD": "model",
    "Drawing": "drawing",
    "ModelConfig": "config",
    "TrainConfig": "config",
    "UserError": "errors",
    "load": "recognition",
}

__all__ = ["DooD", "Drawing", "ModelConfig", "Recognizer", "TrainConfig", "UserError", "load"]


def __getattr__(name: str) -> Any:
    # Public names are imported on first use: torch and Pyro take seconds, --help must not.
    if name in _PUBLIC:
        return getattr(import_module(f"dood_pyro.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'dood_pyro' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
