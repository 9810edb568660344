"""The identity of a cell as text and as a hash; who only reads records needs no more."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def identity_text(identity: Any) -> str:
    """Everything that decides a cell's results as one line of JSON, whatever the order of its keys was."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))


def identity_hash(text: str) -> str:
    """The hash of such a line: a cell's id, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
