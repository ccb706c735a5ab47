"""Every setting of a run, as plain values: what they mean, their ranges and defaults, in one place.
Used by the command line, by run folders, and to build models, guides and estimators.

A setting is declared once, by `setting`; command-line options, ``--set``, configuration files, checks
and docs follow from that. What earlier versions wrote is read by `dood_pyro.run_folders.formats`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dood_pyro.errors import UserError, is_whole
from dood_pyro.registry import canonical, is_own_code

C = TypeVar("C", bound="Config")


class SettingError(UserError):
    """A setting that cannot be.

    Args:
        setting: its name, alone or after its part, as ``beta`` or ``train.beta``.
        what: what is wrong with it, to be read after the name.
    """

    def __init__(self, setting: str, what: str) -> None:
        super().__init__(f"{setting} {what}".strip())
        self.setting, self.what = setting, what


class UnknownSettingError(SettingError):
    """A name that is no setting's."""

    def __init__(self, setting: str) -> None:
        settings = "the settings are those of ModelConfig and TrainConfig, as model.features"
        super().__init__(setting, f"is not a setting; {settings} or train.beta")


def setting(
    default: Any,
    what: str,
    low: float | None = None,
    high: float | None = None,
    *,
    option: bool = False,
    open_low: bool = False,
    before: Any = None,
) -> Any:
    """A field of a configuration.

    Args:
        what: what it is, for help.
        low, high: range of a number, both included.
        option: whether a command-line option of its own sets it; ``--set`` reaches every one.
        open_low: whether ``low`` itself is excluded.
        before: of a setting that was added later, what was done before: configurations that lack the
            setting have that, and those that have it are hashed as they were then.
    """
    metadata = {"what": what, "low": low, "high": high, "option": option, "open_low": open_low}
    metadata["before"] = before
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base of the configurations: to and from JSON, with clear errors for what does not fit."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for each in fields(self):
            value, kind = getattr(self, each.name), kinds[each.name]
            if value is UNSET:
                continue
            if kind is int and is_whole(value):  # numpy's, too
                object.__setattr__(self, each.name, int(value))
            elif kind is float and (is_whole(value) or _is_a(value, float)):
                object.__setattr__(self, each.name, float(value))
            elif not _is_a(value, kind):
                raise SettingError(each.name, f"must be {_in_words(kind)}, not {value!r}")
            _check_range(each, value)

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[C], values: Any) -> C:
        """The configuration that `to_json` wrote.

        Raises:
            UserError: ``values`` lacks settings, has unknown ones, or malformed ones.
        """
        if not isinstance(values, dict):
            raise UserError(f"the {cls.__name__} is malformed: it is not an object")
        names = {each.name for each in fields(cls)}
        later = {each.name: each.metadata.get("before") for each in fields(cls)}
        values = {name: value for name, value in later.items() if value is not None} | values
        if extra := sorted(set(values) - names):
            raise UserError(
                f"the {cls.__name__} is of another version of dood-pyro: it has {', '.join(extra)}"
            )
        if missing := sorted(names - set(values)):
            raise UserError(f"the {cls.__name__} is incomplete: it lacks {', '.join(missing)}")
        return cls(**values)

    def sha256(self, without: tuple[str, ...] = ()) -> str:
        """A hash that two configurations share only if every setting agrees, but for some."""
        later = {each.name: each.metadata.get("before") for each in fields(self)}
        values = {
            name: value
            for name, value in self.to_json().items()
            if name not in without and (later[name] is None or value != later[name])
        }
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of a setting's annotated type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        number = isinstance(value, Real) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return type(value) is kind


def _in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        *others, last = map(repr, get_args(kind))
        return f"{', '.join(others)} or {last}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a name"}
    return words.get(kind, "of another kind")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def _check_range(each: dataclasses.Field[Any], value: Any) -> None:
    low, high = each.metadata.get("low"), each.metadata.get("high")
    open_low = each.metadata.get("open_low")
    below = low is not None and (value <= low if open_low else value < low)
    if not below and (high is None or value <= high):
        return
    least = f"must be {'more than' if open_low else 'at least'} {_number(low)}"
    most = "" if high is None else f" and at most {_number(high)}"
    raise SettingError(each.name, f"{least}{most}; it is {value!r}")


