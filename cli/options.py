"""Options that several commands share, and the types of option values. Used by every command."""

from __future__ import annotations

import dataclasses
import functools
import json
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

from dood_pyro.config import UNSET, Config
from dood_pyro.registry import KINDS, canonical, is_own_code, unknown

if TYPE_CHECKING:
    import torch

    from dood_pyro.models.base import DrawingModel
    from dood_pyro.progress import Bars
    from dood_pyro.recognition import Recognizer

F = TypeVar("F", bound=Callable[..., Any])


class Name(click.ParamType):
    """Name or path as typed. An empty one, left by an unset shell variable, is refused."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not str(value):
            self.fail("it names nothing", param, ctx)
        return str(value)


class PathTo(click.ParamType):
    """Path. An empty one, left by an unset shell variable, is refused, not the working folder."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("it names nothing", param, ctx)
        return Path(value)


def runs_dir(what: str) -> Callable[[F], F]:
    """Return a decorator that adds ``--runs-dir``, a folder of run folders.

    Args:
        what: help text.
    """
    return click.option(
        "--runs-dir",
        type=PathTo(),
        default=Path("runs"),
        show_default=True,
        help=what,
    )


def typed(ctx: click.Context, name: str) -> Any:
    """Value of an option if it was typed, else None."""
    return (
        ctx.params[name] if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE else None
    )


def names(kind: str, *also: str) -> str:
    """List of the registry's names of a kind, and of further forms, for help texts."""
    return ", ".join([*KINDS[kind], *also[:-1]]) + (f", or {also[-1]}" if also else "") + "."


class Component(click.ParamType):
    """Name in the registry, or ``module:Class`` for the user's own code."""

    name = "name"

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        name = canonical(str(value))
        if name not in KINDS[self.kind] and not is_own_code(name):
            self.fail(f"there is {unknown(self.kind, name)}", param, ctx)
        return name


FORMER_OPTIONS = {
    "--start-from": "--init-from",
    "--fit": "--trainable",
    "--dream-steps": "--sleep-steps",
    "--practice": "--synthetic-ratio",
    "--corrections": "--num-refiners",
    "--dreams": "--simulations",
}
"""Present names of options by former name; former names are still understood."""


def with_present_names(words: Sequence[str]) -> list[str]:
    """Return a command line with former option names replaced by present ones."""
    parts = (word.partition("=") for word in words)
    return [FORMER_OPTIONS.get(name, name) + equals + value for name, equals, value in parts]


SEPARATOR = "__"
"""Separator of part and name in the parameter of an option that sets a setting."""


def settings(*configs: tuple[str, type[Config]]) -> Callable[[F], F]:
    """Return a decorator that adds an option for each setting declared to have an option.

    Args:
        configs: name of the configuration's part, such as ``"train"``, and its class.
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
    what, default = each.metadata["what"], None if each.default is UNSET else each.default
    shown = "[default:" not in what
    if kind is bool:
        flag = f"{flag}/--no-{flag[2:]}"
        return click.option(flag, parameter, default=default, show_default=shown, help=what)
    if get_origin(kind) is Literal:
        value: Any = click.Choice(get_args(kind))
    elif each.name in KINDS:
        value = Component(each.name)
        what += f"  [{names(each.name).rstrip('.')}]"
    else:
        value = kind
    return click.option(flag, parameter, type=value, default=default, show_default=shown, help=what)


def setting_of(parameter: str) -> str | None:
    """Setting that an option's parameter sets, such as ``train.beta``; None for other options."""
    part, separator, name = parameter.partition(SEPARATOR)
    return f"{part}.{name}" if separator else None


def typed_name(ctx: click.Context, parameter: str) -> str:
    """Name under which the option of a parameter is typed."""
    (option,) = (each for each in ctx.command.params if each.name == parameter)
    return option.opts[0]


def option_of(ctx: click.Context, setting: str) -> str:
    """Name for a setting in messages: the setting's option if that was typed, else the setting."""
    for option in ctx.command.params:
        name = option.name or ""
        mine = setting_of(name) or name
        if setting in (mine, mine.rpartition(".")[2]):
            if ctx.get_parameter_source(name) != ParameterSource.COMMANDLINE:
                return setting
            return (option.opts if ctx.params[name] is not False else option.secondary_opts)[0]
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
    help="Code outside dood-pyro that a run names and that may be executed; may be repeated.",
)
guide = click.option(
    "--guide",
    metavar="NAME",
    help="Search guide over the run's own guide: refined, smc or per-image. For a run that was trained "
    "with module:Class, that name permits the class's code to be executed; module:Class+smc also puts "
    "smc over it.",
)
permitted_guide = click.option(
    "--guide",
    metavar="MODULE:CLASS",
    help="Of a run that was trained with a guide module:Class: permits that class's code to be "
    "executed.",
)


