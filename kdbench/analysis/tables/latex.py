r"""Render tables in LaTeX with booktabs rules; all text is escaped.

A file is part of a paper, by ``\input`` with the packages booktabs and graphicx, and also compiles on its own. Nothing
is set below 7 pt in a class of 10 pt: of several columns of accuracies, deviations and differences stand on a line of
their own, and families of methods, too. A table that is wider than the text nevertheless is made smaller.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterator, Mapping, Sequence

from kdbench.analysis.tables.pages import split_rows
from kdbench.analysis.tables.parts import KINDS, missing_digits, num_spreads, parts, with_minus_signs
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
    "²": r"\textsuperscript{2}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"\dag{}",
    "τ": r"$\tau$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{MINUS SIGN}": "$-$",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    **dict(zip("‘’“”", ("`", "'", "``", "''"), strict=True)),
}
_MARKS = {"": "{}", "best": r"\textbf{{{}}}", "second": r"\underline{{{}}}"}
_SMALL = ("spread", "difference")
"""Parts of an entry that are set small, as those in brackets are where they stand on a line of their own."""
_WORD = re.compile(r"([a-z]{2,}(?:[-'][a-z0-9]+)*)[:;,]?(?= (?!>)|$)")
"""A word with which a note begins, and no name such as ``wrn_40_2``, ``vgg8``, ``epochs=7`` or ``a_b > c``."""
_MAX_NARROW = 4
"""Largest number of stacked columns that a column of a two-column paper has place for."""
_BEGIN = r"""% Part of a paper: \input this file, with \usepackage{booktabs,graphicx}. It also compiles on its own.
\makeatletter\ifx\@nodocument\relax\else
  \documentclass{article}\usepackage[T1]{fontenc}\IfFileExists{lmodern.sty}{\usepackage{lmodern}}{}\usepackage{textcomp}\usepackage[margin=1cm,landscape]{geometry}
  \usepackage{booktabs,graphicx}\begin{document}\def\kdbenchend{\end{document}}
\fi\makeatother
"""
_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\leavevmode\box0\fi"
_RAISED = r"\renewcommand{\textsuperscript}[1]{\raisebox{.8ex}{\scriptsize #1}}"
"""LaTeX would set letters of footnotes below 7 pt."""


def escape(text: str) -> str:
    """Escape text for LaTeX; a character that the standard fonts lack becomes a question mark."""
    text = with_minus_signs(text).replace("^2", "²")
    return "".join(_SPECIAL.get(c, c if _has(c) else "?") for c in text)


def lacking(text: str) -> str:
    """Return the characters of a text that the standard fonts of LaTeX lack, each once."""
    return "".join(dict.fromkeys(c for c in text if not _has(c)))


def _has(character: str) -> bool:
    return character in _SPECIAL or " " <= character <= "~" or "\u00c0" <= character <= "\u00ff"


def latex(tables: Sequence[Table]) -> str:
    """Render tables as floats with their notes below, in one file."""
    labels = [entry.text for table in tables for row in table.rows for entry in row[: table.num_labels]]
    names = {word for label in labels for word in label.split()[:1]}
    floats = [_float(part, names) for table in tables for part in split_rows(table, _num_lines(table))]
    return "".join([_BEGIN, *floats, "\\csname kdbenchend\\endcsname\n"])


def _is_stacked(table: Table) -> bool:
    """Return whether deviations and differences stand below the accuracies, which leaves place for more columns."""
    return num_spreads(table) > 1


def _num_lines(table: Table) -> int:
    """Return how many lines a row takes: accuracies, what follows them, and values in brackets."""
    brackets = any(parts(entry.text)[3] for row in table.rows for entry in row[table.num_labels :])
    return 2 + brackets if _is_stacked(table) else 1


def _float(table: Table, names: Container[str]) -> str:
    letters = table.footnotes
    notes = [rf"\textsuperscript{{{letter}}}~{_sentence(text, names)}" for text, letter in letters.items()]
    notes += [_sentence(note, names) for note in table.notes]
    stacked = _is_stacked(table)
    size = r"\footnotesize\setlength{\tabcolsep}{1.5pt}" if stacked else r"\small\setlength{\tabcolsep}{4pt}"
    name = "table*" if num_spreads(table) > _MAX_NARROW else "table"
    lines = [
        rf"\begin{{{name}}}[htbp]",
        rf"\centering{size}\setlength{{\belowcaptionskip}}{{6pt}}{_RAISED}",
        rf"\caption{{{escape(table.title)}}}" + (rf"\label{{{table.label}}}" if table.label else ""),
        r"\setbox0=\hbox{%",
        *_tabular(table, letters, stacked=stacked),
        _FIT,
        r"\par\smallskip\footnotesize\raggedright",
        *notes,
        rf"\end{{{name}}}",
    ]
    return "\n".join([*lines, ""])


def _tabular(table: Table, letters: Mapping[str, str], *, stacked: bool) -> Iterator[str]:
    """Yield the lines of the table's ``tabular`` and the brace that ends its box."""
    first = 1 if stacked and table.grouped and table.num_labels > 1 else 0  # names of groups stand above them
    num_labels, num_numbers = table.num_labels - first, len(table.heads[0]) - table.num_labels
    yield rf"\begin{{tabular}}{{@{{}}{'l' * num_labels}{('c' if stacked else 'r') * num_numbers}@{{}}}}"
    yield r"\toprule"
    yield from map(_row, _head(table, num_labels, r"\scriptsize " if stacked else ""))
    yield r"\midrule"
    small = KINDS[1:] if stacked else _SMALL
    numbers = zip(*(row[table.num_labels :] for row in table.rows), strict=True)
    columns = [_aligned(entries, small) for entries in numbers]
    for number, row in enumerate(table.rows):
        if table.starts_group(number):
            yield r"\midrule"
        if first and row[0].text:
            yield rf"\multicolumn{{{num_labels + num_numbers}}}{{@{{}}l}}{{\itshape {escape(row[0].text)}}} \\"
        labels = [escape(entry.text) + _references(entry, letters) for entry in row[first : table.num_labels]]
        pairs = list(zip(row[table.num_labels :], (column[number] for column in columns), strict=True))
        if not stacked:
            yield _row([*labels, *(_marked(entry, " ".join(filter(None, cell)), letters) for entry, cell in pairs)])
            continue
        yield _row([*labels, *(_marked(entry, cell[0], letters, apart=True) for entry, cell in pairs)])
        for line in (slice(1, 3), slice(3, 4)):
            below = [r"\hspace{.8pt}".join(filter(None, cell[line])).replace("$ ", "$") for _, cell in pairs]
            if any(below):
                yield _row([""] * num_labels + below)
        yield r"\addlinespace[2pt]"
    yield r"\bottomrule"
    yield r"\end{tabular}}"


