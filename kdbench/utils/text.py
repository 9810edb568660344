"""Numbers and errors as short texts for people."""

from __future__ import annotations

import unicodedata


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
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def one_line(error: Exception) -> str:
    """Return the text of a foreign exception as one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(text: str) -> str:
    """Return text that neither a terminal nor XML takes for commands: control characters and newlines are replaced."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else "�" for c in text)
