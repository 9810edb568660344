"""The code behind a cell: of its method, and of networks that are the user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdbench.config import base_of
from kdbench.experiment.cell import Cell
from kdbench.experiment.identity import METHOD_CODE
from kdbench.experiment.own_code import CodeSource
from kdbench.experiment.registry import method_source
from kdbench.models import own_network


def code_of(cell: Cell) -> dict[str, CodeSource]:
    """Return where a cell's code comes from, by the dotted field of a record that holds it."""
    members = cell.teacher.members if cell.teacher else ()
    base = base_of(cell.settings.config)
    sources = {
        "method_source": method_source(cell.method),
        "base_source": method_source(base.name) if base else None,
        "student_source": own_network(cell.student),
        **{_of_teacher(number, len(members)): own_network(each.network) for number, each in enumerate(members)},
    }
    return {field: source for field, source in sources.items() if source}


def texts_of(record: Mapping[str, Any]) -> dict[str, object]:
    """Return what a record says of code, by the dotted fields that hold it."""
    teacher = record.get("teacher") or {}
    members = teacher.get("members", [teacher])
    texts = {_of_teacher(number, len(members)): each.get("source", "") for number, each in enumerate(members)}
    return {name: record.get(name, "") for name in (*METHOD_CODE, "student_source")} | texts


def _of_teacher(number: int, num_members: int) -> str:
    """Return the field with the code of a teacher, or of a member of an ensemble."""
    return "teacher.source" if num_members == 1 else f"teacher.members.{number}.source"


def changed_code(cell: Cell, texts: Mapping[str, object]) -> list[CodeSource]:
    """Return what of the user's code has changed since a record or a state was made that says these texts of it."""
    sources = code_of(cell).items()
    return list(dict.fromkeys(source for field, source in sources if source.changed_since(str(texts.get(field, "")))))
