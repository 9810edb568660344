"""The start of a user's method: ``mymethod`` and ``MyMethod`` in these files are replaced by its names."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdbench.errors import UserError
from kdbench.experiment.registry import NAME_RULE, is_name, method_sources
from kdbench.utils.files import write_atomic
from kdbench.utils.names import squeeze


def write_method(name: str, folder: Path) -> list[Path]:
    """Write a method that works, and its recipe file; return their paths.

    Raises
    ------
    UserError
        Invalid name, name taken, or file exists.
    """
    if not is_name(name):
        raise UserError(f"{name!r} cannot be the name of a method: {NAME_RULE}")
    for other, source in method_sources().items():
        if squeeze(other) == squeeze(name) and source.file != (folder / f"{name}.py").absolute():
            raise UserError(f"the name is taken by method {other} ({source.origin}): choose another name")
    title = "".join(word.capitalize() for word in name.split("_"))
    texts = {
        folder / f"{name}.{kind}": (resources.files(__name__) / f"mymethod.{kind}.txt")
        .read_text(encoding="utf-8")
        .replace("MyMethod", title)
        .replace("mymethod", name)
        for kind in ("py", "toml")
    }
    existing = [file for file in texts if file.exists()]
    first, _ = texts
    # The first file alone, as it would be written now, is of a command that was killed before the second one.
    if existing and (existing != [first] or first.read_bytes() != texts[first].encode()):
        raise UserError(f"{existing[0]} exists: choose another name, or another folder with --dir DIR")
    for file, text in texts.items():
        write_atomic(file, text, "choose another folder with --dir DIR")
    return list(texts)
