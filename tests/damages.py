"""The ways in which a file can be damaged, and what it takes to see that as a user who is not root."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

HUGE = 2**40
"""Bytes of a file that no memory holds; on the disk it takes none."""
DEEP = 200_000
_NUMBER = re.compile(rb'(?<![\w."#-])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w."-])')
_CAPABILITIES = 0x20080522  # linux/capability.h, version 3
_READ_ANYTHING = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH

Damage = Callable[[Path, random.Random], None]


def _is_text(path: Path) -> bool:
    return path.suffix in (".json", ".jsonl", ".toml", ".py") or path.name.startswith("claim-")


def _content(change: Callable[[bytes, random.Random], bytes]) -> Damage:
    def damage(path: Path, draw: random.Random) -> None:
        path.write_bytes(change(path.read_bytes(), draw))

    return damage


def _flip(content: bytes, draw: random.Random) -> bytes:
    if not content:
        return b"\x01"
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _for_a_number(text: bytes) -> Damage:
    """Put a text where a number is; a file without numbers holds nothing else then."""

    def damage(path: Path, draw: random.Random) -> None:
        content = path.read_bytes()
        places = [match.span() for match in _NUMBER.finditer(content)] if _is_text(path) else []
        start, stop = draw.choice(places) if places else (0, len(content))
        path.write_bytes(content[:start] + text + content[stop:])

    return damage


def _nest(path: Path, draw: random.Random) -> None:
    before, opening, closing = {".toml": (b"x = ", b"[", b"]"), ".py": (b"x = ", b"(", b")")}.get(
        path.suffix, (b"", b"[", b"]")
    )
    path.write_bytes(before + opening * DEEP + closing * DEEP + b"\n")


def _into_the_middle(text: bytes) -> Callable[[bytes, random.Random], bytes]:
    return lambda content, draw: content[: len(content) // 2] + text + content[len(content) // 2 :]


def _surrogate(path: Path, draw: random.Random) -> None:
    """Begin a text with half a pair of UTF-16, as JSON can spell it; elsewhere as UTF-8 may not hold it."""
    content = path.read_bytes()
    texts = [match.end() for match in re.finditer(rb': "', content)] if path.suffix == ".json" else []
    place, half = (draw.choice(texts), b"\\ud800") if texts else (len(content) // 2, b"\xed\xa0\x80")
    path.write_bytes(content[:place] + half + content[place:])


def _double(path: Path, draw: random.Random) -> None:
    """Say a key a second time, with another value."""
    content = path.read_bytes()
    with contextlib.suppress(ValueError):
        values = json.loads(content)
        if isinstance(values, dict) and values:
            key = draw.choice(sorted(values))
            other = values[key] + 1 if isinstance(values[key], int | float) else 1
            path.write_bytes(content.rstrip()[:-1] + b", " + json.dumps({key: other})[1:].encode())
            return
    lines = content.splitlines(keepends=True)
    pairs = [line for line in lines if b" = " in line]
    path.write_bytes(content + (pairs[-1] if pairs else content))


def _link_loop(path: Path, draw: random.Random) -> None:
    other = path.with_name(f"{path.name}-other")
    path.unlink()
    path.symlink_to(other)
    other.symlink_to(path)


def _replace(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, draw: random.Random) -> None:
        path.unlink()
        make(path)

    return damage


def _newer(path: Path, draw: random.Random) -> None:
    """Say that a later version wrote it."""
    content = path.read_bytes()
    if path.suffix == ".npy":
        path.write_bytes(content[:6] + b"\x09" + content[7:])
    elif path.suffix == ".json":
        path.write_text(json.dumps({"format": 99, "version": 99} | json.loads(content) | {"later": {"than": 1}}))
    else:
        path.write_bytes(b"version = 99\n" + content)


def _grow(path: Path, draw: random.Random) -> None:
    os.truncate(path, HUGE)


DAMAGES: dict[str, Damage] = {
    "removed": _replace(lambda path: None),
    "empty": _content(lambda content, draw: b""),
    "half": _content(lambda content, draw: content[: len(content) // 2]),
    "last byte cut": _content(lambda content, draw: content[:-1]),
    "byte flipped": _content(_flip),
    "zeros": _content(lambda content, draw: bytes(len(content))),
    "text": _content(lambda content, draw: b"hello world\n"),
    "object": _content(lambda content, draw: b"{}"),
    "list": _content(lambda content, draw: b"[]"),
    "null": _content(lambda content, draw: b"null"),
    "number": _content(lambda content, draw: b"7"),
    "nan": _for_a_number(b"NaN"),
    "infinity": _for_a_number(b"Infinity"),
    "text for a number": _for_a_number(b'"seven"'),
    "list for a number": _for_a_number(b"[7]"),
    "nested": _nest,
    "bom": _content(lambda content, draw: b"\xef\xbb\xbf" + content),
    "latin-1": _content(_into_the_middle(b"\xe9")),
    "surrogate": _surrogate,
    "doubled": _double,
    "folder": _replace(Path.mkdir),
    "link to nowhere": _replace(lambda path: path.symlink_to("nowhere")),
    "loop of links": _link_loop,
    "fifo": _replace(os.mkfifo),
    "no right": lambda path, draw: path.chmod(0),
    "huge": _grow,
    "newer": _newer,
}


@contextlib.contextmanager
def rights_of_a_user() -> Iterator[None]:
    """Take from this thread, where it is root's, the right to read what a file's mode forbids."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, words = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, words) == 0
    before = words[0]
    words[0] &= ~_READ_ANYTHING
    assert libc.capset(header, words) == 0
    try:
        yield
    finally:
        words[0] = before
        assert libc.capset(header, words) == 0
