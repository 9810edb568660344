"""Numbers and errors as short texts for people."""

from __future__ import annotations

import re
import shlex
import unicodedata

_LONG_WORD, _LONG_MESSAGE = 300, 2000
"""Letters of a word, and of a message, beyond which the middle is left out."""


def size(num_bytes: float) -> str:
    """Return a number of bytes for people, e.g. 12.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def clock(seconds: float) -> str:
    """Return a duration as 0:05, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def counted(number: int, noun: str) -> str:
    """Format a number with its noun, e.g. 1 cell, 1,200 cells."""
    return f"{number:,} {inflected(noun, number)}"


def inflected(noun: str, number: int) -> str:
    """Return a noun as it stands behind a number, e.g. cell behind 1, searches behind 2."""
    return noun if number == 1 else f"{noun}{'es' if noun.endswith(('s', 'rch', 'tch')) else 's'}"


def one_line(error: Exception) -> str:
    """Return the text of a foreign exception as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(text: str) -> str:
    """Return text that neither a terminal nor XML takes for commands: control characters and newlines are replaced."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "�" for c in text)


def quoted(*words: object) -> str:
    """Spell a command in a sentence, in quotes, so that it can be typed as it stands between them."""
    command = shlex.join(map(str, words))
    return f'"{command}"' if "'" in command else f"'{command}'"


def message_line(text: str) -> str:
    """Return a message that may quote anything as one short line, with control characters spelt as in Python."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    line = re.sub(rf"\S{{{_LONG_WORD},}}", lambda word: _shortened(word[0], _LONG_WORD), line)
    return _shortened(line, _LONG_MESSAGE)


def _shortened(text: str, length: int) -> str:
    """Return a text without its middle, where it is longer than so many letters."""
    return text if len(text) <= length else f"{text[: length * 2 // 3]} ... {text[-length // 4 :]}"