class Use(NamedTuple):
    """Options for loading trained runs, collected by `trained`."""

    which: str
    guide: str | None
    device: str
    trusted: tuple[str, ...] = ()

    def load(self, run: str) -> Recognizer:
        """Load model and guide of a run folder, or of weights that come with the package."""
        from dood_pyro.recognition import load

        return load(run, self.device, self.which, self.guide, self.trusted)

    def load_model(self, run: str) -> tuple[DrawingModel[Any], int]:
        """Load the model of a run without its guide, and the native size of its training images."""
        from dood_pyro.recognition import open_run

        opened = open_run(run)
        model = opened.load_model(self.which, self.trusted).to(self.torch_device())
        return model, opened.read_facts().native_size

    def load_all(self, runs: Sequence[str]) -> list[Recognizer]:
        """Load several runs.

        A search guide is put over each run's own guide; a guide ``module:Class`` is permitted for the
        runs that were trained with that class.

        Raises:
            UserError: a run cannot be loaded, or no run was trained with ``module:Class``.
        """
        from dood_pyro.errors import UserError
        from dood_pyro.recognition import load, open_run
        from dood_pyro.run_folders.run import parse_guide_name

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
        """Return the device that the option stands for."""
        from dood_pyro.devices import choose_device

        return choose_device(self.device)


def trained(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that takes trained runs, passed together as ``use``."""
    return _trained(command, guide)


def trained_guides(command: Callable[..., None]) -> Callable[..., None]:
    """As `trained`, for a command that names the guides it uses by an option of its own."""
    return _trained(command, permitted_guide)


def _trained(
    command: Callable[..., None], guide_option: Callable[[Any], Any]
) -> Callable[..., None]:
    @functools.wraps(command)
    def collected(
        which: str, guide: str | None, device: str, trusted: tuple[str, ...], **given: Any
    ) -> None:
        command(use=Use(which, guide, device, trusted), **given)

    return which(guide_option(trust(device(collected))))


WHOLE_IMAGES = (
    "{desc} {percentage:3.0f}%|{bar:20}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
)
"""Format of a progress bar over images; a search counts parts of an image."""


def image_bars(as_json: bool) -> Bars:
    """Bars over images, for use as a context; none where JSON alone is printed."""
    from dood_pyro.progress import Bars

    return Bars(unit="image", bar_format=WHOLE_IMAGES, disable=as_json)


def trained_model(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of every command that takes a trained run's model without the guide, passed
    together as ``use``."""

    @functools.wraps(command)
    def collected(which: str, device: str, trusted: tuple[str, ...], **given: Any) -> None:
        command(use=Use(which, None, device, trusted), **given)

    return which(trust(device(collected)))


def own_source(source: str, trusted: Sequence[str]) -> str:
    """The source that a run was trained on, if its code comes with the package or is trusted.

    Raises:
        UserError: the run names code of its own.
    """
    from dood_pyro.errors import UserError

    if is_own_code(source) and source not in trusted:
        raise UserError(
            f"the run was trained on {source}, code of its own; name a --target, or, if you trust that "
            f"code, --trust {source}"
        )
    return source


class Measured(NamedTuple):
    """A run that is measured against a target, for an entry of a JSON file of numbers."""

    target: str
    name: str
    """Name of the target in tables."""
    made_by: dict[str, Any]
    """The run's provenance."""
    apart: dict[str, tuple[Any, Any]]
    """What of the run tells its entry apart from the usual one (`entry`)."""


def measured(run: str, target: str | None, use: Use) -> Measured:
    """A run against a target; by default against the source that it was trained on.

    Raises:
        UserError: the run cannot be read, or its source is code of its own.
    """
    from dood_pyro import data
    from dood_pyro.config import ModelConfig
    from dood_pyro.recognition import open_run

    opened = open_run(run)
    made_by = opened.provenance(use.which)
    config = opened.read_config()[0]
    trained = config.train
    target = own_source(trained.source, use.trusted) if target is None else target
    name = data.name_of(target)
    # By the name: a class of the user's own, which may know better, need not be run for a key.
    transformer = made_by["model"] == "dood-transformer"
    apart = {
        "by": (made_by["source"], name),
        "model": (made_by["model"], "dood"),
        "trainable": (trained.trainable, "both"),
        "pointers": (config.model.pointers, transformer),
        "chain": (config.model.chain, "deep" if transformer else "shallow"),
        "max_strokes": (config.model.max_strokes, ModelConfig.max_strokes),
    }
    return Measured(target, name, made_by, apart)


as_json = click.option("--json", "as_json", is_flag=True, help="Print nothing but JSON.")


def run_name(run: str) -> str:
    """Name of a run in figures and files: the name of its folder."""
    from dood_pyro.files import named

    return named(run).name


class Duration(click.ParamType):
    """Time typed as 90m, 1h30m or 45s, converted to seconds."""

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
    """Names separated by commas, as a tuple."""

    name = "names"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        if not all(parts) or len(set(parts)) < len(parts):
            self.fail(f"{value!r} is not a list of different names separated by commas", param, ctx)
        return tuple(parts)


seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of random numbers.",
)


