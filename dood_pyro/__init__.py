"""Drawing out of Distribution (DooD, NeurIPS 2022) as a Pyro program: the names that users import.

>>> import dood_pyro
>>> drawing = dood_pyro.parse("character.png")    # strokes out of pixels
>>> drawing.svg(), drawing.json(), drawing.render(200)
>>> dood = dood_pyro.load("omniglot")             # trained weights, or a run folder
>>> dood.sample(8), dood.complete("character.png")

Research goes by the same names as the commands: `train`, `resume`, `evaluate`, `Run`, `configure`.
Models, guides and estimators are Pyro programs and torch modules to subclass (docs/extending.md,
docs/pyro.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dood_pyro.canvas_drawing import CanvasDrawing
    from dood_pyro.config import ModelConfig, RunConfig, SettingError, TrainConfig
    from dood_pyro.data.given import make_source
    from dood_pyro.drawing import Drawing, Drawings, PenStroke
    from dood_pyro.errors import UserError
    from dood_pyro.estimators.base import Estimator
    from dood_pyro.estimators.multi_sample import IWAE, ReweightedWakeSleep
    from dood_pyro.estimators.nvil import NVIL
    from dood_pyro.estimators.stop_marginal import StopMarginalELBO
    from dood_pyro.guides.amortised import AmortisedGuide
    from dood_pyro.guides.base import Guide, SequentialGuide
    from dood_pyro.guides.full_covariance import FullCovarianceGuide
    from dood_pyro.images import ImageBatch
    from dood_pyro.listing import Runs, runs
    from dood_pyro.models.base import DrawingModel, Trajectory
    from dood_pyro.models.dood import DooD, StepValues
    from dood_pyro.parsing import parse
    from dood_pyro.recognition import Recognizer, load
    from dood_pyro.research import begin_training, configure, evaluate, resume, train
    from dood_pyro.run_folders.budget import TrainingBudget
    from dood_pyro.run_folders.run import Run
    from dood_pyro.stroke import Stroke
    from dood_pyro.training.loop import Training

_MODULES = {
    "config": ("ModelConfig", "RunConfig", "SettingError", "TrainConfig"),
    "canvas_drawing": ("CanvasDrawing",),
    "data.given": ("make_source",),
    "drawing": ("Drawing", "Drawings", "PenStroke"),
    "errors": ("UserError",),
    "estimators.base": ("Estimator",),
    "estimators.multi_sample": ("IWAE", "ReweightedWakeSleep"),
    "estimators.nvil": ("NVIL",),
    "estimators.stop_marginal": ("StopMarginalELBO",),
    "guides.amortised": ("AmortisedGuide",),
    "guides.base": ("Guide", "SequentialGuide"),
    "guides.full_covariance": ("FullCovarianceGuide",),
    "images": ("ImageBatch",),
    "models.base": ("DrawingModel", "Trajectory"),
    "models.dood": ("DooD", "StepValues"),
    "parsing": ("parse",),
    "recognition": ("Recognizer", "load"),
    "research": ("begin_training", "configure", "evaluate", "resume", "train"),
    "run_folders.budget": ("TrainingBudget",),
    "run_folders.run": ("Run",),
    "listing": ("Runs", "runs"),
    "stroke": ("Stroke",),
    "training.loop": ("Training",),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "IWAE",
    "NVIL",
    "AmortisedGuide",
    "CanvasDrawing",
    "DooD",
    "Drawing",
    "DrawingModel",
    "Drawings",
    "Estimator",
    "FullCovarianceGuide",
    "Guide",
    "ImageBatch",
    "ModelConfig",
    "PenStroke",
    "Recognizer",
    "ReweightedWakeSleep",
    "Run",
    "RunConfig",
    "Runs",
    "SequentialGuide",
    "SettingError",
    "StepValues",
    "StopMarginalELBO",
    "Stroke",
    "TrainConfig",
    "Training",
    "TrainingBudget",
    "Trajectory",
    "UserError",
    "begin_training",
    "configure",
    "evaluate",
    "load",
    "make_source",
    "parse",
    "resume",
    "runs",
    "train",
]


def __getattr__(name: str) -> Any:
    # Public names are imported on first use: torch and Pyro take seconds, --help must not.
    if name in _PUBLIC:
        return getattr(import_module(f"dood_pyro.{_PUBLIC[name]}"), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("dood-pyro")
    raise AttributeError(f"module 'dood_pyro' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC, "__version__"])
