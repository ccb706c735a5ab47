"""Training, for commands and `dood_pyro.research`: one loop for all models and guides (section 2.3)."""

from dood_pyro.training.loop import Training, train
from dood_pyro.training.trainer import Trainer

__all__ = ["Trainer", "Training", "train"]
