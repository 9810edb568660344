"""Name files of plots after what users named: safe on every system, and stable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

_MAX_NAME = 60
"""Largest number of letters of a comparison or a pair in the name of a file."""


def file_name(text: str) -> str:
    """Make a file name of letters, digits, ``.``, ``_`` and ``-``, safe on every system; a long one has a hash."""
    name = re.sub(r"[^A-Za-z0-9._]+", "-", text).strip(".-_")
    return name or "x" if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME].strip('.-_')}-{_hash(text)}"


def distinct_names(texts: Sequence[str]) -> list[str]:
    """Make a file name of each text; it depends on the others only if they differ in nothing but case and signs."""
    names = [file_name(text) for text in texts]
    lower = [name.lower() for name in names]
    return [
        f"{name}-{_hash(text)}" if lower.count(name.lower()) > 1 else name
        for name, text in zip(names, texts, strict=True)
    ]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
