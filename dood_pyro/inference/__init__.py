"""Bounds and gradient estimators over any model and guide with the sites of `dood_pyro.model`."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from dood_pyro.config import TrainConfig
from dood_pyro.inference.multi_sample import IWAE, ReweightedWakeSleep
from dood_pyro.inference.nvil import NVIL
from dood_pyro.inference.report import Report
from dood_pyro.inference.stop_time import StopTimeELBO, StopTimeTerms, stop_time_terms

__all__ = [
    "IWAE",
    "NVIL",
    "Estimator",
    "Report",
    "ReweightedWakeSleep",
    "StopTimeELBO",
    "StopTimeTerms",
    "make_estimator",
    "stop_time_terms",
]


class Estimator(Protocol):
    """What the training loop asks of an estimator."""

    state: nn.Module
    """What a checkpoint must keep of it."""
    report: Report | None
    """Of the last batch."""

    def anneal(self, step: int, guide: nn.Module) -> None:
        """Sets what depends on the number of steps taken."""

    def differentiable_loss(self, model: nn.Module, guide: nn.Module, image: Tensor) -> Tensor:
        """A scalar, summed over images, whose gradient training descends."""


def make_estimator(config: TrainConfig, max_strokes: int) -> Estimator:
    """The estimator that a training's configuration names."""
    # What is given a start has explored.
    explore, hold = (0, 0) if config.start else (config.explore_steps, config.hold_steps)
    # A stroke that no drawing needed is nothing for a prior to learn from.
    always = 0.0 if config.fit == "prior" else config.explore_always
    if config.estimator == "iwae":
        return IWAE(config.particles, config.beta, explore, config.scale_learns)
    if config.estimator == "rws":
        return ReweightedWakeSleep(config.particles, config.beta, explore, config.scale_learns)
    if config.estimator == "nvil":
        return NVIL(config.beta, config.normalise, max_strokes, hold)
    return StopTimeELBO(config.beta, explore, always, config.scale_learns)
