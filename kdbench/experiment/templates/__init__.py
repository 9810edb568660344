"""The starts of users' own files: ``mymethod`` and ``MyMethod`` in them, or the like, are replaced by their names."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from kdbench.errors import UserError
from kdbench.utils.files import write_atomic

ENDINGS = {"method": ("py", "toml"), "network": ("py",), "protocol": ("toml",)}
"""Of the files that each kind of start has."""


def write_start(kind: str, name: str, folder: Path, words: Mapping[str, str] | None = None) -> list[Path]:
    """Write the start of a method, network or protocol, which works as it is; return the paths of its files.

    Parameters
    ----------
    words
        Other words in the files, and what stands in their places.

    Raises
    ------
    UserError
        A file exists.
    """
    title = "".join(word.capitalize() for word in name.split("_"))
    texts = {}
    for ending in ENDINGS[kind]:
        text = (resources.files(__name__) / f"my{kind}.{ending}.txt").read_text(encoding="utf-8")
        places = {f"My{kind.capitalize()}": title, f"my{kind}": name, **(words or {})}
        for word, value in places.items():
            text = text.replace(word, value)
        texts[folder / f"{name}.{ending}"] = text
    existing = [file for file in texts if file.exists()]
    first, *others = texts
    # The first file alone, as it would be written now, is of a command that was killed before the second one.
    begun = others and existing == [first] and first.read_bytes() == texts[first].encode()
    if existing and not begun:
        raise UserError(f"{existing[0]} exists: choose another name, or another folder with --dir DIR")
    for file, text in texts.items():
        write_atomic(file, text, "choose another folder with --dir DIR")
    return list(texts)
