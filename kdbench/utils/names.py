"""Find names that users type, in any case; suggest the nearest known names for a wrong one."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable

from kdbench.errors import UserError


def squeeze(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_name(kind: str, name: str, known: Iterable[str], remedy: str) -> str:
    """Return the known name that ``name`` spells, ignoring case and punctuation.

    Raises
    ------
    UserError
        No known name matches; the message holds the closest ones and ``remedy``.
    """
    names = list(known)
    spellings = {squeeze(k): k for k in names}
    if (key := squeeze(name)) in spellings:
        return spellings[key]
    raise unknown_name(kind, name, names, remedy)


def unknown_name(kind: str, name: str, known: Iterable[str], remedy: str) -> UserError:
    """Return the error for a name that is not known, with the closest known ones and ``remedy``."""
    spellings = {squeeze(k): k for k in known}
    close = [spellings[k] for k in difflib.get_close_matches(squeeze(name), spellings, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return UserError(f"unknown {kind} {name!r}: {hint}{remedy}")


@functools.cache
def safe_name(name: str) -> str:
    """Return a network's name as one path component."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")
