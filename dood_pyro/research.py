"""Training and evaluation from Python, as the commands do them, for research code.
`dood_pyro.train`, `dood_pyro.evaluate` and `dood_pyro.configure` come from here, and
``dood-pyro train`` begins a training here.

>>> import dood_pyro
>>> run = dood_pyro.train("digits", seconds=300, settings={"model.features": 128})
>>> dood_pyro.evaluate(run, "digits", limit=100)["log_p"]
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dood_pyro.config import (
    DEFAULT_MODEL,
    PRIOR_SHARE,
    ModelConfig,
    RunConfig,
    SettingError,
    TrainConfig,
    UnknownSettingError,
)
from dood_pyro.data import name_of
from dood_pyro.devices import choose_device, refuse_other_numbers
from dood_pyro.errors import UserError
from dood_pyro.estimators import load_estimator
from dood_pyro.files import read_bytes
from dood_pyro.recognition import open_run
from dood_pyro.registry import (
    GUIDES,
    MODELS,
    SOURCES,
    canonical,
    code_name,
    code_names,
    load_component,
)
from dood_pyro.run_folders.budget import TrainingBudget
from dood_pyro.run_folders.build import prior_can_learn_alone
from dood_pyro.run_folders.run import Run
from dood_pyro.run_folders.tensors import refuse_not_finite
from dood_pyro.tasks.evaluate import evaluate
from dood_pyro.training.log import Show
from dood_pyro.training.loop import Training
from dood_pyro.training.processes import Team

__all__ = ["begin_training", "configure", "evaluate", "read_settings", "resume", "train"]

CODE = {"model.name": "model", "train.guide": "guide", "train.estimator": "estimator"}
"""Settings that name code, each with its kind in the registry."""
OF_REFINERS = ("num_refiners", "gate_begin", "gate_full", "gate_stagger")
"""Settings of `TrainConfig` that guides with refiners go by."""
WITHOUT_EFFECT_ON_PRIOR = (
    *("beta", "beta_on", "scale_learns", "scale_learning_rate_factor", "explore_always"),
    *OF_REFINERS[1:],
)
"""Settings of `TrainConfig` that trainings of the prior alone on parses do not go by."""
INHERITED = ("num_refiners", "guide_channels")
"""Training settings inherited from the run that training starts from."""


def train(
    source: str,
    model: str | type | None = None,
    *,
    guide: str | type | None = None,
    estimator: str | type | None = None,
    seed: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: Run | str | os.PathLike[str] | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    trusted: Sequence[str | type] = (),
    show: Show | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train a new run; see `begin_training` for the arguments.

    Args:
        show: called with the trainer and a line of metrics, as each is written
            (`dood_pyro.training.resume`).
        tensorboard: whether to log for TensorBoard.

    Returns:
        The run, as `evaluate`, `dood_pyro.load` and the commands take it.

    Raises:
        UserError: an argument is not valid (`begin_training`), or the training diverged.
    """
    training = begin_training(
        source,
        model,
        guide=guide,
        estimator=estimator,
        seed=seed,
        steps=steps,
        seconds=seconds,
        out=out,
        settings=settings,
        init_from=init_from,
        device=device,
        data_dir=data_dir,
        trusted=trusted,
    )
    training.train(show, tensorboard)
    return training.run


def resume(
    run: Run | str | os.PathLike[str],
    *,
    steps: int | None = None,
    seconds: float | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    trusted: Sequence[str | type] = (),
    show: Show | None = None,
    tensorboard: bool = False,
) -> Run:
    """Go on with the training of a run that was stopped or killed, or train it for longer.

    Args:
        run: run folder, or its path.
        steps, seconds: training budget in all, in place of the run's own, which it may not lower.
        trusted: names ``module:Class`` of code that the run may run, or the classes.
        device, data_dir: as for `begin_training`.
        show, tensorboard: as for `train`.

    Raises:
        UserError: there is no such run, it cannot be gone on with, or the training diverged.
    """
    refuse_other_numbers()
    run = open_run(run)
    _, budget = run.read_config()
    names = code_names(trusted)
    run.trusted_config(None, names, training=True)
    budget = budget.extended(steps, seconds, *run.progress())
    training = Training.open(run, choose_device(device), data_dir, names)
    training.train(show, tensorboard, budget)
    return training.run