def _head(table: Table, num_labels: int, size: str) -> Iterator[list[str]]:
    """Yield the lines of the head; equal neighbours under equal heads become one cell, except in the last line."""
    columns = list(zip(*(line[table.num_labels :] for line in table.heads), strict=True))
    for depth, line in enumerate(table.heads, 1):
        label = next(filter(None, reversed(line[: table.num_labels])), "")
        cells = [""] * (num_labels - 1) + [size + escape(label)]
        if depth == len(table.heads):
            yield cells + [_head_cell(column[-1], size) for column in columns]
            continue
        for heads, run in itertools.groupby(column[:depth] for column in columns):
            width, text = len(list(run)), _head_cell(heads[-1], size)
            cells.append(rf"\multicolumn{{{width}}}{{c}}{{{text}}}" if width > 1 else text)
        yield cells


def _head_cell(text: str, size: str) -> str:
    """Return a cell of the head; of small ones, what is in brackets, such as a hash, stands on a line of its own."""
    name, bracket, rest = text.partition(" (")
    if not (size and bracket):
        return size + escape(text)
    return rf"\shortstack{{{size}{escape(name)}\\{size}{escape(f'({rest}')}}}"


def _row(cells: Sequence[str]) -> str:
    """Return a row; braces keep its beginning from being read as an option of the command above it."""
    row = rf"{' & '.join(cells)} \\"
    return f"{{}}{row}" if row.startswith(("[", "*")) else row


def _sentence(text: str, names: Container[str]) -> str:
    """Write a note as a sentence; a symbol such as n or p, or a name, at its beginning stays as it is.

    A name is what labels a row, what has other characters than words have, or the first network of a pair.
    """
    word = _WORD.match(text)
    starts_with_word = word is not None and word[1] not in names
    return f"{escape((text[:1].upper() if starts_with_word else text[:1]) + text[1:])}."


def _aligned(entries: Sequence[Entry], small: Sequence[str]) -> list[list[str]]:
    """Return the parts of the entries of a column, those of a kind with as many digits before their decimal points."""
    kinds = []
    for kind, texts in zip(KINDS, zip(*(parts(entry.text) for entry in entries), strict=True), strict=True):
        missing = [rf"\phantom{{{'0' * number}}}" if number else "" for number in missing_digits(texts)]
        cells = [blank + escape(text) for blank, text in zip(missing, texts, strict=True)]
        kinds.append([rf"{{\scriptsize {cell}}}" if cell else "" for cell in cells] if kind in small else cells)
    return [list(cells) for cells in zip(*kinds, strict=True)]


def _marked(entry: Entry, text: str, letters: Mapping[str, str], *, apart: bool = False) -> str:
    """Return the text of an entry with its mark and its references, which take no place if they stand apart."""
    references = _references(entry, letters)
    return _MARKS[entry.mark].format(text) + (rf"\rlap{{{references}}}" if apart and references else references)


def _references(entry: Entry, letters: Mapping[str, str]) -> str:
    references = ",".join(letters[note] for note in entry.notes)
    return rf"\textsuperscript{{{references}}}" if references else ""
