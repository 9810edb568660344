"""Which public names have no docstring, of what the page of the Python interface shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import griffe

_DIRECTIVE = re.compile(r"^::: (\S+)$", re.MULTILINE)

_ATTRIBUTES = {"parameters", "attributes"}
"""Sections of a class's docstring."""


def shown(markdown: str) -> list[str]:
    """Return the names of the modules and classes that a page shows."""
    return _DIRECTIVE.findall(markdown)


def undocumented(names: Sequence[str], folder: Path) -> list[str]:
    """Return what is public in these modules and classes and has no docstring, by its dotted names.

    Parameters
    ----------
    names
        Dotted names.
    folder
        Where their packages are.
    """
    loader = griffe.GriffeLoader(search_paths=[folder])
    for package in {name.partition(".")[0] for name in names}:
        loader.load(package)
    return [missing for name in names for missing in _undocumented(loader.modules_collection[name])]


def _undocumented(found: griffe.Object | griffe.Alias) -> Iterator[str]:
    if found.is_alias:
        found = found.final_target
    if not found.has_docstring:
        yield found.path
    described = _described(found)
    for name, member in found.members.items():
        is_shown = name in found.exports if found.exports is not None else not (name[0] == "_" or member.is_alias)
        if is_shown and member.is_class:
            yield from _undocumented(member)
        elif is_shown and not member.has_docstring and name not in described:
            yield member.path


def _described(found: griffe.Object) -> set[str]:
    """Return the attributes of a class that its docstring describes, among them those that it is given."""
    if not (found.is_class and found.docstring):
        return set()
    sections = found.docstring.parse("numpy", warnings=False)
    return {each.name for section in sections if section.kind.value in _ATTRIBUTES for each in section.value}