def begin_training(
    source: str | None,
    model: str | type | None = None,
    *,
    guide: str | type | None = None,
    estimator: str | type | None = None,
    seed: int | None = None,
    steps: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: Run | str | os.PathLike[str] | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    trusted: Sequence[str | type] = (),
    team: Team | None = None,
) -> Training:
    """Create a new run folder, build its model and guide and read its data, ready to train.

    Args:
        source: name of a data source, path of a folder or file, or ``module:function`` of a user's own
            source.
        model: a name in `dood_pyro.registry.MODELS`, ``module:Class``, or the class; default
            `dood_pyro.config.DEFAULT_MODEL`.
        guide, estimator: likewise, of `GUIDES` and `ESTIMATORS`; default: the settings'.
        seed: of all random numbers; the setting ``train.seed``.
        steps, seconds: training budget; at least one of the two.
        out: run folder; default runs/MODEL-SOURCE-SEED.
        settings: values in place of the defaults, by names such as ``"model.features"`` or
            ``"train.beta"`` (`ModelConfig`, `TrainConfig`).
        init_from: run that training starts from: its model with all weights, and those of its guide's
            weights that fit the new guide.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        data_dir: data folder.
        trusted: names ``module:Class`` of code that the run ``init_from`` may run, or the classes.
        team: processes that train together, of which this is the first.

    Raises:
        UserError: an argument is not valid, the data cannot be had, or the run folder cannot be
            created; nothing has been written.
    """
    refuse_other_numbers()
    budget = TrainingBudget(steps, seconds)
    chosen = _code_by_name(settings)
    name = _once(chosen, "model.name", None if model is None else code_name("model", model))
    for kind, code in (("guide", guide), ("estimator", estimator)):
        if code is not None:
            chosen[f"train.{kind}"] = _once(chosen, f"train.{kind}", code_name(kind, code))
    if seed is not None:
        chosen["train.seed"] = _once(chosen, "train.seed", seed)
    source = _once(chosen, "train.source", source) or ""
    if not isinstance(source, str | os.PathLike):
        raise UserError(
            f"name the source to train on, or give its path, in place of a {type(source).__name__}"
        )
    init_from = _once(chosen, "train.init_from", init_from)
    names = code_names(trusted)
    if isinstance(init_from, Run):
        names, init_from = (*names, *init_from.trusted), init_from.path
    own, initial, sha256 = tuple(chosen.items()), None, ""
    if init_from is not None:
        theirs, initial, sha256 = _initial_weights(str(init_from), names, chosen)
        their_model = theirs.pop("model.name")
        name = _their_model(name, their_model, chosen, str(init_from))
        if name != their_model:  # what theirs did not go by, it does not determine
            found = load_component("model", their_model)
            for setting in getattr(found, "settings_without_effect", ()):
                theirs.pop(f"model.{setting}", None)
        for setting, value in theirs.items():
            chosen[setting] = _same(setting, chosen.get(setting), value, str(init_from))
    config = configure(name, absolute_source(os.fspath(source)), chosen)
    _refuse_without_effect(config, dict(own))
    stem = f"{name_of(config.model_name)}-{name_of(source)}-{config.train.seed}"
    path = Path("runs") / stem if out is None else out
    training = Training.begin(
        path, config, budget, choose_device(device), data_dir, initial, sha256, team
    )
    training.run.trusted = tuple(config.own_code(training=True))  # the caller named it
    return training


