"""Options that several commands share, and the types of their values."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import click
from click.core import ParameterSource

from dood_pyro.config import Config
from dood_pyro.registry import KINDS, canonical, is_own_code

if TYPE_CHECKING:
    import torch

    from dood_pyro.models.base import DrawingModel
    from dood_pyro.recognition import Recognizer

F = TypeVar("F", bound=Callable[..., Any])


class Name(click.ParamType):
    """A name or a path as it is typed; an empty one, of a variable that is not set, is none."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value):
            self.fail("it names nothing", param, ctx)
        return str(value)


class PathTo(click.ParamType):
    """A path; an empty one, of a variable that is not set, is not the working folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("it names nothing", param, ctx)
        return Path(value)


def names(kind: str, *also: str) -> str:
    """What may be named, for help."""
    return ", ".join([*KINDS[kind], *also[:-1]]) + (f", or {also[-1]}" if also else "") + "."


class Component(click.ParamType):
    """A name of the registry, or anyone's own ``module:Class``."""

    name = "name"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = canonical(str(value))
        if name not in KINDS[self.kind] and not is_own_code(name):
            known = ", ".join(KINDS[self.kind])
            self.fail(
                f"there is no {self.kind} {name!r}; choose {known} or module:Class", param, ctx
            )
        return name


FORMER_OPTIONS = {
    "--start-from": "--init-from",
    "--fit": "--trainable",
    "--dream-steps": "--sleep-steps",
    "--practice": "--synthetic-ratio",
    "--corrections": "--num-refiners",
    "--dreams": "--simulations",
}
"""Options under the names that they had before; they are still understood."""


def with_present_names(words: Sequence[str]) -> list[str]:
    """A command line whose options have the names that they have now."""
    parts = (word.partition("=") for word in words)
    return [FORMER_OPTIONS.get(name, name) + equals + value for name, equals, value in parts]


SEPARATOR = "__"
"""Between part and name in the parameter of an option that sets a setting."""


def settings(*configs: tuple[str, type[Config]]) -> Callable[[F], F]:
    """Options for the settings of configurations that have one of their own.

    Args:
        configs: name of the part, such as ``"train"``, and its class.
    """

    def decorate(command: F) -> F:
        for part, config in reversed(configs):
            kinds = get_type_hints(config)
            for each in reversed(dataclasses.fields(config)):
                if each.metadata["option"]:
                    command = _setting_option(part, each, kinds[each.name])(command)
        return command

    return decorate


def _setting_option(part: str, each: dataclasses.Field[Any], kind: Any) -> Callable[[F], F]:
    flag, parameter = "--" + each.name.replace("_", "-"), part + SEPARATOR + each.name
    what, default = each.metadata["what"], each.default
    if kind is bool:
        return click.option(
            f"{flag}/--no-{flag[2:]}", parameter, default=default, show_default=True, help=what
        )
    if get_origin(kind) is Literal:
        value: Any = click.Choice(get_args(kind))
    elif each.name in KINDS:
        value = Component(each.name)
        what += f"  [{names(each.name).rstrip('.')}]"
    else:
        value = kind
    shown = "[default:" not in what
    return click.option(flag, parameter, type=value, default=default, show_default=shown, help=what)


def setting_of(parameter: str) -> str | None:
    """The setting that an option's parameter sets, as ``train.beta``; None for other options."""
    part, separator, name = parameter.partition(SEPARATOR)
    return f"{part}.{name}" if separator else None


def typed_name(ctx: click.Context, parameter: str) -> str:
    """An option as it is typed, of its parameter."""
    (option,) = (each for each in ctx.command.params if each.name == parameter)
    return option.opts[0]


def option_of(ctx: click.Context, setting: str) -> str:
    """What a setting is called where it was set: its option, if that was typed, else itself."""
    for option in ctx.command.params:
        name = option.name or ""
        mine = (setting_of(name) or name).rpartition(".")[2]
        if mine == setting.rpartition(".")[2]:
            typed = ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE
            return option.opts[0] if typed else setting
    return setting


data_dir = click.option(
    "--data-dir",
    type=PathTo(),
    metavar="PATH",
    help="Data folder.  [default: DOOD_DATA, else the platform's cache folder]",
)
device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto takes a GPU where there is one.",
)
which = click.option(
    "--which",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="Checkpoint: the best by held-out bound, or the last.",
)
trust = click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="MODULE:CLASS",
    help="Code of its own that a run names and may have run; may be repeated.",
)
guide = click.option(
    "--guide",
    metavar="NAME",
    help="refined, smc or per-image, put over the run's own. Of a run that was trained with "
    "module:Class, that name, which permits its code to be run; module:Class+smc puts smc over it.",
)


class Use(NamedTuple):
    """How a command takes up trained runs: what `trained` collects."""

    which: str
    guide: str | None
    device: str
    trusted: tuple[str, ...] = ()

    def load(self, run: str) -> Recognizer:
        """The model and guide of a run folder, or of weights that come with the package."""
        from dood_pyro.recognition import load

        return load(run, self.device, self.which, self.guide, self.trusted)

    def load_all(self, runs: Sequence[str]) -> list[Recognizer]:
        """Several of them: what is put over a guide is put over each one's, and a guide
        ``module:Class`` is permitted to those that were trained with it.

        Raises:
            UserError: one of them cannot be loaded, or none was trained with that guide.
        """
        from dood_pyro.errors import UserError
        from dood_pyro.recognition import load, open_run
        from dood_pyro.runs.run import parse_guide_name

        own, over = parse_guide_name(self.guide)
        theirs = [open_run(run).read_config()[0].train.guide for run in runs]
        if own is not None and own not in theirs:
            raise UserError(f"none of these runs was trained with the guide {own!r}")
        found = []
        for run, its in zip(runs, theirs, strict=True):
            guide = "+".join(filter(None, (own if its == own else None, over)))
            found.append(load(run, self.device, self.which, guide or None, self.trusted))
        return found

    def torch_device(self) -> torch.device:
        """The device, found out."""
        from dood_pyro.devices import choose_device

        return choose_device(self.device)


