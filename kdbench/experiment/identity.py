"""The identity of a cell as text and as a hash; all that a reader of records needs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

METHOD_CODE = ("method_source", "base_source")
"""Fields of a record that hold the code of its method, and of the one that this is built on, if it is."""
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def identity_text(identity: Any) -> str:
    """Return everything that decides a cell's results as one line of JSON, independent of the order of keys."""
    return _ENCODER.encode(identity)


def identity_hash(text: str) -> str:
    """Return the hash of such a line: a cell's id, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
