"""Settings: what each may be, what is said of one that cannot be, and from where it can be set."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from pyro import poutine

import dood_pyro
from dood_pyro.config import (
    DEFAULT_MODEL,
    PRIOR_SHARE,
    SYNTHETIC_RATIO,
    Config,
    ModelConfig,
    RunConfig,
    SettingError,
    TrainConfig,
    setting,
)
from dood_pyro.errors import UserError
from dood_pyro.images import ImageBatch
from dood_pyro.models.dood import DooD
from dood_pyro.registry import MODELS, load_component
from dood_pyro.research import begin_training, configure, parse_assignment, read_settings
from dood_pyro.run_folders.build import build
from dood_pyro.run_folders.run import Run
from tests.conftest import TINY, random_pictures
from tests.test_cli import Out, call, refused


@dataclasses.dataclass(frozen=True)
class Small(Config):
    rate: float = setting(0.1, "A rate.", 0, 1, open_low=True)
    count: int = setting(1, "A count.", 0)


def test_settings_go_to_json_and_back() -> None:
    made = Small(rate=0.2, count=3)
    assert Small.from_json(json.loads(json.dumps(made.to_json()))) == made
    config = RunConfig("air", ModelConfig(features=8), TrainConfig("digits", seed=3))
    assert RunConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_the_hash_is_of_every_setting_but_for_those_named() -> None:
    assert len({Small().sha256(), Small(rate=0.2).sha256(), Small(count=2).sha256()}) == 3
    assert Small(count=2).sha256(without=("count",)) == Small().sha256(without=("count",))
    # A whole number and the same number as a float are one setting.
    assert Small(rate=1).sha256() == Small(rate=1.0).sha256()


def test_settings_of_another_version_are_refused() -> None:
    with pytest.raises(UserError, match="colour"):
        Small.from_json({"rate": 0.2, "count": 1, "colour": 1})
    with pytest.raises(UserError, match="lacks count"):
        Small.from_json({"rate": 0.2})
    with pytest.raises(UserError, match="not an object"):
        Small.from_json(3)


@pytest.mark.parametrize(
    ("wrong", "named", "said"),
    [
        ({"rate": 0}, "rate", "must be more than 0 and at most 1; it is 0"),
        ({"rate": 1.5}, "rate", "must be more than 0 and at most 1; it is 1.5"),
        ({"rate": True}, "rate", "must be a number, not True"),
        ({"rate": float("inf")}, "rate", "must be a number, not inf"),
        ({"count": -1}, "count", "must be at least 0; it is -1"),
        ({"count": 1.0}, "count", "must be a whole number, not 1.0"),
        ({"count": "1"}, "count", "must be a whole number, not '1'"),
    ],
)
def test_what_cannot_be_is_named(wrong: dict[str, Any], named: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as refusal:
        Small(**wrong)
    assert refusal.value.setting == named
    assert str(refusal.value) == f"{named} {refusal.value.what}"


def test_random_strokes_unless_they_would_mislead() -> None:
    assert TrainConfig("none").synthetic_ratio == SYNTHETIC_RATIO > 0
    assert TrainConfig("none", estimator="nvil").synthetic_ratio == 0
    assert TrainConfig("none", init_from="some", trainable="prior").synthetic_ratio == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"batch_size": 8.5}, "batch_size must be a whole number, not 8.5"),
        ({"batch_size": True}, "batch_size must be a whole number, not True"),
        ({"guide": []}, r"guide must be a name, not \[\]"),
        ({"clip_norm": "2"}, "clip_norm must be a number, not '2'"),
        ({"clip_norm": float("nan")}, "clip_norm must be a number, not nan"),
        ({"estimator": "other"}, "no estimator 'other'"),
        ({"trainable": "all"}, "trainable must be 'both', 'guide' or 'prior', not 'all'"),
        ({"decay_steps": 0}, "decay_steps must be more than 0"),
        ({"average_decay": 1.0}, "average_decay must be at least 0 and at most 0.999999"),
        ({"warm_up": -1}, "warm_up must be at least 0"),
        ({"synthetic_ratio": None}, "synthetic_ratio must be a number, not None"),
    ],
)
def test_settings_on_disk_that_cannot_be(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        TrainConfig.from_json(TrainConfig("none").to_json() | change)
    values = TrainConfig("none").to_json()
    found = TrainConfig.from_json(values | {"clip_norm": 2})
    assert found.clip_norm == 2  # JSON has one kind of number
    del values["beta"]
    with pytest.raises(UserError, match="lacks beta"):
        TrainConfig.from_json(values)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"synthetic_ratio": -1}, "synthetic_ratio"),
        ({"synthetic_ratio": -0.5}, "synthetic_ratio must be at least 0"),
        (
            {"estimator": "nvil", "synthetic_ratio": 0.1},
            "synthetic_ratio is not for the estimator nvil",
        ),
        ({"estimator": "nvil", "trainable": "prior", "init_from": "x"}, "estimator nvil trains"),
        ({"guide_channels": 0}, "guide_channels"),
        ({"batch_size": 0}, "batch_size"),
        ({"beta": float("inf")}, "beta"),
        ({"beta": 0}, "beta"),
        ({"normalise": False}, "normalise is for estimators that train baselines"),
        ({"particles": 2}, "particles are for estimators that weigh samples"),
        ({"trainable": "guide"}, "trainable guide needs trained weights"),
        (
            {"trainable": "prior", "init_from": "x", "sleep_steps": 3},
            "sleep_steps teach the guide",
        ),
    ],
)
def test_settings_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        TrainConfig("none", **wrong)


# From the command line, from a file, from Python.

QUICK = ("--steps", 1, "--no-tensorboard")
OTHER_MODEL: dict[str, Any] = {
    "canvas_size": 16,
    "max_strokes": 2,
    "degree": 3,
    "layout_components": 2,
    "stroke_components": 3,
    "control_points": "independent",
    "pen": "shared",
    "taper": False,
    "likelihood": "gaussian",
    "native_resolution": False,
    "canvas_channels": 4,
    "glimpse_size": 9,
    "features": 8,
}
OTHER_TRAIN: dict[str, Any] = {
    "seed": 3,
    "guide": "full-covariance",
    "batch_size": 4,
    "beta": 2.5,
    "beta_on": "stop",
    "learning_rate": 0.002,
    "warm_up": 7,
    "decay_steps": 90,
    "decay_power": 0.5,
    "scale_learning_rate_factor": 3.0,
    "clip_norm": 1.5,
    "average_decay": 0.9,
    "explore_steps": 11,
    "explore_always": 0.2,
    "num_refiners": 1,
    "gate_begin": 2,
    "gate_full": 900,
    "gate_stagger": 1,
    "guide_channels": 4,
    "sleep_steps": 1,
    "synthetic_ratio": 0.25,
    "scale_learns": "explored",
}
ELSEWHERE = {
    "source",
    "init_from",
    "trainable",
    "estimator",
    "particles",
    "normalise",
    "hold_steps",
    "prior_share",
}
"""Settings that go with others, of which the tests below have one each."""


def others() -> dict[str, Any]:
    """A value for every setting that is not its default, by its full name."""
    settings = {f"model.{name}": value for name, value in OTHER_MODEL.items()}
    return settings | {f"train.{name}": value for name, value in OTHER_TRAIN.items()}


def of_run(path: Path) -> dict[str, Any]:
    """A run's settings by their full names."""
    config, _ = Run(path).read_config()
    parts = {"model": config.model.to_json(), "train": config.train.to_json()}
    return {f"{part}.{name}": v for part, values in parts.items() for name, v in values.items()}