def particles() -> Callable[[F], F]:
    """Option for the number of importance samples."""
    return click.option(
        "--particles",
        type=click.IntRange(1, 10**6),
        default=200,
        show_default=True,
        metavar="N",
        help="Importance samples per image.",
    )


def limit(default: int) -> Callable[[F], F]:
    """Option for the number of test images."""
    return click.option(
        "--limit",
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar="N",
        help="Number of test images: the first in the shuffle of seed 0.",
    )


def count(most: int, default: int, what: str) -> Callable[[F], F]:
    """Option for the number of pictures to draw; ``what`` names the pictures in the help text."""
    return click.option(
        "--count",
        type=click.IntRange(1, most),
        default=default,
        show_default=True,
        metavar="N",
        help=f"{what}; at most {most}.",
    )


class Png(PathTo):
    """Path that ends in .png and can be written, checked before long work."""

    name = "png"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from dood_pyro.files import check_output

        path = super().convert(value, param, ctx)
        if path.suffix.lower() != ".png":
            self.fail(f"it must end in .png; {path} does not", param, ctx)
        check_output(path)
        return path


class JsonObject(PathTo):
    """JSON file that entries are added to; damage or a missing folder is found before long work."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        from dood_pyro.files import read_object

        path = super().convert(value, param, ctx)
        read_object(path)
        return path


class Numbers(Names):
    """Non-negative integers separated by commas, as a tuple."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        parts = super().convert(value, param, ctx)
        if not all(str(part).isdecimal() for part in parts):
            self.fail(f"{value!r} is not a list of whole numbers separated by commas", param, ctx)
        numbers = tuple(int(part) for part in parts)
        if len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} names a number twice", param, ctx)
        if max(numbers) >= 2**32:
            self.fail(f"{max(numbers)} is too large; it must be less than {2**32}", param, ctx)
        return numbers


def record(what: str) -> Callable[[F], F]:
    """Option for a JSON file that numbers are added to."""
    return click.option("--record", metavar="JSON", type=JsonObject(), help=what)


def entry(base: str, *apart: str, **more: tuple[Any, Any]) -> str:
    """Key of an entry in a JSON file of numbers: ``base``, then every value that is not usual.

    Args:
        apart: options of the running command that tell measurements apart; an option left at its
            default is not in the key.
        more: value and usual value of each further quantity that tells measurements apart.
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


def figure(task: str) -> Callable[[F], F]:
    """Option for the file of a figure, whose default `figure_path` makes."""
    shown = f"PNG; a PDF is written beside it.  [default: RUN-{task}.png]"
    return click.option("--out", type=Png(), help=shown)


def figure_path(out: Path | None, runs: Sequence[str], *task: str) -> Path:
    """File of a figure: ``out``, or one named after runs and task, so that it does not take the place
    of another's.

    Raises:
        UserError: it cannot be written.
    """
    from dood_pyro.files import check_output

    if out is not None:
        return out
    names = [run_name(run) for run in runs]
    if len(names) > 3:
        names = [names[0], f"and-{len(names) - 1}-more"]
    path = Path("-".join([*names, *task]) + ".png")
    check_output(path)
    return path


def check_folder(path: Path, parameter: str) -> None:
    """Check a folder that an option names: one that was typed has to be there.

    Raises:
        UserError: it is not.
    """
    from dood_pyro.errors import UserError

    context = click.get_current_context()
    typed = context.get_parameter_source(parameter) is ParameterSource.COMMANDLINE
    if typed and not path.is_dir():
        raise UserError(f"{typed_name(context, parameter)} names {path}, which is no folder")


def say(values: Any, text: str, as_json: bool, files: Sequence[Path] = ()) -> None:
    """Print what was measured: a text, and the files that were written; or, as JSON, values alone."""
    if as_json:
        click.echo(json.dumps(values, indent=2))
        return
    click.echo(text)
    for path in files:
        click.echo(path)
