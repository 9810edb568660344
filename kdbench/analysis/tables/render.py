"""Render tables for the terminal, as Markdown, LaTeX or CSV, with equal numbers."""

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
    """Render tables as one text."""
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
    return "\n".join([table.title, "", *lines, "", *_all_notes(table), ""])


def _markdown(table: Table) -> str:
    wrap = {"": "{}", "best": "**{}**", "second": "<u>{}</u>"}
    letters = table.footnotes
    rows = [
        [wrap[entry.mark].format(_plain(entry.text)) + _references(entry, letters) for entry in row]
        for row in table.rows
    ]
    heads = ["<br>".join(map(_plain, filter(None, column))) for column in zip(*table.heads, strict=True)]
    body = tabulate(rows, headers=heads, tablefmt="pipe", colalign=_align(table), disable_numparse=True)
    notes = [f"- {_plain(line)}" for line in _all_notes(table)]
    return "\n".join([f"**{_plain(table.title)}**", "", body, "", *notes, ""])


def _csv(table: Table) -> str:
    """Render each number of an entry, its mark and its notes as separate columns."""
    heads: list[str] = []
    columns: list[list[str]] = []
    for name, column in zip(table.columns, zip(*(row for row in table.rows), strict=True), strict=True):
        numbers = list(dict.fromkeys(number for entry in column for number in entry.numbers))
        for number in numbers:
            heads.append(name if len(numbers) == 1 else f"{name}: {number}")
            columns.append([entry.numbers.get(number, "") for entry in column])
        if not numbers:
            heads.append(name)
            columns.append([entry.text for entry in column])
        if any(entry.mark for entry in column):
            heads.append(f"{name}: mark")
            columns.append([entry.mark for entry in column])
        if any(entry.notes for entry in column):
            heads.append(f"{name}: note")
            columns.append(["; ".join(entry.notes) for entry in column])
    if table.grouped:
        for line in range(1, len(columns[0])):
            columns[0][line] = columns[0][line] or columns[0][line - 1]
    buffer = io.StringIO()
    buffer.writelines(f"# {text}\n" for text in (table.title, *table.notes))
    csv.writer(buffer, lineterminator="\n").writerows([heads, *zip(*columns, strict=True)])
    return buffer.getvalue()


def _all_notes(table: Table) -> list[str]:
    """Return the lines below a table: footnotes with their letters, then notes."""
    return [*(f"({letter}) {text}" for text, letter in table.footnotes.items()), *table.notes]


def _references(entry: Entry, letters: Mapping[str, str]) -> str:
    return f" ({','.join(letters[text] for text in entry.notes)})" if entry.notes else ""


def _align(table: Table) -> list[str]:
    return ["left"] * table.num_labels + ["right"] * (len(table.heads[0]) - table.num_labels)


def _plain(text: str) -> str:
    """Escape text for Markdown and HTML."""
    text = re.sub(r"[\\`*|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[])", r"\\\g<0>", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")