def test_the_values_tried_are_of_every_setting_and_not_the_defaults() -> None:
    model, train = (
        {each.name: each.default for each in dataclasses.fields(config)}
        for config in (ModelConfig, TrainConfig)
    )
    assert set(OTHER_MODEL) == set(model) - set(DooD.settings_without_effect)
    assert set(OTHER_TRAIN) == set(train) - ELSEWHERE
    assert not [name for name, value in OTHER_MODEL.items() if value == model[name]]
    assert not [name for name, value in OTHER_TRAIN.items() if value == train[name]]


def test_set_reaches_every_setting(source: Path, tmp_path: Path, capsys: Out) -> None:
    out = tmp_path / "run"
    assignments = [
        word for name, value in others().items() for word in ("--set", f"{name}={toml(value)}")
    ]
    begin = ("train", "--source", source, "--model", "dood", "--out", out, *QUICK, *assignments)
    status, _, err = call(capsys, *begin)
    assert status == 0, err
    assert others().items() <= of_run(out).items()


def test_a_setting_that_the_model_does_not_go_by_is_refused(source: Path, capsys: Out) -> None:
    begin = ("train", "--source", source, *QUICK, "--layout-components", 3)
    status, _, err = call(capsys, *begin)
    assert status == 1 and "--layout-components has no effect on dood-transformer" in err
    assert "such as dood\n" in err
    begin = ("train", "--source", source, *QUICK, "--model", "dood", "--pointers")
    status, _, err = call(capsys, *begin)
    assert status == 1 and "--pointers has no effect on dood;" in err
    assert "such as dood-transformer\n" in err


