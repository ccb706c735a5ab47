"""The ``dood-pyro sources`` command: the data sources, listed or prepared.
`dood_pyro.registry` names it, and `dood_pyro.data` does the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dood_pyro.errors import UserError
from dood_pyro.tables import columns

from . import options


@click.command()
@click.option("--prepare", metavar="NAME", help="Prepare this source, or folder, now.")
@click.option(
    "--skip-bad",
    is_flag=True,
    help="With --prepare FOLDER: leave out its files that are no pictures, then and later.",
)
@options.as_json
@options.data_dir
def sources(prepare: str | None, skip_bad: bool, as_json: bool, data_dir: Path | None) -> None:
    """List the data sources.

    Prints how many images each source has, and where its data file is.
    """
    from dood_pyro import data
    from dood_pyro.data import prepared
    from dood_pyro.registry import SOURCES

    if skip_bad and (prepare is None or not Path(prepare).is_dir()):
        raise UserError("--skip-bad goes with --prepare FOLDER")
    if prepare is not None:
        data.locate(prepare, data_dir, skip_bad)
    found: list[dict[str, Any]] = []
    for name, source in SOURCES.items():
        path = data.find(name, data_dir)
        entry: dict[str, Any] = {"name": name, "what": source.what, "where": path and str(path)}
        try:
            shapes = prepared.counts(path) if path else {}
        except UserError as error:
            entry["where"] = str(error)
            shapes = {}
        entry |= {part: shape[0] for part, shape in shapes.items()}
        entry["pixels"] = list(shapes["train"][1:]) if shapes else None
        found.append(entry)
    rows = [["name", "train", "test", "pixels", "what", "where"]]
    for entry in found:
        counts = [str(entry.get(part, "–")) for part in prepared.PARTS]
        pixels = "×".join(map(str, entry["pixels"])) if entry["pixels"] else "–"
        where = entry["where"] or "prepared on first use"
        rows.append([entry["name"], *counts, pixels, entry["what"], where])
    folder = data.data_folder(data_dir)
    text = (
        f"data folder: {folder}\n{columns(rows, right=False)}\n"
        "a source may also be the path of a folder of pictures, or of an .npz in the same layout, "
        "or your own code as module:function"
    )
    options.say({"folder": str(folder), "sources": found}, text, as_json)
