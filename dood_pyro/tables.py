"""Rows of text as tables, for terminals and for notebooks. Used by commands and by lists of runs."""

from __future__ import annotations

import html
from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], right: bool = True) -> str:
    """Rows in columns as wide as their widest cells, the first to the left.

    Args:
        right: whether the other columns are aligned to the right, as numbers are.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.rjust(width) if right and place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as an HTML table."""
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", head), *(("td", row) for row in rows)]
    ]
    return f"<table>{''.join(lines)}</table>"