@pytest.mark.parametrize(
    ("model", "settings", "said"),
    [
        ("air", {"model.degree": 3}, "degree has no effect on air; .* such as dood"),
        ("dood", {"model.part_dims": 3}, "part_dims has no effect on dood; .* such as dair"),
        ("dair", {"train.num_refiners": 2}, "num_refiners has no effect on dair, whose guide"),
        ("dood-no-guidance", {"train.gate_full": 900}, "gate_full has no effect on dood-no-g"),
        ("dood", {"train.gate_begin": 900}, "gate_full is the step .* gate_begin, 900"),
        ("dood", {"train.hold_steps": 9}, "hold_steps has no effect with the estimator stop-m"),
        (
            "dood",
            {"train.estimator": "rws", "train.explore_always": 0.9},
            "explore_always has no effect with the estimator rws",
        ),
        (
            "dood",
            {"train.estimator": "nvil", "train.scale_learns": "explored"},
            "scale_learns has no effect with the estimator nvil",
        ),
    ],
)
def test_what_a_training_does_not_go_by_is_refused(
    model: str, settings: dict[str, Any], said: str, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SettingError, match=said):
        begin_training(str(source), model, steps=1, out=out, settings=settings, device="cpu")
    assert not out.exists()


def test_what_a_training_of_the_prior_alone_does_not_go_by_is_refused(
    source: Path, tmp_path: Path
) -> None:
    first, given = tmp_path / "first", {"device": "cpu", "steps": 1}
    small = {f"model.{name}": value for name, value in OTHER_MODEL.items() if name != "pen"}
    dood_pyro.train(str(source), "dood", out=first, settings=small, **given)
    given |= {"init_from": first, "out": tmp_path / "second"}
    alone = {"train.trainable": "prior", "train.beta": 7.0}
    with pytest.raises(SettingError, match="beta has no effect where the prior alone learns"):
        begin_training(str(source), "dood-transformer", settings=alone, **given)
    explored = {"train.explore_steps": 7}
    with pytest.raises(SettingError, match="explore_steps has no effect on a run that starts"):
        begin_training(str(source), settings=explored, **given)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("model", MODELS)
def test_settings_without_effect_are_those_that_change_nothing(model: str) -> None:
    """Neither the weights that there are nor what is drawn by them."""

    def program(**changed: Any) -> tuple[list[Any], list[float]]:
        torch.manual_seed(0)
        made, guide = build(
            RunConfig(model, dataclasses.replace(TINY, **changed), TrainConfig("none"))
        )
        shapes = [
            (name, each.shape) for part in (made, guide) for name, each in part.state_dict().items()
        ]
        torch.manual_seed(1)
        with torch.no_grad():
            drawn = poutine.trace(made).get_trace(count=9, native_size=8)
            images = random_pictures(9, made.config.canvas_size)
            parsed = poutine.trace(guide).get_trace(ImageBatch(images, 8))
        sums = [
            float(node["value"].sum())
            for trace in (drawn, parsed)
            for _, node in trace.nodes.items()
            if node["type"] == "sample" and torch.is_tensor(node["value"])
        ]
        return shapes, sums

    others = OTHER_MODEL | {"part_dims": 5, "pointers": False, "chain": "shallow"}
    usual = program()
    without = {
        name
        for name, value in others.items()
        if value != getattr(TINY, name) and program(**{name: value}) == usual
    }
    found = load_component("model", model)
    assert without == set(found.settings_without_effect)


def test_settings_that_a_model_has_unless_told_otherwise() -> None:
    assert configure("dood-transformer", "none").model.pointers
    assert configure("dood-transformer", "none").model.chain == "deep"
    assert not configure("dood-transformer", "none", {"model.pointers": False}).model.pointers
    assert not configure("dood", "none").model.pointers
    # Configurations of before had no such setting, and have the hash that they had.
    older = ModelConfig().to_json()
    del older["pointers"], older["chain"]
    assert ModelConfig.from_json(older) == ModelConfig()
    then = hashlib.sha256(json.dumps(older, sort_keys=True).encode()).hexdigest()
    assert ModelConfig().sha256() == then != ModelConfig(pointers=True).sha256()


