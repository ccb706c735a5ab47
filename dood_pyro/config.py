"""Every setting of a program and of its training, as plain values that a run folder keeps in JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from dood_pyro.errors import UserError

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Config:
    """Base of the configurations: to and from JSON, with clear errors for what does not fit."""

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)

    def sha256(self) -> str:
        """A hash that two configurations share only if every setting agrees."""
        values = json.dumps(_without_later(self), sort_keys=True)
        return hashlib.sha256(values.encode()).hexdigest()

    @classmethod
    def from_json(cls: type[C], values: dict[str, Any]) -> C:
        """The configuration that `to_json` wrote.

        A setting that is missing was added `later`, and is put at what was done before.

        Raises:
            UserError: ``values`` has settings that this version lacks, or malformed ones.
        """
        extra = set(values) - {field.name for field in dataclasses.fields(cls)}
        if extra:
            raise UserError(
                f"the {cls.__name__} on disk is from another version of dood-pyro: it has "
                f"{', '.join(sorted(extra))}; use the version named in the run's versions.json"
            )
        earlier = {
            field.name: field.metadata["before"]
            for field in dataclasses.fields(cls)
            if "before" in field.metadata
        }
        kinds = get_type_hints(cls)
        for field in dataclasses.fields(cls):
            name = field.name
            if name not in values and name not in earlier:
                raise UserError(f"the {cls.__name__} on disk is incomplete: it lacks {name}")
            if name in values and not _is_a(values[name], kinds[name]):
                raise UserError(
                    f"the {cls.__name__} on disk holds a malformed value: {name} is {values[name]!r}"
                )
        return cls(**(earlier | values))


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value read from JSON is of a setting's annotated type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    return type(value) is kind


_BEFORE: Any = object()


def later(before: Any, now: Any = _BEFORE) -> Any:
    """A setting that came after results were kept.

    Where it is at ``before``, which is what was done until then, it is left out of hashes, so that
    they stay what they were. Its default is ``now``, or ``before`` if that is not given.
    """
    default = before if now is _BEFORE else now
    return dataclasses.field(default=default, metadata={"before": before})


def _without_later(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "before" in field.metadata and value == field.metadata["before"]:
            continue
        values[field.name] = _without_later(value) if isinstance(value, Config) else value
    return values


def _require_kinds(config: Config) -> None:
    """That every setting of several named values, or of two, has one of them."""
    for name, kind in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal:
            *others, last = map(repr, get_args(kind))
            choices = f"{', '.join(others)} or {last}"
            _require(value in get_args(kind), f"{name} must be {choices}, not {value!r}")
        elif kind is bool:
            _require(isinstance(value, bool), f"{name} must be true or false, not {value!r}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise UserError(message)


@dataclass(frozen=True)
class ModelConfig(Config):
    """The generative program (section 2.1)."""

    canvas_size: int = 50
    """Pixels a side."""
    max_strokes: int = 6
    """K, the most strokes in a drawing (the paper: 6 throughout)."""
    degree: int = 4
    """D, the degree of the Bézier curves: degree + 1 control points (equation 3)."""
    layout_components: int = 20
    """M, components of the layout's mixture (equation 2)."""
    stroke_components: int = 20
    """Components of each control point's mixture (equation 3)."""
    control_points: Literal["chained", "independent"] = "chained"
    """Whether the prior of a control point is given the points before it in its stroke."""
    pen: Literal["latent", "shared"] = "latent"
    """Where width and darkness come from: a latent ``pen_t``, or a function of the stroke RNN."""
    taper: bool = True
    """Whether the pen's width and darkness may change along a stroke."""
    renderer: Literal["bezier", "network"] = "bezier"
    """What draws a stroke: the renderer, or a network in its place (DooD−δR)."""
    guidance: bool = True
    """Execution guidance: whether model and guide see the canvas so far; without, DooD−EG and
    vanilla AIR."""
    prior: Literal["sequential", "independent"] = "sequential"
    """Whether a step's prior depends on the steps before it."""
    likelihood: Literal["laplace", "gaussian"] = "laplace"
    """Of a pixel given the canvas."""
    native_resolution: bool = later(before=False, now=True)
    """Whether ink is put on pixels as coarse as those that pictures were made of, and then enlarged to
    the canvas as the pictures were (`dood_pyro.stepwise.Program.ink_size`); without, on the canvas's
    own pixels, whatever the pictures were."""
    part_dims: int = 50
    """Dimensions of a part's latent vector in AIR."""
    canvas_channels: int = 16
    """Channels of the model's own encoders, which see drawings."""
    glimpse_size: int = 24
    """Pixels a side of a glimpse."""
    features: int = 256
    """Width of the encoders' outputs, of both RNNs and of the heads' hidden layers."""

    def __post_init__(self) -> None:
        _require_kinds(self)
        _require(8 <= self.canvas_size <= 512, "canvas_size must lie between 8 and 512 pixels")
        _require(1 <= self.max_strokes <= 64, "max_strokes must lie between 1 and 64")
        _require(1 <= self.degree <= 12, "degree must lie between 1 and 12")
        for name in ("layout_components", "stroke_components"):
            _require(1 <= getattr(self, name) <= 1000, f"{name} must lie between 1 and 1000")
        _require(1 <= self.part_dims <= 1000, "part_dims must lie between 1 and 1000")
        _require(1 <= self.canvas_channels <= 1024, "canvas_channels must lie between 1 and 1024")
        _require(8 <= self.glimpse_size <= 256, "glimpse_size must lie between 8 and 256 pixels")
        _require(1 <= self.features <= 8192, "features must lie between 1 and 8192")

    @property
    def pen_values(self) -> int:
        """Dimensions of a ``pen_t`` site."""
        return 4 if self.taper else 2


