"""Training for commands and research: one loop for every model, guide and estimator (section 2.3)."""

from dood_pyro.training.loop import Training, resume
from dood_pyro.training.trainer import Trainer

__all__ = ["Trainer", "Training", "resume"]