def test_a_file_reaches_every_setting(source: Path, tmp_path: Path, capsys: Out) -> None:
    """The source and the model, too; options and ``--set`` come after it."""
    file, out = tmp_path / "settings.toml", tmp_path / "run"
    tables = {"model": OTHER_MODEL, "train": OTHER_TRAIN | {"source": str(source)}}
    text = "".join(
        f"[{part}]\n" + "".join(f"{name} = {toml(value)}\n" for name, value in values.items())
        for part, values in tables.items()
    )
    file.write_text(text.replace("[model]\n", '[model]\nname = "dood-independent-prior"\n'))
    later = ("--beta", 3, "--set", "train.seed=5", "--set", "model.features=9")
    status, _, err = call(capsys, "train", "--config", file, "--out", out, *QUICK, *later)
    assert status == 0, err
    changed = {"train.beta": 3.0, "train.seed": 5, "model.features": 9}
    expected = others() | changed | {"train.source": str(source)}
    assert expected.items() <= of_run(out).items()
    assert Run(out).read_config()[0].model_name == "dood-independent-prior"


def toml(value: Any) -> str:
    return json.dumps(value)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train.estimator=iwae",), {"train.estimator": "iwae", "train.particles": 5}),
        (
            ("train.estimator=rws", "train.particles=2"),
            {"train.estimator": "rws", "train.particles": 2},
        ),
        (
            ("train.estimator=nvil", "train.normalise=false", "train.hold_steps=12"),
            {"train.normalise": False, "train.hold_steps": 12, "train.synthetic_ratio": 0.0},
        ),
    ],
)
def test_set_reaches_what_goes_together(
    words: tuple[str, ...], expected: dict[str, Any], source: Path, tmp_path: Path, capsys: Out
) -> None:
    small = (
        "model.canvas_size=16",
        "model.max_strokes=1",
        "model.features=8",
        "train.batch_size=2",
    )
    assignments = [each for word in (*small, *words) for each in ("--set", word)]
    out = tmp_path / "run"
    begin = ("train", "--source", source, "--out", out, *QUICK, *assignments)
    status, _, err = call(capsys, *begin)
    assert status == 0, err
    assert expected.items() <= of_run(out).items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        # Names.
        (("--set", "model.colour=3"), "model.colour is not a setting"),
        (("--set", "features=3"), "features is not a setting"),
        (("--set", "data.size=3"), "data.size is not a setting"),
        (("--set", "train.beta"), "--set takes NAME=VALUE"),
        (("--set", "=3"), "--set takes NAME=VALUE"),
        (("--set", "train.practice=0.5"), "train.practice is not a setting"),
        # Values.
        (("--set", "model.features=many"), "features must be a whole number, not 'many'"),
        (("--set", "model.features=8.5"), "features must be a whole number, not 8.5"),
        (("--set", "model.features=0"), "features must be at least 1 and at most 8,192; it is 0"),
        (("--set", "model.taper=maybe"), "taper must be true or false, not 'maybe'"),
        (("--set", "model.pen=quill"), "pen must be 'latent' or 'shared', not 'quill'"),
        (("--set", "train.beta=0"), "beta must be more than 0 and at most 1e+09; it is 0"),
        (("--set", "train.beta="), "beta must be a number, not ''"),
        (("--set", "train.beta=[1, 2]"), "beta must be a number, not [1, 2]"),
        (("--set", "train.estimator=other"), "no estimator 'other'"),
        (("--set", "train.estimator=3"), "estimator"),
        (("--set", "train.estimator=[1]"), "estimator"),
        (("--set", "train.guide=3"), "give the guide by its name"),
        # What an option said goes by the option's name.
        (("--beta", "0"), "--beta must be more than 0 and at most 1e+09; it is 0"),
        (("--num-refiners", "99"), "--num-refiners must be at least 0 and at most 16; it is 99"),
        (("--synthetic-ratio", "-0.5"), "--synthetic-ratio must be at least 0"),
        (("--synthetic-ratio", "-1"), "--synthetic-ratio"),
        (("--estimator", "nvil", "--synthetic-ratio", "1"), "--synthetic-ratio is not for the"),
        (("--no-normalise",), "--no-normalise is for estimators that train baselines"),
        (("--particles", "3"), "--particles are for estimators that weigh samples"),
        (("--trainable", "guide"), "--trainable guide needs trained weights"),
        # Of both, that which is wrong.
        (("--beta", "4", "--set", "beta=3"), "dood-pyro: beta is not a setting"),
    ],
)
def test_what_cannot_be_set(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: Out, source: Path
) -> None:
    out = tmp_path / "run"
    line = refused(capsys, "train", "--source", source, "--steps", 1, "--out", out, *words)
    assert said in line and not out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[model]\nfeatures = \n", "cannot read settings"),
        ("features = 3\n", "features stands in no table; put it under [model] or [train]"),
        ("[data]\nsize = 3\n", "data.size is not a setting"),
        ("[model]\ncolour = 3\n", "model.colour is not a setting"),
        ("[train]\nbeta = 0\n", "beta must be more than 0 and at most 1e+09; it is 0"),
        ("[train]\nbeta = 2020-01-01\n", "beta must be a number"),
        ('[model]\nname = "gan"\n', "no model 'gan'"),
        (None, "there is no"),
    ],
)
def test_files_that_cannot_be_taken(
    text: str | None, said: str, tmp_path: Path, capsys: Out, source: Path
) -> None:
    file, out = tmp_path / "settings.toml", tmp_path / "run"
    if text is not None:
        file.write_text(text)
    begin = ("train", "--source", source, "--steps", 1, "--out", out)
    assert said in refused(capsys, *begin, "--config", file)
    assert not out.exists()


