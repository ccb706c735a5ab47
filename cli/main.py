"""Entry point of ``dood-pyro``: the group of commands, and the messages and exit statuses of errors.
The installed script and ``python -m dood_pyro.cli`` call `main`.
"""

from __future__ import annotations

import os
import signal
import sys

import click

from dood_pyro.errors import Interrupted, UserError
from dood_pyro.progress import be_quiet, redirect_to_devnull
from dood_pyro.registry import TASKS, load_target

from . import options


class Commands(click.Group):
    """Commands of `dood_pyro.registry.TASKS`, each imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TASKS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in TASKS:
            return None
        command: click.Command = load_target(TASKS[name].target)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Wherever it is typed: nobody remembers on which side of the command it belongs.
        end = args.index("--") if "--" in args else len(args)
        be_quiet("--quiet" in args[:end])
        words = [word for word in args[:end] if word != "--quiet"]
        return super().parse_args(ctx, [*words, *args[end:]])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, words = super().resolve_command(ctx, args)
        return name, command, options.with_present_names(words)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, task.what) for name, task in TASKS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dood-pyro")
@click.option("--quiet", is_flag=True, help="Show no progress; print results and errors alone.")
def cli(quiet: bool) -> None:
    """Learn from images alone to draw them stroke by stroke (DooD, NeurIPS 2022)."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    A user's mistake ends in one line on standard error and status 1 or 2.
    """
    _occupy_standard_streams()
    try:
        status = cli.main(args=arguments, standalone_mode=False)
    except (KeyboardInterrupt, click.Abort) as error:  # first: Abort is a RuntimeError
        cause = error.__cause__ or error  # click raises Abort from the interrupt
        if isinstance(cause, Interrupted):
            fail(str(cause), cause.status)
        fail("interrupted", 128 + signal.SIGINT)
    except UserError as error:
        fail(str(error), 1)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        fail(error.format_message(), error.exit_code)
    except MemoryError:
        fail("there is not enough memory for that; take fewer or smaller pictures", 1)
    except RuntimeError as error:
        # torch's messages on a GPU and on a CPU.
        if not any(words in str(error) for words in ("out of memory", "t allocate memory")):
            raise
        fail(
            "there is not enough memory for that; lower --batch-size, --count or --limit, where given",
            1,
        )
    except BrokenPipeError:
        # A reader such as head or less has read enough and closed the pipe: no message.
        redirect_to_devnull(sys.stdout)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        redirect_to_devnull(sys.stdout)
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int) -> None:
    """Exit with one line on standard error."""
    try:
        click.echo("dood-pyro: " + " ".join(message.split()), err=True)
    except (OSError, ValueError):  # nobody reads standard error; the status remains
        redirect_to_devnull(sys.stderr)
    sys.exit(status)


def _occupy_standard_streams() -> None:
    """Open on /dev/null those of the first three descriptors that are closed (``2>&-``).

    The next file to be opened would otherwise take a closed descriptor's number, and receive what
    libraries print there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this descriptor
