r"""Render tables in LaTeX with booktabs rules; all text is escaped.

A file is part of a paper, by ``\input`` with the packages booktabs and graphicx, and also compiles on its own.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from kdbench.analysis.tables.table import Entry, Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "τ": r"$\tau$",
}
_MARKS = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
_SMALL = re.compile(r"([±↑↓] ?[0-9.]*)")
"""Parts of an entry that are set small: standard deviations and differences."""
_BEGIN = r"""% Part of a paper: \input this file, with \usepackage{booktabs,graphicx}. It also compiles on its own.
\makeatletter\ifx\@nodocument\relax\else
  \documentclass{article}\usepackage[T1]{fontenc}\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}\usepackage{textcomp}\usepackage[margin=1cm,landscape]{geometry}
  \usepackage{booktabs,graphicx}\begin{document}\def\kdbenchend{\end{document}}
\fi\makeatother
"""
_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\leavevmode\box0\fi"


def escape(text: str) -> str:
    """Escape text for LaTeX; a character that the standard fonts lack becomes a question mark."""
    printable = (c if " " <= c <= "~" or "\u00c0" <= c <= "\u00ff" else "?" for c in text)
    return "".join(_SPECIAL.get(c, p) for c, p in zip(text, printable, strict=True))


def latex(tables: Sequence[Table]) -> str:
    """Render tables as floats with their notes below, in one file."""
    return "".join([_BEGIN, *map(_float, tables), "\\csname kdbenchend\\endcsname\n"])


def _float(table: Table) -> str:
    letters = table.footnotes
    notes = [rf"\textsuperscript{{{letter}}}~{_sentence(text)}" for text, letter in letters.items()]
    notes += [_sentence(note) for note in table.notes]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{escape(table.title)}}}",
        r"\setbox0=\hbox{%",
        *_tabular(table, letters),
        _FIT,
        r"\par\smallskip\footnotesize\raggedright",
        *notes,
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _tabular(table: Table, letters: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the table's ``tabular`` and the brace that ends its box."""
    num_numbers = len(table.heads[0]) - table.num_labels
    yield rf"\begin{{tabular}}{{{'l' * table.num_labels}{'r' * num_numbers}}}"
    yield r"\toprule"
    yield from (_row(cells) for cells in _head(table))
    yield r"\midrule"
    for number, row in enumerate(table.rows):
        if table.starts_group(number):
            yield r"\midrule"
        labels, numbers = row[: table.num_labels], row[table.num_labels :]
        yield _row([*(escape(entry.text) + _references(entry, letters) for entry in labels),
                    *(_entry(entry, letters) for entry in numbers)])  # fmt: skip
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _head(table: Table) -> Iterator[list[str]]:
    """Yield the lines of the head; equal neighbours under equal heads become one cell, except in the last line."""
    columns = list(zip(*(line[table.num_labels :] for line in table.heads), strict=True))
    for depth, line in enumerate(table.heads, 1):
        label = next(filter(None, reversed(line[: table.num_labels])), "")
        cells = [""] * (table.num_labels - 1) + [escape(label)]
        if depth == len(table.heads):
            yield cells + [escape(column[-1]) for column in columns]
            continue
        for heads, run in itertools.groupby(column[:depth] for column in columns):
            width, text = len(list(run)), escape(heads[-1])
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}" if width > 1 else text)
        yield cells


def _row(cells: Sequence[str]) -> str:
    """Return a row; braces keep its beginning from being read as an option of the command above it."""
    row = rf"{' & '.join(cells)} \\"
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _sentence(text: str) -> str:
    """Write a note as a sentence; a symbol such as n or p at its beginning stays as it is."""
    is_word = text[1:2].isalpha()
    return f"{escape((text[:1].upper() if is_word else text[:1]) + text[1:])}."


def _entry(entry: Entry, letters: Mapping[str, str]) -> str:
    parts = _SMALL.split(entry.text)  # every second part matches
    text = "".join(
        rf"{{\scriptsize {escape(part)}}}" if number % 2 else escape(part) for number, part in enumerate(parts)
    )
    return _MARKS[entry.mark].format(text) + _references(entry, letters)


def _references(entry: Entry, letters: Mapping[str, str]) -> str:
    references = ",".join(letters[note] for note in entry.notes)
    return rf"\textsuperscript{{{references}}}" if references else ""
