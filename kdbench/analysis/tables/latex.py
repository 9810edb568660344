r"""Tables in LaTeX: booktabs through pandas' Styler, everything escaped.

A file is part of a paper, by ``\input`` with the packages booktabs and graphicx, and compiles on its own as well.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

import pandas as pd

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
_BEGIN = r"""% Part of a paper: \input this file, with \usepackage{booktabs,graphicx}. It also compiles on its own.
\makeatletter\ifx\@nodocument\relax\else
  \documentclass{article}\usepackage[T1]{fontenc}\usepackage{textcomp}\usepackage[margin=1cm,landscape]{geometry}
  \usepackage{booktabs,graphicx}\begin{document}\def\kdbenchend{\end{document}}
\fi\makeatother
"""
_FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\box0}\else\leavevmode\box0\fi"


def escape(text: str) -> str:
    """Text as LaTeX; a character that the standard fonts lack becomes a question mark."""
    known = (c if " " <= c <= "~" or "\u00c0" <= c <= "\u00ff" else "?" for c in text)
    return "".join(_SPECIAL.get(c, k) for c, k in zip(text, known, strict=True))


def latex(tables: Sequence[Table]) -> str:
    """Tables as floats with their notes below, in one file."""
    return "".join([_BEGIN, *map(_float, tables), "\\csname kdbenchend\\endcsname\n"])


def _float(table: Table) -> str:
    letters = table.footnotes
    frame = pd.DataFrame(
        [[_entry(entry, letters) for entry in row[table.num_labels :]] for row in table.rows],
        index=_index([[escape(entry.text) for entry in row[: table.num_labels]] for row in table.rows]),
        columns=_index([[escape(head) for head in column] for column in _columns(table)]),
    )
    frame.columns.names = _corner(table)
    body = frame.style.to_latex(
        column_format="l" * table.num_labels + "r" * frame.shape[1],
        hrules=True,
        multicol_align="c",
        multirow_align="naive",
    )
    notes = [rf"\textsuperscript{{{letter}}}~{_sentence(text)}" for text, letter in letters.items()]
    notes += [_sentence(note) for note in table.notes]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering\small\setlength{\tabcolsep}{4pt}\setlength{\belowcaptionskip}{6pt}",
        rf"\caption{{{escape(table.title)}}}",
        r"\setbox0=\hbox{%",
        _ruled(table, body).strip() + "}",
        _FIT,
        r"\par\smallskip\footnotesize\raggedright",
        *notes,
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _sentence(text: str) -> str:
    return f"{escape(text[:1].upper() + text[1:])}."


def _entry(entry: Entry, letters: Mapping[str, str]) -> str:
    text = re.sub(r"(\$\\(?:pm|uparrow|downarrow)\$ ?[0-9.]*)", r"{\\scriptsize \1}", escape(entry.text))
    references = ",".join(letters[note] for note in entry.notes)
    return _MARKS[entry.mark].format(text) + (rf"\textsuperscript{{{references}}}" if references else "")


def _columns(table: Table) -> list[tuple[str, ...]]:
    return list(zip(*(line[table.num_labels :] for line in table.heads), strict=True))


def _index(keys: Sequence[Sequence[str]]) -> pd.Index[str]:
    if len(keys[0]) == 1:
        return pd.Index([key[0] for key in keys])
    return pd.MultiIndex.from_tuples([tuple(key) for key in keys])


def _corner(table: Table) -> list[str]:
    """The words over the labels, one for each line of the head."""
    return [escape(next(filter(None, reversed(line[: table.num_labels])), "")) for line in table.heads]


def _ruled(table: Table, body: str) -> str:
    """Put a rule before each group of rows."""
    head, rule, rest = body.partition("\\midrule\n")
    lines = rest.splitlines(keepends=True)
    rules = ["\\midrule\n" if table.starts_group(number) else "" for number in range(len(table.rows))]
    return head + rule + "".join(map("".join, itertools.zip_longest(rules, lines, fillvalue="")))