def _require(holds: bool, setting: str, what: str) -> None:
    if not holds:
        raise SettingError(setting, what)


@dataclass(frozen=True)
class ModelConfig(Config):
    """Settings of the generative program (section 2.1)."""

    canvas_size: int = setting(50, "Pixels per side of the canvas.", 8, 512, option=True)
    max_strokes: int = setting(
        6, "K, the most strokes in a drawing (the paper: 6 throughout).", 1, 64, option=True
    )
    degree: int = setting(
        4,
        "D, the degree of the Bézier curves: degree + 1 control points (equation 3).",
        1,
        12,
        option=True,
    )
    layout_components: int = setting(
        20, "M, components of the layout's mixture (equation 2).", 1, 1000, option=True
    )
    stroke_components: int = setting(
        20, "Components of each control point's mixture (equation 3).", 1, 1000, option=True
    )
    control_points: Literal["chained", "independent"] = setting(
        "chained",
        "Prior of a control point: given those before it, or by itself as in the paper.",
        option=True,
    )
    pointers: bool = setting(
        False,
        "Whether the prior draws strokes' ends from places of what is drawn already, too, as pointer "
        "networks choose among their inputs. [default: yes for dood-transformer, which it is for]",
        option=True,
        before=False,
    )
    chain: Literal["shallow", "deep"] = setting(
        "shallow",
        "Network of a stroke's numbers in a transformer prior: with one inner layer for each number, "
        "or deeper, with another one for the first stroke. [default: deep for dood-transformer, which "
        "it is for]",
        option=True,
        before="shallow",
    )
    pen: Literal["latent", "shared"] = setting(
        "latent",
        "Width and darkness: a latent pen_t, or a function of the stroke RNN.",
        option=True,
    )
    taper: bool = setting(
        True, "Whether the pen's width and darkness may change along a stroke.", option=True
    )
    likelihood: Literal["laplace", "gaussian"] = setting(
        "laplace", "Distribution of a pixel given the canvas.", option=True
    )
    native_resolution: bool = setting(
        True,
        "Whether ink is put on as few pixels as images came with, where that is half of the canvas's "
        "or more, and then enlarged as they were.",
        option=True,
    )
    part_dims: int = setting(50, "Dimensions of a part's latent vector in AIR.", 1, 1000)
    canvas_channels: int = setting(16, "Channels of the model's own encoders.", 1, 1024)
    glimpse_size: int = setting(24, "Pixels per side of a glimpse.", 8, 256)
    features: int = setting(
        256,
        "Width of the encoders' outputs, of both RNNs and of the heads' hidden layers.",
        1,
        8192,
    )

    @property
    def pen_values(self) -> int:
        """Dimensions of a ``pen_t`` site."""
        return 4 if self.taper else 2


