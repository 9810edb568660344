"""Render a table as accessible HTML: caption, heads with scope, footnotes with anchors, notes below."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from kdbench.analysis.tables.parts import with_minus_signs
from kdbench.analysis.tables.table import MISSING, Entry, Table

_NUMBER = re.compile(r"(<?)([+-]?\d+(?:\.\d+)?)([kM]?)")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6}
_TAGS = {"": "{}{}", "best": "<strong>{}</strong>{}", "second": "<u>{}</u>{}"}
_SPOKEN = {"": "", "best": " (best)", "second": " (second)"}


def table_html(
    table: Table,
    ident: str,
    *,
    attributes: Sequence[Mapping[str, str]] = (),
    filled: Mapping[tuple[int, int], Markup] | None = None,
    sortable: bool = False,
) -> Markup:
    """Render a table; all text in it is escaped.

    Parameters
    ----------
    ident
        Prefix of all ids in the table; unique in the page.
    attributes
        Data attributes of each row, for the page's script.
    filled
        Markup that replaces the text of some entries, by row and column.
    sortable
        Whether entries carry the value that they are sorted by, and heads the kind of these values.
    """
    numbers = [
        column
        for column in range(len(table.heads[0]))
        if _is_number(table, column) and not any(key[1] == column for key in filled or {})
    ]
    body = Markup("").join(_body(table, ident, attributes, filled or {}, numbers, sortable=sortable))
    head = Markup("\n").join(_head(table, numbers, sortable=sortable))
    html = Markup(
        '<div class="scroll" role="region" aria-labelledby="{0}-caption" tabindex="0">\n<table id="{0}"{4}>\n'
        '<caption id="{0}-caption"><span>{1}</span></caption>\n<thead>\n{2}\n</thead>\n{3}</table>\n</div>\n'
    ).format(ident, table.title, head, body, Markup(' class="grouped"') if table.grouped else "")
    return html + _notes(table, ident)


def sort_value(text: str) -> float | None:
    """Return the number at the beginning of an entry; None for a missing entry.

    Raises
    ------
    ValueError
        The entry does not begin with a number.
    """
    if text in {"", MISSING}:
        return None
    match = _NUMBER.match(text)
    if not match:
        raise ValueError(f"{text!r} is not a number")
    less, number, unit = match.groups()
    return float(number) * _UNITS[unit] * (0.999 if less else 1.0)


def _head(table: Table, numbers: Sequence[int], *, sortable: bool) -> Iterator[Markup]:
    last = len(table.heads) - 1
    for line, names in enumerate(table.heads):
        cells = []
        for column, name in enumerate(names):
            kind = Markup(' class="number"') if column in numbers else Markup("")
            if not name:
                cells.append(Markup("<td></td>"))
            elif len(table.heads) > 1 and column < table.num_labels:
                cells.append(Markup('<th scope="row" class="label">{}</th>').format(name))
            elif sortable and line == last:
                sort = "number" if column in numbers else "text"
                cells.append(Markup('<th scope="col"{} data-kind="{}">{}</th>').format(kind, sort, name))
            else:
                cells.append(Markup('<th scope="col"{}>{}</th>').format(kind, name))
        yield Markup("<tr>{}</tr>").format(Markup("").join(cells))


def _body(
    table: Table,
    ident: str,
    attributes: Sequence[Mapping[str, str]],
    filled: Mapping[tuple[int, int], Markup],
    numbers: Sequence[int],
    *,
    sortable: bool,
) -> Iterator[Markup]:
    starts = [number for number in range(len(table.rows)) if number == 0 or table.starts_group(number)]
    letters = table.footnotes
    for start, end in zip(starts, [*starts[1:], len(table.rows)], strict=True):
        yield Markup("<tbody>\n")
        for number in range(start, end):
            data = attributes[number] if attributes else {}
            texts = (Markup(' data-{}="{}"').format(name, value) for name, value in data.items())
            yield Markup("<tr{}>").format(Markup("").join(texts))
            for column, entry in enumerate(table.rows[number]):
                if table.grouped and column == 0:
                    if number == start:
                        yield _group(entry, end - start)
                    continue
                content = filled.get((number, column)) or _content(entry, ident, letters)
                label = column == table.num_labels - 1
                yield _cell(entry, content, number=column in numbers, label=label, sortable=sortable)
            yield Markup("</tr>\n")
        yield Markup("</tbody>\n")


def _group(entry: Entry, size: int) -> Markup:
    if not entry.text:
        return Markup('<td rowspan="{}"></td>').format(size)
    return Markup('<th scope="rowgroup" rowspan="{}">{}</th>').format(size, entry.text)


def _cell(entry: Entry, content: Markup, *, number: bool, label: bool, sortable: bool) -> Markup:
    value = ""
    if sortable:
        key = sort_value(entry.text) if number else entry.text.lower()
        value = Markup(' data-sort="{}"').format("" if key is None else key)
    if label:
        return Markup('<th scope="row" class="label"{}>{}</th>').format(value, content)
    return Markup("<td{}{}>{}</td>").format(Markup(' class="number"') if number else "", value, content)


def _content(entry: Entry, ident: str, letters: Mapping[str, str]) -> Markup:
    spoken = Markup('<span class="heard">{}</span>').format(_SPOKEN[entry.mark]) if entry.mark else ""
    text = "–" if entry.text == MISSING else with_minus_signs(entry.text)
    content = Markup(_TAGS[entry.mark]).format(text, spoken)  # noqa: S704
    if not entry.notes:
        return content
    link = Markup('<a href="#{0}-{1}" aria-label="footnote {1}">{1}</a>')
    links = Markup(",").join(link.format(ident, letters[text]) for text in entry.notes)
    return content + Markup("<sup>{}</sup>").format(links)


def _notes(table: Table, ident: str) -> Markup:
    """Render footnotes and notes, which wrap even if the table scrolls."""
    item = Markup('<li id="{0}-{1}"><span class="letter">{1}</span> {2}</li>')
    notes = [item.format(ident, letter, text) for text, letter in table.footnotes.items()]
    notes += [Markup("<li>{}</li>").format(text) for text in table.notes]
    return Markup('<ul class="notes">\n{}\n</ul>\n').format(Markup("\n").join(notes)) if notes else Markup("")


def _is_number(table: Table, column: int) -> bool:
    """Return whether all entries of a column begin with a number; labels of rows never count as numbers."""
    if column == table.num_labels - 1 or (table.grouped and column == 0):
        return False
    texts = [row[column].text for row in table.rows]
    return all(text in {"", MISSING} or _NUMBER.match(text) for text in texts)