PRACTICE = 0.125
"""Doodles an image, unless said otherwise."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """One training: what a resumed run must share with its first start (section 2.3)."""

    source: str
    """Name of a data source, or path of a folder or file."""
    seed: int = 0
    batch_size: int = 64
    estimator: Literal["stop-time", "nvil", "iwae", "rws"] = "stop-time"
    """The objective: the bound, its stop variable summed out or by its score function; the
    importance-weighted bound; or reweighted wake-sleep."""
    guide: str = "amortised"
    """The recognition program: a built-in name or ``module:Class``."""
    beta: float = 5.0
    """β: a stroke is drawn if it gains β times what it costs in KL, its own and its stop variable's.
    (In section 2.3 β weighs the KL of the stop variable alone.)"""
    learning_rate: float = 1e-3
    """Divided by (1 + step / decay_steps) ** decay_power, after a rise over warm_up steps."""
    warm_up: int = 100
    decay_steps: int = 1000
    decay_power: float = 0.75
    scale_rate: float = 20.0
    """The likelihood's scale, one number among millions, learns faster than the rest by this."""
    clip: float = 2.0
    """Largest norm of the gradient, of the loss in nats a pixel: most steps are cut to it."""
    average_decay: float = 0.999
    """Of the running average of the weights, which is what is kept and evaluated."""
    explore_steps: int = 600
    """Steps over which the summed estimator explores strokes that the guide would not draw, less
    and less."""
    explore_always: float = 0.1
    """How far it goes on exploring them after that, so that strokes which training drawings seldom
    need are there for others that do."""
    hold_steps: int = 1000
    """Steps over which the score function's ``on`` probabilities are held up."""
    corrections: int = 4
    """How often the amortised guide corrects a proposed stroke."""
    trust_begin: int = 400
    trust_full: int = 800
    """Steps between which the first correction is let in."""
    trust_stagger: int = 300
    """Steps by which each further one is let in later."""
    data_sha256: str = ""
    """Hash of the prepared images, so that a run goes on with the data it began with."""

    resolution: int = later(0)
    """Pixels a side of the source's pictures as they came, which follows from the data; 0: not known,
    or not square."""
    normalise: bool = later(True)
    """Whether the score function's signals are centred and divided by their running standard
    deviation, as NVIL's algorithm has it; without, its gradient agrees in expectation with that of the
    summed bound."""
    particles: int = later(1)
    """Samples an image, of the estimators that weigh samples."""
    start: str = later("")
    """Hash of the weights that training started from; empty for random ones."""
    fit: Literal["both", "guide", "prior"] = later("both")
    """What learns: model and guide; the guide alone over a model that stays as it is; or the prior
    alone, over all else."""
    dream_steps: int = later(0)
    """For how many steps, the first, the guide learns from drawings that the model dreams."""

    practice: float = later(before=0.0, now=None)
    """How many random doodles, for each image of the source, the guide learns to draw: pens and
    strokes that the source lacks. The model learns nothing from them. None stands for `PRACTICE`, or
    for 0 under the score function and where the guide does not learn."""
    scale_learns: Literal["explored", "drawn"] = later(before="explored", now="drawn")
    """From which strokes the likelihood's scale learns: as often as the guide draws them; or from all
    that are explored, most of which would not be drawn, so that it comes out up to a third larger. The
    score function explores none."""
    guide_channels: int = later(before=32, now=16)
    """Channels of the guide's encoders; twice as many learn no more in a step of a fifth longer."""

    def __post_init__(self) -> None:
        if self.practice is None:
            settled = 0.0 if self.estimator == "nvil" or self.fit == "prior" else PRACTICE
            object.__setattr__(self, "practice", settled)
        _require_kinds(self)
        _require(1 <= self.batch_size <= 2**20, "--batch-size must lie between 1 and 1,048,576")
        _require(
            isinstance(self.resolution, int) and self.resolution >= 0,
            "resolution must be a whole number of pixels",
        )
        _require(1 <= self.particles <= 10_000, "--particles must lie between 1 and 10,000")
        _require(
            self.normalise or self.estimator == "nvil",
            "--no-normalise is for --estimator nvil, whose signals it leaves as they are",
        )
        _require(
            self.particles == 1 or self.estimator in ("iwae", "rws"),
            "--particles are for --estimator iwae and rws",
        )
        _require(
            self.fit == "both" or self.start != "",
            f"--fit {self.fit} needs a trained model: --start-from RUN",
        )
        _require(
            self.fit != "prior" or self.estimator != "nvil",
            "--fit prior is not for --estimator nvil, whose baselines belong to the guide",
        )
        _require(
            self.fit != "prior" or self.practice == self.dream_steps == 0,
            "--practice and --dream-steps teach the guide, which --fit prior leaves as it is",
        )
        _require(0 <= self.practice <= 10, "--practice must lie between 0 and 10")
        _require(
            self.practice == 0 or self.estimator != "nvil",
            "--practice is not for --estimator nvil, whose baselines know one kind of picture",
        )
        _require(1 <= self.guide_channels <= 1024, "guide_channels must lie between 1 and 1024")
        _require(self.dream_steps >= 0, "--dream-steps must not be negative")
        _require(0 < self.beta < float("inf"), "--beta must be a positive number")
        _require(0 < self.learning_rate < 1, "--learning-rate must lie between 0 and 1")
        _require(0 <= self.explore_always < 1, "explore_always must lie between 0 and 1")
        _require(0 <= self.average_decay < 1, "average_decay must lie between 0 and 1")
        for name in ("warm_up", "decay_power", "explore_steps", "hold_steps"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        for name in ("decay_steps", "scale_rate", "clip"):
            _require(getattr(self, name) > 0, f"{name} must be positive")
        _require(0 <= self.corrections <= 16, "corrections must lie between 0 and 16")
        stages = (self.trust_begin, self.trust_full, self.trust_stagger)
        _require(min(stages) >= 0, "the steps at which corrections are let in must not be negative")
        _require(0 <= self.seed < 2**63, "--seed must be a non-negative integer below 2^63")
