"""Settings that came later leave what was kept before them as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from dood_pyro.config import SYNTHETIC_RATIO, Config, TrainConfig, later
from dood_pyro.errors import UserError


@dataclass(frozen=True)
class Old(Config):
    rate: float = 0.1


@dataclass(frozen=True)
class New(Config):
    rate: float = 0.1
    kept: int = later(before=1)
    changed: int = later(before=1, now=2)


def test_a_later_setting_at_what_was_done_before_leaves_the_hash() -> None:
    assert New(changed=1).sha256() == Old().sha256()
    assert len({New().sha256(), New(kept=3).sha256(), New(changed=1).sha256()}) == 3


def test_a_missing_setting_is_what_was_done_before() -> None:
    found = New.from_json({"rate": 0.2})
    assert (found.rate, found.kept, found.changed) == (0.2, 1, 1)
    assert New.from_json(New().to_json()) == New()


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(UserError, match="colour"):
        New.from_json({"rate": 0.2, "colour": 1})


def test_practice_unless_it_would_mislead() -> None:
    assert TrainConfig("none").synthetic_ratio == SYNTHETIC_RATIO > 0
    assert TrainConfig("none", estimator="nvil").synthetic_ratio == 0
    values = TrainConfig("none").to_json()
    del values["synthetic_ratio"]
    assert TrainConfig.from_json(values).synthetic_ratio == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 8.5}, "batch_size is 8.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"guide": []}, "guide is"),
        ({"clip": "2"}, "clip is '2'"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"estimator": "other"}, "estimator is 'other'"),
        ({"decay_steps": 0}, "decay_steps must be positive"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"warm_up": -1}, "warm_up"),
        ({"synthetic_ratio": None}, "practice is None"),
    ],
)
def test_settings_on_disk_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainConfig.from_json(TrainConfig("none").to_json() | change)
    values = TrainConfig("none").to_json()
    assert TrainConfig.from_json(values | {"clip": 2}).clip == 2  # JSON has one kind of number
    del values["beta"]
    with pytest.raises(UserError, match="lacks beta"):
        TrainConfig.from_json(values)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"synthetic_ratio": -1}, "--practice"),
        ({"estimator": "nvil", "synthetic_ratio": 0.1}, "--practice is not for --estimator nvil"),
        ({"guide_channels": 0}, "guide_channels"),
        ({"batch_size": 0}, "--batch-size"),
        ({"beta": float("inf")}, "--beta"),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainConfig("none", **wrong)
