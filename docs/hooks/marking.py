"""Plain text as Markdown that reads the same: no character of it means anything to Markdown, HTML or a table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_SPECIAL = re.compile(r"[\\`*_{}\[\]<>&|~^$#!\"']|(?:^|(?<=^\d)|(?<=^\d\d))[-+.):=]")
"""What Markdown or HTML reads anywhere, and what begins a list or an underline where a line begins."""
_PIECE = re.compile(r"``(?P<double>.+?)``|`(?P<single>[^`]+)`|(?P<text>[^`]+|`)")
_INDENT = "    "
"""Of a formula in a docstring."""


def escaped(text: str) -> str:
    """Return a text on one line, with references in place of the characters that mean something."""
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))


def code(text: str) -> str:
    """Return a text as inline code."""
    return f"<code>{escaped(text)}</code>"


def prose(text: str) -> str:
    """Return a docstring's text on one line, where single or double backticks enclose code."""
    line, pieces = " ".join(text.split()), list[str]()
    for piece in _PIECE.finditer(line):
        is_last, word = piece.end() == len(line), piece["text"]
        if word is None:
            pieces.append(code(piece["double"] or piece["single"]))
        else:  # the spaces at its ends are between it and the code beside it
            before, after = word[: len(word) - len(word.lstrip())], word[len(word.rstrip()) :]
            pieces.append(f"{before}{escaped(word)}{'' if is_last else after}")
    return "".join(pieces)


def paragraphs(text: str) -> str:
    """Return a docstring's paragraphs; an indented one is a formula, line by line."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(
        f"<p>{'<br>'.join(map(code, block.splitlines()))}</p>" if block.startswith(_INDENT) else prose(block)
        for block in blocks
    )


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def link(text: str, address: str) -> str:
    """Return a link to another site; the text alone where there is no address."""
    return f'<a href="{escaped(address)}">{escaped(text)}</a>' if address else escaped(text)