def test_the_source_is_a_setting_like_others(source: Path, tmp_path: Path, capsys: Out) -> None:
    small = ("--canvas-size", 16, "--max-strokes", 1, "--batch-size", 2, *QUICK)
    out = tmp_path / "run"
    begin = ("train", "--set", f"train.source={source}", "--out", out, *small)
    status, _, err = call(capsys, *begin)
    assert status == 0, err
    assert of_run(out)["train.source"] == str(source)


def test_a_run_does_not_say_that_it_began_with_weights_that_it_never_saw(
    source: Path, tmp_path: Path, capsys: Out
) -> None:
    small = ("--canvas-size", 16, "--max-strokes", 1, "--batch-size", 2, *QUICK)
    begin = ("train", "--source", source, "--out", tmp_path / "run", *small)
    assert "neither a run folder" in refused(capsys, *begin, "--set", "train.init_from=nothing")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.features=512", ("model.features", 512)),
        ("train.beta = 2", ("train.beta", 2)),
        ("train.learning_rate=1e-3", ("train.learning_rate", 1e-3)),
        ("model.taper=false", ("model.taper", False)),
        ("model.pen=shared", ("model.pen", "shared")),
        ('model.pen="shared"', ("model.pen", "shared")),
        ("train.guide=mine:Guide", ("train.guide", "mine:Guide")),
        ("train.source=a=b", ("train.source", "a=b")),
    ],
)
def test_assignments(text: str, expected: tuple[str, Any]) -> None:
    assert parse_assignment(text) == expected


def test_settings_of_a_file_are_by_their_full_names(tmp_path: Path) -> None:
    text = "[model]\nfeatures = 8\n[train]\nbeta = 2.5\n"
    (tmp_path / "x.toml").write_text(text)
    assert read_settings(tmp_path / "x.toml") == {"model.features": 8, "train.beta": 2.5}
    assert set(tomllib.loads(text)) == {"model", "train"}


# From Python.


def test_configure() -> None:
    assert dood_pyro.configure("dood") == RunConfig("dood", ModelConfig(), TrainConfig())
    train = TrainConfig(prior_share=PRIOR_SHARE)
    assert dood_pyro.configure() == RunConfig(
        DEFAULT_MODEL, ModelConfig(pointers=True, chain="deep"), train
    )
    made = dood_pyro.configure("air", "digits", others())
    assert made.model_name == "air" and made.train.source == "digits"
    assert made.model == ModelConfig(**OTHER_MODEL)
    assert made.train == TrainConfig("digits", **OTHER_TRAIN)
    assert dood_pyro.configure(settings={"train.estimator": "iwae"}).train.particles > 1
    former = dood_pyro.configure(settings={"train.estimator": "stop-time"})
    assert former.train.estimator == "stop-marginal"


@pytest.mark.parametrize(
    ("settings", "named", "said"),
    [
        ({"model.colour": 3}, "model.colour", "not a setting"),
        ({"beta": 3}, "beta", "not a setting"),
        ({"train.beta": 0}, "beta", "it is 0"),
        ({"train.beta": "2"}, "beta", "must be a number"),
    ],
)
def test_configure_names_what_cannot_be(settings: dict[str, Any], named: str, said: str) -> None:
    with pytest.raises(SettingError, match=said) as refusal:
        dood_pyro.configure(settings=settings)
    assert refusal.value.setting == named


def test_configure_refuses_unknown_models() -> None:
    with pytest.raises(UserError, match="no model 'gan'; choose dood"):
        dood_pyro.configure("gan")
