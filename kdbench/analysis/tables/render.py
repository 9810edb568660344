"""The four renderings of a table: terminal, Markdown, LaTeX and CSV, with equal numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from tabulate import tabulate

from kdbench.analysis.tables.latex import latex
from kdbench.analysis.tables.table import Entry, Table

Format = Literal["terminal", "markdown", "latex", "csv"]


def render(tables: Sequence[Table], form: Format) -> str:
    """Write tables as one text."""
    if form == "latex":
        return latex(tables)
    return "\n".join({"terminal": _terminal, "markdown": _markdown, "csv": _csv}[form](table) for table in tables)


def _terminal(table: Table) -> str:
    wrap = {"": "{}", "best": "*{}*", "second": "_{}_"}
    letters = table.footnotes
    rows: list[list[str]] = []
    for number, row in enumerate(table.rows):
        if table.starts_group(number):
            rows.append([""] * len(row))
        rows.append([wrap[entry.mark].format(entry.text) + _references(entry, letters) for entry in row])
    heads = ["\n".join(column) for column in zip(*table.heads, strict=True)]
    body = tabulate(rows, headers=heads, tablefmt="simple", colalign=_align(table), disable_numparse=True)
    lines = [line.rstrip() for line in body.splitlines()]
    return "\n".join([table.title, "", *lines, "", *_explained(table), ""])


def _markdown(table: Table) -> str:
    wrap = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
    letters = table.footnotes
    rows = [
        [wrap[entry.mark].format(_plain(entry.text)) + _references(entry, letters) for entry in row]
        for row in table.rows
    ]
    heads = ["<br>".join(map(_plain, filter(None, column))) for column in zip(*table.heads, strict=True)]
    body = tabulate(rows, headers=heads, tablefmt="pipe", colalign=_align(table), disable_numparse=True)
    notes = [f"- {_plain(line)}" for line in _explained(table)]
    return "\n".join([f"**{_plain(table.title)}**", "", body, "", *notes, ""])


def _csv(table: Table) -> str:
    """The numbers of each column, its mark and its notes in columns of their own, where it has any."""
    heads: list[str] = []
    columns: list[list[str]] = []
    for name, column in zip(table.columns, zip(*(row for row in table.rows), strict=True), strict=True):
        parts = list(dict.fromkeys(part for entry in column for part in entry.numbers))
        for part in parts:
            heads.append(name if len(parts) == 1 else f"{name}: {part}")
            columns.append([entry.numbers.get(part, "") for entry in column])
        if not parts:
            heads.append(name)
            columns.append([entry.text for entry in column])
        if any(entry.mark for entry in column):
            heads.append(f"{name}: mark")
            columns.append([entry.mark for entry in column])
        if any(entry.notes for entry in column):
            heads.append(f"{name}: note")
            columns.append(["; ".join(entry.notes) for entry in column])
    if table.grouped:
        for number in range(1, len(columns[0])):
            columns[0][number] = columns[0][number] or columns[0][number - 1]
    buffer = io.StringIO()
    buffer.writelines(f"# {line}\n" for line in (table.title, *table.notes))
    csv.writer(buffer, lineterminator="\n").writerows([heads, *zip(*columns, strict=True)])
    return buffer.getvalue()


def _explained(table: Table) -> list[str]:
    """The lines below a table."""
    return [*(f"({letter}) {text}" for text, letter in table.footnotes.items()), *table.notes]


def _references(entry: Entry, letters: Mapping[str, str]) -> str:
    return f" ({','.join(letters[text] for text in entry.notes)})" if entry.notes else ""


def _align(table: Table) -> list[str]:
    return ["left"] * table.num_labels + ["right"] * (len(table.heads[0]) - table.num_labels)


def _plain(text: str) -> str:
    """Text without meaning for Markdown or HTML."""
    text = re.sub(r"[\\`*|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[])", r"\\\g<0>", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")
