"""What is wrong with an answer of the command line."""

from __future__ import annotations


def fault_of_message(out: str, error: str, value: str) -> str:
    """What is wrong with a message about a bad value; empty if nothing is."""
    text = (out + error).strip().replace(value, value[:40])
    if error.startswith("kdbench: ") and len(error.strip().splitlines()) > 1:
        return f"{len(error.splitlines())} lines: {error[:200]!r}"
    if not text or len(text) > 3000 or any(len(line) > 2000 for line in text.splitlines()):
        return f"a message of {len(text)} characters: {text[:100]!r}"
    if controls := [letter for letter in text if not letter.isprintable() and letter != "\n"]:
        return f"{controls[0]!r} in the message: {text[:200]!r}"
    return ""
