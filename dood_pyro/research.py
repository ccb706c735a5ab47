"""Training and measuring from Python: what the commands do, for those who change things.

>>> import dood_pyro
>>> run = dood_pyro.train("digits", seconds=300, settings={"model.features": 128})
>>> dood_pyro.evaluate(run, "digits", limit=100)["log_p"]
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dood_pyro.config import ModelConfig, RunConfig, SettingError, TrainConfig
from dood_pyro.data import name_of
from dood_pyro.devices import choose_device
from dood_pyro.errors import UserError
from dood_pyro.recognition import open_run
from dood_pyro.registry import canonical, is_own_code, load_component
from dood_pyro.runs.budget import TrainingBudget
from dood_pyro.runs.run import Run
from dood_pyro.runs.tensors import refuse_not_finite
from dood_pyro.tasks.evaluate import evaluate
from dood_pyro.training.log import Show
from dood_pyro.training.loop import Training

__all__ = ["begin_training", "configure", "evaluate", "read_settings", "train"]

SAMPLES = 5
"""Default of ``particles`` for estimators that weigh samples."""
INHERITED = ("num_refiners", "guide_channels")
"""Training settings that are those of the run that training starts from."""


def train(
    source: str,
    model: str = "dood",
    *,
    steps: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    trusted: Sequence[str] = (),
    show: Show | None = None,
    tensorboard: bool = False,
) -> Run:
    """Train a new run; see `begin_training` for the arguments.

    Args:
        show: called with the trainer and a line of metrics, as each is written
            (`dood_pyro.training.train`).
        tensorboard: whether to log for it.

    Returns:
        The run, as `evaluate`, `dood_pyro.load` and the commands take it.

    Raises:
        UserError: something of it cannot be; or the training diverged.
    """
    training = begin_training(
        source,
        model,
        steps=steps,
        seconds=seconds,
        out=out,
        settings=settings,
        init_from=init_from,
        device=device,
        data_dir=data_dir,
        trusted=trusted,
    )
    training.until_end(show, tensorboard)
    return training.run


def begin_training(
    source: str,
    model: str | None = None,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    init_from: str | os.PathLike[str] | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    trusted: Sequence[str] = (),
) -> Training:
    """A new run folder with its programs built and its data read, ready to train.

    Args:
        source: name of a data source, path of a folder or file, or anyone's own ``module:function``.
        model: a name in `dood_pyro.registry.MODELS`, or ``module:Class``.
        steps, seconds: where training ends; one of them at least.
        out: run folder; runs/MODEL-SOURCE-SEED by default.
        settings: others than the defaults, as ``"model.features"`` or ``"train.beta"``
            (`ModelConfig`, `TrainConfig`).
        init_from: run whose model and weights training starts from; of its guide, with those that
            fit.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        data_dir: data folder.
        trusted: names ``module:Class`` of code that ``init_from`` may have run.

    Raises:
        UserError: something of it cannot be; then nothing has been written.
    """
    budget = TrainingBudget(steps, seconds)
    chosen = dict(settings or {})
    initial, sha256 = None, ""
    if init_from is not None:
        theirs, initial, sha256 = _initial_weights(str(init_from), trusted, chosen)
        model = _same("model.name", model, theirs.pop("model.name"), str(init_from))
        for name, value in theirs.items():
            chosen[name] = _same(name, chosen.get(name), value, str(init_from))
    config = configure(model or "dood", absolute_source(source), chosen)
    stem = f"{config.model_name.replace(':', '-')}-{name_of(source)}-{config.train.seed}"
    path = Path("runs") / stem if out is None else out
    return Training.begin(path, config, budget, choose_device(device), data_dir, initial, sha256)


def configure(
    model: str = "dood", source: str = "", settings: Mapping[str, Any] | None = None
) -> RunConfig:
    """The settings of a run: defaults, and what is given in their place.

    Args:
        settings: by ``"model.NAME"`` and ``"train.NAME"``.

    Raises:
        UserError: a name is unknown, or a value cannot be; it is named (`SettingError`).
    """
    parts: dict[str, dict[str, Any]] = {"model": {}, "train": {"source": source}}
    kinds = {"model": ModelConfig, "train": TrainConfig}
    for name, value in (settings or {}).items():
        part, _, setting = name.partition(".")
        known = {each.name for each in dataclasses.fields(kinds[part])} if part in kinds else set()
        if setting not in known:
            raise SettingError(
                name,
                "is not a setting; the settings are those of ModelConfig and TrainConfig, as "
                "model.features or train.beta",
            )
        parts[part][setting] = value
    estimator = canonical(parts["train"].get("estimator", TrainConfig.estimator))
    parts["train"]["estimator"] = estimator
    if "particles" not in parts["train"] and load_component("estimator", estimator).takes_particles:
        parts["train"]["particles"] = SAMPLES
    load_component("model", model)  # says what is wrong with the name
    return RunConfig(model, ModelConfig(**parts["model"]), TrainConfig(**parts["train"]))


def read_settings(path: Path) -> dict[str, Any]:
    """Settings from a TOML file with tables ``[model]`` and ``[train]``, by ``"model.NAME"`` and so on.

    Raises:
        UserError: it cannot be read, or has other tables.
    """
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read settings from {path}: {error}") from None
    if other := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise UserError(f"{path}: {other[0]} stands in no table; put it under [model] or [train]")
    return {
        f"{part}.{name}": value for part, table in tables.items() for name, value in table.items()
    }


def parse_assignment(text: str) -> tuple[str, Any]:
    """Name and value of ``model.features=512``; a value that is not TOML is a string.

    Raises:
        UserError: there is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UserError(f"--set takes NAME=VALUE, such as model.features=512; not {text!r}")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


def absolute_source(source: str) -> str:
    """A source as a run keeps it: a path must be found again from wherever the run is resumed."""
    from dood_pyro.registry import SOURCES

    source = canonical(source)
    if not source:
        raise UserError(f"say what to train on: {', '.join(SOURCES)}, or a path")
    path = os.path.abspath(os.path.expanduser(source))
    known = source in SOURCES or (is_own_code(source) and not os.path.exists(path))
    return source if known else path


def _same(name: str, given: Any, theirs: Any, run: str) -> Any:
    """A setting that follows from the run that training starts from; it may be said once more."""
    if given not in (None, theirs):
        raise SettingError(name, f"is that of {run}, which init_from names: {theirs}")
    return theirs


def _initial_weights(
    name: str, trusted: Sequence[str], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Settings that follow from the run to start from, its weights, and their hash."""
    run = open_run(name)
    config, _ = run.read_config()
    run.load_model(trusted=trusted)  # says what is wrong with the weights
    weights, _ = run.read_tensors("best.safetensors")
    refuse_not_finite(weights, f"{run.path}/best.safetensors")
    # Kept weights are in half precision.
    weights = {key: t.float() if t.is_floating_point() else t for key, t in weights.items()}
    sha256 = hashlib.sha256((run.path / "best.safetensors").read_bytes()).hexdigest()
    theirs: dict[str, Any] = {"model.name": config.model_name, "train.init_from": sha256[:12]}
    theirs |= {f"model.{setting}": value for setting, value in config.model.to_json().items()}
    theirs |= {f"train.{setting}": getattr(config.train, setting) for setting in INHERITED}
    # Their gates are open already.
    theirs |= dict.fromkeys(("train.gate_begin", "train.gate_full", "train.gate_stagger"), 0)
    if settings.get("train.trainable") == "prior":  # learns from what the run's own guide says
        run.trusted_config(settings.get("train.guide"), trusted)
        theirs["train.guide"] = config.train.guide
    return theirs, weights, sha256