SYNTHETIC_RATIO = 0.125
"""Default of `TrainConfig.synthetic_ratio`."""
PARTICLES = 5
"""Default of `TrainConfig.particles` for estimators that weigh samples."""
DEFAULT_MODEL = "dood-transformer"
"""Model of a training that names none: samples of the paper's own prior, ``dood``, can hardly be
recognised."""
PRIOR_SHARE = 0.25
"""Usual `TrainConfig.prior_share` of models whose prior can learn from strokes alone."""
UNSET: Any = object()
"""Default of a setting that depends on others: settled as the configuration is made."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """Settings of one training (section 2.3)."""

    source: str = setting(
        "", "Name of a data source, path of a folder or file, or module:function."
    )
    seed: int = setting(0, "Seed of all that is random.", 0, 2**63 - 1)
    init_from: str = setting(
        "",
        "Run whose model and weights training starts from; of its guide, with those that fit. A run's "
        "settings name it by the first digits of its weights' hash.",
    )
    trainable: Literal["both", "guide", "prior"] = setting(
        "both",
        "What learns: model and guide; or, over the weights of init_from, the guide alone, or the "
        "prior alone, which leaves the guide and what strokes look like as they are.",
        option=True,
    )
    guide: str = setting(
        "amortised", "The recognition program: a built-in one, or module:Class.", option=True
    )
    estimator: str = setting(
        "stop-marginal", "The objective: a built-in one, or module:Class.", option=True
    )
    batch_size: int = setting(64, "Images per step.", 1, 2**20, option=True)
    particles: int = setting(
        UNSET,
        "Samples per image, of estimators that weigh samples. "
        f"[default: {PARTICLES} for those, else 1]",
        1,
        10_000,
        option=True,
    )
    normalise: bool = setting(
        True,
        "Whether nvil centres its signals and divides them by their running standard deviation, as "
        "NVIL's algorithm has it; without, its gradient is that of the bound on average.",
        option=True,
    )
    beta: float = setting(
        5.0,
        "β: a stroke is drawn if it gains β times what it costs in KL (--beta-on); iwae and rws go by "
        "it while they explore, in the first explore_steps.",
        0,
        1e9,
        option=True,
        open_low=True,
    )
    beta_on: Literal["all", "stop"] = setting(
        "all",
        "What β weighs where the stop variable learns: a stroke's KL and that of its stop variable, "
        "or the latter alone, as in section 2.3.",
        option=True,
        before="all",
    )
    learning_rate: float = setting(
        1e-3,
        "Divided by (1 + step / decay_steps) ** decay_power, after a rise over warm_up steps.",
        0,
        1,
        option=True,
        open_low=True,
    )
    warm_up: int = setting(100, "Steps over which the learning rate rises.", 0)
    decay_steps: int = setting(1000, "Steps after which the learning rate falls.", 0, open_low=True)
    decay_power: float = setting(0.75, "How fast the learning rate falls.", 0)
    scale_learning_rate_factor: float = setting(
        20.0, "Learning rate of the likelihood's scale, times the rest's.", 0, open_low=True
    )
    clip_norm: float = setting(
        2.0, "Largest norm of the gradient of the loss in nats per pixel.", 0, open_low=True
    )
    average_decay: float = setting(
        0.999,
        "Decay of the running average of the weights, which is kept and evaluated.",
        0,
        0.999999,
    )
    explore_steps: int = setting(
        600,
        "Steps over which strokes are explored that the guide would not draw, less and less; none in a "
        "run that starts from the weights of another.",
        0,
    )
    explore_always: float = setting(
        0.1,
        "How far they go on being explored, so that strokes which training drawings seldom need are "
        "there for others that do.",
        0,
        0.999999,
    )
    hold_steps: int = setting(1000, "Steps over which nvil's on-probabilities are held up.", 0)
    num_refiners: int = setting(
        4,
        "How often the guide refines a proposed stroke; 0 is the paper's guide.",
        0,
        16,
        option=True,
    )
    gate_begin: int = setting(400, "Steps after which the first refiner's gate begins to open.", 0)
    gate_full: int = setting(800, "Steps after which it is open.", 0)
    gate_stagger: int = setting(300, "Steps by which each further gate opens later.", 0)
    guide_channels: int = setting(16, "Channels of the guide's encoders.", 1, 1024)
    sleep_steps: int = setting(
        0,
        "First so many steps on drawings sampled from the model, for the guide alone.",
        0,
        option=True,
    )
    synthetic_ratio: float = setting(
        UNSET,
        "Random strokes that the guide learns to parse, for each image of the source: pens and strokes "
        "that the source lacks; the model learns nothing from them. "
        f"[default: {SYNTHETIC_RATIO}; 0 for nvil and where the guide does not learn]",
        0,
        10,
        option=True,
    )
    scale_learns: Literal["explored", "drawn"] = setting(
        "drawn",
        "What the likelihood's scale learns from: strokes as often as they would be drawn, or all that "
        "training explores, which makes it larger and harder drawings' log p(x) higher.",
        option=True,
    )

    prior_share: float = setting(
        0.0,
        "Share of the budget, at its end, in which the prior alone learns, from strokes that the guide "
        f"finds in the training images once. [default: {PRIOR_SHARE} for dood-transformer, else 0]",
        0,
        0.95,
        option=True,
        before=0.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "estimator", canonical(self.estimator))
        _require(
            self.gate_begin <= self.gate_full,
            "gate_full",
            f"is the step at which a gate is open, so not below gate_begin, {self.gate_begin}",
        )
        # What a run folder names is not run to check its settings, all of which it holds.
        settled = self.particles is not UNSET and self.synthetic_ratio is not UNSET
        if settled and is_own_code(self.estimator):
            self._check_trainable()
            return
        self.check_estimator()

    def check_estimator(self) -> None:
        """Settle by the estimator what is unset, and check the settings against it.

        Raises:
            UserError: there is no such estimator.
            SettingError: a setting is not for it.
        """
        takes_particles, trains_baselines = self._estimator()
        if self.particles is UNSET:
            object.__setattr__(self, "particles", PARTICLES if takes_particles else 1)
        if self.synthetic_ratio is UNSET:
            none = trains_baselines or self.trainable == "prior"
            object.__setattr__(self, "synthetic_ratio", 0.0 if none else SYNTHETIC_RATIO)
        self._check_trainable()
        _require(
            self.normalise or trains_baselines,
            "normalise",
            "is for estimators that train baselines, such as nvil: leave it on",
        )
        _require(
            self.particles == 1 or takes_particles,
            "particles",
            "are for estimators that weigh samples, such as iwae and rws",
        )
        _require(
            self.trainable != "prior" or not trains_baselines,
            "estimator",
            f"{self.estimator} trains baselines, which belong to the guide: with trainable prior "
            "choose another",
        )
        _require(
            self.synthetic_ratio == 0 or not trains_baselines,
            "synthetic_ratio",
            f"is not for the estimator {self.estimator}, whose baselines know one kind of images",
        )

    def _check_trainable(self) -> None:
        _require(
            self.trainable == "both" or self.init_from != "",
            "trainable",
            f"{self.trainable} needs trained weights: init_from must name a run",
        )
        _require(
            self.trainable != "prior" or self.synthetic_ratio == self.sleep_steps == 0,
            "synthetic_ratio",
            "and sleep_steps teach the guide, which trainable prior leaves as it is",
        )
        _require(
            self.trainable == "both" or self.prior_share == 0,
            "prior_share",
            f"is for trainings of model and guide, not for trainable {self.trainable}",
        )

    def _estimator(self) -> tuple[bool, bool]:
        """Whether the estimator takes particles, and whether it trains baselines."""
        if self.estimator == TrainConfig.estimator:  # without importing torch
            return False, False
        from dood_pyro.estimators import load_estimator

        found = load_estimator(self.estimator)
        return found.takes_particles, found.trains_baselines

    def exploration_steps(self) -> int:
        """``explore_steps`` of a run that begins with random weights; others have explored."""
        return 0 if self.init_from else self.explore_steps


@dataclass(frozen=True)
class RunConfig:
    """All settings that decide what a run computes."""

    model_name: str
    """Name in `dood_pyro.registry.MODELS`, or ``module:Class``."""
    model: ModelConfig
    train: TrainConfig

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        model = {"name": self.model_name, **self.model.to_json()}
        return {"model": model, "train": self.train.to_json()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunConfig:
        """The configuration that `to_json` wrote.

        Raises:
            UserError: it is incomplete or malformed.
        """
        model = values.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            raise UserError("the configuration is incomplete: its model has no name")
        settings = {name: value for name, value in model.items() if name != "name"}
        return cls(
            model["name"],
            ModelConfig.from_json(settings),
            TrainConfig.from_json(values.get("train")),
        )

    def own_code(self, training: bool = False) -> list[str]:
        """Names ``module:Class`` of code that is not the package's: of model and guide, and if the
        run is to be trained, of estimator and source."""
        names = [self.model_name, self.train.guide]
        if training:
            names += [self.train.estimator, self.train.source]
        return [name for name in dict.fromkeys(names) if is_own_code(name)]

    def sha256(self, initial_sha256: str = "") -> str:
        """A hash of every setting but the data and the seed: runs that share it compare.

        Args:
            initial_sha256: hash of the weights that training started from.
        """
        parts = (
            self.model_name,
            self.model.sha256(),
            self.train.sha256(without=("source", "seed", "init_from")),
            initial_sha256,
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
