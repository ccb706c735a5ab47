"""The ``dood-pyro draw`` command: a page on this machine to draw on.
`dood_pyro.registry` names it; `dood_pyro.page` is the page.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from . import options


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7860,
    show_default=True,
    help="Port to serve at; 0 takes a free one.",
)
@click.option(
    "--host",
    type=options.Name(),
    default="127.0.0.1",
    show_default=True,
    help="Address to serve at; another than this machine's own lets others in.",
)
@click.option("--browser/--no-browser", default=True, help="Whether to open the page in a browser.")
@options.runs_dir("Folder of the runs to choose from, beside the weights that come with dood-pyro.")
def draw(port: int, host: str, browser: bool, runs_dir: Path) -> None:
    """Open a page to draw on, whose strokes are found as you draw.

    Needs: pip install 'dood-pyro[draw]'. Nothing leaves this machine.
    """
    from dood_pyro.page.server import serve

    options.check_folder(runs_dir, "runs_dir")
    with contextlib.suppress(KeyboardInterrupt):  # the way to end it
        serve(host, port, runs_dir, browser, click.echo)