class LoadedModel(NamedTuple):
    """A run's model alone."""

    model: DrawingModel[Any]
    native_size: int
    """Pixels per side of the images that it was trained on, as they came."""


class UseModel(NamedTuple):
    """How a command takes up models of trained runs: what `trained_model` collects."""

    which: str
    device: str
    trusted: tuple[str, ...] = ()

    def load(self, run: str) -> LoadedModel:
        """The model of a run folder, or of weights that come with the package."""
        from dood_pyro.devices import choose_device
        from dood_pyro.recognition import open_run

        opened = open_run(run)
        model = opened.load_model(self.which, self.trusted).to(choose_device(self.device))
        return LoadedModel(model, opened.read_facts().native_size)


def trained(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that takes trained runs, handed over together as ``use``."""

    @functools.wraps(command)
    def collected(
        which: str, guide: str | None, device: str, trusted: tuple[str, ...], **given: Any
    ) -> None:
        command(use=Use(which, guide, device, trusted), **given)

    return which(guide(trust(device(collected))))


IMAGES = (
    "{desc} {percentage:3.0f}%|{bar:20}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
)
"""A bar of images, of which a search may have done a part."""


def trained_model(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that takes a trained run's model and has no use for its guide,
    handed over together as ``use_model``."""

    @functools.wraps(command)
    def collected(which: str, device: str, trusted: tuple[str, ...], **given: Any) -> None:
        command(use_model=UseModel(which, device, trusted), **given)

    return which(trust(device(collected)))


def run_name(run: str) -> str:
    """What figures and files call a run: its folder's name."""
    from dood_pyro.files import named

    return named(run).name


class Duration(click.ParamType):
    """A time such as 90m, 1h30m or 45s, in seconds."""

    name = "duration"
    UNITS = {"h": 3600, "m": 60, "s": 1}  # noqa: RUF012

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", str(value))
        seconds = sum(float(number) * self.UNITS[unit] for number, unit in parts)
        if "".join(number + unit for number, unit in parts) != value or seconds <= 0:
            self.fail(f"{value!r} is not a time; write 90m, 1h30m or 45s", param, ctx)
        return seconds


class Names(click.ParamType):
    """Names by comma, as a tuple."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts) or len(set(parts)) < len(parts):
            self.fail(f"{value!r} is not a list of different names by comma", param, ctx)
        return tuple(parts)


seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Of what is random.",
)


def particles() -> Callable[[F], F]:
    """The option that says how many importance samples are taken."""
    return click.option(
        "--particles",
        type=click.IntRange(1, 10**6),
        default=200,
        show_default=True,
        metavar="N",
        help="Importance samples an image.",
    )


def limit(default: int) -> Callable[[F], F]:
    """The option that says how many test images are measured."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar="N",
        help="Test images: the first of the shuffle of seed 0.",
    )


def count(most: int, default: int, what: str) -> Callable[[F], F]:
    """The option that says how many are drawn."""
    return click.option(
        "--count",
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        metavar="N",
        help=f"{what}; at most {most}.",
    )


class Png(PathTo):
    """A path that ends in .png and can be written: found out before long work."""

    name = "png"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from dood_pyro.files import check_output

        path = super().convert(value, param, ctx)
        if path.suffix.lower() != ".png":
            self.fail(f"it must end in .png; {path} does not", param, ctx)
        check_output(path)
        return path


class JsonObject(PathTo):
    """A JSON file that entries are put into beside others: one that is damaged, or in no folder, is
    found out before long work."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from dood_pyro.files import read_object

        path = super().convert(value, param, ctx)
        read_object(path)
        return path


class Numbers(Names):
    """Non-negative integers by comma, as a tuple."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        parts = super().convert(value, param, ctx)
        if not all(str(part).isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers by comma", param, ctx)
        numbers = tuple(int(part) for part in parts)
        if len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} names a number twice", param, ctx)
        if max(numbers) >= 2**32:
            self.fail(f"{max(numbers)} is too large: less than {2**32}, please", param, ctx)
        return numbers


def record(what: str) -> Callable[[F], F]:
    """The option that says which file numbers go into, too."""
    return click.option("--record", metavar="JSON", type=JsonObject(), help=what)


def entry(base: str, *apart: str, **more: tuple[Any, Any]) -> str:
    """What an entry of such a file goes under: ``base``, and whatever is not as usual.

    Args:
        apart: options of the command that is running which tell measurements apart; left at their
            defaults they go without saying.
        more: value and usual value of what does so beside them.
    """
    context = click.get_current_context()
    for option in context.command.params:
        name = option.name
        if name in apart and context.get_parameter_source(name) != ParameterSource.DEFAULT:
            usual = option.type_cast_value(context, option.get_default(context))
            more[name] = context.params[name], usual
    written = {name: tuple(map(_written, pair)) for name, pair in more.items()}
    unusual = [f"{name} {value}" for name, (value, usual) in written.items() if value != usual]
    return ", ".join([base, *unusual])


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def figure(default: str) -> Callable[[F], F]:
    """The option that says where a figure goes."""
    return click.option(
        "--out",
        type=Png(),
        default=Path(default),
        show_default=True,
        help="PNG; a PDF is written beside it.",
    )
