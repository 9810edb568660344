"""Render tables for the terminal, as Markdown, LaTeX or CSV, with equal numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from tabulate import tabulate

from kdbench.analysis.tables.latex import latex
from kdbench.analysis.tables.parts import parts
from kdbench.analysis.tables.table import MISSING, Entry, Mark, Table
from kdbench.utils.text import printable

_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?")
_MARKS = get_args(Mark)
Format = Literal["terminal", "markdown", "latex", "csv"]


def render(tables: Sequence[Table], form: Format) -> str:
    """Render tables as one text."""
    if form == "latex":
        return latex(tables)
    if form == "csv":
        return _csv(tables)
    return "\n".join({"terminal": _terminal, "markdown": _markdown}[form](table) for table in tables)


def _terminal(table: Table) -> str:
    letters = table.footnotes
    labels = [
        [printable(entry.text) + _references(entry, letters) for entry in row[: table.num_labels]] for row in table.rows
    ]
    columns = [
        _aligned(column, letters) for column in zip(*(row[table.num_labels :] for row in table.rows), strict=True)
    ]
    rows: list[list[str]] = []
    for number, row in enumerate(labels):
        if table.starts_group(number):
            rows.append([""] * len(table.heads[0]))
        rows.append([*row, *(column[number] for column in columns)])
    heads = ["\n".join(map(printable, column)) for column in zip(*table.heads, strict=True)]
    body = tabulate(rows, headers=heads, tablefmt="simple", colalign=_align(table), disable_numparse=True,
                    preserve_whitespace=True)  # fmt: skip
    lines = [line.rstrip() for line in body.split("\n")]
    return "\n".join([printable(table.title), "", *lines, "", *map(printable, _all_notes(table)), ""])


def _aligned(entries: Sequence[Entry], letters: Mapping[str, str]) -> list[str]:
    """Return the texts of the entries of a column, whose parts stand below each other where entries have several."""
    marks = {"": " ", "best": "*", "second": "_"} if any(entry.mark for entry in entries) else dict.fromkeys(_MARKS, "")
    texts = [parts(printable(entry.text)) for entry in entries]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = []
    for entry, text in zip(entries, texts, strict=True):
        cell = " ".join(part.rjust(size) for part, size in zip(text, widths, strict=True) if size)
        body = cell.strip()
        mark, after = marks[entry.mark], len(cell) - len(cell.rstrip())
        before = len(cell) - after - len(body)
        lines.append(f"{' ' * before}{mark}{body}{mark}{' ' * after}")
    references = [_references(entry, letters) for entry in entries]
    size = max(map(len, references), default=0)
    return [line + reference.ljust(size) for line, reference in zip(lines, references, strict=True)]


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


def _csv(tables: Sequence[Table]) -> str:
    """Render all tables under one head: the title of the table, then a column for each number, mark and note.

    A table has nothing in columns of the others, and a missing value is empty. The last column has the table's notes.
    """
    records = [
        {"table": table.title} | values | {"notes": "; ".join(table.notes)}
        for table in tables
        for values in _records(table)
    ]
    heads = [head for head in dict.fromkeys(head for record in records for head in record) if head != "notes"]
    buffer = io.StringIO()
    lines = csv.writer(buffer, lineterminator="\n")
    lines.writerow([_cell(head) for head in (*heads, "notes")])
    lines.writerows([_cell(record.get(head, "")) for head in (*heads, "notes")] for record in records)
    return buffer.getvalue()


def _records(table: Table) -> list[dict[str, str]]:
    """Return the values of each row by column; a blank label of a group repeats the one above it."""
    records: list[dict[str, str]] = [{} for _ in table.rows]
    for number, (column, entries) in enumerate(zip(_names(table), zip(*table.rows, strict=True), strict=True)):
        names = list(dict.fromkeys(name for entry in entries for name in entry.numbers))
        label = ""
        for record, entry in zip(records, entries, strict=True):
            for name in names:
                record[column if len(names) == 1 else f"{column}: {name}"] = entry.numbers.get(name, "")
            if not names:
                label = entry.text or (label if number < table.num_labels else "")
                record[column] = "" if label == MISSING else label
            if any(other.mark for other in entries):
                record[f"{column}: mark"] = entry.mark
            if any(other.notes for other in entries):
                record[f"{column}: note"] = "; ".join(entry.notes)
    return records


def _names(table: Table) -> list[str]:
    """Return a name of its own for each column; a column of labels without a head names groups of rows."""
    names: list[str] = []
    for column in table.columns:
        name = column or ("group" if len(names) < table.num_labels else "value")
        repeats = sum(other == name or other.startswith(f"{name} (") for other in names)
        names.append(f"{name} ({repeats + 1})" if name in names else name)
    return names


def _cell(text: str) -> str:
    """Return text that a spreadsheet takes for text: what begins as a formula does, and is no number, is quoted."""
    text = printable(text)
    return f"'{text}" if text[:1] in {"=", "+", "-", "@"} and not _NUMBER.fullmatch(text) else text


def _all_notes(table: Table) -> list[str]:
    """Return the lines below a table: footnotes with their letters, then notes."""
    return [*(f"({letter}) {text}" for text, letter in table.footnotes.items()), *table.notes]


def _references(entry: Entry, letters: Mapping[str, str]) -> str:
    return f" ({','.join(letters[text] for text in entry.notes)})" if entry.notes else ""


def _align(table: Table) -> list[str]:
    return ["left"] * table.num_labels + ["right"] * (len(table.heads[0]) - table.num_labels)


def _plain(text: str) -> str:
    """Escape text for Markdown and HTML."""
    text = re.sub(r"[\\`*|]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[])", r"\\\g<0>", printable(text))
    return text.replace("&", "&amp;").replace("<", "&lt;")
