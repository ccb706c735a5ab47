"""Budgets of trainings, in steps and seconds.
Used by the training loop, which ends with its budget, and kept in run folders.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from dood_pyro.config import SettingError
from dood_pyro.errors import UserError, is_whole


@dataclass(frozen=True)
class TrainingBudget:
    """Steps, or seconds of training, or both, in all: a training ends at whichever comes first."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise UserError(
                "say how long to train: --steps or --budget (in Python: steps or seconds)"
            )
        if self.steps is not None:
            if not is_whole(self.steps) or self.steps < 1:
                raise SettingError("steps", "must be at least 1, and a whole number")
            object.__setattr__(self, "steps", int(self.steps))  # numpy's, too
        if self.seconds is not None:
            if not isinstance(self.seconds, Real) or not 0 < self.seconds < float("inf"):
                raise SettingError(
                    "budget", "must be a positive time, such as 90m (seconds in Python)"
                )
            object.__setattr__(self, "seconds", float(self.seconds))

    def used_up(self, steps: int, seconds: float) -> bool:
        """Whether a training that far along is at its end."""
        return (self.steps is not None and steps >= self.steps) or (
            self.seconds is not None and seconds >= self.seconds
        )

    def before_last(self, share: float) -> TrainingBudget | None:
        """The budget of all but a share at the end; None if that leaves nothing."""
        if share >= 1:
            return None
        steps = None if self.steps is None else math.ceil((1 - share) * self.steps)
        seconds = None if self.seconds is None else (1 - share) * self.seconds
        return TrainingBudget(steps, seconds)

    def extended(
        self,
        steps: int | None,
        seconds: float | None,
        done_steps: int = 0,
        done_seconds: float = 0.0,
    ) -> TrainingBudget:
        """The budget of a run that has come so far, with new limits in place of its old ones.

        Raises:
            SettingError: that would lower it.
        """
        for new, old, limit, unit in (
            (steps, self.steps, "steps", ""),
            (seconds, self.seconds, "budget", " s"),
        ):
            if new is not None and old is not None and new < old:
                what = f"can be raised, not lowered, for a run that is resumed: it was {old:,.0f}{unit}"
                raise SettingError(limit, what)
        if steps is None and seconds is None:
            return self
        # An end of the other kind stays, unless it is what the run has ended by.
        if steps is None and (self.steps or 0) > done_steps:
            steps = self.steps
        if seconds is None and (self.seconds or 0) > done_seconds:
            seconds = self.seconds
        return TrainingBudget(steps, seconds)
