"""Tables of evaluations: CSV files with a row per run, guide and target.
Used by ``dood-pyro evaluate``, the transfer table and the page of results.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

from dood_pyro.errors import UserError
from dood_pyro.files import check_output, locked, read_bytes, write_atomically
from dood_pyro.tables import html_table

COLUMNS = (
    "model",
    "guide",
    "source",
    "target",
    "seed",
    "particles",
    "images",
    "log_p",
    "log_p_se",
    "log_p_summed",
    "log_p_summed_se",
    "elbo",
    "mean_strokes",
    "mean_absolute_error",
    "effective_samples",
    "steps",
    "seconds",
    "hardware",
    "revision",
    "data_sha256",
    "train_data_sha256",
    "config_sha256",
    "format",
)
"""Columns of experiments/results/transfer.csv. Bounds are in nats per image, ``seconds`` those of
training; ``log_p_summed`` has the stop variable marginalised. ``data_sha256`` is of the target's
images, ``train_data_sha256`` of the source's, ``config_sha256`` of all settings but the source and the
seed."""
KEY = (
    *("model", "guide", "source", "target", "seed", "particles", "images"),
    *("data_sha256", "train_data_sha256", "config_sha256", "format"),
)
"""Columns that identify a cell: rows that agree in them measure the same cell."""
INTEGERS = ("seed", "particles", "images", "steps", "format")
"""Columns of whole numbers."""
NUMBERS = ("log_p", "log_p_summed", "elbo", "mean_strokes", "mean_absolute_error")
"""Columns of numbers that must be there."""
MAY_LACK = ("log_p_se", "log_p_summed_se", "effective_samples", "seconds")
"""Columns of numbers that may be empty."""


class Row(dict[str, Any]):
    """A row of a table of evaluations, by column, which shows itself as a table in a notebook."""

    def _repr_html_(self) -> str:
        """Show the row in a notebook."""
        cells = [
            [name, f"{value:,.2f}" if isinstance(value, float) else str(value)]
            for name, value in self.items()
            if value is not None
        ]
        return html_table(["", ""], cells)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a table of evaluations; none if the file does not exist.

    Raises:
        UserError: a line, named in the message, is malformed; or the table cannot be written.
    """
    check_output(path)
    if not path.exists():
        return []
    try:
        lines = list(csv.reader(read_bytes(path).decode().splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a table: {str(error).splitlines()[0]}") from None
    if not lines or tuple(lines[0]) != COLUMNS:
        raise UserError(f"{path}, line 1: the columns are not {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(COLUMNS):
            raise UserError(
                f"{path}, line {number}: {len(line)} fields where {len(COLUMNS)} belong; "
                "the file is cut short or damaged: delete that line"
            )
        row = dict(zip(COLUMNS, line, strict=True))
        for column in (*INTEGERS, *NUMBERS, *MAY_LACK):
            if not row[column] and column in MAY_LACK:
                continue
            whole = column in INTEGERS
            try:
                sane = int(row[column]) >= 0 if whole else math.isfinite(float(row[column]))
            except ValueError:
                sane = False
            if not sane:
                what = "a whole number, 0 or more" if whole else "a finite number"
                raise UserError(
                    f"{path}, line {number}: {column} is {row[column]!r}, not {what}; the file is "
                    "damaged: delete that line"
                )
        rows.append(row)
    return rows


def record(path: Path, row: dict[str, Any]) -> None:
    """Put a row into a table, in place of rows of the same cell, unless one of them has more training
    steps.

    Raises:
        UserError: the table is malformed or cannot be written.
    """
    text = {
        name: f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
        for name, value in row.items()
    }
    read_rows(path)  # raises if the path is bad, before its folder is locked
    with locked(path.parent):
        _record(path, text)


def _record(path: Path, text: dict[str, str]) -> None:
    """`record` a row of text, under the folder's lock."""
    rows = read_rows(path)
    same = [old for old in rows if all(old[name] == text[name] for name in KEY)]
    if any(int(old["steps"]) > int(text["steps"]) for old in same):
        return
    rows = [old for old in rows if old not in same] + [text]
    rows.sort(key=lambda row: tuple(row[name] for name in KEY))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