def configure(
    model: str | type | None = None,
    source: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Configuration of a run: defaults, with ``settings`` in their place.

    Args:
        model: its name or class; default `dood_pyro.config.DEFAULT_MODEL`.
        settings: values by ``"model.NAME"`` and ``"train.NAME"``; ``"model.name"`` and
            ``"train.source"`` stand for ``model`` and ``source``.

    Raises:
        SettingError: the name of a setting is unknown, or its value is not valid, or it is given twice.
        UserError: there is no such model or estimator.
    """
    left = _code_by_name(settings)
    model = None if model is None else code_name("model", model)
    model = _once(left, "model.name", model) or DEFAULT_MODEL
    parts: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    parts["train"]["source"] = _once(left, "train.source", source) or ""
    kinds = {"model": ModelConfig, "train": TrainConfig}
    for name, value in left.items():
        part, _, setting = name.partition(".")
        known = {each.name for each in dataclasses.fields(kinds[part])} if part in kinds else set()
        if setting not in known:
            raise UnknownSettingError(name)
        parts[part][setting] = value
    usual = getattr(load_component("model", model), "usual_settings", {})
    config = RunConfig(model, ModelConfig(**usual | parts["model"]), TrainConfig(**parts["train"]))
    config.train.check_estimator()  # the caller named it: it may be loaded
    if (
        "prior_share" not in parts["train"]
        and config.train.trainable == "both"
        and prior_can_learn_alone(config)
    ):
        train = dataclasses.replace(config.train, prior_share=PRIOR_SHARE)
        config = dataclasses.replace(config, train=train)
    return config


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings from a TOML file with tables ``[model]`` and ``[train]``.

    Returns:
        Values by ``"model.NAME"`` and ``"train.NAME"``, for `configure`, which checks the names.

    Raises:
        UserError: the file cannot be read, or an entry stands outside a table.
    """
    try:
        tables = tomllib.loads(read_bytes(path).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read settings from {path}: {error}") from None
    if other := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise UserError(f"{path}: {other[0]} stands in no table; put it under [model] or [train]")
    return {
        f"{part}.{name}": value for part, table in tables.items() for name, value in table.items()
    }


def parse_assignment(text: str) -> tuple[str, Any]:
    """Name and value of an assignment such as ``model.features=512``; a value that is not TOML is a
    string.

    Raises:
        UserError: the text has no ``=`` or no name.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set takes NAME=VALUE, such as model.features=512; not {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def absolute_source(source: str) -> str:
    """Source as a run's configuration names it: a name, or an absolute path, because a run may be
    resumed from another working folder.

    Raises:
        UserError: the source is empty.
    """
    source = canonical(source)
    if not source:
        raise UserError(f"say what to train on: {', '.join(SOURCES)}, or a path")
    path = os.path.abspath(os.path.expanduser(source))
    return source if source in SOURCES or not os.path.exists(path) else path


def _refuse_without_effect(config: RunConfig, chosen: Mapping[str, Any]) -> None:
    """Raise where a setting was chosen that the training does not go by.

    Raises:
        SettingError: so it was.
    """
    for name, why in _without_effect(config):
        part, kind = (
            ("model", ModelConfig) if hasattr(ModelConfig, name) else ("train", TrainConfig)
        )
        default = getattr(kind, name)
        if chosen.get(f"{part}.{name}", default) != default:
            raise SettingError(name, f"has no effect {why}")


def _without_effect(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Names of settings that a training does not go by, each with the reason."""
    without = {each: _by_model(each) for each in MODELS}
    for name in _by_model(config.model_name):
        fit = next(each for each in MODELS if name not in without[each])
        yield name, f"on {config.model_name}; name a model that it is for, such as {fit}"
    train, model = config.train, load_component("model", config.model_name)
    if train.guide in GUIDES and not (
        getattr(model, "sees_canvas", False) and getattr(model, "draws_curves", False)
    ):
        for name in OF_REFINERS:
            yield name, f"on {config.model_name}, whose guide has no refiners"
    for name in load_estimator(train.estimator).settings_without_effect:
        yield name, f"with the estimator {train.estimator}"
    if train.init_from:
        for name in ("explore_steps", "hold_steps"):
            yield name, "on a run that starts from the weights of another, which draws already"
    if train.trainable == "prior" and prior_can_learn_alone(config):
        for name in WITHOUT_EFFECT_ON_PRIOR:
            yield name, "where the prior alone learns, from parses and by the bound itself"


def _by_model(name: str) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(load_component("model", name), "settings_without_effect", ())
    return found


def _once(settings: dict[str, Any], name: str, given: Any) -> Any:
    """Take a setting that is also an argument out of the settings; return the one of the two given.

    Raises:
        SettingError: both are given, and differ.
    """
    value = settings.pop(name, None)
    if given is not None and value is not None and str(given) != str(value):
        raise SettingError(name, f"is given twice: {value!r} among the settings, beside {given!r}")
    return value if given is None else given


def _code_by_name(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of settings in which code has its name where a class was given."""
    return {
        name: code_name(CODE[name], value) if name in CODE and value is not None else value
        for name, value in (settings or {}).items()
    }


def _same(name: str, given: Any, theirs: Any, run: str) -> Any:
    """Value of a setting that the run that training starts from determines; it may be given if equal.

    Raises:
        SettingError: another value is given.
    """
    if given not in (None, theirs):
        raise SettingError(name, f"is that of {run}, which init_from names: {theirs}")
    return theirs


def _their_model(model: str | None, theirs: str, chosen: Mapping[str, Any], init_from: str) -> str:
    """Name of the model to train: the run's; or, where the prior alone learns, one that differs from
    it in its prior (`DrawingModel.else_like`)."""
    if model is not None and chosen.get("train.trainable") == "prior":
        found = load_component("model", canonical(model))
        if theirs in getattr(found, "else_like", ()):
            return model
    return str(_same("model.name", model, theirs, init_from))


def _initial_weights(
    name: str, trusted: Sequence[str], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Load the run to start from: the settings it determines, its weights, and the weights' hash."""
    run = open_run(name)
    config, _ = run.read_config()
    sha256 = hashlib.sha256(read_bytes(run.path / "best.safetensors")).hexdigest()
    run.load_model(trusted=trusted)  # raises if the weights are damaged
    weights, _ = run.read_tensors("best.safetensors")
    refuse_not_finite(weights, f"{run.path}/best.safetensors")
    # Kept weights (experiments/keep_weights.py) are in half precision.
    weights = {key: t.float() if t.is_floating_point() else t for key, t in weights.items()}
    if sha256 != hashlib.sha256(read_bytes(run.path / "best.safetensors")).hexdigest():
        raise UserError(
            f"{run.path} has new weights since they were read: it trains; try once more"
        )
    theirs: dict[str, Any] = {"model.name": config.model_name, "train.init_from": sha256[:12]}
    theirs |= {f"model.{setting}": value for setting, value in config.model.to_json().items()}
    theirs |= {f"train.{setting}": getattr(config.train, setting) for setting in INHERITED}
    # The gates of trained refiners are open from the first step.
    theirs |= dict.fromkeys(("train.gate_begin", "train.gate_full", "train.gate_stagger"), 0)
    if settings.get("train.trainable") == "prior":  # the prior learns from the run's own guide
        run.trusted_config(settings.get("train.guide"), trusted)
        theirs["train.guide"] = config.train.guide
    return theirs, weights, sha256
